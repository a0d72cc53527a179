//! The in-memory API server keeps the rules of the real one, as a real client sees them.

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::core::Status;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Resource};

mod deletes;
mod faults;
mod reads;
mod seen;
mod watches;
mod writes;

fn api_resource(plural: &str, version: &str) -> (ApiResource, bool) {
    let resource = Resource::standard().into_iter().find(|resource| resource.plural == plural).expect("a known kind");
    let kind = GroupVersionKind::gvk(resource.group, version, resource.kind);
    (ApiResource::from_gvk_with_plural(&kind, plural), resource.namespaced)
}

/// The objects of namespace `ns` (or of no namespace, if the kind has none).
fn objects(client: kube::Client, plural: &str, version: &str) -> Api<DynamicObject> {
    match api_resource(plural, version) {
        (kind, true) => Api::namespaced_with(client, "ns", &kind),
        (kind, false) => Api::all_with(client, &kind),
    }
}

fn pools(server: &ApiServer) -> Api<DynamicObject> {
    objects(server.client("ns"), "inclusterippools", "v1alpha2")
}

fn leases(server: &ApiServer) -> Api<DynamicObject> {
    objects(server.client("ns"), "leases", "v1")
}

/// A pool of namespace `ns`, as a client writes it.
fn pool(name: &str) -> Value {
    json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"addresses": ["10.0.0.0/24"], "prefix": 24},
    })
}

fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"holderIdentity": "me"},
    })
}

/// As an object that a client can send.
fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).expect("the fixture is an object")
}

/// As plain JSON, to look into.
fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}

async fn create(api: &Api<DynamicObject>, body: Value) -> Value {
    value(&api.create(&PostParams::default(), &object(body)).await.expect("the server creates it"))
}

async fn put(api: &Api<DynamicObject>, body: &Value) -> kube::Result<Value> {
    let name = body["metadata"]["name"].as_str().expect("the fixture has a name").to_owned();
    api.replace(&name, &PostParams::default(), &object(body.clone())).await.map(|object| value(&object))
}

async fn merge(api: &Api<DynamicObject>, name: &str, patch: Value) -> kube::Result<Value> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|object| value(&object))
}

async fn read(api: &Api<DynamicObject>, name: &str) -> Value {
    value(&api.get(name).await.expect("the object exists"))
}

/// The refusal of the server, which must have been one.
fn refusal<T>(result: kube::Result<T>) -> Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        Err(other) => panic!("not a refusal of the server: {other}"),
        Ok(_) => panic!("the server accepted it"),
    }
}

/// Code and reason of the refusal.
fn refused<T>(result: kube::Result<T>) -> (u16, String) {
    let status = refusal(result);
    (status.code, status.reason)
}

fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("stored objects have one").parse().expect("it is a number")
}
