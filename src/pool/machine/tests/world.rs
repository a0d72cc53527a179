//! The world around the machines: replicas with lagging watches and clocks of their own, and requests that are late,
//! lost, answered to nobody, or all of it.

use std::sync::Arc;
use std::time::Duration;

use super::fixtures::pool_key;
use super::server::Server;
use crate::api::capi::CapiVersion;
use crate::pool::key::{Now, Sender};
use crate::pool::machine::{Action, Config, Effect, Fact, Input, Machine, OpId, Outcome};
use crate::pool::object::{ClusterState, PoolView};
use crate::pool::record::Memory;

/// F5(b) in this world.
pub(super) const LOCK_DELAY: Duration = Duration::from_mins(1);
/// C19 in this world.
pub(super) const ADOPTION_GRACE: Duration = Duration::from_mins(1);
/// C14 in this world.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_mins(5);
/// Creates end, one way or another, this long after they were sent: the assumptions of docs/sharding.md.
const REQUEST_LIFE: Duration = Duration::from_secs(40);
/// More rounds than any amount of work of these tests needs at one time: beyond it, something runs in a circle.
const MOST_ROUNDS: usize = 2_000;
/// And more requests.
const MOST_REQUESTS: usize = 100_000;

/// What becomes of a request.
pub(super) enum Fate {
    Serve,
    /// It stays where it is, until the fate changes.
    Hold,
    /// It is lost on its way, and nobody knows.
    LoseRequest,
    /// It is carried out, and nobody knows.
    LoseReply,
    /// Nobody knows, and it is carried out later: [`World::deliver_late`].
    Late,
    Refuse,
    NotSent,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Queued,
    Sent,
    Done(Box<Outcome>),
    /// Its sender has given up on it, or is dead; it may still be carried out.
    Ghost,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) actor: usize,
    pub(super) life: u64,
    pub(super) sender: Sender,
    pub(super) op: OpId,
    pub(super) action: Action,
    pub(super) state: State,
    sent_at: Duration,
}

/// One replica.
pub(super) struct Actor {
    pub(super) machine: Option<Machine>,
    pub(super) sender: Sender,
    pub(super) life: u64,
    /// The pool as it was read at the start, before the addresses; with the place in its log.
    pub(super) starting: Option<(Option<Arc<PoolView>>, usize)>,
    /// How far each watch has come: pool, claims, addresses.
    pub(super) seen: [usize; 3],
    clock: Duration,
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) actors: Vec<Actor>,
    pub(super) flights: Vec<Flight>,
    pub(super) time: Duration,
    pub(super) fate: Box<dyn FnMut(&Action) -> Fate>,
    /// Everything that was sent, where a test asks for it.
    pub(super) sent: Option<Vec<Action>>,
    pub(super) facts: Vec<Fact>,
    pub(super) orphan_grace: Option<Duration>,
    /// The state of the cluster of every IPAddress without a claim.
    pub(super) cluster: ClusterState,
    lives: u64,
}

impl World {
    /// A world with nothing in it.
    pub(super) fn empty() -> Self {
        Self {
            server: Server::default(),
            actors: Vec::new(),
            flights: Vec::new(),
            time: Duration::ZERO,
            fate: Box::new(|_| Fate::Serve),
            sent: None,
            facts: Vec::new(),
            orphan_grace: Some(ORPHAN_GRACE),
            cluster: ClusterState::None,
            lives: 0,
        }
    }

    pub(super) fn add_actor(&mut self) -> usize {
        self.actors.push(Actor {
            machine: None,
            sender: "".into(),
            life: 0,
            starting: None,
            seen: [0; 3],
            clock: Duration::ZERO,
        });
        self.actors.len() - 1
    }

    /// The first half of a start: the pools are listed.
    pub(super) fn read_pool(&mut self, actor: usize) {
        self.actors[actor].starting = Some((self.server.pool.clone(), self.server.pool_log.len()));
    }

