//! Every name that is fixed by the API: group, versions, kinds, finalizers, labels, annotations, condition types, reasons.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};

/// The API group of pools, claims and addresses.
pub const GROUP: &str = "ipam.cluster.x-k8s.io";
/// The version in which pools are stored.
pub const V1ALPHA2: &str = "v1alpha2";
/// The deprecated version of the IP pools, still served.
pub const V1ALPHA1: &str = "v1alpha1";
/// `apiVersion` of pools wherever we refer to them, whatever version somebody else reads them in.
pub const POOL_API_VERSION: &str = "ipam.cluster.x-k8s.io/v1alpha2";
/// Kind of a claim.
pub const CLAIM_KIND: &str = "IPAddressClaim";
/// Kind of an address.
pub const ADDRESS_KIND: &str = "IPAddress";

/// Finalizer of a claim: its address has to be released first.
pub const RELEASE_ADDRESS_FINALIZER: &str = "ipam.cluster.x-k8s.io/ReleaseAddress";
/// Finalizer of an address: its claim still holds it.
pub const PROTECT_ADDRESS_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectAddress";
/// Finalizer of a pool: addresses of it are in use.
pub const PROTECT_POOL_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectPool";
/// The API server's own finalizer for foreground deletion.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// The API server's own finalizer for deletion that leaves dependents behind.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// Label with the name of the Cluster that an object belongs to.
pub const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
/// Label that `--watch-filter` compares.
pub const WATCH_FILTER_LABEL: &str = "cluster.x-k8s.io/watch-filter";
/// Annotation that pauses an object, whatever its value.
pub const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
/// Annotation of a claim with the uid under which we put our finalizer on it: a moved or restored claim has another.
pub const CLAIM_UID_ANNOTATION: &str = "ipam.cluster.x-k8s.io/claim-uid";
/// Annotation of a pool with the uid under which we put our finalizer on it, for the same reason.
pub const POOL_UID_ANNOTATION: &str = "ipam.cluster.x-k8s.io/pool-uid";
/// Annotation of a pool that lets it be deleted while addresses are in use, whatever its value.
pub const SKIP_VALIDATE_DELETE_ANNOTATION: &str = "ipam.cluster.x-k8s.io/skip-validate-delete-webhook";
/// Annotation that `clusterctl move` puts on what it is about to delete.
pub const DELETE_FOR_MOVE_ANNOTATION: &str = "clusterctl.cluster.x-k8s.io/delete-for-move";
/// Annotation that keeps the form of an object in the other API version.
pub const CONVERSION_DATA_ANNOTATION: &str = "cluster.x-k8s.io/conversion-data";

/// Label of a CRD whose objects `clusterctl move` takes along with what they own.
pub const MOVE_HIERARCHY_LABEL: &str = "clusterctl.cluster.x-k8s.io/move-hierarchy";
/// Label of everything that belongs to a provider.
pub const PROVIDER_LABEL: &str = "cluster.x-k8s.io/provider";
/// Our value of [`PROVIDER_LABEL`].
pub const PROVIDER: &str = "ipam-in-cluster";

/// Condition type of claims and pools: all is well.
pub const READY: &str = "Ready";
/// Condition type of pools: another pool holds some of the same addresses.
pub const OVERLAPPING: &str = "Overlapping";

