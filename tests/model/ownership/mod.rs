//! Who owns a shard, decided by the machine that runs in production, on clocks of different speed.
//!
//! Reads are answered at once. So are writes, unless a replica is *slow*: then each of its writes is carried out when
//! the search says so, or late, or never. A replica that is not woken stands still; its clock goes on.

mod world;

use capi_ipam::shard::lease::LeaseKey;
use capi_ipam::shard::ownership::{Event, Outcome};
use stateright::{Model, Property};

use world::{Replica, World, Write};

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
