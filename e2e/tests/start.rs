//! What a manager makes of the objects that it finds when it starts, of the kinds that come later, and of claims that are
//! none of its.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::control_plane::{ControlPlane, Options, cluster_api_crds};
use e2e::crds;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, cluster, pool};
use e2e::kinds::{CLAIM_FINALIZER, POOL_FINALIZER, PoolKind};
use e2e::manager::{ManagerOptions, program};
use e2e::scene::{Scene, Stage};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

const IP: PoolKind = PoolKind::InCluster;
const KEEP: &str = "example.org/keep";
const WATCH_FILTER: &str = "cluster.x-k8s.io/watch-filter";

/// A manager looks for a missing kind every 3 s.
const KIND_WITHIN: Duration = Duration::from_secs(30);

async fn version(scene: &Scene, claim: &str) -> Result<Option<String>> {
    Ok(scene.claims().get(claim).await?.resource_version())
}

fn is_untouched(claim: &DynamicObject) -> bool {
    claim.finalizers().is_empty() && claim.data.get("status").is_none_or(Value::is_null)
}

#[tokio::test]
async fn rule_c8_c13_what_is_paused_or_on_its_way_out_at_the_start_stays_as_it_is() -> Result<()> {
    let mut stage = Stage::own("start").await?;
    let scene = stage.scene("start").await?;
    let range = ["10.0.0.10-10.0.0.20"];
    scene.create(pool("p").addresses(range)).await?;
    scene.create(pool("asleep").addresses(range).paused()).await?;
    scene.create(cluster("asleep").spec_paused()).await?;
    scene.create(cluster("dozing").paused()).await?;
    scene.create(claim("of-cluster").in_pool("p").of_cluster("asleep")).await?;
    scene.create(claim("of-annotated").in_pool("p").labelled_with_cluster("dozing")).await?;
    scene.create(claim("of-nowhere").in_pool("p").of_cluster("nowhere")).await?;
    scene.create(claim("paused").in_pool("p").paused()).await?;
    scene.create(claim("of-pool").in_pool("asleep")).await?;
    // On their way out, and none of ours: C13.
    scene.create(claim("leaving").in_pool("p").finalizer(KEEP)).await?;
    scene.delete(&scene.claims(), "leaving").await?;
    scene.create(pool("leaving").addresses(range).finalizer(KEEP)).await?;
    scene.delete(&scene.pools(IP), "leaving").await?;
    // Deleted under another manager, which a pause held back.
    scene.create(claim("held").in_pool("p").of_cluster("asleep").finalizer(CLAIM_FINALIZER)).await?;
    scene.delete(&scene.claims(), "held").await?;

    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    let message = scene.waits_for("of-pool", "PoolNotReady").await?;
    ensure!(message.contains("paused"), "{message}");
    scene.settled("p").await?;
    for name in ["of-cluster", "of-annotated", "of-nowhere", "paused"] {
        ensure!(is_untouched(&scene.claims().get(name).await?), "{name} was touched");
    }
    ensure!(scene.claims().get("leaving").await?.finalizers() == [KEEP], "a deleting claim got a finalizer");
    ensure!(scene.pools(IP).get("leaving").await?.finalizers() == [KEEP], "a deleting pool got a finalizer");
    ensure!(scene.claims().get("held").await?.finalizers() == [CLAIM_FINALIZER], "released in a paused cluster");

    scene.patch(&scene.clusters(), "asleep", json!({ "spec": { "paused": false } })).await?;
    scene.gone(&scene.claims(), "held").await?;
    scene.pause(&scene.clusters(), "dozing", false).await?;
    scene.create(cluster("nowhere")).await?;
    scene.pause(&scene.claims(), "paused", false).await?;
    scene.pause(&scene.pools(IP), "asleep", false).await?;
    for name in ["of-cluster", "of-annotated", "of-nowhere", "paused", "of-pool"] {
        scene.allocated(name).await?;
    }
    for api in [scene.claims(), scene.pools(IP)] {
        scene.patch(&api, "leaving", json!({ "metadata": { "finalizers": null } })).await?;
        scene.gone(&api, "leaving").await?;
    }
    scene.finish().await?;
    manager.terminate().await?;
    stage.control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn rule_c7_c8_clusters_count_from_the_moment_that_there_is_such_a_kind() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("no-clusters").without_cluster_api()).await?;
    let client = control_plane.admin_client().await?;
    let (of_clusters, others): (Vec<Value>, Vec<Value>) =
        cluster_api_crds()?.into_iter().partition(|crd| crd["spec"]["names"]["kind"] == "Cluster");
    ensure!(of_clusters.len() == 1, "Cluster API has {} kinds of that name", of_clusters.len());
    crds::install_missing(&client, &others).await?;
    let ours = tokio::task::spawn_blocking(|| crds::of_manager(&program()?)).await??;
    crds::install_missing(&client, &ours).await?;
    let mut stage = Stage::on(control_plane);
    let scene = stage.scene("no-clusters").await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    // No such kind: nothing to wait for, and nothing that could be paused.
    for name in ["a", "b"] {
        scene.create(claim(name).in_pool("p").of_cluster("c")).await?;
        scene.allocated(name).await?;
    }
    scene.release("b").await?;
    scene.create(claim("b").in_pool("p").of_cluster("c")).await?;
    scene.allocated("b").await?;

    crds::install_missing(&client, &of_clusters).await?;
    // The first of these claims that stays untouched shows that the kind is known.
    let mut numbers = 0..;
    let probe = eventually("a claim of a missing cluster waits", KIND_WITHIN, || {
        let name = format!("probe-{}", numbers.next().unwrap_or_default());
        let scene = &scene;
        async move {
            scene.create(claim(&name).in_pool("p").of_cluster("missing")).await?;
            scene.settled("p").await?;
            let seen = scene.claims().get(&name).await?;
            if is_untouched(&seen) {
                return Ok(name);
            }
            scene.release(&name).await?;
            Err(NotYet::because("it was served"))
        }
    })
    .await?;
    // Those that have an address keep it, and go when they are deleted: their cluster is not there.
    scene.release("b").await?;
    ensure!(scene.addresses().get("a").await?.metadata.deletion_timestamp.is_none());
    scene.create(cluster("missing")).await?;
    scene.allocated(&probe).await?;
    scene.create(cluster("c").spec_paused()).await?;
    scene.settled("p").await?;
    scene.delete(&scene.claims(), "a").await?;
    scene.settled("p").await?;
    ensure!(scene.addresses().get("a").await?.metadata.deletion_timestamp.is_none(), "released in a paused cluster");
    scene.patch(&scene.clusters(), "c", json!({ "spec": { "paused": false } })).await?;
    scene.gone(&scene.claims(), "a").await?;
    scene.finish().await?;
    manager.terminate().await?;
    stage.control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn rule_c15_a_filter_is_for_claims_and_pools_and_addresses_count_for_everybody() -> Result<()> {
    let mut stage = Stage::own("watch-filter").await?;
    let scene = stage.scene("watch-filter").await?;
    let ours = stage.manager(ManagerOptions::new("ours").argument("--watch-filter=ours")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p").label(WATCH_FILTER, "ours")).await?;
    scene.create(claim("b").in_pool("p").label(WATCH_FILTER, "theirs")).await?;
    scene.create(claim("c").in_pool("p")).await?;
    ensure!(scene.allocated("a").await? == "10.0.0.10");
    // The pool has no label, and is looked after nevertheless.
    scene.counts(IP, "p", 11, 1, 10).await?;
    ensure!(scene.pools(IP).get("p").await?.finalizers() == [POOL_FINALIZER]);
    for name in ["b", "c"] {
        ensure!(is_untouched(&scene.claims().get(name).await?), "{name} was touched");
    }
    let theirs = stage.manager(ManagerOptions::new("theirs").argument("--watch-filter").argument("theirs")).await?;
    ensure!(scene.allocated("b").await? == "10.0.0.11");
    scene.counts(IP, "p", 11, 2, 9).await?;
    let before = version(&scene, "c").await?;
    scene.create(claim("d").in_pool("p").label(WATCH_FILTER, "ours")).await?;
    ensure!(scene.allocated("d").await? == "10.0.0.12");
    ensure!(version(&scene, "c").await? == before, "a claim without the label was touched");
    // The label may come later.
    let label = json!({ "metadata": { "labels": { WATCH_FILTER: "theirs" } } });
    scene.patch(&scene.claims(), "c", label).await.context("labelling the claim")?;
    ensure!(scene.allocated("c").await? == "10.0.0.13");
    scene.release("a").await?;
    scene.release("b").await?;
    scene.counts(IP, "p", 11, 2, 9).await?;
    scene.finish().await?;
    for manager in [ours, theirs] {
        manager.terminate().await?;
    }
    stage.control_plane.stop();
    Ok(())
}
