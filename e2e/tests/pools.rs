//! What a pool shows: its counts, its condition, and what becomes of a spec that is wrong.

use anyhow::Result;
use e2e::fixtures::{Pool, address, claim, pool, prefix_pool};
use e2e::kinds::PoolKind;
use e2e::scene::{Counts, Scene, ready, scene};
use kube::ResourceExt as _;
use serde_json::json;

const IP: PoolKind = PoolKind::InCluster;
const PREFIX: PoolKind = PoolKind::Prefix;

#[tokio::test]
async fn status_counts_what_can_be_allocated_is_used_and_is_left() -> Result<()> {
    let scene = scene("counts").await?;
    scene.create(pool("p").addresses(["10.0.0.0/24"]).gateway("10.0.0.1").excluding(["10.0.0.8/29"])).await?;
    // 256, without the first and the last, the gateway and eight excluded ones.
    scene.counts(IP, "p", 245, 0, 245).await?;
    scene.create_all((0..10).map(|number| claim(&format!("c-{number}")).in_pool("p"))).await?;
    scene.counts(IP, "p", 245, 10, 235).await?;
    scene.release("c-3").await?;
    scene.counts(IP, "p", 245, 9, 236).await?;
    scene.pool_is(IP, "p", "True", "PoolReady").await?;
    scene.finish().await
}

#[tokio::test]
async fn reserved_addresses_are_counted_as_the_spec_says() -> Result<()> {
    let scene = scene("reserved").await?;
    let cases: [(&str, Pool, i64); 5] = [
        ("plain", pool("plain").addresses(["10.0.0.0/24"]), 254),
        ("all", pool("all").addresses(["10.0.0.0/24"]).field("allocateReservedIPAddresses", json!(true)), 256),
        // RFC 3021: both ends of a point-to-point link.
        ("link", pool("link").addresses(["10.0.0.0/31"]).prefix(31), 2),
        ("single", pool("single").addresses(["10.0.0.7"]).prefix(32), 1),
        // IPv6 has no broadcast: only the first is reserved.
        ("six", pool("six").addresses(["fd00::/120"]).prefix(120), 255),
    ];
    for (name, pool, total) in cases {
        scene.create(pool).await?;
        scene.counts(IP, name, total, 0, total).await?;
    }
    scene.finish().await
}

#[tokio::test]
async fn counts_beyond_the_largest_number_stay_at_it() -> Result<()> {
    let scene = scene("saturated").await?;
    scene.create(pool("p").addresses(["fd00::/64"]).prefix(64)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "fd00::1");
    scene.counts(IP, "p", i64::MAX, 1, i64::MAX - 1).await?;
    scene.finish().await
}

#[tokio::test]
async fn prefixes_are_counted_by_block() -> Result<()> {
    let scene = scene("prefix_counts").await?;
    // Of the sixteen /64, one exclusion removes the whole block that it touches.
    let excluded = json!(["fd00:0:0:3::1"]);
    scene.create(prefix_pool("p").prefixes(["fd00::/60"], 64).field("excludedPrefixes", excluded)).await?;
    scene.counts(PREFIX, "p", 15, 0, 15).await?;
    scene.create(claim("a").in_pool_of(PREFIX, "p")).await?;
    scene.allocated("a").await?;
    scene.counts(PREFIX, "p", 15, 1, 14).await?;
    scene.finish().await
}

#[tokio::test]
async fn addresses_that_left_the_spec_are_out_of_range_and_free_is_never_negative() -> Result<()> {
    let scene = scene("out_of_range").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.12"])).await?;
    for name in ["a", "b", "c"] {
        scene.create(claim(name).in_pool("p")).await?;
        scene.allocated(name).await?;
    }
    scene.patch(&scene.pools(IP), "p", json!({ "spec": { "addresses": ["10.0.0.12"] } })).await?;
    scene.counts_are(IP, "p", Counts { total: 1, used: 3, free: 0, out_of_range: 2 }).await?;
    scene.create(address("broken", "p", "not-an-address")).await?;
    scene.counts_are(IP, "p", Counts { total: 1, used: 4, free: 0, out_of_range: 3 }).await?;
    // They can go like any other.
    scene.release("a").await?;
    scene.counts_are(IP, "p", Counts { total: 1, used: 3, free: 0, out_of_range: 2 }).await?;
    scene.finish().await
}

#[tokio::test]
async fn status_says_which_spec_it_is_about() -> Result<()> {
    let scene = scene("observed_generation").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.counts(IP, "p", 1, 0, 1).await?;
    scene.patch(&scene.pools(IP), "p", json!({ "spec": { "addresses": ["10.0.0.10-10.0.0.11"] } })).await?;
    scene.counts(IP, "p", 2, 0, 2).await?;
    scene
        .becomes(&scene.pools(IP), "p", "shows the generation of its spec", |pool| {
            pool.data["status"]["observedGeneration"].as_i64() == pool.metadata.generation
        })
        .await?;
    scene.finish().await
}

