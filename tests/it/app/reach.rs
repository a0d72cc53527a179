//! An installation whose rights end at its namespace, and rights that come and go (C16).

use std::time::Duration;

use capi_ipam::controllers::view::Filter;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, CLUSTERS, POOLS, address, bound, bound_in, claim, claim_in, pool, refused, stored, texts,
    verdict,
};
use super::invariants::Invariants;
use super::process::Process;
use super::{SOON, until};
use crate::apiserver::{ApiServer, Fault, FaultId, FaultKind, Verb};

const GLOBAL: [&str; 2] = ["globalinclusterippools", "globalinclusterprefixpools"];

/// Lists and watches of these are forbidden without a namespace, also where a watch is open.
fn forbid(server: &ApiServer, plurals: &[&str]) -> Vec<FaultId> {
    let mut faults = Vec::new();
    for plural in plurals {
        for verb in [Verb::List, Verb::Watch] {
            let fault = Fault::new(FaultKind::Status(403, "Forbidden")).verb(verb).resource(plural).cluster_wide();
            faults.push(server.fault(fault));
        }
    }
    faults
}

fn global_pool(addresses: &[&str]) -> Value {
    let mut pool = pool("g", addresses);
    pool["kind"] = json!("GlobalInClusterIPPool");
    pool["metadata"] = json!({ "name": "g" });
    pool
}

fn of_global(mut object: Value) -> Value {
    object["spec"]["poolRef"] =
        json!({ "apiGroup": "ipam.cluster.x-k8s.io", "kind": "GlobalInClusterIPPool", "name": "g" });
    object
}

fn foreign(name: &str, held: &str) -> Value {
    let mut address = of_global(address(name, "g", held));
    address["metadata"]["namespace"] = json!("elsewhere");
    address
}

fn of_one_namespace(server: &ApiServer) -> Process {
    Process::with_filter(server, "m1", Filter { namespace: Some("ns".to_owned()), watch_filter: None })
}

