//! How a claim goes (C12).

use anyhow::Result;
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use e2e::scene::scene;
use kube::api::DeleteParams;
use serde_json::json;

#[tokio::test]
async fn rule_c12_a_deleted_claim_takes_its_address_along() -> Result<()> {
    let scene = scene("rule_c12_release").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.release("a").await?;
    // The claim's finalizer goes last.
    assert!(scene.addresses().get_opt("a").await?.is_none());
    scene.counts(PoolKind::InCluster, "p", 11, 0, 11).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_a_claim_that_somebody_still_uses_keeps_its_address() -> Result<()> {
    let scene = scene("rule_c12_consumer").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p").finalizer("example.org/in-use")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.delete(&scene.claims(), "a").await?;
    scene.settled("p").await?;
    let kept = scene.addresses().get("a").await?;
    assert_eq!(kept.metadata.deletion_timestamp, None);
    let ours = scene.claims().get("a").await?.metadata.finalizers.unwrap_or_default();
    let ours: Vec<String> = ours.into_iter().filter(|finalizer| finalizer != "example.org/in-use").collect();
    scene.patch(&scene.claims(), "a", json!({ "metadata": { "finalizers": ours } })).await?;
    scene.gone(&scene.claims(), "a").await?;
    scene.gone(&scene.addresses(), "a").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_a_released_address_stays_for_the_grace_period() -> Result<()> {
    let scene = scene("rule_c12_grace").await?;
    let seconds = 3;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).grace_period(seconds)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.delete(&scene.claims(), "a").await?;
    let deleted = scene.claims().get("a").await?.metadata.deletion_timestamp.expect("it is deleting").0;
    scene.create(claim("b").in_pool("p")).await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.11");
    scene.gone(&scene.claims(), "a").await?;
    // Both clocks are the server's: a timestamp has whole seconds, so "not before the end" is exact.
    let gone = scene.server_time().await?;
    let lasted = gone.as_second() - deleted.as_second();
    assert!(lasted >= seconds, "it was released after {lasted} s, and its pool keeps addresses for {seconds} s");
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_the_grace_period_does_not_hold_up_the_end_of_a_pool() -> Result<()> {
    let scene = scene("rule_c12_pool_goes").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).grace_period(3600)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.delete(&scene.claims(), "a").await?;
    scene.delete(&scene.pools(PoolKind::InCluster), "p").await?;
    scene.gone(&scene.claims(), "a").await?;
    scene.gone(&scene.pools(PoolKind::InCluster), "p").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_a_claim_goes_when_its_pool_is_gone() -> Result<()> {
    let scene = scene("rule_c12_pool_gone").await?;
    let pools = scene.pools(PoolKind::InCluster);
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    // By force, as clusterctl move does. The manager may put the finalizer back while the pool lives, not after.
    scene.delete(&pools, "p").await?;
    scene.patch(&pools, "p", json!({ "metadata": { "finalizers": null } })).await?;
    scene.gone(&pools, "p").await?;
    scene.release("a").await?;
    scene.gone(&scene.addresses(), "a").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_a_grace_period_that_is_taken_back_ends_at_once() -> Result<()> {
    let scene = scene("rule_c12_taken_back").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).grace_period(3600)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.delete(&scene.claims(), "a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.11");
    // Both the claim and its address are there, and neither is touched.
    assert_eq!(scene.addresses().get("a").await?.metadata.deletion_timestamp, None);
    scene.counts(PoolKind::InCluster, "p", 11, 2, 9).await?;
    let none = json!({ "spec": { "addressReuseGracePeriodSeconds": null } });
    scene.patch(&scene.pools(PoolKind::InCluster), "p", none).await?;
    scene.gone(&scene.claims(), "a").await?;
    scene.create(claim("c").in_pool("p")).await?;
    assert_eq!(scene.allocated("c").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_the_finalizers_of_the_garbage_collector_are_no_consumers() -> Result<()> {
    let scene = scene("rule_c12_propagation").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    for (name, how) in [("a", DeleteParams::foreground()), ("b", DeleteParams::orphan())] {
        scene.create(claim(name).in_pool("p")).await?;
        scene.allocated(name).await?;
        scene.claims().delete(name, &how).await?;
        scene.gone(&scene.claims(), name).await?;
        scene.gone(&scene.addresses(), name).await?;
    }
    scene.counts(PoolKind::InCluster, "p", 11, 0, 11).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c12_a_claim_that_waits_is_gone_as_soon_as_it_is_deleted() -> Result<()> {
    let scene = scene("rule_c12_waiting").await?;
    // A grace period is for addresses: whoever has none does not wait.
    scene.create(pool("p").addresses(["10.0.0.10"]).grace_period(3600)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolExhausted").await?;
    scene.create(pool("broken").addresses(["nonsense"])).await?;
    scene.create(claim("c").in_pool("broken")).await?;
    scene.waits_for("c", "PoolNotReady").await?;
    for name in ["b", "c"] {
        scene.release(name).await?;
    }
    scene.finish().await
}
