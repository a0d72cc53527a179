//! What a pool shows: its counts, its condition, and what becomes of a spec that is wrong.

use anyhow::Result;
use e2e::fixtures::{Pool, address, claim, pool, pool_of, prefix_pool};
use e2e::kinds::{GROUP, PoolKind};
use e2e::scene::{Counts, Scene, ready, scene};
use http::Request;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

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
async fn free_prefixes_are_those_that_can_be_had_whatever_is_in_the_way() -> Result<()> {
    let scene = scene("prefix_free").await?;
    // Left over from another allocation length: out of range, and in the way of two of four.
    let left = address("left", "p", "fd00::").field("prefix", json!(63)).field(
        "poolRef",
        json!({
            "apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterPrefixPool", "name": "p",
        }),
    );
    scene.create(left).await?;
    scene.create(prefix_pool("p").prefixes(["fd00::/62"], 64)).await?;
    scene.counts_are(PoolKind::Prefix, "p", Counts { total: 4, used: 1, free: 2, out_of_range: 1 }).await?;
    for (name, expected) in [("a", "fd00:0:0:2::"), ("b", "fd00:0:0:3::")] {
        scene.create(claim(name).in_pool_of(PoolKind::Prefix, "p")).await?;
        assert_eq!(scene.allocated(name).await?, expected);
    }
    scene.create(claim("c").in_pool_of(PoolKind::Prefix, "p")).await?;
    scene.waits_for("c", "PoolExhausted").await?;
    scene.counts_are(PoolKind::Prefix, "p", Counts { total: 4, used: 3, free: 0, out_of_range: 1 }).await?;
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
    let excluding = |name: &str, entry: &str| prefixes(name, "fd00::/60").field("excludedPrefixes", json!([entry]));
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
        ("no-prefixes", prefix_pool("no-prefixes").prefixes([], 64), "spec.prefixes"),
        ("no-network", prefixes("no-network", "fd00::"), "spec.prefixes"),
        ("no-spec", pool_of(IP, "no-spec"), "spec.addresses"),
        ("no-prefix-spec", pool_of(PREFIX, "no-prefix-spec"), "spec.prefixes"),
        ("zone", pool("zone").addresses(["fe80::1%eth0"]).prefix(64), "spec.addresses"),
        ("second-entry", pool("second-entry").addresses(["10.0.0.10", "10.0.0.11-"]), "spec.addresses[1]"),
        ("blocks-excluded", excluding("blocks-excluded", "nothing"), "spec.excludedPrefixes[0]"),
        ("blocks-excluded-four", excluding("blocks-excluded-four", "10.0.0.0/24"), "spec.excludedPrefixes[0]"),
        ("blocks-gateway", prefixes("blocks-gateway", "fd00::/60").gateway("nowhere"), "spec.gateway"),
        ("blocks-gateway-four", prefixes("blocks-gateway-four", "fd00::/60").gateway("10.0.0.1"), "spec.gateway"),
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
async fn a_write_through_the_old_version_leaves_status_and_service_as_they_were() -> Result<()> {
    let scene = scene("old_version").await?;
    for (kind, name) in [(IP, "p".to_owned()), (PoolKind::GlobalInCluster, scene.global_name("p"))] {
        scene.create(pool_of(kind, &name).addresses(["10.0.0.10-10.0.0.20"]).prefix(24)).await?;
        let first = format!("{}-first", kind.name().to_lowercase());
        scene.create(claim(&first).in_pool_of(kind, &name)).await?;
        scene.allocated(&first).await?;
        scene.counts(kind, &name, 11, 1, 10).await?;
        let is_settled = |pool: &DynamicObject| pool.data["status"]["allocation"]["pending"] == json!([]);
        let before = scene.becomes(&scene.pools(kind), &name, "has settled", is_settled).await?;
        let old = kind.api_in(scene.client(), scene.namespace(), "v1alpha1");
        let written = scene.patch(&old, &name, json!({ "metadata": { "labels": { "a": "b" } } })).await?;
        assert_eq!(written.data["status"], before.data["status"], "{name} through v1alpha1");
        let after = scene.pools(kind).get(&name).await?;
        assert_eq!(after.data["status"], before.data["status"], "{name}");
        assert_eq!(after.data["spec"], before.data["spec"], "{name}");
        let second = format!("{}-second", kind.name().to_lowercase());
        scene.create(claim(&second).in_pool_of(kind, &name)).await?;
        assert_eq!(scene.allocated(&second).await?, "10.0.0.11");
        scene.release(&first).await?;
        scene.release(&second).await?;
    }
    scene.finish().await
}

#[tokio::test]
async fn a_pool_of_which_everything_is_excluded_is_valid_and_full() -> Result<()> {
    let scene = scene("nothing_left").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).excluding(["10.0.0.0/24"])).await?;
    scene.pool_is(IP, "p", "True", "PoolReady").await?;
    scene.counts(IP, "p", 0, 0, 0).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.waits_for("a", "PoolExhausted").await?;
    scene.patch(&scene.pools(IP), "p", json!({ "spec": { "excludedAddresses": ["10.0.0.10-10.0.0.19"] } })).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.20");
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

