//! The other members: who is alive, and how to find out that one is not (O3).

use std::time::Duration;

use super::{Call, Fact, Op, OpId, Outcome, Ownership, Purpose};
use crate::shard::lease::{Identity, Lease, LeaseKey, Member};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    /// Silent for too long; this look will tell.
    Asked(OpId),
    Dead,
}

/// Another member.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    identity: Identity,
    leaving: bool,
    duration: Duration,
    /// Since when it is seen alive.
    since: Duration,
    /// When its Lease was first seen as it is now, or later if that time does not count.
    seen: Duration,
    retry_at: Duration,
    state: State,
    /// Its Pod is gone: nothing brings this run back.
    pod_gone: bool,
    /// It did not take a shard that was free: none is handed to it until then.
    unwilling_until: Duration,
}

impl Peer {
    pub(super) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// Whether shards may be planned for it.
    pub(super) fn is_candidate(&self) -> bool {
        !self.is_dead() && !self.leaving
    }
}

/// How long a member has to be alive before shards are handed to it (O5): one that fails at once gets none.
const PROBATION: Duration = Duration::from_secs(10);
/// How long no shard is handed to a member that left one free: longer than its probation, so that shards do not go
/// back and forth.
const UNWILLING: Duration = Duration::from_mins(1);

impl Ownership {
    /// Takes in a new version of a member Lease.
    pub(super) fn note_member(&mut self, member: &Member, lease: &Lease, now: Duration) {
        if member == self.config.me.member() {
            return;
        }
        let Some(identity) = lease.holder.ours().filter(|identity| identity.member() == member) else {
            self.peers.remove(member);
            return;
        };
        // Whoever says that it lasts shorter than ours has no less time.
        let duration = lease.duration.max(self.config.duration);
        match self.peers.get_mut(member) {
            Some(peer) if peer.identity == *identity => {
                peer.duration = duration;
                peer.leaving = lease.leaving;
                peer.seen = now;
                if peer.pod_gone {
                    return;
                }
                let was_dead = peer.is_dead();
                peer.state = State::Alive;
                if was_dead {
                    peer.since = now;
                    self.log(Fact::MemberBack(identity.clone()));
                }
            }
            _ => {
                let peer = Peer {
                    identity: identity.clone(),
                    leaving: lease.leaving,
                    duration,
                    since: now,
                    seen: now,
                    retry_at: now,
                    state: State::Alive,
                    pod_gone: false,
                    unwilling_until: Duration::ZERO,
                };
                self.peers.insert(member.clone(), peer);
            }
        }
    }

    pub(super) fn forget_member(&mut self, member: &Member) {
        self.peers.remove(member);
    }

    /// The Pod is gone: that run of the member is dead at once.
    pub(super) fn pod_gone(&mut self, member: &Member, uid: &str) {
        let Some(peer) = self.peers.get_mut(member).filter(|peer| peer.identity.pod_uid() == Some(uid)) else {
            return;
        };
        peer.pod_gone = true;
        if !peer.is_dead() {
            peer.state = State::Dead;
            let identity = peer.identity.clone();
            self.log(Fact::MemberDead(identity));
        }
    }

    /// Whether a holder of a shard is dead: it was silent for too long, another run has its name, or it has no member
    /// Lease at all.
    pub(super) fn is_dead(&self, holder: &Identity) -> bool {
        if holder.member() == self.config.me.member() {
            return *holder != self.config.me && self.membership.is_registered();
        }
        self.peers.get(holder.member()).is_none_or(|peer| peer.identity != *holder || peer.is_dead())
    }

    /// Looks at members that have been silent for longer than their Lease lasts.
    pub(super) fn suspect(&mut self, now: Duration) {
        if !self.may_act() || !self.membership.is_healthy(now) {
            return;
        }
        let alive = self.peers.iter().filter(|(_, peer)| peer.state == State::Alive);
        let deadlines: Vec<(Member, Duration)> = alive
            .map(|(member, peer)| (member.clone(), (peer.seen + peer.duration * 11 / 10).max(peer.retry_at)))
            .collect();
        for (member, deadline) in deadlines {
            if self.is_time(deadline, now) {
                let key = LeaseKey::Member(member.clone());
                let id = self.send(key, Call::Get, Purpose::Confirm(member.clone()), now);
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.state = State::Asked(id);
                }
            }
        }
    }

    /// The answer to a look at a silent member. If its Lease has changed or is gone, the view has seen to it.
    pub(super) fn confirmed(&mut self, member: &Member, id: OpId, op: &Op, outcome: &Outcome, now: Duration) {
        let counts = op.run == self.membership.run && self.membership.is_healthy(now);
        let retry_at = now + self.config.pause();
        let Some(peer) = self.peers.get_mut(member).filter(|peer| peer.state == State::Asked(id)) else {
            return;
        };
        if counts && matches!(outcome, Outcome::Done(_)) {
            peer.state = State::Dead;
            let identity = peer.identity.clone();
            self.log(Fact::MemberDead(identity));
        } else {
            peer.state = State::Alive;
            peer.retry_at = retry_at;
        }
    }

    /// Time in which our own renewals failed or were late does not count as silence of others: what kept us from
    /// writing may have kept them.
    pub(super) fn restart_timers(&mut self, now: Duration) {
        for peer in self.peers.values_mut().filter(|peer| !peer.is_dead()) {
            peer.seen = now;
            peer.state = State::Alive;
        }
        self.leader.restart(now);
        self.log(Fact::TimersRestarted);
    }

    /// Whether a shard may be handed to this member now.
    pub(super) fn is_ready(&mut self, member: &Member, now: Duration) -> bool {
        let Some(peer) = self.peers.get(member).filter(|peer| peer.is_candidate()) else {
            return false;
        };
        let from = (peer.since + PROBATION).max(peer.unwilling_until);
        self.is_time(from, now)
    }

    /// The member left a free shard to others.
    pub(super) fn note_unwilling(&mut self, member: &Member, now: Duration) {
        if let Some(peer) = self.peers.get_mut(member) {
            let is_news = peer.unwilling_until <= now;
            peer.unwilling_until = now + UNWILLING;
            if is_news {
                self.log(Fact::Unwilling(member.clone()));
            }
        }
    }
}
