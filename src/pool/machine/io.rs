//! What goes into the machine and what comes out.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::api::conditions::Condition;
use crate::ipam::pool::Held;
use crate::ipam::range::Range;
use crate::pool::claim::Hidden;
use crate::pool::key::{Boot, ObjectKey, PoolKey, Sender, Uid, Version};
use crate::pool::object::{Address, Claim, ClusterState, PoolStatus, PoolView};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The pool's newest copy, or that there is none.
    Pool {
        /// The copy.
        view: Option<Box<PoolView>>,
        /// The version of a LIST of the IPAddresses that began after this copy was read, if the observations of the
        /// addresses contain one (F3: at start, pools are listed before IPAddresses).
        covered: Option<Version>,
    },
    /// A claim's newest copy, or that there is none of this name any more.
    Claim(ObjectKey, Option<Arc<Claim>>),
    /// An IPAddress of this pool, or of the name of one of its claims; `Version` is that of the change.
    Address(ObjectKey, Option<Arc<Address>>, Version),
    /// C14: no claim is seen for this IPAddress of the pool, with the state of the cluster that it belongs to; or one is,
    /// or it is none that may be released here.
    Unclaimed(ObjectKey, Option<ClusterState>),
    /// All changes of IPAddresses up to this version have been delivered.
    Store(Version),
    /// The answer to an effect.
    Reply(OpId, Outcome),
    /// O7: nothing new is promised before this time, and not before a LIST that is made after it.
    Hold(Boot),
    /// What this installation has no right to see, so that the pool must not be allocated from.
    Closed(Option<Hidden>),
    /// The first pools that can hand out the same addresses, with the lowest of these; one more than [`super::MAX_NAMED_PEERS`]
    /// if there are more.
    Overlaps(Vec<(PoolKey, Range)>),
    /// No request of this sender can be delivered any more (F5(b)).
    Drained(Sender),
}

/// Names an effect, for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A request to send, once. Every effect gets exactly one [`Input::Reply`].
#[derive(Clone, Debug)]
pub struct Effect {
    /// For the reply.
    pub op: OpId,
    /// What to send.
    pub action: Action,
}

/// The requests. Those with a `uid` and `version` must fail if the object is not that copy any more.
#[derive(Clone, Debug)]
pub enum Action {
    /// PUT of the pool's status (F2).
    PutPoolStatus {
        /// The pool's uid.
        uid: Uid,
        /// The copy that it was computed from.
        version: Version,
        /// The whole status.
        status: Box<PoolStatus>,
        /// The claims that get an address by it; for telemetry.
        claims: Vec<ObjectKey>,
    },
    /// PATCH of the pool's finalizers, and of the annotation that notes its uid (C19).
    PatchPool {
        /// The pool's uid.
        uid: Uid,
        /// The copy that it was computed from.
        version: Version,
        /// The complete list.
        finalizers: Vec<String>,
    },
    /// Consistent GET of the pool.
    GetPool,
    /// Consistent LIST of the pool's IPAddresses (F3), for the copy of the pool of this version.
    ListAddresses(Version),
    /// PATCH of a claim's finalizers.
    PatchClaim {
        /// The claim.
        key: ObjectKey,
        /// Its uid.
        uid: Uid,
        /// The copy that it was computed from.
        version: Version,
        /// The complete list.
        finalizers: Vec<String>,
        /// Whether the claim's uid is noted in its annotation as well (C19).
        note_uid: bool,
    },
    /// PATCH of a claim's status.
    PatchClaimStatus {
        /// The claim.
        key: ObjectKey,
        /// Its uid.
        uid: Uid,
        /// The copy that it was computed from.
        version: Version,
        /// Whether `addressRef` is set to the claim's name.
        bound: bool,
        /// The complete list.
        conditions: Vec<Condition>,
    },
    /// Consistent GET of a claim.
    GetClaim(ObjectKey),
    /// POST of an IPAddress.
    CreateAddress(Box<NewAddress>),
    /// PATCH of an IPAddress' metadata.
    PatchAddress {
        /// The address.
        key: ObjectKey,
        /// Its uid.
        uid: Uid,
        /// The copy that it was computed from.
        version: Version,
        /// The complete list.
        finalizers: Vec<String>,
        /// The complete list, if it changes.
        owners: Option<Vec<OwnerReference>>,
        /// The cluster-name label, if it changes.
        label: Option<String>,
    },
    /// DELETE of an IPAddress.
    DeleteAddress {
        /// The address.
        key: ObjectKey,
        /// Its uid.
        uid: Uid,
        /// The copy that it was decided on.
        version: Version,
    },
    /// Consistent GET of an IPAddress.
    GetAddress(ObjectKey),
}

