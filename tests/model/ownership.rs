//! Who owns a shard, decided by the machine that runs in production, on clocks of different speed.
//!
//! Reads are answered at once. So are writes, unless a replica is *slow*: then each of its writes is carried out when
//! the search says so, or late, or never. A replica that is not woken stands still; its clock goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use capi_ipam::shard::lease::{Holder, Identity, Lease, LeaseKey};
use capi_ipam::shard::ownership::{Call, Config, Effect, Event, Fact, Listing, OpId, Outcome, Ownership};
use stateright::{Model, Property};

use super::print::print_of;

/// What a member Lease lasts.
const DURATION: Duration = Duration::from_secs(5);
/// What a clock counts in a second that is right.
const RIGHT: u64 = 1_000;
/// Until the first members have their shards: longer than the probation of new members.
const SETTLING: u64 = 15_000_000;
/// More requests at one time are a circle.
const MOST_AT_ONCE: usize = 200;

/// What is wrong with the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// The server does not compare the resourceVersions of Leases.
    NoComparison,
    /// The second replica's clock goes faster than the rules allow for.
    WildClock,
}

/// How often things may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Alarms.
    pub(crate) wakes: u8,
    /// Times that a replica becomes slow.
    pub(crate) slow: u8,
    /// Writes that their sender gives up on.
    pub(crate) faults: u8,
    pub(crate) crashes: u8,
    /// Replicas that are asked to end.
    pub(crate) stops: u8,
    /// Leases that somebody deletes.
    pub(crate) deletions: u8,
}

#[derive(Clone, Debug)]
struct Write {
    id: OpId,
    key: LeaseKey,
    call: Call,
}

#[derive(Clone)]
struct Replica {
    machine: Option<Arc<Ownership>>,
    print: u64,
    me: Identity,
    lives: u8,
    /// What its clock counts in a thousandth of a second that is right, in microseconds.
    rate: u64,
    is_slow: bool,
    is_leaving: bool,
    /// What its watch has not shown yet: the last state of each Lease.
    news: BTreeMap<LeaseKey, Event>,
    writes: Vec<Write>,
    working: BTreeMap<u16, u32>,
    /// Work that is being finished; without an epoch if the Lease ran out meanwhile: it sends nothing more then, though
    /// the Lease may be renewed before it is finished (O2).
    finishing: BTreeMap<u16, Option<u32>>,
    valid_until: Duration,
}

#[derive(Clone)]
pub(crate) struct World {
    leases: BTreeMap<LeaseKey, Lease>,
    revision: u64,
    replicas: Vec<Replica>,
    ghosts: Vec<(LeaseKey, Call)>,
    /// In microseconds.
    time: u64,
    budget: Budget,
    /// Who held a shard in an epoch of a Lease.
    holders: BTreeMap<(u16, String, u32), Identity>,
    two_holders: bool,
    took_over: bool,
    handed_over: bool,
    crashed: bool,
    print: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    Wake(usize),
    SeeNews(usize),
    /// All work on the shard is finished.
    Finish(usize, u16),
    Slow(usize),
    Fast(usize),
    Serve(usize, usize),
    /// Carried out, and the answer is lost.
    LoseAnswer(usize, usize),
    GiveUp(usize, usize),
    Land(usize),
    Crash(usize),
    Start(usize),
    Stop(usize),
    DeleteShard(u16),
}

/// A bounded world.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) replicas: usize,
    pub(crate) shards: u16,
    /// What the clock of the second replica counts in a thousandth, in microseconds; that of the first is right.
    pub(crate) second_clock: u64,
    pub(crate) budget: Budget,
    pub(crate) flaw: Option<Flaw>,
}

impl Replica {
    fn clock(&self, time: u64) -> Duration {
        Duration::from_micros(time * self.rate / RIGHT)
    }

