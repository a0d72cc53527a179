//! Which address a claim gets (B1 to B6).

use anyhow::Result;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Fixture as _, address, claim, global_pool, pool, prefix_pool};
use e2e::kinds::{self, ADDRESS_FINALIZER, PoolKind};
use e2e::scene::{Stage, ready, scene};
use kube::api::{DynamicObject, PostParams};
use kube::core::TypeMeta;
use kube::{Api, ResourceExt as _};
use serde_json::json;

const IP: PoolKind = PoolKind::InCluster;

#[tokio::test]
async fn rule_b1_the_lowest_free_address_comes_first_and_freed_ones_come_again() -> Result<()> {
    let scene = scene("rule_b1_first_fit").await?;
    // Neither order nor overlaps matter.
    scene.create(pool("p").addresses(["10.0.0.30", "10.0.0.12-10.0.0.14", "10.0.0.13"])).await?;
    for (name, expected) in [("a", "10.0.0.12"), ("b", "10.0.0.13"), ("c", "10.0.0.14"), ("d", "10.0.0.30")] {
        scene.create(claim(name).in_pool("p")).await?;
        assert_eq!(scene.allocated(name).await?, expected);
    }
    scene.release("b").await?;
    scene.release("d").await?;
    scene.create(claim("e").in_pool("p")).await?;
    assert_eq!(scene.allocated("e").await?, "10.0.0.13");
    scene.finish().await
}

#[tokio::test]
async fn rule_b1_prefixes_are_the_lowest_free_aligned_block() -> Result<()> {
    let scene = scene("rule_b1_prefixes").await?;
    scene.create(prefix_pool("p").prefixes(["fd00:0:0:10::/62", "fd00::/63"], 64)).await?;
    for (name, expected) in [("a", "fd00::"), ("b", "fd00:0:0:1::"), ("c", "fd00:0:0:10::")] {
        scene.create(claim(name).in_pool_of(PoolKind::Prefix, "p")).await?;
        assert_eq!(scene.allocated(name).await?, expected);
    }
    assert_eq!(scene.addresses().get("a").await?.data["spec"]["prefix"], 64);
    scene.finish().await
}

