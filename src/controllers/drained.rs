//! Senders of which no request can be delivered any more, by the evidence of their Pods and Leases (F5(b)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::k8s::clock::Clock;
use crate::k8s::leases::LeaseClient;
use crate::k8s::pods::{Look, look};
use crate::pool::key::{Boot, Sender};
use crate::shard::lease::{Identity, LeaseKey};
use crate::shard::ownership::{Call, Outcome};

/// A request that left a process that has ended may still be on its way for so long: the API server ends it after
/// 60 s, and some.
const UNDER_WAY: Duration = Duration::from_secs(90);
/// For so long after a Pod's deletionTimestamp its token is accepted.
const TOKEN_LIVES: Duration = Duration::from_mins(1);
/// The kernel of a node goes on delivering what a dead process left in its buffers.
const BUFFERED: Duration = Duration::from_mins(3);
/// Between two looks at the same sender.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Senders looked at in one round; the rest follows in the next ones.
const LOOKS_AT_ONCE: usize = 16;

/// All senders that are drained.
pub type Drained = Arc<BTreeSet<Sender>>;

/// The two sides of whoever waits.
#[derive(Debug)]
pub struct Senders {
    /// The senders that somebody waits for.
    pub wanted: watch::Sender<BTreeSet<Sender>>,
    /// Those of them that are drained.
    pub drained: watch::Receiver<Drained>,
}

/// Looks for evidence about the senders that somebody waits for.
pub struct Watcher {
    /// For looks at Pods.
    pub client: Client,
    /// For looks at member Leases, where there are any.
    pub leases: Option<LeaseClient>,
    /// The clock that all waits are measured by.
    pub clock: Clock,
    /// This process.
    pub me: Sender,
}

impl Watcher {
    /// Runs until nobody waits any more.
    pub async fn run(self, mut wanted: watch::Receiver<BTreeSet<Sender>>, drained: watch::Sender<Drained>) {
        let mut known = Evidence::default();
        let mut forbidden = false;
        loop {
            let senders = wanted.borrow_and_update().clone();
            known.keep(&senders);
            for sender in known.next_looks(&senders, self.clock.boot()) {
                match self.look(&sender).await {
                    Ok(Some(delay)) => known.note(&sender, self.clock.boot() + delay),
                    Err(why) if !forbidden => {
                        forbidden = true;
                        warn!(
                            "cannot look at Pods, so what a dead replica left settles only after --lock-delay: {why}"
                        );
                    }
                    Ok(None) | Err(_) => {}
                }
            }
            let over = known.over(self.clock.boot());
            drained.send_if_modified(|told| {
                let is_news = **told != over;
                for sender in over.difference(told) {
                    info!(%sender, "a dead replica's requests are all over");
                }
                *told = Arc::new(over);
                is_news
            });
            let pause = if senders.is_empty() { None } else { Some(LOOK_EVERY) };
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
            }
        }
    }

    /// After how much time nothing of the sender can arrive any more, if there is evidence for that now.
    async fn look(&self, sender: &Sender) -> Result<Option<Duration>, String> {
        let Ok(identity) = sender.parse::<Identity>() else { return Ok(None) };
        let Some(uid) = identity.pod_uid() else { return Ok(None) };
        match look(&self.client, identity.namespace(), identity.member().as_str(), uid).await {
            Look::Gone => Ok(Some(UNDER_WAY)),
            Look::Deleting(at) => {
                // The time lies ahead by the rest of the grace period.
                let ahead = at.duration_since(self.clock.now().server);
                Ok(Some(Duration::try_from(ahead).unwrap_or(Duration::ZERO) + TOKEN_LIVES + UNDER_WAY))
            }
            Look::Ended => Ok(Some(BUFFERED)),
            Look::There => Ok(self.is_replaced(&identity).await.then_some(BUFFERED)),
            Look::Forbidden(why) => Err(why),
            Look::Unknown(_) => Ok(None),
        }
    }

    /// Whether a later process of the same Pod runs: this one, or the one that holds its member Lease.
    async fn is_replaced(&self, dead: &Identity) -> bool {
        let replaces = |later: &Identity| later.pod_uid() == dead.pod_uid() && later.instance() != dead.instance();
        if self.me.parse::<Identity>().is_ok_and(|me| replaces(&me)) {
            return true;
        }
        let Some(leases) = &self.leases else { return false };
        let key = LeaseKey::Member(dead.member().clone());
        match leases.carry_out(&key, Call::Get, self.clock.boot()).await {
            // The Lease of a Pod's name is held by its newest process alone: registering takes a CAS.
            Outcome::Done(lease) => lease.holder.ours().is_some_and(replaces),
            _ => false,
        }
    }
}

/// When each sender counts as drained, and when each was looked at last.
#[derive(Default)]
struct Evidence {
    over_at: BTreeMap<Sender, Boot>,
    looked: BTreeMap<Sender, Boot>,
}

impl Evidence {
    /// Forgets those that nobody waits for.
    fn keep(&mut self, wanted: &BTreeSet<Sender>) {
        self.over_at.retain(|sender, _| wanted.contains(sender));
        self.looked.retain(|sender, _| wanted.contains(sender));
    }

    /// In turn: better evidence may come as long as the time is not over.
    fn next_looks(&mut self, wanted: &BTreeSet<Sender>, now: Boot) -> Vec<Sender> {
        let is_over = |sender: &Sender| self.over_at.get(sender).is_some_and(|at| *at <= now);
        let mut open: Vec<&Sender> = wanted.iter().filter(|sender| !is_over(sender)).collect();
        open.sort_by_key(|sender| self.looked.get(*sender));
        let turn: Vec<Sender> = open.into_iter().take(LOOKS_AT_ONCE).cloned().collect();
        self.looked.extend(turn.iter().map(|sender| (sender.clone(), now)));
        turn
    }

    /// The earliest time counts.
    fn note(&mut self, sender: &Sender, at: Boot) {
        let known = self.over_at.entry(sender.clone()).or_insert(at);
        *known = at.min(*known);
    }

    fn over(&self, now: Boot) -> BTreeSet<Sender> {
        self.over_at.iter().filter(|(_, at)| **at <= now).map(|(sender, _)| sender.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_evidence_counts_and_what_nobody_wants_is_forgotten() {
        let (a, b): (Sender, Sender) = ("a".into(), "b".into());
        let mut evidence = Evidence::default();
        evidence.note(&a, 100 * SECOND);
        evidence.note(&a, 190 * SECOND);
        evidence.note(&b, 150 * SECOND);
        assert_eq!(evidence.over(99 * SECOND), BTreeSet::new());
        assert_eq!(evidence.over(100 * SECOND), [a.clone()].into());
        assert_eq!(evidence.over(150 * SECOND), [a.clone(), b.clone()].into());
        evidence.keep(&[b.clone()].into());
        assert_eq!(evidence.over(200 * SECOND), [b].into());
    }

    #[test]
    fn everybody_is_looked_at_in_turn() {
        let wanted: BTreeSet<Sender> = (0..40).map(|n| Sender::from(format!("s{n:02}").as_str())).collect();
        let mut evidence = Evidence::default();
        let mut looked = BTreeSet::new();
        for round in 1..=3 {
            looked.extend(evidence.next_looks(&wanted, round * SECOND));
        }
        assert_eq!(looked, wanted);
        let over = Sender::from("s00");
        evidence.note(&over, 4 * SECOND);
        assert!(
            (5..=8).all(|round| !evidence.next_looks(&wanted, round * SECOND).contains(&over)),
            "nothing to find out"
        );
    }
}