/// An IPAddress to create.
#[derive(Clone, Debug)]
pub struct NewAddress {
    /// Its name, which is the claim's.
    pub key: ObjectKey,
    /// What it holds.
    pub held: Held,
    /// The pool's gateway.
    pub gateway: Option<std::net::IpAddr>,
    /// The claim's and the pool's references (C5).
    pub owners: Vec<OwnerReference>,
    /// The cluster-name label (C6).
    pub label: Option<String>,
    /// F1: after this time nothing may be sent; the outcome is then [`Outcome::NotSent`].
    pub not_after: Boot,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A copy of the pool.
    Pool(Box<PoolView>),
    /// A copy of a claim.
    Claim(Arc<Claim>),
    /// A copy of an IPAddress: created, changed, found, or still terminating.
    Address(Arc<Address>),
    /// All IPAddresses of the pool.
    Addresses {
        /// The version of the list.
        version: Version,
        /// The objects.
        items: Vec<Arc<Address>>,
        /// The version of the pool's copy that the list was asked for.
        copy: Version,
    },
    /// The object does not exist (any more): 404, or the answer to a DELETE that removed it.
    Gone,
    /// The name is taken: 409 `AlreadyExists`.
    Exists,
    /// The object is not the copy that was decided on: 409 Conflict, 422 about a precondition.
    Conflict,
    /// Refused for good, 4xx: sending the same again would fail again.
    Refused(String),
    /// No definitive answer: a timeout, 408, 429, 5xx, a broken connection. It may have been carried out.
    Unknown(String),
    /// A deadline passed before it was sent, or the connection was never made.
    NotSent(String),
}

/// Something worth telling an operator.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A claim got its `addressRef`.
    Allocated {
        /// The claim, with its reference.
        claim: Arc<Claim>,
        /// What it got.
        held: Option<Held>,
        /// Since this process saw it first.
        after: std::time::Duration,
    },
    /// A claim was released: its finalizer is off.
    Released {
        /// The claim.
        claim: Arc<Claim>,
        /// What it had.
        held: Option<Held>,
    },
    /// A claim's condition says why it has no address, and that is news: another reason than before.
    Waiting {
        /// The claim.
        claim: Arc<Claim>,
        /// As in the condition.
        reason: String,
        /// As in the condition.
        message: String,
    },
    /// A claim was told that nothing is free, for the first time since there was something for everybody.
    Exhausted(String),
    /// The pool's condition `Overlapping` became true; its message.
    Overlaps(String),
    /// The pool's condition `Ready` says that it cannot be allocated from, and that is news.
    Unready {
        /// As in the condition.
        reason: String,
        /// As in the condition.
        message: String,
    },
    /// A commit was taken.
    Committed {
        /// Claims that got an address in it.
        claims: usize,
    },
    /// A commit met a newer version of the pool.
    CommitConflict,
    /// A request failed; the reason is a fixed word for metrics.
    Failed {
        /// Fixed set of words.
        reason: &'static str,
        /// For the log.
        message: String,
    },
    /// C19: nothing new is promised for a while, because IPAddresses of a move may still arrive.
    AddressesAwaited {
        /// The claims that came without one; none if the pool itself was moved.
        claims: usize,
    },
    /// C19: the pool was held for so long that it goes on without these IPAddresses.
    HeldTooLong {
        /// Their claims, which still wait.
        claims: usize,
    },
    /// C14: the server has no claim for an IPAddress of ours.
    Orphaned {
        /// The IPAddress.
        address: ObjectKey,
        /// What it holds.
        held: Option<Held>,
        /// The claim that it names.
        claim: ObjectKey,
    },
    /// C14: such an IPAddress was released.
    OrphanReleased(ObjectKey),
    /// B2: several IPAddresses of the pool hold one address.
    Duplicate {
        /// What they hold.
        held: Held,
        /// The first of them.
        addresses: Vec<ObjectKey>,
    },
    /// B4: an IPAddress of the pool holds what the pool does not give out, or no address at all.
    OutOfRange {
        /// The IPAddress.
        address: ObjectKey,
        /// What it holds.
        held: String,
    },
    /// The record was replaced, pruned or restored by somebody else and is put back (F9).
    RecordLost,
    /// The server drops the record (F2).
    RecordNotStored,
    /// The server drops the conditions of claims (C10); told once for a pool.
    ConditionNotStored,
}

/// The result of a step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Requests to send now; all of them may be under way at once.
    pub effects: Vec<Effect>,
    /// What happened.
    pub facts: Vec<Fact>,
}
