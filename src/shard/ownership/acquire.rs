//! How a shard that nobody alive holds is taken (O4).

use std::time::Duration;

use super::shards::Step;
use super::{Call, Fact, Op, Outcome, Ownership};
use crate::shard::lease::{Content, Lease, LeaseKey};

/// O4: how long a free shard is the planned member's alone.
const PLANNED_FIRST: Duration = Duration::from_secs(1);
/// How many shards are being taken at a time: a replica that takes over everything must not flood the API server.
const TAKING: usize = 16;

impl Ownership {
    /// Takes a shard if it is there to be taken, by us, now.
    pub(super) fn acquire(&mut self, shard: u16, now: Duration) {
        let state = &self.shards[usize::from(shard)];
        if state.busy.is_some() {
            return;
        }
        if self.gives_up() || !self.is_there_to_be_taken(shard) {
            self.shards[usize::from(shard)].free_since = None;
            return;
        }
        let since = *self.shards[usize::from(shard)].free_since.get_or_insert(now);
        let planned = self.planned.plan.get(&shard).filter(|planned| *planned != self.config.me.member()).cloned();
        if let Some(planned) = planned {
            if !self.is_time(since + PLANNED_FIRST, now) {
                return;
            }
            self.note_unwilling(&planned, now);
        }
        if self.is_taking_enough() {
            return;
        }
        let holder = self.view.lease(&LeaseKey::Shard(shard)).and_then(|lease| lease.holder.ours());
        if holder.is_some() {
            self.send_for(shard, LeaseKey::Shard(shard), Call::Get, Step::Look, now);
        } else {
            self.take(shard, now);
        }
    }

    /// Whether to wait for replies first.
    pub(super) fn is_taking_enough(&self) -> bool {
        self.shards.iter().filter(|shard| shard.busy.is_some()).count() >= TAKING
    }

    fn is_there_to_be_taken(&self, shard: u16) -> bool {
        let lease = self.view.lease(&LeaseKey::Shard(shard));
        lease.and_then(|lease| lease.holder.ours()).is_none_or(|holder| self.is_dead(holder))
    }

    /// Writes ourselves into a shard's Lease as it is known, with the next epoch.
    pub(super) fn take(&mut self, shard: u16, now: Duration) {
        let key = LeaseKey::Shard(shard);
        let epoch = self.view.epoch(&key) + 1;
        let holder = Some(self.config.me.clone());
        let content = Content { holder, epoch, duration: self.config.duration, leaving: false };
        let call = match self.view.lease(&key) {
            Some(Lease { uid, version, .. }) => Call::Put { uid: uid.clone(), version: *version, content },
            None => Call::Create(content),
        };
        self.send_for(shard, key, call, Step::Take, now);
    }

    /// The answer to a request for a shard. What it says is in the view by now.
    pub(super) fn shard_reply(&mut self, shard: u16, op: &Op, step: Step, outcome: &Outcome, now: Duration) {
        self.shards[usize::from(shard)].busy = None;
        match step {
            Step::Look => self.looked_at_shard(shard, outcome, now),
            Step::CheckHolder(version) => self.checked_holder(shard, version, outcome, now),
            Step::Take => self.took(shard, op, outcome, now),
            Step::Release => self.after_write(shard, outcome, now),
            Step::Recheck => {
                if matches!(outcome, Outcome::NoAnswer | Outcome::Refused(_)) {
                    self.shards[usize::from(shard)].retry_at = now + self.config.pause();
                }
            }
        }
    }

    fn looked_at_shard(&mut self, shard: u16, outcome: &Outcome, now: Duration) {
        let Outcome::Done(lease) = outcome else {
            if *outcome != Outcome::NotFound {
                self.shards[usize::from(shard)].retry_at = now + self.config.pause();
            }
            return;
        };
        let holder = lease.holder.ours().filter(|holder| self.is_dead(holder) && self.may_act());
        if let Some(holder) = holder {
            let key = LeaseKey::Member(holder.member().clone());
            self.send_for(shard, key, Call::Get, Step::CheckHolder(lease.version), now);
        }
    }

    fn checked_holder(&mut self, shard: u16, version: u64, outcome: &Outcome, now: Duration) {
        if !matches!(outcome, Outcome::Done(_) | Outcome::NotFound) {
            self.shards[usize::from(shard)].retry_at = now + self.config.pause();
            return;
        }
        let is_unchanged = self.view.version(&LeaseKey::Shard(shard)) == version;
        if self.may_act() && !self.gives_up() && is_unchanged && self.is_there_to_be_taken(shard) {
            self.take(shard, now);
        }
    }

    fn took(&mut self, shard: u16, op: &Op, outcome: &Outcome, now: Duration) {
        match outcome {
            Outcome::Done(lease) if lease.holder.ours() == Some(&self.config.me) => {
                if op.run == self.membership.run && self.membership.valid_until.is_some() {
                    self.shards[usize::from(shard)].taken_in = Some(op.run);
                }
                self.log(Fact::Took { shard, epoch: lease.epoch });
            }
            Outcome::Conflict => {
                self.log(Fact::LostRace(shard));
                self.after_write(shard, outcome, now);
            }
            _ => self.after_write(shard, outcome, now),
        }
    }
}