/// A spec that admission would refuse, and the field that its condition has to name.
fn invalid_specs() -> Vec<(&'static str, Pool, &'static str)> {
    let valid = |name: &str| pool(name).addresses(["10.0.0.10-10.0.0.20"]);
    let prefixes = |name: &str, entry: &str| prefix_pool(name).prefixes([entry], 64);
    vec![
        ("no-addresses", pool("no-addresses").addresses([]), "spec.addresses"),
        ("garbage", pool("garbage").addresses(["10.0.0.10", "10.0.0"]), "spec.addresses"),
        ("backwards", pool("backwards").addresses(["10.0.0.20-10.0.0.10"]), "spec.addresses"),
        ("bad-mask", pool("bad-mask").addresses(["10.0.0.0/33"]), "spec.addresses"),
        ("spaces", pool("spaces").addresses([" 10.0.0.10"]), "spec.addresses"),
        ("families", pool("families").addresses(["10.0.0.10", "fd00::1"]), "spec.addresses"),
        ("excluded", valid("excluded").excluding(["nothing"]), "spec.excludedAddresses"),
        ("excluded-family", valid("excluded-family").excluding(["fd00::1"]), "spec.excludedAddresses"),
        ("gateway", valid("gateway").gateway("10.0.0.256"), "spec.gateway"),
        ("gateway-family", valid("gateway-family").gateway("fd00::1"), "spec.gateway"),
        ("long-prefix", valid("long-prefix").prefix(33), "spec.prefix"),
        ("unaligned", prefixes("unaligned", "fd00::1/64"), "spec.prefixes"),
        ("four", prefixes("four", "10.0.0.0/24"), "spec.prefixes"),
        ("too-long", prefixes("too-long", "fd00::/65"), "spec.prefixes"),
    ]
}

#[tokio::test]
async fn an_invalid_spec_is_reported_with_its_field_and_its_claims_wait() -> Result<()> {
    let scene = scene("invalid").await?;
    for (name, pool, field) in invalid_specs() {
        let kind = pool.kind();
        scene.create(pool).await?;
        let message = scene.pool_is(kind, name, "False", "InvalidSpec").await?;
        assert!(message.contains(field), "{name}: {message}");
        scene.create(claim(name).in_pool_of(kind, name)).await?;
        scene.waits_for(name, "PoolNotReady").await?;
    }
    // All of them at once, and the manager works on.
    scene.create(pool("good").addresses(["10.0.0.10"])).await?;
    scene.settled("good").await?;
    scene.finish().await
}

#[tokio::test]
async fn a_pool_that_became_invalid_releases_and_recovers() -> Result<()> {
    let scene = scene("became_invalid").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.11"])).await?;
    for name in ["a", "b"] {
        scene.create(claim(name).in_pool("p")).await?;
        scene.allocated(name).await?;
    }
    scene.patch(&scene.pools(IP), "p", json!({ "spec": { "addresses": ["10.0.0.10", "oops"] } })).await?;
    scene.pool_is(IP, "p", "False", "InvalidSpec").await?;
    scene.release("a").await?;
    keeps_its_address(&scene, "b", "10.0.0.11").await?;
    scene.create(claim("c").in_pool("p")).await?;
    scene.waits_for("c", "PoolNotReady").await?;
    scene.patch(&scene.pools(IP), "p", json!({ "spec": { "addresses": ["10.0.0.10-10.0.0.11"] } })).await?;
    scene.pool_is(IP, "p", "True", "PoolReady").await?;
    assert_eq!(scene.allocated("c").await?, "10.0.0.10");
    scene.finish().await
}

async fn keeps_its_address(scene: &Scene, claim: &str, expected: &str) -> Result<()> {
    assert_eq!(scene.allocated(claim).await?, expected);
    let held = scene.addresses().get(claim).await?;
    assert_eq!(held.metadata.deletion_timestamp, None);
    Ok(())
}

#[tokio::test]
async fn an_entry_outside_of_the_inferred_subnet_is_served() -> Result<()> {
    let scene = scene("outside_subnet").await?;
    // Only admission refuses it.
    scene.create(pool("p").addresses(["10.0.0.10", "10.0.1.10"])).await?;
    for (name, expected) in [("a", "10.0.0.10"), ("b", "10.0.1.10")] {
        scene.create(claim(name).in_pool("p")).await?;
        assert_eq!(scene.allocated(name).await?, expected);
    }
    scene.finish().await
}

#[tokio::test]
async fn a_full_pool_is_ready() -> Result<()> {
    let scene = scene("full").await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    scene.create(claim("b").in_pool("p")).await?;
    scene.waits_for("b", "PoolExhausted").await?;
    scene.counts(IP, "p", 1, 1, 0).await?;
    let full = scene.pools(IP).get("p").await?;
    assert_eq!(ready(&full).map(|ready| ready.reason), Some("PoolReady".to_owned()), "{}", full.name_any());
    scene.finish().await
}
