//! The composition root: the only place that builds clients and handles signals.

mod webhooks;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::{self, Options, ShardsOptions};
use crate::controllers::coordination::{Coordination, Election};
use crate::controllers::events::Events;
use crate::controllers::identity::{self, Pod};
use crate::controllers::lifecycle::Controllers;
use crate::controllers::ownership::{Ownership, Rights};
use crate::controllers::shards;
use crate::controllers::sight::Sight;
use crate::controllers::view::Filter;
use crate::k8s::clients::{self, Clients};
use crate::k8s::clock::{Clock, Deadline};
use crate::k8s::events::EventClient;
use crate::k8s::exchange::Observer;
use crate::k8s::leases::{LeaseClient, Ring, answer_within};
use crate::k8s::pods;
use crate::pool::key::Boot;
use crate::shard::lease::{Identity, LeaseNames};
use crate::shard::ownership::Exit;
use crate::shard::ring::{filter_name, ring_name};
use crate::telemetry::admin::{self, Health};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{self};

/// A process that was asked to stop ends by then, whatever hangs.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The threads that do the work, whatever the number of cores: one would keep up with any API server, and more than that
/// wake each other up for every request; the second one keeps leases and probes going while the first reads a long list.
const WORKERS: usize = 2;

/// A report on shards is for somebody who waits for it.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// Runs the manager until it is asked to stop. Errors are for people: one line, with its causes.
pub fn run(options: Options) -> Result<()> {
    end_on_panic();
    install_tls_provider()?;
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
    let shards = Arc::new(OnceLock::new());
    serve_diagnostics(&options, &health, &metrics, &shards, &stop).await?;
    let config = clients::config(options.kubeconfig.as_deref().map(Path::new)).await?;
    for warning in &options.warnings {
        warn!("{warning}");
    }
    let observer = observer(&metrics);
    let clients = clients::clients(&config, &clock, &observer)?;
    let namespace = lease_namespace(&options, &config.default_namespace);
    let _ = shards.set((clients.request.clone(), namespace.clone(), clock.clone()));
    let me = identify(&options, &clients, &config.default_namespace).await?;
    info!(version = env!("CARGO_PKG_VERSION"), server = %config.cluster_url, identity = %me, "starting");
    let mut controllers = Controllers {
        events: Events::written_by(
            EventClient::new(clients.request.clone(), clock.clone(), me.member().as_str()),
            clock.clone(),
            metrics.clone(),
        ),
        clients,
        clock,
        metrics,
        health,
        ownership: Ownership::of_everything(options.shards),
        sight: Sight::default(),
        leases: None,
        filter: Filter { namespace: options.namespace.clone(), watch_filter: options.watch_filter.clone() },
        me: me.to_string().into(),
        lock_delay: options.lock_delay,
        adoption_grace: options.adoption_grace_period,
        orphan_grace: options.orphan_grace_period,
        server: config.cluster_url.to_string(),
    };
    let leads = if options.election.enabled { Deadline::at(Boot::ZERO) } else { Deadline::never() };
    let webhooks = webhooks::start(&options, &controllers, leads.clone(), &stop).await?;
    let result = if options.election.enabled {
        let leases = clients::client(
            &config,
            &controllers.clock,
            &observer,
            Some(answer_within(options.member_lease_duration)),
        )?;
        let (coordination, rights) = coordination(&options, me, namespace, leases, leads, &mut controllers);
        run_as_member(&controllers, coordination, rights, &stop).await
    } else {
        controllers.run(&stop).await.map_err(Into::into)
    };
    // Without controllers the webhooks are of no use either; they end after everybody had time to go elsewhere.
    stop.cancel();
    if let Some(webhooks) = webhooks {
        webhooks.await.context("the webhooks ended")?;
    }
    if result.is_ok() {
        info!("stopped");
    }
    telemetry.shutdown().await;
    result
}

/// Who this process is.
async fn identify(options: &Options, clients: &Clients, namespace: &str) -> Result<Identity> {
    let cli::Identity { pod_name, pod_namespace, pod_uid } = options.identity.clone();
    let pod = Pod { name: pod_name, namespace: pod_namespace.unwrap_or_else(|| namespace.to_owned()), uid: pod_uid };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    identity::identify(&clients.request, &pod, &host).await.context("POD_NAME, POD_NAMESPACE and POD_UID")
}

/// A task that must not end is not missed by anybody if it panics: the process ends with it, and others go on.
fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(101);
    }));
}

/// Where all Leases are.
fn lease_namespace(options: &Options, default: &str) -> String {
    let asked = options.election.namespace.as_ref().or(options.identity.pod_namespace.as_ref());
    asked.map_or(default, String::as_str).to_owned()
}

