//! Claims and addresses that come apart: moved and restored claims (C19), orphans (C14).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{address, claim, pool};
use e2e::kinds::{ADDRESS_FINALIZER, CLAIM_FINALIZER, POOL_FINALIZER, PoolKind};
use e2e::manager::ManagerOptions;
use e2e::scene::{Scene, Stage, address_ref, scene};
use kube::ResourceExt as _;
use serde_json::json;

const NOTE: &str = "ipam.cluster.x-k8s.io/claim-uid";
const POOL_NOTE: &str = "ipam.cluster.x-k8s.io/pool-uid";
/// Twice what the manager takes to find an orphan and to release it, with a grace period of seconds.
const RELEASED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test]
async fn rule_c19_the_address_of_a_moved_claim_is_not_given_away_before_it_arrives() -> Result<()> {
    let scene = scene("rule_c19_moved").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.settled("p").await?;
    scene.create(claim("moved").in_pool("p").finalizer(CLAIM_FINALIZER).annotation(NOTE, "elsewhere")).await?;
    let message = scene.waits_for("moved", "AllocationFailed").await?;
    ensure!(message.contains("waiting for its IPAddress"), "{message}");
    scene.create(claim("new").in_pool("p")).await?;
    let message = scene.waits_for("new", "AllocationFailed").await?;
    ensure!(message.contains("moved or restored"), "{message}");
    scene.create(address("moved", "p", "10.0.0.10").finalizer(ADDRESS_FINALIZER)).await?;
    assert_eq!(scene.allocated("moved").await?, "10.0.0.10");
    assert_eq!(scene.allocated("new").await?, "10.0.0.11");
    scene.finish().await
}

#[tokio::test]
async fn rule_c19_a_moved_pool_gives_nothing_away_before_its_addresses_arrive() -> Result<()> {
    let mut stage = Stage::own("rule_c19_pool").await?;
    let scene = stage.scene("rule_c19_pool").await?;
    let manager = stage.manager(ManagerOptions::new("manager").argument("--adoption-grace-period=8s")).await?;
    scene.create(claim("new").in_pool("p")).await?;
    scene.waits_for("new", "PoolNotReady").await?;
    let moved =
        pool("p").addresses(["10.0.0.10-10.0.0.20"]).finalizer(POOL_FINALIZER).annotation(POOL_NOTE, "elsewhere");
    let moved = scene.create(moved).await?;
    let message = scene.waits_for("new", "AllocationFailed").await?;
    ensure!(message.contains("moved or restored"), "{message}");
    scene.create(claim("moved").in_pool("p").finalizer(CLAIM_FINALIZER).annotation(NOTE, "elsewhere")).await?;
    scene.create(address("moved", "p", "10.0.0.10").finalizer(ADDRESS_FINALIZER)).await?;
    assert_eq!(scene.allocated("moved").await?, "10.0.0.10");
    assert_eq!(scene.allocated("new").await?, "10.0.0.11");
    let known = scene.pools(PoolKind::InCluster).get("p").await?;
    assert_eq!(known.annotations().get(POOL_NOTE), moved.metadata.uid.as_ref());
    ensure!(manager.terminate().await?.success());
    scene.finish().await
}

#[tokio::test]
async fn rule_c19_a_claim_whose_address_never_comes_is_served_in_the_end_and_known_from_then_on() -> Result<()> {
    let mut stage = Stage::own("rule_c19_lost").await?;
    let scene = stage.scene("rule_c19_lost").await?;
    let manager = stage.manager(ManagerOptions::new("manager").argument("--adoption-grace-period=4s")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    let lost = scene.create(claim("lost").in_pool("p").finalizer(CLAIM_FINALIZER)).await?;
    scene.waits_for("lost", "AllocationFailed").await?;
    assert_eq!(scene.allocated("lost").await?, "10.0.0.10");
    let known = scene.claims().get("lost").await?;
    assert_eq!(known.annotations().get(NOTE), lost.metadata.uid.as_ref());
    ensure!(manager.terminate().await?.success());
    scene.finish().await
}

/// A claim with its address, and then the address alone: somebody forced the claim away while no manager was there.
async fn orphaned(stage: &mut Stage, scene: &Scene) -> Result<()> {
    let manager = stage.manager(ManagerOptions::new("before")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    ensure!(manager.terminate().await?.success());
    scene.delete(&scene.claims(), "a").await?;
    scene.patch(&scene.claims(), "a", json!({ "metadata": { "finalizers": null } })).await?;
    // Sooner or later the garbage collector takes the claim's reference off; it keeps the object because of the pool's.
    scene.gone(&scene.claims(), "a").await
}

#[tokio::test]
async fn rule_c14_an_address_whose_claim_was_forced_away_is_reported_and_released() -> Result<()> {
    let mut stage = Stage::own("rule_c14_forced").await?;
    let scene = stage.scene("rule_c14_forced").await?;
    orphaned(&mut stage, &scene).await?;
    let manager = stage.manager(ManagerOptions::new("manager").argument("--orphan-grace-period=8s")).await?;
    eventually("the orphan is counted", RELEASED_WITHIN, || async {
        let metrics = manager.metrics().await.map_err(|error| NotYet::because(error.to_string()))?;
        match metrics.sum("capi_ipam_pool_orphaned_addresses", &[("pool", "p")]) {
            Some(1.0) => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await?;
    ensure!(scene.addresses().get("a").await?.metadata.deletion_timestamp.is_none());
    eventually("the orphan is released", RELEASED_WITHIN, || async {
        match scene.addresses().get_opt("a").await? {
            None => Ok(()),
            Some(address) => Err(NotYet::because(format!("{:?}", address.finalizers()))),
        }
    })
    .await?;
    scene.counts(PoolKind::InCluster, "p", 11, 0, 11).await?;
    let released = manager.metrics().await?.sum("capi_ipam_orphan_releases_total", &[("kind", "InClusterIPPool")]);
    assert_eq!(released, Some(1.0));
    ensure!(manager.terminate().await?.success());
    scene.finish().await
}

#[tokio::test]
async fn rule_c14_a_claim_that_comes_back_in_time_keeps_its_address() -> Result<()> {
    let mut stage = Stage::own("rule_c14_back").await?;
    let scene = stage.scene("rule_c14_back").await?;
    orphaned(&mut stage, &scene).await?;
    let before = scene.addresses().get("a").await?;
    let manager = stage.manager(ManagerOptions::new("manager").argument("--orphan-grace-period=1h")).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    let after = scene.addresses().get("a").await?;
    assert_eq!(after.uid(), before.uid());
    let claim = scene.claims().get("a").await?;
    let owner = after.owner_references().iter().find(|owner| owner.kind == "IPAddressClaim").context("no owner")?;
    assert_eq!((Some(&owner.uid), address_ref(&claim)), (claim.metadata.uid.as_ref(), Some("a")));
    ensure!(manager.terminate().await?.success());
    scene.finish().await
}
