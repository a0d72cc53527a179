//! Who holds which shard, as the Leases say: now, and what changed when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use capi_ipam::shard::key::{DEFAULT_SHARDS, shard_of};
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinHandle;

use crate::eventually::{NotYet, PATIENCE, eventually};
use crate::kinds::PoolKind;
use crate::sight::follow;

/// Who holds what at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The member that holds each shard.
    pub shards: BTreeMap<u16, String>,
    /// The members that have a Lease, dead or alive.
    pub members: BTreeSet<String>,
}

impl Holdings {
    /// Who holds the shard of a pool.
    pub fn owner_of(&self, kind: PoolKind, namespace: &str, name: &str) -> Option<&str> {
        let namespace = if kind.is_global() { "" } else { namespace };
        self.shards.get(&shard_of(kind.name(), namespace, name, DEFAULT_SHARDS)).map(String::as_str)
    }

    /// How many shards each holder holds.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for holder in self.shards.values() {
            *counts.entry(holder.as_str()).or_default() += 1;
        }
        counts
    }

    /// How many shards have another holder than before.
    pub fn moved_since(&self, before: &Self) -> usize {
        (0..DEFAULT_SHARDS).filter(|shard| self.shards.get(shard) != before.shards.get(shard)).count()
    }

    /// Why the shards are not shared evenly by exactly these members; none has more than its rounded-up share.
    fn imbalance(&self, members: &BTreeSet<String>) -> Option<String> {
        let counts = self.counts();
        let most = usize::from(DEFAULT_SHARDS).div_ceil(members.len().max(1));
        let is_even = counts.values().sum::<usize>() == usize::from(DEFAULT_SHARDS)
            && counts.values().all(|count| *count <= most)
            && counts.keys().copied().eq(members.iter().map(String::as_str))
            && members.is_subset(&self.members);
        (!is_even).then(|| format!("{counts:?}, to be shared by {members:?}"))
    }
}

/// A shard that changed hands.
#[derive(Clone, Debug)]
pub struct Change {
    /// When that was heard of.
    pub at: Instant,
    /// Which.
    pub shard: u16,
    /// Who held it before, if anybody did.
    pub from: Option<String>,
    /// Who holds it from then on, if anybody does.
    pub to: Option<String>,
}

#[derive(Debug, Default)]
struct Book {
    now: Holdings,
    changes: Vec<Change>,
    writes: usize,
    lists: usize,
}

/// Watches the Leases of a namespace until it is dropped.
#[derive(Debug)]
pub struct LeaseBook {
    book: Arc<Mutex<Book>>,
    watch: JoinHandle<()>,
}

impl LeaseBook {
    /// Returns when it sees.
    pub async fn open(client: &Client, namespace: &str) -> Result<Self> {
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let book = Arc::new(Mutex::new(Book::default()));
        let note = Arc::clone(&book);
        let watch = tokio::spawn(follow(api, move |event| lock(&note).note(event)));
        let opened = Self { book, watch };
        eventually("the Leases are listed", PATIENCE, || async {
            if lock(&opened.book).lists > 0 { Ok(()) } else { Err(NotYet::because("no list yet")) }
        })
        .await?;
        Ok(opened)
    }

    /// As far as is known now.
    pub fn holdings(&self) -> Holdings {
        lock(&self.book).now.clone()
    }

    /// The changes of hands since `since`.
    pub fn changes_since(&self, since: Instant) -> Vec<Change> {
        lock(&self.book).changes.iter().filter(|change| change.at >= since).cloned().collect()
    }

    /// How many writes of Leases have been seen, creations and deletions included.
    pub fn writes(&self) -> usize {
        lock(&self.book).writes
    }

    /// Waits until exactly these members share all shards evenly.
    pub async fn shared_by(&self, members: &BTreeSet<String>, within: Duration) -> Result<Holdings> {
        eventually("the shards are shared evenly", within, || async {
            let now = self.holdings();
            match now.imbalance(members) {
                None => Ok(now),
                Some(why) => Err(NotYet::because(why)),
            }
        })
        .await
    }
}

