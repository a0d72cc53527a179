//! The IPAddress objects that we write: their bodies and their owners.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::{
    capi::CapiVersion,
    names::{
        ADDRESS_KIND, CLAIM_KIND, CLUSTER_NAME_LABEL, GROUP, POOL_API_VERSION, PROTECT_ADDRESS_FINALIZER, PoolKind,
    },
};

/// The claim that an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimOwner<'a> {
    /// The version in which the server has claims and addresses.
    pub version: CapiVersion,
    /// The claim's name, and the address' too.
    pub name: &'a str,
    /// The claim's uid.
    pub uid: &'a str,
}

/// The pool that an address is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOwner<'a> {
    /// The pool's kind.
    pub kind: PoolKind,
    /// The pool's name.
    pub name: &'a str,
    /// The pool's uid.
    pub uid: &'a str,
}

/// An IPAddress to be created.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewAddress<'a> {
    /// The version in which the server has claims and addresses.
    pub version: CapiVersion,
    /// The claim's namespace.
    pub namespace: &'a str,
    /// The claim's name, and the address' too.
    pub name: &'a str,
    /// The pool's kind.
    pub pool_kind: PoolKind,
    /// The pool's name.
    pub pool_name: &'a str,
    /// As [`owner_references`] makes them.
    pub owners: &'a [OwnerReference],
    /// The address, or the base of the prefix.
    pub address: &'a str,
    /// The prefix length.
    pub prefix: i64,
    /// The gateway; an empty one is none, because the server refuses it.
    pub gateway: Option<&'a str>,
    /// The value of the cluster label, if any.
    pub cluster: Option<&'a str>,
}

impl NewAddress<'_> {
    /// The object as JSON. The spec is the same in v1beta1 and v1beta2, only the apiVersion differs.
    pub fn body(&self) -> Value {
        let Self { version, namespace, name, pool_kind, pool_name, owners, address, prefix, gateway, cluster } = *self;
        let mut body = json!({
            "apiVersion": version.api_version(),
            "kind": ADDRESS_KIND,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "finalizers": [PROTECT_ADDRESS_FINALIZER],
                "ownerReferences": owners,
            },
            "spec": {
                "address": address,
                "prefix": prefix,
                "claimRef": { "name": name },
                "poolRef": { "apiGroup": GROUP, "kind": pool_kind.kind(), "name": pool_name },
            },
        });
        if let Some(gateway) = gateway.filter(|gateway| !gateway.is_empty()) {
            body["spec"]["gateway"] = gateway.into();
        }
        if let Some(cluster) = cluster {
            body["metadata"]["labels"] = json!({ CLUSTER_NAME_LABEL: cluster });
        }
        body
    }
}

/// The owner references that an address should have, given those that it has (contract C5).
///
/// Foreign references stay as they are. References to the claim and the pool, matched by group, kind and name, are
/// brought up to date where they stand, and appended where they are missing. The claim is the controller unless a
/// foreign reference is: the server refuses two.
pub fn owner_references(existing: &[OwnerReference], claim: ClaimOwner, pool: PoolOwner) -> Vec<OwnerReference> {
    let mut claim = Some(reference(claim.version.api_version(), CLAIM_KIND, claim.name, claim.uid));
    let mut pool = Some(reference(POOL_API_VERSION.to_owned(), pool.kind.kind(), pool.name, pool.uid));
    let ours = [claim.clone(), pool.clone()];
    let is_foreign = |it: &OwnerReference| !ours.iter().flatten().any(|our| same_object(our, it));
    let has_foreign_controller = existing.iter().any(|it| is_foreign(it) && it.controller == Some(true));
    if let Some(claim) = &mut claim {
        claim.controller = Some(!has_foreign_controller);
    }

    let mut references = Vec::with_capacity(existing.len() + 2);
    for current in existing {
        if is_foreign(current) {
            references.push(current.clone());
        } else {
            // A second reference to the same object, which two versions of it can leave behind, finds nothing to take.
            references.extend(claim.take_if(|claim| same_object(claim, current)));
            references.extend(pool.take_if(|pool| same_object(pool, current)));
        }
    }
    references.extend(claim);
    references.extend(pool);
    references
}

fn reference(api_version: String, kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version,
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(true),
    }
}

/// Whether two references name one object, in whatever version.
fn same_object(a: &OwnerReference, b: &OwnerReference) -> bool {
    group(a) == group(b) && a.kind == b.kind && a.name == b.name
}

