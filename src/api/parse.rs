//! From strings to addresses, ranges and pools: the only place where a string becomes an address.

#[cfg(test)]
mod tests;

use super::v1alpha2::{AddressPoolSpec, PrefixPoolSpec};
use crate::ipam::pool::{AddressSpec, Field, Held, Pool, PoolError, PrefixSpec};
use crate::ipam::range::{Range, RangeError};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// The most errors that one spec is answered with: enough to mend a spec by, and little enough for a condition message.
const MAX_ERRORS: usize = 20;

/// The most characters of a value that an error repeats: longer than any range of two IPv6 addresses (79).
const MAX_VALUE_CHARS: usize = 100;

/// The length that a prefix pool allocates if its spec says nothing, or 0.
pub const DEFAULT_ALLOCATION_PREFIX_LENGTH: u8 = 64;

/// Why a string is no address, range or network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The string is empty.
    #[error("must not be empty")]
    Empty,
    /// There are spaces around, or a zone (`fe80::1%eth0`), or it is another kind of text altogether.
    #[error("is no IP address")]
    Address,
    /// What stands behind the slash is no number, has leading zeros, or is more than the family has bits.
    #[error("has no prefix length of 0 to {bits} behind the slash")]
    PrefixLength {
        /// The longest prefix of the family.
        bits: u8,
    },
    /// A network is required, and there is no slash.
    #[error("is no prefix: the slash and the prefix length are missing")]
    NoPrefixLength,
    /// It is neither of the three things that an entry may be.
    #[error("is no IP address, range (first-last) or CIDR")]
    Entry,
    /// It has two ends that make no range.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// The address that a string is. An IPv4-mapped IPv6 address stays IPv6.
pub fn address(text: &str) -> Result<IpAddr, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    text.parse().map_err(|_| ParseError::Address)
}

/// The range that a string is: one address, `first-last` with both ends included, or a CIDR. Host bits in a CIDR are
/// allowed and say nothing: `10.0.0.10/24` is the whole network.
pub fn range(text: &str) -> Result<Range, ParseError> {
    if text.contains('/') {
        return net(text).map(Range::net).map_err(or_entry);
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let end = |text| address(text).map_err(|_| ParseError::Entry);
            Ok(Range::new(end(first)?, end(last)?)?)
        }
        None => address(text).map(Range::single).map_err(or_entry),
    }
}

fn or_entry(error: ParseError) -> ParseError {
    if error == ParseError::Address { ParseError::Entry } else { error }
}

/// The network that a string in CIDR notation is, its host bits kept.
pub fn net(text: &str) -> Result<IpNet, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    let (base, length) = text.split_once('/').ok_or(ParseError::NoPrefixLength)?;
    let base = base.parse::<IpAddr>().map_err(|_| ParseError::Address)?;
    let bits = if base.is_ipv4() { 32 } else { 128 };
    // Not `u8::from_str` alone, which takes "+8" and "08".
    let plain = length == "0" || (length.bytes().all(|byte| byte.is_ascii_digit()) && !length.starts_with('0'));
    let length = length.parse().ok().filter(|_| plain);
    length.and_then(|length| IpNet::new(base, length).ok()).ok_or(ParseError::PrefixLength { bits })
}

/// What an `IPAddress` object holds. A prefix length that is missing or absurd becomes 255: no pool allocates that, and
/// no more than the one address is held.
pub fn held(address_text: &str, prefix: Option<i64>) -> Result<Held, ParseError> {
    let prefix = prefix.and_then(|prefix| u8::try_from(prefix).ok()).unwrap_or(u8::MAX);
    Ok(Held { address: address(address_text)?, prefix })
}

/// What is wrong with one field of a spec.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    /// The path of the field, such as `spec.addresses[1]`.
    pub path: String,
    /// Its value, shortened if it is very long.
    pub value: String,
    /// What is wrong, such as `is no IP address`.
    pub reason: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.path, self.reason)
        } else {
            // Quoted and escaped: the value is anybody's.
            write!(f, "{}: {:?} {}", self.path, self.value, self.reason)
        }
    }
}

impl std::error::Error for FieldError {}

/// The spec of an IP pool as it is on the wire.
#[derive(Clone, Copy, Debug)]
pub struct AddressPoolInput<'a> {
    /// `spec.addresses`
    pub addresses: &'a [String],
    /// `spec.excludedAddresses`
    pub excluded: &'a [String],
    /// `spec.prefix`
    pub prefix: i64,
    /// `spec.gateway`; empty is none.
    pub gateway: Option<&'a str>,
    /// `spec.allocateReservedIPAddresses`
    pub allocate_reserved: bool,
}

