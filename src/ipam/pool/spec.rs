//! What a pool's spec says, field by field, and everything that can be wrong with it.

use super::super::family::Family;
use super::super::range::Range;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// The spec of an IP pool: its strings are parsed, but nothing about them is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressSpec {
    /// What to allocate from, in any order; overlaps do not matter.
    pub addresses: Vec<Range>,
    /// What never to allocate.
    pub excluded: Vec<Range>,
    /// The prefix length that every allocated address carries.
    pub prefix: u8,
    /// Never allocated.
    pub gateway: Option<IpAddr>,
    /// Whether the first address of the inferred subnet, and the last of an IPv4 one, are allocatable too.
    pub allocate_reserved: bool,
}

/// The spec of a prefix pool: its strings are parsed, but nothing about them is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrefixSpec {
    /// What to allocate from, in any order; overlaps do not matter.
    pub prefixes: Vec<IpNet>,
    /// Every block that one of these touches is never allocated.
    pub excluded: Vec<Range>,
    /// The length of an allocated prefix.
    pub length: u8,
    /// Informational: reserves nothing.
    pub gateway: Option<IpAddr>,
}

/// A field of a pool's spec; it displays as the path below `spec`, such as `addresses[3]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Field {
    /// The list of addresses.
    Addresses,
    /// One of the addresses.
    Address(usize),
    /// One of the excluded addresses.
    ExcludedAddress(usize),
    /// The prefix length of an IP pool.
    Prefix,
    /// The gateway, of either kind of pool.
    Gateway,
    /// The list of prefixes.
    Prefixes,
    /// One of the prefixes.
    PrefixEntry(usize),
    /// One of the excluded prefixes.
    ExcludedPrefix(usize),
    /// The length of the prefixes that a prefix pool allocates.
    AllocationPrefixLength,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses => f.write_str("addresses"),
            Self::Address(index) => write!(f, "addresses[{index}]"),
            Self::ExcludedAddress(index) => write!(f, "excludedAddresses[{index}]"),
            Self::Prefix => f.write_str("prefix"),
            Self::Gateway => f.write_str("gateway"),
            Self::Prefixes => f.write_str("prefixes"),
            Self::PrefixEntry(index) => write!(f, "prefixes[{index}]"),
            Self::ExcludedPrefix(index) => write!(f, "excludedPrefixes[{index}]"),
            Self::AllocationPrefixLength => f.write_str("allocationPrefixLength"),
        }
    }
}

/// Why a spec makes no pool. [`Self::field`] has the place; the message says the rest, the value excepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// The list to allocate from has no entry.
    #[error("at least one entry is required")]
    Empty {
        /// Which list.
        field: Field,
    },
    /// An entry, exclusion or gateway is of another family than the first of the addresses.
    #[error("must be {expected}, as the first of the addresses is")]
    MixedFamilies {
        /// Which entry.
        field: Field,
        /// The family of the pool.
        expected: Family,
    },
    /// The prefix length of an IP pool is beyond what its family has.
    #[error("is too long: {family} has at most {} bits", family.bits())]
    PrefixTooLong {
        /// The family of the pool.
        family: Family,
    },
    /// The length to allocate is not one of 1 to 128.
    #[error("must be between 1 and 128")]
    LengthOutOfBounds,
    /// An entry, exclusion or gateway of a prefix pool is not IPv6.
    #[error("must be IPv6")]
    NotV6 {
        /// Which entry.
        field: Field,
    },
    /// A prefix has bits beyond its length.
    #[error("is no network: the aligned prefix is {aligned}")]
    Unaligned {
        /// Which entry.
        field: Field,
        /// The network around it.
        aligned: IpNet,
    },
    /// A prefix is smaller than what is to be allocated from it.
    #[error("is longer than the allocation prefix length {length}")]
    LongerThanAllocation {
        /// Which entry.
        field: Field,
        /// The length to allocate.
        length: u8,
    },
}

