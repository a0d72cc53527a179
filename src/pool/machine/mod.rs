//! The machine of one pool: observations and replies in, requests out.
//!
//! It holds no client, no clock and no randomness. Whoever owns the pool drives it: [`Machine::step`] with what
//! happened, carry out the [`Effect`]s, feed the replies back, and step again at [`Machine::wake_at`].
//!
//! Guarantees: a create is only asked for an address that a committed record promises to that claim with this process
//! among its senders (F1); an address is only chosen if neither an IPAddress nor an intent holds it (F4).
//! Assumptions: observations of one object come in the order of their versions or not at all; [`Input::Store`] comes
//! after all observations up to that version.

mod adoption;
mod claims;
mod commit;
mod gone;
mod hold;
mod io;
mod news;
mod observe;
mod orphans;
mod overlaps;
mod replies;
mod settle;
mod status;
mod strays;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use io::{Action, Effect, Fact, Input, NewAddress, OpId, Outcome, Step};
pub use overlaps::MAX_NAMED_PEERS;

use self::commit::Planned;
use self::gone::{Moved, Sure};
use self::settle::{Listing, Seen};
use super::claim::{Hidden, PoolState};
use super::key::{Boot, Now, ObjectKey, PoolKey, Sender, Uid, Version};
use super::object::{Address, Claim, PoolView};
use super::record::{MAX_INTENTS, Memory};
use crate::api::capi::CapiVersion;
use crate::api::conditions::Condition;
use crate::api::names::reasons;
use crate::ipam::ledger::{Counts, Holder, Ledger};
use crate::ipam::pool::Held;
use crate::ipam::range::Range;

/// Writes for claims of one pool that are under way at a time; the writer of the whole process has its own limit.
const MAX_IN_FLIGHT: usize = 64;
/// Claims looked at in one step, so that a step of a huge pool does not hold the thread for long.
const MAX_LOOKS: usize = 2_000;

/// What the machine needs to know beside the objects.
#[derive(Clone, Debug)]
pub struct Config {
    /// This process' name in `senders`.
    pub me: Sender,
    /// F5(b): when an unanswered create counts as dead.
    pub lock_delay: Duration,
    /// C19: how long the IPAddress of a moved or restored claim is waited for; zero: not at all.
    pub adoption_grace: Duration,
    /// C14: how long an IPAddress without a claim stays; `None`: for ever.
    pub orphan_grace: Option<Duration>,
    /// The version in which the server has claims and addresses.
    pub version: CapiVersion,
}

/// Who holds a unit of the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Hold {
    /// An IPAddress.
    Object(ObjectKey),
    /// An intent, or the address of a claim whose IPAddress was taken away (C3).
    Promise(Uid),
}

impl Holder for Hold {
    fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }
}

/// A claim and what the machine is doing for it.
#[derive(Clone, Debug)]
struct Entry {
    claim: Arc<Claim>,
    /// The request under way for it, one at a time.
    busy: Option<OpId>,
    /// Failures in a row, for the backoff.
    failures: u32,
    /// Not before this time.
    retry_at: Option<Boot>,
    /// The server's refusal of its last create.
    refusal: Option<String>,
    /// Whether the claim's condition does not say that yet.
    untold: bool,
    /// F7: the copy of its IPAddress that is of an earlier or later claim of the name, for which the server was asked
    /// whether this is the claim that stands.
    asked_about: Option<Version>,
    /// Whether the server was asked about the claim since its IPAddress is gone.
    sure: Sure,
    /// C3: whether that went with a move.
    moved: Moved,
    first_seen: Boot,
    /// C19: until when its IPAddress may still arrive, if it was moved or restored.
    expected_until: Option<Boot>,
    /// What its condition is about to say, and whether that is news.
    telling: Option<(Condition, bool)>,
    /// C10: the condition that the server took and did not store.
    unstored: Option<Condition>,
    /// What it had before its release began.
    had: Option<Held>,
}

