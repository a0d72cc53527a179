//! What is known of the ring's Leases, from watches and replies, which overtake each other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Listing, Ownership};
use crate::shard::lease::{Lease, LeaseKey};

/// How long it is remembered that a member Lease is gone: longer than anything old of it can still arrive.
const REMEMBER_GONE: Duration = Duration::from_mins(10);

/// A Lease, or that there is none.
#[derive(Clone, Debug)]
struct Known {
    lease: Option<Lease>,
    /// The highest version seen. Nothing older counts any more.
    version: u64,
    /// The highest epoch seen, over all Leases of that name.
    epoch: u32,
    /// When it was last heard of.
    heard: Duration,
}

/// The newest state of each Lease that has been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    known: BTreeMap<LeaseKey, Known>,
    newest: u64,
}

impl View {
    /// The Lease, if there is one.
    pub(super) fn lease(&self, key: &LeaseKey) -> Option<&Lease> {
        self.known.get(key)?.lease.as_ref()
    }

    /// The highest version seen of the Lease.
    pub(super) fn version(&self, key: &LeaseKey) -> u64 {
        self.known.get(key).map_or(0, |known| known.version)
    }

    /// The highest epoch seen of the Lease, even if it was deleted since.
    pub(super) fn epoch(&self, key: &LeaseKey) -> u32 {
        self.known.get(key).map_or(0, |known| known.epoch)
    }

    /// The highest version seen of any Lease.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes a Lease over; false if it is nothing new.
    fn note(&mut self, key: &LeaseKey, lease: &Lease, now: Duration) -> bool {
        self.newest = self.newest.max(lease.version);
        let known = self.known.entry(key.clone()).or_insert(Known { lease: None, version: 0, epoch: 0, heard: now });
        known.heard = now;
        if lease.version <= known.version {
            return false;
        }
        known.version = lease.version;
        known.epoch = known.epoch.max(lease.epoch);
        known.lease = Some(lease.clone());
        true
    }

    /// The Lease was gone in that version; false if there was a newer one, or none anyway.
    fn forget(&mut self, key: &LeaseKey, version: u64, now: Duration) -> bool {
        let Some(known) = self.known.get_mut(key).filter(|known| known.version <= version) else {
            return false;
        };
        known.heard = now;
        known.version = version;
        known.lease.take().is_some()
    }

    fn forget_long_gone(&mut self, now: Duration) {
        self.known.retain(|key, known| {
            known.lease.is_some() || matches!(key, LeaseKey::Shard(_)) || now < known.heard + REMEMBER_GONE
        });
    }
}

impl Ownership {
    /// Takes in what a watch or a reply says of a Lease.
    pub(super) fn note(&mut self, key: &LeaseKey, lease: &Lease, now: Duration) {
        if let LeaseKey::Shard(shard) = key
            && *shard >= self.config.shards
        {
            return;
        }
        if self.view.note(key, lease, now)
            && let LeaseKey::Member(member) = key
        {
            self.note_member(member, lease, now);
        }
    }

    /// Takes in that a Lease is gone, in this version.
    pub(super) fn forget(&mut self, key: &LeaseKey, version: u64, now: Duration) {
        if self.view.forget(key, version, now)
            && let LeaseKey::Member(member) = key
        {
            self.forget_member(member);
        }
        self.view.forget_long_gone(now);
    }

    /// Takes in a whole list. Watches may be ahead of it.
    pub(super) fn note_all(&mut self, listing: &Listing, now: Duration) {
        let absent: Vec<LeaseKey> =
            self.view.known.keys().filter(|key| !listing.leases.contains_key(key)).cloned().collect();
        for key in absent {
            self.forget(&key, listing.version, now);
        }
        for (key, lease) in &listing.leases {
            self.note(key, lease, now);
        }
    }
}
