//! One state of the world: the API server, the replicas with their machines, and what is between them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use capi_ipam::api::capi::CapiVersion;
use capi_ipam::pool::key::{Now, ObjectKey, Sender, Version};
use capi_ipam::pool::machine::{Action, Config, Effect, Input, Machine, Outcome};
use capi_ipam::pool::object::{PoolStatus, PoolView};
use capi_ipam::pool::record::{Memory, Record};

use super::Flaw;
use super::server::{Event, Server, pool_key, server_time};
use super::traffic::{Budget, Flight, Ghost, Kind, Slow, is_write, kind_of};
use crate::print::print_of;

/// F5(b) in this world. A quarter of it is less than a request may live, so that F1's deadline passes while one does.
pub(crate) const LOCK_DELAY: Duration = Duration::from_secs(40);
/// How long a create may be under way: the assumption about `--request-timeout`.
pub(crate) const REQUEST_LIFE: Duration = Duration::from_secs(25);
/// Requests that are carried out at once after a step: more are a circle.
const MOST_AT_ONCE: usize = 200;

#[derive(Clone)]
pub(crate) struct Replica {
    /// Nothing while the process is down.
    pub(crate) machine: Option<Arc<Machine>>,
    print: u64,
    pub(crate) sender: Sender,
    lives: u8,
    /// What its watches have not shown yet.
    pub(crate) claims: Vec<(ObjectKey, Event)>,
    pub(crate) addresses: Vec<(ObjectKey, Event)>,
    /// The newest copy of the pool that it got.
    pool: Option<Version>,
    pub(crate) flights: Vec<Flight>,
    /// The senders that it knows to be drained.
    pub(crate) told: BTreeSet<Sender>,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    server_print: u64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) ghosts: Vec<Ghost>,
    time: Duration,
    pub(crate) budget: Budget,
    pub(crate) dead: BTreeSet<Sender>,
    /// What it was when the record was lost last: whoever remembers it must live until it is back (F9).
    pub(crate) lost: Option<u64>,
    /// Somebody took the record away, so that what stood in it did not bind everybody all the time.
    pub(crate) was_lost: bool,
    /// An old copy of the record, for a restore.
    old: Option<Record>,
    print: u64,
}

/// The parts of the model that do not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) slow: Slow,
    pub(crate) flaw: Option<Flaw>,
}

impl World {
    /// Replicas that have found a new pool and have come to rest, all of them at work on it.
    pub(crate) fn new(replicas: usize, addresses: u8, budget: Budget, rules: Rules) -> Self {
        let mut server = Server::default();
        server.create_pool(addresses);
        let replica = Replica {
            machine: None,
            print: 0,
            sender: "".into(),
            lives: 0,
            claims: Vec::new(),
            addresses: Vec::new(),
            pool: None,
            flights: Vec::new(),
            told: BTreeSet::new(),
        };
        let mut world = Self {
            server: Arc::new(server),
            server_print: 0,
            replicas: vec![replica; replicas],
            ghosts: Vec::new(),
            time: Duration::from_secs(1_000),
            budget,
            dead: BTreeSet::new(),
            lost: None,
            was_lost: false,
            old: None,
            print: 0,
        };
        for replica in 0..replicas {
            world.start(replica, rules);
        }
        world.calm(rules);
        world.seal();
        world
    }

