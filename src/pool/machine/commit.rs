//! Commits: one PUT of the status for many claims (F2–F4, F6, F9, F10, docs/sharding.md "A batch").

use std::collections::BTreeMap;
use std::time::Duration;

use super::settle::Listing;
use super::{Action, Machine, Op, Right};
use crate::api::names;
use crate::ipam::pool::Held;
use crate::pool::claim::PoolState;
use crate::pool::key::{Boot, Now, ObjectKey, Sender, Uid, Version};
use crate::pool::object::{Claim, PoolStatus, PoolView, with, without};
use crate::pool::record::{Intent, MAX_BYTES, Record, Verdict};
use crate::pool::rule::{Rule, is_broken};

/// Claims in one commit: enough to make its cost per claim small, few enough to keep the status under 64 KiB.
const MAX_BATCH: usize = 192;
/// A new batch is chosen when fewer creates than this are left of the last one, so that the writers never run dry.
const LOW_WATER: usize = 96;
/// F10: a record of this size is written at most once in [`FLUSH_DELAY`].
const LARGE_RECORD: usize = 64 * 1024;
/// Settling and counts wait this long for more, so that a pool that is little used costs few writes.
const FLUSH_DELAY: Duration = Duration::from_secs(1);
/// Whether the server stores the record by now (F2) is tried this often: somebody has to update the CRD first.
const PROBE_DELAY: Duration = Duration::from_mins(1);

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
    /// What the pool's condition says by it that it did not say before.
    news: Vec<super::Fact>,
    /// F9: it puts a lost record back, with the intents of these claim uids.
    restores: Option<Vec<Uid>>,
}

impl Planned {
    /// F2: whether the record of this copy lists me in everything that the commit listed me in.
    pub(super) fn is_in(&self, pool: &PoolView, me: &Sender) -> bool {
        let Some(record) = &pool.status.record else { return false };
        let listed = |(uid, (_, held)): (&Uid, &(ObjectKey, Held))| {
            record.pending.get(uid).is_some_and(|intent| intent.seq == self.seq && lists(intent, me, *held))
        };
        let restored = self.restores.iter().flatten().all(|uid| record.pending.contains_key(uid));
        // Others count the seq as well: without an intent that names me, only this very status proves it.
        let same = record.seq == self.seq && pool.status.counts.as_ref() == Some(&self.digest.counts);
        let proven = !self.listed.is_empty() && self.restores.is_none();
        (proven || same) && restored && self.listed.iter().all(listed)
    }
}

fn lists(intent: &Intent, me: &Sender, held: Held) -> bool {
    intent.held == held && intent.senders.contains(me)
}

impl Machine {
    /// Sends what the pool object needs: its finalizer, a commit, or a look that a commit depends on.
    pub(super) fn commit(&mut self, now: Now) {
        if self.hidden.is_some() {
            self.flush_at = None;
            return;
        }
        self.look_at_drained(now);
        if self.pool_busy || self.pool_retry_at.is_some_and(|at| at > now.boot) || self.patch_finalizer() {
            return;
        }
        let Some(pool) = self.pool.as_ref().filter(|pool| pool.is_protected()) else {
            self.flush_at = None;
            return;
        };
        if self.is_stopping() && self.lost {
            // F9: whoever has the pool next puts it back.
            return;
        }
        let (uid, version) = (pool.uid.clone(), pool.version);
        if pool.deleting && self.right == Right::Held && self.is_empty() && !self.may_let_go() {
            // F3: a look at the server instead of a watch that may never come so far.
            self.list_addresses();
        }
        if self.bytes > LARGE_RECORD
            && let Some(at) = self.last_commit.map(|at| at + FLUSH_DELAY).filter(|at| *at > now.boot)
        {
            self.pool_retry_at = Some(at);
            return;
        }
        // All claims that changed must have queued (B5), and what was released must be free again (B1).
        let may_promise = self.may_promise();
        let wanted = may_promise && !self.adoption.holds() && self.dirty.is_empty() && self.wants_to_choose();
        let freeing = wanted && self.can_free();
        let choosing = wanted && !freeing;
        if (choosing || self.lost) && !self.may_rely_on_store() {
            self.list_addresses();
            return;
        }
        let listing = if may_promise { self.take_listable(now) } else { Vec::new() };
        let urgent = choosing || freeing || (self.lost && !self.not_stored) || !listing.is_empty();
        if !urgent && !self.flush_is_due(now) {
            return;
        }
        self.flush_at = None;
        let (status, planned) = self.plan(choosing, listing, now);
        let claims = planned.chosen.clone();
        self.last_commit = Some(now.boot);
        self.planned = planned.listed.keys().cloned().collect();
        let action = Action::PutPoolStatus { uid, version, status: Box::new(status), claims };
        self.send_pool(Op::Commit(planned), action);
    }