/// The spec of a prefix pool as it is on the wire.
#[derive(Clone, Copy, Debug)]
pub struct PrefixPoolInput<'a> {
    /// `spec.prefixes`
    pub prefixes: &'a [String],
    /// `spec.excludedPrefixes`
    pub excluded: &'a [String],
    /// `spec.allocationPrefixLength`; 0 is [`DEFAULT_ALLOCATION_PREFIX_LENGTH`].
    pub allocation_prefix_length: i64,
    /// `spec.gateway`; empty is none.
    pub gateway: Option<&'a str>,
}

impl<'a> From<&'a AddressPoolSpec> for AddressPoolInput<'a> {
    fn from(spec: &'a AddressPoolSpec) -> Self {
        Self {
            addresses: &spec.addresses,
            excluded: &spec.excluded_addresses,
            prefix: spec.prefix,
            gateway: spec.gateway.as_deref(),
            allocate_reserved: spec.allocate_reserved_ip_addresses,
        }
    }
}

impl<'a> From<&'a PrefixPoolSpec> for PrefixPoolInput<'a> {
    fn from(spec: &'a PrefixPoolSpec) -> Self {
        Self {
            prefixes: &spec.prefixes,
            excluded: &spec.excluded_prefixes,
            allocation_prefix_length: spec.allocation_length(),
            gateway: spec.gateway.as_deref(),
        }
    }
}

/// The IP pool of a spec, or all that is wrong with it, in the order of the fields and bounded in number.
pub fn address_pool(input: &AddressPoolInput<'_>) -> Result<Pool, Vec<FieldError>> {
    let value = |field| address_value(input, field);
    let spec = address_spec(input).map_err(|faults| report(faults, value))?;
    Pool::of_addresses(spec).map_err(|error| report(vec![Fault::from(error)], value))
}

/// The prefix pool of a spec, or all that is wrong with it, in the order of the fields and bounded in number.
pub fn prefix_pool(input: &PrefixPoolInput<'_>) -> Result<Pool, Vec<FieldError>> {
    let value = |field| prefix_value(input, field);
    let spec = prefix_spec(input).map_err(|faults| report(faults, value))?;
    Pool::of_prefixes(spec).map_err(|error| report(vec![Fault::from(error)], value))
}

/// The entries of a valid spec that are outside the subnet which its lowest address is in. Admission refuses them; a
/// pool that is stored like that is served.
pub fn outside_subnet(input: &AddressPoolInput<'_>) -> Vec<FieldError> {
    let Ok(spec) = address_spec(input) else { return Vec::new() };
    let Some(subnet) = spec.subnet() else { return Vec::new() };
    let reason = format!("is not inside {subnet}, which is the lowest of the addresses with its prefix");
    let outside = spec.outside_subnet().map(|(field, _)| Fault { field, reason: reason.clone() });
    report(outside.collect(), |field| address_value(input, field))
}

/// What is wrong with a field, before it has its path and value.
struct Fault {
    field: Field,
    reason: String,
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        Self { field: error.field(), reason: error.to_string() }
    }
}

fn address_spec(input: &AddressPoolInput<'_>) -> Result<AddressSpec, Vec<Fault>> {
    let mut faults = Vec::new();
    let addresses = Entries::parse(input.addresses, range, Field::Address, &mut faults);
    let excluded = Entries::parse(input.excluded, range, Field::ExcludedAddress, &mut faults);
    let gateway = gateway(input.gateway, &mut faults);
    if input.prefix < 0 {
        faults.push(Fault { field: Field::Prefix, reason: "must not be negative".to_owned() });
    }
    let spec = AddressSpec {
        addresses: addresses.values,
        excluded: excluded.values,
        prefix: u8::try_from(input.prefix.max(0)).unwrap_or(u8::MAX),
        gateway,
        allocate_reserved: input.allocate_reserved,
    };
    let errors = spec.errors().filter(|error| error.field() != Field::Addresses || input.addresses.is_empty());
    faults.extend(errors.map(Fault::from).map(|fault| match fault.field {
        Field::Address(index) => Fault { field: Field::Address(original(&addresses.places, index)), ..fault },
        Field::ExcludedAddress(index) => {
            Fault { field: Field::ExcludedAddress(original(&excluded.places, index)), ..fault }
        }
        _ => fault,
    }));
    if faults.is_empty() { Ok(spec) } else { Err(faults) }
}