    /// Everything that is to be done is done.
    pub(crate) fn calm(&mut self, rules: Rules) {
        for _ in 0..MOST_AT_ONCE {
            let mut progress = false;
            for replica in 0..self.replicas.len() {
                while self.see_pool(replica, rules)
                    || self.see_claim(replica, rules)
                    || self.see_address(replica, rules)
                {
                    progress = true;
                }
                while !self.replicas[replica].flights.is_empty() {
                    self.execute(replica, 0, rules);
                    self.answer(replica, 0, rules);
                    progress = true;
                }
                let soon = self.time + Duration::from_secs(15);
                if self.wake_at(replica).is_some_and(|at| at <= soon) {
                    self.wake(replica, rules);
                    progress = true;
                }
            }
            if !progress {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// To be called after every transition.
    pub(crate) fn seal(&mut self) {
        self.ghosts.sort_by_cached_key(|ghost| print_of(ghost));
        self.server_print = print_of(&self.server);
        let mut hasher = DefaultHasher::new();
        self.server_print.hash(&mut hasher);
        for it in &self.replicas {
            it.print.hash(&mut hasher);
            (&it.sender, it.lives, it.pool, &it.told).hash(&mut hasher);
            print_of((&it.claims, &it.addresses, &it.flights)).hash(&mut hasher);
        }
        print_of(&self.ghosts).hash(&mut hasher);
        (self.time, self.budget, &self.dead, self.lost, self.was_lost).hash(&mut hasher);
        print_of(&self.old).hash(&mut hasher);
        self.print = hasher.finish();
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.server.pool.as_ref()?.status.record.as_ref()
    }

    pub(crate) fn server_mut(&mut self) -> &mut Server {
        Arc::make_mut(&mut self.server)
    }

    fn now(&self) -> Now {
        Now { boot: self.time, server: server_time() }
    }

    /// A new process: the pool is listed, then the addresses and the claims.
    pub(crate) fn start(&mut self, replica: usize, rules: Rules) {
        let it = &mut self.replicas[replica];
        it.lives += 1;
        it.sender = format!("sender-{replica}-{}", it.lives).into();
        let config = Config {
            me: it.sender.clone(),
            lock_delay: LOCK_DELAY,
            adoption_grace: Duration::ZERO,
            orphan_grace: None,
            version: CapiVersion::V1Beta2,
        };
        it.machine = Some(Arc::new(Machine::new(pool_key(), config, Memory::default())));
        it.pool = self.server.pool.as_ref().map(|pool| pool.version);
        let listed = self.server.address_version();
        let addresses = self.server.addresses.values();
        let mut inputs: Vec<_> = addresses.map(|a| Input::Address(a.key.clone(), Some(a.clone()), a.version)).collect();
        inputs.push(Input::Store(listed));
        let view = self.server.pool.as_ref().map(|pool| Box::new(PoolView::clone(pool)));
        inputs.push(Input::Pool { view, covered: Some(listed) });
        inputs.extend(self.server.claims.values().map(|claim| Input::Claim(claim.key.clone(), Some(claim.clone()))));
        self.step(replica, inputs, rules);
    }

    /// The process is gone; what it sent is still under way.
    pub(crate) fn crash(&mut self, replica: usize) {
        let it = &mut self.replicas[replica];
        it.machine = None;
        it.print = 0;
        it.pool = None;
        it.claims.clear();
        it.addresses.clear();
        it.told.clear();
        self.dead.insert(it.sender.clone());
        for Flight { action, done, sent_at, .. } in std::mem::take(&mut it.flights) {
            if done.is_none() && is_write(&action) {
                self.ghosts.push(Ghost { sender: it.sender.clone(), action, sent_at });
            }
        }
    }

    /// Lets the machine decide, and carries out at once what is not slow.
    pub(crate) fn step(&mut self, replica: usize, inputs: Vec<Input>, rules: Rules) {
        let now = self.now();
        let mut inputs = inputs;
        for _ in 0..MOST_AT_ONCE {
            let it = &mut self.replicas[replica];
            let Some(machine) = &mut it.machine else { return };
            let step = Arc::make_mut(machine).step(std::mem::take(&mut inputs), now);
            for Effect { op, action } in step.effects {
                if rules.slow.is(kind_of(&action)) {
                    let flight = Flight { op, action: Arc::new(action), done: None, sent_at: self.time };
                    self.replicas[replica].flights.push(flight);
                } else {
                    let outcome = self.serve(&self.replicas[replica].sender.clone(), &action, rules);
                    self.note_pool(replica, &outcome);
                    inputs.push(Input::Reply(op, outcome));
                }
            }
            if inputs.is_empty() {
                self.replicas[replica].print = print_of(&self.replicas[replica].machine);
                return;
            }
        }
        panic!("requests go in a circle");
    }

    fn note_pool(&mut self, replica: usize, outcome: &Outcome) {
        if let Outcome::Pool(pool) = outcome {
            let known = &mut self.replicas[replica].pool;
            *known = (*known).max(Some(pool.version));
        }
    }

    fn serve(&mut self, sender: &Sender, action: &Action, rules: Rules) -> Outcome {
        let outcome = self.server_mut().serve(sender, action, rules.flaw);
        if self.old.is_none() {
            self.old = self.record().filter(|record| !record.pending.is_empty()).cloned();
        }
        self.broadcast(Some(sender));
        outcome
    }

    /// Puts what changed in front of the watches. A watch that has not come to the last state of an object yet will
    /// show the newest one only: the machine cannot tell the difference from two that come at once.
    pub(crate) fn broadcast(&mut self, by: Option<&Sender>) {
        if self.server.events.is_empty() {
            return;
        }
        for event in std::mem::take(&mut self.server_mut().events) {
            for it in self.replicas.iter_mut().filter(|it| it.machine.is_some()) {
                match &event {
                    Event::Claim(key, claim) => {
                        let is_news = claim.as_ref().is_none_or(|claim| claim.noted_uid.is_none() || by.is_none());
                        let queued = it.claims.last_mut().filter(|(last, before)| last == key && same(before, &event));
                        match queued {
                            Some(last) => last.1 = event.clone(),
                            None if is_news => it.claims.push((key.clone(), event.clone())),
                            None => {}
                        }
                    }
                    Event::Address(key, ..) => {
                        let queued =
                            it.addresses.last_mut().filter(|(last, before)| last == key && same(before, &event));
                        match queued {
                            Some(last) => last.1 = event.clone(),
                            None => it.addresses.push((key.clone(), event.clone())),
                        }
                    }
                }
            }
        }
    }

    /// Whether this replica's watch has news of the pool.
    pub(crate) fn has_pool_news(&self, replica: usize) -> bool {
        let it = &self.replicas[replica];
        it.machine.is_some() && it.pool != self.server.pool.as_ref().map(|pool| pool.version)
    }

    pub(crate) fn see_pool(&mut self, replica: usize, rules: Rules) -> bool {
        let has_news = self.has_pool_news(replica);
        if has_news {
            self.replicas[replica].pool = self.server.pool.as_ref().map(|pool| pool.version);
            let view = self.server.pool.as_ref().map(|pool| Box::new(PoolView::clone(pool)));
            self.step(replica, vec![Input::Pool { view, covered: None }], rules);
        }
        has_news
    }

    pub(crate) fn see_claim(&mut self, replica: usize, rules: Rules) -> bool {
        let queue = &mut self.replicas[replica].claims;
        let event = (!queue.is_empty()).then(|| queue.remove(0).1);
        let Some(Event::Claim(key, claim)) = event else { return false };
        self.step(replica, vec![Input::Claim(key, claim)], rules);
        true
    }

    pub(crate) fn see_address(&mut self, replica: usize, rules: Rules) -> bool {
        let queue = &mut self.replicas[replica].addresses;
        let event = (!queue.is_empty()).then(|| queue.remove(0).1);
        let Some(Event::Address(key, address, version)) = event else { return false };
        self.step(replica, vec![Input::Address(key, address, version), Input::Store(version)], rules);
        true
    }

    pub(crate) fn wake_at(&self, replica: usize) -> Option<Duration> {
        self.replicas[replica].machine.as_ref()?.wake_at()
    }

    /// Whether so much time may pass that this replica's alarm rings.
    pub(crate) fn may_wake(&self, replica: usize) -> bool {
        self.wake_at(replica).is_some_and(|at| self.may_become(at.max(self.time)))
    }

    /// Creates that are under way do not live longer than they can.
    fn may_become(&self, time: Duration) -> bool {
        let lives = |sent_at: Duration, action: &Action| {
            kind_of(action) != Kind::Create || time == self.time || time < sent_at + REQUEST_LIFE
        };
        let mut flights = self.replicas.iter().flat_map(|it| &it.flights).filter(|flight| flight.done.is_none());
        self.ghosts.iter().all(|ghost| lives(ghost.sent_at, &ghost.action))
            && flights.all(|flight| lives(flight.sent_at, &flight.action))
    }

    pub(crate) fn may_pass(&self) -> bool {
        self.may_become(self.time + LOCK_DELAY / 4)
    }

    pub(crate) fn pass(&mut self) {
        self.time += LOCK_DELAY / 4;
    }

    pub(crate) fn wake(&mut self, replica: usize, rules: Rules) {
        if let Some(at) = self.wake_at(replica) {
            self.time = self.time.max(at);
            self.step(replica, Vec::new(), rules);
        }
    }

    /// A request arrives and is carried out.
    pub(crate) fn execute(&mut self, replica: usize, flight: usize, rules: Rules) {
        let action = self.replicas[replica].flights[flight].action.clone();
        let outcome = self.serve(&self.replicas[replica].sender.clone(), &action, rules);
        self.replicas[replica].flights[flight].done = Some(Arc::new(outcome));
    }

    /// Its answer arrives.
    pub(crate) fn answer(&mut self, replica: usize, flight: usize, rules: Rules) {
        let flight = self.replicas[replica].flights.remove(flight);
        let outcome = Arc::unwrap_or_clone(flight.done.expect("a request that was carried out"));
        self.note_pool(replica, &outcome);
        self.step(replica, vec![Input::Reply(flight.op, outcome)], rules);
    }

    /// The sender gets another answer than the server's: none at all, or that it was not sent.
    pub(crate) fn fail(&mut self, replica: usize, flight: usize, outcome: Outcome, rules: Rules) {
        let flight = self.replicas[replica].flights.remove(flight);
        let outcome = match (&*flight.action, &outcome, &self.server.pool) {
            (Action::PutPoolStatus { status, .. }, Outcome::Unknown(_), Some(pool))
                if rules.flaw == Some(Flaw::InventedAnswer) =>
            {
                let version = Version(pool.version.0 + 1);
                Outcome::Pool(Box::new(PoolView {
                    version,
                    status: PoolStatus::clone(status),
                    ..PoolView::clone(pool)
                }))
            }
            _ => outcome,
        };
        let may_arrive = flight.done.is_none() && matches!(outcome, Outcome::Unknown(_)) && is_write(&flight.action);
        if may_arrive {
            let sender = self.replicas[replica].sender.clone();
            self.ghosts.push(Ghost { sender, action: flight.action, sent_at: flight.sent_at });
        }
        self.step(replica, vec![Input::Reply(flight.op, outcome)], rules);
    }

    /// What nobody waits for is carried out.
    pub(crate) fn land(&mut self, ghost: usize, rules: Rules) {
        let Ghost { sender, action, .. } = self.ghosts.remove(ghost);
        self.serve(&sender, &action, rules);
    }

    /// F5(b): whether nothing of this sender can arrive any more.
    pub(crate) fn is_drained(&self, sender: &Sender) -> bool {
        self.dead.contains(sender) && !self.ghosts.iter().any(|ghost| ghost.sender == *sender)
    }

    /// Whether every replica lives and remembers the record as it is (F9).
    pub(crate) fn is_remembered(&self) -> bool {
        let Some(record) = self.record() else { return false };
        let knows =
            |machine: &Machine| machine.memory().seq == record.seq && machine.memory().pending == record.pending;
        self.replicas.iter().all(|it| it.machine.as_ref().is_some_and(|machine| knows(machine)))
    }

    /// Somebody takes the record away, or puts an old copy of it in its place.
    pub(crate) fn lose_record(&mut self, restore: bool) {
        self.lost = self.record().map(|record| record.seq);
        self.was_lost = true;
        let old = self.old.clone().filter(|_| restore);
        self.server_mut().edit_pool(|pool| pool.status.record = old);
    }

    /// Whether an old copy of the record is at hand that says something else.
    pub(crate) fn can_restore(&self) -> bool {
        self.old.as_ref().is_some_and(|old| self.record().is_some_and(|record| old.seq < record.seq))
    }

    /// After a transition: whether what was lost is back, and everybody has seen it.
    pub(crate) fn note_restored(&mut self) {
        let Some(seq) = self.lost else { return };
        let is_back = self.record().is_some_and(|record| record.seq > seq);
        let seen = self.replicas.iter().all(|it| it.machine.as_ref().is_some_and(|m| m.memory().seq > seq));
        if is_back && seen {
            self.lost = None;
        }
    }
}

/// Whether two events of one name are of one object in one stage of its life.
fn same(before: &Event, after: &Event) -> bool {
    match (before, after) {
        (Event::Claim(_, Some(before)), Event::Claim(_, Some(after))) => {
            before.uid == after.uid && before.deleted == after.deleted
        }
        (Event::Address(_, Some(before), _), Event::Address(_, Some(after), _)) => before.uid == after.uid,
        _ => false,
    }
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
        let addresses: Vec<_> = self.server.addresses.values().map(|a| (&a.key.name, &a.held)).collect();
        write!(f, "record {:?}, addresses {addresses:?}", self.record())
    }
}
