//! The allocation protocol by itself: small enough to look at every state.
//!
//! One record of intents per pool, changed by compare-and-swap; a watermark below which no view of the IPAddresses may
//! lie; and rules for when an intent may go. There is no owner at all: every replica acts whenever it likes, on a view
//! as old as the watermark allows. A swap that fails changes nothing, so only successful ones are steps.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

use super::pool::{ROLLED, SERVED, TWICE, TWO_PROMISES};

type Address = u8;
type Uid = u8;
/// A claim, and its IPAddress.
type Name = u8;
/// Counts commits, and names the intent that was made in one.
type Seq = u8;
/// How many events of IPAddresses after the watermark.
type Position = u8;
/// A replica, and which life of it.
type Sender = (u8, u8);

const REPLICAS: u8 = 2;

/// What is left out of the protocol, or done against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// F3: a view may be older than the watermark.
    OldView,
    /// F4: intents are not looked at when an address is chosen.
    IntentsIgnored,
    /// F5: an intent is dropped once its IPAddress is seen.
    Seen,
    /// F5(a): an intent is dropped on the own answer, though others are listed.
    OthersIgnored,
    /// F5(b): a drained intent is dropped without a consistent look for the watermark.
    NoLook,
    /// F5(c): an answer from before still counts after being listed again.
    OldAnswer,
    /// F5: a sender sends again after the intent was dropped.
    SentAfterDrop,
    /// F6: an intent of others is rolled forward without being listed in it.
    NotListed,
    /// F9: a record is lost that nobody remembers, and all goes on from a LIST.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Intent {
    address: Address,
    name: Name,
    uid: Uid,
    senders: BTreeSet<Sender>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Create {
    seq: Seq,
    address: Address,
    name: Name,
    uid: Uid,
    sender: Sender,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Object {
    uid: Uid,
    address: Address,
    /// The event after the watermark that created it; zero if that was before.
    version: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    life: u8,
    /// Intents whose create was answered, with the version in the answer.
    answered: BTreeMap<Seq, Position>,
    /// Intents of others for which it sent a create.
    rolled: BTreeSet<Seq>,
}

type View = BTreeMap<Name, (Uid, Address)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    commits: Seq,
    pending: BTreeMap<Seq, Intent>,
    objects: BTreeMap<Name, Object>,
    /// The IPAddresses at the watermark, and what became of them since.
    base: View,
    later: Vec<(Name, Option<(Uid, Address)>)>,
    /// Living claims, and whether their deletion was asked for.
    claims: BTreeMap<Name, (Uid, bool)>,
    next_uid: Uid,
    under_way: BTreeSet<Create>,
    replicas: Vec<Replica>,
    /// Every intent that there was, for whoever sends again.
    former: BTreeMap<Seq, Intent>,
    is_lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// The replica commits an intent, chosen from the view at this position, and sends its create.
    Intend(u8, Name, Position),
    /// The replica is listed in an intent of others, and sends a create.
    RollForward(u8, Seq),
    /// The replica drops an intent.
    Drop(u8, Seq),
    /// The replica leaves an intent to its other senders (F5(c)).
    Leave(u8, Seq),
    SendAgain(u8, Seq),
    Crash(u8),
    /// With the answer, or without.
    Arrive(Create, bool),
    Lose(Create),
    Delete(Name),
    /// A deleted claim is let go, after its IPAddress.
    Release(Name),
    /// An IPAddress without its claim is removed.
    Sweep(Name),
    Claim(Name),
    LoseRecord,
}

/// Bounds, and what is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) addresses: Address,
    pub(crate) names: Name,
    /// Lives of a replica after its first.
    pub(crate) crashes: u8,
    /// Claims that are created after the first ones.
    pub(crate) claims: Uid,
    pub(crate) commits: Seq,
    /// Whether senders leave intents.
    pub(crate) leaving: bool,
    pub(crate) fault: Option<Fault>,
}

impl State {
    fn view(&self, position: Position) -> View {
        let mut view = self.base.clone();
        for (name, object) in &self.later[..usize::from(position)] {
            match object {
                Some(object) => drop(view.insert(*name, *object)),
                None => drop(view.remove(name)),
            }
        }
        view
    }

    fn end(&self) -> Position {
        u8::try_from(self.later.len()).expect("a short history")
    }

    fn remove(&mut self, name: Name) {
        if self.objects.remove(&name).is_some() {
            self.later.push((name, None));
        }
    }

    fn raise_watermark(&mut self, to: Position) {
        let to = to.min(self.end());
        self.base = self.view(to);
        self.later.drain(..usize::from(to));
        for object in self.objects.values_mut() {
            object.version = object.version.saturating_sub(to);
        }
        for version in self.replicas.iter_mut().flat_map(|replica| replica.answered.values_mut()) {
            *version = version.saturating_sub(to);
        }
    }