fn prefix_spec(input: &PrefixPoolInput<'_>) -> Result<PrefixSpec, Vec<Fault>> {
    let mut faults = Vec::new();
    let prefixes = Entries::parse(input.prefixes, net, Field::PrefixEntry, &mut faults);
    let excluded = Entries::parse(input.excluded, range, Field::ExcludedPrefix, &mut faults);
    let gateway = gateway(input.gateway, &mut faults);
    let length = match input.allocation_prefix_length {
        0 => DEFAULT_ALLOCATION_PREFIX_LENGTH,
        length => u8::try_from(length).unwrap_or(u8::MAX),
    };
    let spec = PrefixSpec { prefixes: prefixes.values, excluded: excluded.values, length, gateway };
    let errors = spec.errors().filter(|error| error.field() != Field::Prefixes || input.prefixes.is_empty());
    faults.extend(errors.map(Fault::from).map(|fault| match fault.field {
        Field::PrefixEntry(index) => Fault { field: Field::PrefixEntry(original(&prefixes.places, index)), ..fault },
        Field::ExcludedPrefix(index) => {
            Fault { field: Field::ExcludedPrefix(original(&excluded.places, index)), ..fault }
        }
        _ => fault,
    }));
    if faults.is_empty() { Ok(spec) } else { Err(faults) }
}

/// The entries of a list that can be parsed, and the places that they have in the list. The rest of a spec is checked
/// although some entries cannot be parsed, so that all errors are told at once.
struct Entries<T> {
    values: Vec<T>,
    places: Vec<usize>,
}

impl<T> Entries<T> {
    fn parse(
        texts: &[String],
        parse: fn(&str) -> Result<T, ParseError>,
        field: fn(usize) -> Field,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut entries = Self { values: Vec::with_capacity(texts.len()), places: Vec::with_capacity(texts.len()) };
        for (place, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => {
                    entries.values.push(value);
                    entries.places.push(place);
                }
                Err(error) => faults.push(Fault { field: field(place), reason: error.to_string() }),
            }
        }
        entries
    }
}

fn original(places: &[usize], index: usize) -> usize {
    places.get(index).copied().unwrap_or(index)
}

/// The original's field is a plain string, so that empty and absent are the same.
fn gateway(text: Option<&str>, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    match address(text.filter(|text| !text.is_empty())?) {
        Ok(gateway) => Some(gateway),
        Err(error) => {
            faults.push(Fault { field: Field::Gateway, reason: error.to_string() });
            None
        }
    }
}

fn address_value(input: &AddressPoolInput<'_>, field: Field) -> String {
    match field {
        Field::Address(index) => entry(input.addresses, index),
        Field::ExcludedAddress(index) => entry(input.excluded, index),
        Field::Prefix => input.prefix.to_string(),
        Field::Gateway => input.gateway.unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

fn prefix_value(input: &PrefixPoolInput<'_>, field: Field) -> String {
    match field {
        Field::PrefixEntry(index) => entry(input.prefixes, index),
        Field::ExcludedPrefix(index) => entry(input.excluded, index),
        Field::AllocationPrefixLength => input.allocation_prefix_length.to_string(),
        Field::Gateway => input.gateway.unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

fn entry(texts: &[String], index: usize) -> String {
    texts.get(index).cloned().unwrap_or_default()
}

/// The faults in the order of the fields. Beyond [`MAX_ERRORS`] they are only counted.
fn report(mut faults: Vec<Fault>, value: impl Fn(Field) -> String) -> Vec<FieldError> {
    faults.sort_by_key(|fault| fault.field);
    let more = faults.len().saturating_sub(MAX_ERRORS);
    faults.truncate(MAX_ERRORS);
    let mut errors: Vec<FieldError> = faults
        .into_iter()
        .map(|Fault { field, reason }| FieldError { path: format!("spec.{field}"), value: short(value(field)), reason })
        .collect();
    if more > 0 {
        let reason = format!("has {more} more errors");
        errors.push(FieldError { path: "spec".to_owned(), value: String::new(), reason });
    }
    errors
}

/// At most [`MAX_VALUE_CHARS`] characters of a value.
pub(super) fn short(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(MAX_VALUE_CHARS) {
        value.truncate(end);
        value.push('…');
    }
    value
}
