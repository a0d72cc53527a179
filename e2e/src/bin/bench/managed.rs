//! The same backlog, served by the manager.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::eventually::{NotYet, eventually};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::scene::counts;

use crate::arena::{Arena, POOL, Served};

/// After the last claim the manager settles its record and counts.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Requests of the bench itself while it measures: it makes the pool and unpauses the cluster.
const OWN_REQUESTS: f64 = 2.0;

/// What a round has measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Managed {
    pub(crate) served: Served,
    /// CPU time of the manager.
    pub(crate) cpu: Duration,
    /// Requests that the API server answered.
    pub(crate) requests: f64,
    /// Bytes.
    pub(crate) peak_resident: u64,
}

/// Has the manager serve a backlog of `claims`.
pub(crate) async fn round(claims: usize) -> Result<Managed> {
    let mut arena = Arena::new("bench-managed").await?;
    let manager = arena.stage.manager(ManagerOptions::new("manager")).await?;
    arena.backlog(claims, Some(&manager)).await?;
    let mut announcements = arena.announcements().await?;
    let (usage, requests) = (manager.usage()?, arena.requests().await?);

    let started = Instant::now();
    let (served, ()) = tokio::try_join!(announcements.all(claims, started), arena.release_backlog())?;

    // What comes after the last claim is part of the cost, though nobody waits for it.
    let cpu = manager.usage()?.cpu;
    let requests_until = settled(&arena, claims).await?;
    let after = manager.usage()?;
    let measured = Managed {
        served,
        cpu: after.cpu.max(cpu).saturating_sub(usage.cpu),
        requests: requests_until - requests - OWN_REQUESTS,
        peak_resident: after.peak_resident,
    };
    manager.terminate().await?;
    arena.end();
    Ok(measured)
}

/// Waits until the pool counts them all; returns the API server's count of requests. The looks are taken off it.
async fn settled(arena: &Arena, claims: usize) -> Result<f64> {
    let looks = std::cell::Cell::new(0.0);
    let pools = arena.scene.pools(PoolKind::InCluster);
    eventually("the pool counts all claims", SETTLED_WITHIN, || async {
        looks.set(looks.get() + 1.0);
        let counts = counts(&pools.get(POOL).await?);
        match counts {
            Some(counts) if usize::try_from(counts.used) == Ok(claims) => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await?;
    Ok(arena.requests().await? - looks.get())
}
