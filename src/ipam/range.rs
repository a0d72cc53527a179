//! An inclusive range of addresses of one family: what one entry of a pool's list of addresses says.

use super::family::{Family, position};
use super::span::Span;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// Two addresses that are no range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RangeError {
    /// The ends are of different families.
    #[error("has an IPv4 end and an IPv6 end")]
    MixedFamilies,
    /// The first address is above the last.
    #[error("ends before it begins")]
    Reversed,
}

/// Addresses from a first to a last one, both included, of one family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range {
    family: Family,
    span: Span,
}

impl Range {
    /// The range between two addresses.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        let family = Family::of(first);
        if family != Family::of(last) {
            return Err(RangeError::MixedFamilies);
        }
        if first > last {
            return Err(RangeError::Reversed);
        }
        Ok(Self { family, span: Span::between(position(first), position(last)) })
    }

    /// The range of one address.
    pub fn single(address: IpAddr) -> Self {
        Self { family: Family::of(address), span: Span::one(position(address)) }
    }

    /// The whole network, whichever of its addresses it is written with: `10.0.0.10/24` is `10.0.0.0-10.0.0.255`.
    pub fn net(net: IpNet) -> Self {
        Self::block(net.addr(), net.prefix_len())
    }

    /// The aligned block of that prefix length around an address; a length beyond the family's bits is the longest.
    pub(super) fn block(address: IpAddr, prefix: u8) -> Self {
        let family = Family::of(address);
        Self { family, span: Span::block(position(address), family.host_mask(prefix)) }
    }

    pub(super) fn of_span(family: Family, span: Span) -> Self {
        Self { family, span }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.family.address(self.span.first())
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.family.address(self.span.last())
    }

    /// The family of all of the addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family == Family::of(address) && self.span.contains(position(address))
    }

    /// Whether all addresses of the other range are in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.contains(other.first()) && self.contains(other.last())
    }

    /// The addresses that both ranges have.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        if self.family != other.family {
            return None;
        }
        Some(Self { family: self.family, span: self.span.overlap(other.span)? })
    }

    /// How many addresses there are; all of IPv6, 2^128, shows as `u128::MAX`.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u128 {
        self.span.len()
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first(), self.last());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Range {
        Range::net(text.parse().expect("a network"))
    }

    #[test]
    fn a_network_is_whole_whichever_of_its_addresses_names_it() {
        assert_eq!(net("10.0.0.10/24"), Range::new(ip("10.0.0.0"), ip("10.0.0.255")).expect("a range"));
        assert_eq!(net("2001:db8::5/127"), Range::new(ip("2001:db8::4"), ip("2001:db8::5")).expect("a range"));
        assert_eq!(net("192.0.2.7/32"), Range::single(ip("192.0.2.7")));
    }

    #[test]
    fn whole_families_end_at_their_last_address() {
        assert_eq!((net("1.2.3.4/0").last(), net("1.2.3.4/0").len()), (ip("255.255.255.255"), 1 << 32));
        assert_eq!(net("::/0").last(), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(net("::/0").len(), u128::MAX);
        assert_eq!(net("::/1").len(), 1 << 127);
    }

    #[test]
    fn ends_of_two_families_or_in_the_wrong_order_are_refused() {
        assert_eq!(Range::new(ip("10.0.0.1"), ip("::1")), Err(RangeError::MixedFamilies));
        assert_eq!(Range::new(ip("10.0.0.2"), ip("10.0.0.1")), Err(RangeError::Reversed));
        assert_eq!(Range::new(ip("::2"), ip("::1")), Err(RangeError::Reversed));
    }

    #[test]
    fn membership_looks_at_the_family() {
        let low = Range::new(ip("0.0.0.0"), ip("0.0.0.9")).expect("a range");
        assert!(low.contains(ip("0.0.0.0")) && low.contains(ip("0.0.0.9")));
        assert!(!low.contains(ip("0.0.0.10")));
        assert!(!low.contains(ip("::1")));
        assert_eq!(low.overlap(&Range::single(ip("::1"))), None);
    }

    #[test]
    fn an_overlap_is_what_both_have() {
        let overlap = net("10.0.0.0/24").overlap(&net("10.0.0.128/25"));
        assert_eq!(overlap, Some(net("10.0.0.128/25")));
        assert_eq!(net("10.0.0.0/24").overlap(&net("10.0.1.0/24")), None);
        assert!(net("10.0.0.0/24").covers(&net("10.0.0.128/25")));
        assert!(!net("10.0.0.128/25").covers(&net("10.0.0.0/24")));
    }

    #[test]
    fn a_range_of_one_address_shows_as_that_address() {
        assert_eq!(Range::single(ip("::ffff:1.2.3.4")).to_string(), "::ffff:1.2.3.4");
        assert_eq!(net("10.0.0.0/30").to_string(), "10.0.0.0-10.0.0.3");
    }
}
