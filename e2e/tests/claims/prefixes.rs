//! Prefix pools from end to end, in a namespace and outside of all: blocks instead of addresses.

use anyhow::Result;
use e2e::fixtures::{Address, Pool, address, claim, global_prefix_pool, pool, prefix_pool};
use e2e::kinds::{GROUP, PoolKind};
use e2e::scene::{Counts, Scene, scene};
use kube::ResourceExt as _;
use serde_json::json;

const PREFIX: PoolKind = PoolKind::Prefix;
const GLOBAL: PoolKind = PoolKind::GlobalPrefix;

/// Claims of these names, one after the other; what they got.
async fn served(scene: &Scene, kind: PoolKind, pool: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut held = Vec::new();
    for name in names {
        scene.create(claim(name).in_pool_of(kind, pool)).await?;
        held.push(scene.allocated(name).await?);
    }
    Ok(held)
}

/// From allocation over exhaustion to reuse and the end of the pool.
async fn lives_its_life(scene: &Scene, pool: Pool, name: &str) -> Result<()> {
    let kind = pool.kind();
    // Blocks 0 to 9 of fd00::/60. One address, a range across a border and a network each take the blocks they touch.
    let pool = pool
        .prefixes(["fd00:0:0:8::/63", "fd00::/61", "fd00:0:0:4::/63"], 64)
        .field("excludedPrefixes", json!(["fd00::5", "fd00:0:0:2:ffff::-fd00:0:0:3::1", "fd00:0:0:6::/63"]))
        // Inside of a block, which it does not reserve.
        .gateway("fd00:0:0:1::1");
    scene.create(pool).await?;
    scene.counts(kind, name, 5, 0, 5).await?;
    let expected = ["fd00:0:0:1::", "fd00:0:0:4::", "fd00:0:0:5::", "fd00:0:0:8::", "fd00:0:0:9::"];
    assert_eq!(served(scene, kind, name, &["a", "b", "c", "d", "e"]).await?, expected);
    scene.counts(kind, name, 5, 5, 0).await?;
    scene.pool_is(kind, name, "True", "PoolReady").await?;
    let spec = scene.addresses().get("a").await?.data["spec"].clone();
    assert_eq!(
        spec,
        json!({ "address": "fd00:0:0:1::", "prefix": 64, "gateway": "fd00:0:0:1::1", "claimRef": { "name": "a" },
            "poolRef": { "apiGroup": GROUP, "kind": kind.name(), "name": name } })
    );

    scene.create(claim("f").in_pool_of(kind, name)).await?;
    let message = scene.waits_for("f", "PoolExhausted").await?;
    assert!(message.contains('5') && message.contains("prefixes"), "{message}");
    scene.release("b").await?;
    assert_eq!(scene.allocated("f").await?, "fd00:0:0:4::");
    for name in ["c", "a"] {
        scene.release(name).await?;
    }
    scene.counts(kind, name, 5, 3, 2).await?;
    assert_eq!(served(scene, kind, name, &["g"]).await?, ["fd00:0:0:1::"]);

    scene.delete(&scene.pools(kind), name).await?;
    scene.pool_is(kind, name, "False", "Deleting").await?;
    for name in ["d", "e", "f", "g"] {
        scene.release(name).await?;
    }
    scene.gone(&scene.pools(kind), name).await
}