/// Reasons of conditions and events.
pub mod reasons {
    /// The claim has its address.
    pub const ADDRESS_ALLOCATED: &str = "AddressAllocated";
    /// The claim's pool is missing, deleting, paused or invalid.
    pub const POOL_NOT_READY: &str = "PoolNotReady";
    /// The claim's pool has no free address.
    pub const POOL_EXHAUSTED: &str = "PoolExhausted";
    /// Anything else that keeps a claim from its address.
    pub const ALLOCATION_FAILED: &str = "AllocationFailed";
    /// The pool can be allocated from.
    pub const POOL_READY: &str = "PoolReady";
    /// Another pool can hand out some of the same addresses.
    pub const COMMON_ADDRESSES: &str = "CommonAddresses";
    /// No other pool can any more.
    pub const NO_COMMON_ADDRESSES: &str = "NoCommonAddresses";
    /// The pool's spec does not decode, parse or hold together.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The pool is being deleted.
    pub const DELETING: &str = "Deleting";
    /// The server dropped the allocation record: its CRD is too old.
    pub const RECORD_NOT_STORED: &str = "RecordNotStored";
    /// Event: somebody removed or replaced the allocation record.
    pub const RECORD_LOST: &str = "RecordLost";
    /// Event: another pool can hand out some of the same addresses.
    pub const OVERLAPPING_POOLS: &str = "OverlappingPools";
    /// Event: an address was given back.
    pub const ADDRESS_RELEASED: &str = "AddressReleased";
    /// Event: an address whose claim is gone.
    pub const ORPHANED_ADDRESS: &str = "OrphanedAddress";
    /// Event: two IPAddress objects carry one address.
    pub const DUPLICATE_ADDRESS: &str = "DuplicateAddress";
    /// Event: an address in use is not allocatable any more.
    pub const OUT_OF_RANGE_ADDRESS: &str = "OutOfRangeAddress";
    /// Event: a pool is invalid.
    pub const INVALID_POOL: &str = "InvalidPool";
}

/// The four kinds of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolKind {
    /// Addresses for the claims of one namespace.
    InClusterIPPool,
    /// Addresses for the claims of all namespaces.
    GlobalInClusterIPPool,
    /// IPv6 prefixes for the claims of one namespace.
    InClusterPrefixPool,
    /// IPv6 prefixes for the claims of all namespaces.
    GlobalInClusterPrefixPool,
}

impl PoolKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 4] = [
        Self::InClusterIPPool,
        Self::GlobalInClusterIPPool,
        Self::InClusterPrefixPool,
        Self::GlobalInClusterPrefixPool,
    ];

    /// The kind as it is written in objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::InClusterIPPool => "InClusterIPPool",
            Self::GlobalInClusterIPPool => "GlobalInClusterIPPool",
            Self::InClusterPrefixPool => "InClusterPrefixPool",
            Self::GlobalInClusterPrefixPool => "GlobalInClusterPrefixPool",
        }
    }

    /// The resource name as it is written in URLs.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::InClusterIPPool => "inclusterippools",
            Self::GlobalInClusterIPPool => "globalinclusterippools",
            Self::InClusterPrefixPool => "inclusterprefixpools",
            Self::GlobalInClusterPrefixPool => "globalinclusterprefixpools",
        }
    }

    /// Whether pools of this kind are cluster-scoped and serve every namespace.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::GlobalInClusterIPPool | Self::GlobalInClusterPrefixPool)
    }

    /// Whether pools of this kind hand out prefixes, not single addresses.
    pub const fn is_prefix(self) -> bool {
        matches!(self, Self::InClusterPrefixPool | Self::GlobalInClusterPrefixPool)
    }

    /// The kind with exactly this name.
    pub fn from_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.kind() == kind)
    }

    /// What kube needs to reach pools of this kind, in the version that stores them.
    pub fn api_resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, V1ALPHA2, self.kind()), self.plural())
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_exact_name_only() {
        for kind in PoolKind::ALL {
            assert_eq!(PoolKind::from_kind(&kind.to_string()), Some(kind));
        }
        for other in ["", "inclusterippool", "InClusterIPPools", "IPAddress"] {
            assert_eq!(PoolKind::from_kind(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_resource_of_a_kind_has_the_stored_version() {
        let resource = PoolKind::GlobalInClusterPrefixPool.api_resource();
        assert_eq!(resource.api_version, POOL_API_VERSION);
        assert_eq!(resource.plural, "globalinclusterprefixpools");
    }
}
