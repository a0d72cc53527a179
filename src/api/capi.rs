//! Cluster API's claims, addresses and clusters as they are watched, one lenient type each for v1beta1 and v1beta2.
//!
//! Only what the provider looks at is read. Tens of thousands of these are decoded and kept.

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    conditions::Condition,
    lenient::{null_as_default, slim_metadata},
    names::{ADDRESS_KIND, CLAIM_KIND, CLUSTER_NAME_LABEL, GROUP, PAUSED_ANNOTATION, PoolKind},
};

/// The group of the Cluster kind.
pub const CLUSTER_GROUP: &str = "cluster.x-k8s.io";

/// A version in which a server has claims, addresses or clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CapiVersion {
    /// The old one.
    V1Beta1,
    /// The one that current servers store.
    V1Beta2,
}

impl CapiVersion {
    /// In the order in which they are to be tried.
    pub const PREFERENCE: [Self; 2] = [Self::V1Beta2, Self::V1Beta1];

    /// As it is written in an apiVersion.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1Beta1 => "v1beta1",
            Self::V1Beta2 => "v1beta2",
        }
    }

    /// The apiVersion of claims and addresses.
    pub fn api_version(self) -> String {
        format!("{GROUP}/{self}")
    }

    /// What kube needs to reach claims.
    pub fn claims(self) -> ApiResource {
        self.resource(GROUP, CLAIM_KIND, "ipaddressclaims")
    }

    /// What kube needs to reach addresses.
    pub fn addresses(self) -> ApiResource {
        self.resource(GROUP, ADDRESS_KIND, "ipaddresses")
    }

    /// What kube needs to reach clusters.
    pub fn clusters(self) -> ApiResource {
        self.resource(CLUSTER_GROUP, "Cluster", "clusters")
    }

    fn resource(self, group: &str, kind: &str, plural: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, self.as_str(), kind), plural)
    }
}

impl fmt::Display for CapiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reference to a pool. v1beta1 servers store it without an apiGroup too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// The group of the pool's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// The pool's kind.
    #[serde(default, deserialize_with = "null_as_default")]
    pub kind: String,
    /// The pool's name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
}

impl PoolRef {
    /// The kind of pool that a claim asks for, if it is one of ours: the group must be named (contract C1).
    pub fn claimed_kind(&self) -> Option<PoolKind> {
        (self.api_group.as_deref() == Some(GROUP)).then(|| PoolKind::from_kind(&self.kind)).flatten()
    }

    /// The kind of pool that an address is from, if it is one of ours: no group counts as ours (contract B2).
    pub fn holding_kind(&self) -> Option<PoolKind> {
        let group = self.api_group.as_deref().unwrap_or_default();
        (group.is_empty() || group == GROUP).then(|| PoolKind::from_kind(&self.kind)).flatten()
    }
}

/// A reference to an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRef {
    /// The object's name. v1beta1 servers default it to an empty one.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
}

/// A request for an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IPAddressClaim {
    /// Without managedFields.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ClaimSpec,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ClaimStatus>,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// The Cluster that the claim belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// The pool to take the address from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub pool_ref: PoolRef,
}

/// What came of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// The IPAddress of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_ref: Option<NameRef>,
    /// The conditions of the version that the claim was read in: those that v1beta2 has, or the old ones of v1beta1.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub conditions: Vec<Condition>,
    /// In v1beta1, what v1beta2 has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v1beta2: Option<ClaimStatusV1Beta2>,
}

/// What a claim's status has for v1beta2 when it is read in v1beta1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimStatusV1Beta2 {
    /// The conditions as v1beta2 has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub conditions: Vec<Condition>,
}

impl IPAddressClaim {
    /// The Cluster that the claim waits for: spec.clusterName, else the label. Empty counts as none (contract C7).
    pub fn cluster_name(&self) -> Option<&str> {
        let named = self.spec.cluster_name.as_deref().filter(|name| !name.is_empty());
        named.or_else(|| self.cluster_name_label())
    }

