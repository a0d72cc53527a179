//! What becomes of a claim when nothing goes wrong, and what it costs.

use std::time::Duration;

use serde_json::{Value, json};

use super::fixtures::{
    ADDRESSES, CLAIMS, GROUP, POOLS, PROTECT_ADDRESS, PROTECT_POOL, RELEASE_ADDRESS, bound, claim, counts, pending,
    pool, ready, refused, stored, texts, verdict,
};
use super::{Scene, until};
use crate::apiserver::{ApiServer, Fault, FaultKind, Verb};

/// The requests of the managers that are no watches and no lists of theirs, in alphabetical order.
pub(super) fn writes(server: &ApiServer) -> Vec<String> {
    let requests = server.requests();
    let sent = requests.iter().filter(|request| request.client.ends_with("-request"));
    let mut short: Vec<String> = sent
        .map(|request| {
            let slash = if request.subresource.is_empty() { "" } else { "/" };
            format!("{} {}{slash}{} {}", request.verb, request.resource, request.subresource, request.name)
        })
        .collect();
    short.sort_unstable();
    short
}

#[tokio::test(start_paused = true)]
async fn c4_an_unused_pool_gets_its_finalizer_counts_and_condition_by_two_writes() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.clear_requests();
    server.put_object(pool("p", &["10.0.0.0-10.0.0.10"]));
    until("the pool is described", || verdict(server, POOLS, "p").0 == "True").await;
    let stored = stored(server, POOLS, "p");
    assert_eq!(texts(&stored["metadata"]["finalizers"]), [PROTECT_POOL]);
    assert_eq!(ready(server, POOLS, "p")["reason"], "PoolReady");
    assert_eq!(stored["status"]["observedGeneration"], stored["metadata"]["generation"]);
    assert_eq!(counts(server, "p"), [9, 9, 0, 0], "less the first of the subnet, and the gateway");
    tokio::time::sleep(super::SOON).await;
    assert_eq!(writes(server), ["patch inclusterippools p", "update inclusterippools/status p"]);
}

