//! Replies: every request ends in exactly one of them.

use std::sync::Arc;
use std::time::Duration;

use super::commit::Planned;
use super::settle::Answer;
use super::{Action, ClaimOp, Fact, Machine, Op, OpId, Outcome, backoff};
use crate::pool::key::{Now, ObjectKey, Uid};
use crate::pool::object::Claim;

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
            Op::PatchPool | Op::GetPool => self.pool_reply(outcome, now),
            Op::List => self.list_reply(outcome, now),
            Op::Settle(uid) => self.settle_reply(&uid, outcome, now),
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
            Outcome::Pool(view) => {
                let stored = view.status.record.is_some();
                // The plan must stand while the copy is taken in, or its promises would be let go.
                let id = self.hold_plan(planned.clone());
                self.observe_pool(Some(*view), None, now);
                self.ops.remove(&id);
                self.end_commit(planned, stored, now);
            }
            Outcome::Conflict => {
                self.facts.push(Fact::CommitConflict);
                self.not_committed(planned);
                self.get_pool();
            }
            Outcome::Unknown(_) => {
                // It may have been taken: only a look tells (F2).
                self.pool_busy = true;
                self.send(Op::Confirm(planned), Action::GetPool);
            }
            Outcome::Gone => {
                self.not_committed(planned);
                self.get_pool();
            }
            _ => {
                self.not_committed(planned);
                self.retry_pool(REFUSED_FIRST, REFUSED_MOST, now);
            }
        }
    }

    fn hold_plan(&mut self, planned: Planned) -> OpId {
        self.next_op += 1;
        let id = OpId(self.next_op);
        self.ops.insert(id, Op::Commit(planned));
        id
    }

    /// F2: only the record in an object of the server tells whether a commit was taken.
    fn end_commit(&mut self, planned: Planned, stored: bool, now: Now) {
        if self.is_committed(&planned) {
            self.committed(planned, now);
        } else {
            if !stored && !self.not_stored {
                self.not_stored = true;
                self.last_status = None;
                self.facts.push(Fact::RecordNotStored);
                self.refresh_state();
            }
            self.not_committed(planned);
        }
    }

    /// The look after a commit without an answer.
    fn confirm_reply(&mut self, planned: Planned, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Pool(view) => {
                self.pool_busy = false;
                let id = self.hold_plan(planned.clone());
                self.observe_pool(Some(*view), None, now);
                self.ops.remove(&id);
                if self.is_committed(&planned) {
                    self.committed(planned, now);
                } else {
                    // Still under way, perhaps; a later commit that succeeds makes it fail.
                    self.not_committed(planned);
                    self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now);
                }
            }
            Outcome::Gone => {
                self.pool_busy = false;
                self.observe_pool(None, None, now);
                self.not_committed(planned);
            }
            _ => {
                self.pool_busy = false;
                self.not_committed(planned);
                self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now);
            }
        }
    }

    fn pool_reply(&mut self, outcome: Outcome, now: Now) {
        self.pool_busy = false;
        match outcome {
            Outcome::Pool(view) => {
                self.pool_failures = 0;
                self.observe_pool(Some(*view), None, now);
            }
            Outcome::Conflict => self.get_pool(),
            // A copy that the watch still shows must not be asked for again and again.
            Outcome::Gone => self.observe_pool(None, None, now),
            Outcome::Refused(_) => self.retry_pool(REFUSED_FIRST, REFUSED_MOST, now),
            _ => self.retry_pool(POOL_RETRY_FIRST, POOL_RETRY_MOST, now),
        }
    }

    fn get_pool(&mut self) {
        self.pool_busy = true;
        self.send(Op::GetPool, Action::GetPool);
    }

    fn retry_pool(&mut self, first: Duration, most: Duration, now: Now) {
        self.pool_failures = self.pool_failures.saturating_add(1);
        self.pool_retry_at = Some(now.boot + backoff(self.pool_failures, first, most, self.next_op));
    }

    fn list_reply(&mut self, outcome: Outcome, now: Now) {
        self.list_busy = false;
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

    fn settle_reply(&mut self, uid: &Uid, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Address(address) => {
                let version = address.version;
                self.take_address(address);
                self.confirm(uid, Ok(Some(version)), now);
            }
            Outcome::Gone => self.confirm(uid, Ok(None), now),
            _ => self.confirm(uid, Err(()), now),
        }
    }

    fn claim_reply(&mut self, key: &ObjectKey, id: OpId, op: ClaimOp, outcome: Outcome, now: Now) {
        // A claim that was deleted and created again meanwhile has no part in this request.
        let uid = self.claims.get(key).filter(|entry| entry.busy == Some(id)).map(|entry| entry.claim.uid.clone());
        if let Some(entry) = self.claims.get_mut(key).filter(|_| uid.is_some()) {
            entry.busy = None;
            self.claims_in_flight = self.claims_in_flight.saturating_sub(1);
        }
        self.mark(key);
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
                    self.facts.push(Fact::Released(key.clone()));
                }
                self.forget_claim(key);
            }
            Outcome::Conflict if op != ClaimOp::Get => {
                if let Some(claim) = self.claims.get(key).map(|entry| entry.claim.clone()) {
                    self.dirty.remove(key);
                    self.send_for(&claim, ClaimOp::Get, Action::GetClaim(key.clone()));
                }
            }
            _ => self.retry_later(key, now),
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
        let first_time = entry.claim.address_ref.is_none();
        if op == (ClaimOp::Report { bound: true }) && first_time {
            let held = self.addresses.get(key).and_then(|address| address.held.clone().ok());
            self.facts.push(Fact::Allocated { claim: claim.clone(), held, after });
        }
        if op == ClaimOp::Let {
            self.facts.push(Fact::Released(key.clone()));
        }
        self.observe_claim(key, claim, now);
    }

    /// The end of a write of a claim's IPAddress.
    fn address_reply(&mut self, key: &ObjectKey, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Address(address) => self.take_address(address),
            Outcome::Gone => self.address_is_gone(key),
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

    fn address_is_gone(&mut self, key: &ObjectKey) {
        if let Some(address) = self.addresses.get(key) {
            self.gone.insert(key.clone(), address.uid.clone());
        }
        self.drop_address(key);
    }

    /// The end of a create, or of the look after its name was found taken (F5(a)).
    fn create_reply(&mut self, key: &ObjectKey, id: OpId, op: ClaimOp, outcome: Outcome, now: Now) {
        let uid = self.creates.remove(&id);
        let answer = match outcome {
            Outcome::Address(address) => {
                let version = address.version;
                self.take_address(address);
                Ok(Some(Answer::Exists(version)))
            }
            Outcome::Exists => {
                self.look_up(key, uid);
                return;
            }
            Outcome::Gone if op == ClaimOp::LookUp => {
                self.address_is_gone(key);
                Ok(None)
            }
            Outcome::Refused(message) => {
                self.refuse(key, uid.as_ref(), &message);
                self.retry_later(key, now);
                Ok(if op == ClaimOp::Create { Some(Answer::Refused) } else { None })
            }
            Outcome::NotSent(_) => Ok(None),
            // The look failed, the create before it had its answer.
            _ if op == ClaimOp::LookUp => {
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
        let id = match claim {
            Some(claim) => {
                self.dirty.remove(key);
                self.send_for(&claim, ClaimOp::LookUp, Action::GetAddress(key.clone()))
            }
            None => self.send(Op::Claim(key.clone(), ClaimOp::LookUp), Action::GetAddress(key.clone())),
        };
        if let Some(uid) = uid {
            self.creates.insert(id, uid);
        }
    }

    fn refuse(&mut self, key: &ObjectKey, uid: Option<&Uid>, message: &str) {
        if let Some(entry) = uid.and_then(|uid| self.entry_of(key, uid)) {
            entry.refusal = Some(format!("the API server refused the IPAddress: {message}"));
        }
    }
}
