//! Random histories: several machines act at once, nobody owns the pool, and everything that can go wrong does.

use std::time::Duration;

use super::fixtures::{address, claim, key, pool, spec};
use super::world::{LOCK_DELAY, State, World};
use crate::api::names;
use crate::pool::key::{ObjectKey, Sender};
use crate::pool::machine::{Action, Input, Machine, Outcome, Right};
use crate::pool::record::Memory;

/// The names of the claims: a few, so that they meet.
const CLAIMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Fewer than the claims.
const SMALL: &str = "10.0.0.1-10.0.0.4";
/// As many as the claims, and others.
const LARGE: &str = "10.0.0.2-10.0.0.7";

/// A generator of random numbers: xorshift, which needs no seed of more than one number.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap_or(0) % n
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// A claim that was moved here, whose IPAddress is still on its way (C19).
struct Moved {
    claim: ObjectKey,
    uid: crate::pool::key::Uid,
    /// The last byte of its address.
    last: u8,
    since: Duration,
}

/// The IPAddress of a moved claim comes within this time, which is less than it is waited for.
const MOVE_TAKES: Duration = Duration::from_secs(30);
/// All moves of a history together take less time than a pool is held.
const MOVES_TAKE: Duration = Duration::from_mins(4);

/// C14: short, so that orphans go in the middle of all.
const ORPHANS_STAY: Duration = Duration::from_secs(5);

