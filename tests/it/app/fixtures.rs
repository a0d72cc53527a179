//! Objects as users write them, and looks at what became of them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::apiserver::ApiServer;

pub(super) const GROUP: &str = "ipam.cluster.x-k8s.io";
pub(super) const POOLS: &str = "inclusterippools";
pub(super) const PREFIX_POOLS: &str = "inclusterprefixpools";
pub(super) const CLAIMS: &str = "ipaddressclaims";
pub(super) const ADDRESSES: &str = "ipaddresses";
pub(super) const CLUSTERS: &str = "clusters";

pub(super) const RELEASE_ADDRESS: &str = "ipam.cluster.x-k8s.io/ReleaseAddress";
pub(super) const PROTECT_ADDRESS: &str = "ipam.cluster.x-k8s.io/ProtectAddress";
pub(super) const PROTECT_POOL: &str = "ipam.cluster.x-k8s.io/ProtectPool";

/// A pool of namespace `ns` with these addresses, in a /16 whose gateway is its first address.
pub(super) fn pool(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1alpha2"), "kind": "InClusterIPPool",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"addresses": addresses, "prefix": 16, "gateway": "10.0.0.1"},
    })
}

/// A claim of namespace `ns` on a pool there.
pub(super) fn claim(name: &str, pool: &str) -> Value {
    claim_in("ns", name, pool)
}

pub(super) fn claim_in(namespace: &str, name: &str, pool: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1beta2"), "kind": "IPAddressClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"poolRef": {"apiGroup": GROUP, "kind": "InClusterIPPool", "name": pool}},
    })
}

/// An IPAddress that somebody else made.
pub(super) fn address(name: &str, pool: &str, address: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1beta2"), "kind": "IPAddress",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {
            "address": address, "prefix": 16, "claimRef": {"name": name},
            "poolRef": {"apiGroup": GROUP, "kind": "InClusterIPPool", "name": pool},
        },
    })
}

/// What a claim was given, once its status refers to it.
pub(super) fn bound(server: &ApiServer, name: &str) -> Option<String> {
    bound_in(server, "ns", name)
}

pub(super) fn bound_in(server: &ApiServer, namespace: &str, name: &str) -> Option<String> {
    let claim = server.get(CLAIMS, namespace, name)?;
    let reference = claim["status"]["addressRef"]["name"].as_str()?;
    let address = server.get(ADDRESSES, namespace, reference)?;
    address["spec"]["address"].as_str().map(str::to_owned)
}

/// The condition `Ready` of a claim or pool.
pub(super) fn ready(server: &ApiServer, plural: &str, name: &str) -> Value {
    let object = server.get(plural, "ns", name);
    let conditions = object.as_ref().and_then(|object| object["status"]["conditions"].as_array());
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.cloned().unwrap_or_default()
}

/// Status and reason of that condition.
pub(super) fn verdict(server: &ApiServer, plural: &str, name: &str) -> (String, String) {
    let ready = ready(server, plural, name);
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

pub(super) fn refused(reason: &str) -> (String, String) {
    ("False".to_owned(), reason.to_owned())
}

/// `status.ipAddresses` of a pool: total, free, used, outOfRange.
pub(super) fn counts(server: &ApiServer, name: &str) -> [i64; 4] {
    let pool = server.get(POOLS, "ns", name).unwrap_or_default();
    let counts = &pool["status"]["ipAddresses"];
    ["total", "free", "used", "outOfRange"].map(|field| counts[field].as_i64().unwrap_or(-1))
}

/// The intents of a pool's record.
pub(super) fn pending(server: &ApiServer, name: &str) -> Vec<Value> {
    let pool = server.get(POOLS, "ns", name).unwrap_or_default();
    pool["status"]["allocation"]["pending"].as_array().cloned().unwrap_or_default()
}

/// All claims of `ns` that are neither bound nor explained.
pub(super) fn unbound(server: &ApiServer) -> Vec<String> {
    let names = server.list(CLAIMS);
    let names = names.iter().map(|claim| claim["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    names.filter(|name| bound(server, name).is_none()).collect()
}

/// The strings in an array of an object's metadata or spec.
pub(super) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Puts `count` claims on the pool, called `<prefix>-0000` and so on.
pub(super) fn put_claims(server: &ApiServer, prefix: &str, pool: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|i| format!("{prefix}-{i:04}")).collect();
    for name in &names {
        server.put_object(claim(name, pool));
    }
    names
}

/// The object, which must exist.
pub(super) fn stored(server: &ApiServer, plural: &str, name: &str) -> Arc<Value> {
    server.get(plural, "ns", name).unwrap_or_else(|| panic!("{plural} {name} exists"))
}
