//! Taking in copies of objects: the newest one counts, whichever way it came.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::gone::{Moved, Sure};
use super::{Entry, Hold, Input, Machine};
use crate::ipam::ledger::Ledger;
use crate::pool::claim::{Hidden, PoolState};
use crate::pool::key::{Now, ObjectKey, Uid, Version};
use crate::pool::object::{Address, Claim, PoolView};
use crate::pool::record::{MAX_INTENTS, Verdict};
use crate::pool::rule::{Rule, is_broken};

impl Machine {
    pub(super) fn observe(&mut self, input: Input, now: Now) {
        match input {
            Input::Pool { view, covered } => self.observe_pool(view.map(|view| *view), covered, now),
            Input::Claim(key, Some(claim)) => self.observe_claim(&key, claim, now),
            Input::Claim(key, None) => self.forget_claim(&key),
            Input::Address(key, address, version) => self.observe_address(&key, address, version),
            Input::Unclaimed(key, cluster) => self.observe_unclaimed(&key, cluster, now),
            Input::Store(version) => self.observe_store(version),
            Input::Closed(hidden) => self.close(hidden),
            Input::Hold(until) => self.hold(until),
            Input::Overlaps(peers) => self.observe_overlaps(peers),
            Input::Reply(op, outcome) => self.reply(op, outcome, now),
            Input::Drained(sender) => {
                self.drained.insert(sender);
                self.refresh_drained();
            }
        }
    }

    pub(super) fn observe_pool(&mut self, view: Option<PoolView>, covered: Option<Version>, now: Now) {
        let Some(view) = view else { return self.forget_pool() };
        // Also of an earlier pool of this name, which a look has overtaken.
        if self.pool.as_ref().is_some_and(|known| known.version >= view.version) {
            return;
        }
        if self.pool.as_ref().is_some_and(|known| known.uid != view.uid) {
            self.covered = None;
        }
        if let Some(listed) = covered {
            self.covered = Some((listed, view.version));
        }
        // What is remembered of a lost record stays until it is restored, whatever others write meanwhile.
        if !self.lost && self.memory.observe(&view.uid, view.status.record.as_ref()) == Verdict::Lost {
            self.lost = true;
            self.covered = None;
            self.facts.push(super::Fact::RecordLost);
        }
        if view.status.record.as_ref().is_some_and(|record| self.unanswered.remove(&record.seq)) {
            self.last_status = None;
        }
        let changed_spec =
            self.pool.as_ref().is_none_or(|known| known.uid != view.uid || known.generation != view.generation);
        let first = self.pool.is_none();
        let is_new = self.pool.as_ref().is_none_or(|known| known.uid != view.uid);
        (self.bytes, self.room) = view.status.record.as_ref().map_or((0, MAX_INTENTS), |r| (r.bytes(), r.room()));
        self.pool = Some(view);
        self.refresh_state();
        if changed_spec {
            self.refresh_ledger();
            // The first copy of a pool, a new pool of the name, or a new spec: everything may be different.
            self.mark_all();
        }
        if is_new {
            self.expect_again(now);
        }
        self.refresh_intents(first, now);
    }

    fn forget_pool(&mut self) {
        if self.pool.take().is_some() {
            self.ledger = None;
            self.covered = None;
            self.flush_at = None;
            self.refresh_state();
        }
    }

    /// C16: closed, nothing is allocated and nothing written to the pool, whose status is that of all installations.
    fn close(&mut self, hidden: Option<Hidden>) {
        self.hidden = hidden;
        self.refresh_state();
    }

    /// Recomputes what the pool is good for; a change concerns every claim.
    pub(super) fn refresh_state(&mut self) {
        let state = match &self.pool {
            None => self.hidden.map_or(PoolState::Missing, PoolState::Closed),
            Some(pool) if pool.deleting => PoolState::Deleting { paused: pool.paused },
            Some(pool) if pool.paused => PoolState::Paused,
            Some(pool) => match &pool.spec {
                Err(why) => PoolState::Invalid(why.0.clone()),
                Ok(_) => match self.hidden {
                    Some(hidden) => PoolState::Closed(hidden),
                    None if self.not_stored => PoolState::RecordNotStored,
                    None => PoolState::Open,
                },
            },
        };
        if state != self.state {
            self.state = state;
            self.mark_all();
            self.look_at_orphans_again();
        }
    }

    fn refresh_ledger(&mut self) {
        self.rebuild_ledger();
        self.review_strays();
    }

