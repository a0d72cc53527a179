//! A run of consecutive numbers, both ends included: positions of addresses, or units of a pool.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

/// Numbers from `first` to `last`. A span is never empty: `first <= last`.
///
/// Spans are ordered by where they begin, and of two that begin together the longer comes first. Aligned blocks are
/// nested or disjoint, so in this order each block stands directly before the blocks inside it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Span {
    first: u128,
    last: u128,
}

impl Span {
    /// All numbers.
    pub(super) const ALL: Self = Self { first: 0, last: u128::MAX };

    /// The span between two numbers, in either order.
    pub(super) fn between(a: u128, b: u128) -> Self {
        Self { first: a.min(b), last: a.max(b) }
    }

    /// The span of one number.
    pub(super) fn one(number: u128) -> Self {
        Self { first: number, last: number }
    }

    /// The aligned block around a number: `mask` has ones in its low bits only.
    pub(super) fn block(number: u128, mask: u128) -> Self {
        Self { first: number & !mask, last: number | mask }
    }

    pub(super) fn first(self) -> u128 {
        self.first
    }

    pub(super) fn last(self) -> u128 {
        self.last
    }

    /// The mask of an aligned block, see [`Self::block`].
    pub(super) fn mask(self) -> u128 {
        self.first ^ self.last
    }

    /// How many numbers there are; 2^128 shows as `u128::MAX`.
    pub(super) fn len(self) -> u128 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    pub(super) fn contains(self, number: u128) -> bool {
        self.first <= number && number <= self.last
    }

    pub(super) fn overlap(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// Both ends divided by 2^`shift`: the units that the span touches.
    pub(super) fn units(self, shift: u32) -> Self {
        let unit = |number: u128| number.checked_shr(shift).unwrap_or(0);
        Self { first: unit(self.first), last: unit(self.last) }
    }

    /// The numbers in these units of 2^`shift` each.
    pub(super) fn scaled(self, shift: u32) -> Self {
        let scaled = |unit: u128| unit.checked_shl(shift).unwrap_or(0);
        let below = !scaled(u128::MAX);
        Self { first: scaled(self.first), last: scaled(self.last) | below }
    }
}

impl Ord for Span {
    fn cmp(&self, other: &Self) -> Ordering {
        self.first.cmp(&other.first).then(other.last.cmp(&self.last))
    }
}

impl PartialOrd for Span {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Span> for RangeInclusive<u128> {
    fn from(span: Span) -> Self {
        span.first..=span.last
    }
}

impl From<RangeInclusive<u128>> for Span {
    fn from(range: RangeInclusive<u128>) -> Self {
        Self::between(*range.start(), *range.end())
    }
}
