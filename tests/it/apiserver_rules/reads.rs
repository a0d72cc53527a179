//! Get, list, discovery, and the clock.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use kube::api::{Api, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};

use super::{api_resource, create, lease, leases, merge, objects, pool, pools, read, refused};
use crate::apiserver::{ApiServer, Fault, FaultKind, Resource};

async fn names(api: &Api<DynamicObject>, params: &ListParams) -> Vec<String> {
    let list = api.list(params).await.expect("the list is answered");
    list.items.into_iter().filter_map(|object| object.metadata.name).collect()
}

async fn server_with(names: &[&str]) -> ApiServer {
    let server = ApiServer::standard();
    for name in names {
        let mut body = pool(name);
        body["metadata"]["labels"] = json!({"name": name, "all": "yes"});
        create(&pools(&server), body).await;
    }
    server
}

#[tokio::test]
async fn lists_are_ordered_and_keep_to_their_namespace() {
    let server = server_with(&["b", "a"]).await;
    // "ns-2" and "ns0" sort around "ns/": a prefix must not take them for it.
    for namespace in ["ns-2", "ns0", "other"] {
        let mut elsewhere = pool("c");
        elsewhere["metadata"]["namespace"] = json!(namespace);
        server.put_object(elsewhere);
    }
    assert_eq!(names(&pools(&server), &ListParams::default()).await, ["a", "b"]);
    let everywhere: Api<DynamicObject> =
        Api::all_with(server.client("ns"), &api_resource("inclusterippools", "v1alpha2").0);
    let list = everywhere.list(&ListParams::default()).await.expect("the list is answered");
    assert_eq!(list.items.len(), 5);
    assert_eq!(list.metadata.resource_version, Some(server.revision().to_string()));
    assert_eq!(list.types.kind, "InClusterIPPoolList");
}

#[tokio::test]
async fn selectors_choose_by_label_and_name() {
    let api = pools(&server_with(&["a", "b", "c"]).await);
    let labels = |selector: &str| ListParams::default().labels(selector);
    assert_eq!(names(&api, &labels("name=a,all=yes")).await, ["a"]);
    assert_eq!(names(&api, &labels("name==a,all=no")).await, [""; 0]);
    assert_eq!(names(&api, &labels("name!=a,all")).await, ["b", "c"]);
    assert_eq!(names(&api, &labels("!name")).await, [""; 0]);
    assert_eq!(names(&api, &ListParams::default().fields("metadata.name=b")).await, ["b"]);
    assert_eq!(refused(api.list(&labels("name in (a, b)")).await), (400, "BadRequest".into()));
    assert_eq!(refused(api.list(&ListParams::default().fields("spec.x=1")).await), (400, "BadRequest".into()));
}

#[tokio::test]
async fn pages_show_one_state_until_that_is_compacted() {
    let server = server_with(&["a", "b", "c", "d"]).await;
    let api = pools(&server);
    let first = api.list(&ListParams::default().limit(2)).await.expect("the list is answered");
    let token = first.metadata.continue_.clone().expect("there is more");
    assert_eq!(first.metadata.remaining_item_count, Some(2));

    server.delete("inclusterippools", "ns", "c");
    create(&api, pool("e")).await;
    create(&api, pool("bb")).await;
    merge(&api, "d", json!({"spec": {"prefix": 30}})).await.expect("valid");
    let rest = api.list(&ListParams::default().limit(9).continue_token(&token)).await.expect("the list is answered");
    let seen: Vec<_> =
        rest.items.iter().map(|pool| (pool.metadata.name.as_deref(), &pool.data["spec"]["prefix"])).collect();
    assert_eq!(seen, [(Some("c"), &json!(24)), (Some("d"), &json!(24))], "as when the list began");
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(rest.metadata.continue_.unwrap_or_default(), "");

    server.compact();
    let again = api.list(&ListParams::default().limit(9).continue_token(&token)).await;
    assert_eq!(refused(again), (410, "Expired".into()));
}

#[tokio::test]
async fn older_states_are_shown_where_the_reader_accepts_them() {
    let server = server_with(&["a"]).await;
    let then = server.revision();
    let api = pools(&server);
    create(&api, pool("b")).await;
    merge(&api, "a", json!({"spec": {"prefix": 30}})).await.expect("valid");
    server.fault(Fault::new(FaultKind::Stale(then)));
    let any = api.list(&ListParams::default().match_any()).await.expect("the list is answered");
    assert_eq!((any.items.len(), any.metadata.resource_version), (1, Some(then.to_string())));
    assert_eq!(any.items[0].data["spec"]["prefix"], 24);
    assert_eq!(names(&api, &ListParams::default()).await, ["a", "b"], "a consistent list is never stale");
    assert_eq!(read(&api, "a").await["spec"]["prefix"], 30, "nor is a consistent get");
    let newer = ListParams::default().at(&(then + 1).to_string());
    assert_eq!(names(&api, &newer).await, ["a", "b"], "it must not be older than asked");
    let old = kube::api::GetParams::any();
    assert_eq!(api.get_with("a", &old).await.expect("it was there").data["spec"]["prefix"], 24);
    assert_eq!(refused(api.get_with("b", &old).await).0, 404, "it was not there yet");
}

