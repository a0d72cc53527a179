//! A world of replicas around one store of Leases, for tests: delays, losses, pauses, crashes, clocks of any speed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Call, Config, Effect, Event, Exit, Fact, Listing, OpId, Outcome, Ownership};
use crate::shard::lease::{Holder, Identity, Lease, LeaseKey, Member};

pub(super) const DURATION: Duration = Duration::from_secs(5);
/// World time, in microseconds.
pub(super) type Time = u64;
pub(super) const SECOND: Time = 1_000_000;

/// A small generator of numbers that look random (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    pub(super) fn in_hundred(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(super) struct Replica {
    pub(super) machine: Ownership,
    pub(super) me: Identity,
    /// How many microseconds its clock counts in a second, and where it began.
    rate: u64,
    offset: u64,
    pub(super) alive: bool,
    pub(super) exit: Option<Exit>,
    paused_until: Time,
    /// Shards that it works on, with the epoch.
    pub(super) claims: BTreeMap<u16, u32>,
    /// Shards whose work is being finished, with the epoch.
    draining: BTreeMap<u16, u32>,
    valid_until: Duration,
    /// Requests without an answer so far.
    pending: BTreeSet<OpId>,
    /// When it has the last watch event that is under way.
    watched_until: Time,
    wakes: u64,
    pub(super) facts: Vec<Fact>,
}

impl Replica {
    fn clock(&self, time: Time) -> Duration {
        Duration::from_micros(self.offset + time * self.rate / SECOND)
    }

    fn time_of(&self, clock: Duration) -> Time {
        let micros = u64::try_from(clock.as_nanos().div_ceil(1000)).expect("a short time") - self.offset;
        (micros * SECOND).div_ceil(self.rate)
    }

    /// Whether its work would be let through now.
    fn is_valid(&self, time: Time) -> bool {
        self.alive && self.clock(time) < self.valid_until
    }
}

enum Happening {
    Deliver { to: usize, event: Event },
    Answer { to: usize, id: OpId, outcome: Outcome },
    Arrive { from: usize, id: OpId, request: Option<(LeaseKey, Call)> },
    Wake { to: usize, number: u64 },
}

/// What goes wrong.
#[derive(Clone, Copy)]
pub(super) struct Faults {
    /// The longest way of a message.
    pub(super) latency: Time,
    /// How many requests of a hundred are lost, and how many replies.
    pub(super) lost: u64,
    /// How many requests of a hundred arrive long after their sender gave up.
    pub(super) late: u64,
    /// Nothing gets through until then.
    pub(super) outage_until: Time,
    /// The longest time that it takes to finish work on a shard.
    pub(super) drain: Time,
}

pub(super) const CALM: Faults = Faults { latency: 20_000, lost: 0, late: 0, outage_until: 0, drain: 200_000 };

pub(super) struct World {
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) shards: u16,
    pub(super) replicas: Vec<Replica>,
    pub(super) faults: Faults,
    pub(super) store: BTreeMap<LeaseKey, Lease>,
    revision: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    /// Who held a shard in an epoch, by the uid of the Lease.
    epochs: BTreeMap<(u16, String, u32), Identity>,
    /// Shards that nobody works on, since when.
    idle_since: BTreeMap<u16, Time>,
    pub(super) longest_gap: Time,
    /// Two at work on a shard in one epoch, or two holders in one epoch.
    pub(super) broken: Vec<String>,
    /// Two at work on a shard in different epochs.
    overlaps: Vec<String>,
    /// How often a shard got a new holder.
    pub(super) moves: BTreeMap<u16, u32>,
    pub(super) writes: usize,
    /// Shards whose work one replica was finishing at a time.
    pub(super) most_at_once: usize,
}

impl World {
    pub(super) fn new(seed: u64, shards: u16) -> Self {
        Self {
            now: 0,
            dice: Dice::new(seed),
            shards,
            replicas: Vec::new(),
            faults: CALM,
            store: BTreeMap::new(),
            revision: 100,
            queue: BTreeMap::new(),
            sequence: 0,
            epochs: BTreeMap::new(),
            idle_since: BTreeMap::new(),
            longest_gap: 0,
            broken: Vec::new(),
            overlaps: Vec::new(),
            moves: BTreeMap::new(),
            writes: 0,
            most_at_once: 0,
        }
    }

