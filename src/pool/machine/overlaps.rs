//! Pools that can hand out the same addresses (docs/reference/behaviour.md, "Pool status"): said to people, and no reason
//! to stop.

use jiff::Timestamp;

use super::{Fact, Machine};
use crate::api::conditions::{self, Condition};
use crate::api::names::{self, reasons};
use crate::ipam::range::Range;
use crate::pool::key::PoolKey;
use crate::pool::object::PoolStatus;

/// Other pools that a message names: one overlap is a mistake to mend, a hundred are a plan.
pub const MAX_NAMED_PEERS: usize = 3;

impl Machine {
    /// The first pools that have addresses in common with this one, with the lowest of these: one more than are named, if
    /// there are so many.
    pub(super) fn observe_overlaps(&mut self, peers: Vec<(PoolKey, Range)>) {
        self.overlaps = Some(peers);
    }

    /// Whether there are such pools. `None`: this installation does not see all pools, and has no opinion.
    pub(super) fn overlapping(&self) -> Option<bool> {
        self.overlaps.as_ref().map(|peers| !peers.is_empty())
    }

    /// Whether the condition of this status is right. Other peers, and another message, are no reason for a write.
    pub(super) fn overlap_is_told(&self, status: &PoolStatus) -> bool {
        let told = conditions::find(&status.conditions, names::OVERLAPPING).is_some_and(Condition::is_true);
        self.overlapping().is_none_or(|overlapping| overlapping == told)
    }

    /// Writes the condition `Overlapping`. A pool that never overlapped has none.
    pub(super) fn tell_overlap(&self, status: &mut PoolStatus, generation: i64, at: Timestamp) {
        let Some(peers) = &self.overlaps else { return };
        if peers.is_empty() && conditions::find(&status.conditions, names::OVERLAPPING).is_none() {
            return;
        }
        let (reason, message) = if peers.is_empty() {
            (reasons::NO_COMMON_ADDRESSES, "no other pool can hand out an address of this one".to_owned())
        } else {
            (reasons::COMMON_ADDRESSES, overlap_message(peers))
        };
        let condition = Condition::new(names::OVERLAPPING, !peers.is_empty(), reason, &message, at);
        conditions::set(&mut status.conditions, condition.observed_on(Some(generation)));
    }

    /// What a status says of overlaps that the last one did not.
    pub(super) fn news_of_overlap(&self, status: &PoolStatus) -> Option<Fact> {
        let next = conditions::find(&status.conditions, names::OVERLAPPING).filter(|next| next.is_true())?;
        let known = self.pool.as_ref().map_or(&[][..], |pool| &pool.status.conditions);
        let is_news = !conditions::find(known, names::OVERLAPPING).is_some_and(Condition::is_true);
        is_news.then(|| Fact::Overlaps(next.message.clone()))
    }
}

fn overlap_message(peers: &[(PoolKey, Range)]) -> String {
    let named = peers.iter().take(MAX_NAMED_PEERS).map(|(pool, range)| format!("{pool} can hand out {range} too"));
    let more = if peers.len() > MAX_NAMED_PEERS { ", and more pools some other" } else { "" };
    format!("{}{more}", named.collect::<Vec<_>>().join(", "))
}
