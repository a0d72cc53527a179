//! Commits: one PUT of the status for many claims (F2–F4, F6, F9, F10, docs/sharding.md "A batch").

use std::collections::BTreeMap;
use std::time::Duration;

use super::settle::Listing;
use super::{Action, Machine, Op};
use crate::api::names;
use crate::ipam::pool::Held;
use crate::pool::claim::PoolState;
use crate::pool::key::{Boot, Now, ObjectKey, Uid, Version};
use crate::pool::object::{PoolStatus, with, without};
use crate::pool::record::{Intent, Record};

/// Claims in one commit: enough to make its cost per claim small, few enough to keep the status under 64 KiB.
const MAX_BATCH: usize = 192;
/// A new batch is chosen when fewer creates than this are left of the last one, so that the writers never run dry.
const LOW_WATER: usize = 96;
/// F10: a record of this size is written at most once in [`FLUSH_DELAY`].
const LARGE_RECORD: usize = 64 * 1024;
/// Settling and counts wait this long for more, so that a pool that is little used costs few writes.
const FLUSH_DELAY: Duration = Duration::from_secs(1);

/// A commit under way.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// What it lists me in: by claim uid, newly chosen or listed again.
    pub(super) listed: BTreeMap<Uid, (ObjectKey, Held)>,
    /// Those of them that are newly chosen.
    pub(super) chosen: Vec<ObjectKey>,
    pub(super) seq: u64,
    pub(super) sent_at: Boot,
    /// What it wrote beside the record.
    pub(super) digest: super::status::Digest,
}

impl Machine {
    /// The held value that a commit under way promises to this claim.
    pub(super) fn planned(&self, uid: &Uid) -> Option<Held> {
        self.ops.values().find_map(|op| match op {
            Op::Commit(planned) | Op::Confirm(planned) => planned.listed.get(uid).map(|(_, held)| *held),
            _ => None,
        })
    }

    /// Sends what the pool object needs: its finalizer, a commit, or a look that a commit depends on.
    pub(super) fn commit(&mut self, now: Now) {
        self.look_at_drained(now);
        if self.pool_busy || self.pool_retry_at.is_some_and(|at| at > now.boot) || self.patch_finalizer() {
            return;
        }
        let Some(pool) = self.pool.as_ref().filter(|pool| pool.is_protected()) else {
            self.flush_at = None;
            return;
        };
        let (uid, version) = (pool.uid.clone(), pool.version);
        if self.record().bytes() > LARGE_RECORD
            && let Some(at) = self.last_commit.map(|at| at + FLUSH_DELAY).filter(|at| *at > now.boot)
        {
            self.pool_retry_at = Some(at);
            return;
        }
        let choosing = self.wants_to_choose();
        if (choosing || self.lost) && !self.may_rely_on_store() {
            self.list_addresses();
            return;
        }
        let listing = self.take_listable(now);
        let urgent = choosing || self.lost || !listing.is_empty();
        if !urgent && !self.flush_is_due(now) {
            self.to_list.extend(listing);
            return;
        }
        self.flush_at = None;
        let (status, planned) = self.plan(choosing, listing, now);
        let claims = planned.chosen.clone();
        self.last_commit = Some(now.boot);
        self.pool_busy = true;
        self.send(Op::Commit(planned), Action::PutPoolStatus { uid, version, status: Box::new(status), claims });
    }

    /// C4: puts our finalizer on, or takes it off at the end. Returns whether that is under way.
    fn patch_finalizer(&mut self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let ours = names::PROTECT_POOL_FINALIZER;
        let finalizers = match (pool.deleting, pool.is_protected()) {
            (false, false) => with(&pool.finalizers, ours),
            (true, true) if self.may_let_go() => without(&pool.finalizers, ours),
            _ => return false,
        };
        let action = Action::PatchPool { uid: pool.uid.clone(), version: pool.version, finalizers };
        self.pool_busy = true;
        self.send(Op::PatchPool, action);
        true
    }