    /// A world in which so many replicas have run undisturbed for a while.
    pub(super) fn settled(seed: u64, shards: u16, replicas: usize) -> Self {
        let mut world = Self::new(seed, shards);
        for number in 0..replicas {
            world.start(&format!("manager-{number}"), SECOND);
            world.run(SECOND);
        }
        world.run(60 * SECOND);
        world.longest_gap = 0;
        world.moves.clear();
        world.writes = 0;
        world.most_at_once = 0;
        world
    }

    /// Starts a process, its clock counting `rate` microseconds in a second.
    pub(super) fn start(&mut self, name: &str, rate: u64) -> usize {
        let member: Member = name.parse().expect("a member's name");
        let number = self.replicas.len();
        let me = Identity::new("capi-system", member, Some(&format!("uid-of-{name}")), &format!("run-{number}"))
            .expect("an identity");
        let config = Config { me: me.clone(), shards: self.shards, duration: DURATION };
        self.replicas.push(Replica {
            machine: Ownership::new(config),
            me,
            rate,
            offset: self.dice.below(1_000_000_000),
            alive: true,
            exit: None,
            paused_until: 0,
            claims: BTreeMap::new(),
            draining: BTreeMap::new(),
            valid_until: Duration::ZERO,
            pending: BTreeSet::new(),
            watched_until: self.now,
            wakes: 0,
            facts: Vec::new(),
        });
        let listing = Listing { version: self.revision, leases: self.store.clone() };
        let events = [Event::Listed(listing), Event::Leader(Some(self.leader())), Event::Fresh(true), Event::Synced];
        for event in events {
            self.schedule(self.now, Happening::Deliver { to: number, event });
        }
        number
    }

    fn leader(&self) -> Lease {
        let holder = Holder::Ours(self.replicas[0].me.clone());
        Lease { uid: "leader".to_owned(), version: 1, holder, epoch: 1, duration: DURATION, leaving: false }
    }

    pub(super) fn tell(&mut self, replica: usize, event: Event) {
        self.schedule(self.now, Happening::Deliver { to: replica, event });
    }

    pub(super) fn kill(&mut self, replica: usize) {
        self.replicas[replica].alive = false;
        self.abandon(replica);
    }

