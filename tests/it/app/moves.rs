//! Claims that change pools, names that are taken, and claims that others serve.

use capi_ipam::controllers::view::Filter;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, CLUSTERS, POOLS, PROTECT_ADDRESS, RELEASE_ADDRESS, address, bound, bound_in, claim, claim_in,
    counts, pool, ready, refused, stored, texts, verdict,
};
use super::invariants::Invariants;
use super::process::Process;
use super::{SOON, Scene, until};
use crate::apiserver::ApiServer;

#[tokio::test(start_paused = true)]
async fn an_unbound_claim_that_is_moved_to_another_pool_is_served_from_that() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("full", &["10.0.0.10"]));
    server.put_object(pool("free", &["10.0.0.20"]));
    server.put_object(claim("first", "full"));
    until("the pool is full", || bound(server, "first").is_some()).await;
    server.put_object(claim("a", "full"));
    until("the claim waits", || verdict(server, CLAIMS, "a") == refused("PoolExhausted")).await;
    server.edit(CLAIMS, "ns", "a", |claim| claim["spec"]["poolRef"]["name"] = json!("free"));
    until("it is served", || bound(server, "a").as_deref() == Some("10.0.0.20")).await;
    assert_eq!(verdict(server, CLAIMS, "a").0, "True");
    server.delete(CLAIMS, "ns", "first");
    until("the other pool forgot it", || counts(server, "full") == [1, 1, 0, 0]).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn b3_a_bound_claim_that_is_moved_keeps_what_it_has_and_fails_until_it_is_moved_back() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    server.put_object(pool("q", &["10.0.0.20"]));
    server.put_object(claim("a", "p"));
    until("the claim is bound", || bound(server, "a").is_some()).await;
    let before = stored(server, ADDRESSES, "a");
    server.edit(CLAIMS, "ns", "a", |claim| claim["spec"]["poolRef"]["name"] = json!("q"));
    until("it fails", || verdict(server, CLAIMS, "a") == refused("AllocationFailed")).await;
    sleep(SOON).await;
    assert_eq!(stored(server, ADDRESSES, "a"), before, "nothing is changed");
    assert_eq!((counts(server, "p"), counts(server, "q")), ([1, 0, 1, 0], [1, 1, 0, 0]));
    server.edit(CLAIMS, "ns", "a", |claim| claim["spec"]["poolRef"]["name"] = json!("p"));
    until("it is served again", || verdict(server, CLAIMS, "a").0 == "True").await;
    assert_eq!(bound(server, "a").as_deref(), Some("10.0.0.10"));
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn b3_an_address_of_the_name_in_another_pool_is_left_alone_and_waited_for() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let foreign = server.put_object(address("a", "elsewhere", "192.168.0.1"));
    server.put_object(claim("a", "p"));
    until("the claim fails", || verdict(server, CLAIMS, "a") == refused("AllocationFailed")).await;
    let message = ready(server, CLAIMS, "a")["message"].clone();
    assert!(message.as_str().unwrap_or_default().contains("ns/elsewhere"), "{message}");
    sleep(SOON).await;
    assert_eq!(stored(server, ADDRESSES, "a"), foreign);
    assert_eq!(counts(server, "p"), [10, 10, 0, 0]);
    server.delete(ADDRESSES, "ns", "a");
    until("C11: it is served", || bound(server, "a").as_deref() == Some("10.0.0.10")).await;
}

