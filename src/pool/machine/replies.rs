//! Replies: every request ends in exactly one of them.

use std::sync::Arc;
use std::time::Duration;

use super::commit::Planned;
use super::gone::Sure;
use super::settle::Answer;
use super::{Action, ClaimOp, Fact, Machine, Op, OpId, Outcome, backoff};
use crate::pool::key::{Now, ObjectKey, Uid, Version};
use crate::pool::object::{Claim, PoolView};

/// After a failed write of the pool without an answer.
const POOL_RETRY_FIRST: Duration = Duration::from_millis(100);
/// And at most.
const POOL_RETRY_MOST: Duration = Duration::from_secs(5);
/// After a deterministic refusal (403, 422): somebody has to change something first.
const REFUSED_FIRST: Duration = Duration::from_secs(2);
/// And at most.
const REFUSED_MOST: Duration = Duration::from_mins(1);

impl Machine {
    pub(super) fn reply(&mut self, id: OpId, outcome: Outcome, now: Now) {
        let Some(op) = self.ops.remove(&id) else { return };
        self.note_failure(&op, &outcome);
        match op {
            Op::Commit(planned) => self.commit_reply(planned, outcome, now),
            Op::Confirm(planned) => self.confirm_reply(planned, outcome, now),
            Op::PatchPool(version) => self.pool_reply(Some(version), outcome, now),
            Op::GetPool => self.pool_reply(None, outcome, now),
            Op::List => self.list_reply(outcome, now),
            Op::Settle(uid) => self.settle_reply(&uid, id, outcome, now),
            Op::Orphan(key, op) => self.orphan_reply(&key, id, op, outcome, now),
            Op::Claim(key, op) => self.claim_reply(&key, id, op, outcome, now),
        }
    }

    fn note_failure(&mut self, op: &Op, outcome: &Outcome) {
        let (reason, message) = match outcome {
            Outcome::Refused(message) => ("refused", message),
            Outcome::Unknown(message) => ("no_answer", message),
            Outcome::NotSent(message) => ("not_sent", message),
            _ => return,
        };
        self.facts.push(Fact::Failed { reason, message: format!("{op}: {message}") });
    }