/// Why a request was sent: what its reply is for.
#[derive(Clone, Debug)]
enum Op {
    Commit(Planned),
    /// The look after a commit without an answer (F2).
    Confirm(Planned),
    /// From this version of the pool.
    PatchPool(Version),
    GetPool,
    List,
    Claim(ObjectKey, ClaimOp),
    /// A consistent look at an address, for settling (F5).
    Settle(Uid),
    /// About an IPAddress whose claim is gone (C14).
    Orphan(ObjectKey, orphans::OrphanOp),
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit(_) => f.write_str("commit of the record"),
            Self::Confirm(_) | Self::GetPool => f.write_str("look at the pool"),
            Self::PatchPool(_) => f.write_str("finalizer of the pool"),
            Self::List => f.write_str("list of the addresses"),
            Self::Claim(key, op) => write!(f, "{op:?} of claim {key}"),
            Self::Orphan(key, op) => write!(f, "{op:?} of IPAddress {key}, whose claim is not seen"),
            Self::Settle(uid) => write!(f, "look at the address of claim uid {uid}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimOp {
    Protect,
    Report {
        /// It gives the claim its first `addressRef`. The watch may show that before the reply does.
        binds: bool,
    },
    Get,
    Create,
    LookUp,
    Repair,
    Unprotect,
    Delete,
    Let,
}

impl ClaimOp {
    /// Whether a 404 means the IPAddress, not the claim.
    fn is_about_address(self) -> bool {
        matches!(self, Self::LookUp | Self::Repair | Self::Unprotect | Self::Delete)
    }
}

/// Whether the pool is this process' to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Held,
    /// It is given up: what was sent is finished, nothing new begins.
    Leaving,
    /// Others may work on it: what is left to do is to leave the intents (F5(c)).
    Gone,
}

/// The state of one pool. All of it can be rebuilt from the API server's objects.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own rule")]
pub struct Machine {
    key: PoolKey,
    config: Config,
    pool: Option<PoolView>,
    state: PoolState,
    memory: Memory,
    /// F9: the record was found lost and is restored by the next commit.
    lost: bool,
    /// F2: the server dropped our record.
    not_stored: bool,
    /// C16: what cannot be seen.
    hidden: Option<Hidden>,
    /// O7: no promise is made for now.
    held: Option<hold::Held>,
    /// C19: IPAddresses of moved claims that may still arrive.
    adoption: adoption::Adoption,
    /// C14: IPAddresses that no claim is seen for.
    orphans: orphans::Orphans,
    /// B2, B4: IPAddresses that cannot be right.
    strays: strays::Strays,

    /// How far the watch of IPAddresses has come.
    store: Version,
    /// Observations up to here are contained in a LIST that was taken over.
    floor: Version,
    /// F3: the version of a LIST, and of the pool's copy that had been read before it was sent.
    covered: Option<(Version, Version)>,
    addresses: BTreeMap<ObjectKey, Arc<Address>>,
    /// How many of them are of this pool, and how many of these hold no address (B4).
    used: usize,
    unparsable: usize,
    /// IPAddresses that are known to be gone before the watch says so.
    gone: BTreeMap<ObjectKey, Uid>,
    /// C3: what claims had when somebody took their IPAddress away, with the claim's uid.
    kept: BTreeMap<ObjectKey, (Uid, Held)>,
    ledger: Option<Ledger<Hold>>,

    claims: BTreeMap<ObjectKey, Entry>,
    dirty: BTreeSet<ObjectKey>,
    /// Claims that need a request, when there is room for it.
    stalled: BTreeSet<ObjectKey>,
    timers: BTreeSet<(Boot, ObjectKey)>,
    /// Claims that want an address, in order (B5).
    waiting: BTreeSet<(Timestamp, ObjectKey)>,
    /// Those of them whose condition does not say yet why they wait.
    unreported: BTreeSet<(Timestamp, ObjectKey)>,
    /// C10: the server drops the conditions of claims, and that was said.
    drops_conditions: bool,
    /// Some claim was told that nothing is free, and since then there was not something for everybody.
    exhausted: bool,

    /// By claim uid: intents that a commit gave to me.
    listings: BTreeMap<Uid, Listing>,
    /// By claim uid: since when each pending intent stands as it is.
    seen: BTreeMap<Uid, Seen>,
    /// Intents that I must be listed in (again) before I send.
    to_list: BTreeSet<Uid>,
    drained: BTreeSet<Sender>,
    /// Whether one of these stands in an intent, and when to look at the next one whose lock delay is over (F5(b)).
    has_drained: bool,
    look_due: Option<Boot>,
    /// The claim uids in the commit under way.
    planned: BTreeSet<Uid>,
    /// Every commit has a seq of its own, taken or not: the record in a later copy tells which one was (F2).
    last_seq: u64,
    /// Commits that were never answered: if one of them is taken after all, the status is not what I wrote last.
    unanswered: BTreeSet<u64>,
    /// Size of the pool's record, and how many more intents it takes (F10).
    bytes: usize,
    room: usize,

