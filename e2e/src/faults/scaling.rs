//! Replicas that come and go under load, and what they cost when nothing happens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use capi_ipam::shard::key::DEFAULT_SHARDS;

use super::Trial;
use crate::eventually::{NotYet, eventually};
use crate::load::Service;
use crate::process::Signal;
use crate::progress::say;
use crate::replicas::must_be_even;

const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Shards are handed over four at a time: what moves too often is seen after the balance is reached.
const QUIET: Duration = Duration::from_secs(3);

/// One change of the number of replicas.
#[derive(Clone, Copy, Debug)]
pub struct Scaled {
    /// Replicas before.
    pub from: usize,
    /// Replicas after.
    pub to: usize,
    /// Shards that have another holder than before.
    pub moved: usize,
    /// How many would have to move at least.
    pub least: usize,
    /// Until the shards were shared evenly.
    pub took: Duration,
    /// Claims in all pools meanwhile.
    pub all: Service,
    /// Claims in pools that stayed where they were.
    pub untouched: Service,
}

/// Starts or ends replicas, all at once, and waits until the shards are shared evenly again.
pub async fn scale(trial: &mut Trial, to: usize) -> Result<Scaled> {
    let (names, owners, before) = (trial.replicas.names(), trial.owners(), trial.leases.holdings());
    let since = Instant::now();
    let mut leaving = BTreeSet::new();
    if let Some(more) = to.checked_sub(names.len()) {
        trial.replicas.start(&trial.stage.control_plane, more).await?;
    } else {
        let mut staying: Vec<String> = names.iter().cloned().collect();
        while staying.len() > to {
            leaving.insert(staying.swap_remove(trial.chance.below(staying.len())));
        }
        end_all(trial, &leaving).await?;
    }
    let after = trial.even().await?;
    let took = since.elapsed();
    must_be_even(&after.counts())?;
    tokio::time::sleep(QUIET).await;
    let moved = trial.leases.holdings().moved_since(&before);
    let shards = usize::from(DEFAULT_SHARDS);
    let held = |names: &BTreeSet<String>| {
        before.counts().into_iter().filter(|(name, _)| names.contains(*name)).map(|(_, count)| count).sum()
    };
    let least = if leaving.is_empty() { shards - shards.div_ceil(to) * names.len().min(to) } else { held(&leaving) };
    let scaled = Scaled {
        from: names.len(),
        to,
        moved,
        least,
        took,
        all: trial.service(since),
        untouched: trial.untouched(&owners, &leaving, since),
    };
    say(format!("{scaled:.2?}"));
    Ok(scaled)
}

async fn end_all(trial: &mut Trial, names: &BTreeSet<String>) -> Result<()> {
    for name in names {
        trial.replicas.signal(name, Signal::Term)?;
    }
    for name in names {
        let replicas = std::cell::RefCell::new(&mut trial.replicas);
        eventually(&format!("{name} ends"), ENDS_WITHIN, || async {
            let running = replicas.borrow_mut().get(name)?.must_run().is_ok();
            if running { Err(NotYet::because("it runs")) } else { Ok(()) }
        })
        .await?;
        let status = trial.replicas.terminate(name).await?;
        ensure!(status.success(), "after SIGTERM {name} ended with {status}");
    }
    Ok(())
}

/// Writes of Leases per second while nothing happens to the replicas.
pub async fn lease_writes(trial: &Trial, during: Duration) -> f64 {
    let before = trial.leases.writes();
    let since = Instant::now();
    tokio::time::sleep(during).await;
    let writes = u32::try_from(trial.leases.writes() - before).unwrap_or(u32::MAX);
    f64::from(writes) / since.elapsed().as_secs_f64()
}
