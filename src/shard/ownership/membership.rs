//! The own member Lease: to register, to renew, to notice that it ran out, and to leave.

use std::time::Duration;

use super::{Call, Effect, Exit, Fact, Op, OpId, Outcome, Ownership, Purpose, Work};
use crate::shard::lease::{Content, Lease, LeaseKey};

/// O3: renewals that come later than this make the silence of others count for nothing.
const LATE: Duration = Duration::from_secs(1);
/// Attempts to delete the own member Lease on the way out; it runs out anyway.
const REMOVALS: u32 = 2;

/// Whether all Leases were listed in this run of validity (O9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    #[default]
    Not,
    Asked,
    Done,
}

/// The state of the own membership.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says something else; no two belong to one state")]
pub(super) struct Membership {
    pub(super) synced: bool,
    pub(super) fresh: bool,
    pub(super) leaving: bool,
    /// O1. `None`: no work.
    pub(super) valid_until: Option<Duration>,
    /// Counts the times without a gap in validity.
    pub(super) run: u64,

    /// The member Lease was ours at some time.
    registered: bool,
    /// What is known of the own member Lease is what it is, but for what others do to it.
    looked: bool,
    busy: Option<OpId>,
    /// Failed requests for the own member Lease in a row.
    failures: u32,
    retry_at: Duration,
    /// When to renew.
    due: Duration,
    /// The Lease says that we leave.
    marked: bool,
    removals: u32,
    removed: bool,

    listed: Listed,
    list_retry_at: Duration,
}

impl Membership {
    pub(super) fn may_act(&self) -> bool {
        self.valid_until.is_some() && self.listed == Listed::Done
    }

    /// Whether own renewals are as they should be, so that the silence of others means something (O3).
    pub(super) fn is_healthy(&self, now: Duration) -> bool {
        self.failures == 0 && now <= self.due + LATE
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }
}

impl Ownership {
    fn my_key(&self) -> LeaseKey {
        LeaseKey::Member(self.config.me.member().clone())
    }

    /// Stops everything when the deadline has passed (O1).
    pub(super) fn expire(&mut self, now: Duration) {
        if self.membership.valid_until.is_some_and(|until| until <= now) {
            self.membership.valid_until = None;
            self.membership.listed = Listed::Not;
            self.stop_all();
            self.log(Fact::Expired);
        }
    }

    /// Registers, and renews when it is time.
    pub(super) fn keep_membership(&mut self, now: Duration) {
        let me = &self.membership;
        let lease = self.view.lease(&self.my_key());
        if me.registered && lease.is_some_and(|lease| lease.holder.ours() != Some(&self.config.me)) {
            return self.exit(Exit::Replaced);
        }
        let is_wanted = !me.removed && (me.registered || !me.leaving);
        if self.exited || me.busy.is_some() || !me.synced || !me.fresh || !is_wanted {
            return;
        }
        if !self.is_time(self.membership.retry_at, now) {
            return;
        }
        let me = &self.membership;
        if !me.looked || (me.registered && self.view.lease(&self.my_key()).is_none()) {
            let id = self.send(self.my_key(), Call::Get, Purpose::LookAtMe, now);
            self.membership.busy = Some(id);
            return;
        }
        let must_mark = me.leaving && !me.marked;
        if !me.registered || must_mark || self.is_time(self.membership.due, now) {
            self.renew(now);
        }
    }

    fn renew(&mut self, now: Duration) {
        let leaving = self.membership.leaving;
        let me = &self.config.me;
        let lease = self.view.lease(&self.my_key());
        let epoch = match lease {
            Some(lease) if lease.holder.ours() == Some(me) => lease.epoch,
            _ => self.view.epoch(&self.my_key()) + 1,
        };
        let content = Content { holder: Some(me.clone()), epoch, duration: self.config.duration, leaving };
        let call = match lease {
            Some(Lease { uid, version, .. }) => Call::Put { uid: uid.clone(), version: *version, content },
            None => Call::Create(content),
        };
        let id = self.send(self.my_key(), call, Purpose::Renew { leaving }, now);
        self.membership.busy = Some(id);
    }

