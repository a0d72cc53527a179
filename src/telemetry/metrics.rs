//! What Prometheus scrapes: one value to be cloned to everybody who counts something.
//!
//! Names begin with `capi_ipam_`; labels never hold the name of a claim or a pod, and the number of pools in labels is
//! capped at 1,000: the others are summed as `_other`. Kinds, reasons, verbs and resources are `&'static str`, so that
//! no input can make series.

mod exposition;
mod pools;
mod process;
mod shards;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use exposition::Exposition;
use pools::Pools;
pub use pools::{Counts, PoolLabels};
use process::Process;
pub use shards::Shards;

use crate::api::names::PoolKind;

/// Seconds that a claim takes: 5 ms is one round trip, 10 minutes is an orphan's grace period.
const CLAIM_SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Seconds that a request takes: the longest end with the API server's own limit of a minute.
const REQUEST_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

/// Claims in a batch.
const BATCH_CLAIMS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    verb: &'static str,
    resource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    resource: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    path: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

/// Makes the histograms of a family, all with the same buckets.
#[derive(Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Counters<L> = Family<L, Counter>;
type Histograms<L> = Family<L, Histogram, Buckets>;

/// The metrics of this process; a clone is the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    pools: Arc<Pools>,
    allocations: Counters<KindLabel>,
    releases: Counters<KindLabel>,
    orphan_releases: Counters<KindLabel>,
    errors: Counters<ReasonLabel>,
    events_dropped: Counters<ReasonLabel>,
    batches: Counters<KindLabel>,
    commit_conflicts: Counters<KindLabel>,
    claim_duration: Histograms<KindLabel>,
    claim_service: Histograms<KindLabel>,
    batch_claims: Histograms<KindLabel>,
    api_requests: Counters<RequestLabels>,
    api_request_duration: Histograms<CallLabels>,
    watch_restarts: Counters<WatchLabels>,
    webhook_requests: Counters<WebhookLabels>,
    webhook_request_duration: Histograms<PathLabel>,
    shards: shards::Gauges,
    ownership_events: Counters<EventLabel>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut whole = Registry::default();
        whole.register_collector(Box::new(Process));
        let registry = whole.sub_registry_with_prefix("capi_ipam");
        let pools = Arc::new(Pools::default());
        registry.register_collector(Box::new(Arc::clone(&pools)));
        let build = Family::<VersionLabel, Gauge>::default();
        build.get_or_create(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version of this program", build);
        let inner = Inner {
            pools,
            allocations: per_kind(registry, "allocations", "Addresses and prefixes given to claims"),
            releases: per_kind(registry, "releases", "Addresses and prefixes taken back from claims"),
            orphan_releases: per_kind(
                registry,
                "orphan_releases",
                "IPAddress objects released because their claim was gone",
            ),
            errors: counters(registry, "errors", "Things that went wrong, by reason"),
            events_dropped: counters(registry, "events_dropped", "Events that users were not told of, by reason"),
            batches: per_kind(registry, "batches", "Batches of claims that were decided and recorded together"),
            commit_conflicts: per_kind(registry, "commit_conflicts", "Records that somebody else had changed"),
            claim_duration: histograms(
                registry,
                "claim_duration_seconds",
                "From the creation of a claim until its status names the address",
                &CLAIM_SECONDS,
            ),
            claim_service: histograms(
                registry,
                "claim_service_seconds",
                "From the moment this process saw a claim until its status names the address",
                &CLAIM_SECONDS,
            ),
            batch_claims: histograms(registry, "batch_claims", "Claims in a batch", &BATCH_CLAIMS),
            api_requests: counters(registry, "api_requests", "Requests to the API server, by code or error"),
            api_request_duration: histograms(
                registry,
                "api_request_duration_seconds",
                "From a request to the API server until its answer",
                &REQUEST_SECONDS,
            ),
            watch_restarts: counters(registry, "watch_restarts", "Watches that had to be opened again"),
            webhook_requests: counters(registry, "webhook_requests", "Requests of the API server to our webhooks"),
            webhook_request_duration: histograms(
                registry,
                "webhook_request_duration_seconds",
                "From a request of the API server to a webhook until our answer",
                &REQUEST_SECONDS,
            ),
            shards: shards::Gauges::register(registry),
            ownership_events: counters(registry, "ownership_events", "What happened among replicas and shards"),
            registry: whole,
        };
        Self(Arc::new(inner))
    }

    /// All of them as text.
    pub fn render(&self, exposition: Exposition) -> String {
        let mut written = String::new();
        // Writing to a String does not fail, and a collector only fails if the writer does.
        let _ = text::encode(&mut written, &self.0.registry);
        exposition.of(written)
    }

    /// How the replicas share the work, replacing what was said before.
    pub fn shards(&self, shards: Shards) {
        self.0.shards.set(shards);
    }

    /// Something happened among replicas and shards; `event` is one of few words.
    pub fn ownership_event(&self, event: &'static str) {
        self.0.ownership_events.get_or_create(&EventLabel { event }).inc();
    }

    /// What a pool has and gave away, replacing what was said before.
    pub fn pool_counts(&self, pool: PoolLabels<'_>, counts: Counts) {
        self.0.pools.set_counts(pool, counts);
    }

    /// Intents in the record of a pool that no address has settled yet.
    pub fn pool_pending_intents(&self, pool: PoolLabels<'_>, intents: u64) {
        self.0.pools.set_pending_intents(pool, intents);
    }

    /// IPAddress objects of a pool whose claim does not exist.
    pub fn pool_orphaned(&self, pool: PoolLabels<'_>, addresses: u64) {
        self.0.pools.set_orphaned(pool, addresses);
    }

    /// IPAddress objects of a pool that hold what another one holds.
    pub fn pool_duplicates(&self, pool: PoolLabels<'_>, addresses: u64) {
        self.0.pools.set_duplicates(pool, addresses);
    }

    /// How many claims of a pool wait for what; reasons that are not named count none.
    pub fn waiting_claims(&self, pool: PoolLabels<'_>, waiting: &[(&'static str, u64)]) {
        self.0.pools.set_waiting(pool, waiting);
    }

    /// Forgets a pool that is gone, or that another replica reports about.
    pub fn remove_pool(&self, pool: PoolLabels<'_>) {
        self.0.pools.remove(pool);
    }

    /// Claims of a kind of pool got their addresses.
    pub fn allocated(&self, kind: &'static str, claims: u64) {
        self.0.allocations.get_or_create(&KindLabel { kind }).inc_by(claims);
    }

    /// Claims of a kind of pool gave their addresses back.
    pub fn released(&self, kind: &'static str, claims: u64) {
        self.0.releases.get_or_create(&KindLabel { kind }).inc_by(claims);
    }

    /// An IPAddress was released because its claim was gone.
    pub fn orphan_released(&self, kind: &'static str) {
        self.0.orphan_releases.get_or_create(&KindLabel { kind }).inc();
    }

    /// Something went wrong.
    pub fn error(&self, reason: &'static str) {
        self.0.errors.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// An Event was not written; `reason` is one of few words.
    pub fn event_dropped(&self, reason: &'static str) {
        self.0.events_dropped.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A batch of claims was recorded.
    pub fn batch(&self, kind: &'static str, claims: u32) {
        self.0.batches.get_or_create(&KindLabel { kind }).inc();
        self.0.batch_claims.get_or_create(&KindLabel { kind }).observe(f64::from(claims));
    }

    /// A record could not be written, because somebody else had changed it.
    pub fn commit_conflict(&self, kind: &'static str) {
        self.0.commit_conflicts.get_or_create(&KindLabel { kind }).inc();
    }

    /// A claim's status names its address, so long after the claim was created.
    pub fn claim_duration(&self, kind: &'static str, duration: Duration) {
        self.0.claim_duration.get_or_create(&KindLabel { kind }).observe(duration.as_secs_f64());
    }

    /// A claim's status names its address, so long after this process saw the claim.
    pub fn claim_service(&self, kind: &'static str, duration: Duration) {
        self.0.claim_service.get_or_create(&KindLabel { kind }).observe(duration.as_secs_f64());
    }

    /// A request was answered with a status code, or with none at all.
    pub fn api_request(&self, verb: &'static str, resource: &'static str, code: Option<u16>, duration: Duration) {
        let code = code.map_or_else(|| "error".to_owned(), |code| code.to_string());
        self.0.api_requests.get_or_create(&RequestLabels { verb, resource, code }).inc();
        let labels = CallLabels { verb, resource };
        self.0.api_request_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A watch ended and was opened again.
    pub fn watch_restarted(&self, resource: &'static str, reason: &'static str) {
        self.0.watch_restarts.get_or_create(&WatchLabels { resource, reason }).inc();
    }

    /// A request to a webhook was answered; `result` is one of few words.
    pub fn webhook_request(&self, path: &'static str, result: &'static str, duration: Duration) {
        self.0.webhook_requests.get_or_create(&WebhookLabels { path, result }).inc();
        self.0.webhook_request_duration.get_or_create(&PathLabel { path }).observe(duration.as_secs_f64());
    }
}

fn counters<L>(registry: &mut Registry, name: &str, help: &str) -> Counters<L>
where
    L: EncodeLabelSet + Clone + Eq + std::hash::Hash + Send + Sync + fmt::Debug + 'static,
{
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

/// Counters that exist from the start for each kind of pool, so that the first allocation is an increase.
fn per_kind(registry: &mut Registry, name: &str, help: &str) -> Counters<KindLabel> {
    let family = counters(registry, name, help);
    for kind in PoolKind::ALL.map(PoolKind::kind) {
        drop(family.get_or_create(&KindLabel { kind }));
    }
    family
}

fn histograms<L>(registry: &mut Registry, name: &str, help: &str, buckets: &'static [f64]) -> Histograms<L>
where
    L: EncodeLabelSet + Clone + Eq + std::hash::Hash + Send + Sync + fmt::Debug + 'static,
{
    let family = Histograms::new_with_constructor(Buckets(buckets));
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests;
