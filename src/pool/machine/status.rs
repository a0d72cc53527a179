//! The pool's status: counts, conditions, and when they are worth a write.

use jiff::{SignedDuration, Timestamp};

use super::Machine;
use crate::api::conditions::{self, Condition};
use crate::api::names::{self, reasons};
use crate::api::status::AddressCounts;
use crate::pool::claim::{PoolState, record_not_stored};
use crate::pool::key::Now;
use crate::pool::object::PoolStatus;
use crate::pool::record::Record;

/// What the written part of a status depends on. While it stays the same nothing is written, whatever others write:
/// two installations must not overwrite each other for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) counts: AddressCounts,
    state: PoolState,
    generation: i64,
    /// While the pool is deleting: the intents that are waited for (F8).
    unsettled: usize,
    /// And the IPAddresses that have no claim (C14).
    orphans: usize,
    /// IPAddresses that hold what another one holds.
    doubled: usize,
    overlapping: Option<bool>,
}

impl Machine {
    /// What `status.ipAddresses` says, saturated (behaviour.md, "Pool status").
    pub fn counts(&self) -> AddressCounts {
        let saturate = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
        let used = i64::try_from(self.used).unwrap_or(i64::MAX);
        let Some(ledger) = &self.ledger else { return AddressCounts { total: 0, free: 0, used, out_of_range: used } };
        let counts = ledger.counts();
        let total = saturate(counts.total);
        let free = saturate(counts.free_within(u128::from(u64::MAX >> 1)));
        let out_of_range = saturate(u128::from(counts.out_of_range) + self.unparsable as u128);
        AddressCounts { total, free, used, out_of_range }
    }

    fn digest(&self) -> Digest {
        let generation = self.pool.as_ref().map_or(0, |pool| pool.generation);
        let is_deleting = matches!(self.state, PoolState::Deleting { .. });
        let (unsettled, orphans) = if is_deleting { (self.seen.len(), self.orphans()) } else { (0, 0) };
        let (doubled, overlapping) = (self.doubled(), self.overlapping());
        Digest {
            counts: self.counts(),
            state: self.state.clone(),
            generation,
            unsettled,
            orphans,
            doubled,
            overlapping,
        }
    }

    /// Whether the status should be written for its own sake.
    pub(super) fn status_is_stale(&mut self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let digest = self.digest();
        if self.last_status.as_ref() == Some(&digest) {
            return false;
        }
        // After a start: what a predecessor wrote is not written again.
        let mut conditions = pool.status.conditions.clone();
        let told = !conditions::set(&mut conditions, self.ready(&digest, "", Timestamp::UNIX_EPOCH));
        let same = pool.status.counts.as_ref() == Some(&digest.counts)
            && pool.status.observed_generation == Some(pool.generation);
        if same && told && self.overlap_is_told(&pool.status) {
            self.last_status = Some(digest);
            return false;
        }
        true
    }

    pub(super) fn status_with(&self, record: Record, now: Now) -> (PoolStatus, Digest) {
        let digest = self.digest();
        let mut status = self.pool.as_ref().map(|pool| pool.status.clone()).unwrap_or_default();
        let until = self.settled_by().map_or_else(String::new, |at| {
            let left = SignedDuration::try_from(at.saturating_sub(now.boot)).unwrap_or(SignedDuration::ZERO);
            now.server.saturating_add(left).map_or_else(|_| String::new(), |at| format!(", by {at:.0} at the latest"))
        });
        conditions::set(&mut status.conditions, self.ready(&digest, &until, now.server));
        self.tell_overlap(&mut status, digest.generation, now.server);
        status.counts = Some(digest.counts.clone());
        status.observed_generation = Some(digest.generation);
        status.record = Some(record);
        (status, digest)
    }

    /// Condition `Ready`: true also of a pool that is full, unused or paused.
    fn ready(&self, digest: &Digest, until: &str, at: Timestamp) -> Condition {
        let (holds, reason, message) = match &digest.state {
            PoolState::Invalid(why) => (false, reasons::INVALID_SPEC, why.clone()),
            PoolState::Deleting { .. } => (false, reasons::DELETING, what_deletion_waits_for(digest, until)),
            PoolState::RecordNotStored => (false, reasons::RECORD_NOT_STORED, record_not_stored(&self.key)),
            PoolState::Paused | PoolState::Open | PoolState::Missing | PoolState::Closed(_) => {
                (true, reasons::POOL_READY, what_is_wrong(digest))
            }
        };
        Condition::new(names::READY, holds, reason, &message, at).observed_on(Some(digest.generation))
    }
}

/// For people who look for what others wrote into the pool (B4).
fn what_is_wrong(digest: &Digest) -> String {
    let (outside, doubled) = (digest.counts.out_of_range, digest.doubled);
    let outside = (outside > 0).then(|| format!("; IPAddresses that hold what the pool does not give out: {outside}"));
    let doubled = (doubled > 0).then(|| format!("; IPAddresses that hold what another one holds: {doubled}"));
    format!("addresses can be allocated{}{}", outside.unwrap_or_default(), doubled.unwrap_or_default())
}

fn what_deletion_waits_for(digest: &Digest, until: &str) -> String {
    match (digest.counts.used, digest.unsettled) {
        (0, 0) => "nothing is in use any more".to_owned(),
        (0, unsettled) => format!("waiting for {unsettled} creates that were never answered to settle{until}"),
        (used, _) if digest.orphans > 0 => {
            format!(
                "waiting for the claims of {used} IPAddresses to be deleted; {} of these have no claim any more",
                digest.orphans
            )
        }
        (used, _) => format!("waiting for the claims of {used} IPAddresses to be deleted"),
    }
}