    /// The second half: the addresses and claims are listed, and the machine is made.
    pub(super) fn start(&mut self, actor: usize, memory: Memory) {
        let sender = format!("sender-{}", self.lives + 1).into();
        self.start_with(actor, sender, memory);
    }

    /// Another machine of the same process.
    pub(super) fn start_as(&mut self, actor: usize, sender: Sender) {
        self.start_with(actor, sender, Memory::default());
    }

    fn start_with(&mut self, actor: usize, sender: Sender, memory: Memory) {
        self.lives += 1;
        let it = &mut self.actors[actor];
        let Some((pool, at)) = it.starting.take() else { panic!("pools are listed first") };
        it.life = self.lives;
        it.sender = sender;
        it.clock = Duration::from_secs(1_000 * self.lives);
        it.seen = [at, self.server.claim_log.len(), self.server.address_log.len()];
        let config = Config {
            me: it.sender.clone(),
            lock_delay: LOCK_DELAY,
            adoption_grace: ADOPTION_GRACE,
            orphan_grace: self.orphan_grace,
            version: CapiVersion::V1Beta2,
        };
        it.machine = Some(Machine::new(pool_key(), config, memory));
        let listed = self.server.version();
        let addresses = self.server.addresses.values();
        let mut inputs: Vec<_> = addresses.map(|a| Input::Address(a.key.clone(), Some(a.clone()), a.version)).collect();
        inputs.push(Input::Store(listed));
        inputs.push(Input::Pool { view: pool.map(|p| Box::new(PoolView::clone(&p))), covered: Some(listed) });
        inputs.extend(self.server.claims.values().map(|c| Input::Claim(c.key.clone(), Some(c.clone()))));
        inputs.extend(
            self.server
                .addresses
                .keys()
                .filter(|key| !self.server.claims.contains_key(*key))
                .map(|key| Input::Unclaimed(key.clone(), Some(self.cluster))),
        );
        self.step(actor, inputs);
    }

    /// The process is gone. What it sent is still under way.
    pub(super) fn crash(&mut self, actor: usize) {
        let life = self.actors[actor].life;
        self.actors[actor].machine = None;
        self.actors[actor].starting = None;
        self.flights.retain_mut(|flight| {
            let mine = flight.life == life;
            let under_way = matches!(flight.state, State::Sent) && is_write(&flight.action);
            if mine && under_way {
                flight.state = State::Ghost;
            }
            !mine || matches!(flight.state, State::Ghost)
        });
    }

    pub(super) fn now(&self, actor: usize) -> Now {
        Now { boot: self.actors[actor].clock + self.time, server: self.server.now() }
    }

    pub(super) fn step(&mut self, actor: usize, inputs: Vec<Input>) {
        let now = self.now(actor);
        let it = &mut self.actors[actor];
        let Some(machine) = &mut it.machine else { return };
        let step = machine.step(inputs, now);
        let (life, sender) = (it.life, it.sender.clone());
        self.facts.extend(step.facts);
        for Effect { op, action } in step.effects {
            let state = State::Queued;
            self.flights.push(Flight { actor, life, sender: sender.clone(), op, action, state, sent_at: self.time });
        }
    }

    /// Steps if the machine asked to be woken by now.
    pub(super) fn wake(&mut self, actor: usize) -> bool {
        let now = self.now(actor);
        let due = self.actors[actor].machine.as_ref().and_then(Machine::wake_at).is_some_and(|at| at <= now.boot);
        if due {
            self.step(actor, Vec::new());
        }
        due
    }