impl PoolError {
    /// The field that is to be changed.
    pub fn field(&self) -> Field {
        match *self {
            Self::Empty { field }
            | Self::MixedFamilies { field, .. }
            | Self::NotV6 { field }
            | Self::Unaligned { field, .. }
            | Self::LongerThanAllocation { field, .. } => field,
            Self::PrefixTooLong { .. } => Field::Prefix,
            Self::LengthOutOfBounds => Field::AllocationPrefixLength,
        }
    }
}

impl AddressSpec {
    /// The subnet that the pool's addresses are taken to be of: that of the lowest of them, with the pool's prefix.
    pub fn subnet(&self) -> Option<Range> {
        let lowest = self.addresses.iter().map(Range::first).min()?;
        Some(Range::block(lowest, self.prefix))
    }

    /// The entries of `addresses` that are not inside [`Self::subnet`]. Such a pool works; only admission refuses it.
    pub fn outside_subnet(&self) -> impl Iterator<Item = (Field, Range)> {
        let subnet = self.subnet();
        self.addresses
            .iter()
            .enumerate()
            .filter(move |(_, range)| subnet.is_some_and(|subnet| !subnet.covers(range)))
            .map(|(index, &range)| (Field::Address(index), range))
    }

    /// Everything that is wrong with the spec, in the order of its fields.
    pub fn errors(&self) -> impl Iterator<Item = PoolError> {
        let family = self.addresses.first().map(Range::family);
        let mixed = move |field, found| {
            let expected = family.filter(|&family| family != found)?;
            Some(PoolError::MixedFamilies { field, expected })
        };
        let empty = self.addresses.is_empty().then_some(PoolError::Empty { field: Field::Addresses });
        let entries = self.addresses.iter().enumerate();
        let entries = entries.filter_map(move |(index, range)| mixed(Field::Address(index), range.family()));
        let excluded = self.excluded.iter().enumerate();
        let excluded = excluded.filter_map(move |(index, range)| mixed(Field::ExcludedAddress(index), range.family()));
        let too_long = family.filter(|family| self.prefix > family.bits());
        let gateway = self.gateway.and_then(|gateway| mixed(Field::Gateway, Family::of(gateway)));
        empty
            .into_iter()
            .chain(entries)
            .chain(excluded)
            .chain(too_long.map(|family| PoolError::PrefixTooLong { family }))
            .chain(gateway)
    }
}

impl PrefixSpec {
    /// Everything that is wrong with the spec, in the order of its fields.
    pub fn errors(&self) -> impl Iterator<Item = PoolError> {
        let length = self.length;
        let empty = self.prefixes.is_empty().then_some(PoolError::Empty { field: Field::Prefixes });
        let entries = self.prefixes.iter().enumerate();
        let entries = entries.filter_map(move |(index, net)| prefix_error(Field::PrefixEntry(index), *net, length));
        let excluded = self.excluded.iter().enumerate().filter(|(_, range)| range.family() != Family::V6);
        let excluded = excluded.map(|(index, _)| PoolError::NotV6 { field: Field::ExcludedPrefix(index) });
        let bad_length = !length_is_legal(length);
        let gateway = self.gateway.filter(IpAddr::is_ipv4);
        empty
            .into_iter()
            .chain(entries)
            .chain(excluded)
            .chain(bad_length.then_some(PoolError::LengthOutOfBounds))
            .chain(gateway.map(|_| PoolError::NotV6 { field: Field::Gateway }))
    }
}

fn length_is_legal(length: u8) -> bool {
    (1..=Family::V6.bits()).contains(&length)
}

fn prefix_error(field: Field, net: IpNet, length: u8) -> Option<PoolError> {
    if net.addr().is_ipv4() {
        Some(PoolError::NotV6 { field })
    } else if net.addr() != net.network() {
        Some(PoolError::Unaligned { field, aligned: net.trunc() })
    } else if net.prefix_len() > length && length_is_legal(length) {
        Some(PoolError::LongerThanAllocation { field, length })
    } else {
        None
    }
}
