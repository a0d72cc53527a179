//! Looking at claims: what each needs, and the request for it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::adoption::TOLD_AFTER;
use super::gone::{MOVED_WITHIN, Moved, Sure};
use super::settle::Answer;
use super::{Action, ClaimOp, Entry, MAX_IN_FLIGHT, MAX_LOOKS, Machine, NewAddress, Op, OpId, backoff};
use crate::api::address::{ClaimOwner, PoolOwner, owner_references};
use crate::api::names::{CLAIM_KIND, reasons};
use crate::ipam::pool::Held;
use crate::pool::claim::{Need, PoolState, Promise, Situation, need};
use crate::pool::key::{Now, ObjectKey, Version};
use crate::pool::object::Claim;
use crate::pool::rule::{Rule, is_broken};

/// After a failure without an answer: as soon as an API server that restarts may be back.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// And no later than a person would look again.
const RETRY_MOST: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn look_at_dirty(&mut self, now: Now) {
        if self.is_stopping() {
            return;
        }
        for _ in 0..MAX_LOOKS {
            let Some(key) = self.next_to_look_at() else { return };
            self.look_at(&key, now);
        }
    }

    /// Claims that changed come first, whether there is room for requests or not: those that only have to queue must
    /// do so before the next batch is chosen (B5).
    fn next_to_look_at(&mut self) -> Option<ObjectKey> {
        let changed = self.dirty.pop_first();
        if let Some(key) = &changed {
            self.stalled.remove(key);
        }
        let has_room = self.claims_in_flight < MAX_IN_FLIGHT;
        changed.or_else(|| if has_room { self.stalled.pop_first() } else { None })
    }

    /// Decides about one claim, and sends what it needs. A claim with a request under way is looked at again after it.
    fn look_at(&mut self, key: &ObjectKey, now: Now) {
        let Some(entry) = self.claims.get_mut(key).filter(|entry| entry.busy.is_none()) else { return };
        let claim = entry.claim.clone();
        if entry.moved == Moved::Seen {
            entry.moved = Moved::Until(now.boot + MOVED_WITHIN);
        }
        if entry.retry_at.is_some_and(|at| at > now.boot) {
            // A refusal is told at once, and tried again later.
            if std::mem::take(&mut entry.untold) {
                let need = self.need_of(&claim, None, now);
                if matches!(need, Need::Report { .. }) {
                    self.serve(&claim, need, now);
                }
            }
            return;
        }
        if entry.retry_at.take().is_some() && entry.refusal.take().is_some() {
            self.send_again(&claim);
        }
        self.leave_queue(&claim);
        let need = self.need_of(&claim, None, now);
        let is_request = !matches!(need, Need::Nothing | Need::Later(_) | Need::Queue | Need::Listing);
        if is_request && self.claims_in_flight >= MAX_IN_FLIGHT {
            self.stalled.insert(key.clone());
        } else {
            self.serve(&claim, need, now);
        }
    }

    /// After a refusal: the intent, if it still stands, is good for another create.
    fn send_again(&mut self, claim: &Claim) {
        if let Some(listing) = self.listings.get_mut(&claim.uid) {
            listing.answer = listing.answer.filter(|answer| *answer != Answer::Refused);
        }
    }

    pub(super) fn need_of(&self, claim: &Claim, refusal: Option<(&'static str, &str)>, now: Now) -> Need {
        let refused = self.claims.get(&claim.key).and_then(|entry| entry.refusal.as_deref());
        let refusal = refused.map(|message| (reasons::ALLOCATION_FAILED, message)).or(refusal);
        let grace = self.pool.as_ref().and_then(|p| p.spec.as_ref().ok()).map_or(Duration::ZERO, |spec| spec.grace);
        need(&Situation {
            claim,
            address: self.addresses.get(&claim.key).map(|address| &**address),
            key: &self.key,
            pool: &self.state,
            pool_uid: self.pool.as_ref().map(|pool| &pool.uid),
            grace,
            promise: self.promise_to(claim),
            is_sure: self.claims.get(&claim.key).is_some_and(|entry| entry.sure == Sure::Yes),
            refusal,
            awaited: self
                .claims
                .get(&claim.key)
                .and_then(|entry| entry.expected_until)
                .map(|until| until.saturating_sub(self.config.adoption_grace) + TOLD_AFTER),
            moved: self.claims.get(&claim.key).and_then(|entry| match entry.moved {
                Moved::Until(at) => Some(at).filter(|at| *at > now.boot),
                Moved::No | Moved::Seen => None,
            }),
            version: self.config.version,
            now,
        })
    }

    fn promise_to(&self, claim: &Claim) -> Promise {
        if self.planned.contains(&claim.uid) {
            return Promise::Planned;
        }
        let Some(seen) = self.seen.get(&claim.uid) else { return Promise::None };
        let listing = self.listings.get(&claim.uid);
        // A release waits for the answer to a create, not for the intent to be settled.
        let lives = claim.deleted.is_none();
        if listing.is_some_and(|listing| listing.is_busy() || (lives && listing.is_answered())) {
            return Promise::Listed { sent: true };
        }
        match listing {
            // F9: the record that listed me is gone, and others may not know of it.
            _ if self.lost || self.is_contested(&claim.uid, seen) => Promise::Planned,
            // F1: the newest record must list me, with the very address that the commit listed me with.
            Some(listing)
                if !listing.expired && (seen.lists(&self.config.me, listing.held) || is_broken(Rule::ListedFirst)) =>
            {
                Promise::Listed { sent: false }
            }
            None if is_broken(Rule::OnePromise) => Promise::None,
            _ => Promise::Unlisted,
        }
    }

    fn serve(&mut self, claim: &Arc<Claim>, need: Need, now: Now) {
        let (key, uid, version) = (claim.key.clone(), claim.uid.clone(), claim.version);
        let address = self.addresses.get(&key).map(|a| (a.uid.clone(), a.version));
        match (need, address) {
            (Need::Nothing, _) => {}
            (Need::Later(at), _) => self.set_timer(&key, at),
            (Need::Queue, _) => {
                self.waiting.insert((claim.created, key.clone()));
                self.unreported.insert((claim.created, key));
            }
            (Need::Listing, _) => drop(self.to_list.insert(uid)),
            (Need::Protect, _) => {
                let finalizers = claim.finalizers_with_ours();
                // C19: what comes from elsewhere stays known as that until its pool is there.
                let note_uid = self.state == PoolState::Open || !claim.may_be_moved();
                let action = Action::PatchClaim { key, uid, version, finalizers, note_uid };
                self.send_for(claim, ClaimOp::Protect, action);
            }
            (Need::Let, _) => {
                let finalizers = claim.finalizers_without_ours();
                let action = Action::PatchClaim { key, uid, version, finalizers, note_uid: false };
                self.send_for(claim, ClaimOp::Let, action);
            }
            (Need::Report { bound, conditions }, _) if self.is_in_vain(claim, bound, &conditions) => {}
            (Need::Report { bound, conditions }, _) => {
                self.note_telling(claim, &conditions);
                let action = Action::PatchClaimStatus { key, uid, version, bound, conditions };
                let binds = bound && claim.address_ref.is_none();
                self.send_for(claim, ClaimOp::Report { binds }, action);
            }
            (Need::Ask, _) => {
                let id = self.send_for(claim, ClaimOp::Get, Action::GetClaim(key.clone()));
                if let Some(entry) = self.claims.get_mut(&key) {
                    entry.sure = Sure::Asking(id);
                }
            }
            (Need::Create, _) => self.create(claim, now),
            (Need::Repair { owners, finalizers, label }, Some((uid, version))) => {
                let action = Action::PatchAddress { key, uid, version, finalizers, owners: Some(owners), label };
                self.send_for(claim, ClaimOp::Repair, action);
            }
            (Need::Unprotect { .. } | Need::Delete, Some((_, version))) if self.is_in_doubt(claim, version) => {
                if let Some(entry) = self.claims.get_mut(&key) {
                    entry.asked_about = Some(version);
                }
                self.send_for(claim, ClaimOp::Get, Action::GetClaim(key));
            }
            (Need::Unprotect { finalizers }, Some((uid, version))) => {
                self.note_had(&key);
                let action = Action::PatchAddress { key, uid, version, finalizers, owners: None, label: None };
                self.send_for(claim, ClaimOp::Unprotect, action);
            }
            (Need::Delete, Some((uid, version))) => {
                self.note_had(&key);
                self.send_for(claim, ClaimOp::Delete, Action::DeleteAddress { key, uid, version });
            }
            (Need::Repair { .. } | Need::Unprotect { .. } | Need::Delete, None) => {
                debug_assert!(false, "asked to change an IPAddress that is not there");
            }
        }
    }

    /// F7: whether this copy of the IPAddress names another claim of the name as its owner, and the server was not asked
    /// since it is known which of the two stands. A replica that sees old claims must not release what a new one has.
    fn is_in_doubt(&self, claim: &Claim, version: Version) -> bool {
        let is_other = |owner: &OwnerReference| owner.kind == CLAIM_KIND && owner.uid != *claim.uid;
        let is_of_other = self.addresses.get(&claim.key).is_some_and(|it| it.owners.iter().any(is_other));
        let was_asked = self.claims.get(&claim.key).is_some_and(|entry| entry.asked_about == Some(version));
        is_of_other && !was_asked && !is_broken(Rule::ReleaseOwn)
    }

    pub(super) fn send_for(&mut self, claim: &Claim, op: ClaimOp, action: Action) -> OpId {
        let id = self.send(Op::Claim(claim.key.clone(), op), action);
        if let Some(entry) = self.claims.get_mut(&claim.key) {
            entry.busy = Some(id);
            self.claims_in_flight += 1;
        }
        self.note_asked(id, &claim.key);
        id
    }

    /// Remembers which IPAddress of this name was known when a request was sent.
    pub(super) fn note_asked(&mut self, id: OpId, key: &ObjectKey) {
        if let Some(address) = self.addresses.get(key) {
            self.asked.insert(id, address.uid.clone());
        }
    }

    /// Asks for the create of a promised address; F1's time is checked again by whoever sends it.
    fn create(&mut self, claim: &Arc<Claim>, now: Now) {
        let (Some(pool), Some(seen)) = (&self.pool, self.seen.get_mut(&claim.uid)) else { return };
        let Some(listing) = self.listings.get_mut(&claim.uid) else { return };
        let not_after = listing.at + self.config.lock_delay / 4;
        if now.boot >= not_after && !is_broken(Rule::SentInTime) {
            listing.expired = true;
            self.to_list.insert(claim.uid.clone());
            return;
        }
        listing.outstanding += 1;
        seen.look_is_outdated();
        self.look_due = Some(self.look_due.map_or(seen.look_at, |at| at.min(seen.look_at)));
        let held = seen.held;
        let address = NewAddress {
            key: claim.key.clone(),
            held,
            gateway: pool.spec.as_ref().ok().and_then(|spec| spec.pool.gateway()),
            owners: self.new_owners(claim, &pool.uid),
            label: claim.cluster_label.clone(),
            not_after,
        };
        let id = self.send_for(claim, ClaimOp::Create, Action::CreateAddress(Box::new(address)));
        self.creates.insert(id, claim.uid.clone());
    }

    fn new_owners(&self, claim: &Claim, pool_uid: &str) -> Vec<OwnerReference> {
        let claim = ClaimOwner { version: self.config.version, name: &claim.key.name, uid: &claim.uid };
        owner_references(&[], claim, PoolOwner { kind: self.key.kind, name: &self.key.name, uid: pool_uid })
    }

    /// Tells claims that cannot be served why, while nothing is free (C10, C11). Costs nothing once they know.
    pub(super) fn report_waiting(&mut self, now: Now) {
        if self.unreported.is_empty() || self.is_stopping() {
            return;
        }
        let Some((reason, message)) = self.obstacle() else { return };
        while self.claims_in_flight < MAX_IN_FLIGHT {
            let Some((_, key)) = self.unreported.pop_first() else { return };
            let Some(claim) = self.claims.get(&key).map(|entry| entry.claim.clone()) else { continue };
            let need = self.need_of(&claim, Some((reason, &message)), now);
            if matches!(need, Need::Protect) {
                // Look again after the finalizer is on; it goes back to the queue then.
                self.waiting.remove(&(claim.created, key));
            }
            self.serve(&claim, need, now);
        }
    }

    /// Why no claim can be given an address although the pool is open, if that is so.
    pub(super) fn obstacle(&self) -> Option<(&'static str, String)> {
        if self.state != PoolState::Open {
            return None;
        }
        if self.held.is_some() {
            let message = "another provider led until now; new addresses wait for its last requests to be over";
            return Some((reasons::ALLOCATION_FAILED, message.to_owned()));
        }
        let ledger = self.ledger.as_ref()?;
        if ledger.lowest_free().is_none() {
            let total = ledger.pool().total();
            let all = if self.key.kind.is_prefix() { "prefixes" } else { "addresses" };
            return Some((reasons::POOL_EXHAUSTED, format!("{} is full: all {total} {all} are in use", self.key)));
        }
        if self.adoption.is_told() {
            let message = format!("{} waits for IPAddresses of what was moved or restored", self.key);
            return Some((reasons::ALLOCATION_FAILED, message));
        }
        (self.room == 0 && !self.is_settling() && !self.can_settle()).then(|| {
            let message = format!("{} has too many unsettled creates; it goes on when they are settled", self.key);
            (reasons::ALLOCATION_FAILED, message)
        })
    }

    pub(super) fn set_timer(&mut self, key: &ObjectKey, at: std::time::Duration) {
        self.timers.insert((at, key.clone()));
    }

    /// The request of a claim failed without an answer, or was refused: look again later, and later each time.
    pub(super) fn retry_later(&mut self, key: &ObjectKey, now: Now) {
        let Some(entry) = self.claims.get_mut(key) else { return };
        entry.failures = entry.failures.saturating_add(1);
        let at = now.boot + backoff(entry.failures, RETRY_FIRST, RETRY_MOST, salt(&entry.claim.uid));
        entry.retry_at = Some(at);
        self.set_timer(key, at);
    }

    pub(super) fn entry_of(&mut self, key: &ObjectKey, uid: &str) -> Option<&mut Entry> {
        self.claims.get_mut(key).filter(|entry| *entry.claim.uid == *uid)
    }

    /// The address for a waiting claim: what it had (C3) unless somebody else has it by now or the pool has not, else
    /// the lowest free one (B1).
    pub(super) fn choose(&mut self, claim: &Claim) -> Option<Held> {
        let promise = super::Hold::Promise(claim.uid.clone());
        let ledger = self.ledger.as_mut()?;
        if let Some((uid, held)) = self.kept.get(&claim.key) {
            let alone = ledger.holders_of(held.address).all(|holder| *holder == promise);
            if alone && *uid == claim.uid && ledger.held_by(&promise) == Some(*held) && ledger.pool().allows(*held) {
                return Some(*held);
            }
            self.kept.remove(&claim.key);
        }
        ledger.release(&promise);
        ledger.allocate(promise)
    }
}

/// Spreads retries of many claims; any number that differs between them will do.
fn salt(uid: &str) -> u64 {
    uid.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
}
