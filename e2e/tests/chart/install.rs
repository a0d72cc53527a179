//! helm install, upgrade and uninstall.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::chart::{Helm, Release};
use e2e::control_plane::{self, ControlPlane, Options};
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Fixture as _, pool};
use e2e::kinds::PoolKind;
use e2e::{crds, manager};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::{release, shared};

/// Says which `FlowSchema` the server put a request under.
const FLOW_SCHEMA_HEADER: &str = "x-kubernetes-pf-flowschema-uid";

/// Runs helm against the control plane.
fn helm_there(helm: &Helm, control_plane: &ControlPlane, arguments: &[&str]) -> Result<String> {
    let kubeconfig = control_plane.kubeconfig_path().to_string_lossy().into_owned();
    helm.run(arguments.iter().copied().chain(["--kubeconfig", &kubeconfig]))
}

fn cluster_wide_name(release: &Release) -> String {
    format!("{}.{}", release.namespace, release.name)
}

async fn replicas(client: &Client, release: &Release) -> Result<Option<i32>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &release.namespace);
    let found = deployments.get_opt(&release.name).await?;
    Ok(found.map(|deployment| deployment.spec.and_then(|spec| spec.replicas).unwrap_or_default()))
}

#[tokio::test]
async fn uninstalling_leaves_the_pools_and_the_next_release_finds_them() -> Result<()> {
    let Some(helm) = Helm::for_test("uninstalling_leaves_the_pools_and_the_next_release_finds_them")? else {
        return Ok(());
    };
    let control_plane = ControlPlane::start(Options::new("chart-install")).await?;
    let client = control_plane.admin_client().await?;
    let (first, second) = (release(), Release { name: "second".to_owned(), namespace: "second-system".to_owned() });
    let install = |release: &Release, more: &[&str]| {
        let start = ["install", &release.name, "CHART", "--namespace", &release.namespace, "--create-namespace"];
        helm_there(&helm, &control_plane, &[&start[..], more].concat())
    };

    // There are no pods here, and nobody answers webhooks.
    let no_webhooks = ["--set", "webhooks.enabled=false"];
    let notes = install(&first, &no_webhooks)?;
    ensure!(notes.contains("THE IMAGE: none is published yet"), "{notes}");
    ensure!(notes.contains("rollout status deployment/charted"), "{notes}");
    assert_eq!(replicas(&client, &first).await?, Some(3));
    let pools = PoolKind::InCluster.api(&client, "default");
    eventually("a pool can be created", PATIENCE, || async {
        let kept = pool("kept").addresses(["10.0.0.1-10.0.0.9"]).object();
        pools.create(&PostParams::default(), &kept).await.map(drop).map_err(|error| NotYet::because(error.to_string()))
    })
    .await?;

    let upgrade = ["upgrade", &first.name, "CHART", "--namespace", &first.namespace, "--set", "replicas=2"];
    helm_there(&helm, &control_plane, &[&upgrade[..], &no_webhooks].concat())?;
    assert_eq!(replicas(&client, &first).await?, Some(2));

    helm_there(&helm, &control_plane, &["uninstall", &first.name, "--namespace", &first.namespace])?;
    assert_eq!(replicas(&client, &first).await?, None);
    let roles: Api<ClusterRole> = Api::all(client.clone());
    ensure!(roles.get_opt(&cluster_wide_name(&first)).await?.is_none(), "its rights are still there");
    let uid = pools.get("kept").await.context("the pool is gone")?.uid();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crds = crds.list(&ListParams::default().labels("cluster.x-k8s.io/provider=ipam-in-cluster")).await?;
    ensure!(crds.items.len() == PoolKind::ALL.len(), "some CRDs are gone");
    ensure!(crds.items.iter().all(|crd| crd.metadata.deletion_timestamp.is_none()), "CRDs are being deleted");

    // Another release is told whose the CRDs are, and takes them over when it is asked to.
    match install(&second, &[]) {
        Err(error) if format!("{error:#}").contains("invalid ownership metadata") => {}
        other => bail!("CRDs of another release: {other:?}"),
    }
    install(&second, &["--take-ownership"])?;
    assert_eq!(pools.get("kept").await?.uid(), uid);
    assert_eq!(replicas(&client, &second).await?, Some(3));
    control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn crds_that_another_installer_left_are_taken_over() -> Result<()> {
    let Some(helm) = Helm::for_test("crds_that_another_installer_left_are_taken_over")? else { return Ok(()) };
    let control_plane = ControlPlane::start(Options::new("chart-take-over")).await?;
    let client = control_plane.admin_client().await?;
    let mut left = crds::of_manager(&manager::program()?)?;
    for crd in &mut left {
        // As the provider that we replace leaves them: with words of its own, and with its webhook.
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("Another description.");
        let service = json!({ "name": "original-webhook", "namespace": "original-system", "path": "/convert" });
        let webhook = json!({ "conversionReviewVersions": ["v1"], "clientConfig": { "service": service } });
        crd["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": webhook });
    }
    crds::install_missing(&client, &left).await?;
    let release = release();
    let install = |more: &[&str]| {
        let start = ["install", &release.name, "CHART", "--namespace", &release.namespace, "--create-namespace"];
        helm_there(&helm, &control_plane, &[&start[..], more].concat())
    };
    let refusal = format!("{:#}", install(&[]).expect_err("they are not helm's"));
    ensure!(refusal.contains("invalid ownership metadata") && refusal.contains("inclusterippools"), "{refusal}");
    install(&["--take-ownership", "--force-conflicts"])?;
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    for name in left.iter().filter_map(|crd| crd["metadata"]["name"].as_str()) {
        let crd = serde_json::to_value(crds.get(name).await?)?;
        let description = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"];
        ensure!(*description != "Another description.", "{name} is as it was left");
    }
    control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn lease_calls_of_the_replicas_have_the_priority_of_leader_election() -> Result<()> {
    let Some(helm) = Helm::for_test("lease_calls_of_the_replicas_have_the_priority_of_leader_election")? else {
        return Ok(());
    };
    let control_plane = shared().await?;
    let admin = control_plane.admin_client().await?;
    let release = Release { name: "flow".to_owned(), namespace: "flow-system".to_owned() };
    helm_there(
        &helm,
        control_plane,
        &["install", &release.name, "CHART", "--namespace", &release.namespace, "--create-namespace"],
    )?;
    let schema = Api::<FlowSchema>::all(admin.clone()).get(&cluster_wide_name(&release)).await?.uid();
    let schema = schema.context("a FlowSchema without a uid")?;
    let client = replica(control_plane, &admin, &release).await?;

    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", release.namespace);
    eventually("Lease calls are put under the chart's FlowSchema", PATIENCE, || async {
        let found = flow_schema(&client, &leases).await.map_err(|error| NotYet::because(format!("{error:#}")))?;
        if found == schema { Ok(()) } else { Err(NotYet::because(found)) }
    })
    .await?;
    // Only those: claims wait in the queue of everybody.
    let pools = "/apis/ipam.cluster.x-k8s.io/v1alpha2/inclusterippools?limit=1";
    let elsewhere = flow_schema(&client, pools).await?;
    ensure!(elsewhere != schema && !elsewhere.is_empty(), "{elsewhere:?}");
    Ok(())
}

/// A client with the rights of a replica.
async fn replica(control_plane: &ControlPlane, admin: &Client, release: &Release) -> Result<Client> {
    let file = control_plane.folder().join("replica.kubeconfig");
    let source: &Path = control_plane.kubeconfig_path();
    control_plane::kubeconfig_with_token(source, &file, &release.token(admin).await?)?;
    control_plane::client(&file).await
}

async fn flow_schema(client: &Client, path: &str) -> Result<String> {
    let request = Request::get(path).body(kube::client::Body::empty())?;
    let answer = client.send(request).await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    let header = answer.headers().get(FLOW_SCHEMA_HEADER).context("no FlowSchema is named")?;
    Ok(header.to_str()?.to_owned())
}