    /// Whether nothing of the pool is left: no IPAddress, as far as a view that may be relied on shows, and no intent.
    fn may_let_go(&self) -> bool {
        self.seen.is_empty() && self.pool_addresses().next().is_none() && (self.may_rely_on_store() || self.is_unused())
    }

    /// A pool that never had a record never had an address of ours.
    fn is_unused(&self) -> bool {
        self.memory.seq == 0
    }

    fn wants_to_choose(&self) -> bool {
        let sending = self.listings.values().filter(|listing| !listing.is_answered()).count();
        self.state == PoolState::Open
            && !self.stopping
            && !self.waiting.is_empty()
            && sending < LOW_WATER
            && self.record().room() > 0
            && (self.ledger.as_ref().is_some_and(|l| l.lowest_free().is_some()) || self.kept_waiting().next().is_some())
    }

    /// Claims that wait for the very address that was taken from them (C3).
    fn kept_waiting(&self) -> impl Iterator<Item = (jiff::Timestamp, ObjectKey)> {
        let places = self.kept.keys().filter_map(|key| Some((self.claims.get(key)?.claim.created, key.clone())));
        places.filter(|place| self.waiting.contains(place))
    }

    /// F3: the view of the IPAddresses has reached the watermark, or contains a LIST made for this copy. Without a
    /// record nobody allocated by the record, so that any LIST made since the pool came up will do.
    fn may_rely_on_store(&self) -> bool {
        let Some(pool) = &self.pool else { return false };
        match &pool.status.record {
            Some(record) if !self.lost && self.view() >= record.settled => true,
            Some(_) if !self.lost => self.covered.is_some_and(|(_, copy)| copy == pool.version),
            _ => self.covered.is_some(),
        }
    }

    /// How new the view of the IPAddresses is.
    fn view(&self) -> Version {
        self.store.max(self.floor)
    }

    /// The watermark that a commit starts from: where there is none yet, and where the record's is from another
    /// history (restored elsewhere), it is that of the LIST (F3).
    fn watermark(&self, record: &Record) -> Version {
        let foreign = self.lost || record.settled == Version(0) || self.view() < record.settled;
        match self.covered {
            Some((listed, _)) if foreign => listed,
            _ => record.settled,
        }
    }

    fn list_addresses(&mut self) {
        let Some(copy) = self.pool.as_ref().map(|pool| pool.version) else { return };
        if !self.list_busy {
            self.list_busy = true;
            self.send(Op::List, Action::ListAddresses(copy));
        }
    }

    fn record(&self) -> Record {
        self.pool.as_ref().and_then(|pool| pool.status.record.clone()).unwrap_or_default()
    }

    /// F6: intents that I may be listed in now; for the others a timer is set.
    fn take_listable(&mut self, now: Now) -> Vec<Uid> {
        if self.state != PoolState::Open || self.stopping {
            return Vec::new();
        }
        let asked = std::mem::take(&mut self.to_list);
        let (now_listable, later): (Vec<Uid>, Vec<Uid>) = asked.into_iter().partition(|uid| self.may_list(uid, now));
        for uid in later {
            if let Some((at, key)) = self.may_list_at(&uid) {
                self.set_timer(&key, at);
            }
        }
        now_listable
    }

    /// Whether it is time to write what can wait; starts waiting if there is something.
    fn flush_is_due(&mut self, now: Now) -> bool {
        if !self.can_settle() && !self.status_is_stale() {
            self.flush_at = None;
            return false;
        }
        let last = self.last_commit;
        if self.stopping {
            return true;
        }
        let at = *self.flush_at.get_or_insert_with(|| last.map_or(now.boot, |at| (at + FLUSH_DELAY).max(now.boot)));
        at <= now.boot
    }