struct Simulation {
    world: World,
    moved: Option<Moved>,
    /// How long all moves have taken.
    moving: Duration,
    random: Random,
    /// How often things go wrong, in percent; drawn once for each history.
    faults: usize,
    /// The record was wiped, and nobody has put it back yet: who remembers it must live (F9).
    wiped: Option<u64>,
    dead: Vec<Sender>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut world = World::empty();
        world.orphan_grace = Some(ORPHANS_STAY);
        world.server.put_pool(pool(SMALL));
        for _ in 0..=random.below(3) {
            let actor = world.add_actor();
            world.read_pool(actor);
            world.start(actor, Memory::default());
        }
        let faults = [0, 5, 15, 40][random.below(4)];
        Self { world, moved: None, moving: Duration::ZERO, random, faults, wiped: None, dead: Vec::new() }
    }

    fn act(&mut self) {
        if self.moved.is_some() && self.random.percent(1) {
            self.move_address();
        }
        match self.random.below(100) {
            0..3 => self.user(),
            3..7 => self.advance(),
            7..8 => self.life_and_death(),
            8..10 => self.drain(),
            10..11 => self.hand_over(),
            11..40 => self.watch(),
            _ => self.network(),
        }
        self.note_restored();
    }

    fn network(&mut self) {
        if self.world.flights.is_empty() {
            return self.watch();
        }
        let flight = self.random.below(self.world.flights.len());
        let fault = self.random.percent(self.faults);
        match (self.world.flights[flight].state.clone(), fault) {
            (State::Queued, true) if self.random.percent(20) => {
                let outcome = if self.random.percent(50) {
                    Outcome::Refused("refused".into())
                } else {
                    Outcome::NotSent("no connection".into())
                };
                self.world.answer_with(flight, outcome);
            }
            (State::Queued, _) => self.world.send(flight),
            (State::Sent, true) if self.random.percent(50) => {
                let unknown = Outcome::Unknown("lost".into());
                self.world.answer_with(flight, unknown);
            }
            (State::Sent | State::Done(_), true) => self.world.give_up(flight),
            (State::Sent, false) => self.world.execute(flight),
            (State::Done(_), false) => self.world.answer(flight),
            // Late requests are late: most stay for long.
            (State::Ghost, _) if self.random.percent(5) => self.world.execute(flight),
            (State::Ghost, _) if self.random.percent(2) => drop(self.world.flights.swap_remove(flight)),
            (State::Ghost, _) => {}
        }
    }

    fn watch(&mut self) {
        let actor = self.random.below(self.world.actors.len());
        let kind = self.random.below(3);
        for _ in 0..=self.random.below(4) {
            self.world.deliver(actor, kind);
        }
        self.world.wake(actor);
    }

    fn advance(&mut self) {
        let time = match self.random.below(100) {
            0..80 => Duration::from_millis(50 + self.random.next() % 1_000),
            80..97 => Duration::from_secs(1 + self.random.next() % 12),
            _ => LOCK_DELAY / 3,
        };
        if self.moved.as_ref().is_some_and(|moved| self.world.time + time > moved.since + MOVE_TAKES) {
            self.move_address();
        }
        let delivered = self.random.percent(50);
        self.world.let_pass(time, || delivered);
        for actor in 0..self.world.actors.len() {
            if self.random.percent(60) {
                self.world.wake(actor);
            }
        }
    }

    fn life_and_death(&mut self) {
        let actor = self.random.below(self.world.actors.len());
        let it = &self.world.actors[actor];
        if it.machine.is_none() {
            if it.starting.is_none() {
                self.world.read_pool(actor);
            } else {
                self.world.start(actor, Memory::default());
            }
        } else if self.wiped.is_none() && self.faults > 0 && self.random.percent(30) {
            self.dead.push(it.sender.clone());
            self.world.crash(actor);
        }
    }

    /// The pool is taken from a replica, or comes back to it (O5).
    fn hand_over(&mut self) {
        let actor = self.random.below(self.world.actors.len());
        let Some(machine) = &mut self.world.actors[actor].machine else { return };
        match machine.right {
            Right::Held => machine.stop(),
            Right::Leaving if self.random.percent(70) => machine.give_up(),
            Right::Leaving | Right::Gone => machine.resume(),
        }
        self.world.step(actor, Vec::new());
    }

    /// F5(b): evidence that a dead sender's requests are all over, once they are.
    fn drain(&mut self) {
        let Some(sender) = self.dead.last().filter(|sender| !self.world.is_under_way(sender)).cloned() else { return };
        let actor = self.random.below(self.world.actors.len());
        self.world.step(actor, vec![Input::Drained(sender)]);
    }

    fn user(&mut self) {
        let name = key(CLAIMS[self.random.below(CLAIMS.len())]);
        match self.random.below(100) {
            0..5 => self.wipe(),
            5..8 => {
                let range = if self.random.percent(50) { SMALL } else { LARGE };
                self.world.server.edit_pool(|pool| {
                    pool.spec = Ok(spec(range));
                    pool.generation += 1;
                });
            }
            8..11 => self.world.server.edit_pool(|pool| pool.paused = !pool.paused),
            11..18 if self.world.server.addresses.contains_key(&name) => self.world.server.strip_address(&name),
            18..30 => self.move_claim(name),
            _ => match self.world.server.claims.get(&name) {
                None => {
                    let created = self.world.server.seconds;
                    self.world.server.put_claim(claim(&name.name).created_after(created));
                }
                Some(_) if self.random.percent(60) => self.world.server.delete_claim(&name),
                Some(_) => {}
            },
        }
    }

    /// C19: a claim comes from elsewhere, and everybody sees it. Its address is one that nobody has or is about to get.
    fn move_claim(&mut self, name: ObjectKey) {
        self.show_claims();
        let last = u8::try_from(1 + self.random.below(7)).expect("a byte");
        let is_free = self.moved.is_none()
            && self.wiped.is_none()
            && self.moving < MOVES_TAKE
            && !self.world.server.claims.contains_key(&name)
            && !self.world.server.addresses.contains_key(&name)
            && !self.is_taken(last, &name);
        if !is_free {
            return;
        }
        let created = self.world.server.seconds;
        let claim = claim(&name.name).created_after(created).held_by(names::RELEASE_ADDRESS_FINALIZER);
        let uid = self.world.server.put_claim(claim).uid.clone();
        self.show_claims();
        self.moved = Some(Moved { claim: name, uid, last, since: self.world.time });
    }

    fn show_claims(&mut self) {
        for actor in 0..self.world.actors.len() {
            while self.world.deliver(actor, 1) {}
        }
    }

    /// Whether an IPAddress holds it, or an intent, or a commit that is under way; or one of these has that name.
    fn is_taken(&self, last: u8, name: &ObjectKey) -> bool {
        let server = &self.world.server;
        let is_it = |address: std::net::IpAddr| address == std::net::IpAddr::from([10, 0, 0, last]);
        let record = server.pool.as_ref().and_then(|pool| pool.status.record.as_ref());
        let committing = self.world.flights.iter().filter_map(|flight| match &flight.action {
            Action::PutPoolStatus { status, .. } => status.record.as_ref(),
            _ => None,
        });
        let mut promised = record.into_iter().chain(committing).flat_map(|record| record.pending.values());
        server.addresses.values().any(|address| address.held.as_ref().is_ok_and(|held| is_it(held.address)))
            || promised.any(|intent| is_it(intent.held.address) || intent.claim == *name)
    }

    /// Its IPAddress comes, if the claim is still there.
    fn move_address(&mut self) {
        let Some(Moved { claim, uid, last, since }) = self.moved.take() else { return };
        self.moving += self.world.time.saturating_sub(since);
        let server = &mut self.world.server;
        if server.claims.get(&claim).is_none_or(|known| known.uid != uid || known.deleted.is_some()) {
            return;
        }
        if server.addresses.contains_key(&claim) {
            server.broken.push(format!("C19: {claim} was given another address than the one that it came with"));
        } else if self.is_taken(last, &claim) {
            self.world
                .server
                .broken
                .push(format!("C19: the address of {claim} was promised to another, or another to it"));
        } else {
            self.world.server.put_address(address(&claim.name, last));
        }
    }

    /// The record is lost, while everybody remembers it (F9).
    fn wipe(&mut self) {
        let Some(record) = self.world.server.pool.as_ref().and_then(|pool| pool.status.record.clone()) else { return };
        let knows =
            |machine: &Machine| machine.memory().seq == record.seq && machine.memory().pending == record.pending;
        let everybody = self.world.actors.iter().all(|actor| actor.machine.as_ref().is_some_and(knows));
        if !everybody || self.wiped.is_some() {
            return;
        }
        self.wiped = Some(record.seq);
        self.world.server.history_was_lost = true;
        if self.random.percent(50) {
            self.world.server.edit_pool(|pool| pool.status.record = None);
        } else {
            self.world.server.edit_pool(|pool| {
                pool.uid = "".into();
                pool.finalizers.clear();
                pool.status.record = None;
            });
        }
    }

    /// Whether what was wiped is back, and everybody has seen it.
    fn note_restored(&mut self) {
        let Some(seq) = self.wiped else { return };
        let back = self.world.server.pool.as_ref().and_then(|p| p.status.record.as_ref()).is_some_and(|r| r.seq > seq);
        let seen = |machine: &Machine| machine.memory().seq > seq;
        let all = self.world.actors.iter().all(|actor| actor.machine.as_ref().is_some_and(seen));
        if back && all {
            self.wiped = None;
        }
    }

    fn check(&self) -> Result<(), String> {
        match self.world.server.broken.first() {
            Some(broken) => Err(format!("{broken} (record wiped before: {})", self.world.server.history_was_lost)),
            None => Ok(()),
        }
    }

    /// Faults stop, everything arrives, time passes: all must be well in the end.
    fn calm(&mut self) -> Result<(), String> {
        self.move_address();
        self.world.server.edit_pool(|pool| pool.paused = false);
        while let Some(flight) = self.world.flights.iter().position(|flight| !matches!(flight.state, State::Queued)) {
            match self.world.flights[flight].state {
                State::Done(_) => self.world.answer(flight),
                _ => self.world.execute(flight),
            }
        }
        for actor in 0..self.world.actors.len() {
            if let Some(machine) = &mut self.world.actors[actor].machine {
                machine.resume();
            } else {
                self.world.read_pool(actor);
                self.world.start(actor, Memory::default());
            }
            self.world.step(actor, Vec::new());
        }
        self.world.pass(Duration::from_secs(90));
        for _ in 0..3 {
            self.world.pass(LOCK_DELAY + Duration::from_secs(40));
        }
        self.check()?;
        self.check_end()
    }

    fn check_end(&self) -> Result<(), String> {
        let server = &self.world.server;
        let pool = server.pool.as_ref().ok_or("no pool")?;
        let record = pool.status.record.clone().unwrap_or_default();
        if !record.pending.is_empty() {
            return Err(format!("intents are left: {:?}", record.pending));
        }
        if let Some(flight) = self.world.flights.first() {
            return Err(format!("requests are left: {flight:?}"));
        }
        let spec = pool.spec.as_ref().map_err(|e| e.0.clone())?;
        let in_range = |held| spec.pool.allows(held);
        let taken = server.addresses.values().filter(|a| a.held.clone().is_ok_and(in_range)).count();
        let full = u128::try_from(taken) == Ok(spec.pool.total());
        for claim in server.claims.values() {
            if claim.deleted.is_some() {
                return Err(format!("{} is still being deleted", claim.key));
            }
            let bound = server.addresses.contains_key(&claim.key) && claim.address_ref.is_some();
            if !bound && !full {
                return Err(format!("{} has no address, and {taken} are taken: {:?}", claim.key, claim.conditions));
            }
        }
        if let Some(orphan) = server.addresses.keys().find(|key| !server.claims.contains_key(*key)) {
            return Err(format!("{orphan} has no claim"));
        }
        // A status that a dead machine wrote late is somebody else's: it stands until the next change.
        if self.dead.is_empty() { self.check_counts() } else { Ok(()) }
    }

    fn check_counts(&self) -> Result<(), String> {
        let server = &self.world.server;
        let status = server.pool.as_ref().map(|pool| pool.status.clone()).unwrap_or_default();
        let used = i64::try_from(server.addresses.len()).unwrap_or(0);
        match status.counts {
            Some(counts) if counts.used == used && counts.free == counts.total - used + counts.out_of_range => Ok(()),
            counts => Err(format!("{used} are used, and the status says {counts:?}")),
        }
    }
}

/// One history; what went wrong, and after how many steps.
fn history(seed: u64, steps: usize) -> Result<(), String> {
    let mut simulation = Simulation::new(seed);
    for step in 0..steps {
        simulation.act();
        simulation.check().map_err(|broken| format!("step {step}: {broken}"))?;
    }
    simulation.calm().map_err(|broken| format!("at the end: {broken}"))?;
    Ok(())
}

#[test]
fn no_history_gives_an_address_twice_or_forgets_a_claim() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = number("SIMULATION_SEED").unwrap_or(1);
    let seeds: u64 = number("SIMULATION_SEEDS").unwrap_or(300);
    let mut bad = Vec::new();
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| history(seed, 2_000));
        let result = result.unwrap_or_else(|_| Err("panicked".into()));
        if let Err(broken) = result {
            bad.push(format!("SIMULATION_SEED={seed}: {broken}"));
        }
    }
    let shown = bad.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(bad.is_empty(), "{} of {seeds} histories went wrong:\n{shown}", bad.len());
}
