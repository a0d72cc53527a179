//! The replicas with their machines, the Leases, and the writes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use capi_ipam::shard::lease::{Holder, Identity, Lease, LeaseKey};
use capi_ipam::shard::ownership::{Call, Config, Effect, Event, Fact, Listing, OpId, Outcome, Ownership};

use super::{Budget, Flaw, Ring};
use crate::print::print_of;

/// What a member Lease lasts.
const DURATION: Duration = Duration::from_secs(5);
/// What a clock counts in a second that is right.
const RIGHT: u64 = 1_000;
/// Until the first members have their shards: longer than the probation of new members.
const SETTLING: u64 = 15_000_000;
/// More requests at one time are a circle.
const MOST_AT_ONCE: usize = 200;

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) id: OpId,
    pub(super) key: LeaseKey,
    pub(super) call: Call,
}

#[derive(Clone)]
pub(super) struct Replica {
    pub(super) machine: Option<Arc<Ownership>>,
    pub(super) print: u64,
    pub(super) me: Identity,
    pub(super) lives: u8,
    /// What its clock counts in a thousandth of a second that is right, in microseconds.
    pub(super) rate: u64,
    pub(super) is_slow: bool,
    pub(super) is_leaving: bool,
    /// What its watch has not shown yet: the last state of each Lease.
    pub(super) news: BTreeMap<LeaseKey, Event>,
    pub(super) writes: Vec<Write>,
    pub(super) working: BTreeMap<u16, u32>,
    /// Work that is being finished; without an epoch if the Lease ran out meanwhile: it sends nothing more then, though
    /// the Lease may be renewed before it is finished (O2).
    pub(super) finishing: BTreeMap<u16, Option<u32>>,
    pub(super) valid_until: Duration,
}

#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "what has happened, each for a property of its own")]
pub(crate) struct World {
    pub(super) leases: BTreeMap<LeaseKey, Lease>,
    pub(super) revision: u64,
    pub(super) replicas: Vec<Replica>,
    pub(super) ghosts: Vec<(LeaseKey, Call)>,
    /// In microseconds.
    pub(super) time: u64,
    pub(super) budget: Budget,
    /// Who held a shard in an epoch of a Lease.
    pub(super) holders: BTreeMap<(u16, String, u32), Identity>,
    pub(super) two_holders: bool,
    pub(super) took_over: bool,
    pub(super) handed_over: bool,
    pub(super) crashed: bool,
    pub(super) print: u64,
}

impl Replica {
    pub(super) fn clock(&self, time: u64) -> Duration {
        Duration::from_micros(time * self.rate / RIGHT)
    }

    pub(super) fn time_of(&self, clock: Duration) -> u64 {
        let micros = u64::try_from(clock.as_nanos().div_ceil(1_000)).expect("a short time");
        (micros * RIGHT).div_ceil(self.rate)
    }

    /// Whether its writes would be let through now, if it is at work on the shard at all.
    pub(super) fn epoch_at_work(&self, shard: u16, time: u64) -> Option<u32> {
        let is_valid = self.machine.is_some() && self.clock(time) < self.valid_until;
        let finishing = self.finishing.get(&shard).copied().flatten();
        self.working.get(&shard).copied().or(finishing).filter(|_| is_valid)
    }
}

impl World {
    pub(super) fn new(ring: &Ring) -> Self {
        let rate = |number| match (number, ring.flaw) {
            (1, Some(Flaw::WildClock)) => RIGHT * 3 / 2,
            (1, _) => ring.second_clock,
            _ => RIGHT,
        };
        let replicas = (0..ring.replicas).map(|number| Replica {
            machine: None,
            print: 0,
            me: identity(number, 0),
            lives: 0,
            rate: rate(number),
            is_slow: false,
            is_leaving: false,
            news: BTreeMap::new(),
            writes: Vec::new(),
            working: BTreeMap::new(),
            finishing: BTreeMap::new(),
            valid_until: Duration::ZERO,
        });
        let mut world = Self {
            leases: BTreeMap::new(),
            revision: 1,
            replicas: replicas.collect(),
            ghosts: Vec::new(),
            time: 1_000_000,
            budget: ring.budget,
            holders: BTreeMap::new(),
            two_holders: false,
            took_over: false,
            handed_over: false,
            crashed: false,
            print: 0,
        };
        for number in 0..ring.replicas {
            world.start(number, ring);
        }
        world.settle(ring);
        world.seal();
        world
    }

