//! What tests see of the server, and what they do to it directly.

use std::sync::mpsc;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{create, merge, objects, pool, pools, read, version_of};
use crate::apiserver::{ApiServer, EventType, Verb};

const POOLS: &str = "inclusterippools";

#[tokio::test]
async fn requests_are_logged_with_client_target_and_code() {
    let server = ApiServer::standard();
    let api = objects(server.client_named("replica-7"), POOLS, "v1alpha2");
    create(&api, pool("p")).await;
    let status = Patch::Merge(json!({"status": {"seq": 1}}));
    api.patch_status("p", &PatchParams::default(), &status).await.expect("valid");
    assert!(api.get_opt("absent").await.expect("answered").is_none());
    api.list(&ListParams::default()).await.expect("answered");
    let log = server.requests();
    let short: Vec<_> = log
        .iter()
        .map(|request| {
            format!("{} {} {:?}", request.verb, [request.name.as_str(), &request.subresource].join("/"), request.code)
        })
        .collect();
    assert_eq!(short, ["create p/ Some(201)", "patch p/status Some(200)", "get absent/ Some(404)", "list / Some(200)"]);
    assert!(log.iter().all(|request| &*request.client == "replica-7" && request.resource == POOLS));
    assert!(log.iter().all(|request| request.namespace == "ns"));
    assert_eq!((server.count(Verb::Patch, POOLS), server.count(Verb::Delete, POOLS)), (1, 0));
    server.clear_requests();
    assert_eq!((server.requests().len(), server.count(Verb::Patch, POOLS)), (0, 0));
}

#[tokio::test]
async fn observers_see_every_change_before_the_writer_does() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let (sender, seen) = mpsc::channel();
    server.observe(move |change| {
        let before = change.previous.as_ref().map(|object| object["spec"]["prefix"].clone());
        let now = change.object["spec"]["prefix"].clone();
        sender.send((change.event, change.resource.plural, before, now)).expect("the test listens");
    });
    create(&api, pool("p")).await;
    assert_eq!(seen.try_recv(), Ok((EventType::Added, POOLS, None, json!(24))));
    merge(&api, "p", json!({"spec": {"prefix": 25}})).await.expect("valid");
    assert_eq!(seen.try_recv(), Ok((EventType::Modified, POOLS, Some(json!(24)), json!(25))));
    merge(&api, "p", json!({"spec": {"prefix": 25}})).await.expect("valid");
    assert!(seen.try_recv().is_err(), "nothing changed");
    api.delete("p", &DeleteParams::default()).await.expect("it exists");
    assert_eq!(seen.try_recv(), Ok((EventType::Deleted, POOLS, Some(json!(25)), json!(25))));
}

#[tokio::test]
async fn an_object_put_from_outside_is_stored_as_it_is() {
    let server = ApiServer::standard();
    let mut restored = pool("p");
    restored["metadata"]["uid"] = json!("from-the-backup");
    restored["status"] = json!({"seq": 3});
    let first = server.put_object(restored.clone());
    assert_eq!((&first["metadata"]["uid"], &first["status"]), (&json!("from-the-backup"), &json!({"seq": 3})));
    assert_eq!(read(&pools(&server), "p").await, *first);

    let mut older = pool("p");
    older["apiVersion"] = json!("ipam.cluster.x-k8s.io/v1alpha1");
    older["spec"]["prefix"] = json!(25);
    let second = server.put_object(older);
    assert_eq!(second["metadata"]["uid"], "from-the-backup");
    assert_eq!(second["metadata"]["creationTimestamp"], first["metadata"]["creationTimestamp"]);
    assert_eq!((&second["metadata"]["generation"], &second["status"]), (&json!(2), &Value::Null));
    assert_eq!(second["apiVersion"], first["apiVersion"]);
    assert!(version_of(&second) > version_of(&first));
}

#[tokio::test]
async fn an_edit_from_outside_needs_no_version_and_finishes_deletions() {
    let server = ApiServer::standard();
    let mut body = pool("p");
    body["metadata"]["finalizers"] = json!(["a/one"]);
    create(&pools(&server), body).await;
    server.edit(POOLS, "ns", "p", |pool| pool["spec"]["prefix"] = json!(26));
    let edited = server.get(POOLS, "ns", "p").expect("it exists");
    assert_eq!((&edited["spec"]["prefix"], &edited["metadata"]["generation"]), (&json!(26), &json!(2)));
    server.edit(POOLS, "ns", "p", |_| {});
    assert_eq!(server.revision(), version_of(&edited), "nothing changed");

    assert!(server.delete(POOLS, "ns", "p"));
    assert!(server.get(POOLS, "ns", "p").is_some(), "its finalizer keeps it");
    server.edit(POOLS, "ns", "p", |pool| pool["metadata"]["finalizers"] = json!([]));
    assert_eq!(server.get(POOLS, "ns", "p"), None);
    assert!(!server.delete(POOLS, "ns", "p"));
}
