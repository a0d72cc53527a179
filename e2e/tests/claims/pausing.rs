//! What is paused waits, and goes on at once (C7, C8).

use std::time::Instant;

use anyhow::Result;
use e2e::fixtures::{claim, cluster, pool};
use e2e::kinds::{CLAIM_FINALIZER, PAUSED, PoolKind};
use e2e::progress::say;
use e2e::scene::{Scene, address_ref, ready, scene};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

const IP: PoolKind = PoolKind::InCluster;

fn is_untouched(claim: &DynamicObject) -> bool {
    claim.finalizers().is_empty() && claim.data.get("status").is_none_or(Value::is_null)
}

/// A claim `held` with its address, of the cluster `c` and the pool `p`, and a pool `beside` for everything else.
async fn prepared(name: &str) -> Result<Scene> {
    let scene = scene(name).await?;
    scene.create(pool("beside").addresses(["10.9.0.10"])).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(cluster("c")).await?;
    scene.create(claim("held").in_pool("p").of_cluster("c")).await?;
    scene.allocated("held").await?;
    Ok(scene)
}

/// Something is paused since a moment: `held` is deleted, and has to stay; returns once that would have ended it.
async fn nothing_is_released(scene: &Scene) -> Result<()> {
    // A whole claim comes and goes, twice: longer than the news of the pause needs, and then those of the deletion.
    scene.settled("beside").await?;
    scene.delete(&scene.claims(), "held").await?;
    scene.settled("beside").await?;
    let address = scene.addresses().get("held").await?;
    assert_eq!(address.metadata.deletion_timestamp, None);
    assert!(scene.claims().get("held").await?.finalizers().contains(&CLAIM_FINALIZER.to_owned()));
    Ok(())
}

/// The pause is over since `since`: what waited happens.
async fn all_goes_on(scene: &Scene, what: &str, since: Instant) -> Result<()> {
    scene.gone(&scene.claims(), "held").await?;
    scene.gone(&scene.addresses(), "held").await?;
    scene.allocated("new").await?;
    say(format!("{what}: release and allocation took {:?} from the end of the pause", since.elapsed()));
    Ok(())
}

#[tokio::test]
async fn rule_c8_a_paused_pool_neither_gives_nor_takes() -> Result<()> {
    let scene = prepared("rule_c8_pool").await?;
    scene.pause(&scene.pools(IP), "p", true).await?;
    nothing_is_released(&scene).await?;
    scene.create(claim("new").in_pool("p").of_cluster("c")).await?;
    let message = scene.waits_for("new", "PoolNotReady").await?;
    assert!(message.contains("paused"), "{message}");
    assert_eq!(scene.claims().get("new").await?.finalizers(), [CLAIM_FINALIZER]);
    // The pool itself is as good as before.
    assert_eq!(ready(&scene.pools(IP).get("p").await?).map(|ready| ready.reason), Some("PoolReady".to_owned()));
    let since = Instant::now();
    scene.pause(&scene.pools(IP), "p", false).await?;
    all_goes_on(&scene, "a pool", since).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c8_the_annotation_of_a_cluster_pauses_its_claims_whatever_its_value() -> Result<()> {
    let scene = prepared("rule_c8_annotation").await?;
    let paused = json!({ "metadata": { "annotations": { PAUSED: "false" } } });
    scene.patch(&scene.clusters(), "c", paused).await?;
    nothing_is_released(&scene).await?;
    scene.create(claim("new").in_pool("p").of_cluster("c")).await?;
    // Those of other clusters are served from the same pool.
    scene.settled("p").await?;
    assert!(is_untouched(&scene.claims().get("new").await?));
    let since = Instant::now();
    scene.pause(&scene.clusters(), "c", false).await?;
    all_goes_on(&scene, "a cluster", since).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c8_a_paused_claim_is_not_released_and_is_left_alone_whatever_happens_to_its_pool() -> Result<()> {
    let scene = prepared("rule_c8_claims").await?;
    scene.pause(&scene.claims(), "held", true).await?;
    nothing_is_released(&scene).await?;
    scene.create(claim("new").in_pool("p").paused()).await?;
    let wider = json!({ "spec": { "addresses": ["10.0.0.10-10.0.0.30"] } });
    scene.patch(&scene.pools(IP), "p", wider).await?;
    scene.counts(IP, "p", 21, 1, 20).await?;
    scene.settled("p").await?;
    assert!(is_untouched(&scene.claims().get("new").await?));
    let since = Instant::now();
    for name in ["held", "new"] {
        scene.pause(&scene.claims(), name, false).await?;
    }
    all_goes_on(&scene, "a claim", since).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c8_pauses_of_cluster_pool_and_claim_all_have_to_end() -> Result<()> {
    let scene = prepared("rule_c8_all").await?;
    scene.patch(&scene.clusters(), "c", json!({ "spec": { "paused": true } })).await?;
    scene.pause(&scene.clusters(), "c", true).await?;
    scene.pause(&scene.pools(IP), "p", true).await?;
    scene.pause(&scene.claims(), "held", true).await?;
    nothing_is_released(&scene).await?;
    scene.pause(&scene.claims(), "held", false).await?;
    scene.pause(&scene.clusters(), "c", false).await?;
    scene.pause(&scene.pools(IP), "p", false).await?;
    // Still paused by its spec.
    scene.settled("p").await?;
    assert_eq!(scene.addresses().get("held").await?.metadata.deletion_timestamp, None);
    scene.create(claim("new").in_pool("p").of_cluster("c")).await?;
    let since = Instant::now();
    scene.patch(&scene.clusters(), "c", json!({ "spec": { "paused": false } })).await?;
    all_goes_on(&scene, "the last of four", since).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c7_the_name_in_the_spec_counts_before_the_label_and_an_empty_label_is_none() -> Result<()> {
    let scene = prepared("rule_c7_precedence").await?;
    scene.create(cluster("asleep").spec_paused()).await?;
    scene.create(claim("active").in_pool("p").of_cluster("c").labelled_with_cluster("asleep")).await?;
    scene.create(claim("waits").in_pool("p").of_cluster("asleep").labelled_with_cluster("c")).await?;
    scene.create(claim("labelled").in_pool("p").labelled_with_cluster("asleep")).await?;
    scene.create(claim("empty").in_pool("p").labelled_with_cluster("")).await?;
    scene.allocated("active").await?;
    scene.allocated("empty").await?;
    scene.settled("p").await?;
    for name in ["waits", "labelled"] {
        assert!(is_untouched(&scene.claims().get(name).await?), "{name}");
    }
    scene.finish().await
}

#[tokio::test]
async fn rule_c7_a_claim_whose_cluster_is_gone_keeps_its_address_and_is_released_when_it_is_deleted() -> Result<()> {
    let scene = prepared("rule_c7_gone").await?;
    let before = scene.claims().get("held").await?;
    scene.delete(&scene.clusters(), "c").await?;
    scene.gone(&scene.clusters(), "c").await?;
    scene.settled("p").await?;
    let after = scene.claims().get("held").await?;
    assert_eq!(after.resource_version(), before.resource_version());
    assert_eq!(address_ref(&after), Some("held"));
    scene.release("held").await?;
    assert!(scene.addresses().get_opt("held").await?.is_none());
    scene.finish().await
}