    /// SIGSTOP, and SIGCONT later.
    pub(super) fn pause(&mut self, replica: usize, time: Time) {
        self.replicas[replica].paused_until = self.now + time;
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.replicas.len()).filter(|replica| self.replicas[*replica].alive).collect()
    }

    /// How many shards each living replica works on.
    pub(super) fn working(&self) -> Vec<usize> {
        self.living().into_iter().map(|replica| self.replicas[replica].claims.len()).collect()
    }

    /// Shards that no living replica may work on now, or more than one.
    pub(super) fn badly_owned(&self) -> Vec<u16> {
        let works = |replica: &&Replica, shard| replica.is_valid(self.now) && replica.claims.contains_key(&shard);
        (0..self.shards)
            .filter(|shard| self.replicas.iter().filter(|replica| works(replica, *shard)).count() != 1)
            .collect()
    }

    /// Where two replicas worked on one shard at a time, or held it in one epoch.
    pub(super) fn conflicts(&self) -> Vec<&str> {
        self.broken.iter().chain(&self.overlaps).map(String::as_str).collect()
    }

    pub(super) fn facts(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.replicas.iter().flat_map(|replica| &replica.facts).filter(|fact| wanted(fact)).count()
    }

    pub(super) fn run(&mut self, time: Time) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((time, _), happening) = entry.remove_entry();
            self.now = time;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Deletes a Lease behind everybody's back.
    pub(super) fn delete(&mut self, key: &LeaseKey) {
        if self.store.remove(key).is_some() {
            self.revision += 1;
            self.tell_watchers(&Event::Gone(key.clone(), self.revision));
        }
    }

    fn schedule(&mut self, time: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let to = match &happening {
            Happening::Deliver { to, .. } | Happening::Answer { to, .. } | Happening::Wake { to, .. } => *to,
            Happening::Arrive { from, id, request } => {
                let (from, id) = (*from, *id);
                return self.arrive(from, id, request.clone());
            }
        };
        if !self.replicas[to].alive {
            return;
        }
        if self.replicas[to].paused_until > self.now {
            return self.schedule(self.replicas[to].paused_until, happening);
        }
        match happening {
            Happening::Deliver { event, .. } => self.step(to, event),
            Happening::Answer { id, outcome, .. } => {
                if self.replicas[to].pending.remove(&id) {
                    self.step(to, Event::Reply(id, outcome));
                }
            }
            Happening::Wake { number, .. } if number == self.replicas[to].wakes => self.step(to, Event::Tick),
            Happening::Wake { .. } | Happening::Arrive { .. } => {}
        }
    }

    fn step(&mut self, to: usize, event: Event) {
        let replica = &mut self.replicas[to];
        if let Event::Stopped(shard) = event {
            replica.draining.remove(&shard);
        }
        let clock = replica.clock(self.now);
        let effects = replica.machine.step(event, clock);
        let wake = replica.machine.wake_at();
        assert!(wake.is_none_or(|wake| wake > clock), "to be woken at {wake:?}, and it is {clock:?} already");
        replica.wakes += 1;
        let number = replica.wakes;
        if let Some(wake) = wake {
            let time = replica.time_of(wake);
            self.schedule(time, Happening::Wake { to, number });
        }
        for effect in effects {
            self.apply(to, effect);
        }
        self.check(to);
    }

    fn apply(&mut self, from: usize, effect: Effect) {
        match effect {
            Effect::Request { id, key, call } => self.request(from, id, Some((key, call))),
            Effect::List { id } => self.request(from, id, None),
            Effect::Valid { until } => {
                let replica = &mut self.replicas[from];
                assert!(until > replica.valid_until, "the deadline only grows");
                replica.valid_until = until;
            }
            Effect::Start { shard, epoch, until } => {
                let replica = &mut self.replicas[from];
                assert_eq!(until, replica.valid_until);
                assert_eq!(replica.claims.insert(shard, epoch), None, "started twice");
                if let Some(since) = self.idle_since.remove(&shard) {
                    self.longest_gap = self.longest_gap.max(self.now - since);
                }
            }
            Effect::Stop { shard } => {
                let epoch = self.replicas[from].claims.remove(&shard).expect("stopped what was not started");
                self.replicas[from].draining.insert(shard, epoch);
                self.most_at_once = self.most_at_once.max(self.replicas[from].draining.len());
                self.idle_since.insert(shard, self.now);
                let drained = self.now + self.dice.below(self.faults.drain);
                self.schedule(drained, Happening::Deliver { to: from, event: Event::Stopped(shard) });
            }
            Effect::Exit(why) => {
                self.replicas[from].exit = Some(why);
                self.replicas[from].alive = false;
                self.abandon(from);
            }
            Effect::Log(fact) => {
                if fact == Fact::Expired {
                    // What is finished late sends nothing more (O2).
                    self.replicas[from].draining.clear();
                }
                self.replicas[from].facts.push(fact);
            }
            Effect::HoldAllocations { .. } | Effect::Contend(_) | Effect::ReleaseLeader => {}
        }
    }

    fn abandon(&mut self, replica: usize) {
        for shard in std::mem::take(&mut self.replicas[replica].claims).into_keys() {
            self.idle_since.insert(shard, self.now);
        }
    }

    /// Nobody else may work on what this replica works on.
    fn check(&mut self, replica: usize) {
        let this = &self.replicas[replica];
        if !this.is_valid(self.now) {
            return;
        }
        for (shard, epoch) in &this.claims {
            for other in self.replicas.iter().filter(|other| other.me != this.me && other.is_valid(self.now)) {
                let Some(others) = other.claims.get(shard).or(other.draining.get(shard)) else {
                    continue;
                };
                let text = format!("{}: {} and {} work on {shard} in {epoch}, {others}", self.now, this.me, other.me);
                let list = if epoch == others { &mut self.broken } else { &mut self.overlaps };
                list.push(text);
            }
        }
    }

    fn way(&mut self) -> Time {
        1_000 + self.dice.below(self.faults.latency)
    }

    fn request(&mut self, from: usize, id: OpId, request: Option<(LeaseKey, Call)>) {
        self.replicas[from].pending.insert(id);
        let time_out = self.now + SECOND;
        self.schedule(time_out, Happening::Answer { to: from, id, outcome: Outcome::NoAnswer });
        if self.dice.in_hundred(self.faults.lost) || self.now < self.faults.outage_until {
            return;
        }
        let is_late = self.dice.in_hundred(self.faults.late);
        let way = if is_late { self.dice.below(10 * SECOND) } else { self.way() };
        self.schedule(self.now + way, Happening::Arrive { from, id, request });
    }

    fn arrive(&mut self, from: usize, id: OpId, request: Option<(LeaseKey, Call)>) {
        let outcome = match request {
            None => Outcome::Listed(Listing { version: self.revision, leases: self.store.clone() }),
            Some((key, call)) => self.execute(&key, call),
        };
        if !self.dice.in_hundred(self.faults.lost) {
            let way = self.way();
            self.schedule(self.now + way, Happening::Answer { to: from, id, outcome });
        }
    }

    fn execute(&mut self, key: &LeaseKey, call: Call) -> Outcome {
        let stored = self.store.get(key);
        let is_meant = |uid: &str, version| stored.is_some_and(|lease| lease.uid == uid && lease.version == version);
        let (content, uid) = match call {
            Call::Get => return stored.map_or(Outcome::NotFound, |lease| Outcome::Done(lease.clone())),
            Call::Create(_) if stored.is_some() => return Outcome::Conflict,
            Call::Create(content) => (content, format!("lease-{}", self.revision)),
            // A missing one, too: the body has a uid.
            Call::Put { uid, version, .. } if !is_meant(&uid, version) => return Outcome::Conflict,
            Call::Put { uid, content, .. } => (content, uid),
            Call::Delete { .. } if stored.is_none() => return Outcome::NotFound,
            Call::Delete { uid, version } if !is_meant(&uid, version) => return Outcome::Conflict,
            Call::Delete { .. } => {
                self.delete(key);
                return Outcome::Deleted;
            }
        };
        self.revision += 1;
        self.writes += 1;
        let holder = content.holder.map_or(Holder::Nobody, Holder::Ours);
        let (version, epoch, duration, leaving) = (self.revision, content.epoch, content.duration, content.leaving);
        let lease = Lease { uid, version, holder, epoch, duration, leaving };
        self.record(key, &lease);
        self.store.insert(key.clone(), lease.clone());
        self.tell_watchers(&Event::Observed(key.clone(), lease.clone()));
        Outcome::Done(lease)
    }

    fn record(&mut self, key: &LeaseKey, lease: &Lease) {
        let (LeaseKey::Shard(shard), Holder::Ours(holder)) = (key, &lease.holder) else {
            return;
        };
        *self.moves.entry(*shard).or_default() += 1;
        let first = self.epochs.entry((*shard, lease.uid.clone(), lease.epoch)).or_insert_with(|| holder.clone());
        if first != holder {
            self.broken.push(format!("{}: {first} and {holder} hold {shard} in {}", self.now, lease.epoch));
        }
    }

    fn tell_watchers(&mut self, event: &Event) {
        for to in self.living() {
            let way = self.way();
            let time = (self.now.max(self.faults.outage_until) + way).max(self.replicas[to].watched_until);
            self.replicas[to].watched_until = time;
            self.schedule(time, Happening::Deliver { to, event: event.clone() });
        }
    }
}