    fn commit_reply(&mut self, planned: Planned, outcome: Outcome, now: Now) {
        self.pool_busy = false;
        match outcome {
            Outcome::Pool(view) => self.end_commit(planned, &view, now),
            Outcome::Conflict => {
                self.facts.push(Fact::CommitConflict);
                self.not_committed(planned);
                self.get_pool();
            }
            // It may have been taken: only a look tells (F2).
            Outcome::Unknown(_) => self.send_pool(Op::Confirm(planned), Action::GetPool),
            Outcome::Gone => {
                self.not_committed(planned);
                self.get_pool();
            }
            Outcome::NotSent(_) => {
                self.not_committed(planned);
                self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now);
            }
            _ => {
                self.not_committed(planned);
                self.retry_pool(REFUSED_FIRST, REFUSED_MOST, now);
            }
        }
    }

    /// F2: only the record in an object of the server tells whether a commit was taken. The answer to the PUT shows
    /// what was stored; if the commit is not in it, the server drops what it does not know.
    fn end_commit(&mut self, planned: Planned, view: &PoolView, now: Now) {
        let stored = planned.is_in(view, &self.config.me);
        // The plan stands while the copy is taken in, or its promises would be let go.
        self.take_pool(view.clone(), now);
        if stored {
            return self.committed(planned, view, now);
        }
        if self.not_stored {
            self.last_status = Some(planned.digest.clone());
        } else {
            self.not_stored = true;
            self.last_status = None;
            self.facts.push(Fact::RecordNotStored);
            self.refresh_state();
        }
        self.not_committed(planned);
    }

    /// The look after a commit without an answer.
    fn confirm_reply(&mut self, planned: Planned, outcome: Outcome, now: Now) {
        self.pool_busy = false;
        match outcome {
            Outcome::Pool(view) => {
                let taken = planned.is_in(&view, &self.config.me);
                self.take_pool(PoolView::clone(&view), now);
                if taken {
                    return self.committed(planned, &view, now);
                }
            }
            Outcome::Gone => {
                self.pool_is_gone(now);
                return self.not_committed(planned);
            }
            _ => {}
        }
        // It is still under way, perhaps; a later commit that succeeds makes it fail.
        self.unanswered.insert(planned.seq);
        self.not_committed(planned);
        self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now);
    }

    fn pool_reply(&mut self, patched: Option<Version>, outcome: Outcome, now: Now) {
        self.pool_busy = false;
        match outcome {
            Outcome::Pool(view) => {
                self.pool_failures = 0;
                self.carry_cover(patched, view.version);
                self.take_pool(*view, now);
            }
            Outcome::Conflict => self.get_pool(),
            Outcome::Gone => self.pool_is_gone(now),
            Outcome::Refused(_) => self.retry_pool(REFUSED_FIRST, REFUSED_MOST, now),
            _ => self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now),
        }
    }

    /// Nothing came between a copy and my own patch of it: a LIST made for the one serves the other.
    fn carry_cover(&mut self, patched: Option<Version>, version: Version) {
        let covered = self.covered.filter(|(_, copy)| Some(*copy) == patched);
        if let Some((listed, _)) = covered {
            self.covered = Some((listed, version));
        }
    }

    /// A copy of the pool from a reply. After the watch showed its end, only the watch tells of a new one.
    fn take_pool(&mut self, view: PoolView, now: Now) {
        if self.pool.is_some() {
            self.observe_pool(Some(view), None, now);
        }
    }

    /// The pool that a request was about does not exist; the watch may have shown a later one meanwhile.
    fn pool_is_gone(&mut self, now: Now) {
        if self.pool.as_ref().map(|pool| &pool.uid) == self.asked_pool.as_ref() {
            self.observe_pool(None, None, now);
        }
    }

    fn get_pool(&mut self) {
        self.send_pool(Op::GetPool, Action::GetPool);
    }

    fn retry_pool(&mut self, first: Duration, most: Duration, now: Now) {
        self.pool_failures = self.pool_failures.saturating_add(1);
        self.pool_retry_at = Some(now.boot + backoff(self.pool_failures, first, most, self.next_op));
    }

    fn list_reply(&mut self, outcome: Outcome, now: Now) {
        self.list_busy = false;
        self.note_list(matches!(outcome, Outcome::Addresses { .. }));
        match outcome {
            Outcome::Addresses { version, items, copy } => {
                self.pool_failures = 0;
                self.take_list(version, items);
                self.covered = Some((version, copy));
            }
            Outcome::Refused(_) => self.retry_pool(REFUSED_FIRST, REFUSED_MOST, now),
            _ => self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now),
        }
    }

    fn settle_reply(&mut self, uid: &Uid, id: OpId, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Address(address) => {
                let version = address.version;
                self.take_answer(address);
                self.confirm(uid, id, Ok(Some(version)), now);
            }
            Outcome::Gone => self.confirm(uid, id, Ok(None), now),
            _ => self.confirm(uid, id, Err(()), now),
        }
    }

    fn claim_reply(&mut self, key: &ObjectKey, id: OpId, op: ClaimOp, outcome: Outcome, now: Now) {
        // A claim that was deleted and created again meanwhile has no part in this request.
        let uid = self.claims.get(key).filter(|entry| entry.busy == Some(id)).map(|entry| entry.claim.uid.clone());
        if let Some(entry) = self.claims.get_mut(key).filter(|_| uid.is_some()) {
            entry.busy = None;
            if entry.sure == Sure::Asking(id) {
                let is_it = matches!(&outcome, Outcome::Claim(claim) if claim.uid == entry.claim.uid);
                entry.sure = if is_it { Sure::Yes } else { Sure::No };
            }
            self.claims_in_flight = self.claims_in_flight.saturating_sub(1);
        }
        self.mark(key);
        let asked = self.asked.remove(&id);
        if matches!((op, &outcome), (op, Outcome::Gone) if op.is_about_address()) {
            self.address_is_gone(key, asked);
        }
        match op {
            ClaimOp::Create | ClaimOp::LookUp => self.create_reply(key, id, op, outcome, now),
            ClaimOp::Repair | ClaimOp::Unprotect | ClaimOp::Delete => self.address_reply(key, outcome, now),
            ClaimOp::Protect | ClaimOp::Report { .. } | ClaimOp::Get | ClaimOp::Let => {
                if let Some(uid) = uid {
                    self.own_reply(key, &uid, op, outcome, now);
                }
            }
        }
    }

    /// The end of a write of the claim itself, or of a look at it.
    fn own_reply(&mut self, key: &ObjectKey, uid: &Uid, op: ClaimOp, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Claim(claim) => {
                let claim = self.with_known_cluster(key, claim);
                if claim.uid == *uid {
                    self.succeeded(key, op, claim, now);
                } else {
                    self.observe_claim(key, claim, now);
                }
            }
            Outcome::Gone => {
                if op == ClaimOp::Let {
                    self.note_released(key);
                }
                self.forget_claim(key);
            }
            Outcome::Conflict if op != ClaimOp::Get => {
                if let Some(claim) = self.claims.get(key).map(|entry| entry.claim.clone()) {
                    self.dirty.remove(key);
                    self.send_for(&claim, ClaimOp::Get, Action::GetClaim(key.clone()));
                }
            }
            _ => {
                if let Some(entry) = self.claims.get_mut(key).filter(|_| op == ClaimOp::Get) {
                    entry.asked_about = None;
                }
                self.retry_later(key, now);
            }
        }
    }

    /// A reply does not show the state of the claim's cluster: what the watches told stands.
    fn with_known_cluster(&self, key: &ObjectKey, claim: Arc<Claim>) -> Arc<Claim> {
        let cluster = self.claims.get(key).map_or_else(Default::default, |entry| entry.claim.cluster);
        if claim.cluster == cluster { claim } else { Arc::new(Claim { cluster, ..Arc::unwrap_or_clone(claim) }) }
    }

    fn succeeded(&mut self, key: &ObjectKey, op: ClaimOp, claim: Arc<Claim>, now: Now) {
        let Some(entry) = self.claims.get_mut(key) else { return };
        entry.failures = 0;
        let after = now.boot.saturating_sub(entry.first_seen);
        if op == (ClaimOp::Report { binds: true }) {
            let held = self.addresses.get(key).and_then(|address| address.held.clone().ok());
            self.facts.push(Fact::Allocated { claim: claim.clone(), held, after });
        }
        if let ClaimOp::Report { binds } = op {
            self.note_told(key, &claim, binds);
        }
        if op == ClaimOp::Let {
            self.note_released(key);
        }
        self.observe_claim(key, claim, now);
    }

    /// The end of a write of a claim's IPAddress.
    fn address_reply(&mut self, key: &ObjectKey, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Address(address) => self.take_answer(address),
            Outcome::Gone => {}
            // The copy was old: look at the newest before deciding again.
            Outcome::Conflict => {
                if let Some(claim) = self.claims.get(key).map(|entry| entry.claim.clone()) {
                    self.dirty.remove(key);
                    self.send_for(&claim, ClaimOp::LookUp, Action::GetAddress(key.clone()));
                }
            }
            _ => self.retry_later(key, now),
        }
    }

    /// The server has no IPAddress of this name: the one that was known when it was asked is gone. Another may have
    /// come since.
    pub(super) fn address_is_gone(&mut self, key: &ObjectKey, asked: Option<Uid>) {
        let Some(uid) = asked else { return };
        if self.addresses.get(key).is_some_and(|address| address.uid == uid) {
            self.gone.insert(key.clone(), uid);
            self.drop_address(key);
        }
    }

    /// The end of a create, or of the look after its name was found taken (F5(a)).
    fn create_reply(&mut self, key: &ObjectKey, id: OpId, op: ClaimOp, outcome: Outcome, now: Now) {
        let uid = self.creates.remove(&id);
        let answer = match outcome {
            Outcome::Address(address) => {
                let version = address.version;
                self.take_answer(address);
                // If it is gone again already, its claim needs another.
                Ok(self.addresses.contains_key(key).then_some(Answer::Exists(version)))
            }
            Outcome::Exists => {
                self.look_up(key, uid);
                return;
            }
            Outcome::Gone if op == ClaimOp::LookUp => Ok(None),
            Outcome::Refused(message) => {
                self.refuse(key, uid.as_ref(), &message);
                self.retry_later(key, now);
                Ok(if op == ClaimOp::Create { Some(Answer::Refused) } else { None })
            }
            // The look failed, the create before it had its answer; or there was none.
            _ if op == ClaimOp::LookUp || matches!(outcome, Outcome::NotSent(_)) => {
                self.retry_later(key, now);
                Ok(None)
            }
            _ => {
                self.retry_later(key, now);
                Err(())
            }
        };
        let Some(listing) = uid.and_then(|uid| self.listings.get_mut(&uid)) else { return };
        listing.outstanding = listing.outstanding.saturating_sub(1);
        match answer {
            Ok(answer) => listing.answer = listing.answer.or(answer),
            Err(()) => listing.tainted = true,
        }
    }

    /// The name is taken: whether by this very address only a look tells. The create stays under way until then.
    fn look_up(&mut self, key: &ObjectKey, uid: Option<Uid>) {
        let claim = self.claims.get(key).filter(|entry| entry.busy.is_none()).map(|entry| entry.claim.clone());
        let id = if let Some(claim) = claim {
            self.dirty.remove(key);
            self.send_for(&claim, ClaimOp::LookUp, Action::GetAddress(key.clone()))
        } else {
            let id = self.send(Op::Claim(key.clone(), ClaimOp::LookUp), Action::GetAddress(key.clone()));
            self.note_asked(id, key);
            id
        };
        if let Some(uid) = uid {
            self.creates.insert(id, uid);
        }
    }

    fn refuse(&mut self, key: &ObjectKey, uid: Option<&Uid>, message: &str) {
        if let Some(entry) = uid.and_then(|uid| self.entry_of(key, uid)) {
            entry.refusal = Some(format!("the API server refused the IPAddress: {message}"));
            entry.untold = true;
        }
    }
}