#[tokio::test]
async fn rule_b1_a_prefix_pool_gives_aligned_blocks_around_its_exclusions_and_gives_them_again() -> Result<()> {
    let scene = scene("rule_b1_prefix_life").await?;
    lives_its_life(&scene, prefix_pool("p"), "p").await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b1_a_global_prefix_pool_does_the_same() -> Result<()> {
    let scene = scene("rule_b1_global_prefix").await?;
    let name = scene.global_name("p");
    lives_its_life(&scene, global_prefix_pool(&name), &name).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b1_blocks_of_any_length_are_given() -> Result<()> {
    let scene = scene("rule_b1_lengths").await?;
    scene.create(prefix_pool("sites").prefixes(["2001:db8::/32"], 48)).await?;
    assert_eq!(served(&scene, PREFIX, "sites", &["s", "t"]).await?, ["2001:db8::", "2001:db8:1::"]);
    // Single addresses: nothing is reserved in a prefix pool.
    scene.create(prefix_pool("hosts").prefixes(["fd00::8/126"], 128)).await?;
    assert_eq!(served(&scene, PREFIX, "hosts", &["h", "i"]).await?, ["fd00::8", "fd00::9"]);
    scene.counts(PREFIX, "hosts", 4, 2, 2).await?;
    // An absent length is 64.
    scene.create(pool_without_length("default")).await?;
    assert_eq!(served(&scene, PREFIX, "default", &["x"]).await?, ["fd00::"]);
    assert_eq!(scene.addresses().get("x").await?.data["spec"]["prefix"], 64);
    scene.finish().await
}

fn pool_without_length(name: &str) -> Pool {
    prefix_pool(name).field("prefixes", json!(["fd00::/63"]))
}

/// A prefix that somebody else wrote.
fn prefix(name: &str, base: &str, length: i64) -> Address {
    address(name, "p", base)
        .field("poolRef", json!({ "apiGroup": GROUP, "kind": PREFIX.name(), "name": "p" }))
        .field("prefix", json!(length))
}

#[tokio::test]
async fn rule_b2_a_prefix_of_another_length_blocks_every_block_that_it_touches() -> Result<()> {
    let scene = scene("rule_b2_lengths").await?;
    // Blocks 0 to 3, a part of 5, and 7 by a base that is not aligned.
    scene.create(prefix("wide", "fd00::", 62)).await?;
    scene.create(prefix("narrow", "fd00:0:0:5::1", 128)).await?;
    scene.create(prefix("crooked", "fd00:0:0:7::9", 64)).await?;
    scene.create(prefix_pool("p").prefixes(["fd00::/60"], 64)).await?;
    let expected = ["fd00:0:0:4::", "fd00:0:0:6::", "fd00:0:0:8::"];
    assert_eq!(served(&scene, PREFIX, "p", &["a", "b", "c"]).await?, expected);
    // None of theirs could have been allocated; what they block is not free.
    scene.counts_are(PREFIX, "p", Counts { total: 16, used: 6, free: 7, out_of_range: 3 }).await?;
    scene.delete(&scene.addresses(), "wide").await?;
    scene.counts_are(PREFIX, "p", Counts { total: 16, used: 5, free: 11, out_of_range: 2 }).await?;
    assert_eq!(served(&scene, PREFIX, "p", &["d"]).await?, ["fd00::"]);
    scene.finish().await
}

#[tokio::test]
async fn rule_b3_a_prefix_is_adopted_as_it_is() -> Result<()> {
    let scene = scene("rule_b3_prefix").await?;
    scene.create(prefix("a", "fd00:0:0:9::", 64)).await?;
    scene.create(prefix_pool("p").prefixes(["fd00::/60"], 64)).await?;
    assert_eq!(served(&scene, PREFIX, "p", &["a", "b"]).await?, ["fd00:0:0:9::", "fd00::"]);
    scene
        .becomes(&scene.addresses(), "a", "has its owners", |address| {
            address.owner_references().iter().map(|owner| owner.kind.as_str()).eq(["IPAddressClaim", PREFIX.name()])
        })
        .await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_b6_four_pools_of_one_name_are_independent() -> Result<()> {
    let scene = scene("rule_b6_kinds").await?;
    let name = scene.global_name("p");
    scene.create(pool(&name).addresses(["fd00::10-fd00::20"]).prefix(64)).await?;
    scene.create(e2e::fixtures::global_pool(&name).addresses(["fd00::10-fd00::20"]).prefix(64)).await?;
    scene.create(prefix_pool(&name).prefixes(["fd00::/60"], 64)).await?;
    scene.create(global_prefix_pool(&name).prefixes(["fd00::/60"], 64)).await?;
    for (kind, claim, expected) in [
        (PoolKind::InCluster, "a", "fd00::10"),
        (PoolKind::GlobalInCluster, "b", "fd00::10"),
        (PREFIX, "c", "fd00::"),
        (GLOBAL, "d", "fd00::"),
    ] {
        assert_eq!(served(&scene, kind, &name, &[claim]).await?, [expected], "{}", kind.name());
    }
    for claim in ["b", "d"] {
        scene.release(claim).await?;
    }
    scene.finish().await
}
