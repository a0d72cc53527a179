//! Who owns which shard: the machine of one replica. Leases and replies in, requests and starts and stops of work out.
//!
//! It holds no client, no clock and no randomness. Whoever drives it feeds [`Ownership::step`] with what happened, each
//! time with the time on one clock that counts suspend, carries the effects out in order, and steps again at
//! [`Ownership::wake_at`].
//!
//! Guarantees, as long as the API server compares versions and nobody else deletes Leases (epochs begin anew with a
//! Lease that is created again):
//! - no two replicas work on a shard in one epoch, whatever the clocks do;
//! - no two replicas work on a shard at a time, if no two clocks differ in speed by more than a third, and no Pod is
//!   said to be gone whose process still runs, and no two processes have one name (O3 calls the older one dead at
//!   once).
//!
//! Where they do not hold, the allocation record still keeps addresses safe.
//!
//! Assumptions: every request is answered once, with [`Outcome::NoAnswer`] after a time-out at the latest; a watch
//! delivers the changes of one Lease in order.
//!
//! The rules O1 to O9 are those of docs/sharding.md.

mod acquire;
mod io;
mod leader;
mod membership;
mod peers;
mod shards;
mod view;

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use io::{Call, Effect, Event, Exit, Fact, Listing, OpId, Outcome};

use self::leader::Leader;
pub use self::leader::ORIGINALS_LAST_POST;
use self::membership::Membership;
use self::peers::Peer;
use self::shards::{Shard, Step, Work};
use self::view::View;
use super::lease::{Identity, LeaseKey, Member};
use super::plan::Preferences;

/// What does not change while a replica runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This run of this replica.
    pub me: Identity,
    /// How many shards there are.
    pub shards: u16,
    /// How long the member Lease is said to last.
    pub duration: Duration,
}

impl Config {
    /// Between attempts after a failure: ten in the time of a Lease.
    fn pause(&self) -> Duration {
        self.duration / 10
    }
}

/// What a request was sent for.
#[derive(Clone, Debug)]
enum Purpose {
    /// To register, or to renew; whether it said that we leave.
    Renew {
        leaving: bool,
    },
    /// To see what the own member Lease is.
    LookAtMe,
    /// To delete the own member Lease.
    Remove,
    List,
    /// To see whether a silent member is silent indeed.
    Confirm(Member),
    Shard(u16, Step),
}

/// A request under way.
#[derive(Clone, Debug)]
struct Op {
    key: Option<LeaseKey>,
    purpose: Purpose,
    /// The highest version that had been seen of what it is for when it was sent; the reply cannot be older (O9). What
    /// was seen later does not count: a reply may be overtaken by a watch.
    floor: u64,
    sent: Duration,
    /// The run of validity that it was sent in.
    run: u64,
}

/// A plan, and what it was made from.
#[derive(Clone, Debug, Default)]
struct Planned {
    preferences: Preferences,
    holders: BTreeMap<u16, Member>,
    plan: BTreeMap<u16, Member>,
}

/// How things stand, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Members that count as alive, this one included.
    pub members: usize,
    /// Shards whose Lease this replica holds.
    pub held: usize,
    /// Shards that this replica works on.
    pub working: usize,
    /// Shards that nobody alive holds.
    pub orphaned: usize,
}

/// The state of one replica.
#[derive(Clone, Debug)]
pub struct Ownership {
    config: Config,
    view: View,
    membership: Membership,
    peers: BTreeMap<Member, Peer>,
    shards: Vec<Shard>,
    leader: Leader,
    /// Another ring goes first.
    standby: bool,
    planned: Planned,

    ops: BTreeMap<OpId, Op>,
    next_op: u64,
    exited: bool,
    wake: Option<Duration>,
    effects: Vec<Effect>,
}

