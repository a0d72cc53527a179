//! What one claim needs now: the claim rules (C1–C19) as one function of what is known, in the order they matter.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::key::{Boot, Now, PoolKey, Uid};
use super::object::{Address, Claim, ClusterState};
use crate::api::address::{ClaimOwner, PoolOwner, owner_references};
use crate::api::capi::CapiVersion;
use crate::api::conditions::{self, Condition};
use crate::api::names::{self, reasons};

/// What the pool of a claim is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// There is no pool of that name.
    Missing,
    /// It is being deleted.
    Deleting {
        /// It carries the paused annotation, too: nothing is released.
        paused: bool,
    },
    /// Its spec cannot be allocated from; the sentence says why.
    Invalid(String),
    /// It carries the paused annotation.
    Paused,
    /// This installation cannot see all that it would have to know (C16).
    Closed(Hidden),
    /// The server drops the record that makes allocation safe (F2).
    RecordNotStored,
    /// It allocates.
    Open,
}

/// What an installation has no right to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Pools of the kind.
    Pools,
    /// All IPAddresses of the pool, such as those of a Global pool in other namespaces: what is in use is not known.
    Addresses,
}

/// How far the promise of an address to this claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// There is none.
    None,
    /// Part of a commit that is under way.
    Planned,
    /// In the record, but I may not send a create for it before I am listed (again) in it.
    Unlisted,
    /// In the record, and I may send the create.
    Listed {
        /// A create or its look-up is under way, or was answered and not yet settled.
        sent: bool,
    },
}

/// All that a decision about one claim looks at.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// The IPAddress of its name, whatever pool that names.
    pub address: Option<&'a Address>,
    /// The pool's key, as messages name it.
    pub key: &'a PoolKey,
    /// What the pool is good for.
    pub pool: &'a PoolState,
    /// The pool's uid, when there is a pool.
    pub pool_uid: Option<&'a Uid>,
    /// How long the pool holds released addresses back.
    pub grace: Duration,
    /// How far the promise has come.
    pub promise: Promise,
    /// Whether the server was asked about the claim itself since its IPAddress is gone.
    pub is_sure: bool,
    /// The reason why nothing can be allocated just now, if there is one: reason and message.
    pub refusal: Option<(&'static str, &'a str)>,
    /// C19: the claim's IPAddress may still arrive; from this time on the claim is told that it is waited for.
    pub awaited: Option<Boot>,
    /// C3: until when a claim is expected to follow its IPAddress, which `clusterctl move` took away.
    pub moved: Option<Boot>,
    /// The API version that owner references to claims carry.
    pub version: CapiVersion,
    /// The clocks.
    pub now: Now,
}

/// The one next thing to do for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// Nothing, until something changes.
    Nothing,
    /// Look again at this time.
    Later(Boot),
    /// Our finalizer (C2).
    Protect,
    /// A place in the queue for an address.
    Queue,
    /// A consistent look at the claim: it had an IPAddress that is gone, so it may be going too, and not be seen to.
    Ask,
    /// To be listed in the record, before a create may be sent.
    Listing,
    /// The create of its IPAddress.
    Create,
    /// Repair of owner references, finalizer and label of its IPAddress (B3).
    Repair {
        /// The complete list of owner references.
        owners: Vec<OwnerReference>,
        /// The complete list of finalizers.
        finalizers: Vec<String>,
        /// The cluster-name label to set, if it must be set.
        label: Option<String>,
    },
    /// A status: the reference (when bound) and the complete list of conditions.
    Report {
        /// Whether `addressRef` is written.
        bound: bool,
        /// All conditions of the claim.
        conditions: Vec<Condition>,
    },
    /// Removal of our finalizer from the IPAddress.
    Unprotect {
        /// The complete list of finalizers without ours.
        finalizers: Vec<String>,
    },
    /// Deletion of the IPAddress.
    Delete,
    /// Removal of our finalizer from the claim, the end of a release.
    Let,
}

