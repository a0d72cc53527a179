//! Kinds that are missing or forbidden: what readiness says, and that it mends itself.

use serde_json::json;

use super::fixtures::{
    ADDRESSES, CLAIMS, CLUSTERS, POOLS, bound, bound_in, claim, pool, put_claims, stored, texts, unbound, verdict,
};
use super::process::Process;
use super::{SOON, Scene, until};
use crate::apiserver::{ApiServer, Fault, FaultKind, Verb};

const ALL_PREFIX_POOLS: [&str; 2] = ["inclusterprefixpools", "globalinclusterprefixpools"];
const BOTH: &[&str] = &["v1beta2", "v1beta1"];

async fn until_readyz_says(manager: &Process, what: &[&str]) {
    let end = tokio::time::Instant::now() + SOON;
    loop {
        let said = manager.readyz().await;
        if what.iter().all(|part| said.contains(part)) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "readyz says {said:?}, which is not about {what:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_kinds_of_cluster_api_it_waits_and_names_them() {
    for plural in [CLAIMS, ADDRESSES] {
        let server = ApiServer::standard();
        server.serve(plural, &[]);
        let manager = Process::start(&server, "m1");
        until_readyz_says(&manager, &[&format!("{plural}.ipam.cluster.x-k8s.io"), "missing"]).await;
        tokio::time::sleep(SOON).await;
        assert!(manager.is_running() && !manager.health.is_ready() && manager.health.is_alive());
        server.serve(plural, BOTH);
        manager.until_ready().await;
        server.put_object(pool("p", &["10.0.0.10"]));
        server.put_object(claim("a", "p"));
        until("a claim is served", || bound(&server, "a").is_some()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_that_go_away_are_waited_for_again() {
    for plural in [CLAIMS, ADDRESSES] {
        let scene = Scene::ready().await;
        let server = &scene.server;
        server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
        server.put_object(claim("a", "p"));
        until("a claim is served", || bound(server, "a").is_some()).await;
        server.serve(plural, &[]);
        until_readyz_says(&scene.manager, &[plural, "missing"]).await;
        server.serve(plural, BOTH);
        scene.manager.until_ready().await;
        server.put_object(claim("b", "p"));
        until("another claim is served", || bound(server, "b").is_some()).await;
        scene.invariants.assert_kept();
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_cluster_api_is_served_in_its_version() {
    let server = ApiServer::standard();
    for plural in [CLAIMS, ADDRESSES, CLUSTERS] {
        server.serve(plural, &["v1beta1"]);
    }
    let scene = Scene::on(server).await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    server.put_object(claim("a", "p"));
    until("a claim is served", || bound(server, "a").is_some()).await;
    let conditions = &stored(server, CLAIMS, "a")["status"]["v1beta2"]["conditions"];
    assert_eq!(conditions[0]["reason"], "AddressAllocated", "C10");
    let owner = &stored(server, ADDRESSES, "a")["metadata"]["ownerReferences"][0];
    assert_eq!(owner["apiVersion"], "ipam.cluster.x-k8s.io/v1beta1", "C5");
}

#[tokio::test(start_paused = true)]
async fn without_prefix_pools_and_clusters_it_is_ready_all_the_same() {
    let server = ApiServer::standard();
    for plural in ALL_PREFIX_POOLS.into_iter().chain([CLUSTERS]) {
        server.serve(plural, &[]);
    }
    let scene = Scene::on(server).await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let mut body = claim("a", "p");
    body["spec"]["clusterName"] = json!("c1");
    server.put_object(body.clone());
    until("a claim of a cluster that cannot exist is served", || bound(server, "a").is_some()).await;

    server.serve(CLUSTERS, BOTH);
    until("the clusters are watched", || server.watches(CLUSTERS) == 1).await;
    body["metadata"]["name"] = json!("b");
    server.put_object(body);
    tokio::time::sleep(SOON).await;
    let waiting = stored(server, CLAIMS, "b");
    assert_eq!(
        (texts(&waiting["metadata"]["finalizers"]).len(), &waiting["status"]),
        (0, &json!(null)),
        "C7: untouched"
    );
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c1", "namespace": "ns"},
    }));
    until("the claim is served with its cluster", || bound(server, "b").is_some()).await;
    assert!(scene.manager.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn prefix_pools_that_are_installed_later_are_served() {
    let server = ApiServer::standard();
    for plural in ALL_PREFIX_POOLS {
        server.serve(plural, &[]);
    }
    let scene = Scene::on(server).await;
    let server = &scene.server;
    server.serve("inclusterprefixpools", &["v1alpha2"]);
    server.put_object(json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterPrefixPool",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"prefixes": ["fd00::/48"], "allocationPrefixLength": 64},
    }));
    let mut body = claim("a", "p");
    body["spec"]["poolRef"]["kind"] = json!("InClusterPrefixPool");
    server.put_object(body);
    until("a claim is served", || bound(server, "a").is_some()).await;
    let address = stored(server, ADDRESSES, "a");
    assert_eq!((&address["spec"]["address"], &address["spec"]["prefix"]), (&json!("fd00::"), &json!(64)));
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_list_is_named_and_waited_for() {
    let server = ApiServer::standard();
    let forbidden = FaultKind::Status(403, "Forbidden");
    let fault = server.fault(Fault::new(forbidden).verb(Verb::List).resource(CLAIMS));
    let manager = Process::start(&server, "m1");
    until_readyz_says(&manager, &["list", "ipaddressclaims", "403"]).await;
    tokio::time::sleep(SOON).await;
    assert!(manager.is_running() && !manager.health.is_ready());
    let attempts = server.count(Verb::List, CLAIMS);
    assert!((50..120).contains(&attempts), "{attempts} attempts in three minutes");
    server.lift(fault);
    manager.until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn f3_addresses_are_listed_after_the_pools_however_long_those_take() {
    let server = ApiServer::standard();
    server.put_object(pool("p", &["10.0.0.10-10.0.0.59"]));
    put_claims(&server, "a", "p", 10);
    let forbidden = FaultKind::Status(500, "InternalError");
    let fault = server.fault(Fault::new(forbidden).verb(Verb::List).resource("globalinclusterippools"));
    let manager = Process::start(&server, "m1");
    until_readyz_says(&manager, &["globalinclusterippools"]).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(server.count(Verb::List, ADDRESSES), 0);
    server.lift(fault);
    manager.until_ready().await;
    until("the claims are served", || unbound(&server).is_empty()).await;
    assert_eq!(server.count(Verb::List, ADDRESSES), 1, "the first view is the LIST that a commit needs");
    assert_eq!(bound_in(&server, "ns", "a-0000").as_deref(), Some("10.0.0.10"));
    assert_eq!(verdict(&server, POOLS, "p").0, "True");
}

/// The RBAC of an older release knows nothing of prefix pools, and the server refuses before it looks whether they exist.
#[tokio::test(start_paused = true)]
async fn prefix_pools_that_may_not_be_seen_keep_nobody_else_waiting() {
    let server = ApiServer::standard();
    let fault =
        |plural: &str| server.fault(Fault::new(FaultKind::Status(403, "Forbidden")).verb(Verb::List).resource(plural));
    let faults = ALL_PREFIX_POOLS.map(fault);
    let of_prefix = |name: &str| {
        let mut body = claim(name, "p");
        body["spec"]["poolRef"]["kind"] = json!("InClusterPrefixPool");
        body
    };
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(claim("a", "p"));
    server.put_object(of_prefix("b"));
    let manager = Process::start(&server, "m1");
    manager.until_ready().await;
    until("a claim is served", || bound(&server, "a").is_some()).await;
    server.put_object(of_prefix("c"));
    tokio::time::sleep(SOON).await;
    let told = |name: &str| stored(&server, CLAIMS, name)["status"]["conditions"][0]["message"].to_string();
    for name in ["b", "c"] {
        assert!(told(name).contains("no right to read pools of this kind"), "{}", told(name));
    }
    // The right is granted; the pool comes after that.
    for fault in faults {
        server.lift(fault);
    }
    until("the claim hears that there is no such pool", || told("b").contains("does not exist")).await;
    server.put_object(json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterPrefixPool",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"prefixes": ["fd00::/48"], "allocationPrefixLength": 64},
    }));
    until("both claims are served", || unbound(&server).is_empty()).await;
    assert!(manager.health.is_ready());
}

/// A cluster that cannot be seen may be paused.
#[tokio::test(start_paused = true)]
async fn clusters_that_may_not_be_seen_keep_everybody_waiting() {
    let server = ApiServer::standard();
    server.fault(Fault::new(FaultKind::Status(403, "Forbidden")).verb(Verb::List).resource(CLUSTERS));
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(claim("a", "p"));
    let manager = Process::start(&server, "m1");
    until_readyz_says(&manager, &["clusters.cluster.x-k8s.io", "403"]).await;
    tokio::time::sleep(SOON).await;
    assert_eq!((manager.health.is_ready(), bound(&server, "a")), (false, None));
}
