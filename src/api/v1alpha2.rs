//! The pools as they are stored: v1alpha2 of all four kinds.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{lenient::null_as_default, status::PoolStatus};

/// Prefix length of what a prefix pool hands out where its spec does not say.
pub const DEFAULT_ALLOCATION_PREFIX_LENGTH: i64 = 64;

/// Which addresses a pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["addresses", "prefix"]))]
pub struct AddressPoolSpec {
    /// The addresses to allocate from: single addresses, inclusive ranges such as 10.0.0.10-10.0.0.20, and CIDRs.
    /// Order does not matter and entries may overlap. A CIDR stands for its whole network, host bits or not.
    #[serde(deserialize_with = "null_as_default")]
    pub addresses: Vec<String>,
    /// The prefix length of the network that the addresses are in, as it is given to every IPAddress.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(range(min = 0, max = 128))]
    pub prefix: i64,
    /// The gateway that is given to every new IPAddress. It is never allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Whether the first address of the network, and the last one of an IPv4 network, may be allocated. The network
    /// is inferred from the lowest address and the prefix. Networks of one or two addresses reserve none.
    #[serde(
        rename = "allocateReservedIPAddresses",
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_as_default"
    )]
    pub allocate_reserved_ip_addresses: bool,
    /// Addresses that are never allocated, in the same syntax as addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub excluded_addresses: Vec<String>,
    /// How many seconds a released address is kept from others, counted from the deletion of its claim. The claim and
    /// the IPAddress stay for that long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub address_reuse_grace_period_seconds: Option<i64>,
}

/// Which IPv6 prefixes a pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["prefixes"]))]
pub struct PrefixPoolSpec {
    /// The IPv6 networks to allocate from, as CIDRs without host bits.
    #[serde(deserialize_with = "null_as_default")]
    pub prefixes: Vec<String>,
    /// The length of every prefix that is handed out. It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128), extend("default" = DEFAULT_ALLOCATION_PREFIX_LENGTH))]
    pub allocation_prefix_length: Option<i64>,
    /// Addresses, ranges and CIDRs: no prefix that touches one of them is allocated.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub excluded_prefixes: Vec<String>,
    /// The gateway that is given to every new IPAddress. It reserves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

impl PrefixPoolSpec {
    /// The length of every prefix that is handed out: absent and 0 are 64.
    pub fn allocation_length(&self) -> i64 {
        self.allocation_prefix_length.filter(|length| *length != 0).unwrap_or(DEFAULT_ALLOCATION_PREFIX_LENGTH)
    }
}

/// Which addresses the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "InClusterIPPool",
    plural = "inclusterippools",
    namespaced,
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A pool of IP addresses for the claims of its namespace.",
    derive = "PartialEq"
)]
pub struct InClusterIPPoolSpec(#[serde(deserialize_with = "null_as_default")] pub AddressPoolSpec);

/// Which addresses the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "GlobalInClusterIPPool",
    plural = "globalinclusterippools",
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A cluster-scoped pool of IP addresses for the claims of every namespace.",
    derive = "PartialEq"
)]
pub struct GlobalInClusterIPPoolSpec(#[serde(deserialize_with = "null_as_default")] pub AddressPoolSpec);

/// Which prefixes the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "InClusterPrefixPool",
    plural = "inclusterprefixpools",
    namespaced,
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A pool of IPv6 prefixes for the claims of its namespace.",
    derive = "PartialEq"
)]
pub struct InClusterPrefixPoolSpec(#[serde(deserialize_with = "null_as_default")] pub PrefixPoolSpec);

/// Which prefixes the pool hands out.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[kube(
    group = "ipam.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "GlobalInClusterPrefixPool",
    plural = "globalinclusterprefixpools",
    status = "PoolStatus",
    category = "cluster-api",
    doc = "A cluster-scoped pool of IPv6 prefixes for the claims of every namespace.",
    derive = "PartialEq"
)]
pub struct GlobalInClusterPrefixPoolSpec(#[serde(deserialize_with = "null_as_default")] pub PrefixPoolSpec);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pool_without_spec_or_status_reads() {
        let pool: InClusterIPPool = serde_json::from_value(json!({"metadata": {"name": "p"}})).expect("decodes");
        assert_eq!(pool.spec.0, AddressPoolSpec::default());
        assert!(pool.status.is_none());
    }

    #[test]
    fn an_address_pool_comes_back_as_it_was_read() {
        let spec = json!({
            "addresses": ["10.0.0.0/24"], "prefix": 24, "gateway": "10.0.0.1", "allocateReservedIPAddresses": true,
            "excludedAddresses": ["10.0.0.7"], "addressReuseGracePeriodSeconds": 30,
        });
        let read: GlobalInClusterIPPoolSpec = serde_json::from_value(spec.clone()).expect("decodes");
        assert_eq!(serde_json::to_value(&read).expect("renders"), spec);
    }

    #[test]
    fn what_is_absent_is_not_written_but_for_the_required_fields() {
        let written =
            |spec: Value| serde_json::to_value(serde_json::from_value::<AddressPoolSpec>(spec).expect("decodes"));
        assert_eq!(written(json!({})).expect("renders"), json!({"addresses": [], "prefix": 0}));
        let prefixes: PrefixPoolSpec = serde_json::from_value(json!({})).expect("decodes");
        assert_eq!(serde_json::to_value(&prefixes).expect("renders"), json!({"prefixes": []}));
    }

    #[test]
    fn an_absent_or_zero_allocation_length_is_64() {
        let length = |spec: Value| serde_json::from_value::<PrefixPoolSpec>(spec).expect("decodes").allocation_length();
        assert_eq!(length(json!({})), 64);
        assert_eq!(length(json!({"allocationPrefixLength": null})), 64);
        assert_eq!(length(json!({"allocationPrefixLength": 0})), 64);
        assert_eq!(length(json!({"allocationPrefixLength": 80})), 80);
    }
}
