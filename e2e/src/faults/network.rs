//! An owner that cannot reach the API server for a while, or sees everything late.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Trial;
use crate::load::Service;
use crate::progress::say;
use crate::proxy::Way;

const TAKEN_WITHIN: Duration = Duration::from_mins(1);
/// How long an owner is cut off at least: longer than its Lease lasts for anybody.
const CUT: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(12));
/// In which an owner that is healed finds out that it was replaced, if it was.
const WAKES_WITHIN: Duration = Duration::from_secs(3);

/// What a partition has led to.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// From the cut to the first claim that a successor served.
    pub first: Duration,
    /// Until each pool of the victim had served one.
    pub all: Duration,
    /// Claims in pools of others meanwhile.
    pub untouched: Service,
    /// Replicas that ended by themselves when it was healed: the victim, or none.
    pub ended: usize,
}

/// Cuts an owner off in this way, and heals it when others have taken over.
pub async fn cut_off(trial: &mut Trial, way: Way) -> Result<Partition> {
    trial.random_moment().await;
    let (victim, pools) = trial.random_owner()?;
    let owners = trial.owners();
    let since = Instant::now();
    trial.replicas.set_way(&victim, way)?;
    let (first, all) = trial.served_by_others(&victim, &pools, since, TAKEN_WITHIN).await?;
    let untouched = trial.untouched(&owners, &BTreeSet::from([victim.clone()]), since);
    let cut = trial.chance.between(CUT.0, CUT.1);
    tokio::time::sleep(cut.saturating_sub(since.elapsed())).await;
    trial.replicas.set_way(&victim, Way::Open)?;
    tokio::time::sleep(WAKES_WITHIN).await;
    let ended = trial.replicas.ended();
    ensure!(ended.iter().all(|name| *name == victim), "{ended:?} ended by themselves, not only {victim}");
    if !ended.is_empty() {
        trial.replicas.start(&trial.stage.control_plane, 1).await?;
    }
    trial.even().await?;
    let partition = Partition { first, all, untouched, ended: ended.len() };
    say(format!("{way:?} for {victim}: {partition:.2?}"));
    Ok(partition)
}

/// What late events have led to.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// Claims in the victim's pools.
    pub victims: Service,
    /// Claims in pools of others.
    pub untouched: Service,
    /// Shards that changed hands.
    pub moved: usize,
}

/// Holds an owner's watch events back for `by`, as long as that, and then lets them come.
pub async fn hold_events(trial: &mut Trial, by: Duration) -> Result<Late> {
    trial.random_moment().await;
    let (victim, pools) = trial.random_owner()?;
    let (owners, before) = (trial.owners(), trial.leases.holdings());
    let since = Instant::now();
    trial.replicas.set_way(&victim, Way::WatchesHeld(by))?;
    tokio::time::sleep(by).await;
    let late = Late {
        victims: trial.load.service(&pools, since, Instant::now()),
        untouched: trial.untouched(&owners, &BTreeSet::from([victim.clone()]), since),
        moved: trial.leases.holdings().moved_since(&before),
    };
    trial.replicas.set_way(&victim, Way::Open)?;
    say(format!("events held back {by:?} for {victim}: {late:.2?}"));
    trial.replicas.must_run()?;
    Ok(late)
}