    /// Rebuilds or re-bounds the ledger after a change of the spec.
    fn rebuild_ledger(&mut self) {
        let Some(Ok(spec)) = self.pool.as_ref().map(|pool| &pool.spec) else {
            self.ledger = None;
            return;
        };
        let pool = spec.pool.clone();
        if let Some(ledger) = &mut self.ledger {
            return ledger.set_pool(pool);
        }
        let objects = self.pool_addresses().filter_map(|a| Some((Hold::Object(a.key.clone()), a.held.clone().ok()?)));
        let promises = self.seen.iter().map(|(uid, seen)| (Hold::Promise(uid.clone()), seen.held));
        let kept = self.kept.values().map(|(uid, held)| (Hold::Promise(uid.clone()), *held));
        self.ledger = Some(Ledger::rebuild(pool, objects.chain(promises).chain(kept).collect::<Vec<_>>()));
    }

    /// The IPAddresses that count for this pool (B2), as against those that merely have the name of a claim.
    pub(super) fn pool_addresses(&self) -> impl Iterator<Item = &Arc<Address>> {
        self.addresses.values().filter(|address| address.pool.as_ref() == Some(&self.key))
    }

    pub(super) fn observe_claim(&mut self, key: &ObjectKey, claim: Arc<Claim>, now: Now) {
        if claim.deleted.is_some() {
            self.abandon(&claim.uid);
        }
        match self.claims.get_mut(key) {
            // Also of an earlier claim of this name, which a look has overtaken.
            Some(entry) if claim.version < entry.claim.version => return,
            Some(entry) if entry.claim.uid == claim.uid => {
                // Equal versions differ when the state of the cluster changed.
                if *claim == *entry.claim {
                    return;
                }
                entry.claim = claim;
                self.refresh_expected(key);
            }
            known => {
                if known.is_some() {
                    self.forget_claim(key);
                }
                let until = self.expects_until(&claim, now);
                let entry = Entry {
                    claim,
                    busy: None,
                    failures: 0,
                    retry_at: None,
                    refusal: None,
                    untold: false,
                    asked_about: None,
                    sure: Sure::No,
                    moved: Moved::No,
                    first_seen: now.boot,
                    expected_until: None,
                    telling: None,
                    unstored: None,
                    had: None,
                };
                self.claims.insert(key.clone(), entry);
                self.expect(key, until);
            }
        }
        self.mark(key);
    }

    pub(super) fn forget_claim(&mut self, key: &ObjectKey) {
        self.note_gone(key);
        self.expect(key, None);
        let Some(entry) = self.claims.remove(key) else { return };
        self.dirty.remove(key);
        self.stalled.remove(key);
        self.abandon(&entry.claim.uid);
        self.leave_queue(&entry.claim);
        self.forget_kept(key);
        if let Some(at) = entry.retry_at {
            self.timers.remove(&(at, key.clone()));
        }
        // The reply to its request finds no claim any more, but still has to end the request.
        if entry.busy.is_some() {
            self.claims_in_flight = self.claims_in_flight.saturating_sub(1);
        }
    }

    /// Nothing more is sent for this claim uid.
    fn abandon(&mut self, uid: &Uid) {
        if let Some(listing) = self.listings.get_mut(uid) {
            listing.abandoned = true;
        }
    }

    pub(super) fn leave_queue(&mut self, claim: &Claim) {
        let place = (claim.created, claim.key.clone());
        self.waiting.remove(&place);
        self.unreported.remove(&place);
    }

    pub(super) fn observe_address(&mut self, key: &ObjectKey, address: Option<Arc<Address>>, version: Version) {
        match address {
            // The LIST showed what became of it. It only had the addresses of this pool.
            Some(address) if version <= self.floor && address.pool.as_ref() == Some(&self.key) => {}
            Some(address) => self.take_address(address),
            None => {
                self.gone.remove(key);
                if self.addresses.get(key).is_some_and(|known| known.version < version) {
                    self.drop_address(key);
                }
            }
        }
    }

    /// A copy of an IPAddress from a reply. What the watch has passed already, it may have seen removed.
    pub(super) fn take_answer(&mut self, address: Arc<Address>) {
        if address.deleting && address.finalizers.is_empty() {
            // The write that this answers has removed it.
            self.address_is_gone(&address.key, Some(address.uid.clone()));
        } else if address.version > self.store {
            self.take_address(address);
        }
    }

