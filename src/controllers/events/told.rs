//! Which facts of a pool's machine become Events, and what they say.

use crate::api::capi::CapiVersion;
use crate::api::names::reasons;
use crate::k8s::events::{News, Subject};
use crate::pool::claim::record_not_stored;
use crate::pool::key::{PoolKey, Uid};
use crate::pool::machine::Fact;
use crate::pool::object::Claim;

/// What a user may be doing when they read of it.
const ALLOCATE: &str = "Allocate";
const RELEASE: &str = "Release";
const VALIDATE: &str = "Validate";

/// The pool that facts are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub(super) pool: &'a PoolKey,
    /// There may be no such pool.
    pub(super) uid: Option<&'a Uid>,
    /// In which claims are served.
    pub(super) version: CapiVersion,
}

impl Of<'_> {
    /// The Event of a fact, if it is one for users: what goes on between us and the API server is for logs and metrics.
    pub(super) fn news(self, fact: &Fact) -> Option<News> {
        match fact {
            Fact::Allocated { claim, held, after: _ } => {
                let what = held.map_or_else(|| "an address".to_owned(), |held| held.address.to_string());
                let note = format!("{what} is allocated from {}", self.pool);
                Some(self.about_claim(claim, false, reasons::ADDRESS_ALLOCATED, ALLOCATE, note))
            }
            Fact::Released { claim, held: Some(held) } => {
                let note = format!("{} is given back to {}", held.address, self.pool);
                Some(self.about_claim(claim, false, reasons::ADDRESS_RELEASED, RELEASE, note))
            }
            Fact::Waiting { claim, reason, message } => {
                let reason = claim_reason(reason);
                Some(self.about_claim(claim, true, reason, ALLOCATE, message.clone()))
            }
            Fact::Overlaps(message) => self.about_pool(reasons::OVERLAPPING_POOLS, VALIDATE, message.clone()),
            Fact::Exhausted(message) => self.about_pool(reasons::POOL_EXHAUSTED, ALLOCATE, message.clone()),
            Fact::Unready { reason, message } if reason == reasons::INVALID_SPEC => {
                self.about_pool(reasons::INVALID_POOL, VALIDATE, message.clone())
            }
            Fact::Unready { reason: _, message } => self.about_pool(reasons::POOL_NOT_READY, ALLOCATE, message.clone()),
            Fact::RecordLost => self.about_pool(
                reasons::RECORD_LOST,
                ALLOCATE,
                "somebody replaced or removed status.allocation; it is put back before anything is allocated"
                    .to_owned(),
            ),
            Fact::RecordNotStored => {
                self.about_pool(reasons::RECORD_NOT_STORED, ALLOCATE, record_not_stored(self.pool))
            }
            Fact::Orphaned { address, held, claim } => {
                let held = held.map_or_else(|| "no address".to_owned(), |held| held.address.to_string());
                let note = format!("IPAddress {address} holds {held}, and its claim {claim} does not exist");
                self.about_pool(reasons::ORPHANED_ADDRESS, RELEASE, note)
            }
            Fact::Duplicate { held, addresses } => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let note = format!("{} is in several IPAddresses: {}", held.address, all.join(", "));
                self.about_pool(reasons::DUPLICATE_ADDRESS, ALLOCATE, note)
            }
            Fact::OutOfRange { address, held } => {
                let note = format!("IPAddress {address} holds {held:?}, which the pool does not give out");
                self.about_pool(reasons::OUT_OF_RANGE_ADDRESS, ALLOCATE, note)
            }
            // Told by logs, metrics and conditions. And a claim that had nothing has given nothing back.
            Fact::Released { claim: _, held: None }
            | Fact::Committed { .. }
            | Fact::CommitConflict
            | Fact::ConditionNotStored
            | Fact::AddressesAwaited { .. }
            | Fact::HeldTooLong { .. }
            | Fact::OrphanReleased(_)
            | Fact::Failed { .. } => None,
        }
    }

    fn about_pool(self, reason: &'static str, action: &'static str, note: String) -> Option<News> {
        let subject = Subject::pool(self.pool, self.uid?);
        Some(News { subject, warning: true, reason, action, note })
    }

    fn about_claim(
        self,
        claim: &Claim,
        warning: bool,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) -> News {
        let subject = Subject::claim(self.version.api_version(), &claim.key, &claim.uid);
        News { subject, warning, reason, action, note }
    }
}

/// The reasons of a claim's condition are those of its Events.
fn claim_reason(reason: &str) -> &'static str {
    let all = [reasons::POOL_EXHAUSTED, reasons::POOL_NOT_READY];
    all.into_iter().find(|known| *known == reason).unwrap_or(reasons::ALLOCATION_FAILED)
}