    /// C4: puts our finalizer on, with a note of the pool's uid, or takes it off at the end. Returns whether that is under way.
    fn patch_finalizer(&mut self) -> bool {
        let Some(pool) = self.pool.as_ref().filter(|_| self.right != Right::Gone) else { return false };
        let ours = names::PROTECT_POOL_FINALIZER;
        let finalizers = match (pool.deleting, pool.is_protected()) {
            (false, false) => with(&pool.finalizers, ours),
            (true, true) if self.may_let_go() => without(&pool.finalizers, ours),
            // C19: from here on it is known here.
            (false, true) if pool.is_noted_elsewhere() && !self.adoption.expects_pool() => pool.finalizers.clone(),
            _ => return false,
        };
        let action = Action::PatchPool { uid: pool.uid.clone(), version: pool.version, finalizers };
        self.send_pool(Op::PatchPool(pool.version), action);
        true
    }

    /// Whether nothing of the pool is left: no IPAddress, as far as a view that may be relied on shows, and no intent.
    fn may_let_go(&self) -> bool {
        self.is_empty() && (self.may_rely_on_store() || self.is_unused())
    }

    fn is_empty(&self) -> bool {
        (self.seen.is_empty() || is_broken(Rule::PoolStays)) && self.used == 0
    }

    /// A pool that never had a record never had an address of ours.
    fn is_unused(&self) -> bool {
        self.memory.seq == 0
    }

    fn wants_to_choose(&self) -> bool {
        let sending = || self.listings.values().filter(|l| !l.is_answered() && !l.abandoned).count();
        self.state == PoolState::Open
            && !self.is_stopping()
            && !self.waiting.is_empty()
            && (self.room > 0 || self.can_settle())
            && sending() < LOW_WATER
            && (self.ledger.as_ref().is_some_and(|l| l.lowest_free().is_some()) || self.kept_waiting().next().is_some())
    }

    /// Claims that wait for the very address that was taken from them (C3).
    fn kept_waiting(&self) -> impl Iterator<Item = (jiff::Timestamp, ObjectKey)> {
        let places = self.kept.keys().filter_map(|key| Some((self.claims.get(key)?.claim.created, key.clone())));
        places.filter(|place| self.waiting.contains(place))
    }

    /// F3: the view of the IPAddresses has reached the watermark, or contains a LIST made for this copy. Where there is
    /// no watermark, only the LIST tells: a record may have been there and be lost.
    fn may_rely_on_store(&self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let watermark = pool.status.record.as_ref().map(|record| record.settled).filter(|at| *at > Version(0));
        let reached = watermark.is_some_and(|at| !self.lost && self.view() >= at);
        reached || self.covering().is_some() || is_broken(Rule::FreshStore)
    }

    /// The version of the LIST that was made for the copy of the pool at hand.
    fn covering(&self) -> Option<Version> {
        let copy = self.pool.as_ref()?.version;
        self.covered.filter(|(_, covered)| *covered == copy || is_broken(Rule::CoveringList)).map(|(listed, _)| listed)
    }

    /// How new the view of the IPAddresses is.
    fn view(&self) -> Version {
        self.store.max(self.floor)
    }

    /// The watermark that a commit starts from: where there is none yet, and where the record's is from another
    /// history (restored elsewhere), it is that of the LIST (F3).
    fn watermark(&self, record: &Record) -> Version {
        let foreign = self.lost || record.settled == Version(0) || self.view() < record.settled;
        self.covering().filter(|_| foreign).unwrap_or(record.settled)
    }