/// Decides (C2–C13).
pub fn need(s: &Situation<'_>) -> Need {
    if s.claim.deleted.is_some() { of_deleting(s) } else { of_living(s) }
}

fn of_living(s: &Situation<'_>) -> Need {
    if s.claim.paused || matches!(s.claim.cluster, ClusterState::Missing | ClusterState::Paused) {
        return Need::Nothing;
    }
    let is_open = matches!(s.pool, PoolState::Open);
    let in_line = is_open && s.refusal.is_none() && s.promise == Promise::None;
    let waits_in_line = in_line && s.address.is_none();
    // C19: a moved claim that did not come with its address is ours from the moment that it is served.
    let is_noted = !is_open || s.address.is_some() || s.awaited.is_some() || !s.claim.may_be_moved();
    let is_marked = s.claim.is_ours() && is_noted;
    if !is_marked && !waits_in_line {
        return Need::Protect;
    }
    match s.address {
        Some(address) if !address.belongs_to(s.key) => report_failure(s, &occupied(address)),
        Some(address) if address.deleting && !address.is_protected() => {
            report_failure(s, "its previous IPAddress is still being deleted")
        }
        Some(address) => of_bound(s, address),
        None => of_waiting(s),
    }
}

/// A claim with its IPAddress: adopt it as it is, then refer to it (B3, C9).
fn of_bound(s: &Situation<'_>, address: &Address) -> Need {
    if let (Some(pool_uid), false) = (s.pool_uid, address.deleting) {
        let owners = owners(s, address, pool_uid);
        let label = s.claim.cluster_label.clone().filter(|_| s.claim.cluster_label != address.cluster_label);
        if owners != address.owners || label.is_some() || !address.is_protected() {
            return Need::Repair { owners, finalizers: address.finalizers_with_ours(), label };
        }
    }
    let message = match &address.held {
        Ok(held) => format!("{} is allocated from {}", held.address, s.key),
        Err(text) => format!("the IPAddress holds {text:?}, which is no address"),
    };
    report(s, true, reasons::ADDRESS_ALLOCATED, &message)
}

fn owners(s: &Situation<'_>, address: &Address, pool_uid: &Uid) -> Vec<OwnerReference> {
    owner_references(
        &address.owners,
        ClaimOwner { version: s.version, name: &s.claim.key.name, uid: &s.claim.uid },
        PoolOwner { kind: s.key.kind, name: &s.key.name, uid: pool_uid },
    )
}

fn of_waiting(s: &Situation<'_>) -> Need {
    let not_ready = |message: String| report(s, false, reasons::POOL_NOT_READY, &message);
    match s.pool {
        PoolState::Missing => not_ready(format!("{} does not exist", s.key)),
        PoolState::Deleting { .. } => not_ready(format!("{} is being deleted", s.key)),
        PoolState::Invalid(why) => not_ready(format!("{} has an invalid spec: {why}", s.key)),
        PoolState::Paused => not_ready(format!("{} is paused", s.key)),
        PoolState::Closed(Hidden::Pools) => not_ready(format!(
            "{} cannot be used: the provider that serves this namespace has no right to read pools of this kind",
            s.key
        )),
        PoolState::Closed(Hidden::Addresses) => not_ready(format!(
            "{} cannot be used: the provider that serves this namespace has no right to read all IPAddresses of it, \
             so that it cannot know what is in use",
            s.key
        )),
        PoolState::RecordNotStored => report_failure(s, &record_not_stored(s.key)),
        PoolState::Open if let Some(told_at) = s.awaited => await_address(s, told_at),
        PoolState::Open if let Some(until) = s.moved => Need::Later(until),
        PoolState::Open => match (s.refusal, s.promise) {
            (Some((reason, message)), _) => report(s, false, reason, message),
            (None, Promise::Listed { sent: true } | Promise::Planned) => Need::Nothing,
            _ if s.claim.address_ref.is_some() && !s.is_sure => Need::Ask,
            (None, Promise::Listed { sent: false }) => Need::Create,
            (None, Promise::Unlisted) => Need::Listing,
            (None, Promise::None) => Need::Queue,
        },
    }
}

