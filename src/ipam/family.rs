//! The two address families, and addresses as positions on a number line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The number of bits of an address, which is also the length of the longest prefix.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The position of the family's last address.
    pub(super) fn end(self) -> u128 {
        match self {
            Self::V4 => u128::from(u32::MAX),
            Self::V6 => u128::MAX,
        }
    }

    /// The bits below a prefix of that length; a length beyond [`Self::bits`] leaves none.
    pub(super) fn host_mask(self, prefix: u8) -> u128 {
        self.end().checked_shr(u32::from(prefix)).unwrap_or(0)
    }

    /// The address at a position; positions beyond the end give the last address.
    pub(super) fn address(self, position: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(u32::try_from(position).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from_bits(position).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The position of an address within its family: 0 is the all-zero address.
pub(super) fn position(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}
