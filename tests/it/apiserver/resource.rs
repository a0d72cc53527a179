//! What kinds of objects the server serves: a description per kind, and the kinds that this product meets.

/// One kind of object. The first version is the one that objects are stored in; fields are the same in all versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as a CRD states them")]
pub(crate) struct Resource {
    /// Empty for the core group, which lives under `/api`.
    pub(crate) group: &'static str,
    pub(crate) versions: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) namespaced: bool,
    /// Whether `/status` exists; if it does, the main resource ignores what clients write into `status`.
    pub(crate) status_subresource: bool,
    /// Whether a PUT of an object that does not exist creates it (Leases and Events), rather than answering 404.
    pub(crate) create_on_update: bool,
    /// Whether a PUT without a resourceVersion is accepted (not for custom resources and Leases).
    pub(crate) unconditional_update: bool,
}

const IPAM: &str = "ipam.cluster.x-k8s.io";

impl Resource {
    /// A namespaced custom resource with a status subresource; change what differs with `..`.
    pub(crate) const fn custom(
        group: &'static str,
        versions: &'static [&'static str],
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group,
            versions,
            kind,
            plural,
            namespaced: true,
            status_subresource: true,
            create_on_update: false,
            unconditional_update: false,
        }
    }

    /// The pools of this product, what it uses of Cluster API, and the built-in kinds that it touches.
    pub(crate) const fn standard() -> [Self; 11] {
        const POOLS: &[&str] = &["v1alpha2", "v1alpha1"];
        const PREFIX_POOLS: &[&str] = &["v1alpha2"];
        const CAPI: &[&str] = &["v1beta2", "v1beta1"];
        [
            Self::custom(IPAM, POOLS, "InClusterIPPool", "inclusterippools"),
            Self { namespaced: false, ..Self::custom(IPAM, POOLS, "GlobalInClusterIPPool", "globalinclusterippools") },
            Self::custom(IPAM, PREFIX_POOLS, "InClusterPrefixPool", "inclusterprefixpools"),
            Self {
                namespaced: false,
                ..Self::custom(IPAM, PREFIX_POOLS, "GlobalInClusterPrefixPool", "globalinclusterprefixpools")
            },
            Self::custom(IPAM, CAPI, "IPAddressClaim", "ipaddressclaims"),
            Self { status_subresource: false, ..Self::custom(IPAM, CAPI, "IPAddress", "ipaddresses") },
            Self::custom("cluster.x-k8s.io", CAPI, "Cluster", "clusters"),
            Self {
                status_subresource: false,
                create_on_update: true,
                ..Self::custom("coordination.k8s.io", &["v1"], "Lease", "leases")
            },
            Self { unconditional_update: true, ..Self::custom("", &["v1"], "Pod", "pods") },
            Self {
                namespaced: false,
                unconditional_update: true,
                ..Self::custom("", &["v1"], "Namespace", "namespaces")
            },
            Self {
                status_subresource: false,
                create_on_update: true,
                unconditional_update: true,
                ..Self::custom("events.k8s.io", &["v1"], "Event", "events")
            },
        ]
    }

    /// `group/version`, or `v1` for the core group.
    pub(crate) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The version that objects are stored in.
    pub(crate) fn storage_version(&self) -> &'static str {
        self.versions[0]
    }

    /// `plural.group`, as messages of the real server name a resource.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The store's key. A slash cannot be part of a name, so two objects never share a key.
    pub(super) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }
}