    fn plan(&mut self, choosing: bool, listing: Vec<Uid>, now: Now) -> (PoolStatus, Planned) {
        let found = self.record();
        let mut record = if self.lost { self.memory.restore(Some(&found)) } else { found };
        record.seq += 1;
        if choosing || self.lost {
            record.settled = self.watermark(&record);
        }
        if !self.lost {
            self.settle(&mut record);
        }
        let mut listed = BTreeMap::new();
        for uid in listing {
            let Some(intent) = record.pending.get_mut(&uid) else { continue };
            intent.senders.insert(self.config.me.clone());
            intent.seq = record.seq;
            listed.insert(uid, (intent.claim.clone(), intent.held));
        }
        let chosen = if choosing { self.choose_batch(&mut record, &mut listed) } else { Vec::new() };
        let (status, digest) = self.status_with(record.clone(), now);
        (status, Planned { chosen, listed, seq: record.seq, sent_at: now.boot, digest })
    }

    fn choose_batch(&mut self, record: &mut Record, listed: &mut BTreeMap<Uid, (ObjectKey, Held)>) -> Vec<ObjectKey> {
        let mut chosen = Vec::new();
        let room = record.room().min(MAX_BATCH);
        let first: Vec<_> = self.kept_waiting().take(room).collect();
        let others: Vec<_> = self.waiting.iter().take(room - first.len()).cloned().collect();
        for place in first.into_iter().chain(others) {
            let Some(claim) = self.claims.get(&place.1).map(|entry| entry.claim.clone()) else { continue };
            // F4: one promise at a time, and none beside an IPAddress of the name.
            if record.pending.contains_key(&claim.uid) || self.addresses.contains_key(&place.1) {
                continue;
            }
            let Some(held) = self.choose(&claim) else { continue };
            self.waiting.remove(&place);
            self.unreported.remove(&place);
            let intent = Intent {
                held,
                claim: place.1.clone(),
                claim_uid: claim.uid.clone(),
                seq: record.seq,
                senders: [self.config.me.clone()].into(),
                other: serde_json::Map::new(),
            };
            record.pending.insert(claim.uid.clone(), intent);
            listed.insert(claim.uid.clone(), (place.1.clone(), held));
            self.mark(&place.1);
            chosen.push(place.1);
        }
        chosen
    }

    /// The commit was taken: the pool's newest copy lists me. Creates may be sent from now on.
    pub(super) fn committed(&mut self, planned: Planned, now: Now) {
        if std::mem::take(&mut self.lost)
            && let Some(pool) = &self.pool
        {
            self.memory.adopt(&pool.uid, pool.status.record.as_ref());
        }
        self.pool_failures = 0;
        self.last_status = Some(planned.digest);
        self.facts.push(super::Fact::Committed { claims: planned.chosen.len() });
        for (uid, (key, _)) in planned.listed {
            self.to_list.remove(&uid);
            let before = self.listings.remove(&uid);
            let listing = Listing {
                at: planned.sent_at,
                expired: false,
                outstanding: before.as_ref().map_or(0, |listing| listing.outstanding),
                tainted: before.is_some_and(|listing| listing.tainted),
                answer: None,
            };
            self.listings.insert(uid, listing);
            self.mark(&key);
        }
        self.refresh_intents(false, now);
    }

    /// The commit was not taken: its claims go back to the queue.
    pub(super) fn not_committed(&mut self, planned: Planned) {
        for (uid, (key, _)) in planned.listed {
            self.release_promise(&uid);
            self.mark(&key);
        }
    }

    /// F2: whether the newest copy lists me in everything that the commit listed me in.
    pub(super) fn is_committed(&self, planned: &Planned) -> bool {
        let Some(record) = self.pool.as_ref().and_then(|pool| pool.status.record.as_ref()) else { return false };
        record.seq >= planned.seq
            && planned.listed.iter().all(|(uid, (_, held))| {
                record.pending.get(uid).is_some_and(|intent| {
                    intent.held == *held && intent.seq == planned.seq && intent.senders.contains(&self.config.me)
                })
            })
    }
}
