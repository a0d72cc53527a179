//! Deletion, finalizers, and garbage collection.

use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};

use super::{create, merge, pool, pools, put, read, refused, value, version_of};
use crate::apiserver::{ApiServer, EventType};

const POOLS: &str = "inclusterippools";

fn finalized(name: &str) -> Value {
    let mut body = pool(name);
    body["metadata"]["finalizers"] = json!(["a/one", "a/two"]);
    body
}

#[tokio::test]
async fn without_finalizers_an_object_is_gone_at_once() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let created = create(&api, pool("p")).await;
    let answer = api.delete("p", &DeleteParams::default()).await.expect("it exists");
    let details = answer.right().expect("a status, as it is gone").details.expect("which names the object");
    assert_eq!(
        (details.uid.as_str(), details.kind.as_str()),
        (created["metadata"]["uid"].as_str().unwrap_or(""), POOLS)
    );
    assert_eq!(refused(api.get("p").await), (404, "NotFound".into()));
    assert_eq!(refused(api.delete("p", &DeleteParams::default()).await), (404, "NotFound".into()));
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_removed() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, finalized("p")).await;
    let answer = api.delete("p", &DeleteParams::default()).await.expect("it exists");
    let pending = value(&answer.left().expect("the object, as it is not gone"));
    let metadata = &pending["metadata"];
    assert_eq!(metadata["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(metadata["deletionGracePeriodSeconds"], 0);
    assert_eq!(metadata["generation"], 2, "being marked for deletion counts");
    api.delete("p", &DeleteParams::default()).await.expect("again is harmless");
    assert_eq!(read(&api, "p").await, pending);

    merge(&api, "p", json!({"metadata": {"finalizers": ["a/two"]}})).await.expect("valid");
    assert!(api.get_opt("p").await.expect("answered").is_some());
    merge(&api, "p", json!({"metadata": {"finalizers": null}})).await.expect("valid");
    assert_eq!(server.get(POOLS, "ns", "p"), None);
}

#[tokio::test]
async fn a_deleting_object_takes_no_new_finalizer_and_stays_deleting() {
    let api = pools(&ApiServer::standard());
    create(&api, finalized("p")).await;
    api.delete("p", &DeleteParams::default()).await.expect("it exists");
    let more = json!({"metadata": {"finalizers": ["a/one", "a/three"]}});
    assert_eq!(refused(merge(&api, "p", more).await), (422, "Invalid".into()));
    let revived = merge(&api, "p", json!({"metadata": {"deletionTimestamp": null, "labels": {"a": "b"}}})).await;
    assert_eq!(revived.expect("ignored")["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_client_cannot_mark_an_object_as_deleting() {
    let api = pools(&ApiServer::standard());
    let mut body = create(&api, pool("p")).await;
    body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(refused(put(&api, &body).await), (422, "Invalid".into()));
}

#[tokio::test]
async fn preconditions_of_a_deletion_are_kept() {
    let api = pools(&ApiServer::standard());
    let created = create(&api, pool("p")).await;
    let with = |uid: Option<&str>, version: Option<String>| {
        let uid = uid.map(str::to_owned);
        DeleteParams::default().preconditions(Preconditions { uid, resource_version: version })
    };
    assert_eq!(refused(api.delete("p", &with(Some("another"), None)).await), (409, "Conflict".into()));
    assert_eq!(refused(api.delete("p", &with(None, Some("1".into()))).await), (409, "Conflict".into()));
    let exact = with(created["metadata"]["uid"].as_str(), Some(version_of(&created).to_string()));
    assert!(api.delete("p", &exact).await.is_ok());
}

#[tokio::test]
async fn a_deletion_has_a_version_of_its_own() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let created = create(&api, pool("p")).await;
    let (sender, deletions) = std::sync::mpsc::channel();
    server.observe(move |change| {
        if change.event == EventType::Deleted {
            sender.send((change.revision, Value::clone(&change.object))).expect("the test listens");
        }
    });
    api.delete("p", &DeleteParams::default()).await.expect("it exists");
    let (revision, last) = deletions.recv().expect("one deletion");
    assert_eq!((revision, version_of(&last)), (version_of(&created) + 1, version_of(&created) + 1));
    assert_eq!(server.revision(), revision);
}

/// A pool that refers to others as its owners; the reference blocks their foreground deletion.
fn owned(name: &str, owners: &[&Value]) -> Value {
    let reference = |owner: &&Value| {
        let metadata = &owner["metadata"];
        json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"],
            "uid": metadata["uid"], "blockOwnerDeletion": true})
    };
    let mut body = pool(name);
    body["metadata"]["ownerReferences"] = owners.iter().map(reference).collect();
    body
}

#[tokio::test]
async fn what_lost_all_owners_is_collected_and_what_lost_some_forgets_them() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let (a, b) = (create(&api, pool("a")).await, create(&api, pool("b")).await);
    create(&api, owned("of-a", &[&a])).await;
    let child = create(&api, owned("of-both", &[&a, &b])).await;
    create(&api, owned("of-child", &[&child])).await;
    assert_eq!(server.collect_garbage(), 0, "all owners exist");

    server.delete(POOLS, "ns", "a");
    create(&api, pool("a")).await;
    assert!(server.get(POOLS, "ns", "of-a").is_some(), "nothing is collected unasked");
    server.collect_garbage();
    assert_eq!(server.get(POOLS, "ns", "of-a"), None, "the new owner of that name has another uid");
    let owners = read(&api, "of-both").await["metadata"]["ownerReferences"].clone();
    assert_eq!(owners.as_array().map(Vec::len), Some(1));
    assert_eq!(owners[0]["name"], "b");

    server.delete(POOLS, "ns", "b");
    server.collect_garbage();
    assert_eq!(server.list(POOLS).len(), 1, "collected down to the grandchildren");
}

#[tokio::test]
async fn an_owner_of_an_unknown_kind_is_not_taken_for_absent() {
    let server = ApiServer::standard();
    let mut stranger = pool("x");
    stranger["kind"] = json!("Stranger");
    stranger["metadata"]["uid"] = json!("u");
    create(&pools(&server), owned("p", &[&stranger])).await;
    assert_eq!(server.collect_garbage(), 0);
    assert!(server.get(POOLS, "ns", "p").is_some());
}

#[tokio::test]
async fn foreground_deletion_waits_for_dependents() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let owner = create(&api, pool("a")).await;
    let mut child = owned("b", &[&owner]);
    child["metadata"]["finalizers"] = json!(["a/one"]);
    create(&api, child).await;
    api.delete("a", &DeleteParams::foreground()).await.expect("it exists");
    server.collect_garbage();
    assert_eq!(read(&api, "a").await["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(!read(&api, "b").await["metadata"]["deletionTimestamp"].is_null());
    merge(&api, "b", json!({"metadata": {"finalizers": null}})).await.expect("valid");
    server.collect_garbage();
    assert!(server.list(POOLS).is_empty());
}

#[tokio::test]
async fn an_orphaning_deletion_leaves_dependents_alone() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let owner = create(&api, pool("a")).await;
    create(&api, owned("b", &[&owner])).await;
    api.delete("a", &DeleteParams::orphan()).await.expect("it exists");
    assert!(server.get(POOLS, "ns", "a").is_some(), "the collector has to cut the references first");
    server.collect_garbage();
    assert_eq!(server.get(POOLS, "ns", "a"), None);
    assert_eq!(read(&api, "b").await["metadata"]["ownerReferences"], json!(null));
}
