//! Watches every `IPAddress` from outside and keeps a list of what must never happen.
//!
//! - No address of a pool is held by two `IPAddress` objects at any moment.
//! - A claim, told by its uid, has one address for as long as it lives.
//! - A claim that refers to an address refers to it until it goes, and at the end that address is its own.
//! - Where the test said what a pool holds, nothing outside of that is handed out.
//! - Where the test asks, no claim waits for longer than so long after the last fault.
//!
//! The API server delivers the changes of one resource in the order in which they happened, so the state that is
//! rebuilt here went through every state that the server was in, as long as no watch had to start anew.

mod claims;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::api::{DynamicObject, ListParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinSet;

use self::claims::Claims;
use crate::eventually::{NotYet, PATIENCE, eventually};
use crate::kinds::{self, PoolKind};
use crate::sight::follow;

/// A pool as an address names it: kind, namespace (empty for a global kind), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey {
    kind: String,
    namespace: String,
    name: String,
}

/// namespace/name and uid: a re-created object is another one.
type Id = (String, String);

/// An address as a value; one that does not parse equals only the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    Parsed(IpAddr),
    Text(String),
}

/// One `IPAddress` object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    pool: PoolKey,
    address: Address,
    written: String,
    claim_uid: Option<String>,
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Seen {
    now: BTreeMap<Id, Held>,
    holders: BTreeMap<(PoolKey, Address), BTreeSet<Id>>,
    /// A relist in progress.
    relisted: Option<BTreeMap<Id, Held>>,
    by_claim: BTreeMap<String, String>,
    allowed: BTreeMap<PoolKey, Vec<(IpAddr, IpAddr)>>,
    claims: Claims,
    violations: BTreeSet<String>,
    events: usize,
    lists: usize,
}

/// What a checker found at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many changes it saw.
    pub events: usize,
    /// How many times it had to list anew after the first time; between two lists it was blind.
    pub relists: usize,
    /// How many `IPAddress` objects there are at the end.
    pub addresses: usize,
}

/// A running checker; its watches end when it is dropped.
#[derive(Debug)]
pub struct AddressChecker {
    seen: Arc<Mutex<Seen>>,
    api: Api<DynamicObject>,
    _watches: JoinSet<()>,
}

