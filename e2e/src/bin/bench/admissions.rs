//! How long an admission request takes when the pool has many addresses in use, as the API server measures it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use e2e::chart::Release;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::address;
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::metrics::Metrics;
use e2e::scene::counts;
use e2e::webhooks::{Certificate, Door, serving};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::arena::{Arena, POOL, address_of, claim_name, the_pool};

/// The first ones open connections.
const WARM_UP: usize = 20;
/// Between two pairs of requests: as people and tools send them, not as many as the API server can take.
const PAUSE: Duration = Duration::from_millis(10);
/// The API server's histogram, and the webhook that has to look at the addresses.
const HISTOGRAM: &str = "apiserver_admission_webhook_admission_duration_seconds";
const WEBHOOK: &str = "validation.inclusterippool.ipam.cluster.x-k8s.io";

/// What the API server says of the requests of one operation. Its buckets end at 5 ms and 25 ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub(crate) within_5_ms: f64,
    pub(crate) within_25_ms: f64,
}

impl Asked {
    fn of(metrics: &Metrics, operation: &str) -> Result<Self> {
        let labels = |le| [("name", WEBHOOK), ("operation", operation), ("le", le)];
        let bucket = |le| metrics.sum(&format!("{HISTOGRAM}_bucket"), &labels(le));
        let whole = |part| metrics.sum(&format!("{HISTOGRAM}_{part}"), &labels("")[..2]);
        let found = || {
            Some(Self {
                requests: whole("count")?,
                seconds: whole("sum")?,
                within_5_ms: bucket("0.005")?,
                within_25_ms: bucket("0.025")?,
            })
        };
        found().with_context(|| format!("the API server has no {HISTOGRAM} for {operation}"))
    }

    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            seconds: self.seconds - before.seconds,
            within_5_ms: self.within_5_ms - before.within_5_ms,
            within_25_ms: self.within_25_ms - before.within_25_ms,
        }
    }
}

/// Asks so many times whether a pool with `addresses` in use may be changed, and whether it may be deleted.
pub(crate) async fn round(addresses: usize, requests: usize) -> Result<[(&'static str, Asked); 2]> {
    let mut arena = Arena::new("bench-admissions").await?;
    let client = arena.scene.client().clone();
    let certificate = Certificate::new(&arena.stage.control_plane, "bench")?;
    let (door, (options, port)) = (Door::open()?, serving(ManagerOptions::new("manager"), &certificate)?);
    let manager = arena.stage.manager(options).await?;
    door.leads_to(&[port]);
    door.install(&client, &Release::default(), Some(certificate.authority())).await?;
    door.is_used(&client).await?;
    arena.scene.create(the_pool()).await?;
    let all: Vec<Ipv4Addr> = (0..addresses).map(address_of).collect::<Result<_>>()?;
    let held = all.iter().enumerate().map(|(number, held)| address(&claim_name(number), POOL, &held.to_string()));
    arena.scene.create_all(held).await?;
    let pools = arena.scene.pools(PoolKind::InCluster);
    eventually("the pool counts all addresses", PATIENCE, || async {
        match counts(&pools.get(POOL).await?) {
            Some(counts) if usize::try_from(counts.used) == Ok(addresses) => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await?;

    let change = async |number: usize| -> Result<()> {
        // An address that is free; one request must not be like the one before it.
        let excluded = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 200, 0)) + u32::try_from(number % 4_096)?);
        let patch = json!({ "spec": { "excludedAddresses": [excluded.to_string()] } });
        let only_ask = PatchParams { dry_run: true, ..PatchParams::default() };
        pools.patch(POOL, &only_ask, &Patch::Merge(patch)).await.context("changing the pool")?;
        Ok(())
    };
    let delete = async || -> Result<()> {
        let only_ask = DeleteParams { dry_run: true, ..DeleteParams::default() };
        match pools.delete(POOL, &only_ask).await {
            Err(kube::Error::Api(status)) if status.message.contains("in use") => Ok(()),
            other => bail!("the deletion of a pool in use is answered with {other:?}"),
        }
    };
    for number in 0..WARM_UP {
        change(number).await?;
        delete().await?;
    }
    let before = arena.server_metrics().await?;
    for number in 0..requests {
        tokio::time::sleep(PAUSE).await;
        change(number).await?;
        delete().await?;
    }
    let after = arena.server_metrics().await?;
    let asked = |operation| Ok::<_, anyhow::Error>(Asked::of(&after, operation)?.since(Asked::of(&before, operation)?));
    let measured = [("UPDATE", asked("UPDATE")?), ("DELETE", asked("DELETE")?)];
    manager.terminate().await?;
    arena.end();
    Ok(measured)
}
