//! docs/operations/migrate.md to the letter: its commands, one block after the other, as an operator types them.
//!
//! There is no node: pods are said to be ready as soon as they exist, the program runs beside them, and no API server
//! reaches a Service, so that the chart is installed without webhooks. All else is as in the document.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::address_checker::AddressChecker;
use e2e::chart::{Helm, Release, api_of};
use e2e::control_plane::{ControlPlane, Options};
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use e2e::manager::{self, Manager, ManagerOptions};
use e2e::original::manifests::{self, LABEL};
use e2e::original::{Era, Original, Step};
use e2e::scene::{Scene, Stage};
use e2e::{crds, progress};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const DOCUMENT: &str = include_str!("../../../docs/operations/migrate.md");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const BETWEEN_LOOKS_AT_PODS: Duration = Duration::from_millis(200);

/// The release that the document installs.
fn ours() -> Release {
    Release { name: "capi-ipam".to_owned(), namespace: manifests::release().namespace }
}

/// The blocks of commands below a heading, up to the next one.
fn blocks(heading: &str) -> Result<Vec<String>> {
    let mut lines = DOCUMENT.lines().skip_while(|line| *line != heading);
    lines.next().with_context(|| format!("no heading {heading}"))?;
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in lines {
        match (&mut open, line.trim()) {
            (None, "```sh") => open = Some(String::new()),
            (None, _) if line.starts_with('#') => break,
            (None, _) => {}
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), command) => {
                block.push_str(command);
                block.push('\n');
            }
        }
    }
    ensure!(!blocks.is_empty(), "{heading} has no commands");
    Ok(blocks)
}

/// Somebody at a shell.
struct Operator {
    folder: TempDir,
    kubeconfig: String,
    /// What the document says once and uses everywhere.
    names: String,
}

impl Operator {
    fn new(control_plane: &ControlPlane, helm: &Helm) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for an operator")?;
        symlink(Path::new(REPOSITORY).join("helm"), folder.path().join("helm"))?;
        let helm =
            format!("exec {} \"$@\" $([ \"$1\" = install ] && echo --set webhooks.enabled=false)", helm.command());
        let program = manager::program()?;
        // The one command that needs a node.
        let kubectl = format!(
            "case \" $* \" in *\" exec deploy/\"*) exec {} crds ;; esac\nexec {} \"$@\"",
            program.display(),
            path_of("kubectl")?
        );
        for (name, script) in [("helm", helm), ("kubectl", kubectl)] {
            let file = folder.path().join("bin").join(name);
            std::fs::create_dir_all(folder.path().join("bin"))?;
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n"))?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        }
        let first = blocks("## From the original")?.into_iter().next().unwrap_or_default();
        let names = first.split_inclusive('\n').take_while(|line| line.contains('=')).collect();
        let kubeconfig = control_plane.kubeconfig_path().display().to_string();
        Ok(Self { folder, kubeconfig, names })
    }

    /// Runs one block; fails where one of its commands does. What it prints.
    fn types(&self, block: &str) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("{}{block}", self.names)])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, self.folder.path())))
            .output()
            .context("starting a shell")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{block}({}) {printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        progress::say(format!("{block}{printed}"));
        Ok(printed)
    }
}

fn path_of(program: &str) -> Result<String> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    Ok(found.with_context(|| format!("{program} is needed by this scenario"))?.display().to_string())
}

/// Says of every pod that it is ready, until it is dropped.
struct Nodes(JoinHandle<()>);

impl Nodes {
    fn start(client: Client) -> Self {
        let since = jiff::Timestamp::now().to_string();
        let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": since });
        let ready = json!({ "status": { "phase": "Running", "conditions": [ready] } });
        Self(tokio::spawn(async move {
            let all: Api<Pod> = Api::all(client.clone());
            loop {
                tokio::time::sleep(BETWEEN_LOOKS_AT_PODS).await;
                let Ok(pods) = all.list(&ListParams::default()).await else { continue };
                for pod in pods {
                    let is_new = pod.status.as_ref().is_none_or(|status| status.phase.as_deref() != Some("Running"));
                    if is_new && let Some(namespace) = pod.namespace() {
                        let here: Api<Pod> = Api::namespaced(client.clone(), &namespace);
                        // It may be gone by now; then there is nothing to say.
                        let _ =
                            here.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&ready)).await;
                    }
                }
            }
        }))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A kind of which only the names matter here.