impl Ownership {
    /// A replica that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let shards = (0..config.shards).map(|_| Shard::default()).collect();
        Self {
            config,
            view: View::default(),
            membership: Membership::default(),
            peers: BTreeMap::new(),
            shards,
            leader: Leader::default(),
            standby: false,
            planned: Planned::default(),
            ops: BTreeMap::new(),
            next_op: 0,
            exited: false,
            wake: None,
            effects: Vec::new(),
        }
    }

    /// Takes in what happened and says what to do about it.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        if self.exited {
            return Vec::new();
        }
        self.wake = None;
        // First of all: whoever slept through the deadline must not act on anything.
        self.expire(now);
        self.take_in(event, now);
        self.decide(now);
        std::mem::take(&mut self.effects)
    }

    /// When to step again with [`Event::Tick`] if nothing happens before: after the last step's `now`. `None`: never.
    pub fn wake_at(&self) -> Option<Duration> {
        self.wake.filter(|_| !self.exited)
    }

    /// How things stand after the last step.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            members: self.peers.values().filter(|peer| !peer.is_dead()).count()
                + usize::from(self.membership.valid_until.is_some()),
            ..Counts::default()
        };
        for (number, shard) in (0..).zip(&self.shards) {
            let holder = self.view.lease(&LeaseKey::Shard(number)).and_then(|lease| lease.holder.ours());
            counts.held += usize::from(holder == Some(&self.config.me));
            counts.working += usize::from(shard.work == Work::Working);
            counts.orphaned += usize::from(holder.is_none_or(|holder| self.is_dead(holder)));
        }
        counts
    }

    fn take_in(&mut self, event: Event, now: Duration) {
        match event {
            Event::Tick => {}
            Event::Synced => self.membership.synced = true,
            Event::Fresh(fresh) => self.membership.fresh = fresh,
            Event::Observed(key, lease) => self.note(&key, &lease, now),
            Event::Gone(key, version) => self.forget(&key, version, now),
            Event::Listed(listing) => self.note_all(&listing, now),
            Event::Reply(id, outcome) => self.reply(id, &outcome, now),
            Event::Stopped(shard) => self.stopped(shard),
            Event::PodGone(member, uid) => self.pod_gone(&member, &uid),
            Event::Leader(lease) => self.note_leader(lease, now),
            Event::OtherRing(first) => self.standby = first,
            Event::Stop => self.membership.leaving = true,
        }
    }

    fn reply(&mut self, id: OpId, outcome: &Outcome, now: Duration) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        let version = match outcome {
            Outcome::Done(lease) => Some(lease.version),
            Outcome::Listed(listing) => Some(listing.version),
            _ => None,
        };
        if version.is_some_and(|version| version < op.floor) {
            return self.exit(Exit::HistoryWentBack);
        }
        match (&op.key, outcome) {
            (Some(key), Outcome::Done(lease)) => self.note(key, lease, now),
            (Some(key), Outcome::NotFound | Outcome::Deleted) => self.forget(key, op.floor, now),
            (None, Outcome::Listed(listing)) => self.note_all(listing, now),
            (key, Outcome::Refused(why)) => self.log(Fact::Refused { key: key.clone(), why: why.clone() }),
            _ => {}
        }
        match op.purpose.clone() {
            Purpose::Renew { leaving } => self.renewed(&op, leaving, outcome, now),
            Purpose::LookAtMe => self.looked(outcome, now),
            Purpose::Remove => self.removed(outcome),
            Purpose::List => self.listed(&op, outcome, now),
            Purpose::Confirm(member) => self.confirmed(&member, id, &op, outcome, now),
            Purpose::Shard(shard, step) => self.shard_reply(shard, &op, step, outcome, now),
        }
    }

    fn decide(&mut self, now: Duration) {
        self.keep_membership(now);
        self.keep_listed(now);
        self.suspect(now);
        self.decide_contention(now);
        if self.may_act() {
            self.refresh_plan();
            for shard in 0..self.config.shards {
                self.tend(shard, now);
            }
        }
        self.leave(now);
        if let Some(until) = self.membership.valid_until {
            self.wake_by(until);
        }
    }

    /// Whether Leases may be written and work may begin (O9).
    fn may_act(&self) -> bool {
        !self.exited && self.membership.may_act()
    }

    /// Whether this replica takes no shards and gives up those that it has.
    fn gives_up(&self) -> bool {
        self.membership.leaving || self.standby
    }

    fn refresh_plan(&mut self) {
        let mut members: BTreeSet<Member> =
            self.peers.iter().filter(|(_, peer)| peer.is_candidate()).map(|(member, _)| member.clone()).collect();
        if !self.gives_up() {
            members.insert(self.config.me.member().clone());
        }
        // By name: a replica that was started again goes on with what its last run had.
        let holder = |shard| self.view.lease(&LeaseKey::Shard(shard))?.holder.ours();
        let holders: BTreeMap<u16, Member> =
            (0..self.config.shards).filter_map(|shard| Some((shard, holder(shard)?.member().clone()))).collect();
        let is_same_set = members == *self.planned.preferences.members();
        if !is_same_set {
            self.planned.preferences = Preferences::new(&members, self.config.shards);
        }
        if !is_same_set || holders != self.planned.holders {
            self.planned.plan = self.planned.preferences.plan(&holders);
            self.planned.holders = holders;
        }
    }

    fn send(&mut self, key: LeaseKey, call: Call, purpose: Purpose, now: Duration) -> OpId {
        let floor = self.view.version(&key);
        let id = self.open(Some(key.clone()), purpose, floor, now);
        self.effects.push(Effect::Request { id, key, call });
        id
    }

    fn open(&mut self, key: Option<LeaseKey>, purpose: Purpose, floor: u64, now: Duration) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(id, Op { key, purpose, floor, sent: now, run: self.membership.run });
        id
    }

    /// Stops all work and everything else.
    fn exit(&mut self, why: Exit) {
        if self.exited {
            return;
        }
        self.stop_all();
        self.exited = true;
        if matches!(why, Exit::Left | Exit::LeftLate) {
            self.effects.push(Effect::ReleaseLeader);
        }
        self.effects.push(Effect::Exit(why));
    }

    fn wake_by(&mut self, time: Duration) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    /// Whether it is time; if not, says when to look again.
    fn is_time(&mut self, time: Duration, now: Duration) -> bool {
        if now < time {
            self.wake_by(time);
        }
        now >= time
    }

    fn log(&mut self, fact: Fact) {
        self.effects.push(Effect::Log(fact));
    }
}
