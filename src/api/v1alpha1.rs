//! The IP pools in their deprecated version, which still has subnet, start and end.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{lenient::null_as_default, status::PoolStatus};

/// Which addresses a pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressPoolSpec {
    /// The addresses to allocate from: single addresses, inclusive ranges and CIDRs. Not needed with a subnet, or
    /// with start and end.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub addresses: Vec<String>,
    /// The network to allocate from. Not needed with addresses, or with start, end and prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The first address to allocate; the second one of the subnet where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The last address to allocate; the last but one of the subnet where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The prefix length that is given to every IPAddress; the subnet's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub prefix: Option<i64>,
    /// The gateway that is given to every new IPAddress. It is never allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// Which addresses the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "InClusterIPPool",
    plural = "inclusterippools",
    namespaced,
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A pool of IP addresses for the claims of its namespace.",
    derive = "PartialEq",
    deprecated = "ipam.cluster.x-k8s.io/v1alpha1 InClusterIPPool is deprecated; use ipam.cluster.x-k8s.io/v1alpha2"
)]
pub struct InClusterIPPoolSpec(#[serde(deserialize_with = "null_as_default")] pub AddressPoolSpec);

/// Which addresses the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "GlobalInClusterIPPool",
    plural = "globalinclusterippools",
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A cluster-scoped pool of IP addresses for the claims of every namespace.",
    derive = "PartialEq",
    deprecated = "ipam.cluster.x-k8s.io/v1alpha1 GlobalInClusterIPPool is deprecated; use ipam.cluster.x-k8s.io/v1alpha2"
)]
pub struct GlobalInClusterIPPoolSpec(#[serde(deserialize_with = "null_as_default")] pub AddressPoolSpec);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pool_comes_back_as_it_was_read() {
        for spec in [
            json!({}),
            json!({"subnet": "1.1.1.1/24", "start": "1.1.1.2", "end": "1.1.1.9", "prefix": -1, "gateway": "1.1.1.1",
                   "addresses": ["1.1.1.50"]}),
        ] {
            let read: InClusterIPPoolSpec = serde_json::from_value(spec.clone()).expect("decodes");
            assert_eq!(serde_json::to_value(&read).expect("renders"), spec);
        }
    }

    #[test]
    fn a_pool_without_spec_reads() {
        let pool: GlobalInClusterIPPool = serde_json::from_value(json!({"metadata": {}})).expect("decodes");
        assert_eq!(pool.spec.0, AddressPoolSpec::default());
    }
}