/// What `manager shards` prints.
pub fn shards(options: &ShardsOptions) -> Result<String> {
    install_tls_provider()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        let config = clients::config(options.kubeconfig.as_deref().map(Path::new)).await?;
        let clock = Clock::boottime();
        let client = clients::client(&config, &clock, &no_observer(), Some(REPORT_WITHIN))?;
        let namespace = options.namespace.as_ref().unwrap_or(&config.default_namespace);
        let report = shards::report(&client, namespace, &clock).await.map_err(|why| anyhow!("{why}"))?;
        let report = match &options.pool {
            Some(pool) => report.about(pool),
            None => report,
        };
        Ok(if options.json { report.json() } else { report.table() })
    })
}

fn no_observer() -> Observer {
    Arc::new(|_| {})
}

fn install_tls_provider() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a TLS provider is installed already"))
}

/// What the report on shards is made from, once it is known.
type ShardsSource = Arc<OnceLock<(Client, String, Clock)>>;

fn report_of(source: &ShardsSource) -> admin::Report {
    let source = source.clone();
    Arc::new(move || {
        let source = source.get().cloned();
        async move {
            let (client, namespace, clock) = source.ok_or_else(|| "starting".to_owned())?;
            let report = timeout(REPORT_WITHIN, shards::report(&client, &namespace, &clock)).await;
            report.map_err(|_| "the API server did not answer in time".to_owned())?.map(|report| report.json())
        }
        .boxed()
    })
}

/// Lets the controllers follow a coordination with the other replicas.
fn coordination(
    options: &Options,
    me: Identity,
    namespace: String,
    client: Client,
    leads: Deadline,
    controllers: &mut Controllers,
) -> (Coordination, Rights) {
    let election = &options.election;
    let (only, filter) = (options.namespace.as_deref(), options.watch_filter.as_deref());
    let (only, filter) = (only.unwrap_or_default(), filter.unwrap_or_default());
    let name = ring_name(options.shards, only, filter);
    let ring = Arc::new(Ring {
        namespace,
        names: LeaseNames::new(&name, options.shards),
        name,
        serves: filter_name(only, filter),
    });
    let pod = me.pod_uid().map(|uid| pods::owner_reference(me.member().as_str(), uid));
    // A Lease can be owned by what is in its own namespace alone.
    let pod = pod.filter(|_| me.namespace() == ring.namespace);
    let duration = options.member_lease_duration;
    let leases =
        LeaseClient::new(client.clone(), controllers.clock.clone(), ring.clone(), pod, answer_within(duration));
    let (ownership, rights) = Ownership::decided_elsewhere(options.shards);
    controllers.ownership = ownership;
    controllers.leases = Some(leases.clone());
    let election = Election {
        lease: election.lease_name.clone(),
        me: me.clone(),
        duration: election.lease_duration,
        retry: election.retry_period,
        leads,
    };
    let coordination = Coordination {
        me,
        ring,
        shards: options.shards,
        duration,
        election,
        leases,
        client,
        watch_client: controllers.clients.watch.clone(),
        clock: controllers.clock.clone(),
        sight: controllers.sight.clone(),
        health: controllers.health.clone(),
        metrics: controllers.metrics.clone(),
    };
    (coordination, rights)
}

/// Works on what this replica owns, and ends when everything is handed over or when it must not go on (O5, O9).
async fn run_as_member(
    controllers: &Controllers,
    coordination: Coordination,
    rights: Rights,
    stop: &CancellationToken,
) -> Result<()> {
    let (work, leave) = (CancellationToken::new(), stop.child_token());
    let mut coordinating = tokio::spawn(coordination.run(rights, leave.clone()));
    let mut working = std::pin::pin!(controllers.run(&work));
    let exit = tokio::select! {
        exit = &mut coordinating => exit,
        // Without its controllers a replica is of no use: others take its shards at once if they are given up.
        ended = &mut working => {
            leave.cancel();
            let _ = timeout(STOP_WITHIN, coordinating).await;
            return Ok(ended?);
        }
    };
    work.cancel();
    working.await?;
    match exit.context("coordination with the other replicas ended")? {
        Exit::Left | Exit::LeftLate => Ok(()),
        exit => Err(anyhow!("{exit}")),
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

async fn serve_diagnostics(
    options: &Options,
    health: &Health,
    metrics: &Metrics,
    shards: &ShardsSource,
    stop: &CancellationToken,
) -> Result<()> {
    let router = || admin::metrics_router(metrics.clone()).merge(admin::report_router("/shards", report_of(shards)));
    let diagnostics = &options.diagnostics;
    let mut servers = Vec::new();
    if let Some(address) = options.health_address {
        servers
            .push((admin::bind("--health-probe-bind-address", address).await?, admin::health_router(health.clone())));
    }
    if let Some(address) = diagnostics.metrics_address {
        servers.push((admin::bind("--metrics-bind-addr", address).await?, router()));
    }
    if let Some(address) = diagnostics.address.filter(|_| diagnostics.insecure) {
        servers.push((admin::bind("--diagnostics-address", address).await?, router()));
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
