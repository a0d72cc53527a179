//! What is written on claims, addresses and pools, and on whose (C1 to C8, C13).

use anyhow::Result;
use e2e::fixtures::{address, claim, cluster, pool};
use e2e::kinds::{ADDRESS_FINALIZER, CLAIM_FINALIZER, CLUSTER_NAME, GROUP, POOL_FINALIZER, PoolKind};
use e2e::scene::{address_ref, scene};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

fn has(object: &DynamicObject, finalizer: &str) -> bool {
    object.finalizers().iter().any(|found| found == finalizer)
}

#[tokio::test]
async fn rule_c1_claims_of_other_providers_are_not_touched() -> Result<()> {
    let scene = scene("rule_c1_others").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    let foreign = [
        ("group", json!({ "apiGroup": "ipam.example.org", "kind": "InClusterIPPool", "name": "p" })),
        ("kind", json!({ "apiGroup": GROUP, "kind": "OtherIPPool", "name": "p" })),
    ];
    for (name, pool_ref) in &foreign {
        scene.create(claim(name).field("poolRef", pool_ref.clone())).await?;
    }
    scene.settled("p").await?;
    for (name, _) in &foreign {
        let seen = scene.claims().get(name).await?;
        assert_eq!(seen.finalizers(), Vec::<String>::new(), "{name}");
        assert!(seen.data.get("status").is_none_or(Value::is_null), "{name}: {}", seen.data);
    }
    scene.finish().await
}

