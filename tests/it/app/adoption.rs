//! Claims that come from elsewhere: moved by clusterctl, restored from a backup, or left by the original (C17, C19).

use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, CLUSTERS, POOLS, PROTECT_ADDRESS, PROTECT_POOL, RELEASE_ADDRESS, address, bound, claim, counts,
    pool, put_claims, ready, refused, stored, unbound, verdict,
};
use super::process::{ADOPTION_GRACE, Process};
use super::{Scene, until};
use crate::apiserver::ApiServer;

const NOTE: &str = "ipam.cluster.x-k8s.io/claim-uid";

/// A claim as it was elsewhere: our finalizer, and the note of the uid that it had there.
fn moved(name: &str) -> Value {
    let mut body = claim(name, "p");
    body["metadata"]["finalizers"] = json!([RELEASE_ADDRESS]);
    body["metadata"]["annotations"] = json!({ NOTE: "the uid that it had elsewhere" });
    body
}

/// And its IPAddress, with references to objects that are not here.
fn moved_address(name: &str, held: &str) -> Value {
    let mut body = address(name, "p", held);
    body["metadata"]["finalizers"] = json!([PROTECT_ADDRESS]);
    body["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddressClaim", "name": name, "uid": "elsewhere-1",
         "controller": true, "blockOwnerDeletion": true},
        {"apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool", "name": "p", "uid": "elsewhere-2",
         "controller": false, "blockOwnerDeletion": true},
    ]);
    body
}

#[tokio::test(start_paused = true)]
async fn c19_a_pool_is_held_until_the_address_of_a_moved_claim_arrives() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let uid = server.put_object(moved("a"))["metadata"]["uid"].clone();
    until("it says what it waits for", || verdict(server, CLAIMS, "a") == refused("AllocationFailed")).await;
    server.put_object(claim("b", "p"));
    until("so does another", || verdict(server, CLAIMS, "b") == refused("AllocationFailed")).await;
    let message = ready(server, CLAIMS, "b")["message"].clone();
    assert!(message.as_str().unwrap_or_default().contains("moved or restored"), "{message}");
    assert_eq!(server.list(ADDRESSES).len(), 0);
    let mut arrives = moved_address("a", "10.0.0.10");
    arrives["metadata"]["ownerReferences"] = json!([]);
    server.put_object(arrives);
    until("both are bound", || bound(server, "a").is_some() && bound(server, "b").is_some()).await;
    assert_eq!((bound(server, "a").as_deref(), bound(server, "b").as_deref()), (Some("10.0.0.10"), Some("10.0.0.11")));
    let owners = stored(server, ADDRESSES, "a")["metadata"]["ownerReferences"].clone();
    assert_eq!(owners[0]["uid"], uid, "{owners}");
    assert_eq!(owners.as_array().map(Vec::len), Some(2), "{owners}");
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c19_a_claim_whose_address_never_comes_is_served_after_the_grace_period_and_known_from_then_on() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let uid = server.put_object(moved("a"))["metadata"]["uid"].clone();
    sleep(ADOPTION_GRACE / 2).await;
    assert_eq!(bound(server, "a"), None);
    until("it is bound", || bound(server, "a").is_some()).await;
    assert_eq!(stored(server, CLAIMS, "a")["metadata"]["annotations"][NOTE], uid);
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c19_waiting_claims_of_ours_do_not_hold_anything_up_after_a_restart() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.10"]));
    put_claims(&server, "a", "p", 3);
    until("the pool is full", || unbound(&server).len() == 2).await;
    until("they say so", || verdict(&server, CLAIMS, "a-0002") == refused("PoolExhausted")).await;
    manager.stop().await;
    server.edit(POOLS, "ns", "p", |pool| pool["spec"]["addresses"] = json!(["10.0.0.10-10.0.0.19"]));
    let start = tokio::time::Instant::now();
    let _successor = Process::start(&server, "m2");
    until("all are bound", || unbound(&server).is_empty()).await;
    assert!(start.elapsed() < ADOPTION_GRACE / 10, "{:?}", start.elapsed());
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c17_a_moved_cluster_keeps_its_addresses_whatever_comes_first() {
    let server = ApiServer::standard();
    // The order of clusterctl: the cluster, paused, then pools, claims, and addresses last.
    let manager = Process::start(&server, "m1");
    manager.until_ready().await;
    server.put_object(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": "c1", "namespace": "ns"}, "spec": {"paused": true},
    }));
    let mut body = pool("p", &["10.0.0.10-10.0.0.19"]);
    body["metadata"]["finalizers"] = json!([PROTECT_POOL]);
    server.put_object(body);
    let names: Vec<String> = (0..5).map(|n| format!("m-{n}")).collect();
    for name in &names {
        let mut body = moved(name);
        body["spec"]["clusterName"] = json!("c1");
        server.put_object(body);
    }
    server.put_object(claim("new", "p"));
    sleep(ADOPTION_GRACE / 4).await;
    assert_eq!(server.list(ADDRESSES).len(), 0, "the pool is held for the claims of a paused cluster, too");
    for (name, last) in names.iter().zip([12, 10, 14, 11, 13]) {
        server.put_object(moved_address(name, &format!("10.0.0.{last}")));
    }
    server.edit(CLUSTERS, "ns", "c1", |cluster| cluster["spec"]["paused"] = json!(false));
    until("all are bound", || unbound(&server).is_empty()).await;
    for (name, last) in names.iter().zip([12, 10, 14, 11, 13]) {
        assert_eq!(bound(&server, name), Some(format!("10.0.0.{last}")), "{name}");
    }
    assert_eq!(bound(&server, "new").as_deref(), Some("10.0.0.15"));
    until("they are counted", || counts(&server, "p") == [10, 4, 6, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn c17_after_a_restore_without_status_references_and_counts_are_built_again() {
    let Scene { server, invariants: _, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    let names = put_claims(&server, "a", "p", 5);
    until("all are bound", || unbound(&server).is_empty()).await;
    let given: Vec<_> = names.iter().map(|name| bound(&server, name)).collect();
    manager.stop().await;
    // Everything comes back with other uids and without a status; the references point to what was before.
    let mut restored = server.list(ADDRESSES);
    restored.extend(server.list(CLAIMS));
    restored.extend(server.list(POOLS));
    let other = ApiServer::standard();
    for object in restored {
        let mut object = Value::clone(&object);
        object["metadata"]["uid"] = Value::Null;
        object["metadata"]["resourceVersion"] = Value::Null;
        object.as_object_mut().expect("an object").remove("status");
        other.put_object(object);
    }
    let _manager = Process::start(&other, "m2");
    until("all are bound again", || unbound(&other).is_empty()).await;
    let again: Vec<_> = names.iter().map(|name| bound(&other, name)).collect();
    assert_eq!(again, given);
    until("they are counted", || counts(&other, "p") == [10, 5, 5, 0]).await;
    let owner = &stored(&other, ADDRESSES, "a-0000")["metadata"]["ownerReferences"][0]["uid"];
    assert_eq!(*owner, stored(&other, CLAIMS, "a-0000")["metadata"]["uid"]);
}