impl Drop for LeaseBook {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn note(&mut self, event: Event<Lease>) {
        match event {
            Event::Init => self.now = Holdings::default(),
            Event::InitApply(lease) => self.apply(&lease),
            Event::InitDone => self.lists += 1,
            Event::Apply(lease) => {
                self.writes += 1;
                self.apply(&lease);
            }
            Event::Delete(lease) => {
                self.writes += 1;
                match part(&lease.name_any()) {
                    Some(Part::Shard(shard)) => self.hold(shard, None),
                    Some(Part::Member(member)) => drop(self.now.members.remove(&member)),
                    None => {}
                }
            }
        }
    }

    fn apply(&mut self, lease: &Lease) {
        match part(&lease.name_any()) {
            Some(Part::Shard(shard)) => {
                let holder = lease.spec.as_ref().and_then(|spec| member_of(spec.holder_identity.as_deref()?));
                self.hold(shard, holder);
            }
            Some(Part::Member(member)) => drop(self.now.members.insert(member)),
            None => {}
        }
    }

    fn hold(&mut self, shard: u16, holder: Option<String>) {
        let before = match &holder {
            Some(holder) => self.now.shards.insert(shard, holder.clone()),
            None => self.now.shards.remove(&shard),
        };
        if before != holder {
            self.changes.push(Change { at: Instant::now(), shard, from: before, to: holder });
        }
    }
}

enum Part {
    Shard(u16),
    Member(String),
}

fn part(lease: &str) -> Option<Part> {
    if let Some((_, number)) = lease.split_once("-shard-") {
        return Some(Part::Shard(number.parse().ok()?));
    }
    Some(Part::Member(lease.split_once("-member-")?.1.to_owned()))
}

/// `capi-ipam/<namespace>/<member>_<pod uid>_<instance>`; no name contains an underscore.
fn member_of(identity: &str) -> Option<String> {
    Some(identity.split('/').nth(2)?.split('_').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(name: &str, holder: &str) -> Lease {
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "holderIdentity": holder } }))
            .expect("a Lease")
    }

    #[test]
    fn changes_of_hands_and_writes_are_told_apart() {
        let mut book = Book::default();
        book.note(Event::Apply(lease("capi-ipam-7f-member-a", "capi-ipam/ns/a_-_1")));
        book.note(Event::Apply(lease("capi-ipam-7f-shard-07", "capi-ipam/ns/a_-_1")));
        book.note(Event::Apply(lease("capi-ipam-7f-shard-07", "capi-ipam/ns/a_-_1")));
        book.note(Event::Apply(lease("capi-ipam-7f-shard-07", "")));
        let changes: Vec<_> = book.changes.iter().map(|change| (change.shard, change.to.as_deref())).collect();
        assert_eq!(changes, [(7, Some("a")), (7, None)]);
        assert_eq!(book.writes, 4);
        assert!(book.now.counts().is_empty() && book.now.members.contains("a"), "{:?}", book.now);
    }

    #[test]
    fn shares_are_even_when_nobody_has_more_than_the_rounded_up_share() {
        let members: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let shared = |shares: [u16; 3]| {
            let mut holdings = Holdings { members: members.clone(), ..Holdings::default() };
            let holders = members.iter().zip(shares).flat_map(|(member, n)| (0..n).map(move |_| member.clone()));
            holdings.shards = (0..).zip(holders).collect();
            holdings
        };
        assert_eq!(shared([22, 22, 20]).imbalance(&members), None);
        assert!(shared([23, 21, 20]).imbalance(&members).is_some());
        assert!(shared([22, 21, 20]).imbalance(&members).is_some(), "one shard is free");
        let two: BTreeSet<String> = members.iter().take(2).cloned().collect();
        assert_eq!(shared([32, 32, 0]).imbalance(&two), None, "a dead member's Lease stays for a while");
        assert!(shared([31, 32, 1]).imbalance(&two).is_some(), "a third member holds a shard");
    }
}