#[tokio::test]
async fn rule_c2_the_finalizer_comes_before_the_pool_exists() -> Result<()> {
    let scene = scene("rule_c2_finalizer").await?;
    scene.create(claim("a").in_pool("missing")).await?;
    scene.waits_for("a", "PoolNotReady").await?;
    assert!(has(&scene.claims().get("a").await?, CLAIM_FINALIZER));
    // Nothing is held, so it goes at once.
    scene.release("a").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c3_the_address_of_a_living_claim_cannot_be_deleted() -> Result<()> {
    let scene = scene("rule_c3_protected").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.delete(&scene.addresses(), "a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.11");
    let kept = scene.addresses().get("a").await?;
    assert!(kept.metadata.deletion_timestamp.is_some() && has(&kept, ADDRESS_FINALIZER), "{kept:?}");
    scene.release("a").await?;
    scene.gone(&scene.addresses(), "a").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c3_an_address_whose_finalizer_was_stripped_comes_back_before_anybody_waiting_gets_it() -> Result<()> {
    let scene = scene("rule_c3_stripped").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolExhausted").await?;

    let before = scene.addresses().get("a").await?;
    scene.delete(&scene.addresses(), "a").await?;
    scene.patch(&scene.addresses(), "a", json!({ "metadata": { "finalizers": null } })).await?;
    let again = scene
        .becomes(&scene.addresses(), "a", "is there again", |address| {
            address.uid() != before.uid() && address.metadata.deletion_timestamp.is_none()
        })
        .await?;
    assert_eq!(again.data["spec"]["address"], "10.0.0.10");
    scene.waits_for("b", "PoolExhausted").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c4_a_pool_stays_until_its_last_address_is_gone() -> Result<()> {
    let scene = scene("rule_c4_pool").await?;
    let pools = scene.pools(PoolKind::InCluster);
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.becomes(&pools, "p", "has our finalizer", |pool| has(pool, POOL_FINALIZER)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.delete(&pools, "p").await?;
    scene.pool_is(PoolKind::InCluster, "p", "False", "Deleting").await?;
    assert!(has(&pools.get("p").await?, POOL_FINALIZER));
    scene.release("a").await?;
    scene.gone(&pools, "p").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c5_an_address_is_owned_by_its_claim_and_its_pool() -> Result<()> {
    let scene = scene("rule_c5_owners").await?;
    let pool = scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).gateway("10.0.0.1")).await?;
    let claim = scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    let address = scene.addresses().get("a").await?;
    assert_eq!(
        serde_json::to_value(address.owner_references())?,
        json!([
            { "apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddressClaim", "name": "a", "uid": claim.uid(),
              "controller": true, "blockOwnerDeletion": true },
            { "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool", "name": "p", "uid": pool.uid(),
              "controller": false, "blockOwnerDeletion": true },
        ])
    );
    assert_eq!(address.data["spec"]["claimRef"]["name"], "a");
    assert_eq!(address.data["spec"]["prefix"], 24);
    assert_eq!(address.data["spec"]["gateway"], "10.0.0.1");
    assert!(has(&address, ADDRESS_FINALIZER));
    scene.finish().await
}

#[tokio::test]
async fn rule_c5_foreign_owners_stay_in_front_and_a_foreign_controller_stays_the_controller() -> Result<()> {
    let scene = scene("rule_c5_foreign").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    // An owner that exists: the garbage collector would remove the address of one that does not.
    let owner = scene.create(cluster("owner")).await?;
    scene.create(address("a", "p", "10.0.0.15")).await?;
    let foreign = json!({ "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "owner",
        "uid": owner.uid(), "controller": true });
    scene.patch(&scene.addresses(), "a", json!({ "metadata": { "ownerReferences": [foreign] } })).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.15");
    let adopted = scene
        .becomes(&scene.addresses(), "a", "has three owners", |address| address.owner_references().len() == 3)
        .await?;
    let owners: Vec<(&str, Option<bool>)> =
        adopted.owner_references().iter().map(|owner| (owner.kind.as_str(), owner.controller)).collect();
    assert_eq!(owners, [("Cluster", Some(true)), ("IPAddressClaim", Some(false)), ("InClusterIPPool", Some(false))]);
    scene.finish().await
}

#[tokio::test]
async fn rule_c5_a_reference_that_is_out_of_date_is_refreshed_where_it_stands() -> Result<()> {
    let scene = scene("rule_c5_refresh").await?;
    // Paused, so that the address is there before the claim is looked at.
    let claim = scene.create(claim("a").in_pool("p").paused()).await?;
    scene.create(address("a", "p", "10.0.0.15")).await?;
    let owner = scene.create(cluster("owner")).await?;
    let references = json!([
        { "apiVersion": "ipam.cluster.x-k8s.io/v1beta1", "kind": "IPAddressClaim", "name": "a", "uid": claim.uid() },
        { "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "owner", "uid": owner.uid() },
    ]);
    scene.patch(&scene.addresses(), "a", json!({ "metadata": { "ownerReferences": references } })).await?;
    let pool = scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.pause(&scene.claims(), "a", false).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.15");
    let adopted = scene
        .becomes(&scene.addresses(), "a", "has three owners", |address| address.owner_references().len() == 3)
        .await?;
    assert_eq!(
        serde_json::to_value(adopted.owner_references())?,
        json!([
            { "apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddressClaim", "name": "a", "uid": claim.uid(),
              "controller": true, "blockOwnerDeletion": true },
            { "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "owner", "uid": owner.uid() },
            { "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool", "name": "p", "uid": pool.uid(),
              "controller": false, "blockOwnerDeletion": true },
        ])
    );
    scene.finish().await
}

#[tokio::test]
async fn rule_c5_a_claim_that_was_lost_and_created_again_finds_its_address_and_owns_it() -> Result<()> {
    let scene = scene("rule_c5_again").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    for name in ["first", "a"] {
        scene.create(claim(name).in_pool("p")).await?;
        scene.allocated(name).await?;
    }
    let address = scene.addresses().get("a").await?;
    // By force, while nobody may release it.
    scene.pause(&scene.claims(), "a", true).await?;
    scene.settled("p").await?;
    scene.delete(&scene.claims(), "a").await?;
    scene.patch(&scene.claims(), "a", json!({ "metadata": { "finalizers": null } })).await?;
    scene.gone(&scene.claims(), "a").await?;
    // A lower address is free by now; it is not asked for.
    scene.release("first").await?;
    let again = scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.11");
    let owned = scene
        .becomes(&scene.addresses(), "a", "is owned by the new claim", |address| {
            let owners = address.owner_references();
            owners.iter().any(|owner| Some(owner.uid.as_str()) == again.metadata.uid.as_deref()) && owners.len() == 2
        })
        .await?;
    assert_eq!(owned.uid(), address.uid());
    scene.finish().await
}

#[tokio::test]
async fn rule_c6_the_cluster_of_a_claim_is_on_its_address() -> Result<()> {
    let scene = scene("rule_c6_label").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    for name in ["labelled", "named"] {
        scene.create(cluster(name)).await?;
    }
    scene.create(claim("a").in_pool("p").labelled_with_cluster("labelled")).await?;
    scene.create(claim("b").in_pool("p").of_cluster("named")).await?;
    for (name, expected) in [("a", "labelled"), ("b", "named")] {
        scene.allocated(name).await?;
        let address = scene.addresses().get(name).await?;
        assert_eq!(address.labels().get(CLUSTER_NAME).map(String::as_str), Some(expected), "{name}");
    }
    // It comes back when somebody takes it away, and follows the claim's.
    let label = |value: Value| json!({ "metadata": { "labels": { CLUSTER_NAME: value } } });
    scene.patch(&scene.addresses(), "b", label(Value::Null)).await?;
    scene.patch(&scene.claims(), "a", label("named".into())).await?;
    for name in ["a", "b"] {
        scene
            .becomes(&scene.addresses(), name, "has the label again", |address| {
                address.labels().get(CLUSTER_NAME).is_some_and(|cluster| cluster == "named")
            })
            .await?;
    }
    scene.finish().await
}

#[tokio::test]
async fn rule_c7_a_claim_of_a_missing_cluster_is_untouched_until_the_cluster_appears() -> Result<()> {
    let scene = scene("rule_c7_missing").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p").of_cluster("later")).await?;
    scene.settled("p").await?;
    let untouched = scene.claims().get("a").await?;
    assert_eq!(untouched.finalizers(), Vec::<String>::new());
    assert!(untouched.data.get("status").is_none_or(Value::is_null), "{}", untouched.data);
    scene.create(cluster("later")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_c8_a_paused_cluster_pauses_allocation_and_release() -> Result<()> {
    let scene = scene("rule_c8_cluster").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(cluster("c")).await?;
    scene.create(claim("held").in_pool("p").of_cluster("c")).await?;
    scene.allocated("held").await?;
    scene.patch(&scene.clusters(), "c", json!({ "spec": { "paused": true } })).await?;
    // A whole claim comes and goes meanwhile: longer than the news of the pause needs.
    scene.settled("p").await?;
    scene.create(claim("new").in_pool("p").of_cluster("c")).await?;
    scene.delete(&scene.claims(), "held").await?;
    scene.settled("p").await?;
    assert_eq!(address_ref(&scene.claims().get("new").await?), None);
    assert_eq!(scene.addresses().get("held").await?.data["spec"]["address"], "10.0.0.10");
    scene.patch(&scene.clusters(), "c", json!({ "spec": { "paused": false } })).await?;
    scene.gone(&scene.claims(), "held").await?;
    scene.allocated("new").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c8_a_paused_claim_waits_and_unpausing_acts() -> Result<()> {
    let scene = scene("rule_c8_claim").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p").paused()).await?;
    scene.settled("p").await?;
    assert_eq!(scene.claims().get("a").await?.finalizers(), Vec::<String>::new());
    scene.pause(&scene.claims(), "a", false).await?;
    scene.allocated("a").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c13_a_deleting_claim_gets_no_finalizer() -> Result<()> {
    let scene = scene("rule_c13_no_finalizer").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    // Paused, so that it is deleting before the manager may do anything with it.
    scene.create(claim("a").in_pool("p").paused().finalizer("example.org/keep")).await?;
    scene.delete(&scene.claims(), "a").await?;
    scene.pause(&scene.claims(), "a", false).await?;
    scene.settled("p").await?;
    let deleting = scene.claims().get("a").await?;
    assert_eq!(deleting.finalizers(), ["example.org/keep"]);
    assert!(scene.addresses().get_opt("a").await?.is_none());
    scene.patch(&scene.claims(), "a", json!({ "metadata": { "finalizers": null } })).await?;
    scene.gone(&scene.claims(), "a").await?;
    scene.finish().await
}