    /// The next event of a watch: 0 for the pool, 1 for claims, 2 for addresses. With none left, the addresses' watch
    /// brings a bookmark.
    pub(super) fn deliver(&mut self, actor: usize, kind: usize) -> bool {
        let it = &mut self.actors[actor];
        if it.machine.is_none() {
            return false;
        }
        let at = it.seen[kind];
        let inputs = match kind {
            0 => self.server.pool_log.get(at).map(|(_, pool)| {
                let view = pool.as_ref().map(|pool| Box::new(PoolView::clone(pool)));
                vec![Input::Pool { view, covered: None }]
            }),
            1 => self.server.claim_log.get(at).map(|(_, (key, claim))| {
                let mut inputs = vec![Input::Claim(key.clone(), claim.clone())];
                if it.machine.as_ref().is_some_and(|machine| machine.addresses.contains_key(key)) {
                    let cluster = claim.is_none().then_some(self.cluster);
                    inputs.push(Input::Unclaimed(key.clone(), cluster));
                }
                inputs
            }),
            _ => self.server.address_log.get(at).map(|(version, (key, address))| {
                let mut inputs = vec![Input::Address(key.clone(), address.clone(), *version), Input::Store(*version)];
                if it.machine.as_ref().is_some_and(|machine| !machine.claims.contains_key(key)) {
                    let cluster = address.is_some().then_some(self.cluster);
                    inputs.push(Input::Unclaimed(key.clone(), cluster));
                }
                inputs
            }),
        };
        if let Some(inputs) = inputs {
            it.seen[kind] += 1;
            self.step(actor, inputs);
            return true;
        }
        if kind == 2 && it.machine.as_ref().is_some_and(|machine| machine.store < self.server.version()) {
            self.step(actor, vec![Input::Store(self.server.version())]);
            return true;
        }
        false
    }

    /// Queued → Sent, or not sent where F1 forbids it by now.
    pub(super) fn send(&mut self, flight: usize) {
        let (actor, life) = (self.flights[flight].actor, self.flights[flight].life);
        let now = self.now(actor).boot;
        if let Some(sent) = &mut self.sent {
            sent.push(self.flights[flight].action.clone());
        }
        if let Action::CreateAddress(new) = &self.flights[flight].action
            && now >= new.not_after
            && life == self.actors[actor].life
        {
            return self.answer_with(flight, Outcome::NotSent("too late".into()));
        }
        self.flights[flight].state = State::Sent;
        self.flights[flight].sent_at = self.time;
    }

    /// Sent → Done, or a ghost that is carried out and gone.
    pub(super) fn execute(&mut self, flight: usize) {
        let it = &self.flights[flight];
        let outcome = self.server.serve(&it.sender, &it.action);
        if matches!(it.state, State::Ghost) {
            self.flights.swap_remove(flight);
        } else {
            self.flights[flight].state = State::Done(Box::new(outcome));
        }
    }

    /// Done → answered.
    pub(super) fn answer(&mut self, flight: usize) {
        let State::Done(outcome) = self.flights[flight].state.clone() else { panic!("there is no answer yet") };
        self.answer_with(flight, *outcome);
    }

    pub(super) fn answer_with(&mut self, flight: usize, outcome: Outcome) {
        let it = self.flights.swap_remove(flight);
        self.reply(it.actor, it.life, it.op, outcome);
    }

    fn reply(&mut self, actor: usize, life: u64, op: OpId, outcome: Outcome) {
        if self.actors[actor].life == life {
            self.step(actor, vec![Input::Reply(op, outcome)]);
        }
    }

    /// The sender gets no answer; a write that was sent stays under way.
    pub(super) fn give_up(&mut self, flight: usize) {
        let unknown = Outcome::Unknown("no answer".into());
        let it = &mut self.flights[flight];
        if matches!(it.state, State::Sent) && is_write(&it.action) {
            let (actor, life, op) = (it.actor, it.life, it.op);
            it.state = State::Ghost;
            self.reply(actor, life, op, unknown);
        } else {
            self.answer_with(flight, unknown);
        }
    }

    /// Carries out what was late.
    pub(super) fn deliver_late(&mut self) {
        while let Some(flight) = self.flights.iter().position(|flight| matches!(flight.state, State::Ghost)) {
            self.execute(flight);
        }
    }

    /// Whether a request of this instance may still arrive.
    pub(super) fn is_under_way(&self, sender: &Sender) -> bool {
        self.flights.iter().any(|flight| flight.sender == *sender)
    }