fn kind(group: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    })
}

fn originals_crds() -> Result<Vec<Value>> {
    let mut crds = manifests::crds(&crds::of_manager(&manager::program()?)?);
    for crd in &mut crds {
        crd["metadata"]["labels"][LABEL.0] = json!(LABEL.1);
    }
    Ok(crds)
}

/// What `clusterctl init` leaves of the original, beside its rights and kinds.
fn originals_objects() -> Vec<Value> {
    let release = manifests::release();
    let name = &release.name;
    let webhook = |act: &str| {
        json!([{
            "name": format!("{act}.inclusterippool.ipam.cluster.x-k8s.io"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "clientConfig": { "service": { "name": "capi-ipam-in-cluster-webhook-service", "namespace": release.namespace } },
            "rules": [{ "apiGroups": ["ipam.cluster.x-k8s.io"], "apiVersions": ["v1alpha2"],
                "operations": ["CREATE", "UPDATE"], "resources": ["inclusterippools"] }],
        }])
    };
    let pods = json!({ "control-plane": "controller-manager" });
    let spec = json!({
        "replicas": 1, "selector": { "matchLabels": pods },
        "template": { "metadata": { "labels": { "control-plane": "controller-manager", LABEL.0: LABEL.1 } },
            "spec": { "serviceAccountName": name, "containers": [{ "name": "manager", "image": "original" }] } },
    });
    let admission = "admissionregistration.k8s.io/v1";
    let mut objects = vec![
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name }, "spec": spec }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "capi-ipam-in-cluster-webhook-service" },
            "spec": { "ports": [{ "port": 443 }], "selector": pods } }),
        json!({ "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": { "name": "serving-cert" } }),
        json!({ "apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": { "name": "selfsigned" } }),
        json!({ "apiVersion": "clusterctl.cluster.x-k8s.io/v1", "kind": "Provider", "metadata": { "name": "ipam-in-cluster" } }),
        json!({ "apiVersion": admission, "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "capi-ipam-in-cluster-mutating" }, "webhooks": webhook("default") }),
        json!({ "apiVersion": admission, "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": "capi-ipam-in-cluster-validating" }, "webhooks": webhook("validation") }),
    ];
    for object in &mut objects {
        object["metadata"]["labels"] = json!({ LABEL.0: LABEL.1 });
        if !object["kind"].as_str().is_some_and(|kind| kind.contains("Webhook")) {
            object["metadata"]["namespace"] = json!(release.namespace);
        }
    }
    objects
}

/// The original at work with two served claims, as far as the document touches it.
async fn original(control_plane: &ControlPlane, scene: &Scene) -> Result<Original> {
    let client = control_plane.admin_client().await?;
    let kinds = [
        kind("cert-manager.io", "Certificate", "certificates"),
        kind("cert-manager.io", "Issuer", "issuers"),
        kind("clusterctl.cluster.x-k8s.io", "Provider", "providers"),
    ];
    crds::install(&client, &kinds).await?;
    manifests::install_rights(&client, &PoolKind::ALL).await?;
    let original = Original::new(client.clone(), scene.namespace());
    scene.create(pool("rack").addresses(["10.0.0.10-10.0.0.20"])).await?;
    for name in ["a", "b"] {
        scene.create(claim(name).in_pool("rack")).await?;
        original.serve(name, Era::Current, Step::Referred).await?;
    }
    original.count(PoolKind::InCluster, "rack").await?;
    for manifest in originals_objects() {
        let (api, name) = api_of(&client, &manifest)?;
        let object: DynamicObject = serde_json::from_value(manifest)?;
        api.create(&PostParams::default(), &object).await.with_context(|| format!("creating {name}"))?;
    }
    Ok(original)
}

async fn run(stage: &mut Stage, name: &str) -> Result<Manager> {
    let options = ManagerOptions::new(name).as_account(ours()).leader_elect();
    stage.manager(options.environment("POD_NAMESPACE", ours().namespace)).await
}