    ops: BTreeMap<OpId, Op>,
    /// The claim uids that creates and their look-ups under way are for: a claim may be replaced meanwhile.
    creates: BTreeMap<OpId, Uid>,
    /// The uids of the IPAddresses that were known when a request for them was sent: a 404 speaks of these alone.
    asked: BTreeMap<OpId, Uid>,
    /// The same for the pool.
    asked_pool: Option<Uid>,
    next_op: u64,
    right: Right,
    /// Whether a write of the pool object or a look at it is under way.
    pool_busy: bool,
    list_busy: bool,
    claims_in_flight: usize,
    pool_failures: u32,
    pool_retry_at: Option<Boot>,
    flush_at: Option<Boot>,
    last_commit: Option<Boot>,
    last_status: Option<status::Digest>,
    /// Pools that can hand out the same addresses; `None` if nobody here can tell.
    overlaps: Option<Vec<(PoolKey, Range)>>,

    effects: Vec<Effect>,
    facts: Vec<Fact>,
}

impl Machine {
    /// A machine that knows nothing yet but what the replica remembers of the pool's record (F9).
    pub fn new(key: PoolKey, config: Config, memory: Memory) -> Self {
        Self {
            key,
            config,
            pool: None,
            state: PoolState::Missing,
            memory,
            lost: false,
            not_stored: false,
            hidden: None,
            held: None,
            adoption: adoption::Adoption::default(),
            orphans: orphans::Orphans::default(),
            strays: strays::Strays::default(),
            store: Version(0),
            floor: Version(0),
            covered: None,
            addresses: BTreeMap::new(),
            used: 0,
            unparsable: 0,
            gone: BTreeMap::new(),
            kept: BTreeMap::new(),
            ledger: None,
            claims: BTreeMap::new(),
            dirty: BTreeSet::new(),
            stalled: BTreeSet::new(),
            timers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unreported: BTreeSet::new(),
            drops_conditions: false,
            exhausted: false,
            listings: BTreeMap::new(),
            seen: BTreeMap::new(),
            to_list: BTreeSet::new(),
            drained: BTreeSet::new(),
            has_drained: false,
            look_due: None,
            planned: BTreeSet::new(),
            last_seq: 0,
            unanswered: BTreeSet::new(),
            bytes: 0,
            room: MAX_INTENTS,
            ops: BTreeMap::new(),
            creates: BTreeMap::new(),
            asked: BTreeMap::new(),
            asked_pool: None,
            next_op: 0,
            right: Right::Held,
            pool_busy: false,
            list_busy: false,
            claims_in_flight: 0,
            pool_failures: 0,
            pool_retry_at: None,
            flush_at: None,
            last_commit: None,
            last_status: None,
            overlaps: None,
            effects: Vec::new(),
            facts: Vec::new(),
        }
    }

    /// Takes in what happened and says what to send now.
    pub fn step(&mut self, inputs: impl IntoIterator<Item = Input>, now: Now) -> Step {
        self.strays.begin_step();
        for input in inputs {
            self.observe(input, now);
        }
        self.ring_timers(now);
        self.look_at_dirty(now);
        self.commit(now);
        // A commit may have planned addresses for claims that still need our finalizer, or found the pool full.
        self.look_at_dirty(now);
        self.report_waiting(now);
        self.note_room();
        Step { effects: std::mem::take(&mut self.effects), facts: std::mem::take(&mut self.facts) }
    }