    /// Lets time pass at once. Creates that would live longer than they can are carried out or lost before.
    pub(super) fn let_pass(&mut self, time: Duration, mut is_delivered: impl FnMut() -> bool) {
        self.time += time;
        self.server.seconds = i64::try_from(self.time.as_secs()).expect("a short test");
        let now = self.time;
        let over = |flight: &Flight| {
            let open = matches!(flight.state, State::Sent | State::Ghost);
            open && matches!(flight.action, Action::CreateAddress(_)) && flight.sent_at + REQUEST_LIFE <= now
        };
        while let Some(flight) = self.flights.iter().position(over) {
            let ghost = matches!(self.flights[flight].state, State::Ghost);
            if is_delivered() {
                self.execute(flight);
            } else if ghost {
                self.flights.swap_remove(flight);
            } else {
                self.answer_with(flight, Outcome::Unknown("timeout".into()));
            }
        }
    }

    /// Everything that happens at this time when nothing is slow.
    pub(super) fn run(&mut self) {
        for _ in 0..MOST_ROUNDS {
            if !self.round() {
                return;
            }
        }
        panic!("no end of work at one time: {:?}", self.flights);
    }

    fn round(&mut self) -> bool {
        let mut progress = false;
        for actor in 0..self.actors.len() {
            for kind in 0..3 {
                while self.deliver(actor, kind) {
                    progress = true;
                }
            }
            progress |= self.wake(actor);
        }
        let (mut flight, mut met) = (0, 0);
        while flight < self.flights.len() {
            if matches!(self.flights[flight].state, State::Queued) && self.meet_fate(flight) {
                progress = true;
                met += 1;
                assert!(met < MOST_REQUESTS, "a circle of {:?}", self.flights);
            } else {
                flight += 1;
            }
        }
        progress
    }

    fn meet_fate(&mut self, flight: usize) -> bool {
        match (self.fate)(&self.flights[flight].action) {
            Fate::Hold => return false,
            Fate::Refuse => self.answer_with(flight, Outcome::Refused("no".into())),
            Fate::NotSent => self.answer_with(flight, Outcome::NotSent("no connection".into())),
            fate => {
                let length = self.flights.len();
                self.send(flight);
                if self.flights.len() < length || !matches!(self.flights[flight].state, State::Sent) {
                    return true;
                }
                match fate {
                    Fate::LoseRequest => self.answer_with(flight, Outcome::Unknown("lost".into())),
                    Fate::Late => self.give_up(flight),
                    Fate::LoseReply => {
                        self.execute(flight);
                        self.answer_with(flight, Outcome::Unknown("lost".into()));
                    }
                    _ => {
                        self.execute(flight);
                        self.answer(flight);
                    }
                }
            }
        }
        true
    }

    /// Runs, and lets time pass from one alarm to the next until all of it is over.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.time + time;
        self.run();
        while self.time < end {
            let next = self.next_alarm().map_or(end, |at| at.max(self.time + Duration::from_millis(1)).min(end));
            let step = next.saturating_sub(self.time);
            self.let_pass(step, || false);
            self.run();
        }
    }

    fn next_alarm(&self) -> Option<Duration> {
        let alarm = |actor: &Actor| Some(actor.machine.as_ref()?.wake_at()?.saturating_sub(actor.clock));
        self.actors.iter().filter_map(alarm).min()
    }
}

pub(super) fn is_create(action: &Action) -> bool {
    matches!(action, Action::CreateAddress(_))
}

pub(super) fn is_put(action: &Action) -> bool {
    matches!(action, Action::PutPoolStatus { .. })
}

pub(super) fn is_list(action: &Action) -> bool {
    matches!(action, Action::ListAddresses(_))
}

pub(super) fn is_write(action: &Action) -> bool {
    !matches!(action, Action::GetPool | Action::GetClaim(_) | Action::GetAddress(_) | Action::ListAddresses(_))
}