/// Claims that wait are the lines with a colon; the document prints nothing else of the kind.
fn waiting(printed: &str) -> Vec<&str> {
    printed.lines().filter(|line| line.contains(": ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_migration_lead_from_the_original_to_us_and_back() -> Result<()> {
    let Some(helm) = Helm::for_test("the_commands_of_the_migration_lead_from_the_original_to_us_and_back")? else {
        return Ok(());
    };
    let control_plane = ControlPlane::start(Options::new("migrate")).await?;
    let client = control_plane.admin_client().await?;
    crds::install(&client, &originals_crds()?).await?;
    let operator = Operator::new(&control_plane, &helm)?;
    let mut stage = Stage::on(control_plane);
    let scene = stage.scene("fleet").await?;
    let original = original(&stage.control_plane, &scene).await?;
    let nodes = Nodes::start(client.clone());
    let checker = AddressChecker::start(&client).await?;

    progress::say("from the original");
    let there = blocks("## From the original")?;
    let [look, copy, stop, webhooks, install, compare, rest] = there.as_slice() else {
        bail!("the way there has {} blocks", there.len());
    };
    ensure!(operator.types(look)?.contains(&manifests::release().name), "the original is not seen");
    operator.types(copy)?;
    operator.types(stop)?;
    operator.types(webhooks)?;
    scene.create(claim("c").in_pool("rack")).await?;
    operator.types(install)?;
    let manager = run(&mut stage, "ours").await?;
    ensure!(scene.allocated("c").await? == "10.0.0.12");
    scene.settled("rack").await?;
    // One claim was served since the copy was made, and so is the one difference.
    let difference = format!("{:#}", operator.types(compare).expect_err("there is one address more"));
    ensure!(difference.lines().filter(|line| line.starts_with(['<', '>'])).count() == 1, "{difference}");
    ensure!(difference.contains(&format!("> {}/c 10.0.0.12", scene.namespace())), "{difference}");
    scene.release("c").await?;
    scene.gone(&scene.addresses(), "c").await?;
    let printed = operator.types(compare)?;
    ensure!(printed.contains("rack") && waiting(&printed).is_empty(), "{printed}");
    operator.types(rest)?;
    ensure!(operator.types(look)?.is_empty(), "something of the original is left");
    for block in blocks("## clusterctl move")? {
        operator.types(&block)?;
    }

    checker.finish().await?;

    progress::say("a restore");
    let restore = blocks("## After a restore")?;
    let [stop, twice, start] = restore.as_slice() else { bail!("a restore has {} blocks", restore.len()) };
    ensure!(manager.terminate().await?.success());
    operator.types(stop)?;
    ensure!(operator.types(twice)?.is_empty(), "an address is there twice");
    let again = e2e::fixtures::address("twice", "rack", "10.0.0.10");
    scene.create(again).await?;
    ensure!(operator.types(twice)?.contains("10.0.0.10"), "an address that is there twice is not found");
    scene.delete(&scene.addresses(), "twice").await?;
    operator.types(start)?;
    let manager = run(&mut stage, "restored").await?;
    scene.create(claim("d").in_pool("rack")).await?;
    ensure!(scene.allocated("d").await? == "10.0.0.12");

    let checker = AddressChecker::start(&client).await?;

    progress::say("back");
    let back = blocks("## Back to the original")?;
    let [stop, pending, uninstall] = back.as_slice() else { bail!("the way back has {} blocks", back.len()) };
    ensure!(manager.terminate().await?.success());
    operator.types(stop)?;
    ensure!(operator.types(pending)?.is_empty(), "something is promised");
    operator.types(uninstall)?;
    crds::install(&client, &originals_crds()?).await?;
    scene.create(claim("e").in_pool("rack")).await?;
    original.serve("e", Era::Current, Step::Referred).await?;
    original.count(PoolKind::InCluster, "rack").await?;
    scene.counts(PoolKind::InCluster, "rack", 11, 4, 7).await?;

    progress::say("only the image");
    for block in blocks("### Only the image")? {
        operator.types(&block)?;
    }
    let rack = scene.pools(PoolKind::InCluster);
    let record = json!({ "status": { "allocation": { "seq": 1 } } });
    let stored = rack.patch_status("rack", &PatchParams::default(), &Patch::Merge(&record)).await?;
    ensure!(stored.data["status"]["allocation"]["seq"] == 1, "the kinds are still the original's: {}", stored.data);
    checker.finish().await?;
    drop(nodes);
    scene.abandon();
    stage.control_plane.stop();
    Ok(())
}
