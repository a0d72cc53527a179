//! The composition root: the only place that builds clients and handles signals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::{Identity, Options};
use crate::controllers::lifecycle::Controllers;
use crate::controllers::ownership::Ownership;
use crate::controllers::view::Filter;
use crate::k8s::clients;
use crate::k8s::clock::Clock;
use crate::k8s::exchange::Observer;
use crate::pool::key::Sender;
use crate::telemetry::admin::{self, Health};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{self};

/// A process that was asked to stop ends by then, whatever hangs.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The threads that do the work, whatever the number of cores: one would keep up with any API server, and more than that
/// wake each other up for every request; the second one keeps leases and probes going while the first reads a long list.
const WORKERS: usize = 2;

/// Runs the manager until it is asked to stop. Errors are for people: one line, with its causes.
pub fn run(options: Options) -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    // On a worker, like everything else: each message to another thread would wake it up.
    let result = runtime.block_on(runtime.spawn(start(options)));
    // Tasks that still wait for an answer are not waited for.
    runtime.shutdown_background();
    result.unwrap_or_else(|broken| std::panic::resume_unwind(broken.into_panic()))
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
    let controllers = Controllers {
        clients,
        clock,
        metrics,
        health,
        ownership: Ownership::of_everything(options.shards),
        filter: Filter { namespace: options.namespace, watch_filter: options.watch_filter },
        me,
        lock_delay: options.lock_delay,
        server: config.cluster_url.to_string(),
    };
    let result = controllers.run(&stop).await;
    if result.is_ok() {
        info!("stopped");
    }
    telemetry.shutdown().await;
    Ok(result?)
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
