//! The allocation protocol, carried out by the machine that runs in production.

mod server;
mod traffic;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use capi_ipam::pool::key::Sender;
use capi_ipam::pool::machine::Input;
use capi_ipam::pool::machine::Outcome;
use capi_ipam::pool::object::Address;
use capi_ipam::pool::record::Record;
use capi_ipam::pool::rule::{self, Rule};
use stateright::{Model, Property};

use server::key;
pub(crate) use traffic::{Budget, Slow};
use traffic::{Kind, kind_of};
use world::{Rules, World};

/// What is wrong with the world, as against the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// F2: the server does not compare resourceVersions of the pool.
    NoComparison,
    /// F2: a commit without an answer is taken for one that was stored as it was sent.
    InventedAnswer,
    /// F7: uid and version of an IPAddress that is changed or deleted are not compared.
    NoPreconditions,
}

/// The names of the claims.
const CLAIMS: [&str; 3] = ["a", "b", "c"];

/// A bounded world.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) replicas: usize,
    pub(crate) addresses: u8,
    pub(crate) names: usize,
    pub(crate) budget: Budget,
    pub(crate) slow: Slow,
    pub(crate) broken: Option<Rule>,
    pub(crate) flaw: Option<Flaw>,
}

/// What can happen. Replicas, flights and ghosts go by number, claims by index of their name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    Claim(usize),
    Delete(usize),
    SeeClaim(usize),
    SeeAddress(usize),
    SeePool(usize),
    Wake(usize),
    /// Time goes by, so much that a create needs to be listed again (F1).
    Pass,
    /// Carried out and answered.
    Serve(usize, usize),
    Execute(usize, usize),
    Answer(usize, usize),
    /// Carried out, and the answer is lost.
    LoseAnswer(usize, usize),
    /// The sender gives up on it.
    GiveUp(usize, usize),
    NotSent(usize, usize),
    Land(usize),
    Vanish(usize),
    Crash(usize),
    Start(usize),
    Drained(usize, Sender),
    Strip(usize),
    Sweep(usize),
    LoseRecord,
    RestoreRecord,
    DeletePool,
    CreatePool,
}

impl Pool {
    fn rules(&self) -> Rules {
        Rules { slow: self.slow, flaw: self.flaw }
    }

    fn of_users(&self, world: &World, out: &mut Vec<Happening>) {
        let (server, budget) = (&world.server, world.budget);
        for (index, name) in CLAIMS.iter().enumerate().take(self.names) {
            match server.claims.get(&key(name)) {
                None if budget.claims > 0 => out.push(Happening::Claim(index)),
                Some(claim) if budget.deletes > 0 && claim.deleted.is_none() => out.push(Happening::Delete(index)),
                _ => {}
            }
            match (server.addresses.get(&key(name)), server.claims.get(&key(name))) {
                (Some(_), None) => out.push(Happening::Sweep(index)),
                (Some(_), Some(_)) if budget.strips > 0 => out.push(Happening::Strip(index)),
                _ => {}
            }
        }
        if budget.losses > 0 && world.lost.is_none() && world.is_remembered() {
            out.push(Happening::LoseRecord);
            if world.can_restore() {
                out.push(Happening::RestoreRecord);
            }
        }
        match &server.pool {
            None => out.push(Happening::CreatePool),
            Some(pool) if budget.pools > 0 && !pool.deleting => out.push(Happening::DeletePool),
            Some(_) => {}
        }
    }

    fn of_replica(world: &World, replica: usize, out: &mut Vec<Happening>) {
        let (it, budget) = (&world.replicas[replica], world.budget);
        let Some(_) = &it.machine else {
            out.push(Happening::Start(replica));
            return;
        };
        if !it.claims.is_empty() {
            out.push(Happening::SeeClaim(replica));
        }
        if !it.addresses.is_empty() {
            out.push(Happening::SeeAddress(replica));
        }
        if world.has_pool_news(replica) {
            out.push(Happening::SeePool(replica));
        }
        if budget.wakes > 0 && world.may_wake(replica) {
            out.push(Happening::Wake(replica));
        }
        if budget.crashes > 0 && world.lost.is_none() {
            out.push(Happening::Crash(replica));
        }
        for sender in world.dead.iter().filter(|sender| world.is_drained(sender)) {
            let stands = |record: &Record| record.pending.values().any(|intent| intent.senders.contains(sender));
            if world.record().is_some_and(stands) && !it.told.contains(sender) {
                out.push(Happening::Drained(replica, sender.clone()));
            }
        }
        for (number, flight) in it.flights.iter().enumerate() {
            Self::of_flight((replica, number), kind_of(&flight.action), flight.done.is_some(), budget, out);
        }
    }

    fn of_flight(
        (replica, number): (usize, usize),
        kind: Kind,
        is_done: bool,
        budget: Budget,
        out: &mut Vec<Happening>,
    ) {
        if is_done {
            out.push(Happening::Answer(replica, number));
        } else if matches!(kind, Kind::Commit | Kind::Delete) {
            out.push(Happening::Serve(replica, number));
        } else {
            out.push(Happening::Execute(replica, number));
        }
        if budget.faults == 0 {
            return;
        }
        if matches!(kind, Kind::Commit | Kind::Create | Kind::Delete) {
            out.push(Happening::GiveUp(replica, number));
        }
        if !is_done && kind == Kind::Commit {
            out.push(Happening::LoseAnswer(replica, number));
        }
        if !is_done && kind == Kind::Create {
            out.push(Happening::NotSent(replica, number));
        }
    }

