//! No request fails while replicas end and begin, and while certificates change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::Release;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{Fixture as _, pool};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::progress::say;
use e2e::scene::Stage;
use e2e::webhooks::{Certificate, Door, serving};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// One at a time: two control planes on two cores would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Clients that ask at the same time.
const CLIENTS: usize = 4;
/// As a Service takes a pod out that is asked to end, once every node has heard of it.
const HEARD_OF: Duration = Duration::from_millis(500);

/// Clients that ask for pools to be created, dry, until they are told to stop.
struct Load {
    client: Client,
    asked: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<String>>,
    stop: CancellationToken,
}

impl Load {
    fn start(client: &Client) -> Self {
        let mut load = Self {
            client: client.clone(),
            asked: Arc::default(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        load.grow();
        load
    }

    /// More clients at once than ever before: the API server needs more connections than it has.
    fn grow(&mut self) {
        for _ in 0..CLIENTS {
            let number = self.tasks.len();
            let (client, asked, stop) = (self.client.clone(), self.asked.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                let pools = PoolKind::InCluster.api(&client, "default");
                let only_ask = PostParams { dry_run: true, ..PostParams::default() };
                let object = pool(&format!("asked-{number}")).addresses(["10.0.0.0/24"]).object();
                let mut failures = Vec::new();
                while !stop.is_cancelled() {
                    if let Err(error) = pools.create(&only_ask, &object).await {
                        failures.push(error.to_string());
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
    }

    /// Waits until so many more requests have been answered.
    async fn answers(&self, more: usize) -> Result<()> {
        let until = self.asked.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more answers"), Duration::from_mins(2), || async {
            let seen = self.asked.load(Ordering::Relaxed);
            if seen >= until { Ok(()) } else { Err(NotYet::because(format!("{seen} of {until}"))) }
        })
        .await
    }

    /// Ends; fails if any request has, or if there were fewer than `least`.
    async fn finish(mut self, least: usize) -> Result<()> {
        self.stop.cancel();
        let mut failures = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            failures.extend(ended?);
        }
        let asked = self.asked.load(Ordering::Relaxed);
        ensure!(failures.is_empty(), "{} of {asked} failed: {:?}", failures.len(), failures.first());
        ensure!(asked >= least, "only {asked} requests");
        say(format!("{asked} requests, none failed"));
        Ok(())
    }
}

/// The Secret in which the replicas keep their own certificate.
fn secret(client: &Client, release: &Release) -> Result<(Api<Secret>, String)> {
    let name = release.named("webhookService")?.as_str().context("a Service without a name")?.to_owned();
    Ok((Api::namespaced(client.clone(), &release.namespace), name))
}

/// Waits until both the Secret's certificate and its authorities are as wanted; returns the certificate.
async fn kept(
    (secrets, name): &(Api<Secret>, String),
    what: &str,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<String> {
    eventually(what, Duration::from_mins(2), || async {
        let data = secrets.get(name).await?.data.unwrap_or_default();
        let text = |part: &str| {
            let bytes = data.get(part).map(|bytes| bytes.0.clone()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (certificate, bundle) = (text("tls.crt"), text("ca.crt"));
        if wanted(&certificate, &bundle) {
            Ok(certificate)
        } else {
            Err(NotYet::because(format!("{certificate} {bundle}")))
        }
    })
    .await
}

#[tokio::test]
async fn no_request_fails_while_the_replicas_own_certificate_is_renewed_rotated_damaged_and_lost() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::own("webhooks-own").await?;
    let client = stage.control_plane.admin_client().await?;
    let (release, door) = (Release::default(), Door::open()?);
    let at = secret(&client, &release)?;
    let mut replicas = Vec::new();
    door.install(&client, &release, None).await?;
    for number in 0..2 {
        let port = Door::free_port()?;
        let options = ManagerOptions::new(format!("own-{number}"))
            .leader_elect()
            .environment("POD_NAMESPACE", &release.namespace)
            .argument("--webhook-host=127.0.0.1")
            .argument(format!("--webhook-port={port}"))
            .argument("--webhook-cert-dir=/nowhere")
            .argument(format!("--webhook-service-name={}", at.1))
            .argument("--webhook-certificate-lifetime=90s");
        replicas.push((stage.manager(options).await?, port));
    }
    door.leads_to(&replicas.iter().map(|(_, port)| *port).collect::<Vec<_>>());
    door.is_used(&client).await?;
    let first = kept(&at, "there is a certificate", |certificate, _| !certificate.is_empty()).await?;
    let mut load = Load::start(&client);
    load.answers(50).await?;

    say("the key of the authority is lost: another authority is needed");
    let patch = json!({ "data": { "ca.key": null } });
    at.0.patch(&at.1, &PatchParams::default(), &Patch::Merge(patch)).await?;
    let second = kept(&at, "another authority has signed", |certificate, bundle| {
        certificate != first && !certificate.is_empty() && bundle.matches("BEGIN").count() == 2
    })
    .await?;
    load.grow();
    load.answers(100).await?;

    say("the certificate is lost");
    let patch = json!({ "data": { "tls.crt": null } });
    at.0.patch(&at.1, &PatchParams::default(), &Patch::Merge(patch)).await?;
    let third =
        kept(&at, "a certificate is back", |certificate, _| !certificate.is_empty() && certificate != second).await?;
    load.grow();
    load.answers(100).await?;

    say("the Secret is lost");
    at.0.delete(&at.1, &DeleteParams::default()).await?;
    eventually("the Secret is back", Duration::from_mins(1), || async {
        at.0.get(&at.1).await?;
        Ok(())
    })
    .await?;
    load.grow();
    load.answers(100).await?;

    say("time passes, until two thirds of the certificate's life are over");
    kept(&at, "it is renewed in time", |certificate, bundle| {
        !certificate.is_empty() && certificate != third && bundle.matches("BEGIN").count() == 1
    })
    .await?;
    load.grow();
    load.answers(100).await?;
    load.finish(450).await
}

#[tokio::test]
async fn no_request_fails_while_two_replicas_are_replaced() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::own("webhooks-restart").await?;
    let client = stage.control_plane.admin_client().await?;
    let certificate = Certificate::new(&stage.control_plane, "restart")?;
    let door = Door::open()?;
    let mut replicas = Vec::new();
    for number in 0..2 {
        let (options, port) = serving(ManagerOptions::new(format!("old-{number}")).leader_elect(), &certificate)?;
        replicas.push((stage.manager(options).await?, port));
    }
    door.leads_to(&replicas.iter().map(|(_, port)| *port).collect::<Vec<_>>());
    door.install(&client, &Release::default(), Some(certificate.authority())).await?;
    door.is_used(&client).await?;
    let load = Load::start(&client);
    load.answers(200).await?;
    for number in 0..2 {
        // As a rolling update: a new one first, then an old one goes.
        let (options, port) = serving(ManagerOptions::new(format!("new-{number}")).leader_elect(), &certificate)?;
        replicas.push((stage.manager(options).await?, port));
        door.leads_to(&replicas.iter().map(|(_, port)| *port).collect::<Vec<_>>());
        load.answers(100).await?;
        let (old, _) = replicas.remove(0);
        let left: Vec<u16> = replicas.iter().map(|(_, port)| *port).collect();
        let ended = tokio::spawn(old.terminate());
        tokio::time::sleep(HEARD_OF).await;
        door.leads_to(&left);
        let status = ended.await.context("the wait for its end")??;
        ensure!(status.success(), "{status}");
        load.answers(200).await?;
    }
    load.finish(1_000).await
}

#[tokio::test]
async fn no_request_fails_while_the_certificate_is_replaced_three_times() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut stage = Stage::own("webhooks-certificate").await?;
    let client = stage.control_plane.admin_client().await?;
    let mut certificate = Certificate::new(&stage.control_plane, "replaced")?;
    let door = Door::open()?;
    let (options, port) = serving(ManagerOptions::new("manager"), &certificate)?;
    let manager = stage.manager(options).await?;
    door.leads_to(&[port]);
    door.install(&client, &Release::default(), Some(certificate.authority())).await?;
    door.is_used(&client).await?;
    let mut load = Load::start(&client);
    for number in 0..3 {
        load.answers(100).await?;
        certificate.replace()?;
        let shown = format!("it shows certificate {}", number + 2);
        eventually(&shown, Duration::from_secs(20), || async {
            let log = std::fs::read_to_string(manager.log())?;
            let seen = log.matches("webhooks show this certificate").count();
            if seen >= number + 2 { Ok(()) } else { Err(NotYet::because(format!("{seen} so far"))) }
        })
        .await?;
        // A connection that exists goes on with the certificate that it began with.
        load.grow();
        load.answers(100).await?;
    }
    load.finish(600).await
}
