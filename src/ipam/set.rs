//! Sorted, disjoint runs of numbers: the addresses, or units, that a pool may allocate.

use super::span::Span;
use super::sweep::count;
use range_set_blaze::{RangeSetBlaze, SortedDisjoint};
use std::fmt;
use std::ops::RangeInclusive;

/// A set of positions of one family, or of units of one pool. It is built in bulk and then only read.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Set {
    ranges: RangeSetBlaze<u128>,
}

impl Set {
    /// The set without elements.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many elements there are, saturating: all of IPv6 has one element more than `u128` can say.
    pub fn len(&self) -> u128 {
        count(self.spans())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the number is an element. O(log ranges).
    pub fn contains(&self, number: u128) -> bool {
        self.ranges.contains(number)
    }

    /// The sorted, disjoint ranges; two of them never touch.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u128>> {
        self.ranges.ranges()
    }

    /// The elements of this set that the other one has not.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let left = self.ranges.ranges().difference(other.ranges.ranges());
        Self { ranges: left.into_range_set_blaze() }
    }

    pub(super) fn of_spans(spans: impl IntoIterator<Item = Span>) -> Self {
        spans.into_iter().map(RangeInclusive::from).collect()
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + Clone {
        self.ranges.ranges().map(Span::from)
    }

    /// The parts of the set inside a span, in order. O(log ranges) each, so that a look at a corner of a large set
    /// does not walk the set.
    pub(super) fn within(&self, span: Span) -> impl Iterator<Item = Span> {
        let mut next = Some(span.first());
        std::iter::from_fn(move || {
            while let Some(number) = next.filter(|&number| number <= span.last()) {
                let (run, present) = self.ranges.range_or_gap_at(number);
                next = run.end().checked_add(1);
                if present {
                    return Span::from(run).overlap(span);
                }
            }
            None
        })
    }
}

impl FromIterator<RangeInclusive<u128>> for Set {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u128>>>(ranges: I) -> Self {
        Self { ranges: ranges.into_iter().collect() }
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ranges: &[RangeInclusive<u128>]) -> Set {
        ranges.iter().cloned().collect()
    }

    #[test]
    fn touching_and_overlapping_ranges_merge() {
        let merged = set(&[20..=29, 0..=9, 5..=12, 13..=14]);
        assert_eq!(merged.ranges().collect::<Vec<_>>(), [0..=14, 20..=29]);
        assert_eq!(merged.len(), 25);
    }

    #[test]
    fn the_whole_space_has_a_saturated_size() {
        let whole = set(&[0..=u128::MAX]);
        assert_eq!(whole.len(), u128::MAX);
        assert_eq!(whole.difference(&set(&[7..=7])).len(), u128::MAX);
        assert_eq!(whole.difference(&set(&[0..=0, 7..=7])).len(), u128::MAX - 1);
        assert!(whole.difference(&whole).is_empty());
    }

    /// Ranges at the very bottom or the very top, where arithmetic overflows.
    fn corner_ranges() -> impl Strategy<Value = Vec<RangeInclusive<u128>>> {
        let at = |base: u128| (0..24_u128, 0..6_u128).prop_map(move |(from, len)| base + from..=base + from + len);
        prop::collection::vec(prop_oneof![at(0), at(u128::MAX - 29)], 0..8)
    }

    fn elements(ranges: &[RangeInclusive<u128>]) -> BTreeSet<u128> {
        ranges.iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn sets_agree_with_sets_of_single_numbers(a in corner_ranges(), b in corner_ranges(), low in 0..30_u128, len in 0..30_u128, top: bool) {
            let (x, y, naive_x, naive_y) = (set(&a), set(&b), elements(&a), elements(&b));
            let both = |set: &Set| set.ranges().flatten().collect::<BTreeSet<_>>();
            prop_assert_eq!(both(&x), naive_x.clone());
            prop_assert_eq!(both(&x.difference(&y)), &naive_x - &naive_y);
            prop_assert_eq!(x.len(), naive_x.len() as u128);
            let first = if top { u128::MAX - 29 + low } else { low };
            let span = Span::between(first, first.saturating_add(len));
            let within: Vec<u128> = x.within(span).flat_map(RangeInclusive::from).collect();
            prop_assert_eq!(within, naive_x.range(span.first()..=span.last()).copied().collect::<Vec<_>>());
            prop_assert_eq!(x.contains(first), naive_x.contains(&first));
        }
    }
}