    fn time_of(&self, clock: Duration) -> u64 {
        let micros = u64::try_from(clock.as_nanos().div_ceil(1_000)).expect("a short time");
        (micros * RIGHT).div_ceil(self.rate)
    }

    /// Whether its writes would be let through now, if it is at work on the shard at all.
    fn epoch_at_work(&self, shard: u16, time: u64) -> Option<u32> {
        let is_valid = self.machine.is_some() && self.clock(time) < self.valid_until;
        let finishing = self.finishing.get(&shard).copied().flatten();
        self.working.get(&shard).copied().or(finishing).filter(|_| is_valid)
    }
}

impl World {
    fn new(ring: &Ring) -> Self {
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
    fn settle(&mut self, ring: &Ring) {
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

    fn seal(&mut self) {
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

    fn start(&mut self, number: usize, ring: &Ring) {
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
    fn end(&mut self, number: usize) {
        let it = &mut self.replicas[number];
        it.machine = None;
        it.print = 0;
        it.news.clear();
        it.working.clear();
        it.finishing.clear();
        self.ghosts.extend(std::mem::take(&mut it.writes).into_iter().map(|write| (write.key, write.call)));
    }

    fn step(&mut self, number: usize, event: Event, ring: &Ring) {
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

    fn apply(&mut self, number: usize, effect: Effect, ring: &Ring) -> Option<Event> {
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

    fn serve(&mut self, key: &LeaseKey, call: Call, ring: &Ring) -> Outcome {
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

    fn record(&mut self, key: &LeaseKey, lease: &Lease, before: Option<&Identity>) {
        let (LeaseKey::Shard(shard), Holder::Ours(holder)) = (key, &lease.holder) else { return };
        let is_other = before.is_some_and(|before| before.member() != holder.member());
        self.took_over |= is_other;
        self.handed_over |= before.is_none() && lease.epoch > 1;
        let first = self.holders.entry((*shard, lease.uid.clone(), lease.epoch)).or_insert_with(|| holder.clone());
        self.two_holders |= first != holder;
    }

    fn delete(&mut self, key: &LeaseKey) {
        self.leases.remove(key);
        self.revision += 1;
        self.broadcast(key, &Event::Gone(key.clone(), self.revision));
    }

    fn broadcast(&mut self, key: &LeaseKey, event: &Event) {
        for it in self.replicas.iter_mut().filter(|it| it.machine.is_some()) {
            it.news.insert(key.clone(), event.clone());
        }
    }

    fn see_news(&mut self, number: usize, ring: &Ring) {
        for event in std::mem::take(&mut self.replicas[number].news).into_values() {
            self.step(number, event, ring);
        }
    }

    /// When the replica wants to be woken.
    fn alarm(&self, number: usize) -> Option<u64> {
        let it = &self.replicas[number];
        Some(it.time_of(it.machine.as_ref()?.wake_at()?))
    }

    fn answer(&mut self, number: usize, write: usize, outcome: Outcome, ring: &Ring) {
        let Write { id, .. } = self.replicas[number].writes.remove(write);
        self.step(number, Event::Reply(id, outcome), ring);
    }

    /// Whether two replicas are at work on one shard, and in one epoch of it.
    fn overlap(&self, in_one_epoch: bool) -> bool {
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

impl Model for Ring {
    type State = World;
    type Action = Happening;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, out: &mut Vec<Happening>) {
        let budget = world.budget;
        for (number, it) in world.replicas.iter().enumerate() {
            if it.machine.is_none() {
                out.push(Happening::Start(number));
                continue;
            }
            if budget.wakes > 0 && world.alarm(number).is_some() {
                out.push(Happening::Wake(number));
            }
            if !it.news.is_empty() {
                out.push(Happening::SeeNews(number));
            }
            out.extend(it.finishing.keys().map(|shard| Happening::Finish(number, *shard)));
            if budget.slow > 0 && !it.is_slow {
                out.push(Happening::Slow(number));
            }
            if it.is_slow && it.writes.is_empty() {
                out.push(Happening::Fast(number));
            }
            for write in 0..it.writes.len() {
                out.push(Happening::Serve(number, write));
                if budget.faults > 0 {
                    out.extend([Happening::LoseAnswer(number, write), Happening::GiveUp(number, write)]);
                }
            }
            if budget.crashes > 0 {
                out.push(Happening::Crash(number));
            }
            if budget.stops > 0 && !it.is_leaving {
                out.push(Happening::Stop(number));
            }
        }
        out.extend((0..world.ghosts.len()).map(Happening::Land));
        if budget.deletions > 0 {
            let shards = (0..self.shards).filter(|shard| world.leases.contains_key(&LeaseKey::Shard(*shard)));
            out.extend(shards.map(Happening::DeleteShard));
        }
    }

    fn next_state(&self, last: &World, happening: Happening) -> Option<World> {
        let mut world = last.clone();
        match happening {
            Happening::Wake(number) => {
                world.budget.wakes -= 1;
                world.time = world.time.max(world.alarm(number)?);
                world.step(number, Event::Tick, self);
            }
            Happening::SeeNews(number) => world.see_news(number, self),
            Happening::Finish(number, shard) => world.step(number, Event::Stopped(shard), self),
            Happening::Slow(number) => {
                world.budget.slow -= 1;
                world.replicas[number].is_slow = true;
            }
            Happening::Fast(number) => world.replicas[number].is_slow = false,
            Happening::Serve(number, write) => {
                let Write { key, call, .. } = world.replicas[number].writes[write].clone();
                let outcome = world.serve(&key, call, self);
                world.answer(number, write, outcome, self);
            }
            Happening::LoseAnswer(number, write) => {
                world.budget.faults -= 1;
                let Write { key, call, .. } = world.replicas[number].writes[write].clone();
                world.serve(&key, call, self);
                world.answer(number, write, Outcome::NoAnswer, self);
            }
            Happening::GiveUp(number, write) => {
                world.budget.faults -= 1;
                let Write { key, call, .. } = world.replicas[number].writes[write].clone();
                world.ghosts.push((key, call));
                world.answer(number, write, Outcome::NoAnswer, self);
            }
            Happening::Land(ghost) => {
                let (key, call) = world.ghosts.remove(ghost);
                world.serve(&key, call, self);
            }
            Happening::Crash(number) => {
                world.budget.crashes -= 1;
                world.crashed = true;
                world.end(number);
            }
            Happening::Start(number) => world.start(number, self),
            Happening::Stop(number) => {
                world.budget.stops -= 1;
                world.replicas[number].is_leaving = true;
                world.step(number, Event::Stop, self);
            }
            Happening::DeleteShard(shard) => {
                world.budget.deletions -= 1;
                world.delete(&LeaseKey::Shard(shard));
            }
        }
        world.seal();
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWO_HOLDERS, |_, world: &World| !world.two_holders && !world.overlap(true)),
            Property::always(OVERLAP, |_, world: &World| !world.overlap(false)),
            Property::sometimes(TAKEN_OVER, |_, world: &World| world.took_over),
            Property::sometimes(HANDED_OVER, |_, world: &World| world.handed_over),
            Property::sometimes(WORK_AFTER_CRASH, |_, world: &World| {
                let at_work = |it: &Replica| it.machine.is_some() && !it.working.is_empty();
                world.crashed && world.took_over && world.replicas.iter().any(at_work)
            }),
        ]
    }
}

pub(crate) const TWO_HOLDERS: &str = "no shard has two holders in one epoch";
pub(crate) const OVERLAP: &str = "no two replicas work on a shard at a time";
pub(crate) const TAKEN_OVER: &str = "a shard is taken over";
pub(crate) const HANDED_OVER: &str = "a shard is handed over";
pub(crate) const WORK_AFTER_CRASH: &str = "work goes on after a crash";

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