    /// The answer to a registration or a renewal.
    pub(super) fn renewed(&mut self, op: &Op, leaving: bool, outcome: &Outcome, now: Duration) {
        self.membership.busy = None;
        match outcome {
            Outcome::Done(lease) if lease.holder.ours() == Some(&self.config.me) => self.renewal(op, leaving, now),
            Outcome::NotFound if self.membership.registered => self.exit(Exit::LeaseGone),
            // Done or not, by us or by somebody else: only a look can tell.
            _ => self.renewal_failed(now),
        }
    }

    fn renewal(&mut self, op: &Op, leaving: bool, now: Duration) {
        let was_healthy = self.membership.is_healthy(now);
        let was_registered = self.membership.registered;
        let until = op.sent + self.config.duration * 4 / 5;
        let me = &mut self.membership;
        me.registered = true;
        me.marked = leaving;
        me.failures = 0;
        me.due = op.sent + self.config.duration / 3;
        if until > now {
            if me.valid_until.is_none() {
                me.run += 1;
                me.listed = Listed::Not;
                me.list_retry_at = now;
            }
            me.valid_until = Some(until);
            self.effects.push(Effect::Valid { until });
        }
        if !was_registered {
            self.log(Fact::Registered);
        } else if !was_healthy {
            self.restart_timers(now);
        }
    }

    fn renewal_failed(&mut self, now: Duration) {
        let pause = self.config.pause();
        let me = &mut self.membership;
        me.looked = false;
        me.failures += 1;
        me.retry_at = if me.failures == 1 { now } else { now + pause };
    }

    /// The answer to a look at the own member Lease. What it says is in the view by now.
    pub(super) fn looked(&mut self, outcome: &Outcome, now: Duration) {
        self.membership.busy = None;
        match outcome {
            Outcome::NotFound if self.membership.removals > 0 => self.membership.removed = true,
            Outcome::NotFound if self.membership.registered => self.exit(Exit::LeaseGone),
            Outcome::Done(_) | Outcome::NotFound => self.membership.looked = true,
            _ => {
                self.membership.failures += 1;
                self.membership.retry_at = now + self.config.pause();
            }
        }
    }

    /// Lists all Leases once in every run of validity: nothing is written before (O9).
    pub(super) fn keep_listed(&mut self, now: Duration) {
        let me = &self.membership;
        if self.exited || me.valid_until.is_none() || me.listed != Listed::Not {
            return;
        }
        if self.is_time(self.membership.list_retry_at, now) {
            let id = self.open(None, Purpose::List, self.view.newest(), now);
            self.effects.push(Effect::List { id });
            self.membership.listed = Listed::Asked;
        }
    }

    pub(super) fn listed(&mut self, op: &Op, outcome: &Outcome, now: Duration) {
        if op.run != self.membership.run || self.membership.listed != Listed::Asked {
            return;
        }
        if matches!(outcome, Outcome::Listed(_)) {
            self.membership.listed = Listed::Done;
        } else {
            self.membership.listed = Listed::Not;
            self.membership.list_retry_at = now + self.config.pause();
        }
    }

    /// Takes the last steps out, once everything is handed over (O5).
    pub(super) fn leave(&mut self, now: Duration) {
        let me = &self.membership;
        if self.exited || !me.leaving {
            return;
        }
        if me.registered && me.valid_until.is_none() {
            return self.exit(Exit::LeftLate);
        }
        if me.busy.is_some() {
            return;
        }
        if !me.registered || me.removed || me.removals >= REMOVALS {
            return self.exit(Exit::Left);
        }
        let is_idle = self.shards.iter().all(|shard| shard.work == Work::Idle && shard.busy.is_none());
        if !self.may_act() || !me.looked || !is_idle || self.counts().held > 0 {
            return;
        }
        let Some(Lease { uid, version, .. }) = self.view.lease(&self.my_key()).cloned() else {
            return;
        };
        self.membership.removals += 1;
        let id = self.send(self.my_key(), Call::Delete { uid, version }, Purpose::Remove, now);
        self.membership.busy = Some(id);
    }

    pub(super) fn removed(&mut self, outcome: &Outcome) {
        self.membership.busy = None;
        match outcome {
            Outcome::Deleted | Outcome::NotFound => self.membership.removed = true,
            _ => self.membership.looked = false,
        }
    }
}
