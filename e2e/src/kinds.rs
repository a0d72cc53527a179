//! The kinds that the tests touch, named as a user of the API server names them.
//!
//! On purpose not the product's own types: a field that both sides spell wrong would pass.

use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};

/// The API group of pools, claims and addresses.
pub const GROUP: &str = "ipam.cluster.x-k8s.io";

/// The finalizer on a served claim.
pub const CLAIM_FINALIZER: &str = "ipam.cluster.x-k8s.io/ReleaseAddress";
/// The finalizer on an address of ours.
pub const ADDRESS_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectAddress";
/// The finalizer on a pool.
pub const POOL_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectPool";
/// The annotation that pauses a cluster, a pool or a claim.
pub const PAUSED: &str = "cluster.x-k8s.io/paused";
/// The label that names the cluster of a claim.
pub const CLUSTER_NAME: &str = "cluster.x-k8s.io/cluster-name";

/// The four kinds of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolKind {
    /// `InClusterIPPool`.
    InCluster,
    /// `GlobalInClusterIPPool`.
    GlobalInCluster,
    /// `InClusterPrefixPool`.
    Prefix,
    /// `GlobalInClusterPrefixPool`.
    GlobalPrefix,
}

impl PoolKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::InCluster, Self::GlobalInCluster, Self::Prefix, Self::GlobalPrefix];

    /// The kind as in `poolRef.kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InCluster => "InClusterIPPool",
            Self::GlobalInCluster => "GlobalInClusterIPPool",
            Self::Prefix => "InClusterPrefixPool",
            Self::GlobalPrefix => "GlobalInClusterPrefixPool",
        }
    }

    /// Whether it belongs to no namespace.
    pub fn is_global(self) -> bool {
        matches!(self, Self::GlobalInCluster | Self::GlobalPrefix)
    }

    /// How the API server calls it.
    pub fn resource(self) -> ApiResource {
        self.resource_in("v1alpha2")
    }

    fn resource_in(self, version: &str) -> ApiResource {
        resource(GROUP, version, self.name(), &format!("{}s", self.name().to_lowercase()))
    }

    /// A client for this kind; a global kind ignores the namespace.
    pub fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        self.api_in(client, namespace, "v1alpha2")
    }

    /// The same in another version.
    pub fn api_in(self, client: &Client, namespace: &str, version: &str) -> Api<DynamicObject> {
        let resource = self.resource_in(version);
        if self.is_global() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    }
}

/// `IPAddressClaim`.
pub fn claim() -> ApiResource {
    resource(GROUP, "v1beta2", "IPAddressClaim", "ipaddressclaims")
}

/// `IPAddress`.
pub fn address() -> ApiResource {
    resource(GROUP, "v1beta2", "IPAddress", "ipaddresses")
}

/// `Cluster`.
pub fn cluster() -> ApiResource {
    resource("cluster.x-k8s.io", "v1beta2", "Cluster", "clusters")
}

/// A kind of Cluster API in its older version.
pub fn v1beta1(resource: &ApiResource) -> ApiResource {
    self::resource(&resource.group, "v1beta1", &resource.kind, &resource.plural)
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}
