//! IPAddresses whose claim is gone (C14).

use capi_ipam::controllers::view::Filter;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, CLUSTERS, POOLS, PROTECT_ADDRESS, address, bound, claim, counts, pool, stored, verdict,
};
use super::process::{ORPHAN_GRACE, Process};
use super::{SOON, Scene, until, until_within};
use crate::apiserver::{ApiServer, Fault, FaultKind, Gate, Verb};

/// An IPAddress of ours that outlived its claim.
fn orphan(name: &str, held: &str) -> Value {
    let mut body = address(name, "p", held);
    body["metadata"]["finalizers"] = json!([PROTECT_ADDRESS]);
    body
}

/// How often the server was asked for a claim.
fn looks(server: &ApiServer) -> usize {
    server.requests().iter().filter(|request| request.verb == Verb::Get && request.resource == CLAIMS).count()
}

async fn released(server: &ApiServer, name: &str) {
    until_within(ORPHAN_GRACE + SOON, "it is released", || server.get(ADDRESSES, "ns", name).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn c14_an_orphan_is_released_after_its_grace_period() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(orphan("a", "10.0.0.10"));
    server.put_object(claim("b", "p"));
    until("it counts meanwhile", || counts(server, "p") == [10, 8, 2, 0]).await;
    sleep(ORPHAN_GRACE).await;
    assert!(server.get(ADDRESSES, "ns", "a").is_some());
    released(server, "a").await;
    assert_eq!(looks(server), 3, "when it was found, and before each of two writes");
    until("it is free", || counts(server, "p") == [10, 9, 1, 0]).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c14_an_orphan_whose_claim_cannot_be_looked_at_stays() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    for (code, reason) in [(403, "Forbidden"), (401, "Unauthorized"), (410, "Expired"), (500, "InternalError")] {
        server.fault(Fault::new(FaultKind::Status(code, reason)).verb(Verb::Get).resource(CLAIMS));
        server.put_object(orphan("a", "10.0.0.10"));
        sleep(ORPHAN_GRACE * 3).await;
        assert!(server.get(ADDRESSES, "ns", "a").is_some(), "{code} proves nothing");
        server.lift_all();
    }
    sleep(ORPHAN_GRACE).await;
    released(server, "a").await;
}

#[tokio::test(start_paused = true)]
async fn c14_an_orphan_waits_for_a_replica_that_takes_over_and_for_its_cluster() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": "c1", "namespace": "ns"}, "spec": {"paused": true},
    }));
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let mut body = orphan("a", "10.0.0.10");
    body["metadata"]["labels"] = json!({"cluster.x-k8s.io/cluster-name": "c1"});
    server.put_object(body);
    sleep(ORPHAN_GRACE / 2).await;
    manager.stop().await;
    let _successor = Process::start(&server, "m2");
    sleep(ORPHAN_GRACE * 2).await;
    assert!(server.get(ADDRESSES, "ns", "a").is_some(), "its cluster is paused");
    server.edit(CLUSTERS, "ns", "c1", |cluster| cluster["spec"]["paused"] = json!(false));
    until("it is released", || server.get(ADDRESSES, "ns", "a").is_none()).await;
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c14_orphans_of_namespaces_that_are_not_served_are_left_alone() {
    let server = ApiServer::standard();
    let filter = Filter { namespace: Some("ns".to_owned()), watch_filter: None };
    Process::with_filter(&server, "m1", filter).until_ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(orphan("a", "10.0.0.10"));
    let mut elsewhere = orphan("a", "10.0.0.10");
    elsewhere["metadata"]["namespace"] = json!("other");
    server.put_object(elsewhere);
    sleep(ORPHAN_GRACE * 2).await;
    assert_eq!(server.get(ADDRESSES, "ns", "a"), None);
    assert!(server.get(ADDRESSES, "other", "a").is_some());
    assert_eq!(looks(&server), 3, "all of them about the one that is served");
}

#[tokio::test(start_paused = true)]
async fn c14_an_address_whose_claim_another_installation_serves_is_no_orphan_and_costs_no_look() {
    let server = ApiServer::standard();
    let filter = Filter { namespace: None, watch_filter: Some("ours".to_owned()) };
    Process::with_filter(&server, "m1", filter).until_ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(claim("a", "p"));
    server.put_object(orphan("a", "10.0.0.10"));
    // A claim of another name refers to this one.
    let mut referrer = claim("c", "p");
    referrer["status"] = json!({"addressRef": {"name": "b"}});
    server.put_object(referrer);
    server.put_object(orphan("b", "10.0.0.11"));
    sleep(ORPHAN_GRACE * 2).await;
    assert_eq!((looks(&server), server.list(ADDRESSES).len()), (0, 2));
    // And when they go, whoever served them, nothing is left.
    for name in ["a", "c"] {
        server.edit(CLAIMS, "ns", name, |claim| claim["metadata"]["finalizers"] = json!([]));
        server.delete(CLAIMS, "ns", name);
    }
    for name in ["a", "b"] {
        released(&server, name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c14_a_claim_that_is_created_at_the_last_moment_keeps_the_address() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(orphan("a", "10.0.0.15"));
    sleep(ORPHAN_GRACE.saturating_sub(SOON)).await;
    // The watch does not show it before the time of the orphan is over.
    let gate = Gate::closed();
    server.fault(Fault::new(FaultKind::WatchHold(gate.clone())).resource(CLAIMS));
    server.put_object(claim("a", "p"));
    sleep(ORPHAN_GRACE / 2).await;
    assert!(server.get(ADDRESSES, "ns", "a").is_some_and(|found| found["metadata"]["deletionTimestamp"].is_null()));
    gate.open();
    until("it is adopted", || bound(server, "a").as_deref() == Some("10.0.0.15")).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c14_the_orphans_of_a_pool_that_is_gone_are_released() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(orphan("a", "10.0.0.10"));
    released(server, "a").await;
}

#[tokio::test(start_paused = true)]
async fn c14_the_last_orphan_lets_its_deleted_pool_go() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(orphan("a", "10.0.0.10"));
    until("it counts", || counts(server, "p") == [10, 9, 1, 0]).await;
    server.delete(POOLS, "ns", "p");
    until("the pool waits", || verdict(server, POOLS, "p").1 == "Deleting").await;
    assert_eq!(stored(server, POOLS, "p")["status"]["ipAddresses"]["used"], 1);
    until_within(ORPHAN_GRACE + SOON, "the pool is gone", || server.get(POOLS, "ns", "p").is_none()).await;
}
