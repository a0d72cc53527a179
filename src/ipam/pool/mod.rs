//! A pool: a spec that was found to be valid, turned into the set of what may be allocated.
//!
//! A pool counts in *units*: a unit of an IP pool is one address, a unit of a prefix pool is one aligned block of the
//! length that the pool allocates. So one [`Ledger`](super::ledger::Ledger) serves both.

mod spec;
#[cfg(test)]
mod tests;

pub use spec::{AddressSpec, Field, PoolError, PrefixSpec};

use super::family::{Family, position};
use super::range::Range;
use super::set::Set;
use super::span::Span;
use std::net::IpAddr;
use std::sync::Arc;

/// What one `IPAddress` object holds: an address, or the base of a prefix.
///
/// The prefix length says how much is held in a prefix pool only; in an IP pool an object holds its one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

/// The part of a pool's units that a [`Held`] stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// One unit.
    Unit(u128),
    /// An aligned block of units: a prefix shorter than the pool allocates.
    Block(Span),
    /// No unit: an address of the other family.
    Foreign(IpAddr),
}

/// A validated pool. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, Debug)]
struct Inner {
    kind: Kind,
    family: Family,
    gateway: Option<IpAddr>,
    /// The allocatable units.
    units: Set,
    total: u128,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Addresses { prefix: u8 },
    Prefixes { length: u8 },
}

impl Pool {
    /// The pool of an IP pool's spec, or the first of [`AddressSpec::errors`].
    ///
    /// A spec of which nothing is left after the exclusions is a valid pool without an address.
    pub fn of_addresses(spec: AddressSpec) -> Result<Self, PoolError> {
        if let Some(error) = spec.errors().next() {
            return Err(error);
        }
        let Some(subnet) = spec.subnet() else {
            return Err(PoolError::Empty { field: Field::Addresses });
        };
        let AddressSpec { addresses, excluded, prefix, gateway, allocate_reserved } = spec;
        let reserved = reserved(subnet, prefix).into_iter().flatten().filter(|_| !allocate_reserved);
        let excluded = excluded.into_iter().chain(reserved).chain(gateway.map(Range::single));
        let units = Set::of_spans(addresses.iter().map(Range::span));
        let units = units.difference(&Set::of_spans(excluded.map(|range| range.span())));
        Ok(Self::of(Kind::Addresses { prefix }, subnet.family(), gateway, units))
    }

    /// The pool of a prefix pool's spec, or the first of [`PrefixSpec::errors`].
    pub fn of_prefixes(spec: PrefixSpec) -> Result<Self, PoolError> {
        if let Some(error) = spec.errors().next() {
            return Err(error);
        }
        let PrefixSpec { prefixes, excluded, length, gateway } = spec;
        let kind = Kind::Prefixes { length };
        let units = |range: Range| range.span().units(shift(kind));
        let set = Set::of_spans(prefixes.into_iter().map(|net| units(Range::net(net))));
        let set = set.difference(&Set::of_spans(excluded.into_iter().map(units)));
        Ok(Self::of(kind, Family::V6, gateway, set))
    }

    fn of(kind: Kind, family: Family, gateway: Option<IpAddr>, units: Set) -> Self {
        Self { inner: Arc::new(Inner { kind, family, gateway, total: units.len(), units }) }
    }

    /// The family of everything in the pool.
    pub fn family(&self) -> Family {
        self.inner.family
    }

    /// The `prefix` of a newly allocated `IPAddress`.
    pub fn prefix(&self) -> u8 {
        match self.inner.kind {
            Kind::Addresses { prefix } => prefix,
            Kind::Prefixes { length } => length,
        }
    }

    /// The `gateway` of a newly allocated `IPAddress`.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.inner.gateway
    }

    /// How many units the pool has, held or not; 2^128 shows as `u128::MAX`.
    pub fn total(&self) -> u128 {
        self.inner.total
    }

    /// Whether prefixes are allocated, not single addresses.
    pub fn is_prefix_pool(&self) -> bool {
        matches!(self.inner.kind, Kind::Prefixes { .. })
    }

    /// Whether the pool could hand this out as it is. In a prefix pool that takes the very length of the pool, and an
    /// aligned base; in an IP pool the prefix length does not matter.
    pub fn allows(&self, held: Held) -> bool {
        let whole = match self.inner.kind {
            Kind::Addresses { .. } => true,
            Kind::Prefixes { length } => {
                held.prefix == length && Range::block(held.address, length).first() == held.address
            }
        };
        match self.place(held) {
            Place::Unit(unit) => whole && self.inner.units.contains(unit),
            Place::Block(_) | Place::Foreign(_) => false,
        }
    }

    /// The ranges of addresses that the pool may hand out, merged and sorted.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.inner.units.spans().map(|units| Range::of_span(self.inner.family, units.scaled(shift(self.inner.kind))))
    }

    /// The lowest addresses that both pools may hand out.
    pub fn overlap(&self, other: &Self) -> Option<Range> {
        let (mut left, mut right) = (self.ranges().peekable(), other.ranges().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            if let Some(overlap) = a.overlap(b) {
                return Some(overlap);
            }
            if a < b {
                left.next()
            } else {
                right.next()
            };
        }
        None
    }

    /// Whether something held includes that address.
    pub(super) fn includes(&self, held: Held, address: IpAddr) -> bool {
        held.address == address || self.is_prefix_pool() && Range::block(held.address, held.prefix).contains(address)
    }

    /// The units that something held stands on.
    pub(super) fn place(&self, held: Held) -> Place {
        if Family::of(held.address) != self.inner.family {
            return Place::Foreign(held.address);
        }
        match self.inner.kind {
            Kind::Addresses { .. } => Place::Unit(position(held.address)),
            Kind::Prefixes { length } => {
                let units = Range::block(held.address, held.prefix).span().units(shift(self.inner.kind));
                if held.prefix < length { Place::Block(units) } else { Place::Unit(units.first()) }
            }
        }
    }

    /// The unit that an address is in.
    pub(super) fn place_of(&self, address: IpAddr) -> Place {
        self.place(Held { address, prefix: self.inner.family.bits() })
    }

    /// The unit as it is handed out.
    pub(super) fn unit(&self, unit: u128) -> Held {
        let first = Span::one(unit).scaled(shift(self.inner.kind)).first();
        Held { address: self.inner.family.address(first), prefix: self.prefix() }
    }

    /// The allocatable units.
    pub(super) fn units(&self) -> &Set {
        &self.inner.units
    }
}

/// How many low bits of an address are below a unit.
fn shift(kind: Kind) -> u32 {
    match kind {
        Kind::Addresses { .. } => 0,
        Kind::Prefixes { length } => u32::from(Family::V6.bits().saturating_sub(length)),
    }
}

/// The addresses of a subnet that hosts do not get: the first, and in IPv4 the last, which is the broadcast address.
///
/// Subnets of one or two addresses have neither: point-to-point links use both ends (RFC 3021, RFC 6164).
fn reserved(subnet: Range, prefix: u8) -> Option<impl Iterator<Item = Range>> {
    let family = subnet.family();
    let link = prefix >= family.bits().saturating_sub(1);
    let last = (family == Family::V4).then(|| subnet.last());
    (!link).then(|| std::iter::once(subnet.first()).chain(last).map(Range::single))
}