    /// When to step again if nothing happens before.
    pub fn wake_at(&self) -> Option<Boot> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let pool = if self.pool_busy || self.list_busy { None } else { self.pool_retry_at.or(self.flush_at) };
        let stalled = !self.stalled.is_empty() && self.claims_in_flight < MAX_IN_FLIGHT;
        let more = (!self.is_stopping() && (stalled || !self.dirty.is_empty())).then_some(Boot::ZERO);
        let orphans = self.orphans.wakes_at().filter(|_| !self.is_stopping());
        let look = self.look_due.filter(|_| self.hidden.is_none());
        let rest = [look, self.hold_ends_at(), self.adoption.wakes_at(), orphans];
        [timer, pool, more].into_iter().chain(rest).flatten().min()
    }

    /// Whether nothing is left to know or to do: the pool is gone, and so is everything that named it.
    pub fn is_idle(&self) -> bool {
        self.pool.is_none() && self.claims.is_empty() && self.addresses.is_empty() && self.ops.is_empty()
    }

    /// Begins to give the pool up (O5): nothing new begins, what was sent is finished, and the record is flushed.
    pub fn stop(&mut self) {
        self.right = Right::Leaving;
    }

    /// The pool is given up. Nothing is written any more but that this process leaves its intents (F5(c)).
    pub fn give_up(&mut self) {
        self.right = Right::Gone;
    }

    /// The pool is this process' again. What stands in the record by now was there when it was taken (F6).
    pub fn resume(&mut self) {
        self.right = Right::Held;
        // Somebody else may have written it meanwhile.
        self.last_status = None;
        self.inherit_intents();
        self.mark_all();
        self.look_at_orphans_again();
    }

    /// Whether a stopping machine has nothing left to finish or to flush.
    pub fn is_stopped(&self) -> bool {
        self.is_stopping() && self.ops.is_empty() && (self.lost || self.hidden.is_some() || !self.can_settle())
    }

    /// Whether a stopped machine is of no more use to anybody: no intent waits for this process to leave it (F5(c)).
    pub fn has_left(&self) -> bool {
        self.is_stopped() && (self.lost || self.hidden.is_some() || !self.owes_settling())
    }

    fn is_stopping(&self) -> bool {
        self.right != Right::Held
    }

    /// How many units the pool has and how many are free, unsaturated; nothing without a pool whose addresses are seen.
    pub fn units(&self) -> Option<Counts> {
        self.pool.as_ref().filter(|_| self.hidden.is_none())?;
        Some(self.ledger.as_ref().map(Ledger::counts).unwrap_or_default())
    }

    /// How many intents are pending.
    pub fn pending(&self) -> usize {
        self.seen.len()
    }

    /// The uid of the pool's newest copy.
    pub fn pool_uid(&self) -> Option<&Uid> {
        self.pool.as_ref().map(|pool| &pool.uid)
    }

    /// Claims that have no address, by the reason why.
    pub fn waiting_by_reason(&self) -> Vec<(&'static str, usize)> {
        if self.state == PoolState::Open {
            let reason = self.obstacle().map_or("Queued", |(reason, _)| reason);
            return vec![(reason, self.waiting.len())];
        }
        let unbound = |entry: &&Entry| entry.claim.deleted.is_none() && entry.claim.address_ref.is_none();
        vec![(reasons::POOL_NOT_READY, self.claims.values().filter(unbound).count())]
    }

    /// What this replica has seen of the pool's record, for the next machine of this pool (F9).
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn send(&mut self, op: Op, action: Action) -> OpId {
        self.next_op += 1;
        let id = OpId(self.next_op);
        self.ops.insert(id, op);
        self.effects.push(Effect { op: id, action });
        id
    }

    /// A request about the pool object itself, one at a time.
    fn send_pool(&mut self, op: Op, action: Action) {
        self.pool_busy = true;
        self.asked_pool = self.pool.as_ref().map(|pool| pool.uid.clone());
        self.send(op, action);
    }

    fn mark(&mut self, key: &ObjectKey) {
        if self.claims.contains_key(key) {
            self.dirty.insert(key.clone());
        }
    }

    fn mark_all(&mut self) {
        self.dirty.extend(self.claims.keys().cloned());
    }

    fn ring_timers(&mut self, now: Now) {
        self.note_time(now);
        self.note_adoption(now);
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now.boot {
                break;
            }
            self.timers.pop_first();
            self.mark(&key);
        }
        if self.pool_retry_at.is_some_and(|at| at <= now.boot) {
            self.pool_retry_at = None;
        }
        self.look_at_orphans(now);
    }
}

/// Doubles from `first` to `most`, shifted by up to half by `salt`, so that replicas do not retry in step.
fn backoff(failures: u32, first: Duration, most: Duration, salt: u64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(most);
    doubled + doubled.mul_f64(f64::from(u32::try_from(salt % 512).unwrap_or(0)) / 1024.0)
}
