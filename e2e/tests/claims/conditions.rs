//! What a claim says about itself, and when it is looked at again (C9 to C11).

use anyhow::Result;
use e2e::fixtures::{claim, pool};
use e2e::kinds::{CLAIM_FINALIZER, PoolKind};
use e2e::scene::{ready, scene};
use kube::ResourceExt as _;
use serde_json::json;

#[tokio::test]
async fn rule_c9_success_is_an_address_ref_and_a_true_condition() -> Result<()> {
    let scene = scene("rule_c9_success").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    let served = scene.claims().get("a").await?;
    assert_eq!(served.data["status"]["addressRef"], json!({ "name": "a" }));
    let ready = ready(&served).expect("a condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "AddressAllocated"));
    scene.finish().await
}

#[tokio::test]
async fn rule_c10_a_missing_pool_is_named() -> Result<()> {
    let scene = scene("rule_c10_missing").await?;
    scene.create(claim("a").in_pool("nowhere")).await?;
    let message = scene.waits_for("a", "PoolNotReady").await?;
    assert!(message.contains("nowhere"), "{message}");
    scene.finish().await
}

#[tokio::test]
async fn rule_c10_a_deleting_pool_serves_nobody() -> Result<()> {
    let scene = scene("rule_c10_deleting").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.delete(&scene.pools(PoolKind::InCluster), "p").await?;
    scene.pool_is(PoolKind::InCluster, "p", "False", "Deleting").await?;
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolNotReady").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c10_an_unchanged_condition_causes_no_write() -> Result<()> {
    let scene = scene("rule_c10_quiet").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(pool("q").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    let message = scene.waits_for("b", "PoolExhausted").await?;
    assert!(message.contains('p') && message.contains('1'), "{message}");
    let before = scene.claims().get("b").await?;
    // Others come, wait and go.
    scene.create(claim("c").in_pool("p")).await?;
    scene.waits_for("c", "PoolExhausted").await?;
    scene.release("c").await?;
    scene.settled("q").await?;
    assert_eq!(scene.claims().get("b").await?.resource_version(), before.resource_version());
    scene.finish().await
}

#[tokio::test]
async fn rule_c10_the_time_of_a_condition_changes_with_its_status_only() -> Result<()> {
    let scene = scene("rule_c10_time").await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.waits_for("a", "PoolNotReady").await?;
    let time = |object: &kube::api::DynamicObject| object.data["status"]["conditions"][0]["lastTransitionTime"].clone();
    let first = time(&scene.claims().get("a").await?);
    scene.next_second().await?;
    // Still False, for another reason.
    scene.create(pool("p").addresses(["10.0.0.10"]).gateway("10.0.0.10")).await?;
    scene.waits_for("a", "PoolExhausted").await?;
    assert_eq!(time(&scene.claims().get("a").await?), first);
    scene.patch(&scene.pools(PoolKind::InCluster), "p", json!({ "spec": { "gateway": null } })).await?;
    scene.allocated("a").await?;
    assert_ne!(time(&scene.claims().get("a").await?), first);
    scene.finish().await
}

#[tokio::test]
async fn rule_c11_a_claim_is_served_when_its_pool_appears() -> Result<()> {
    let scene = scene("rule_c11_appears").await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.waits_for("a", "PoolNotReady").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_c11_claims_are_served_when_their_pool_grows() -> Result<()> {
    let scene = scene("rule_c11_grows").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolExhausted").await?;
    let wider = json!({ "spec": { "addresses": ["10.0.0.10-10.0.0.11"] } });
    scene.patch(&scene.pools(PoolKind::InCluster), "p", wider).await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.11");
    scene.finish().await
}

#[tokio::test]
async fn rule_c11_a_waiting_claim_is_served_when_another_one_goes() -> Result<()> {
    let scene = scene("rule_c11_frees").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolExhausted").await?;
    scene.release("a").await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_c11_a_claim_of_a_paused_pool_says_so_and_is_served_when_it_is_unpaused() -> Result<()> {
    let scene = scene("rule_c11_paused").await?;
    scene.create(pool("p").addresses(["10.0.0.10"]).paused()).await?;
    scene.create(claim("a").in_pool("p")).await?;
    let message = scene.waits_for("a", "PoolNotReady").await?;
    assert!(message.contains("paused"), "{message}");
    assert_eq!(scene.claims().get("a").await?.finalizers(), [CLAIM_FINALIZER]);
    scene.pause(&scene.pools(PoolKind::InCluster), "p", false).await?;
    scene.allocated("a").await?;
    scene.finish().await
}