impl AddressChecker {
    /// Watches the addresses and claims of all namespaces, with an administrator's client. Returns when it sees.
    pub async fn start(client: &Client) -> Result<Self> {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kinds::address());
        let claims: Api<DynamicObject> = Api::all_with(client.clone(), &kinds::claim());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut watches = JoinSet::new();
        let note = Arc::clone(&seen);
        watches.spawn(follow(api.clone(), move |event| lock(&note).observe(event)));
        let note = Arc::clone(&seen);
        watches.spawn(follow(claims, move |event| lock(&note).claims.observe(event, Instant::now())));
        let checker = Self { seen, api, _watches: watches };
        eventually("the address checker has its first lists", PATIENCE, || async {
            let seen = lock(&checker.seen);
            if seen.lists > 0 && seen.claims.lists > 0 { Ok(()) } else { Err(NotYet::because("no list yet")) }
        })
        .await?;
        Ok(checker)
    }

    /// Says what a pool holds: single addresses, ranges and CIDRs. Anything else is a violation from now on.
    pub fn allow<'a>(
        &self,
        kind: PoolKind,
        namespace: &str,
        name: &str,
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let ranges = entries.into_iter().map(range).collect::<Result<Vec<_>>>()?;
        lock(&self.seen).allowed.insert(key(kind.name(), namespace, name), ranges);
        Ok(())
    }

    /// Waits until no claim waits any more. Fails if one waited for longer than `within`, counted from when it came or from
    /// the end of the last fault, whichever was later.
    pub async fn all_served(&self, fault: Instant, within: Duration) -> Result<()> {
        loop {
            let (waiting, late) = lock(&self.seen).claims.waiting_and_late(fault, within, Instant::now());
            if !late.is_empty() {
                let some: Vec<&str> = late.iter().map(String::as_str).take(20).collect();
                bail!(
                    "{} claims waited for more than {within:?} after the last fault:\n{}",
                    late.len(),
                    some.join("\n")
                );
            }
            if waiting == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many claims wait now.
    pub fn waiting(&self) -> usize {
        let now = Instant::now();
        lock(&self.seen).claims.waiting_and_late(now, Duration::MAX, now).0
    }

    /// What has happened so far that must not.
    pub fn violations(&self) -> Vec<String> {
        let seen = lock(&self.seen);
        seen.violations.iter().chain(&seen.claims.violations).cloned().collect()
    }

    /// Waits until it has seen what the server has, and fails if anything happened that must not.
    pub async fn finish(self) -> Result<Report> {
        eventually("the address checker has seen what the server has", PATIENCE, || async {
            let listed = self.api.list(&ListParams::default()).await?;
            let listed: BTreeMap<_, _> = listed.items.iter().filter_map(held).collect();
            let seen = lock(&self.seen);
            if seen.now == listed {
                Ok(())
            } else {
                Err(NotYet::because(format!("{} seen, {} listed", seen.now.len(), listed.len())))
            }
        })
        .await?;
        eventually("every served claim has an address of its own", PATIENCE, || async {
            match lock(&self.seen).without_address() {
                None => Ok(()),
                Some(why) => Err(NotYet::because(why)),
            }
        })
        .await?;
        let violations = self.violations();
        if !violations.is_empty() {
            let some: Vec<&str> = violations.iter().map(String::as_str).take(20).collect();
            bail!("{} violations:\n{}", violations.len(), some.join("\n"));
        }
        let seen = lock(&self.seen);
        Ok(Report { events: seen.events, relists: seen.lists.saturating_sub(1), addresses: seen.now.len() })
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn observe(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.relisted = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                if let (Some(relisted), Some((id, held))) = (&mut self.relisted, held(&object)) {
                    relisted.insert(id, held);
                }
            }
            Event::InitDone => {
                self.lists += 1;
                self.now.clear();
                self.holders.clear();
                for (id, held) in self.relisted.take().unwrap_or_default() {
                    self.apply(id, held);
                }
            }
            Event::Apply(object) => {
                self.events += 1;
                if let Some((id, held)) = held(&object) {
                    self.apply(id, held);
                }
            }
            Event::Delete(object) => {
                self.events += 1;
                self.forget(&id(&object));
            }
        }
    }

    /// A claim that refers to an address that is not there, or not its own.
    fn without_address(&self) -> Option<String> {
        let by_name: BTreeMap<&str, &Held> = self.now.iter().map(|((name, _), held)| (name.as_str(), held)).collect();
        let mut served = self.claims.served();
        served.find_map(|(uid, claim, reference)| {
            let namespace = claim.split_once('/').map_or("", |(namespace, _)| namespace);
            let held = by_name.get(format!("{namespace}/{reference}").as_str());
            let is_its_own = held.is_some_and(|held| held.claim_uid.as_deref() == Some(uid));
            (!is_its_own).then(|| format!("{claim} refers to {reference}, which is {held:?}"))
        })
    }

    fn forget(&mut self, id: &Id) {
        if let Some(held) = self.now.remove(id) {
            let slot = (held.pool, held.address);
            if let Some(holders) = self.holders.get_mut(&slot) {
                holders.remove(id);
                if holders.is_empty() {
                    self.holders.remove(&slot);
                }
            }
        }
    }

    fn apply(&mut self, id: Id, held: Held) {
        self.forget(&id);
        let holders = self.holders.entry((held.pool.clone(), held.address.clone())).or_default();
        holders.insert(id.clone());
        if holders.len() > 1 {
            let names: Vec<&str> = holders.iter().map(|(name, _)| name.as_str()).collect();
            self.violations.insert(format!(
                "{} of {} {}/{} is held twice, by {}",
                held.written,
                held.pool.kind,
                held.pool.namespace,
                held.pool.name,
                names.join(" and ")
            ));
        }
        if let Some(uid) = &held.claim_uid {
            let first = self.by_claim.entry(uid.clone()).or_insert_with(|| held.written.clone());
            if *first != held.written {
                self.violations.insert(format!("{} had {first} and then {}", id.0, held.written));
            }
        }
        if let Some(allowed) = self.allowed.get(&held.pool) {
            let inside = match &held.address {
                Address::Parsed(address) => allowed.iter().any(|(first, last)| first <= address && address <= last),
                Address::Text(_) => false,
            };
            if !inside {
                self.violations.insert(format!("{} has {}, which is not in the pool", id.0, held.written));
            }
        }
        self.now.insert(id, held);
    }
}

fn id(object: &DynamicObject) -> Id {
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    (name, object.uid().unwrap_or_default())
}

fn held(object: &DynamicObject) -> Option<(Id, Held)> {
    let spec = &object.data["spec"];
    let pool = &spec["poolRef"];
    let written = spec["address"].as_str()?.to_owned();
    let claim = object.owner_references().iter().find(|owner| owner.kind == "IPAddressClaim");
    let held = Held {
        pool: key(pool["kind"].as_str()?, object.namespace().unwrap_or_default().as_str(), pool["name"].as_str()?),
        address: written.parse().map_or_else(|_| Address::Text(written.clone()), Address::Parsed),
        written,
        claim_uid: claim.map(|owner| owner.uid.clone()),
    };
    Some((id(object), held))
}

