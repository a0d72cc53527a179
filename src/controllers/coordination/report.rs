//! What operators are told of coordination: log lines, readiness, metrics.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::shard::ownership::{Counts, Fact};
use crate::telemetry::admin::Health;
use crate::telemetry::metrics::{Metrics, Shards};

/// The readiness condition.
const CONDITION: &str = "membership";

/// Tells each thing once.
pub(super) struct Reporter {
    health: Health,
    metrics: Metrics,
    unseen: String,
    refused: String,
}

impl Reporter {
    pub(super) fn new(health: Health, metrics: Metrics) -> Self {
        health.set_ready(CONDITION, Err("this replica has not registered yet".to_owned()));
        Self { health, metrics, unseen: String::new(), refused: String::new() }
    }

    pub(super) fn tell(&mut self, fact: &Fact) {
        self.metrics.ownership_event(name(fact));
        match fact {
            Fact::Registered => {
                self.health.set_ready(CONDITION, Ok(()));
                info!("registered as a member");
            }
            Fact::Expired => {
                self.health.set_ready(CONDITION, Err("the member Lease could not be renewed in time".to_owned()));
                warn!("the member Lease could not be renewed in time: all work stops until it is");
            }
            Fact::TimersRestarted => {
                self.health.set_ready(CONDITION, Ok(()));
                info!("renewals work again; the silence of others is counted anew");
            }
            Fact::MemberDead(member) => warn!(%member, "a member is dead: its shards go to others"),
            Fact::MemberBack(member) => info!(%member, "a member that was held dead is alive"),
            Fact::Took { shard, epoch } => debug!(shard, epoch, "took a shard"),
            Fact::LostRace(shard) => debug!(shard, "somebody else took the shard first"),
            Fact::Lost(shard) => warn!(shard, "somebody else took a shard that this replica worked on"),
            Fact::Released(shard) => debug!(shard, "gave a shard up"),
            Fact::Unwilling(member) => warn!(%member, "a member does not take the shards planned for it"),
            Fact::Permitted(true) => info!("the leader Lease is held by this product: pools are worked on"),
            Fact::Permitted(false) => {
                warn!("the leader Lease is held by another product: no pool is worked on while that is so");
            }
            Fact::Refused { key, why } => {
                // The same for every shard, as a rule.
                if self.refused != *why {
                    self.refused.clone_from(why);
                    warn!(lease = ?key, "the API server refuses a request for a Lease: {why}");
                }
            }
        }
    }

    /// The watch of Leases does not work.
    pub(super) fn unseen(&mut self, why: &str) {
        if self.unseen != why {
            why.clone_into(&mut self.unseen);
            warn!("cannot watch Leases: {why}");
        }
    }

    /// A watch was silent for too long; `news`: it was not before.
    pub(super) fn blind(resource: &str, news: bool) {
        if news {
            warn!(resource, "a watch has been silent for too long: the member Lease is not renewed until it lives");
        }
    }

    /// Whether another ring goes first.
    pub(super) fn standby(first: bool) {
        if first {
            info!("replicas with another number of shards are at work: this one stands by until they are gone");
        } else {
            info!("no replicas with another number of shards are at work any more");
        }
    }

    /// An original led before us: its last request may be under way.
    pub(super) fn hold(wait: Duration) {
        info!(seconds = wait.as_secs(), "another product led until now: new addresses are given out after a pause");
    }

    pub(super) fn show(&self, counts: Counts, leads: bool) {
        let known = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.shards(Shards {
            members: known(counts.members),
            held: known(counts.held),
            working: known(counts.working),
            orphaned: known(counts.orphaned),
            leads,
        });
    }
}

/// A fixed set of words, for a label.
fn name(fact: &Fact) -> &'static str {
    match fact {
        Fact::Registered => "registered",
        Fact::Expired => "expired",
        Fact::TimersRestarted => "timers_restarted",
        Fact::MemberDead(_) => "member_dead",
        Fact::MemberBack(_) => "member_back",
        Fact::Took { .. } => "shard_taken",
        Fact::LostRace(_) => "race_lost",
        Fact::Lost(_) => "shard_lost",
        Fact::Released(_) => "shard_released",
        Fact::Unwilling(_) => "member_unwilling",
        Fact::Permitted(_) => "leader_changed",
        Fact::Refused { .. } => "request_refused",
    }
}