fn group(reference: &OwnerReference) -> &str {
    reference.api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: ClaimOwner = ClaimOwner { version: CapiVersion::V1Beta2, name: "a", uid: "claim-uid" };
    const POOL: PoolOwner = PoolOwner { kind: PoolKind::InClusterIPPool, name: "p", uid: "pool-uid" };

    fn new_address(version: CapiVersion, owners: &[OwnerReference]) -> NewAddress<'_> {
        NewAddress {
            version,
            namespace: "ns",
            name: "a",
            pool_kind: PoolKind::InClusterIPPool,
            pool_name: "p",
            owners,
            address: "10.0.0.5",
            prefix: 24,
            gateway: Some("10.0.0.1"),
            cluster: Some("c"),
        }
    }

    fn owner(text: &str) -> OwnerReference {
        let words: Vec<_> = text.split(' ').collect();
        let [api_version, kind, name, uid, controller, block] = words.as_slice() else {
            panic!("six words: {text}");
        };
        let flag = |word: &str| word.parse().ok();
        OwnerReference {
            api_version: (*api_version).to_owned(),
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            uid: (*uid).to_owned(),
            controller: flag(controller),
            block_owner_deletion: flag(block),
        }
    }

    #[test]
    fn owner_references_are_kept_refreshed_or_appended() {
        let claim = "ipam.cluster.x-k8s.io/v1beta2 IPAddressClaim a claim-uid true true";
        let claim_beside = "ipam.cluster.x-k8s.io/v1beta2 IPAddressClaim a claim-uid false true";
        let claim_v1beta1 = "ipam.cluster.x-k8s.io/v1beta1 IPAddressClaim a old-uid - -";
        let other_claim = "ipam.cluster.x-k8s.io/v1beta2 IPAddressClaim b other-uid true true";
        let pool = "ipam.cluster.x-k8s.io/v1alpha2 InClusterIPPool p pool-uid false true";
        let pool_v1alpha1 = "ipam.cluster.x-k8s.io/v1alpha1 InClusterIPPool p old-uid true false";
        let global_pool = "ipam.cluster.x-k8s.io/v1alpha2 GlobalInClusterIPPool p g false true";
        let foreign = "v1 ConfigMap a uid - -";
        let foreign_controller = "apps/v1 Deployment d uid true -";
        let same_kind_other_group = "example.com/v1 IPAddressClaim a uid - -";
        let cases: [(&str, &[&str], &[&str]); 10] = [
            ("none", &[], &[claim, pool]),
            ("up to date", &[claim, pool], &[claim, pool]),
            ("an order of its own", &[pool, claim], &[pool, claim]),
            ("foreign in front", &[foreign], &[foreign, claim, pool]),
            ("foreign behind", &[claim, foreign], &[claim, foreign, pool]),
            ("stale version, uid and flags", &[claim_v1beta1, foreign, pool_v1alpha1], &[claim, foreign, pool]),
            ("a foreign controller", &[foreign_controller, claim], &[foreign_controller, claim_beside, pool]),
            ("another claim is the controller", &[other_claim], &[other_claim, claim_beside, pool]),
            ("both versions of one object", &[claim_v1beta1, claim, pool_v1alpha1, pool], &[claim, pool]),
            (
                "other kinds and groups",
                &[same_kind_other_group, global_pool],
                &[same_kind_other_group, global_pool, claim, pool],
            ),
        ];
        for (name, existing, expected) in cases {
            let existing: Vec<_> = existing.iter().map(|text| owner(text)).collect();
            let expected: Vec<_> = expected.iter().map(|text| owner(text)).collect();
            let actual = owner_references(&existing, CLAIM, POOL);
            assert_eq!(actual, expected, "{name}");
            assert_eq!(owner_references(&actual, CLAIM, POOL), actual, "{name}, again");
            assert!(actual.iter().filter(|it| it.controller == Some(true)).count() <= 1, "{name}: two controllers");
        }
    }

    #[test]
    fn the_body_is_complete_in_both_versions() {
        for version in CapiVersion::PREFERENCE {
            let owners = owner_references(&[], ClaimOwner { version, ..CLAIM }, POOL);
            let address = new_address(version, &owners);
            let api_version = format!("ipam.cluster.x-k8s.io/{version}");
            assert_eq!(
                address.body(),
                json!({
                    "apiVersion": api_version,
                    "kind": "IPAddress",
                    "metadata": {
                        "name": "a",
                        "namespace": "ns",
                        "labels": { "cluster.x-k8s.io/cluster-name": "c" },
                        "finalizers": ["ipam.cluster.x-k8s.io/ProtectAddress"],
                        "ownerReferences": [
                            { "apiVersion": api_version, "kind": "IPAddressClaim", "name": "a", "uid": "claim-uid",
                              "controller": true, "blockOwnerDeletion": true },
                            { "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool", "name": "p",
                              "uid": "pool-uid", "controller": false, "blockOwnerDeletion": true },
                        ],
                    },
                    "spec": {
                        "address": "10.0.0.5",
                        "prefix": 24,
                        "gateway": "10.0.0.1",
                        "claimRef": { "name": "a" },
                        "poolRef": { "apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool", "name": "p" },
                    },
                })
            );
        }
    }

    #[test]
    fn what_is_absent_is_not_written() {
        for gateway in [None, Some("")] {
            let address = NewAddress { prefix: 0, gateway, cluster: None, ..new_address(CLAIM.version, &[]) };
            let body = address.body();
            assert_eq!(body["spec"].get("gateway"), None);
            assert_eq!(body["metadata"].get("labels"), None);
            assert_eq!(body["spec"]["prefix"], 0);
        }
    }
}
