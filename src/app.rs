//! The composition root: the only place that builds clients and starts tasks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::capi::CapiVersion;
use crate::cli::{Identity, Options};
use crate::controllers::ownership::Ownership;
use crate::controllers::router::{End, Router};
use crate::controllers::sources;
use crate::controllers::view::{Filter, View};
use crate::controllers::worker::Shared;
use crate::k8s::clients::{self, Clients};
use crate::k8s::clock::Clock;
use crate::k8s::discover::{Found, capi_version};
use crate::k8s::exchange::Observer;
use crate::k8s::write::Writer;
use crate::pool::key::Sender;
use crate::pool::machine::Config;
use crate::telemetry::admin::{self, Health};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{self};

/// How long the API server may be out of reach at the start: it may be starting too.
const FIRST_CONTACT: Duration = Duration::from_secs(20);
/// Between two looks for the server or for what it misses.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A process that was asked to stop ends by then, whatever hangs.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What the parts of the process share.
struct App {
    options: Options,
    clients: Clients,
    clock: Clock,
    metrics: Metrics,
    health: Health,
    me: Sender,
    /// The API server's URL.
    server: String,
    stop: CancellationToken,
}

/// Runs the manager until it is asked to stop. Errors are for people: one line, with its causes.
pub fn run(options: Options) -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(start(options));
    // Tasks that still wait for an answer are not waited for.
    runtime.shutdown_background();
    result
}

async fn start(options: Options) -> Result<()> {
    let telemetry_options = telemetry::Options::from_environment(options.log_format, options.verbosity)?;
    let telemetry = telemetry::init(&telemetry_options)?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let (metrics, health, clock) = (Metrics::new(), Health::new(), Clock::boottime());
    health.set_ready("caches", Err("starting".to_owned()));
    serve_diagnostics(&options, &health, &metrics, &stop).await?;
    let config = clients::config(options.kubeconfig.as_deref().map(Path::new)).await?;
    let clients = clients::clients(&config, &clock, &observer(&metrics))?;
    let me = sender(&options.identity, &config.default_namespace);
    for warning in &options.warnings {
        warn!("{warning}");
    }
    info!(version = env!("CARGO_PKG_VERSION"), server = %config.cluster_url, identity = %me, "starting");
    let server = config.cluster_url.to_string();
    let app = App { options, clients, clock, metrics, health, me, server, stop };
    let result = app.serve().await;
    telemetry.shutdown().await;
    result
}

impl App {
    async fn serve(&self) -> Result<()> {
        let mut reached = false;
        loop {
            let Some(api) = self.wait_for_kinds(&mut reached).await? else { return Ok(()) };
            info!(version = %api, "Cluster API's claims and addresses are served");
            match self.run_controllers(api).await {
                End::Stopped => {
                    info!("stopped");
                    return Ok(());
                }
                End::Rediscover(kind) => warn!("{kind} is not served any more; looking for it again"),
                End::Broken(why) => bail!("{why}"),
            }
        }
    }

    /// Waits until the server has the kinds that are needed. `None`: asked to stop.
    async fn wait_for_kinds(&self, reached: &mut bool) -> Result<Option<CapiVersion>> {
        let start = self.clock.boot();
        let mut told = String::new();
        loop {
            self.health.beat("router", 6 * FIRST_CONTACT);
            let found = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                found = capi_version(&self.clients.request) => found,
            };
            let message = match found {
                Found::Version(version) => return Ok(Some(version)),
                Found::Missing(kinds) => {
                    *reached = true;
                    format!(
                        "the CustomResourceDefinitions {} are missing (Cluster API's core provider brings them); waiting for them",
                        kinds.join(" and ")
                    )
                }
                Found::Unknown(why) if !*reached && self.clock.boot().saturating_sub(start) >= FIRST_CONTACT => {
                    bail!("cannot reach the API server at {}: {why}", self.server)
                }
                Found::Unknown(why) => format!("cannot reach the API server at {}: {why}", self.server),
            };
            if message != told {
                warn!("{message}");
                self.health.set_ready("caches", Err(message.clone()));
                told = message;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn run_controllers(&self, api: CapiVersion) -> End {
        let (options, clock) = (&self.options, &self.clock);
        let config = Config { me: self.me.clone(), lock_delay: options.lock_delay, version: api };
        let shared = Shared {
            writer: Writer::new(&self.clients, clock.clone(), api),
            clock: clock.clone(),
            metrics: self.metrics.clone(),
            config,
            addresses_until: Arc::new(AtomicU64::new(0)),
        };
        let filter = Filter { namespace: options.namespace.clone(), watch_filter: options.watch_filter.clone() };
        let (pools_listed, listed) = watch::channel(false);
        let ownership = Ownership::of_everything(options.shards);
        let router = Router::new(View::new(filter, api), ownership, shared, self.health.clone(), pools_listed);
        let mut sources = sources::follow(&self.clients, clock, api, listed);
        tokio::select! {
            end = router.run(sources.changes, self.stop.clone()) => end,
            // A watch never ends while the router listens.
            Some(ended) = sources.tasks.join_next() => match ended {
                Ok(name) => End::Broken(format!("the watch of {name} ended")),
                Err(error) => End::Broken(format!("a watch ended: {error}")),
            },
        }
    }
}

/// Every request counts, whoever sends it.
fn observer(metrics: &Metrics) -> Observer {
    let metrics = metrics.clone();
    Arc::new(move |exchange| {
        let code = (exchange.code != 0).then_some(exchange.code);
        metrics.api_request(exchange.verb, exchange.resource, code, exchange.took);
    })
}

/// This process' name in records: unique to this start, so that a successor of the same pod is somebody else.
fn sender(identity: &Identity, namespace: &str) -> Sender {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pod = identity.pod_name.clone().unwrap_or_else(host);
    let namespace = identity.pod_namespace.as_deref().unwrap_or(namespace);
    format!("capi-ipam/{namespace}/{pod}_-_{:016x}", rand::random::<u64>()).into()
}

async fn serve_diagnostics(
    options: &Options,
    health: &Health,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<()> {
    let diagnostics = &options.diagnostics;
    let mut servers = Vec::new();
    if let Some(address) = options.health_address {
        servers
            .push((admin::bind("--health-probe-bind-address", address).await?, admin::health_router(health.clone())));
    }
    if let Some(address) = diagnostics.metrics_address {
        servers.push((admin::bind("--metrics-bind-addr", address).await?, admin::metrics_router(metrics.clone())));
    }
    if let Some(address) = diagnostics.address.filter(|_| diagnostics.insecure) {
        servers.push((admin::bind("--diagnostics-address", address).await?, admin::metrics_router(metrics.clone())));
    }
    for (listener, router) in servers {
        tokio::spawn(admin::serve(listener, router, stop.clone()));
    }
    Ok(())
}

/// The first SIGTERM or SIGINT stops the process in order, a second one at once; so does an order that takes too long.
fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
        stop.cancel();
        let second = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        if timeout(STOP_WITHIN, second).await.is_err() {
            error!("did not stop in time");
        }
        std::process::exit(1);
    })
}
