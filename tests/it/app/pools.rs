//! Pools that a real API server would not store, and prefix pools: the same path, at the same cost.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, POOLS, PREFIX_POOLS, PROTECT_POOL, bound, claim, pool, ready, refused, stored, texts, unbound,
    verdict,
};
use super::{Scene, until};
use crate::apiserver::{ApiServer, Verb};

const GLOBAL_POOLS: &str = "globalinclusterippools";

#[tokio::test(start_paused = true)]
async fn a_pool_that_does_not_decode_is_invalid_and_hurts_no_other() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    let cases = [
        ("text", "addresses", json!("10.0.0.10"), "spec.addresses"),
        ("number", "addresses", json!(["10.0.0.10", 7]), "spec.addresses[1]"),
        ("prefix", "prefix", json!("16"), "spec.prefix"),
        ("negative", "prefix", json!(-1), "spec.prefix"),
        ("absurd", "prefix", json!(4_000_000_000_u32), "spec.prefix"),
        ("gateway", "gateway", json!({}), "spec.gateway"),
        ("flag", "allocateReservedIPAddresses", json!("yes"), "spec.allocateReservedIPAddresses"),
        ("grace", "addressReuseGracePeriodSeconds", json!(-5), "spec.addressReuseGracePeriodSeconds"),
    ];
    let mut broken: Vec<(&str, Value, &str)> = Vec::new();
    for (name, field, value, path) in cases {
        let mut body = pool(name, &["10.0.0.10-10.0.0.19"]);
        body["spec"][field] = value;
        broken.push((name, body, path));
    }
    let mut list = pool("list", &[]);
    list["spec"] = json!([1]);
    broken.push(("list", list, "spec"));
    for (name, body, _) in &broken {
        server.put_object(body.clone());
        server.put_object(claim(name, name));
    }
    server.put_object(pool("good", &["10.0.0.10"]));
    server.put_object(claim("good", "good"));
    until("a good pool beside them serves", || bound(server, "good").is_some()).await;
    for (name, _, path) in broken {
        until("the pool is refused", || verdict(server, POOLS, name) == refused("InvalidSpec")).await;
        let message = ready(server, POOLS, name)["message"].clone();
        assert!(message.as_str().is_some_and(|message| message.contains(path)), "{name}: {message}");
        until("its claim waits", || verdict(server, CLAIMS, name) == refused("PoolNotReady")).await;
        assert_eq!(texts(&stored(server, POOLS, name)["metadata"]["finalizers"]), [PROTECT_POOL], "{name}");
        server.edit(POOLS, "ns", name, |object| object["spec"] = pool(name, &["10.0.0.10-10.0.0.19"])["spec"].clone());
        until("it is mended", || bound(server, name).is_some()).await;
        assert_eq!(verdict(server, POOLS, name).1, "PoolReady", "{name}");
    }
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn b1_prefixes_cost_what_addresses_cost() {
    const COUNT: usize = 500;
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterPrefixPool",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"prefixes": ["fd00::/48"], "allocationPrefixLength": 64},
    }));
    let is_described = || verdict(server, PREFIX_POOLS, "p").0 == "True";
    until("the pool is described", is_described).await;
    server.clear_requests();
    for number in 0..COUNT {
        let mut body = claim(&format!("a-{number:04}"), "p");
        body["spec"]["poolRef"]["kind"] = json!("InClusterPrefixPool");
        server.put_object(body);
    }
    until("all are bound", || unbound(server).is_empty()).await;
    let is_settled = || stored(server, PREFIX_POOLS, "p")["status"]["allocation"]["pending"] == json!([]);
    until("all intents are settled", is_settled).await;
    let requests = server.requests().iter().filter(|request| request.client.ends_with("-request")).count();
    assert!(requests * 10 <= COUNT * 32, "{requests} requests for {COUNT} claims");
    assert_eq!(server.count(Verb::Create, ADDRESSES), COUNT);
    for number in 0..COUNT {
        let expected = std::net::Ipv6Addr::from((0xFD00_u128 << 112) + ((number as u128) << 64)).to_string();
        assert_eq!(bound(server, &format!("a-{number:04}")), Some(expected));
    }
    scene.invariants.assert_kept();
}

/// What condition `Overlapping` of a pool says: its status and its message.
fn overlapping(server: &ApiServer, plural: &str, name: &str) -> Option<(String, String)> {
    let pool = if plural == POOLS { stored(server, plural, name) } else { server.get(plural, "", name)? };
    let conditions = pool["status"]["conditions"].as_array()?.clone();
    let it = conditions.into_iter().find(|condition| condition["type"] == "Overlapping")?;
    let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

#[tokio::test(start_paused = true)]
async fn pools_that_can_hand_out_the_same_addresses_say_so_as_long_as_they_can() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("a", &["10.0.0.10-10.0.0.19"]));
    server.put_object(pool("b", &["10.0.0.20-10.0.0.29"]));
    let mut elsewhere = pool("c", &["10.0.0.10-10.0.0.29"]);
    elsewhere["metadata"]["namespace"] = json!("other");
    server.put_object(elsewhere);
    until("all are ready", || ["a", "b"].iter().all(|name| verdict(server, POOLS, name).1 == "PoolReady")).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(overlapping(server, POOLS, "a"), None, "pools of another namespace are no concern");
    let mut global = pool("g", &["10.0.0.15-10.0.0.24"]);
    global["kind"] = json!("GlobalInClusterIPPool");
    global["metadata"].as_object_mut().expect("an object").remove("namespace");
    server.put_object(global);
    let says = |plural: &str, name: &str, message: &str| {
        overlapping(server, plural, name) == Some(("True".to_owned(), message.to_owned()))
    };
    until("both sides say so", || {
        says(POOLS, "a", "GlobalInClusterIPPool g can hand out 10.0.0.15-10.0.0.19 too")
            && says(POOLS, "b", "GlobalInClusterIPPool g can hand out 10.0.0.20-10.0.0.24 too")
            && overlapping(server, GLOBAL_POOLS, "g").is_some_and(|(status, message)| {
                status == "True" && message.contains("ns/a") && message.contains("ns/b") && message.contains("other/c")
            })
    })
    .await;
    sleep(Duration::from_secs(10)).await;
    let quiet = server.revision();
    sleep(Duration::from_mins(30)).await;
    assert_eq!(server.revision(), quiet, "it is said once");
    server.edit(POOLS, "ns", "a", |object| object["spec"] = pool("a", &["10.0.0.10-10.0.0.14"])["spec"].clone());
    until("the end is told", || overlapping(server, POOLS, "a").is_some_and(|(status, _)| status == "False")).await;
    assert_eq!(verdict(server, POOLS, "a").1, "PoolReady", "an overlap stops nobody");
    scene.invariants.assert_kept();
}
