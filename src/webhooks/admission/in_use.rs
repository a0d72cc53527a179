//! Addresses in use that a change or a deletion would take the ground from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::{Read, Spec};
use super::{Holding, listed};
use crate::api::parse::{self, FieldError};
use crate::api::pools::PoolObject;
use crate::ipam::pool::{Held, Pool};
use crate::ipam::range::Range;
use crate::pool::key::PoolKey;
use crate::pool::record::Record;

/// Why a pool cannot be deleted.
pub(super) fn refusal(pool: &PoolKey, holdings: &[Holding]) -> String {
    let address = |holding: &Holding| match &holding.held {
        Ok(held) => held.address.to_string(),
        Err(text) => format!("{text:?}"),
    };
    let named = listed(holdings.iter().map(|holding| format!("{} ({})", holding.object, address(holding))));
    format!("{pool} cannot be deleted, IPAddress objects of it are in use: {named}")
}

/// What people should know where nobody here may look.
pub(super) fn unseen(pool: &PoolKey) -> String {
    format!("{pool}: this provider has no right to see its IPAddresses: whether any are in use was not looked at")
}

/// The errors of a change after which addresses in use could not be allocated any more. Those that could not before do
/// not count.
pub(super) fn losses((before, old): (&Read, &PoolObject), after: &Read, holdings: &[Holding]) -> Vec<FieldError> {
    let (Some(was), Some(is), Some(spec)) = (&before.pool, &after.pool, &after.spec) else { return Vec::new() };
    let mut lost: BTreeMap<(IpAddr, u8), String> = BTreeMap::new();
    let held = holdings.iter().filter_map(|holding| Some((*holding.held.as_ref().ok()?, holding.object.clone())));
    for (held, object) in held.chain(promised(old, was)) {
        if was.allows(held) && !is.allows(held) {
            lost.entry((held.address, held.prefix)).or_insert(object);
        }
    }
    let mut causes: BTreeMap<Cause, Vec<String>> = BTreeMap::new();
    let reserves = Reserves { before: before.spec.as_ref(), after: spec };
    for ((address, prefix), object) in lost {
        let text = if was.is_prefix_pool() { format!("{address}/{prefix}") } else { address.to_string() };
        causes.entry(cause(spec, Held { address, prefix }, &reserves)).or_default().push(format!("{text} ({object})"));
    }
    causes.into_iter().map(|(cause, lost)| cause.error(spec, lost)).collect()
}

/// What the record of the old object promises: its IPAddress may not be there yet.
fn promised(old: &PoolObject, pool: &Pool) -> impl Iterator<Item = (Held, String)> {
    let allocation = old.pool_status().ok().and_then(|status| status.allocation);
    let record = allocation.and_then(|allocation| Record::read(&allocation, pool.prefix()).ok());
    let intents = record.map(|record| record.pending).unwrap_or_default();
    intents.into_values().map(|intent| (intent.held, intent.claim.to_string()))
}

/// The field that takes an address away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Dropped,
    Excluded(usize),
    Gateway,
    Prefix,
    Reserved,
}

struct Reserves<'a> {
    before: Option<&'a Spec>,
    after: &'a Spec,
}

fn cause(spec: &Spec, held: Held, reserves: &Reserves<'_>) -> Cause {
    let (entries, excluded, gateway, block) = match spec {
        Spec::Addresses(spec) => {
            (&spec.addresses, &spec.excluded_addresses, spec.gateway.as_deref(), Range::single(held.address))
        }
        // The gateway of a prefix pool reserves nothing.
        Spec::Prefixes(spec) => (&spec.prefixes, &spec.excluded_prefixes, None, block(held)),
    };
    let touches = |text: &String| parse::range(text).is_ok_and(|range| range.overlap(&block).is_some());
    if !entries.iter().any(touches) {
        return Cause::Dropped;
    }
    if let Some(index) = excluded.iter().position(touches) {
        return Cause::Excluded(index);
    }
    if gateway.and_then(|text| parse::address(text).ok()) == Some(held.address) {
        return Cause::Gateway;
    }
    match (reserves.before, reserves.after) {
        (Some(Spec::Addresses(before)), Spec::Addresses(after)) if before.prefix != after.prefix => Cause::Prefix,
        (Some(Spec::Addresses(before)), Spec::Addresses(after))
            if before.allocate_reserved_ip_addresses == after.allocate_reserved_ip_addresses =>
        {
            // Another lowest address, another subnet.
            Cause::Dropped
        }
        _ => Cause::Reserved,
    }
}

/// All addresses of a prefix.
fn block(held: Held) -> Range {
    IpNet::new(held.address, held.prefix).map_or_else(|_| Range::single(held.address), Range::net)
}

impl Cause {
    fn error(self, spec: &Spec, taken: Vec<String>) -> FieldError {
        let (list, excluded, gateway, prefix) = match spec {
            Spec::Addresses(spec) => ("addresses", &spec.excluded_addresses, spec.gateway.clone(), spec.prefix),
            Spec::Prefixes(spec) => ("prefixes", &spec.excluded_prefixes, None, spec.allocation_length()),
        };
        let excluded_list = if list == "addresses" { "excludedAddresses" } else { "excludedPrefixes" };
        let (path, value, what) = match self {
            Self::Dropped => (format!("spec.{list}"), String::new(), "leaves out what is in use"),
            Self::Excluded(index) => {
                let value = excluded.get(index).cloned().unwrap_or_default();
                (format!("spec.{excluded_list}[{index}]"), value, "excludes what is in use")
            }
            Self::Gateway => ("spec.gateway".to_owned(), gateway.unwrap_or_default(), "is in use"),
            Self::Prefix => ("spec.prefix".to_owned(), prefix.to_string(), "reserves what is in use"),
            Self::Reserved => {
                ("spec.allocateReservedIPAddresses".to_owned(), "false".to_owned(), "reserves what is in use")
            }
        };
        let reason = format!("{what}: {}", listed(taken.into_iter()));
        FieldError { path, value, reason }
    }
}