#[tokio::test]
async fn rule_b2_addresses_that_others_wrote_are_in_use() -> Result<()> {
    let scene = scene("rule_b2_in_use").await?;
    // Without our finalizer and without a claim: it counts all the same.
    scene.create(address("theirs", "p", "10.0.0.10")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.11");
    scene.finish().await
}

#[tokio::test]
async fn rule_b2_a_terminating_address_is_in_use() -> Result<()> {
    let scene = scene("rule_b2_terminating").await?;
    scene.create(address("theirs", "p", "10.0.0.10").finalizer("example.org/keep")).await?;
    scene.delete(&scene.addresses(), "theirs").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.11");
    scene.patch(&scene.addresses(), "theirs", json!({ "metadata": { "finalizers": null } })).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b2_a_global_pool_counts_the_addresses_of_all_namespaces() -> Result<()> {
    let stage = Stage::shared().await?;
    let (one, other) = (stage.scene("rule_b2_global_one").await?, stage.scene("rule_b2_global_other").await?);
    let shared = one.global_name("p");
    one.create(global_pool(&shared).addresses(["10.0.0.10-10.0.0.20"])).await?;
    one.create(claim("a").in_global_pool(&shared)).await?;
    assert_eq!(one.allocated("a").await?, "10.0.0.10");
    other.create(claim("a").in_global_pool(&shared)).await?;
    assert_eq!(other.allocated("a").await?, "10.0.0.11");
    other.release("a").await?;
    one.release("a").await?;
    other.finish().await?;
    one.finish().await
}

#[tokio::test]
async fn rule_b2_an_address_whose_pool_reference_has_no_group_is_in_use() -> Result<()> {
    let scene = scene("rule_b2_no_group").await?;
    // v1beta1 allows it, and what is stored through it stays so.
    let theirs = address("theirs", "p", "10.0.0.10").field("poolRef", json!({ "kind": IP.name(), "name": "p" }));
    let old = kinds::v1beta1(&kinds::address());
    let mut object = theirs.object();
    object.types = Some(TypeMeta { api_version: old.api_version.clone(), kind: old.kind.clone() });
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client().clone(), scene.namespace(), &old);
    let stored = api.create(&PostParams::default(), &object).await?;
    assert!(stored.data["spec"]["poolRef"].get("apiGroup").is_none(), "{}", stored.data);
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.11");
    scene.counts(IP, "p", 11, 2, 9).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b2_an_address_that_two_objects_hold_takes_one_place_and_is_free_when_both_are_gone() -> Result<()> {
    let scene = scene("rule_b2_twice").await?;
    // Somebody else's doing.
    scene.create(address("one", "p", "10.0.0.10")).await?;
    scene.create(address("other", "p", "10.0.0.10")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.12"])).await?;
    scene.counts(IP, "p", 3, 2, 2).await?;
    scene.delete(&scene.addresses(), "one").await?;
    scene.counts(IP, "p", 3, 1, 2).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.11");
    scene.delete(&scene.addresses(), "other").await?;
    scene.create(claim("b").in_pool("p")).await?;
    assert_eq!(scene.allocated("b").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_b3_an_address_of_the_claims_name_is_adopted_as_it_is() -> Result<()> {
    let scene = scene("rule_b3_adopt").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).gateway("10.0.0.1")).await?;
    // Its prefix is not the pool's, and it has no gateway: its spec stays so.
    scene.create(address("a", "p", "10.0.0.15").field("prefix", 28.into())).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.15");
    let adopted = scene
        .becomes(&scene.addresses(), "a", "is adopted", |address| {
            address.finalizers().contains(&ADDRESS_FINALIZER.to_owned()) && address.owner_references().len() == 2
        })
        .await?;
    assert_eq!(adopted.data["spec"]["prefix"], 28);
    assert!(adopted.data["spec"].get("gateway").is_none(), "{}", adopted.data);
    scene.finish().await
}

#[tokio::test]
async fn rule_b3_an_address_of_another_pool_or_claim_is_left_alone_and_the_claim_fails() -> Result<()> {
    let scene = scene("rule_b3_not_ours").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(address("a", "elsewhere", "10.0.0.15")).await?;
    scene.create(address("b", "p", "10.0.0.16").of_claim("somebody")).await?;
    let other = json!({ "apiGroup": "ipam.example.org", "kind": IP.name(), "name": "p" });
    scene.create(address("c", "p", "10.0.0.10").field("poolRef", other)).await?;
    for name in ["a", "b", "c"] {
        let before = scene.addresses().get(name).await?;
        scene.create(claim(name).in_pool("p")).await?;
        scene.waits_for(name, "AllocationFailed").await?;
        scene.settled("p").await?;
        assert_eq!(
            scene.addresses().get(name).await?.resource_version(),
            before.resource_version(),
            "{name} was changed"
        );
    }
    // C11: when they go, the claims are served.
    for name in ["a", "b", "c"] {
        scene.delete(&scene.addresses(), name).await?;
    }
    scene.all_allocated(3, PATIENCE).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b3_a_terminating_address_that_is_not_ours_is_waited_for() -> Result<()> {
    let scene = scene("rule_b3_terminating").await?;
    scene.create(address("a", "p", "10.0.0.15").finalizer("example.org/keep")).await?;
    scene.delete(&scene.addresses(), "a").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.waits_for("a", "AllocationFailed").await?;
    scene.settled("p").await?;
    assert_eq!(scene.addresses().get("a").await?.finalizers(), ["example.org/keep"]);
    // C11: its end is a reason to look again.
    scene.patch(&scene.addresses(), "a", json!({ "metadata": { "finalizers": null } })).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_b4_an_address_that_does_not_parse_does_not_block_its_pool() -> Result<()> {
    let scene = scene("rule_b4_unparsable").await?;
    scene.create(address("broken", "p", "not-an-address")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.finish().await
}

#[tokio::test]
async fn rule_b5_waiting_claims_are_served_by_age_and_then_by_name() -> Result<()> {
    let scene = scene("rule_b5_order").await?;
    scene.create(claim("z").in_pool("p")).await?;
    scene.next_second().await?;
    // Two of one second, made in the wrong order; if the second changes in between, age says the same as the name.
    scene.create(claim("a").in_pool("p")).await?;
    scene.create(claim("b").in_pool("p")).await?;
    for name in ["z", "a", "b"] {
        scene.waits_for(name, "PoolNotReady").await?;
    }
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    for (name, expected) in [("z", "10.0.0.10"), ("a", "10.0.0.11"), ("b", "10.0.0.12")] {
        assert_eq!(scene.allocated(name).await?, expected, "{name}");
    }
    scene.finish().await
}

#[tokio::test]
async fn rule_b6_pools_of_one_name_are_independent() -> Result<()> {
    let stage = Stage::shared().await?;
    let (one, other) = (stage.scene("rule_b6_one").await?, stage.scene("rule_b6_other").await?);
    // The name of the global pool is that of the namespaced ones.
    let name = one.global_name("p");
    one.create(global_pool(&name).addresses(["10.0.0.10-10.0.0.20"])).await?;
    for scene in [&one, &other] {
        scene.create(pool(&name).addresses(["10.0.0.10-10.0.0.20"])).await?;
        scene.create(claim("a").in_pool(&name)).await?;
        assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    }
    one.create(claim("g").in_global_pool(&name)).await?;
    assert_eq!(one.allocated("g").await?, "10.0.0.10");
    one.release("g").await?;
    other.finish().await?;
    one.finish().await
}

#[tokio::test]
async fn a_gateway_is_written_once_and_a_prefix_of_zero_is_one() -> Result<()> {
    let scene = scene("gateway").await?;
    let pools = scene.pools(IP);
    scene.create(pool("p").addresses(["10.0.0.1-10.0.0.20"]).prefix(0).gateway("10.0.0.1")).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.2");
    scene.patch(&pools, "p", json!({ "spec": { "gateway": "10.0.0.3" } })).await?;
    scene.create(claim("b").in_pool("p")).await?;
    // The old gateway is an address like others now, and the new one is not.
    assert_eq!(scene.allocated("b").await?, "10.0.0.1");
    scene.patch(&pools, "p", json!({ "spec": { "gateway": null } })).await?;
    scene.create(claim("c").in_pool("p")).await?;
    assert_eq!(scene.allocated("c").await?, "10.0.0.3");
    let mut written = Vec::new();
    for name in ["a", "b", "c"] {
        let spec = scene.addresses().get(name).await?.data["spec"].clone();
        assert_eq!(spec["prefix"], 0, "{name}");
        written.push(spec["gateway"].as_str().map(str::to_owned));
    }
    assert_eq!(written, [Some("10.0.0.1".to_owned()), Some("10.0.0.3".to_owned()), None]);
    scene.finish().await
}

#[tokio::test]
async fn an_exhausted_pool_serves_exactly_as_many_claims_as_it_holds() -> Result<()> {
    let scene = scene("exhausted").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.14"])).await?;
    scene.create_all((0..12).map(|number| claim(&format!("c-{number:02}")).in_pool("p"))).await?;
    eventually("5 are served and 7 wait", PATIENCE, || async {
        let claims = scene.claims().list(&kube::api::ListParams::default()).await?;
        let count = |status: &str| claims.items.iter().filter_map(ready).filter(|ready| ready.status == status).count();
        let found = (count("True"), count("False"));
        if found == (5, 7) { Ok(()) } else { Err(NotYet::because(format!("{found:?}"))) }
    })
    .await?;
    let mut held: Vec<String> =
        scene.all_allocated(5, PATIENCE).await?.into_iter().map(|(_, address)| address).collect();
    held.sort();
    assert_eq!(held, ["10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"]);
    scene.finish().await
}
