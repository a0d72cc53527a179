//! A fresh control plane with a backlog that nobody has touched yet, and the stopwatch over it.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use e2e::chart::Release;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{Pool, claim, cluster, pool};
use e2e::manager::Manager;
use e2e::metrics::Metrics;
use e2e::scene::{Scene, Stage, address_ref};
use e2e::{control_plane, usage};
use futures::TryStreamExt as _;
use http::Request;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// What the pool holds; a backlog must not be larger.
pub(crate) const LARGEST: usize = 65_533;

/// The pool that the backlog waits for, and the paused cluster that it waits behind: with a pool alone missing, the
/// manager would already have written finalizers and conditions when the measurement begins.
pub(crate) const POOL: &str = "p";
const CLUSTER: &str = "c";

const SERVED_WITHIN: Duration = Duration::from_mins(5);

/// Idle: less than a fifth of a core during half a second.
const IDLE_WINDOW: Duration = Duration::from_millis(500);
const IDLE_CPU: Duration = Duration::from_millis(100);
const IDLE_WITHIN: Duration = Duration::from_mins(1);

/// One control plane and one namespace on it.
pub(crate) struct Arena {
    pub(crate) stage: Stage,
    pub(crate) scene: Scene,
}

/// How long a backlog took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) claims: usize,
    pub(crate) took: Duration,
}

impl Served {
    /// Claims per second.
    #[expect(clippy::cast_precision_loss, reason = "a backlog is far below 2^52")]
    pub(crate) fn rate(&self) -> f64 {
        self.claims as f64 / self.took.as_secs_f64()
    }
}

/// Claims whose `addressRef` the API server announces, each once, with the time when that was heard of.
///
/// The watch has a task of its own: a reader that shares its task with 64 writers is so slow that the API server closes
/// its watch.
pub(crate) struct Announcements {
    served: UnboundedReceiver<Result<(String, Instant)>>,
    watch: JoinHandle<()>,
}

impl Arena {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let stage = Stage::own(name).await?;
        let scene = stage.scene(name).await?;
        Ok(Self { stage, scene })
    }

    /// A client of the manager's service account: the API server treats its requests as it treats the manager's.
    pub(crate) async fn service_account_client(&self) -> Result<Client> {
        let control_plane = &self.stage.control_plane;
        let release = Release::default();
        release.install(self.scene.client()).await?;
        let file = control_plane.folder().join("raw.kubeconfig");
        let token = release.token(self.scene.client()).await?;
        control_plane::kubeconfig_with_token(control_plane.kubeconfig_path(), &file, &token)?;
        control_plane::client(&file).await
    }

    /// Makes the claims, and waits until everybody has digested them.
    pub(crate) async fn backlog(&self, claims: usize, manager: Option<&Manager>) -> Result<()> {
        self.scene.create(cluster(CLUSTER).spec_paused()).await?;
        let names = (0..claims).map(|number| claim(&claim_name(number)).in_pool(POOL).of_cluster(CLUSTER));
        self.scene.create_all(names).await?;
        self.idle(manager).await
    }

    async fn idle(&self, manager: Option<&Manager>) -> Result<()> {
        let busy = || -> Result<Duration> {
            let mut sum = manager.map(Manager::usage).transpose()?.map_or(Duration::ZERO, |usage| usage.cpu);
            for id in self.stage.control_plane.process_ids() {
                sum += usage::of_process(id)?.cpu;
            }
            Ok(sum)
        };
        eventually("control plane and manager are idle", IDLE_WITHIN, || async {
            let before = busy().map_err(|error| NotYet::because(error.to_string()))?;
            tokio::time::sleep(IDLE_WINDOW).await;
            let used = busy().map_err(|error| NotYet::because(error.to_string()))?.saturating_sub(before);
            if used < IDLE_CPU { Ok(()) } else { Err(NotYet::because(format!("{used:?} of CPU in {IDLE_WINDOW:?}"))) }
        })
        .await
    }

    /// Makes the pool and unpauses the cluster: now the manager may begin.
    pub(crate) async fn release_backlog(&self) -> Result<()> {
        self.scene.create(the_pool()).await?;
        self.scene.patch(&self.scene.clusters(), CLUSTER, json!({ "spec": { "paused": false } })).await?;
        Ok(())
    }

    /// Watches from now on.
    pub(crate) async fn announcements(&self) -> Result<Announcements> {
        let api = self.scene.claims();
        let now = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let (sender, served) = unbounded_channel();
        let watch = tokio::spawn(async move {
            if let Err(error) = announce(&api, now, &sender).await {
                // Nobody listens any more: then nobody wants to know.
                let _ = sender.send(Err(error));
            }
        });
        Ok(Announcements { served, watch })
    }

    /// How many requests of service accounts the API server has taken on. The manager is the only one that it knows as
    /// one: kube-controller-manager, which looks claims up to collect garbage, and the bench itself are administrators.
    pub(crate) async fn requests(&self) -> Result<f64> {
        let of_service_accounts = [("flow_schema", "service-accounts")];
        let name = "apiserver_flowcontrol_dispatched_requests_total";
        let metrics = self.server_metrics().await?;
        metrics.sum(name, &of_service_accounts).with_context(|| format!("the API server has no {name}"))
    }

    /// What the API server counts.
    pub(crate) async fn server_metrics(&self) -> Result<Metrics> {
        let text = self.scene.client().request_text(Request::get("/metrics").body(Vec::new())?).await?;
        Ok(Metrics::parse(&text))
    }

    /// Ends the control plane; what is in it goes with it.
    pub(crate) fn end(self) {
        self.scene.abandon();
        self.stage.control_plane.stop();
    }
}