#[tokio::test(start_paused = true)]
async fn rule_c16_with_rights_in_one_namespace_that_one_is_served_and_global_pools_are_refused() {
    let server = ApiServer::standard();
    forbid(&server, &[&GLOBAL[..], &[POOLS, CLAIMS, ADDRESSES, CLUSTERS, "inclusterprefixpools"]].concat());
    let invariants = Invariants::of(&server);
    for namespace in ["ns", "elsewhere"] {
        let mut pool = pool("p", &["10.0.0.10-10.0.0.19"]);
        pool["metadata"]["namespace"] = json!(namespace);
        server.put_object(pool);
        server.put_object(claim_in(namespace, "a", "p"));
    }
    server.put_object(global_pool(&["10.0.1.10-10.0.1.19"]));
    server.put_object(of_global(claim("g1", "g")));
    let manager = of_one_namespace(&server);
    manager.until_ready().await;
    until("a claim of a pool here is served", || bound(&server, "a").is_some()).await;
    until("one of a Global pool is told", || verdict(&server, CLAIMS, "g1") == refused("PoolNotReady")).await;
    sleep(SOON).await;
    assert!(manager.health.is_ready());
    assert_eq!(bound_in(&server, "elsewhere", "a"), None);
    let pool = server.get(GLOBAL[0], "", "g").expect("it exists");
    assert!(texts(&pool["metadata"]["finalizers"]).is_empty() && pool["status"].is_null(), "{pool}");
    let other = server.get(POOLS, "elsewhere", "p").expect("it exists");
    assert!(other["status"].is_null(), "another installation's");
    // One that has nothing can go; of another it is not known whether its pool is paused, or has a grace period.
    server.put_object(of_global(address("g2", "g", "10.0.1.11")));
    server.put_object(of_global(claim("g2", "g")));
    until("its address is adopted", || bound(&server, "g2").is_some()).await;
    server.delete(CLAIMS, "ns", "g1");
    server.delete(CLAIMS, "ns", "g2");
    until("the one is gone", || server.get(CLAIMS, "ns", "g1").is_none()).await;
    sleep(SOON).await;
    assert!(server.get(CLAIMS, "ns", "g2").is_some() && server.get(ADDRESSES, "ns", "g2").is_some());
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn rule_c16_rights_that_come_and_go_are_followed_and_no_address_is_given_twice() {
    let server = ApiServer::standard();
    let reach = forbid(&server, &[ADDRESSES]);
    server.put_object(global_pool(&["10.0.0.10-10.0.0.29"]));
    server.put_object(foreign("x", "10.0.0.10"));
    let manager = of_one_namespace(&server);
    manager.until_ready().await;
    server.put_object(of_global(claim("a", "g")));
    until("it is refused", || verdict(&server, CLAIMS, "a") == refused("PoolNotReady")).await;
    sleep(SOON).await;
    assert!(server.get(GLOBAL[0], "", "g").expect("it exists")["status"].is_null(), "it is others', too");

    for fault in reach {
        server.lift(fault);
    }
    until("it is served", || bound(&server, "a").is_some()).await;
    assert_eq!(bound(&server, "a").as_deref(), Some("10.0.0.11"), "the lowest is in use in another namespace");
    until("it is counted", || {
        server.get(GLOBAL[0], "", "g").is_some_and(|pool| pool["status"]["ipAddresses"]["used"] == 2)
    })
    .await;

    let reach = forbid(&server, &[ADDRESSES]);
    server.fault(Fault::new(FaultKind::WatchEnd).resource(ADDRESSES));
    until("only one namespace is seen", || server.watches(ADDRESSES) == 1).await;
    sleep(Duration::from_secs(5)).await;
    server.put_object(foreign("y", "10.0.0.12"));
    server.put_object(of_global(claim("b", "g")));
    until("another is refused", || verdict(&server, CLAIMS, "b") == refused("PoolNotReady")).await;
    let status = server.get(GLOBAL[0], "", "g").expect("it exists")["status"].clone();
    sleep(SOON).await;
    assert_eq!(server.get(GLOBAL[0], "", "g").expect("it exists")["status"], status, "never written while unseen");
    // What was given can be given back.
    server.delete(CLAIMS, "ns", "a");
    until("it is released", || server.get(CLAIMS, "ns", "a").is_none()).await;
    assert!(server.get(ADDRESSES, "ns", "a").is_none());

    for fault in reach {
        server.lift(fault);
    }
    until("the other is served", || bound(&server, "b").is_some()).await;
    assert_eq!(bound(&server, "b").as_deref(), Some("10.0.0.11"), "10.0.0.12 was taken meanwhile");
}

#[tokio::test(start_paused = true)]
async fn rule_c16_what_cannot_be_seen_of_clusters_counts_as_paused() {
    let server = ApiServer::standard();
    let fault = server.fault(Fault::new(FaultKind::Status(403, "Forbidden")).resource(CLUSTERS));
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let mut of_cluster = claim("a", "p");
    of_cluster["spec"]["clusterName"] = json!("c");
    server.put_object(of_cluster);
    server.put_object(claim("b", "p"));
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c", "namespace": "ns"},
    }));
    let manager = of_one_namespace(&server);
    manager.until_ready().await;
    until("others are served", || bound(&server, "b").is_some()).await;
    sleep(SOON).await;
    assert!(stored(&server, CLAIMS, "a")["status"].is_null(), "nobody knows whether its cluster is paused");
    server.lift(fault);
    until("it is served when that is known", || bound(&server, "a").is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn rights_that_are_revoked_take_a_manager_out_until_they_are_back() {
    for plural in [POOLS, CLAIMS, ADDRESSES] {
        let server = ApiServer::standard();
        let manager = Process::start(&server, "m1");
        manager.until_ready().await;
        server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
        server.put_object(claim("a", "p"));
        until("a claim is served", || bound(&server, "a").is_some()).await;
        let faults = forbid(&server, &[plural]);
        until("it is not ready", || !manager.health.is_ready()).await;
        let said = manager.readyz().await;
        assert!(said.contains("forbidden") && said.contains(plural), "{said}");
        server.put_object(claim("b", "p"));
        sleep(SOON).await;
        assert_eq!(bound(&server, "b"), None, "nothing is given by whoever cannot see {plural}");
        assert!(manager.is_running());
        for fault in faults {
            server.lift(fault);
        }
        manager.until_ready().await;
        until("the other one is served", || bound(&server, "b").is_some()).await;
    }
}
