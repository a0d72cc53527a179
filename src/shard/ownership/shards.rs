//! Each shard that is ours: when work on it begins and ends, and how it is handed over (O5).

use std::time::Duration;

use super::{Call, Effect, Fact, OpId, Outcome, Ownership, Purpose};
use crate::shard::lease::{Content, Lease, LeaseKey};

/// O5: how many shards are handed over at once, so that most pools are served while members come and go.
const HANDOVERS: usize = 4;

/// What this replica does on a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Work {
    #[default]
    Idle,
    Working,
    /// What was begun is being finished.
    Stopping,
}

/// What a request for a shard is about. O4: look at the shard, then at its holder, then take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Look,
    /// The version of the shard's Lease that the look found.
    CheckHolder(u64),
    Take,
    Release,
    /// To see what became of a write.
    Recheck,
}

/// The state of a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) work: Work,
    /// The request under way, one at a time.
    pub(super) busy: Option<OpId>,
    pub(super) retry_at: Duration,
    /// The run of validity in which it was taken. What was held through a gap is taken again before work on it: a
    /// takeover that began in the gap then fails.
    pub(super) taken_in: Option<u64>,
    /// It is being handed over, until somebody else or nobody holds it.
    handing: bool,
    /// Since when anybody may take it, as we saw it.
    pub(super) free_since: Option<Duration>,
}

impl Ownership {
    /// Stops work on everything, whatever becomes of the Leases.
    pub(super) fn stop_all(&mut self) {
        for shard in 0..self.config.shards {
            let state = &mut self.shards[usize::from(shard)];
            state.taken_in = None;
            state.handing = false;
            self.stop(shard);
        }
    }

    fn stop(&mut self, shard: u16) {
        let state = &mut self.shards[usize::from(shard)];
        if state.work == Work::Working {
            state.work = Work::Stopping;
            self.effects.push(Effect::Stop { shard });
        }
    }

    pub(super) fn stopped(&mut self, shard: u16) {
        if let Some(state) = self.shards.get_mut(usize::from(shard))
            && state.work == Work::Stopping
        {
            state.work = Work::Idle;
        }
    }

    /// Does for one shard what is to be done now.
    pub(super) fn tend(&mut self, shard: u16, now: Duration) {
        let lease = self.view.lease(&LeaseKey::Shard(shard));
        match lease.filter(|lease| lease.holder.ours() == Some(&self.config.me)).map(|lease| lease.epoch) {
            Some(epoch) => self.tend_mine(shard, epoch, now),
            None => self.tend_other(shard, now),
        }
    }

    fn tend_mine(&mut self, shard: u16, epoch: u32, now: Duration) {
        self.shards[usize::from(shard)].free_since = None;
        if !self.shards[usize::from(shard)].handing && self.is_to_be_handed_over(shard, now) {
            self.shards[usize::from(shard)].handing = true;
        }
        let state = &self.shards[usize::from(shard)];
        let is_taken = state.taken_in == Some(self.membership.run);
        match state.work {
            Work::Working if state.handing || !is_taken || !self.leader.permits() => self.stop(shard),
            Work::Working | Work::Stopping => {}
            Work::Idle if state.handing => self.release(shard, now),
            Work::Idle if !is_taken && self.is_taking_enough() => {}
            Work::Idle if !is_taken => self.take(shard, now),
            Work::Idle => self.start(shard, epoch),
        }
    }

    fn start(&mut self, shard: u16, epoch: u32) {
        if let Some(until) = self.membership.valid_until.filter(|_| self.leader.permits()) {
            self.shards[usize::from(shard)].work = Work::Working;
            self.effects.push(Effect::Start { shard, epoch, until });
        }
    }

    /// Whether the shard goes to a member that is ready for it, or has to go anyway.
    fn is_to_be_handed_over(&mut self, shard: u16, now: Duration) -> bool {
        if self.gives_up() {
            return true;
        }
        let Some(planned) = self.planned.plan.get(&shard).filter(|planned| *planned != self.config.me.member()) else {
            return false;
        };
        let planned = planned.clone();
        let handovers = self.shards.iter().filter(|shard| shard.handing).count();
        handovers < HANDOVERS && self.is_ready(&planned, now)
    }

    /// Somebody else or nobody holds the shard.
    fn tend_other(&mut self, shard: u16, now: Duration) {
        let state = &mut self.shards[usize::from(shard)];
        state.taken_in = None;
        let was_handing = std::mem::take(&mut state.handing);
        if was_handing {
            self.log(Fact::Released(shard));
        } else if state.work == Work::Working {
            self.log(Fact::Lost(shard));
        }
        self.stop(shard);
        if self.shards[usize::from(shard)].work == Work::Idle {
            self.acquire(shard, now);
        }
    }

    /// Sends a request for a shard, unless one is under way or it is too early after a failure.
    pub(super) fn send_for(&mut self, shard: u16, key: LeaseKey, call: Call, step: Step, now: Duration) {
        let state = &self.shards[usize::from(shard)];
        if state.busy.is_none() && self.is_time(self.shards[usize::from(shard)].retry_at, now) {
            let id = self.send(key, call, Purpose::Shard(shard, step), now);
            self.shards[usize::from(shard)].busy = Some(id);
        }
    }

    fn release(&mut self, shard: u16, now: Duration) {
        let key = LeaseKey::Shard(shard);
        if let Some(Lease { uid, version, epoch, .. }) = self.view.lease(&key) {
            let content = Content { holder: None, epoch: *epoch, duration: self.config.duration, leaving: false };
            let call = Call::Put { uid: uid.clone(), version: *version, content };
            self.send_for(shard, key, call, Step::Release, now);
        }
    }

    /// What to do about an answer that was not what it was asked for; the view knows what it says.
    pub(super) fn after_write(&mut self, shard: u16, outcome: &Outcome, now: Duration) {
        match outcome {
            Outcome::Conflict | Outcome::NoAnswer => {
                self.send_for(shard, LeaseKey::Shard(shard), Call::Get, Step::Recheck, now);
            }
            Outcome::Done(_) | Outcome::NotFound => {}
            // The next one would be refused as well: all shards together must not flood the server.
            _ => self.shards[usize::from(shard)].retry_at = now + self.config.duration,
        }
    }
}
