//! The interlock with the original, by its leader Lease (O7).

use std::time::Duration;

use super::{Effect, Fact, Ownership};
use crate::shard::lease::{Holder, Lease};

/// How long a POST of an original that led before may be under way, at most: the API server's request timeout of 60 s,
/// and some.
pub const ORIGINALS_LAST_POST: Duration = Duration::from_secs(70);

/// What is known of the leader Lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Leader {
    lease: Option<Lease>,
    /// It was observed, though there may be none.
    observed: bool,
    /// When it was first seen as it is, or later if that time does not count.
    seen: Duration,
    /// Whether the last holder that was not empty is ours; `None` if there was none.
    last_is_ours: Option<bool>,
    /// What was said last.
    contends: bool,
}

impl Leader {
    pub(super) fn restart(&mut self, now: Duration) {
        self.seen = now;
    }

    /// Whether shards may be worked on.
    pub(super) fn permits(&self) -> bool {
        self.last_is_ours == Some(true)
    }
}

impl Ownership {
    pub(super) fn note_leader(&mut self, lease: Option<Lease>, now: Duration) {
        let leader = &mut self.leader;
        let identity = |lease: &Option<Lease>| lease.as_ref().map(|lease| (lease.uid.clone(), lease.version));
        if !leader.observed || identity(&leader.lease) != identity(&lease) {
            leader.seen = now;
        }
        leader.observed = true;
        leader.lease = lease;
        let is_ours = match leader.lease.as_ref().map(|lease| &lease.holder) {
            None | Some(Holder::Nobody) => return,
            Some(Holder::Ours(_)) => true,
            Some(Holder::Foreign(_)) => false,
        };
        let was_ours = leader.last_is_ours.replace(is_ours);
        if was_ours == Some(false) && is_ours {
            self.effects.push(Effect::HoldAllocations { until: now + ORIGINALS_LAST_POST });
        }
        if was_ours != Some(is_ours) {
            self.log(Fact::Permitted(is_ours));
        }
    }

    /// Says when the lock may be tried, and when not any more.
    pub(super) fn decide_contention(&mut self, now: Duration) {
        let contends = self.may_act() && !self.gives_up() && self.leader.observed && self.is_lock_free(now);
        if contends != self.leader.contends {
            self.leader.contends = contends;
            self.effects.push(Effect::Contend(contends));
        }
    }

    /// Whether nobody else's claim on the leader Lease stands.
    fn is_lock_free(&mut self, now: Duration) -> bool {
        match self.leader.lease.as_ref().map(|lease| (&lease.holder, lease.duration)) {
            None | Some((Holder::Nobody | Holder::Ours(_), _)) => true,
            Some((Holder::Foreign(_), duration)) => {
                let is_over = self.is_time(self.leader.seen + duration * 11 / 10, now);
                is_over && self.membership.is_healthy(now)
            }
        }
    }
}
