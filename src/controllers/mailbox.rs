//! What a pool's worker has not taken in yet: the newest copy of each object, so that it stays bounded by the number of
//! objects however far a worker lags.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::pool::key::{ObjectKey, Version};
use crate::pool::machine::Input;
use crate::pool::object::{Address, Claim, ClusterState};

/// One worker takes, the router puts.
#[derive(Debug, Default)]
pub struct Mailbox {
    content: Mutex<Content>,
    full: Notify,
}

#[derive(Debug, Default)]
struct Content {
    pool: Option<Input>,
    claims: BTreeMap<ObjectKey, Option<Arc<Claim>>>,
    addresses: BTreeMap<ObjectKey, (Option<Arc<Address>>, Version)>,
    unclaimed: BTreeMap<ObjectKey, Option<ClusterState>>,
    overlaps: Option<Input>,
    rest: Vec<Input>,
}

impl Mailbox {
    /// Puts an observation in; a newer one of the same object takes its place.
    pub fn put(&self, input: Input) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        match input {
            Input::Pool { .. } => content.pool = Some(input),
            Input::Claim(key, claim) => drop(content.claims.insert(key, claim)),
            Input::Address(key, address, version) => drop(content.addresses.insert(key, (address, version))),
            Input::Unclaimed(key, cluster) => drop(content.unclaimed.insert(key, cluster)),
            Input::Overlaps(_) => content.overlaps = Some(input),
            other => content.rest.push(other),
        }
        drop(content);
        self.full.notify_one();
    }

    /// Takes everything out: addresses before claims, so that a claim meets its address.
    pub fn take(&self) -> Vec<Input> {
        let content = std::mem::take(&mut *self.content.lock().unwrap_or_else(PoisonError::into_inner));
        let Content { pool, claims, addresses, unclaimed, overlaps, rest } = content;
        let mut inputs: Vec<Input> = pool.into_iter().collect();
        inputs.extend(addresses.into_iter().map(|(key, (address, version))| Input::Address(key, address, version)));
        inputs.extend(claims.into_iter().map(|(key, claim)| Input::Claim(key, claim)));
        inputs.extend(unclaimed.into_iter().map(|(key, cluster)| Input::Unclaimed(key, cluster)));
        inputs.extend(overlaps);
        inputs.extend(rest);
        inputs
    }

    /// Waits until something was put in since the last wait.
    pub async fn filled(&self) {
        self.full.notified().await;
    }
}