#[tokio::test(start_paused = true)]
async fn b3_an_address_that_was_there_before_its_claim_is_adopted() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let given = server.put_object(address("a", "p", "10.0.0.15"));
    server.put_object(claim("a", "p"));
    until("the claim is bound", || bound(server, "a").is_some()).await;
    let adopted = stored(server, ADDRESSES, "a");
    assert_eq!(adopted["spec"], given["spec"]);
    assert_eq!(texts(&adopted["metadata"]["finalizers"]), [PROTECT_ADDRESS]);
    assert_eq!(adopted["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(2));
    until("B2: it counts", || counts(server, "p") == [10, 9, 1, 0]).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c15_claims_of_another_watch_filter_are_untouched_but_their_addresses_count() {
    let server = ApiServer::standard();
    let invariants = Invariants::of(&server);
    let filter = |value: &str| Filter { namespace: None, watch_filter: Some(value.to_owned()) };
    let ours = Process::with_filter(&server, "m1", filter("ours"));
    ours.until_ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let labelled = |name: &str, value: &str| {
        let mut body = claim(name, "p");
        body["metadata"]["labels"] = json!({"cluster.x-k8s.io/watch-filter": value});
        body
    };
    server.put_object(labelled("a", "ours"));
    let others = [server.put_object(labelled("b", "theirs")), server.put_object(claim("c", "p"))];
    until("ours is bound", || bound(&server, "a").is_some()).await;
    sleep(SOON).await;
    for (name, before) in ["b", "c"].into_iter().zip(others) {
        assert_eq!(stored(&server, CLAIMS, name), before, "untouched");
    }
    let theirs = Process::with_filter(&server, "m2", filter("theirs"));
    theirs.until_ready().await;
    until("theirs is bound", || bound(&server, "b").is_some()).await;
    server.put_object(labelled("d", "ours"));
    until("ours is bound", || bound(&server, "d").is_some()).await;
    assert_eq!(bound(&server, "d").as_deref(), Some("10.0.0.12"), "theirs counts");
    server.edit(CLAIMS, "ns", "c", |claim| {
        claim["metadata"]["labels"] = json!({"cluster.x-k8s.io/watch-filter": "ours"});
    });
    until("a claim that becomes ours is bound", || bound(&server, "c").is_some()).await;
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c16_claims_of_another_namespace_are_untouched() {
    let server = ApiServer::standard();
    let filter = Filter { namespace: Some("ns".to_owned()), watch_filter: None };
    Process::with_filter(&server, "m1", filter).until_ready().await;
    server.put_object(json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "GlobalInClusterIPPool",
        "metadata": {"name": "g"}, "spec": {"addresses": ["10.0.0.10-10.0.0.19"], "prefix": 16},
    }));
    let mut taken = address("x", "g", "10.0.0.10");
    taken["metadata"]["namespace"] = json!("other");
    taken["spec"]["poolRef"]["kind"] = json!("GlobalInClusterIPPool");
    server.put_object(taken);
    let global = |namespace: &str, name: &str| {
        let mut body = claim_in(namespace, name, "g");
        body["spec"]["poolRef"]["kind"] = json!("GlobalInClusterIPPool");
        server.put_object(body)
    };
    let other = global("other", "b");
    global("ns", "a");
    until("ours is bound", || bound(&server, "a").as_deref() == Some("10.0.0.11")).await;
    sleep(SOON).await;
    assert_eq!(server.get(CLAIMS, "other", "b"), Some(other));
    assert_eq!(bound_in(&server, "other", "b"), None);
}

#[tokio::test(start_paused = true)]
async fn c1_claims_on_other_kinds_are_never_touched() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    let strange = |name: &str, field: &str, value: Value| {
        let mut body = claim(name, "p");
        body["spec"]["poolRef"][field] = value;
        (name.to_owned(), server.put_object(body))
    };
    let strangers = [
        strange("a", "apiGroup", json!("ipam.metal3.io")),
        strange("b", "kind", json!("IPPool")),
        strange("c", "kind", json!("inclusterippool")),
    ];
    sleep(SOON).await;
    for (name, before) in strangers {
        assert_eq!(stored(server, CLAIMS, &name), before);
    }
    assert_eq!(server.list(ADDRESSES).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn c8_what_is_paused_waits_and_goes_on_at_once() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": "c1", "namespace": "ns"}, "spec": {"paused": true},
    }));
    let mut of_paused_cluster = claim("a", "p");
    of_paused_cluster["spec"]["clusterName"] = json!("c1");
    let before = server.put_object(of_paused_cluster);
    sleep(SOON).await;
    assert_eq!(stored(server, CLAIMS, "a"), before);
    server.edit(CLUSTERS, "ns", "c1", |cluster| cluster["spec"]["paused"] = json!(false));
    until("its claim is served", || bound(server, "a").is_some()).await;

    let pause = |pool: &mut Value| pool["metadata"]["annotations"] = json!({"cluster.x-k8s.io/paused": ""});
    server.edit(POOLS, "ns", "p", pause);
    server.put_object(claim("b", "p"));
    until("the claim says so", || verdict(server, CLAIMS, "b") == refused("PoolNotReady")).await;
    server.delete(CLAIMS, "ns", "a");
    sleep(SOON).await;
    assert!(bound(server, "a").is_some() && bound(server, "b").is_none());
    server.edit(POOLS, "ns", "p", |pool| pool["metadata"]["annotations"] = json!({}));
    until("one is served", || bound(server, "b").is_some()).await;
    until("one is released", || server.get(CLAIMS, "ns", "a").is_none()).await;
    assert_eq!(texts(&stored(server, CLAIMS, "b")["metadata"]["finalizers"]), [RELEASE_ADDRESS]);
    scene.invariants.assert_kept();
}