    fn carry_out(&self, world: &mut World, happening: &Happening) {
        let rules = self.rules();
        match *happening {
            Happening::Claim(name) => {
                world.budget.claims -= 1;
                world.server_mut().create_claim(CLAIMS[name]);
                world.broadcast(None);
            }
            Happening::Delete(name) => {
                world.budget.deletes -= 1;
                world.server_mut().delete_claim(&key(CLAIMS[name]));
                world.broadcast(None);
            }
            Happening::Strip(name) => {
                world.budget.strips -= 1;
                world.server_mut().remove_address(&key(CLAIMS[name]));
                world.broadcast(None);
            }
            Happening::Sweep(name) => {
                world.server_mut().remove_address(&key(CLAIMS[name]));
                world.broadcast(None);
            }
            Happening::SeeClaim(replica) => drop(world.see_claim(replica, rules)),
            Happening::SeeAddress(replica) => drop(world.see_address(replica, rules)),
            Happening::SeePool(replica) => drop(world.see_pool(replica, rules)),
            Happening::Wake(replica) => {
                world.budget.wakes -= 1;
                world.wake(replica, rules);
            }
            Happening::Pass => {
                world.budget.passes -= 1;
                world.pass();
            }
            Happening::Serve(replica, flight) => {
                world.execute(replica, flight, rules);
                world.answer(replica, flight, rules);
            }
            Happening::Execute(replica, flight) => world.execute(replica, flight, rules),
            Happening::Answer(replica, flight) => world.answer(replica, flight, rules),
            Happening::LoseAnswer(replica, flight) => {
                world.budget.faults -= 1;
                world.execute(replica, flight, rules);
                world.fail(replica, flight, Outcome::Unknown("lost".to_owned()), rules);
            }
            Happening::GiveUp(replica, flight) => {
                world.budget.faults -= 1;
                world.fail(replica, flight, Outcome::Unknown("lost".to_owned()), rules);
            }
            Happening::NotSent(replica, flight) => {
                world.budget.faults -= 1;
                world.fail(replica, flight, Outcome::NotSent("no connection".to_owned()), rules);
            }
            Happening::Land(ghost) => world.land(ghost, rules),
            Happening::Vanish(ghost) => drop(world.ghosts.remove(ghost)),
            Happening::Crash(replica) => {
                world.budget.crashes -= 1;
                world.crash(replica);
            }
            Happening::Start(replica) => world.start(replica, rules),
            Happening::Drained(replica, ref sender) => {
                world.replicas[replica].told.insert(sender.clone());
                world.step(replica, vec![Input::Drained(sender.clone())], rules);
            }
            Happening::LoseRecord | Happening::RestoreRecord => {
                world.budget.losses -= 1;
                world.lose_record(*happening == Happening::RestoreRecord);
            }
            Happening::DeletePool => {
                world.budget.pools -= 1;
                world.server_mut().edit_pool(|pool| pool.deleting = true);
            }
            Happening::CreatePool => world.server_mut().create_pool(self.addresses),
        }
    }
}

impl Model for Pool {
    type State = World;
    type Action = Happening;

    fn init_states(&self) -> Vec<World> {
        // The world that all begins in is sound.
        rule::set_broken(None);
        vec![World::new(self.replicas, self.addresses, self.budget, self.rules())]
    }

    fn actions(&self, world: &World, out: &mut Vec<Happening>) {
        self.of_users(world, out);
        for replica in 0..world.replicas.len() {
            Self::of_replica(world, replica, out);
        }
        if world.budget.passes > 0 && world.may_pass() {
            out.push(Happening::Pass);
        }
        for ghost in 0..world.ghosts.len() {
            out.push(Happening::Land(ghost));
            out.push(Happening::Vanish(ghost));
        }
    }

    fn next_state(&self, world: &World, happening: Happening) -> Option<World> {
        rule::set_broken(self.broken);
        let mut next = world.clone();
        self.carry_out(&mut next, &happening);
        next.note_restored();
        next.seal();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWICE, |_, world: &World| {
                let mut held = BTreeSet::new();
                world.server.addresses.values().all(|address| address.held.as_ref().is_ok_and(|it| held.insert(*it)))
            }),
            Property::always(TWO_PROMISES, |_, world: &World| {
                let second = |address: &Arc<Address>| {
                    let claim = world.server.made_for.get(&address.uid);
                    let intent = claim.and_then(|claim| world.record()?.pending.get(claim));
                    intent.is_some_and(|intent| address.held != Ok(intent.held))
                };
                !world.server.addresses.values().any(second)
            }),
            Property::always(UNBACKED, |_, world: &World| world.was_lost || !world.server.seen.unbacked),
            Property::always(ROBBED, |_, world: &World| !world.server.seen.robbed),
            Property::sometimes(SERVED, |_, world: &World| {
                world.server.claims.len() > 1 && world.server.claims.values().all(|claim| claim.address_ref.is_some())
            }),
            Property::sometimes(ROLLED, |_, world: &World| world.server.seen.rolled_forward),
            Property::sometimes(REUSED, |_, world: &World| world.server.seen.reused),
            Property::sometimes(SERVED_AFTER_CRASH, |_, world: &World| {
                !world.dead.is_empty() && world.server.claims.values().any(|claim| claim.address_ref.is_some())
            }),
        ]
    }
}

pub(crate) const TWICE: &str = "no address is in two IPAddresses";
pub(crate) const TWO_PROMISES: &str = "no claim is promised a second address";
pub(crate) const UNBACKED: &str = "no create is carried out after its intent was settled";
pub(crate) const ROBBED: &str = "no living claim loses its IPAddress to a release";
pub(crate) const SERVED: &str = "all claims are served";
pub(crate) const ROLLED: &str = "an inherited intent is rolled forward";
pub(crate) const REUSED: &str = "a freed address is given to another claim";
pub(crate) const SERVED_AFTER_CRASH: &str = "a claim is served after a crash";