    /// A copy of an IPAddress from the watch, or a newer one.
    pub(super) fn take_address(&mut self, address: Arc<Address>) {
        let key = address.key.clone();
        match self.gone.get(&key) {
            Some(uid) if *uid == address.uid => return,
            Some(_) => drop(self.gone.remove(&key)),
            None => {}
        }
        if let Some(known) = self.addresses.get(&key) {
            if known.version >= address.version {
                return;
            }
            if known.uid != address.uid {
                self.drop_address(&key);
            }
        }
        self.forget_kept(&key);
        let before = self.addresses.get(&key).map(|known| known.held.clone()).filter(|held| *held != address.held);
        self.uncount(&key);
        if let Some(before) = before {
            self.forget_stray(&key, before.ok());
        }
        if address.pool.as_ref() == Some(&self.key) {
            match &address.held {
                Ok(held) => {
                    if let Some(ledger) = &mut self.ledger {
                        ledger.hold(Hold::Object(key.clone()), *held);
                    }
                }
                Err(_) => self.unparsable += 1,
            }
            self.used += 1;
            self.note_stray(&address);
        }
        self.addresses.insert(key.clone(), address);
        self.refresh_expected(&key);
        self.orphan_changed(&key);
        self.mark(&key);
    }

    /// Takes the known copy of an IPAddress out of the counts and the ledger.
    fn uncount(&mut self, key: &ObjectKey) {
        let Some(known) = self.addresses.get(key).filter(|known| known.pool.as_ref() == Some(&self.key)) else {
            return;
        };
        self.used -= 1;
        if known.held.is_err() {
            self.unparsable -= 1;
        } else {
            self.release(&Hold::Object(key.clone()));
        }
    }

    /// Frees what was held. Whoever stood against it in a contest may go on (F9).
    fn release(&mut self, holder: &Hold) {
        let Some(ledger) = &mut self.ledger else { return };
        let Some(held) = ledger.release(holder) else { return };
        let promised = ledger.holders_of(held.address).filter_map(|other| match other {
            Hold::Promise(uid) => self.seen.get(uid).map(|seen| seen.claim.clone()),
            Hold::Object(_) => None,
        });
        for key in promised.collect::<Vec<_>>() {
            self.mark(&key);
        }
    }

    /// An IPAddress is gone: what it held is free, unless its living claim must get the same again (C3).
    pub(super) fn drop_address(&mut self, key: &ObjectKey) {
        let Some(address) = self.addresses.get(key).cloned() else { return };
        if let Some(entry) = self.claims.get_mut(key) {
            entry.sure = Sure::No;
            entry.moved = if address.moving { Moved::Seen } else { Moved::No };
        }
        let claim = self.claims.get(key).map(|entry| entry.claim.clone());
        if let (Some(claim), Some(ledger), true) = (&claim, &mut self.ledger, is_broken(Rule::ReleaseKeepsIntent)) {
            ledger.release(&Hold::Promise(claim.uid.clone()));
        }
        let claim = claim.filter(|claim| claim.deleted.is_none());
        // Its intent, if not settled yet, is good for another create.
        if let Some(listing) = claim.as_ref().and_then(|claim| self.listings.get_mut(&claim.uid)) {
            listing.answer = None;
        }
        let claim = claim.filter(|claim| claim.address_ref.as_deref() == Some(&*key.name));
        if let (Some(claim), Ok(held), true) = (claim, &address.held, address.belongs_to(&self.key)) {
            // A promise of another address that stands already is not to be let go.
            if self.seen.get(&claim.uid).is_none_or(|seen| seen.held == *held) {
                self.kept.insert(key.clone(), (claim.uid.clone(), *held));
                if let Some(ledger) = &mut self.ledger {
                    ledger.hold(Hold::Promise(claim.uid.clone()), *held);
                }
            }
        }
        self.uncount(key);
        self.addresses.remove(key);
        self.forget_stray(key, address.held.clone().ok());
        self.mark(key);
    }

    fn forget_kept(&mut self, key: &ObjectKey) {
        if let Some((uid, _)) = self.kept.remove(key) {
            self.release_promise(&uid, key);
        }
    }

    /// Lets the promise go, unless an intent or a commit under way still stands for it.
    pub(super) fn release_promise(&mut self, uid: &Uid, key: &ObjectKey) {
        let kept = self.kept.get(key).is_some_and(|(kept, _)| kept == uid);
        let standing = kept || self.seen.contains_key(uid) || self.planned.contains(uid);
        if !standing {
            self.release(&Hold::Promise(uid.clone()));
        }
    }

    /// Takes over a consistent LIST: it is newer than all that was seen before it (F3).
    pub(super) fn take_list(&mut self, version: Version, items: Vec<Arc<Address>>) {
        self.floor = self.floor.max(version);
        let listed: BTreeSet<ObjectKey> = items.iter().map(|address| address.key.clone()).collect();
        let missing: Vec<ObjectKey> = self
            .pool_addresses()
            .filter(|address| address.version <= version && !listed.contains(&address.key))
            .map(|address| address.key.clone())
            .collect();
        for key in missing {
            self.drop_address(&key);
        }
        // The watch may have come further than the LIST by the time that its answer is here.
        for address in items {
            self.take_answer(address);
        }
    }

    fn observe_store(&mut self, version: Version) {
        self.store = self.store.max(version);
    }
}