/// What `kubectl get` prints of an object: the columns, and its row.
async fn printed(scene: &Scene, version: &str, plural: &str, name: &str) -> Result<(Vec<String>, Vec<String>)> {
    let path = format!("/apis/{GROUP}/{version}/namespaces/{}/{plural}/{name}", scene.namespace());
    let request = Request::get(path).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = serde_json::from_str(&scene.client().request_text(request.body(Vec::new())?).await?)?;
    // Those of a higher priority show with `-o wide` only.
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().into_iter().flatten().filter(|column| column["priority"] == 0).collect();
    let names = columns.iter().map(|column| column["name"].as_str().unwrap_or_default().to_owned()).collect();
    let cells = table["rows"][0]["cells"].as_array().into_iter().flatten();
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    Ok((names, cells.take(columns.len()).map(text).collect()))
}

#[tokio::test]
async fn kubectl_get_shows_what_a_pool_has_and_whether_it_is_ready() -> Result<()> {
    let scene = scene("columns").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.19"])).await?;
    scene.create(prefix_pool("blocks").prefixes(["fd00::/60"], 64)).await?;
    scene.create(pool("broken").addresses([])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.counts(IP, "p", 10, 1, 9).await?;
    scene.counts(PREFIX, "blocks", 16, 0, 16).await?;
    scene.pool_is(IP, "broken", "False", "InvalidSpec").await?;
    let (columns, row) = printed(&scene, "v1alpha2", "inclusterippools", "p").await?;
    assert_eq!(columns, ["Name", "Addresses", "Total", "Free", "Used", "Ready", "Age"]);
    assert_eq!(row[..6], ["p", r#"["10.0.0.10-10.0.0.19"]"#, "10", "9", "1", "True"]);
    let (columns, row) = printed(&scene, "v1alpha2", "inclusterprefixpools", "blocks").await?;
    assert_eq!(columns, ["Name", "Prefixes", "Total", "Free", "Used", "Ready", "Age"]);
    assert_eq!(row[..6], ["blocks", r#"["fd00::/60"]"#, "16", "16", "0", "True"]);
    let (_, row) = printed(&scene, "v1alpha2", "inclusterippools", "broken").await?;
    assert_eq!(row[5], "False");
    let (columns, row) = printed(&scene, "v1alpha1", "inclusterippools", "p").await?;
    assert_eq!(columns[..8], ["Name", "Subnet", "First", "Last", "Addresses", "Total", "Free", "Used"]);
    assert_eq!(row[5..8], ["10", "9", "1"]);
    scene.finish().await
}

/// Status and message of the condition `Overlapping`.
fn overlapping(pool: &DynamicObject) -> Option<(String, String)> {
    let conditions = pool.data["status"]["conditions"].as_array()?;
    let it = conditions.iter().find(|condition| condition["type"] == "Overlapping")?;
    Some((it["status"].as_str()?.to_owned(), it["message"].as_str()?.to_owned()))
}

#[tokio::test]
async fn pools_of_one_namespace_that_overlap_say_so() -> Result<()> {
    let scene = scene("overlapping").await?;
    scene.create(pool("a").addresses(["10.77.0.10-10.77.0.19"])).await?;
    scene.create(pool("b").addresses(["10.77.0.15-10.77.0.29"])).await?;
    for (one, other) in [("a", "b"), ("b", "a")] {
        let wanted = format!("InClusterIPPool {}/{other} can hand out 10.77.0.15-10.77.0.19 too", scene.namespace());
        scene
            .becomes(&scene.pools(IP), one, "it overlaps", |pool| {
                overlapping(pool) == Some(("True".to_owned(), wanted.clone()))
            })
            .await?;
    }
    scene.delete(&scene.pools(IP), "b").await?;
    let is_over = |pool: &DynamicObject| overlapping(pool).is_some_and(|(status, _)| status == "False");
    scene.becomes(&scene.pools(IP), "a", "it does not overlap any more", is_over).await?;
    scene.finish().await
}