    fn sender(&self, replica: u8) -> Sender {
        (replica, self.replicas[usize::from(replica)].life)
    }

    fn send(&mut self, replica: u8, seq: Seq, intent: &Intent) {
        let sender = self.sender(replica);
        let Intent { address, name, uid, .. } = *intent;
        self.under_way.insert(Create { seq, address, name, uid, sender });
    }

    fn lives(&self, intent: &Intent) -> bool {
        self.claims.get(&intent.name) == Some(&(intent.uid, false))
    }

    fn is_drained(&self, seq: Seq) -> bool {
        !self.under_way.iter().any(|create| create.seq == seq)
    }
}

impl Recorded {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn of_replica(&self, state: &State, number: u8, out: &mut Vec<Step>) {
        let replica = &state.replicas[usize::from(number)];
        let me = state.sender(number);
        // A crash in between two pieces of work is no news to anybody.
        if replica.life < self.crashes && state.pending.values().any(|intent| intent.senders.contains(&me)) {
            out.push(Step::Crash(number));
        }
        if state.commits < self.commits {
            for position in 0..=state.end() {
                let view = state.view(position);
                for (name, (uid, is_deleted)) in &state.claims {
                    let has_object = view.get(name).is_some_and(|(of, _)| of == uid);
                    let is_promised = state.pending.values().any(|intent| intent.uid == *uid);
                    if !is_deleted && !has_object && !is_promised && self.choose(state, &view).is_some() {
                        out.push(Step::Intend(number, *name, position));
                    }
                }
            }
        }
        for (seq, intent) in &state.pending {
            self.of_intent(state, number, *seq, intent, out);
        }
        if self.has(Fault::SentAfterDrop) {
            let dropped = state.former.iter().filter(|(seq, intent)| {
                !state.pending.contains_key(seq) && intent.senders.contains(&me) && state.lives(intent)
            });
            let again = dropped.filter(|(seq, _)| state.is_drained(**seq));
            out.extend(again.map(|(seq, _)| Step::SendAgain(number, *seq)));
        }
    }

    fn of_intent(&self, state: &State, number: u8, seq: Seq, intent: &Intent, out: &mut Vec<Step>) {
        let replica = &state.replicas[usize::from(number)];
        let is_listed = intent.senders.contains(&state.sender(number));
        let is_answered = replica.answered.contains_key(&seq);
        if !is_listed && !replica.rolled.contains(&seq) && state.lives(intent) {
            out.push(Step::RollForward(number, seq));
        }
        let is_alone = is_listed && intent.senders.len() == 1;
        let is_seen =
            state.objects.get(&intent.name).is_some_and(|o| (o.uid, o.address) == (intent.uid, intent.address));
        let may_drop = (is_alone || self.has(Fault::OthersIgnored)) && is_answered
            || state.is_drained(seq)
            || self.has(Fault::Seen) && is_seen;
        if may_drop {
            out.push(Step::Drop(number, seq));
        }
        if self.leaving && is_listed && !is_alone && is_answered {
            out.push(Step::Leave(number, seq));
        }
    }

    /// The lowest address that is neither in the view nor promised.
    fn choose(&self, state: &State, view: &View) -> Option<Address> {
        let mut used: BTreeSet<Address> = view.values().map(|(_, address)| *address).collect();
        if !self.has(Fault::IntentsIgnored) {
            used.extend(state.pending.values().map(|intent| intent.address));
        }
        (0..self.addresses).find(|address| !used.contains(address))
    }

    fn intend(&self, state: &mut State, replica: u8, name: Name, position: Position) -> Option<()> {
        let address = self.choose(state, &state.view(position))?;
        state.commits += 1;
        let senders = [state.sender(replica)].into();
        let intent = Intent { address, name, uid: state.claims[&name].0, senders };
        state.send(replica, state.commits, &intent);
        if self.has(Fault::SentAfterDrop) {
            state.former.insert(state.commits, intent.clone());
        }
        state.pending.insert(state.commits, intent);
        Some(())
    }

    fn drop_intent(&self, state: &mut State, replica: u8, seq: Seq) {
        let Some(intent) = state.pending.remove(&seq) else { return };
        let answered = state.replicas[usize::from(replica)].answered.get(&seq).copied();
        let found = state.objects.get(&intent.name).map(|object| object.version).filter(|_| !self.has(Fault::NoLook));
        for replica in &mut state.replicas {
            replica.answered.remove(&seq);
            replica.rolled.remove(&seq);
        }
        if !self.has(Fault::OldView) {
            state.raise_watermark(answered.max(found).unwrap_or(0));
        }
    }