impl Announcements {
    /// Waits until so many claims have been announced, and says how long that took since `started`.
    pub(crate) async fn all(&mut self, claims: usize, started: Instant) -> Result<Served> {
        let mut last = started;
        for heard in 0..claims {
            let left = SERVED_WITHIN.saturating_sub(started.elapsed());
            let Ok(next) = tokio::time::timeout(left, self.next()).await else {
                bail!("{heard} of {claims} claims were served within {SERVED_WITHIN:?}");
            };
            last = next?.1;
        }
        Ok(Served { claims, took: last.saturating_duration_since(started) })
    }

    /// The next claim that was served, and when that was heard of.
    pub(crate) async fn next(&mut self) -> Result<(String, Instant)> {
        self.served.recv().await.context("the watch of the claims has ended")?
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Watches until nobody listens; a watch that ends is taken up where it ended.
async fn announce(
    api: &Api<DynamicObject>,
    mut version: String,
    sender: &UnboundedSender<Result<(String, Instant)>>,
) -> Result<()> {
    let mut served = HashSet::new();
    loop {
        let events = api.watch(&WatchParams::default().timeout(290), &version).await.context("watching the claims")?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.context("watching the claims")? {
            match event {
                WatchEvent::Added(claim) | WatchEvent::Modified(claim) => {
                    version = claim.resource_version().unwrap_or_default();
                    let announced = address_ref(&claim).is_some() && served.insert(claim.name_any());
                    if announced && sender.send(Ok((claim.name_any(), Instant::now()))).is_err() {
                        return Ok(());
                    }
                }
                WatchEvent::Error(status) => bail!("the watch of the claims failed: {}", status.message),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            }
        }
    }
}

/// 10.1.0.0/16 without what is reserved.
pub(crate) fn the_pool() -> Pool {
    pool(POOL).addresses(["10.1.0.0/16"]).prefix(16).gateway("10.1.0.1")
}

/// By number, in the order of their names.
pub(crate) fn claim_name(number: usize) -> String {
    format!("claim-{number:05}")
}

/// The address that first fit gives to the claim of this number.
pub(crate) fn address_of(number: usize) -> Result<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 1, 0, 2));
    Ok(Ipv4Addr::from(first + u32::try_from(number)?))
}
