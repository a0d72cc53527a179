//! What must hold after every single change of the server's objects, whatever goes wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::fixtures::{ADDRESSES, CLAIMS, POOLS, PREFIX_POOLS};
use crate::apiserver::{ApiServer, Change, EventType};

/// Watches all changes of a server and keeps what was violated.
#[derive(Clone, Default)]
pub(super) struct Invariants(Arc<Mutex<Ledger>>);

#[derive(Default)]
struct Ledger {
    /// Pool and address → the IPAddress that holds it.
    holders: BTreeMap<(String, String), String>,
    /// Claim uid → the address that it got first.
    given: BTreeMap<String, String>,
    /// Pool → its pending intents, as claim uid and address.
    promised: BTreeMap<String, Vec<(String, String)>>,
    created: usize,
    violations: Vec<String>,
}

impl Invariants {
    pub(super) fn of(server: &ApiServer) -> Self {
        let invariants = Self::default();
        let ledger = Arc::clone(&invariants.0);
        server.observe(move |change| ledger.lock().unwrap_or_else(PoisonError::into_inner).see(change));
        invariants
    }

    /// Panics with everything that was violated so far.
    #[track_caller]
    pub(super) fn assert_kept(&self) {
        let ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(ledger.violations.is_empty(), "{} violations: {:#?}", ledger.violations.len(), ledger.violations);
    }

    /// How many IPAddresses were ever created.
    pub(super) fn created(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).created
    }
}

impl Ledger {
    fn see(&mut self, change: &Change) {
        match change.resource.plural {
            ADDRESSES => self.see_address(change),
            CLAIMS => self.see_claim(change),
            POOLS => self.see_pool("InClusterIPPool", &change.object),
            PREFIX_POOLS => self.see_pool("InClusterPrefixPool", &change.object),
            _ => {}
        }
    }

    fn see_pool(&mut self, kind: &str, object: &Value) {
        self.promised.insert(format!("{kind} {}", path(object)), intents(object));
    }

    fn see_address(&mut self, change: &Change) {
        let object = &change.object;
        let (name, pool, address) = (path(object), pool_of(object), text(&object["spec"]["address"]).to_owned());
        match change.event {
            EventType::Deleted => drop(self.holders.remove(&(pool, address))),
            EventType::Modified => self.expect_unchanged(change, "spec", &name),
            EventType::Added => {
                self.created += 1;
                if let Some(other) = self.holders.insert((pool.clone(), address.clone()), name.clone()) {
                    self.violations.push(format!("{name} and {other} both hold {address} of {pool}"));
                }
                self.see_created(object, &name, &pool, &address);
            }
        }
    }

    /// What this product creates names its claim as an owner; others' addresses do not.
    fn see_created(&mut self, object: &Value, name: &str, pool: &str, address: &str) {
        let owners = object["metadata"]["ownerReferences"].as_array();
        let Some(owner) = owners.into_iter().flatten().find(|owner| owner["kind"] == "IPAddressClaim") else { return };
        let uid = text(&owner["uid"]).to_owned();
        let first = self.given.entry(uid.clone()).or_insert_with(|| address.to_owned());
        if first != address {
            self.violations.push(format!("{name} had {first}, and got {address}"));
        }
        let promise = (uid, address.to_owned());
        if !self.promised.get(pool).is_some_and(|promised| promised.contains(&promise)) {
            self.violations.push(format!("F1: {name} was created with {address}, which no record of {pool} promised"));
        }
    }

    fn see_claim(&mut self, change: &Change) {
        let (object, name) = (&change.object, path(&change.object));
        let refers = |object: &Value| object["status"].get("addressRef").cloned();
        if let Some(reference) = refers(object)
            && reference["name"] != object["metadata"]["name"]
        {
            self.violations.push(format!("claim {name} refers to {reference}"));
        }
        let before = change.previous.as_deref().and_then(refers);
        if change.event == EventType::Modified && before.is_some() && before != refers(object) {
            self.violations.push(format!("claim {name} lost its reference"));
        }
    }

    fn expect_unchanged(&mut self, change: &Change, field: &str, name: &str) {
        if change.previous.as_ref().is_some_and(|before| before[field] != change.object[field]) {
            self.violations.push(format!("the {field} of IPAddress {name} changed"));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `namespace/name`
fn path(object: &Value) -> String {
    format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

/// `kind namespace/name` of the pool that an IPAddress is from.
fn pool_of(object: &Value) -> String {
    let pool = &object["spec"]["poolRef"];
    format!("{} {}/{}", text(&pool["kind"]), text(&object["metadata"]["namespace"]), text(&pool["name"]))
}

/// The record has each address with its prefix length.
fn intents(pool: &Value) -> Vec<(String, String)> {
    let pending = pool["status"]["allocation"]["pending"].as_array();
    let address = |intent: &Value| text(&intent["address"]).split('/').next().unwrap_or_default().to_owned();
    let read = |intent: &Value| (text(&intent["claimUID"]).to_owned(), address(intent));
    pending.into_iter().flatten().map(read).collect()
}
