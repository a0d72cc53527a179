//! Addresses in use that a change or a deletion would take the ground from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::{Read, Spec};
use super::{HeldOrText, NAMED, listed};
use crate::api::parse::{self, FieldError};
use crate::api::pools::PoolObject;
use crate::ipam::pool::{Held, Pool};
use crate::ipam::range::Range;
use crate::pool::key::{ObjectKey, PoolKey};
use crate::pool::record::Record;

/// The IPAddresses of a pool that is to be deleted.
#[derive(Default)]
pub(super) struct Users {
    count: usize,
    named: Vec<String>,
}

impl Users {
    pub(super) fn note(&mut self, object: &ObjectKey, held: &HeldOrText) {
        self.count += 1;
        if self.named.len() < NAMED {
            let held = held.as_ref().map_or_else(|text| format!("{text:?}"), |held| held.address.to_string());
            self.named.push(format!("{object} ({held})"));
        }
    }

    /// Why the pool cannot be deleted, if there are any.
    pub(super) fn refusal(self, pool: &PoolKey) -> Option<String> {
        let named = listed(self.named.into_iter(), self.count);
        let message = format!("{pool} cannot be deleted, IPAddress objects of it are in use: {named}");
        (self.count > 0).then_some(message)
    }
}

/// What people should know where nobody here may look.
pub(super) fn unseen(pool: &PoolKey) -> String {
    format!("{pool}: this provider has no right to see its IPAddresses: whether any are in use was not looked at")
}

/// Addresses in use that could not be allocated any more after a change. Those that could not before do not count.
pub(super) struct Losses<'a> {
    before: &'a Read,
    after: &'a Read,
    lost: BTreeMap<(IpAddr, u8), ObjectKey>,
}

impl<'a> Losses<'a> {
    /// Beginning with what the record promises.
    pub(super) fn of((before, old): (&'a Read, &PoolObject), after: &'a Read) -> Self {
        let mut losses = Self { before, after, lost: BTreeMap::new() };
        for (held, claim) in before.pool.iter().flat_map(|pool| promised(old, pool)) {
            losses.note(&claim, &Ok(held));
        }
        losses
    }

    pub(super) fn note(&mut self, object: &ObjectKey, held: &HeldOrText) {
        if let (Some(was), Some(is), Ok(held)) = (&self.before.pool, &self.after.pool, held)
            && !is.allows(*held)
            && was.allows(*held)
        {
            self.lost.insert((held.address, held.prefix), object.clone());
        }
    }

    /// Them, by the field that takes them away.
    pub(super) fn errors(self) -> Vec<FieldError> {
        let (Some(was), Some(spec)) = (&self.before.pool, &self.after.spec) else { return Vec::new() };
        let mut causes: BTreeMap<Cause, Vec<String>> = BTreeMap::new();
        let reserves = Reserves { before: self.before.spec.as_ref(), after: spec };
        for ((address, prefix), object) in self.lost {
            let text = if was.is_prefix_pool() { format!("{address}/{prefix}") } else { address.to_string() };
            let cause = cause(spec, Held { address, prefix }, &reserves);
            causes.entry(cause).or_default().push(format!("{text} ({object})"));
        }
        causes.into_iter().map(|(cause, lost)| cause.error(spec, lost)).collect()
    }
}

/// What the record of the old object promises: its IPAddress may not be there yet.
fn promised(old: &PoolObject, pool: &Pool) -> Vec<(Held, ObjectKey)> {
    let allocation = old.pool_status().ok().and_then(|status| status.allocation);
    let record = allocation.and_then(|allocation| Record::read(&allocation, pool.prefix()).ok());
    let intents = record.map(|record| record.pending).unwrap_or_default();
    intents.into_values().map(|intent| (intent.held, intent.claim)).collect()
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
        let count = taken.len();
        let reason = format!("{what}: {}", listed(taken.into_iter(), count));
        FieldError { path, value, reason }
    }
}