#[tokio::test]
async fn a_state_that_lies_ahead_is_refused() {
    let server = server_with(&["a"]).await;
    let ahead = ListParams::default().at("999");
    assert_eq!(refused(pools(&server).list(&ahead).await), (504, "Timeout".into()));
}

#[tokio::test]
async fn metadata_can_be_had_alone() {
    let server = server_with(&["a"]).await;
    let list = pools(&server).list_metadata(&ListParams::default()).await.expect("the list is answered");
    assert_eq!(list.items[0].metadata.name.as_deref(), Some("a"));
    assert_eq!(list.items[0].types.as_ref().map(|types| types.kind.as_str()), Some("PartialObjectMetadata"));
}

#[tokio::test]
async fn discovery_finds_what_is_served_now() {
    let server = ApiServer::standard();
    let client = server.client("ns");
    let groups = client.list_api_groups().await.expect("answered");
    let cluster = groups.groups.iter().find(|group| group.name == "cluster.x-k8s.io").expect("served");
    let preferred = cluster.preferred_version.as_ref().expect("one is");
    assert_eq!(preferred.version, "v1beta2");

    let group = kube::discovery::group(&client, "ipam.cluster.x-k8s.io").await.expect("served");
    let (kind, capabilities) = group.recommended_kind("IPAddressClaim").expect("served");
    assert_eq!((kind.version.as_str(), kind.plural.as_str()), ("v1beta2", "ipaddressclaims"));
    assert!(capabilities.subresources.iter().any(|(sub, _)| sub.plural == "status"));

    server.serve("ipaddressclaims", &["v1beta1"]);
    let claim = |version| GroupVersionKind::gvk("ipam.cluster.x-k8s.io", version, "IPAddressClaim");
    assert!(kube::discovery::pinned_kind(&client, &claim("v1beta1")).await.is_ok());
    assert!(kube::discovery::pinned_kind(&client, &claim("v1beta2")).await.is_err());
    let newer = objects(client.clone(), "ipaddressclaims", "v1beta2");
    assert_eq!(refused(newer.list(&ListParams::default()).await).0, 404);
    server.serve("clusters", &[]);
    assert!(kube::discovery::group(&client, "cluster.x-k8s.io").await.is_err());
    assert_eq!(client.apiserver_version().await.expect("answered").major, "1");
}

#[tokio::test]
async fn core_kinds_live_under_api_v1() {
    let server = ApiServer::standard();
    let namespaces = objects(server.client("ns"), "namespaces", "v1");
    create(&namespaces, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})).await;
    assert_eq!(names(&namespaces, &ListParams::default()).await, ["ns"]);
    let pods = objects(server.client("ns"), "pods", "v1");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let created = create(&pods, pod.clone()).await;
    assert_eq!(created["metadata"]["namespace"], "ns");
    let mut unlocked = pod;
    unlocked["metadata"]["labels"] = json!({"a": "b"});
    assert!(super::put(&pods, &unlocked).await.is_ok(), "pods may be replaced without a version");
    assert_eq!(read(&namespaces, "ns").await["metadata"]["namespace"], json!(null));
}

#[tokio::test]
async fn a_server_of_other_kinds_can_be_built() {
    let thing = Resource { namespaced: false, ..Resource::custom("example.com", &["v1"], "Thing", "things") };
    let server = ApiServer::builder().resource(thing).build();
    let stored = server.put_object(json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}));
    assert_eq!(server.list("things"), [stored]);
    assert_eq!(refused(leases(&server).list(&ListParams::default()).await).0, 404);
}

#[tokio::test(start_paused = true)]
async fn the_clock_goes_with_tokio_and_shows_in_answers() {
    let server = ApiServer::standard();
    server.set_time("2030-05-06T07:08:09.9Z".parse().expect("valid"));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    server.shift_time(SignedDuration::from_hours(-1));
    let created = create(&leases(&server), lease("l")).await;
    assert_eq!(created["metadata"]["creationTimestamp"], "2030-05-06T06:08:10Z");
    assert_eq!(server.now().as_second(), "2030-05-06T06:08:10Z".parse::<jiff::Timestamp>().expect("valid").as_second());

    let request = Request::get("/apis/nowhere/v1/things").body(kube::client::Body::empty()).expect("valid");
    let response = tower::ServiceExt::<_>::oneshot(server.service("raw"), request).await.expect("answered");
    assert_eq!(response.headers()["date"], "Mon, 06 May 2030 06:08:10 GMT");
    let body: Body = response.into_body();
    let text = body.collect().await.expect("a body").to_bytes();
    assert_eq!(&text[..], b"404 page not found", "plain text, as there is no such resource");
    assert!(serde_json::from_slice::<Value>(&text).is_err());
}
