//! Simpler ways to fence creates, none of which suffices: why there is a record of intents.
//!
//! A replica may believe at any time that it owns the pool, and a create that was sent may arrive at any later time or
//! never. All else is as good as it can be: who takes over lists the addresses at that very moment.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

use super::pool::TWICE;

type Address = u8;
type Uid = u8;
/// A claim, and its IPAddress.
type Name = u8;

const NAMES: u8 = 2;
const ADDRESSES: u8 = 2;
const REPLICAS: usize = 2;

/// What keeps two owners apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fence {
    /// Whoever took the Lease last is the owner, as far as it knows.
    Lease,
    /// Before each create, one successful compare-and-swap of an object that only the last owner can change.
    Swap,
    /// For each address an object of its own that is created first; two cannot create it.
    Reservation,
}

/// What an owner believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    epoch: u8,
    used: BTreeSet<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Create {
    address: Address,
    name: Name,
    uid: Uid,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    epoch: u8,
    views: Vec<Option<View>>,
    /// Living claims, and whether their deletion was asked for.
    claims: BTreeMap<Name, (Uid, bool)>,
    next_uid: Uid,
    objects: BTreeMap<Name, (Uid, Address)>,
    reservations: BTreeMap<Address, Uid>,
    under_way: BTreeSet<Create>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    TakeOver(usize),
    Allocate(usize, Name),
    Release(usize, Name),
    /// A reservation whose claim is gone.
    Collect(usize, Address),
    Arrive(Create),
    Lose(Create),
    Delete(Name),
    Claim(Name),
}

#[derive(Clone, Debug)]
pub(crate) struct Fenced {
    pub(crate) fence: Fence,
    pub(crate) takeovers: u8,
    pub(crate) claims: Uid,
}

impl Fenced {
    fn of_owner(state: &State, replica: usize, out: &mut Vec<Step>) {
        for (name, (uid, is_deleted)) in &state.claims {
            let object = state.objects.get(name);
            if *is_deleted && object.is_none_or(|(of, _)| of == uid) {
                out.push(Step::Release(replica, *name));
            }
            if !is_deleted && object.is_none() {
                out.push(Step::Allocate(replica, *name));
            }
        }
        let lives = |uid: &Uid| state.claims.values().any(|(living, _)| living == uid);
        let is_used = |address: &Address| state.objects.values().any(|(_, used)| used == address);
        let garbage = state.reservations.iter().filter(|(address, uid)| !lives(uid) && !is_used(address));
        out.extend(garbage.map(|(address, _)| Step::Collect(replica, *address)));
    }

    /// `None`: nothing happens.
    fn allocate(&self, state: &mut State, replica: usize, name: Name) -> Option<()> {
        let epoch = state.epoch;
        let view = state.views[replica].as_mut()?;
        if self.fence == Fence::Swap && view.epoch != epoch {
            state.views[replica] = None;
            return Some(());
        }
        let address = (0..ADDRESSES).find(|address| !view.used.contains(address))?;
        view.used.insert(address);
        let uid = state.claims[&name].0;
        if self.fence == Fence::Reservation && state.reservations.contains_key(&address) {
            return Some(());
        }
        state.reservations.insert(address, uid);
        state.under_way.insert(Create { address, name, uid }).then_some(())
    }

    fn free(state: &mut State, replica: usize, address: Address) {
        state.reservations.remove(&address);
        if let Some(view) = &mut state.views[replica] {
            view.used.remove(&address);
        }
    }
}

impl Model for Fenced {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            epoch: 0,
            views: vec![None; REPLICAS],
            claims: (0..NAMES).map(|name| (name, (name, false))).collect(),
            next_uid: NAMES,
            objects: BTreeMap::new(),
            reservations: BTreeMap::new(),
            under_way: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Step>) {
        for replica in 0..REPLICAS {
            if state.epoch < self.takeovers {
                out.push(Step::TakeOver(replica));
            }
            if state.views[replica].is_some() {
                Self::of_owner(state, replica, out);
            }
        }
        for create in &state.under_way {
            out.extend([Step::Arrive(create.clone()), Step::Lose(create.clone())]);
        }
        for name in 0..NAMES {
            match state.claims.get(&name) {
                Some((_, false)) => out.push(Step::Delete(name)),
                None if state.next_uid < self.claims => out.push(Step::Claim(name)),
                _ => {}
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::TakeOver(replica) => {
                state.epoch += 1;
                let reserved = state.reservations.keys().filter(|_| self.fence == Fence::Reservation);
                let used = state.objects.values().map(|(_, address)| *address).chain(reserved.copied()).collect();
                state.views[replica] = Some(View { epoch: state.epoch, used });
            }
            Step::Allocate(replica, name) => self.allocate(&mut state, replica, name)?,
            Step::Release(replica, name) => {
                state.claims.remove(&name);
                if let Some((_, address)) = state.objects.remove(&name) {
                    Self::free(&mut state, replica, address);
                }
            }
            Step::Collect(replica, address) => Self::free(&mut state, replica, address),
            Step::Arrive(create) => {
                state.under_way.remove(&create);
                state.objects.entry(create.name).or_insert((create.uid, create.address));
            }
            Step::Lose(create) => {
                state.under_way.remove(&create);
            }
            Step::Delete(name) => state.claims.get_mut(&name)?.1 = true,
            Step::Claim(name) => {
                state.claims.insert(name, (state.next_uid, false));
                state.next_uid += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(TWICE, |_, state: &State| {
            let mut held = BTreeSet::new();
            state.objects.values().all(|(_, address)| held.insert(*address))
        })]
    }
}