/// C19: nothing is promised to a moved claim whose IPAddress may still arrive.
fn await_address(s: &Situation<'_>, told_at: Boot) -> Need {
    if s.now.boot < told_at {
        return Need::Later(told_at);
    }
    report_failure(s, "the claim was moved or restored, or comes from another provider: waiting for its IPAddress")
}

fn of_deleting(s: &Situation<'_>) -> Need {
    let pool_paused = matches!(s.pool, PoolState::Paused | PoolState::Deleting { paused: true });
    let held_back = s.claim.paused || s.claim.cluster == ClusterState::Paused || pool_paused;
    if !s.claim.is_ours() || held_back || s.claim.is_held_by_others() {
        return Need::Nothing;
    }
    // The answer to a create that is under way decides whether there is an address to remove.
    if s.promise == (Promise::Listed { sent: true }) && s.address.is_none() {
        return Need::Nothing;
    }
    let Some(address) = s.address.filter(|address| address.belongs_to(s.key)) else { return Need::Let };
    // Whether a pool that was never seen is paused, or has a grace period, is not known.
    if *s.pool == PoolState::Closed(Hidden::Pools) && s.pool_uid.is_none() {
        return Need::Nothing;
    }
    if let Some(at) = end_of_grace(s) {
        return Need::Later(at);
    }
    // Deleted first and let go then: whatever happens in between, our finalizer tells that it is ours to remove (C14).
    match (address.deleting, address.is_protected()) {
        (false, _) => Need::Delete,
        (true, true) => Need::Unprotect { finalizers: address.finalizers_without_ours() },
        (true, false) => Need::Nothing,
    }
}

/// When the grace period ends, if it has not (C12). The timestamp is cut to whole seconds, so its end is rounded up.
fn end_of_grace(s: &Situation<'_>) -> Option<Boot> {
    const CUT: SignedDuration = SignedDuration::from_secs(1);
    if s.grace.is_zero() || matches!(s.pool, PoolState::Missing | PoolState::Deleting { .. }) {
        return None;
    }
    let grace = SignedDuration::try_from(s.grace).unwrap_or(SignedDuration::MAX);
    let end = s.claim.deleted?.saturating_add(grace.saturating_add(CUT)).unwrap_or(Timestamp::MAX);
    let left = Duration::try_from(end.duration_since(s.now.server)).ok()?;
    (!left.is_zero()).then(|| s.now.boot + left)
}

fn occupied(address: &Address) -> String {
    let owner = address.pool.as_ref().map_or_else(|| "another provider's pool".to_owned(), ToString::to_string);
    format!("an IPAddress of this name exists already, of claim {:?} in {owner}", address.claim_name)
}

/// F2, for people: what is wrong with the kind of this pool, and what to do about it.
pub fn record_not_stored(pool: &PoolKey) -> String {
    format!(
        "the CustomResourceDefinition {}.{} does not store status.allocation: apply that of this release, which \
         \"manager crds\" prints",
        pool.kind.plural(),
        names::GROUP
    )
}

fn report_failure(s: &Situation<'_>, message: &str) -> Need {
    report(s, false, reasons::ALLOCATION_FAILED, message)
}

/// The status to write, or nothing if the claim says it already (C10: an unchanged condition causes no write).
fn report(s: &Situation<'_>, bound: bool, reason: &str, message: &str) -> Need {
    let mut conditions = s.claim.conditions.clone();
    let ready = Condition::new(names::READY, bound, reason, message, s.now.server);
    let changed = conditions::set(&mut conditions, ready.observed_on(Some(s.claim.generation)));
    let refers = s.claim.address_ref.as_deref() == Some(&*s.claim.key.name);
    if changed || (bound && !refers) { Need::Report { bound, conditions } } else { Need::Nothing }
}