#[tokio::test(start_paused = true)]
async fn c2_to_c9_a_claim_is_served_by_four_writes_and_settled_by_a_fifth() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c1", "namespace": "ns"},
    }));
    until("the pool is described", || verdict(server, POOLS, "p").0 == "True").await;
    server.clear_requests();
    let mut body = claim("a", "p");
    body["spec"]["clusterName"] = json!("c1");
    let created = server.put_object(body);
    until("the claim is bound", || bound(server, "a").is_some()).await;
    // The list is the first claim's alone: F3, no watermark has been written to this pool yet.
    let mut expected = vec![
        "create ipaddresses a",
        "list ipaddresses ",
        "patch ipaddressclaims a",
        "patch ipaddressclaims/status a",
        "update inclusterippools/status p",
    ];
    assert_eq!(writes(server), expected);

    let uid = &created["metadata"]["uid"];
    let claim = stored(server, CLAIMS, "a");
    assert_eq!(texts(&claim["metadata"]["finalizers"]), [RELEASE_ADDRESS]);
    assert_eq!(&claim["metadata"]["annotations"]["ipam.cluster.x-k8s.io/claim-uid"], uid);
    assert_eq!(claim["status"]["addressRef"], json!({"name": "a"}));
    assert_eq!(verdict(server, CLAIMS, "a"), ("True".to_owned(), "AddressAllocated".to_owned()));

    let address = stored(server, ADDRESSES, "a");
    assert_eq!(texts(&address["metadata"]["finalizers"]), [PROTECT_ADDRESS]);
    assert_eq!(address["metadata"]["labels"], json!({"cluster.x-k8s.io/cluster-name": "c1"}));
    assert_eq!(
        address["spec"],
        json!({
            "address": "10.0.0.10", "prefix": 16, "gateway": "10.0.0.1", "claimRef": {"name": "a"},
            "poolRef": {"apiGroup": GROUP, "kind": "InClusterIPPool", "name": "p"},
        })
    );
    let owner = |version: &str, kind: &str, name: &str, uid: &Value, controller: bool| {
        json!({"apiVersion": format!("{GROUP}/{version}"), "kind": kind, "name": name, "uid": uid,
            "controller": controller, "blockOwnerDeletion": true})
    };
    let pool_uid = &stored(server, POOLS, "p")["metadata"]["uid"];
    let owners = [
        owner("v1beta2", "IPAddressClaim", "a", uid, true),
        owner("v1alpha2", "InClusterIPPool", "p", pool_uid, false),
    ];
    assert_eq!(address["metadata"]["ownerReferences"], json!(owners));

    until("the intent is settled", || pending(server, "p").is_empty()).await;
    assert_eq!(counts(server, "p"), [10, 9, 1, 0]);
    tokio::time::sleep(super::SOON).await;
    expected.push("update inclusterippools/status p");
    assert_eq!(writes(server), expected, "and then there is nothing more to write");
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c12_a_released_address_goes_before_its_claim_and_is_given_again_first() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    for name in ["a", "b"] {
        server.put_object(claim(name, "p"));
        until("it is bound", || bound(server, name).is_some()).await;
    }
    until("the intents are settled", || pending(server, "p").is_empty()).await;
    server.clear_requests();
    server.delete(CLAIMS, "ns", "a");
    until("the claim is gone", || server.get(CLAIMS, "ns", "a").is_none()).await;
    assert_eq!(server.get(ADDRESSES, "ns", "a"), None);
    until("the pool counts it", || counts(server, "p") == [10, 9, 1, 0]).await;
    let expected =
        ["delete ipaddresses a", "patch ipaddressclaims a", "patch ipaddresses a", "update inclusterippools/status p"];
    assert_eq!(writes(server), expected);
    server.put_object(claim("c", "p"));
    until("the next one is bound", || bound(server, "c").is_some()).await;
    assert_eq!(bound(server, "c").as_deref(), Some("10.0.0.10"), "B1");
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c10_a_claim_without_a_pool_says_so_and_is_served_when_the_pool_appears() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(claim("a", "p"));
    until("the claim says why", || verdict(server, CLAIMS, "a") == refused("PoolNotReady")).await;
    assert_eq!(texts(&stored(server, CLAIMS, "a")["metadata"]["finalizers"]), [RELEASE_ADDRESS]);
    assert_eq!(stored(server, CLAIMS, "a")["status"]["addressRef"], Value::Null);
    server.clear_requests();
    tokio::time::sleep(super::SOON).await;
    assert_eq!(writes(server), Vec::<String>::new(), "C11: waiting costs nothing");
    server.put_object(pool("p", &["10.0.0.10"]));
    until("the claim is bound", || bound(server, "a").is_some()).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c4_a_deleted_pool_goes_when_its_last_claim_went() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(claim("a", "p"));
    until("the claim is bound", || bound(server, "a").is_some()).await;
    server.delete(POOLS, "ns", "p");
    until("the pool says what it waits for", || verdict(server, POOLS, "p") == refused("Deleting")).await;
    server.put_object(claim("b", "p"));
    until("no address is given any more", || verdict(server, CLAIMS, "b") == refused("PoolNotReady")).await;
    assert!(server.get(POOLS, "ns", "p").is_some());
    server.delete(CLAIMS, "ns", "a");
    until("the pool is gone", || server.get(POOLS, "ns", "p").is_none()).await;
    assert_eq!(server.get(ADDRESSES, "ns", "a"), None);
    assert_eq!(server.get(CLAIMS, "ns", "a"), None);
}

#[tokio::test(start_paused = true)]
async fn c3_a_stripped_address_is_created_again_as_it_was() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.11"]));
    for name in ["a", "b", "c"] {
        server.put_object(claim(name, "p"));
    }
    until("the pool is full", || verdict(server, CLAIMS, "c") == refused("PoolExhausted")).await;
    until("the others are bound", || bound(server, "a").is_some() && bound(server, "b").is_some()).await;
    server.edit(ADDRESSES, "ns", "a", |address| address["metadata"]["finalizers"] = json!([]));
    server.delete(ADDRESSES, "ns", "a");
    until("it is back", || bound(server, "a").is_some()).await;
    assert_eq!(bound(server, "a").as_deref(), Some("10.0.0.10"));
    assert_eq!(bound(server, "c"), None);
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn f3_pools_that_need_a_list_at_the_same_time_share_it() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.fault(Fault::new(FaultKind::Delay(Duration::from_secs(1))).verb(Verb::List).resource(ADDRESSES));
    server.clear_requests();
    let names: Vec<String> = (0..50).map(|number| format!("p-{number}")).collect();
    for name in &names {
        server.put_object(pool(name, &["10.0.0.10-10.0.0.19"]));
        server.put_object(claim(name, name));
    }
    until("all are bound", || names.iter().all(|name| bound(server, name).is_some())).await;
    let lists = writes(server).iter().filter(|request| *request == "list ipaddresses ").count();
    assert!((1..=3).contains(&lists), "{lists} lists for {} pools", names.len());
}