    /// The value of the cluster label on this claim's IPAddress: the claim's own label, else spec.clusterName (contract
    /// C6), but only a value that the server takes as a label: otherwise the address could never be created.
    pub fn address_cluster_label(&self) -> Option<&str> {
        let named = || self.spec.cluster_name.as_deref().filter(|name| is_label_value(name));
        self.cluster_name_label().or_else(named)
    }

    fn cluster_name_label(&self) -> Option<&str> {
        let label = self.metadata.labels.as_ref()?.get(CLUSTER_NAME_LABEL)?;
        Some(label.as_str()).filter(|label| !label.is_empty())
    }

    /// The name of the IPAddress that the status refers to. An empty one, which v1beta1 servers fill in, is none.
    pub fn address_name(&self) -> Option<&str> {
        let address = self.status.as_ref()?.address_ref.as_ref()?;
        Some(address.name.as_str()).filter(|name| !name.is_empty())
    }

    /// The conditions that we read and write: `status.conditions` in v1beta2, `status.v1beta2.conditions` in v1beta1.
    pub fn conditions(&self, version: CapiVersion) -> &[Condition] {
        let status = self.status.as_ref();
        match version {
            CapiVersion::V1Beta2 => status.map_or(&[], |status| &status.conditions),
            CapiVersion::V1Beta1 => {
                status.and_then(|status| status.v1beta2.as_ref()).map_or(&[], |status| &status.conditions)
            }
        }
    }

    /// Whether the claim itself has the paused annotation.
    pub fn is_paused(&self) -> bool {
        has_annotation(&self.metadata, PAUSED_ANNOTATION)
    }
}

/// The copy of an object that a write is for; nothing is written to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyOf<'a> {
    /// Tells the object from a later one of its name.
    pub uid: &'a str,
    /// As the server wrote it.
    pub resource_version: &'a str,
}

/// A merge patch for `/status` of a claim, with all of its conditions.
///
/// The resourceVersion is what guards it: a merge patch replaces lists, and nobody's condition may get lost; and a
/// server does not compare the uid in a patch of `/status`, only in a PUT (seen on 1.36). An absent address leaves
/// addressRef as it is; it is never written empty (contract C9, C10).
pub fn claim_status_patch(
    version: CapiVersion,
    copy: CopyOf,
    address: Option<&str>,
    conditions: &[Condition],
) -> Value {
    let mut status = match version {
        CapiVersion::V1Beta2 => json!({ "conditions": conditions }),
        CapiVersion::V1Beta1 => json!({ "v1beta2": { "conditions": conditions } }),
    };
    if let Some(address) = address.filter(|address| !address.is_empty()) {
        status["addressRef"] = json!({ "name": address });
    }
    json!({ "metadata": copy, "status": status })
}

/// An address that a claim holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IPAddress {
    /// Without managedFields.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The address.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: AddressSpec,
}

/// An address, its pool and its claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressSpec {
    /// The address, or the base of the prefix. Servers store any text of at most 39 characters.
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
    /// The prefix length. v1beta1 stores any integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<i64>,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The claim that holds the address.
    #[serde(default, deserialize_with = "null_as_default")]
    pub claim_ref: NameRef,
    /// The pool that the address is from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub pool_ref: PoolRef,
}

/// A workload cluster: only whether it is paused matters here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Without managedFields.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// What matters of the spec.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ClusterSpec,
}

/// What matters of a cluster's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Whether nothing is to be done for this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl Cluster {
    /// Whether the cluster is paused, by its spec or by annotation (contract C8).
    pub fn is_paused(&self) -> bool {
        self.spec.paused == Some(true) || has_annotation(&self.metadata, PAUSED_ANNOTATION)
    }
}

fn has_annotation(metadata: &ObjectMeta, name: &str) -> bool {
    metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(name))
}

