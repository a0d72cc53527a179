//! Create, PUT and the patches.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::{
    create, lease, leases, merge, object, objects, pool, pools, put, read, refusal, refused, value, version_of,
};
use crate::apiserver::ApiServer;

#[tokio::test]
async fn create_fills_in_what_the_server_owns() {
    let server = ApiServer::standard();
    let mut body = pool("p");
    body["status"] = json!({"conditions": []});
    body["metadata"]["uid"] = json!("mine");
    let created = create(&pools(&server), body).await;
    let metadata = &created["metadata"];
    assert_eq!((&metadata["generation"], &metadata["creationTimestamp"]), (&json!(1), &json!("2026-01-01T00:00:00Z")));
    assert_ne!(metadata["uid"], "mine");
    assert!(metadata["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(version_of(&created) > 0);
    assert_eq!(created["status"], json!(null), "the status subresource is not written by a create");
    assert_eq!(read(&pools(&server), "p").await, created);
}

#[tokio::test]
async fn create_refuses_what_exists_or_has_no_name_or_claims_a_version() {
    let api = pools(&ApiServer::standard());
    create(&api, pool("p")).await;
    let post = PostParams::default();
    assert_eq!(refused(api.create(&post, &object(pool("p"))).await), (409, "AlreadyExists".into()));
    assert_eq!(refused(api.create(&post, &object(pool(""))).await), (422, "Invalid".into()));
    assert_eq!(refused(api.create(&post, &object(pool("Upper"))).await), (422, "Invalid".into()));
    let mut versioned = pool("q");
    versioned["metadata"]["resourceVersion"] = json!("7");
    assert_eq!(refused(api.create(&post, &object(versioned)).await).0, 500);
    let mut elsewhere = pool("q");
    elsewhere["metadata"]["namespace"] = json!("other");
    assert_eq!(refused(api.create(&post, &object(elsewhere)).await), (400, "BadRequest".into()));
    let mut wrong_kind = pool("q");
    wrong_kind["kind"] = json!("IPAddress");
    assert_eq!(refused(api.create(&post, &object(wrong_kind)).await), (400, "BadRequest".into()));
}

#[tokio::test]
async fn generated_names_begin_as_asked_and_differ() {
    let api = pools(&ApiServer::standard());
    let mut body = pool("");
    body["metadata"] = json!({"generateName": "p-"});
    let first = create(&api, body.clone()).await;
    let second = create(&api, body).await;
    let names = [&first, &second].map(|pool| pool["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    assert!(names.iter().all(|name| name.starts_with("p-") && name.len() == 7), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn all_resources_share_one_counter() {
    let server = ApiServer::standard();
    let first = create(&pools(&server), pool("p")).await;
    let second = create(&leases(&server), lease("l")).await;
    assert_eq!(version_of(&second), version_of(&first) + 1);
    assert_eq!(server.revision(), version_of(&second));
}

#[tokio::test]
async fn put_is_compare_and_swap() {
    let api = pools(&ApiServer::standard());
    let old = create(&api, pool("p")).await;
    let mut new = old.clone();
    new["spec"]["prefix"] = json!(25);
    let stored = put(&api, &new).await.expect("the version is current");
    assert!(version_of(&stored) > version_of(&old));
    assert_eq!(refused(put(&api, &new).await), (409, "Conflict".into()), "the version is stale now");
    new["metadata"]["resourceVersion"] = json!("");
    assert_eq!(refused(put(&api, &new).await), (422, "Invalid".into()), "custom resources need a version");
}

#[tokio::test]
async fn a_foreign_uid_is_a_conflict_for_put_and_invalid_for_patch() {
    let api = pools(&ApiServer::standard());
    let mut body = create(&api, pool("p")).await;
    body["metadata"]["uid"] = json!("another");
    assert_eq!(refused(put(&api, &body).await), (409, "Conflict".into()));
    let patch = json!({"metadata": {"uid": "another", "labels": {"a": "b"}}});
    let status = refusal(merge(&api, "p", patch).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.contains("metadata.uid"), "{}", status.message);
}

#[tokio::test]
async fn generation_counts_changes_of_spec_only() {
    let api = pools(&ApiServer::standard());
    create(&api, pool("p")).await;
    let labelled = merge(&api, "p", json!({"metadata": {"labels": {"a": "b"}, "generation": 9}})).await.expect("valid");
    assert_eq!(labelled["metadata"]["generation"], 1);
    let changed = merge(&api, "p", json!({"spec": {"prefix": 25}})).await.expect("valid");
    assert_eq!(changed["metadata"]["generation"], 2);
    let status = Patch::Merge(json!({"status": {"observedGeneration": 2}}));
    let reported = api.patch_status("p", &PatchParams::default(), &status).await.expect("valid");
    assert_eq!(reported.metadata.generation, Some(2));
}

#[tokio::test]
async fn spec_and_status_are_written_apart() {
    let api = pools(&ApiServer::standard());
    let mut body = create(&api, pool("p")).await;
    body["status"] = json!({"seq": 1});
    body["spec"]["prefix"] = json!(25);
    let both = put(&api, &body).await.expect("valid");
    assert_eq!((&both["spec"]["prefix"], &both["status"]), (&json!(25), &json!(null)));

    let mut body = both;
    body["status"] = json!({"seq": 2});
    body["spec"]["prefix"] = json!(26);
    body["metadata"]["labels"] = json!({"a": "b"});
    let body = object(body);
    let status = value(&api.replace_status("p", &PostParams::default(), &body).await.expect("valid"));
    assert_eq!((&status["spec"]["prefix"], &status["status"]), (&json!(25), &json!({"seq": 2})));
    assert_eq!(status["metadata"]["labels"], json!(null));
    assert_eq!(refused(api.replace_status("p", &PostParams::default(), &body).await), (409, "Conflict".into()));
}

#[tokio::test]
async fn kinds_without_status_have_no_such_path() {
    let server = ApiServer::standard();
    let api = leases(&server);
    create(&api, lease("l")).await;
    let patch = Patch::Merge(json!({"status": {}}));
    assert_eq!(refused(api.patch_status("l", &PatchParams::default(), &patch).await).0, 404);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let created = create(&api, pool("p")).await;
    assert_eq!(put(&api, &created).await.expect("valid"), created);
    let same = json!({"spec": {"prefix": 24}, "metadata": {"finalizers": [], "labels": null}});
    assert_eq!(merge(&api, "p", same).await.expect("valid"), created);
    assert_eq!(server.revision(), version_of(&created));
}

#[tokio::test]
async fn merge_patch_checks_a_version_only_if_it_has_one() {
    let api = pools(&ApiServer::standard());
    let created = create(&api, pool("p")).await;
    let version = &created["metadata"]["resourceVersion"];
    let with_version = json!({"metadata": {"resourceVersion": version, "labels": {"a": "1"}}});
    merge(&api, "p", with_version.clone()).await.expect("the version is current");
    assert_eq!(refused(merge(&api, "p", with_version).await), (409, "Conflict".into()));
    let unlocked = merge(&api, "p", json!({"metadata": {"labels": {"a": null, "b": "2"}}})).await.expect("no version");
    assert_eq!(unlocked["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(refused(merge(&api, "absent", json!({})).await), (404, "NotFound".into()));
}

#[tokio::test]
async fn json_patch_is_all_or_nothing() {
    let api = pools(&ApiServer::standard());
    create(&api, pool("p")).await;
    let patch = |operations| Patch::<()>::Json(serde_json::from_value(operations).expect("the fixture is a patch"));
    let failing = patch(json!([
        {"op": "replace", "path": "/spec/prefix", "value": 25},
        {"op": "test", "path": "/metadata/name", "value": "q"},
    ]));
    assert_eq!(refused(api.patch("p", &PatchParams::default(), &failing).await), (422, "Invalid".into()));
    assert_eq!(read(&api, "p").await["spec"]["prefix"], 24);
    let good = patch(json!([{"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]}]));
    let patched = api.patch("p", &PatchParams::default(), &good).await.expect("valid");
    assert_eq!(patched.metadata.finalizers, Some(vec!["a/b".to_owned()]));
}

#[tokio::test]
async fn server_side_apply_is_refused_clearly() {
    let api = pools(&ApiServer::standard());
    let patch = Patch::Apply(pool("p"));
    let status = refusal(api.patch("p", &PatchParams::apply("me"), &patch).await);
    assert_eq!((status.code, status.reason.as_str()), (415, "UnsupportedMediaType"));
}

#[tokio::test]
async fn a_put_creates_a_lease_that_is_gone_unless_it_names_a_uid() {
    let server = ApiServer::standard();
    let api = leases(&server);
    let lost = create(&api, lease("l")).await;
    server.delete("leases", "ns", "l");
    assert_eq!(refused(put(&api, &lost).await), (409, "Conflict".into()), "its uid is a precondition");
    let mut without_uid = lost.clone();
    without_uid["metadata"]["uid"] = json!("");
    let again = put(&api, &without_uid).await.expect("a lease may be created by a put, whatever its version");
    assert_ne!(again["metadata"]["uid"], lost["metadata"]["uid"]);
    assert_eq!(refused(put(&pools(&server), &pool("p")).await), (404, "NotFound".into()), "other kinds may not");
}

#[tokio::test]
async fn owner_references_are_complete_and_have_one_controller() {
    let api = pools(&ApiServer::standard());
    create(&api, pool("p")).await;
    let owner = |name| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": true});
    let two = json!({"metadata": {"ownerReferences": [owner("a"), owner("b")]}});
    assert_eq!(refused(merge(&api, "p", two).await), (422, "Invalid".into()));
    let nameless = json!({"metadata": {"ownerReferences": [owner("")]}});
    assert_eq!(refused(merge(&api, "p", nameless).await), (422, "Invalid".into()));
    let one = json!({"metadata": {"ownerReferences": [owner("a")]}});
    assert!(merge(&api, "p", one).await.is_ok());
}

#[tokio::test]
async fn all_versions_show_the_same_object() {
    let server = ApiServer::standard();
    let old = objects(server.client("ns"), "inclusterippools", "v1alpha1");
    let created = create(&pools(&server), pool("p")).await;
    let mut seen = read(&old, "p").await;
    assert_eq!(seen["apiVersion"], "ipam.cluster.x-k8s.io/v1alpha1");
    seen["spec"]["prefix"] = json!(25);
    put(&old, &seen).await.expect("valid");
    let now = read(&pools(&server), "p").await;
    assert_eq!(now["apiVersion"], created["apiVersion"]);
    assert_eq!((&now["spec"]["prefix"], &now["metadata"]["generation"]), (&json!(25), &json!(2)));
}

#[tokio::test]
async fn a_dry_run_is_answered_and_not_stored() {
    let server = ApiServer::standard();
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let answer = pools(&server).create(&params, &object(pool("p"))).await.expect("valid");
    assert!(answer.metadata.uid.is_some());
    assert_eq!(server.get("inclusterippools", "ns", "p"), None);
}