fn key(kind: &str, namespace: &str, name: &str) -> PoolKey {
    let namespace = if kind.starts_with("Global") { String::new() } else { namespace.to_owned() };
    PoolKey { kind: kind.to_owned(), namespace, name: name.to_owned() }
}

/// First and last address of an entry. Written anew here: the product's own parser is what is being checked.
fn range(entry: &str) -> Result<(IpAddr, IpAddr)> {
    if let Some((first, last)) = entry.split_once('-') {
        return Ok((first.parse()?, last.parse()?));
    }
    let Some((address, length)) = entry.split_once('/') else {
        let address: IpAddr = entry.parse()?;
        return Ok((address, address));
    };
    let length: u32 = length.parse()?;
    match address.parse()? {
        IpAddr::V4(address) if length <= 32 => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let bits = u32::from(address);
            Ok((IpAddr::V4((bits & !host).into()), IpAddr::V4((bits | host).into())))
        }
        IpAddr::V6(address) if length <= 128 => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let bits = u128::from(address);
            Ok((IpAddr::V6((bits & !host).into()), IpAddr::V6((bits | host).into())))
        }
        _ => bail!("{entry} is too long for its family"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, uid: &str, address: &str, claim_uid: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "ns", "name": name, "uid": uid,
                "ownerReferences": [{ "apiVersion": "x/v1", "kind": "IPAddressClaim", "name": name, "uid": claim_uid }],
            },
            "spec": { "address": address, "poolRef": { "kind": "InClusterIPPool", "name": "p" } },
        }))
        .expect("a valid object")
    }

    fn violations(events: Vec<Event<DynamicObject>>) -> Vec<String> {
        let mut seen = Seen::default();
        seen.allowed.insert(key("InClusterIPPool", "ns", "p"), vec![range("10.0.0.0/24").expect("a CIDR")]);
        for event in events {
            seen.observe(event);
        }
        seen.violations.into_iter().collect()
    }

    #[test]
    fn an_address_that_is_held_twice_for_a_moment_is_found() {
        let found = violations(vec![
            Event::Apply(object("a", "1", "10.0.0.1", "c1")),
            Event::Apply(object("b", "2", "10.0.0.1", "c2")),
            Event::Delete(object("a", "1", "10.0.0.1", "c1")),
        ]);
        assert_eq!(found, ["10.0.0.1 of InClusterIPPool ns/p is held twice, by ns/a and ns/b"]);
    }

    #[test]
    fn two_spellings_of_one_address_are_the_same() {
        let found = violations(vec![
            Event::Apply(object("a", "1", "fd00::1", "c1")),
            Event::Apply(object("b", "2", "fd00:0::1", "c2")),
        ]);
        assert!(found.iter().any(|violation| violation.contains("held twice")), "{found:?}");
    }

    #[test]
    fn an_address_that_is_given_on_after_its_release_is_fine() {
        let found = violations(vec![
            Event::Apply(object("a", "1", "10.0.0.1", "c1")),
            Event::Delete(object("a", "1", "10.0.0.1", "c1")),
            Event::Apply(object("b", "2", "10.0.0.1", "c2")),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_claim_whose_address_changes_is_found() {
        let found = violations(vec![
            Event::Apply(object("a", "1", "10.0.0.1", "c1")),
            Event::Delete(object("a", "1", "10.0.0.1", "c1")),
            Event::Apply(object("a", "2", "10.0.0.2", "c1")),
        ]);
        assert_eq!(found, ["ns/a had 10.0.0.1 and then 10.0.0.2"]);
    }

    #[test]
    fn an_address_outside_of_the_pool_is_found() {
        let found = violations(vec![Event::Apply(object("a", "1", "10.0.1.0", "c1"))]);
        assert_eq!(found, ["ns/a has 10.0.1.0, which is not in the pool"]);
    }

    #[test]
    fn a_relist_replaces_what_was_known() {
        let found = violations(vec![
            Event::Apply(object("a", "1", "10.0.0.1", "c1")),
            Event::Init,
            Event::InitApply(object("b", "2", "10.0.0.1", "c2")),
            Event::InitDone,
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn entries_are_read_as_a_person_reads_them() {
        let read = |entry| range(entry).map(|(first, last)| format!("{first} {last}")).unwrap_or_default();
        assert_eq!(read("10.0.0.10/24"), "10.0.0.0 10.0.0.255");
        assert_eq!(read("10.0.0.1-10.0.0.3"), "10.0.0.1 10.0.0.3");
        assert_eq!(read("fd00::/127"), "fd00:: fd00::1");
        assert_eq!(read("::/0"), ":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(read("10.0.0.1/33"), "");
    }
}
