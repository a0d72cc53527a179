//! More claims at once than the API server can take in: replicas have to tell load from death.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Trial;
use crate::eventually::{NotYet, eventually};
use crate::fixtures::{claim, pool};
use crate::kinds::PoolKind;
use crate::progress::say;

/// More than this fits in no pool here.
pub const LARGEST: usize = 30_000;
const POOLS: usize = 9;

/// What a backlog has led to.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Claims.
    pub claims: usize,
    /// Until all were served.
    pub took: Duration,
    /// Shards that changed hands.
    pub moved: usize,
    /// How often a replica held another one dead.
    pub dead: f64,
    /// How often a replica could not renew its own Lease in time.
    pub expired: f64,
}

/// Makes so many claims, and the pools for them when they all wait; returns when all are served.
pub async fn flood(trial: &mut Trial, claims: usize, within: Duration) -> Result<Flood> {
    ensure!(claims <= LARGEST, "at most {LARGEST} claims");
    let (before, events) = (trial.leases.holdings(), trial.replicas.ownership_events().await?);
    let since = Instant::now();
    let name = |number: usize| format!("flood-{}", number % POOLS);
    trial
        .scene
        .create_all((0..claims).map(|number| claim(&format!("flood-{number:05}")).in_pool(&name(number))))
        .await?;
    for number in 0..POOLS {
        let range = format!("10.{}.0.1-10.{}.15.254", 101 + number, 101 + number);
        trial.checker.allow(PoolKind::InCluster, trial.scene.namespace(), &name(number), [range.as_str()])?;
        trial.scene.create(pool(&name(number)).addresses([range.as_str()]).prefix(16)).await?;
    }
    // Asked of a watch: lists of so many claims would be a load of their own.
    eventually("the backlog is served", within, || async {
        match trial.checker.waiting() {
            0..POOLS => Ok(()),
            waiting => Err(NotYet::because(format!("{waiting} wait"))),
        }
    })
    .await?;
    trial.replicas.must_run()?;
    let after = trial.replicas.ownership_events().await?;
    let more = |event: &str| after.get(event).unwrap_or(&0.0) - events.get(event).unwrap_or(&0.0);
    let flood = Flood {
        claims,
        took: since.elapsed(),
        moved: trial.leases.holdings().moved_since(&before),
        dead: more("member_dead"),
        expired: more("expired"),
    };
    say(format!("{flood:.2?}"));
    Ok(flood)
}