/// Whether the server takes this as a label's value: at most 63 letters, digits, `-`, `_` and `.`, and a letter or
/// digit at both ends.
fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// The way to a kind whose version is found out at run time.
macro_rules! resource_of_any_version {
    ($($kind:ty),+) => {$(
        impl Resource for $kind {
            type DynamicType = ApiResource;
            type Scope = DynamicResourceScope;

            fn kind(resource: &ApiResource) -> Cow<'_, str> {
                resource.kind.as_str().into()
            }

            fn group(resource: &ApiResource) -> Cow<'_, str> {
                resource.group.as_str().into()
            }

            fn version(resource: &ApiResource) -> Cow<'_, str> {
                resource.version.as_str().into()
            }

            fn api_version(resource: &ApiResource) -> Cow<'_, str> {
                resource.api_version.as_str().into()
            }

            fn plural(resource: &ApiResource) -> Cow<'_, str> {
                resource.plural.as_str().into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )+};
}

resource_of_any_version!(IPAddressClaim, IPAddress, Cluster, super::pools::PoolObject);

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(object: Value) -> IPAddressClaim {
        serde_json::from_value(object).expect("every stored claim reads")
    }

    #[test]
    fn whatever_is_missing_or_null_reads() {
        for object in [
            json!({}),
            json!({"metadata": {}, "spec": {}, "status": {}}),
            json!({"metadata": null, "spec": null, "status": null}),
            json!({"spec": {"poolRef": {"name": null, "kind": null, "apiGroup": null}, "clusterName": null},
                   "status": {"addressRef": null, "conditions": null, "v1beta2": null}}),
        ] {
            let claim = claim(object.clone());
            assert_eq!(claim.address_name(), None, "{object}");
            assert_eq!(claim.cluster_name(), None, "{object}");
            assert_eq!(claim.spec.pool_ref.claimed_kind(), None, "{object}");
            assert!(claim.conditions(CapiVersion::V1Beta1).is_empty(), "{object}");
            assert!(claim.conditions(CapiVersion::V1Beta2).is_empty(), "{object}");
        }
        for object in
            [json!({}), json!({"metadata": null, "spec": {"claimRef": null, "poolRef": null, "prefix": null}})]
        {
            let address: IPAddress = serde_json::from_value(object).expect("every stored address reads");
            assert_eq!(address, IPAddress::default());
        }
        for object in [json!({}), json!({"spec": null}), json!({"spec": {"paused": null, "topology": {"class": 1}}})] {
            let cluster: Cluster = serde_json::from_value(object).expect("every stored cluster reads");
            assert!(!cluster.is_paused());
        }
    }

    #[test]
    fn a_claim_must_name_our_group_but_an_address_need_not() {
        let reference = |group: Option<&str>, kind: &str| PoolRef {
            api_group: group.map(ToOwned::to_owned),
            kind: kind.to_owned(),
            name: "p".to_owned(),
        };
        let kind = PoolKind::InClusterPrefixPool;
        let cases = [
            (Some(GROUP), kind.kind(), Some(kind), Some(kind)),
            (None, kind.kind(), None, Some(kind)),
            (Some(""), kind.kind(), None, Some(kind)),
            (Some("example.com"), kind.kind(), None, None),
            (Some(GROUP), "OtherPool", None, None),
        ];
        for (group, name, claimed, holding) in cases {
            let reference = reference(group, name);
            assert_eq!((reference.claimed_kind(), reference.holding_kind()), (claimed, holding), "{group:?} {name}");
        }
    }

    #[test]
    fn the_cluster_to_wait_for_and_the_label_to_copy_differ_in_their_order() {
        let named = |label: Option<&str>, spec: Option<&str>| {
            let labels = label.map(|label| json!({"cluster.x-k8s.io/cluster-name": label}));
            let claim = claim(json!({"metadata": {"labels": labels}, "spec": {"clusterName": spec}}));
            let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
            (owned(claim.cluster_name()), owned(claim.address_cluster_label()))
        };
        let both = |a: Option<&str>, b: Option<&str>| (a.map(ToOwned::to_owned), b.map(ToOwned::to_owned));
        assert_eq!(named(Some("l"), Some("s")), both(Some("s"), Some("l")));
        assert_eq!(named(Some("l"), None), both(Some("l"), Some("l")));
        assert_eq!(named(None, Some("s")), both(Some("s"), Some("s")));
        assert_eq!(named(Some(""), Some("")), both(None, None));
        assert_eq!(named(Some(""), Some("s")), both(Some("s"), Some("s")));
        assert_eq!(named(None, Some("no label")), both(Some("no label"), None));
    }

    #[test]
    fn only_what_the_server_takes_is_a_label_value() {
        let longest = "a".repeat(63);
        for good in ["a", "A-b_c.9", longest.as_str()] {
            assert!(is_label_value(good), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "a b", "ä", "a/b", too_long.as_str()] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }

    #[test]
    fn conditions_live_where_the_version_has_them() {
        let condition = |reason: &str| {
            json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
                   "reason": reason, "message": "m"})
        };
        let claim = claim(json!({"metadata": {"uid": "u", "resourceVersion": "4"},
            "status": {"conditions": [condition("Outer")], "v1beta2": {"conditions": [condition("Inner")]}}}));
        assert_eq!(claim.conditions(CapiVersion::V1Beta2)[0].reason, "Outer");
        assert_eq!(claim.conditions(CapiVersion::V1Beta1)[0].reason, "Inner");

        let (copy, identity) =
            (CopyOf { uid: "u", resource_version: "4" }, json!({"uid": "u", "resourceVersion": "4"}));
        let new = claim.conditions(CapiVersion::V1Beta1);
        assert_eq!(
            claim_status_patch(CapiVersion::V1Beta1, copy, Some("a"), new),
            json!({"metadata": identity, "status":
                {"addressRef": {"name": "a"}, "v1beta2": {"conditions": [condition("Inner")]}}})
        );
        assert_eq!(
            claim_status_patch(CapiVersion::V1Beta2, copy, Some(""), new),
            json!({"metadata": identity, "status": {"conditions": [condition("Inner")]}})
        );
    }

    #[test]
    fn an_empty_address_reference_is_none() {
        let claim_of = |name: &str| claim(json!({"status": {"addressRef": {"name": name}}}));
        assert_eq!(claim_of("").address_name(), None);
        assert_eq!(claim_of("a").address_name(), Some("a"));
    }

    #[test]
    fn a_cluster_is_paused_by_its_spec_or_by_annotation() {
        for (object, paused) in [
            (json!({"spec": {"paused": true}}), true),
            (json!({"spec": {"paused": false}}), false),
            (json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": "false"}}}), true),
            (json!({"metadata": {"annotations": {"other": "true"}}}), false),
        ] {
            let cluster: Cluster = serde_json::from_value(object.clone()).expect("decodes");
            assert_eq!(cluster.is_paused(), paused, "{object}");
        }
    }

    #[test]
    fn both_versions_are_reached_with_one_type() {
        let path = |version: CapiVersion| IPAddressClaim::url_path(&version.claims(), Some("ns"));
        assert_eq!(path(CapiVersion::V1Beta2), "/apis/ipam.cluster.x-k8s.io/v1beta2/namespaces/ns/ipaddressclaims");
        assert_eq!(path(CapiVersion::V1Beta1), "/apis/ipam.cluster.x-k8s.io/v1beta1/namespaces/ns/ipaddressclaims");
        assert_eq!(
            Cluster::url_path(&CapiVersion::V1Beta1.clusters(), None),
            "/apis/cluster.x-k8s.io/v1beta1/clusters"
        );
    }
}
