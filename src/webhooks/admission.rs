//! Whether a pool may be created, changed or deleted (contract §4).
//!
//! Decides on values. The guarantee that no pool goes while it is in use is its finalizer; what is refused here spares
//! people the mistake. So the addresses in use come from a view that may lag a moment.

mod in_use;
mod overlap;
mod spec;
#[cfg(test)]
mod tests;

use crate::api::names::PoolKind;
use crate::api::parse::FieldError;
use crate::api::pools::PoolObject;
use crate::ipam::pool::{Held, Pool};
use crate::pool::key::{ObjectKey, PoolKey};

/// The most objects that a message names.
const NAMED: usize = 10;

/// What somebody wants to do to a pool.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Create this one.
    Create(Box<PoolObject>),
    /// Make the first one the second one.
    Update(Box<PoolObject>, Box<PoolObject>),
    /// Delete this one.
    Delete(Box<PoolObject>),
}

/// What an IPAddress holds, or the text that is no address.
pub type HeldOrText = Result<Held, String>;

/// How much could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Everything.
    All,
    /// There may be any: this process has no right to see them (C16), and will not have it in a moment.
    Hidden,
    /// This process has not listed all objects yet.
    NotYet,
}

/// What is known of the other objects.
pub trait Facts {
    /// Shows the IPAddresses of a pool, in the order of their names; none if not all can be seen. Nobody else may change
    /// them meanwhile: whoever looks must not take long.
    fn holdings(&self, pool: &PoolKey, look: &mut dyn FnMut(&ObjectKey, &HeldOrText)) -> Seen;
    /// All pools with a valid spec; `None`: not known yet.
    fn pools(&self) -> Option<Vec<(PoolKey, Pool)>>;
}

/// What the user who runs the provider wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuse pools that overlap others, rather than warn of them.
    pub deny_overlap: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be done; people should know this.
    Allowed(Vec<String>),
    /// It may not, because of these fields.
    Invalid(Vec<FieldError>),
    /// It may not, because the pool is in use.
    InUse(String),
    /// This process cannot tell yet.
    Unknown,
}

impl Verdict {
    fn allowed() -> Self {
        Self::Allowed(Vec::new())
    }
}

/// Whether it may be done.
pub fn decide(pool: &PoolKey, operation: &Operation, facts: &dyn Facts, policy: Policy) -> Verdict {
    match operation {
        Operation::Create(new) => {
            let read = spec::read(pool.kind, new);
            if !read.errors.is_empty() {
                return Verdict::Invalid(read.errors);
            }
            neighbourly(pool, &read, None, facts, policy)
        }
        // Finalizers have to go, whatever the spec has become.
        Operation::Update(_, new) if new.metadata.deletion_timestamp.is_some() => Verdict::allowed(),
        Operation::Update(old, new) if spec::is_same(pool.kind, old, new) => Verdict::allowed(),
        Operation::Update(old, new) => change(pool, old, new, facts, policy),
        Operation::Delete(old) if old.may_be_deleted_in_use() => Verdict::allowed(),
        Operation::Delete(_) => removal(pool, facts),
    }
}

fn removal(pool: &PoolKey, facts: &dyn Facts) -> Verdict {
    let mut users = in_use::Users::default();
    match facts.holdings(pool, &mut |object, held| users.note(object, held)) {
        Seen::NotYet => Verdict::Unknown,
        Seen::Hidden => Verdict::Allowed(vec![in_use::unseen(pool)]),
        Seen::All => users.refusal(pool).map_or_else(Verdict::allowed, Verdict::InUse),
    }
}

fn change(pool: &PoolKey, old: &PoolObject, new: &PoolObject, facts: &dyn Facts, policy: Policy) -> Verdict {
    let (before, after) = (spec::read(pool.kind, old), spec::read(pool.kind, new));
    let mut errors = after.errors.clone();
    let mut unseen = None;
    errors.extend(spec::changed_length(pool.kind, old, new));
    // A length that changes leaves nothing allocatable; saying so of each address would hide the reason.
    if errors.is_empty() {
        let mut losses = in_use::Losses::of((&before, old), &after);
        match facts.holdings(pool, &mut |object, held| losses.note(object, held)) {
            Seen::NotYet => return Verdict::Unknown,
            Seen::Hidden => unseen = Some(in_use::unseen(pool)),
            Seen::All => {}
        }
        errors.extend(losses.errors());
    }
    if !errors.is_empty() {
        return Verdict::Invalid(errors);
    }
    match neighbourly(pool, &after, before.pool.as_ref(), facts, policy) {
        Verdict::Allowed(warnings) => Verdict::Allowed(unseen.into_iter().chain(warnings).collect()),
        other => other,
    }
}

/// Looks for overlaps and collects the warnings.
fn neighbourly(key: &PoolKey, read: &spec::Read, before: Option<&Pool>, facts: &dyn Facts, policy: Policy) -> Verdict {
    let mut warnings = read.warnings.clone();
    if let Some(pool) = &read.pool {
        // Without knowledge of the others there is nothing to warn of; only a rule that denies has to know.
        let Some(others) = facts.pools().or_else(|| (!policy.deny_overlap).then(Vec::new)) else {
            return Verdict::Unknown;
        };
        let overlaps = overlap::found(key, pool, &others);
        let is_new = |overlap: &overlap::Overlap| before.is_none_or(|before| before.overlap(overlap.other).is_none());
        if policy.deny_overlap && overlaps.iter().any(is_new) {
            let new: Vec<_> = overlaps.into_iter().filter(is_new).collect();
            return Verdict::Invalid(vec![overlap::error(key.kind, &new)]);
        }
        warnings.extend(overlap::warnings(key.kind, &overlaps));
    }
    Verdict::Allowed(warnings)
}

/// The allocation length that a prefix pool lacks and has to be given, if its spec says none.
pub fn missing_length(kind: PoolKind, object: &PoolObject) -> Option<i64> {
    let spec = object.spec.as_ref().filter(|spec| kind.is_prefix() && spec.is_object())?;
    let length = spec.get("allocationPrefixLength").filter(|length| !length.is_null());
    length.is_none_or(|length| length.as_i64() == Some(0)).then_some(spec::DEFAULT_LENGTH)
}

/// Up to ten of `count`, and how many more there are.
fn listed(named: impl Iterator<Item = String>, count: usize) -> String {
    let more = count.saturating_sub(NAMED);
    let named = named.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
