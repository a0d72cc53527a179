//! The same backlog, served by the manager.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::eventually::{NotYet, eventually};
use e2e::kinds::PoolKind;
use e2e::manager::{Manager, ManagerOptions};
use e2e::scene::counts;

use crate::arena::{Arena, POOL, Served};

/// After the last claim the manager settles its record and counts.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// What a round has measured.
#[derive(Clone, Debug)]
pub(crate) struct Managed {
    pub(crate) served: Served,
    /// CPU time of the manager.
    pub(crate) cpu: Duration,
    /// Requests that the API server was sent.
    pub(crate) requests: f64,
    /// The same by verb and resource, as the manager counts them.
    pub(crate) by_verb: BTreeMap<String, f64>,
    /// Bytes.
    pub(crate) peak_resident: u64,
}

impl Managed {
    /// What the manager has sent, for people.
    pub(crate) fn sent(&self) -> String {
        let counts = self.by_verb.iter().filter(|(_, count)| **count > 0.0);
        counts.map(|(verb, count)| format!("{verb} {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// Has the manager serve a backlog of `claims`.
pub(crate) async fn round(claims: usize) -> Result<Managed> {
    let mut arena = Arena::new("bench-managed").await?;
    let manager = arena.stage.manager(ManagerOptions::new("manager")).await?;
    arena.backlog(claims, Some(&manager)).await?;
    let mut announcements = arena.announcements().await?;
    let (usage, requests, sent_before) = (manager.usage()?, arena.requests().await?, sent(&manager).await?);

    let started = Instant::now();
    let (served, ()) = tokio::try_join!(announcements.all(claims, started), arena.release_backlog())?;

    // What comes after the last claim is part of the cost, though nobody waits for it.
    let cpu = manager.usage()?.cpu;
    settled(&arena, claims).await?;
    let (after, requests_until, mut by_verb) = (manager.usage()?, arena.requests().await?, sent(&manager).await?);
    for (verb, count) in &mut by_verb {
        *count -= sent_before.get(verb).unwrap_or(&0.0);
    }
    let measured = Managed {
        served,
        cpu: after.cpu.max(cpu).saturating_sub(usage.cpu),
        requests: requests_until - requests,
        by_verb,
        peak_resident: after.peak_resident,
    };
    manager.terminate().await?;
    arena.end();
    Ok(measured)
}

/// Waits until the pool counts them all.
async fn settled(arena: &Arena, claims: usize) -> Result<()> {
    let pools = arena.scene.pools(PoolKind::InCluster);
    eventually("the pool counts all claims", SETTLED_WITHIN, || async {
        match counts(&pools.get(POOL).await?) {
            Some(counts) if usize::try_from(counts.used) == Ok(claims) => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await
}

/// What the manager says that it has sent, by verb and resource.
async fn sent(manager: &Manager) -> Result<BTreeMap<String, f64>> {
    Ok(manager.metrics().await?.sum_by("capi_ipam_api_requests_total", &["verb", "resource"]))
}
