//! How long one claim waits when nothing else is going on: from its creation to its `addressRef`, as a watch sees it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::fixtures::claim;
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;

use crate::arena::{Arena, POOL, claim_name, the_pool};

/// The first ones open connections and fill caches.
const WARM_UP: usize = 5;

/// Makes `count` claims, each after the one before it was served.
pub(crate) async fn singles(count: usize) -> Result<Vec<Duration>> {
    let mut arena = Arena::new("bench-singles").await?;
    let manager = arena.stage.manager(ManagerOptions::new("manager")).await?;
    arena.scene.create(the_pool()).await?;
    arena.scene.pool_is(PoolKind::InCluster, POOL, "True", "PoolReady").await?;
    let mut announcements = arena.announcements().await?;
    let mut latencies = Vec::new();
    for number in 0..count + WARM_UP {
        let name = claim_name(number);
        let started = Instant::now();
        let created = arena.scene.create(claim(&name).in_pool(POOL));
        let ((served, heard), _) = tokio::try_join!(announcements.next(), created)?;
        ensure!(served == name, "{served} was served, and {name} was made");
        if number >= WARM_UP {
            latencies.push(heard.saturating_duration_since(started));
        }
    }
    manager.terminate().await?;
    arena.end();
    latencies.sort_unstable();
    Ok(latencies)
}
