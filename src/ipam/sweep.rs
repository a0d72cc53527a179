//! Set arithmetic on sorted spans as they pass by, without building the sets: a ledger of a million holders is
//! rebuilt from its index in one pass.

use super::span::Span;

/// What is left of `spans`, which are sorted and disjoint, without `others`, which are sorted and may overlap.
pub(super) fn without(
    spans: impl Iterator<Item = Span>,
    others: impl Iterator<Item = Span>,
) -> impl Iterator<Item = Span> {
    let (mut spans, mut others) = (spans, others.peekable());
    let mut rest = None;
    std::iter::from_fn(move || {
        loop {
            let span: Span = rest.take().or_else(|| spans.next())?;
            while others.next_if(|other| other.last() < span.first()).is_some() {}
            let Some(other) = others.peek().filter(|other| other.first() <= span.last()) else {
                return Some(span);
            };
            let after = other.last().checked_add(1).filter(|&after| after <= span.last());
            rest = after.map(|after| Span::between(after, span.last()));
            if let Some(before) = other.first().checked_sub(1).filter(|&before| span.first() <= before) {
                return Some(Span::between(span.first(), before));
            }
        }
    })
}

/// What is both in `spans`, sorted and disjoint, and in `others`, sorted and perhaps overlapping.
pub(super) fn intersection(
    spans: impl Iterator<Item = Span> + Clone,
    others: impl Iterator<Item = Span>,
) -> impl Iterator<Item = Span> {
    without(spans.clone(), without(spans, others))
}

/// Two sorted runs of spans as one.
pub(super) fn merged(a: impl Iterator<Item = Span>, b: impl Iterator<Item = Span>) -> impl Iterator<Item = Span> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if y < x => b.next(),
        (None, _) => b.next(),
        _ => a.next(),
    })
}

/// How many numbers there are in disjoint spans, saturating.
pub(super) fn count(spans: impl Iterator<Item = Span>) -> u128 {
    spans.fold(0, |sum, span| sum.saturating_add(span.len()))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Spans in order, at the very bottom or the very top; those with gaps between them are disjoint.
    fn sorted(top: bool, disjoint: bool) -> impl Strategy<Value = Vec<Span>> {
        let base = if top { u128::MAX - 40 } else { 0 };
        let span = move |(from, len): (u128, u128)| Span::between(base + from, base + (from + len).min(40));
        prop::collection::vec((0..=40_u128, 0..9_u128).prop_map(span), 0..8).prop_map(move |mut spans| {
            spans.sort();
            let mut last = None;
            spans.retain(|span| {
                let keep = !disjoint || last.is_none_or(|last| span.first() > last);
                last = if keep { Some(span.last()) } else { last };
                keep
            });
            spans
        })
    }

    fn numbers(spans: impl IntoIterator<Item = Span>) -> Vec<u128> {
        spans.into_iter().flat_map(std::ops::RangeInclusive::from).collect()
    }

    fn naive(spans: &[Span]) -> BTreeSet<u128> {
        numbers(spans.iter().copied()).into_iter().collect()
    }

    fn cases() -> impl Strategy<Value = (Vec<Span>, Vec<Span>)> {
        any::<bool>().prop_flat_map(|top| (sorted(top, true), sorted(top, false)))
    }

    proptest! {
        #[test]
        fn sweeps_agree_with_single_numbers((a, b) in cases()) {
            let (spans, others) = (|| a.iter().copied(), || b.iter().copied());
            prop_assert_eq!(numbers(without(spans(), others())), Vec::from_iter(&naive(&a) - &naive(&b)));
            prop_assert_eq!(numbers(intersection(spans(), others())), Vec::from_iter(&naive(&a) & &naive(&b)));
            prop_assert_eq!(count(intersection(spans(), others())), (&naive(&a) & &naive(&b)).len() as u128);
            let mut both = [a.clone(), b.clone()].concat();
            both.sort();
            prop_assert_eq!(merged(spans(), others()).collect::<Vec<_>>(), both);
        }
    }
}
