//! The free units of a ledger, as the fragments that are left between what is held.

use super::super::span::Span;
use std::collections::BTreeMap;

/// Disjoint spans that never touch, found by number in O(log fragments).
///
/// The key is a span's *last* number and the value its first, so that taking the lowest number, which is what first fit
/// does over and over, changes one value in place and leaves the tree as it is.
#[derive(Clone, Default)]
pub(super) struct Fragments {
    by_last: BTreeMap<u128, u128>,
}

impl Fragments {
    /// From sorted, disjoint spans.
    pub(super) fn of(spans: impl Iterator<Item = Span>) -> Self {
        Self { by_last: spans.map(|span| (span.last(), span.first())).collect() }
    }

    /// The lowest number.
    pub(super) fn lowest(&self) -> Option<u128> {
        self.by_last.first_key_value().map(|(_, &first)| first)
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        self.by_last.range(number..).next().is_some_and(|(_, &first)| first <= number)
    }

    /// Adds a span, of which nothing may be present yet.
    pub(super) fn add(&mut self, span: Span) {
        let before = span.first().checked_sub(1).and_then(|last| self.by_last.remove(&last));
        let first = before.unwrap_or(span.first());
        let after = span.last().checked_add(1);
        match after.and_then(|after| self.by_last.range_mut(after..).next().filter(|(_, first)| **first == after)) {
            Some((_, start)) => *start = first,
            None => {
                self.by_last.insert(span.last(), first);
            }
        }
    }

    /// Takes a span out, whatever of it is present. O(log fragments), and a step for each fragment inside the span.
    pub(super) fn remove(&mut self, span: Span) {
        // Fragments that end inside the span: all of them go, but for what the lowest has before it.
        let mut ending = self.by_last.extract_if(span.first()..=span.last(), |_, _| true);
        let mut lowest = ending.next().map(|(_, first)| first);
        ending.for_each(drop);
        // At most one reaches beyond it, and keeps what is there.
        let reaching = self.by_last.range_mut(span.last()..).next().filter(|(_, first)| **first <= span.last());
        if let (Some((_, start)), Some(after)) = (reaching, span.last().checked_add(1)) {
            lowest = lowest.or(Some(*start));
            *start = after;
        }
        if let (Some(first), Some(before)) = (lowest, span.first().checked_sub(1))
            && first <= before
        {
            self.by_last.insert(before, first);
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn fragments_agree_with_single_numbers(
            top: bool,
            steps in prop::collection::vec((any::<bool>(), 0..40_u128, 0..12_u128), 0..60),
        ) {
            let base = if top { u128::MAX - 51 } else { 0 };
            let (mut fragments, mut naive) = (Fragments::default(), BTreeSet::new());
            for (add, from, len) in steps {
                let span = Span::between(base + from, base + from + len);
                let numbers = || span.first()..=span.last();
                if !add {
                    fragments.remove(span);
                    naive.retain(|&number| !span.contains(number));
                } else if numbers().all(|number| !naive.contains(&number)) {
                    fragments.add(span);
                    naive.extend(numbers());
                }
                prop_assert_eq!(fragments.lowest(), naive.first().copied());
                for number in base..=base + 51 {
                    prop_assert_eq!(fragments.contains(number), naive.contains(&number));
                }
                // Touching fragments merge: each one ends where the next number is missing.
                for &last in fragments.by_last.keys() {
                    prop_assert!(last == u128::MAX || !naive.contains(&(last + 1)));
                }
            }
        }
    }

    #[test]
    fn all_numbers_come_and_go() {
        let mut fragments = Fragments::default();
        fragments.add(Span::between(0, u128::MAX));
        fragments.remove(Span::one(0));
        fragments.remove(Span::one(u128::MAX));
        assert_eq!((fragments.lowest(), fragments.contains(u128::MAX)), (Some(1), false));
        fragments.remove(Span::between(0, u128::MAX));
        assert_eq!(fragments.lowest(), None);
    }
}