    fn arrive(state: &mut State, create: &Create, is_answered: bool) {
        state.under_way.remove(create);
        let version = if let Some(object) = state.objects.get(&create.name) {
            object.version
        } else {
            state.later.push((create.name, Some((create.uid, create.address))));
            let version = state.end();
            let Create { uid, address, .. } = *create;
            state.objects.insert(create.name, Object { uid, address, version });
            version
        };
        let is_pending = state.pending.contains_key(&create.seq);
        let replica = &mut state.replicas[usize::from(create.sender.0)];
        if is_answered && is_pending && replica.life == create.sender.1 {
            replica.answered.insert(create.seq, version);
        }
    }

    fn leave(&self, state: &mut State, replica: u8, seq: Seq) {
        let me = state.sender(replica);
        if let Some(intent) = state.pending.get_mut(&seq) {
            intent.senders.remove(&me);
        }
        let replica = &mut state.replicas[usize::from(replica)];
        replica.rolled.remove(&seq);
        if !self.has(Fault::OldAnswer) {
            replica.answered.remove(&seq);
        }
    }
}

impl Model for Recorded {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            commits: 0,
            pending: BTreeMap::new(),
            objects: BTreeMap::new(),
            base: View::new(),
            later: Vec::new(),
            claims: (0..self.names).map(|name| (name, (name, false))).collect(),
            next_uid: self.names,
            under_way: BTreeSet::new(),
            replicas: vec![Replica::default(); usize::from(REPLICAS)],
            former: BTreeMap::new(),
            is_lost: false,
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Step>) {
        for replica in 0..REPLICAS {
            self.of_replica(state, replica, out);
        }
        for create in &state.under_way {
            let arrive = |is_answered| Step::Arrive(create.clone(), is_answered);
            out.extend([arrive(true), arrive(false), Step::Lose(create.clone())]);
        }
        for name in 0..self.names {
            let object = state.objects.get(&name);
            match state.claims.get(&name) {
                Some((uid, true)) if object.is_none_or(|object| object.uid == *uid) => out.push(Step::Release(name)),
                Some((_, false)) => out.push(Step::Delete(name)),
                None if state.next_uid < self.names + self.claims => out.push(Step::Claim(name)),
                _ => {}
            }
            if object.is_some_and(|object| state.claims.get(&name).is_none_or(|(uid, _)| *uid != object.uid)) {
                out.push(Step::Sweep(name));
            }
        }
        if self.has(Fault::Lost) && !state.is_lost && !state.pending.is_empty() {
            out.push(Step::LoseRecord);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Intend(replica, name, position) => self.intend(&mut state, replica, name, position)?,
            Step::RollForward(replica, seq) => {
                let me = state.sender(replica);
                let intent = state.pending.get_mut(&seq)?;
                if !self.has(Fault::NotListed) {
                    intent.senders.insert(me);
                }
                let intent = intent.clone();
                state.replicas[usize::from(replica)].rolled.insert(seq);
                state.send(replica, seq, &intent);
            }
            Step::Drop(replica, seq) => self.drop_intent(&mut state, replica, seq),
            Step::Leave(replica, seq) => self.leave(&mut state, replica, seq),
            Step::SendAgain(replica, seq) => {
                let intent = state.former.get(&seq)?.clone();
                state.send(replica, seq, &intent);
            }
            Step::Crash(replica) => {
                let replica = &mut state.replicas[usize::from(replica)];
                *replica = Replica { life: replica.life + 1, ..Replica::default() };
            }
            Step::Arrive(create, is_answered) => Self::arrive(&mut state, &create, is_answered),
            Step::Lose(create) => drop(state.under_way.remove(&create)),
            Step::Delete(name) => state.claims.get_mut(&name)?.1 = true,
            Step::Release(name) => {
                state.remove(name);
                state.claims.remove(&name);
            }
            Step::Sweep(name) => state.remove(name),
            Step::Claim(name) => {
                state.claims.insert(name, (state.next_uid, false));
                state.next_uid += 1;
            }
            Step::LoseRecord => {
                state.is_lost = true;
                state.pending.clear();
                let end = state.end();
                state.raise_watermark(end);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWICE, |_, state: &State| {
                let mut held = BTreeSet::new();
                state.objects.values().all(|object| held.insert(object.address))
            }),
            Property::always(TWO_PROMISES, |_, state: &State| {
                let second = |object: &Object| {
                    state.pending.values().any(|it| it.uid == object.uid && it.address != object.address)
                };
                !state.objects.values().any(second)
            }),
            Property::sometimes(SERVED, |model: &Self, state: &State| {
                let is_served =
                    |(name, claim): (&Name, &(Uid, bool))| state.objects.get(name).is_some_and(|o| o.uid == claim.0);
                state.claims.len() == usize::from(model.names) && state.claims.iter().all(is_served)
            }),
            Property::sometimes(ROLLED, |_, state: &State| {
                state.replicas.iter().any(|it| it.rolled.iter().any(|seq| it.answered.contains_key(seq)))
            }),
        ]
    }
}