    /// Some time without any trouble.
    pub(super) fn settle(&mut self, ring: &Ring) {
        loop {
            for number in 0..self.replicas.len() {
                self.see_news(number, ring);
                for shard in self.replicas[number].finishing.keys().copied().collect::<Vec<_>>() {
                    self.step(number, Event::Stopped(shard), ring);
                }
            }
            if self.replicas.iter().any(|it| !it.news.is_empty() || !it.finishing.is_empty()) {
                continue;
            }
            let alarms = (0..self.replicas.len()).filter_map(|number| Some((self.alarm(number)?, number)));
            let Some((at, number)) = alarms.min().filter(|(at, _)| *at < SETTLING) else { return };
            self.time = self.time.max(at);
            self.step(number, Event::Tick, ring);
        }
    }

    pub(super) fn seal(&mut self) {
        self.ghosts.sort_by_cached_key(|ghost| print_of(ghost));
        let mut hasher = DefaultHasher::new();
        (print_of(&self.leases), self.revision, self.time, self.budget).hash(&mut hasher);
        for it in &self.replicas {
            (it.print, it.lives, it.is_slow, it.is_leaving, it.valid_until).hash(&mut hasher);
            (&it.working, &it.finishing).hash(&mut hasher);
            (print_of(&it.news), print_of(&it.writes)).hash(&mut hasher);
        }
        (print_of(&self.ghosts), print_of(&self.holders), self.two_holders).hash(&mut hasher);
        (self.took_over, self.handed_over, self.crashed).hash(&mut hasher);
        self.print = hasher.finish();
    }

    pub(super) fn start(&mut self, number: usize, ring: &Ring) {
        let it = &mut self.replicas[number];
        it.lives += 1;
        it.me = identity(number, it.lives);
        let config = Config { me: it.me.clone(), shards: ring.shards, duration: DURATION };
        it.machine = Some(Arc::new(Ownership::new(config)));
        it.valid_until = Duration::ZERO;
        it.is_leaving = false;
        it.is_slow = false;
        // The original's Lease is not the matter here: it was always ours.
        let holder = Holder::Ours(identity(0, 1));
        let leader = Lease { uid: "leader".into(), version: 1, holder, epoch: 1, duration: DURATION, leaving: false };
        let listing = Listing { version: self.revision, leases: self.leases.clone() };
        for event in [Event::Listed(listing), Event::Leader(Some(leader)), Event::Fresh(true), Event::Synced] {
            self.step(number, event, ring);
        }
    }

    /// The process is gone; what it sent may still arrive.
    pub(super) fn end(&mut self, number: usize) {
        let it = &mut self.replicas[number];
        it.machine = None;
        it.print = 0;
        it.news.clear();
        it.working.clear();
        it.finishing.clear();
        self.ghosts.extend(std::mem::take(&mut it.writes).into_iter().map(|write| (write.key, write.call)));
    }

    pub(super) fn step(&mut self, number: usize, event: Event, ring: &Ring) {
        let mut events = vec![event];
        for _ in 0..MOST_AT_ONCE {
            let Some(event) = events.pop() else {
                self.replicas[number].print = print_of(&self.replicas[number].machine);
                return;
            };
            let it = &mut self.replicas[number];
            let now = it.clock(self.time);
            let Some(machine) = &mut it.machine else { return };
            if let Event::Stopped(shard) = event {
                it.finishing.remove(&shard);
            }
            let effects = Arc::make_mut(machine).step(event, now);
            let replies: Vec<Event> =
                effects.into_iter().filter_map(|effect| self.apply(number, effect, ring)).collect();
            events.extend(replies.into_iter().rev());
        }
        panic!("requests go in a circle");
    }

    pub(super) fn apply(&mut self, number: usize, effect: Effect, ring: &Ring) -> Option<Event> {
        let it = &mut self.replicas[number];
        match effect {
            Effect::Request { id, key, call: Call::Get } => {
                let found = self.leases.get(&key).cloned();
                Some(Event::Reply(id, found.map_or(Outcome::NotFound, Outcome::Done)))
            }
            Effect::Request { id, key, call } if it.is_slow => {
                it.writes.push(Write { id, key, call });
                None
            }
            Effect::Request { id, key, call } => {
                let outcome = self.serve(&key, call, ring);
                Some(Event::Reply(id, outcome))
            }
            Effect::List { id } => {
                let listing = Listing { version: self.revision, leases: self.leases.clone() };
                Some(Event::Reply(id, Outcome::Listed(listing)))
            }
            Effect::Valid { until } => {
                it.valid_until = until;
                None
            }
            Effect::Start { shard, epoch, .. } => {
                it.working.insert(shard, epoch);
                None
            }
            Effect::Stop { shard } => {
                if let Some(epoch) = it.working.remove(&shard) {
                    it.finishing.insert(shard, Some(epoch));
                }
                None
            }
            Effect::Exit(_) => {
                self.end(number);
                None
            }
            Effect::Log(Fact::Expired) => {
                it.finishing.values_mut().for_each(|epoch| *epoch = None);
                None
            }
            Effect::HoldAllocations { .. } | Effect::Contend(_) | Effect::ReleaseLeader | Effect::Log(_) => None,
        }
    }