    pub(super) fn list_addresses(&mut self) {
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
        if self.state != PoolState::Open || self.is_stopping() {
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
        if self.right == Right::Leaving {
            return self.can_settle() || self.status_is_stale();
        }
        let after = |delay| self.last_commit.map_or(now.boot, |at| at + delay);
        let (flush, probe) = (after(FLUSH_DELAY), after(PROBE_DELAY));
        // Until then it makes no difference what there is to write.
        if flush > now.boot {
            self.flush_at = Some(flush);
            return false;
        }
        let is_mine = self.right == Right::Held;
        self.flush_at = Some(probe).filter(|_| self.not_stored && is_mine);
        self.can_settle() || is_mine && (self.status_is_stale() || self.not_stored && probe <= now.boot)
    }

    fn plan(&mut self, choosing: bool, listing: Vec<Uid>, now: Now) -> (PoolStatus, Planned) {
        let found = self.record();
        let mut record = if self.lost { self.memory.restore(Some(&found)) } else { found };
        record.seq = record.seq.max(self.last_seq) + 1;
        self.last_seq = record.seq;
        record.settled = self.watermark(&record);
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
        let news = self.news_of(&status).into_iter().chain(self.news_of_overlap(&status)).collect();
        let restores = self.lost.then(|| record.pending.keys().cloned().collect());
        (status, Planned { chosen, listed, seq: record.seq, sent_at: now.boot, digest, news, restores })
    }

    fn choose_batch(&mut self, record: &mut Record, listed: &mut BTreeMap<Uid, (ObjectKey, Held)>) -> Vec<ObjectKey> {
        let mut chosen = Vec::new();
        let room = record.room().min(MAX_BATCH);
        let first: Vec<_> = self.kept_waiting().take(room).collect();
        let others: Vec<_> = self.waiting.iter().take(room - first.len()).cloned().collect();
        let mut bytes = record.bytes();
        for place in first.into_iter().chain(others) {
            if bytes >= MAX_BYTES || !self.waiting.contains(&place) {
                continue;
            }
            let Some(claim) = self.claims.get(&place.1).map(|entry| entry.claim.clone()) else { continue };
            // F4: one promise at a time, and none beside an IPAddress of the name.
            let is_promised = record.pending.contains_key(&claim.uid) && !is_broken(Rule::OnePromise)
                || self.addresses.contains_key(&place.1);
            if !is_promised && claim.deleted.is_none() {
                let Some(held) = self.choose(&claim) else { continue };
                let intent = self.intend(&claim, held, record.seq);
                bytes += intent.bytes();
                record.pending.insert(claim.uid.clone(), intent);
                listed.insert(claim.uid.clone(), (place.1.clone(), held));
                chosen.push(place.1.clone());
            }
            self.leave_queue(&claim);
            self.mark(&place.1);
        }
        chosen
    }

    fn intend(&self, claim: &Claim, held: Held, seq: u64) -> Intent {
        Intent {
            held,
            claim: claim.key.clone(),
            claim_uid: claim.uid.clone(),
            seq,
            senders: [self.config.me.clone()].into(),
            other: serde_json::Map::new(),
        }
    }

    /// The commit was taken: this copy of the pool lists me. Creates may be sent from now on.
    pub(super) fn committed(&mut self, planned: Planned, copy: &PoolView, now: Now) {
        self.planned.clear();
        self.unanswered.clear();
        if planned.restores.is_some() {
            self.restored(copy);
        }
        if std::mem::take(&mut self.not_stored) {
            self.refresh_state();
        }
        self.pool_failures = 0;
        self.last_status = Some(planned.digest);
        self.facts.extend(planned.news);
        self.facts.push(super::Fact::Committed { claims: planned.chosen.len() });
        for (uid, (key, held)) in planned.listed {
            self.to_list.remove(&uid);
            let before = self.listings.remove(&uid).filter(|_| !is_broken(Rule::EarlierCreatesCount));
            let listing = Listing {
                outstanding: before.as_ref().map_or(0, |listing| listing.outstanding),
                tainted: before.is_some_and(|listing| listing.tainted),
                ..Listing::new(held, planned.sent_at)
            };
            self.listings.insert(uid, listing);
            self.mark(&key);
        }
        self.refresh_intents(false, now);
    }

    /// F9: the record is whole again, unless it was lost once more since.
    fn restored(&mut self, copy: &PoolView) {
        self.memory.adopt(&copy.uid, copy.status.record.as_ref());
        let newest = self.pool.as_ref().filter(|pool| pool.version > copy.version);
        let verdict = newest.map(|pool| self.memory.observe(&pool.uid, pool.status.record.as_ref()));
        self.lost = verdict == Some(Verdict::Lost);
        let keys: Vec<ObjectKey> = self.seen.values().map(|seen| seen.claim.clone()).collect();
        for key in &keys {
            self.mark(key);
        }
    }

    /// The commit was not taken: its claims go back to the queue.
    pub(super) fn not_committed(&mut self, planned: Planned) {
        self.planned.clear();
        for (uid, (key, _)) in planned.listed {
            self.release_promise(&uid, &key);
            self.mark(&key);
        }
    }
}
