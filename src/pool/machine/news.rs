//! What is worth telling people: changes, never what is so already, however often it is looked at.

use super::{ClaimOp, Fact, Machine, Op};
use crate::api::conditions::{self, Condition};
use crate::api::names::{self, reasons};
use crate::pool::key::ObjectKey;
use crate::pool::object::{Claim, PoolStatus};

impl Machine {
    /// Remembers what a claim's condition is about to say. News is another reason, not another message: that changes
    /// with others' doings.
    pub(super) fn note_telling(&mut self, claim: &Claim, conditions: &[Condition]) {
        let Some(next) = conditions::find(conditions, names::READY) else { return };
        let last = conditions::find(&claim.conditions, names::READY);
        let is_news = last.is_none_or(|last| (&last.status, &last.reason) != (&next.status, &next.reason));
        if let Some(entry) = self.claims.get_mut(&claim.key) {
            entry.telling = Some((next.clone(), is_news));
        }
    }

    /// The condition of a claim that waits was written.
    pub(super) fn note_told(&mut self, key: &ObjectKey, claim: &std::sync::Arc<Claim>, binds: bool) {
        self.note_stored(key, claim);
        let told = self.claims.get_mut(key).and_then(|entry| entry.telling.take());
        let Some((condition, true)) = told.filter(|(told, _)| !binds && !told.is_true()) else { return };
        let Condition { reason, message, .. } = condition;
        if reason == reasons::POOL_EXHAUSTED && !self.exhausted {
            self.exhausted = true;
            self.facts.push(Fact::Exhausted(message.clone()));
        }
        self.facts.push(Fact::Waiting { claim: claim.clone(), reason, message });
    }

    /// C10: whether the server stored the condition, its reply tells. A server that stores v1beta2 and cannot convert
    /// drops what v1beta1 has for it, and answers 200 all the same.
    fn note_stored(&mut self, key: &ObjectKey, claim: &Claim) {
        let Some(entry) = self.claims.get_mut(key) else { return };
        let asked = entry.telling.as_ref().map(|(condition, _)| condition);
        let stored = conditions::find(&claim.conditions, names::READY);
        let is_stored = asked.is_none_or(|asked| stored.is_some_and(|stored| says_the_same(stored, asked)));
        entry.unstored = if is_stored { None } else { asked.cloned() };
        if !is_stored && !self.drops_conditions {
            self.facts.push(Fact::ConditionNotStored);
        }
        self.drops_conditions = !is_stored;
    }

    /// C10: a condition that the server did not store is not written again, unless there is something else to say.
    pub(super) fn is_in_vain(&self, claim: &Claim, bound: bool, conditions: &[Condition]) -> bool {
        let unstored = self.claims.get(&claim.key).and_then(|entry| entry.unstored.as_ref());
        let next = conditions::find(conditions, names::READY);
        let is_same = unstored.is_some_and(|last| next.is_some_and(|next| says_the_same(last, next)));
        let refers = claim.address_ref.as_deref() == Some(&*claim.key.name);
        is_same && (refers || !bound)
    }

    /// A pool is exhausted until something is free and nobody waits for it: while claims wait, what is given back goes
    /// to the next one at once, and that is no end of it.
    pub(super) fn note_room(&mut self) {
        if self.exhausted && self.waiting.is_empty() {
            self.exhausted = self.ledger.as_ref().is_some_and(|ledger| ledger.lowest_free().is_none());
        }
    }

    /// Remembers what a claim has, before its release takes it away.
    pub(super) fn note_had(&mut self, key: &ObjectKey) {
        let held = self.addresses.get(key).and_then(|address| address.held.clone().ok());
        if let Some(entry) = self.claims.get_mut(key) {
            entry.had = held.or(entry.had);
        }
    }

    /// A claim is gone. The watch may show that before the reply to the request that let it go.
    pub(super) fn note_gone(&mut self, key: &ObjectKey) {
        let busy = self.claims.get(key).and_then(|entry| entry.busy);
        let op = busy.and_then(|id| self.ops.get(&id));
        if matches!(op, Some(Op::Claim(_, ClaimOp::Let))) {
            self.note_released(key);
        }
    }

    pub(super) fn note_released(&mut self, key: &ObjectKey) {
        let Some(entry) = self.claims.get(key) else { return };
        self.facts.push(Fact::Released { claim: entry.claim.clone(), held: entry.had });
    }

    /// What a status tells of the pool that the last one did not: why it cannot be allocated from.
    pub(super) fn news_of(&self, status: &PoolStatus) -> Option<Fact> {
        let next = conditions::find(&status.conditions, names::READY).filter(|next| !next.is_true())?;
        let is_used = status.counts.as_ref().is_some_and(|counts| counts.used > 0);
        let is_promised = status.record.as_ref().is_some_and(|record| !record.pending.is_empty());
        if next.reason == reasons::DELETING && !is_used && !is_promised {
            // It waits for nothing.
            return None;
        }
        let known = self.pool.as_ref().map_or(&[][..], |pool| &pool.status.conditions);
        let last = conditions::find(known, names::READY);
        // A deletion that goes on counts down; another sentence about the spec means that somebody has edited it.
        let is_same = |last: &Condition| {
            last.reason == next.reason && (next.reason != reasons::INVALID_SPEC || last.message == next.message)
        };
        let is_news = last.is_none_or(|last| !is_same(last));
        is_news.then(|| Fact::Unready { reason: next.reason.clone(), message: next.message.clone() })
    }
}

/// Whether two conditions differ in their times only.
fn says_the_same(one: &Condition, other: &Condition) -> bool {
    (&one.status, &one.reason, &one.message, one.observed_generation)
        == (&other.status, &other.reason, &other.message, other.observed_generation)
}
