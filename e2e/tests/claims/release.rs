//! How a claim goes (C12).

use anyhow::Result;
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use e2e::scene::scene;
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