    pub(super) fn serve(&mut self, key: &LeaseKey, call: Call, ring: &Ring) -> Outcome {
        let stored = self.leases.get(key);
        let compares = ring.flaw != Some(Flaw::NoComparison);
        let is_meant =
            |uid: &str, version| stored.is_some_and(|it| it.uid == uid && (it.version == version || !compares));
        let (content, uid) = match call {
            Call::Get => return stored.map_or(Outcome::NotFound, |lease| Outcome::Done(lease.clone())),
            Call::Create(_) if stored.is_some() => return Outcome::Conflict,
            Call::Create(content) => (content, format!("lease-{}", self.revision)),
            Call::Put { uid, version, .. } if !is_meant(&uid, version) => return Outcome::Conflict,
            Call::Put { uid, content, .. } => (content, uid),
            Call::Delete { .. } if stored.is_none() => return Outcome::NotFound,
            Call::Delete { uid, version } if !is_meant(&uid, version) => return Outcome::Conflict,
            Call::Delete { .. } => {
                self.delete(key);
                return Outcome::Deleted;
            }
        };
        let before = stored.and_then(|lease| lease.holder.ours()).cloned();
        self.revision += 1;
        let holder = content.holder.map_or(Holder::Nobody, Holder::Ours);
        let (version, epoch, duration, leaving) = (self.revision, content.epoch, content.duration, content.leaving);
        let lease = Lease { uid, version, holder, epoch, duration, leaving };
        self.record(key, &lease, before.as_ref());
        self.leases.insert(key.clone(), lease.clone());
        self.broadcast(key, &Event::Observed(key.clone(), lease.clone()));
        Outcome::Done(lease)
    }

    pub(super) fn record(&mut self, key: &LeaseKey, lease: &Lease, before: Option<&Identity>) {
        let (LeaseKey::Shard(shard), Holder::Ours(holder)) = (key, &lease.holder) else { return };
        let is_other = before.is_some_and(|before| before.member() != holder.member());
        self.took_over |= is_other;
        self.handed_over |= before.is_none() && lease.epoch > 1;
        let first = self.holders.entry((*shard, lease.uid.clone(), lease.epoch)).or_insert_with(|| holder.clone());
        self.two_holders |= first != holder;
    }

    pub(super) fn delete(&mut self, key: &LeaseKey) {
        self.leases.remove(key);
        self.revision += 1;
        self.broadcast(key, &Event::Gone(key.clone(), self.revision));
    }

    pub(super) fn broadcast(&mut self, key: &LeaseKey, event: &Event) {
        for it in self.replicas.iter_mut().filter(|it| it.machine.is_some()) {
            it.news.insert(key.clone(), event.clone());
        }
    }

    pub(super) fn see_news(&mut self, number: usize, ring: &Ring) {
        for event in std::mem::take(&mut self.replicas[number].news).into_values() {
            self.step(number, event, ring);
        }
    }

    /// When the replica wants to be woken.
    pub(super) fn alarm(&self, number: usize) -> Option<u64> {
        let it = &self.replicas[number];
        Some(it.time_of(it.machine.as_ref()?.wake_at()?))
    }

    pub(super) fn answer(&mut self, number: usize, write: usize, outcome: Outcome, ring: &Ring) {
        let Write { id, .. } = self.replicas[number].writes.remove(write);
        self.step(number, Event::Reply(id, outcome), ring);
    }

    /// Whether two replicas are at work on one shard, and in one epoch of it.
    pub(super) fn overlap(&self, in_one_epoch: bool) -> bool {
        let shards: BTreeSet<u16> = self.replicas.iter().flat_map(|it| it.working.keys()).copied().collect();
        shards.into_iter().any(|shard| {
            let at_work: Vec<u32> = self.replicas.iter().filter_map(|it| it.epoch_at_work(shard, self.time)).collect();
            let epochs: BTreeSet<u32> = at_work.iter().copied().collect();
            if in_one_epoch { epochs.len() < at_work.len() } else { at_work.len() > 1 }
        })
    }
}

fn identity(number: usize, life: u8) -> Identity {
    let name = format!("manager-{number}");
    let member = name.parse().expect("a member's name");
    Identity::new("capi-system", member, Some(&format!("uid-{number}")), &format!("run-{life}")).expect("an identity")
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.print);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holders: BTreeMap<_, _> =
            self.leases.iter().map(|(key, it)| (key, (it.holder.to_string(), it.epoch))).collect();
        let at_work: Vec<_> = self.replicas.iter().map(|it| (&it.working, &it.finishing, it.valid_until)).collect();
        write!(f, "time {}, Leases {holders:?}, at work {at_work:?}", self.time)
    }
}
