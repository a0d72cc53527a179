//! Pools of any kind as they are watched: read whole, and their parts decoded when somebody asks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    capi::CopyOf,
    lenient::{DecodeError, decode, slim_metadata},
    names::{
        DELETE_FOR_MOVE_ANNOTATION, PAUSED_ANNOTATION, POOL_API_VERSION, PoolKind, SKIP_VALIDATE_DELETE_ANNOTATION,
    },
    status::PoolStatus,
};

pub use super::v1alpha2::{AddressPoolSpec, PrefixPoolSpec};

/// A pool of any of the four kinds. Every stored object reads as one: spec and status are decoded later, by
/// [`PoolObject::address_spec`] and its like, so that a broken pool can be reported and worked around.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolObject {
    /// The version that this was read in. Absent in some lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The kind that this was read as. Absent in some lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Without managedFields.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// As stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
    /// As stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

impl PoolObject {
    /// The spec of an address pool.
    pub fn address_spec(&self) -> Result<AddressPoolSpec, DecodeError> {
        decode("spec", self.spec.as_ref())
    }

    /// The spec of a prefix pool.
    pub fn prefix_spec(&self) -> Result<PrefixPoolSpec, DecodeError> {
        decode("spec", self.spec.as_ref())
    }

    /// The status of a pool of any kind.
    pub fn pool_status(&self) -> Result<PoolStatus, DecodeError> {
        decode("status", self.status.as_ref())
    }

    /// Whether the pool has the paused annotation.
    pub fn is_paused(&self) -> bool {
        self.has_annotation(PAUSED_ANNOTATION)
    }

    /// Whether the pool may be deleted although addresses of it are in use.
    pub fn may_be_deleted_in_use(&self) -> bool {
        self.has_annotation(SKIP_VALIDATE_DELETE_ANNOTATION) || self.has_annotation(DELETE_FOR_MOVE_ANNOTATION)
    }

    fn has_annotation(&self, name: &str) -> bool {
        self.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(name))
    }
}

/// The body of a PUT to `/status` that replaces the status of exactly this copy of a pool; a Global pool has no namespace.
///
/// That is all that the server needs: it keeps spec, labels and managedFields of the stored object.
pub fn status_body(kind: PoolKind, namespace: Option<&str>, name: &str, copy: CopyOf, status: &PoolStatus) -> Value {
    let mut metadata = json!({ "name": name, "uid": copy.uid, "resourceVersion": copy.resource_version });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": POOL_API_VERSION, "kind": kind.kind(), "metadata": metadata, "status": status })
}

#[cfg(test)]
mod tests {
    use kube::core::Resource;

    use super::*;

    fn pool(spec: &Value) -> PoolObject {
        serde_json::from_value(json!({
            "apiVersion": POOL_API_VERSION, "kind": "InClusterIPPool",
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "5", "labels": {"a": "b"},
                         "managedFields": [{"manager": "m"}]},
            "spec": spec, "status": {"later": 1},
        }))
        .expect("every stored pool reads")
    }

    #[test]
    fn a_spec_of_the_wrong_form_is_an_error_with_its_path_and_the_pool_still_reads() {
        for (spec, path) in [
            (json!({"addresses": "10.0.0.1"}), "spec.addresses"),
            (json!({"addresses": ["10.0.0.1", 7]}), "spec.addresses[1]"),
            (json!({"prefix": "24"}), "spec.prefix"),
            (json!({"allocateReservedIPAddresses": "yes"}), "spec.allocateReservedIPAddresses"),
            (json!([1]), "spec"),
        ] {
            assert_eq!(pool(&spec).address_spec().expect_err("must not decode").path, path, "{spec}");
        }
        let error = pool(&json!({"prefixes": {}})).prefix_spec().expect_err("must not decode");
        assert_eq!(error.path, "spec.prefixes");
    }

    #[test]
    fn a_pool_without_spec_decodes_to_an_empty_one() {
        let bare: PoolObject = serde_json::from_value(json!({"metadata": {"name": "p"}})).expect("decodes");
        assert_eq!(bare.address_spec(), Ok(AddressPoolSpec::default()));
        assert_eq!(bare.prefix_spec(), Ok(PrefixPoolSpec::default()));
        assert_eq!(bare.pool_status(), Ok(PoolStatus::default()));
    }

    #[test]
    fn an_error_in_the_status_names_the_intent() {
        let mut pool = pool(&json!({}));
        pool.status = Some(json!({"allocation": {"pending": [{"seq": 1}, {"seq": "2"}]}}));
        assert_eq!(pool.pool_status().expect_err("must not decode").path, "status.allocation.pending[1].seq");
    }

    #[test]
    fn a_status_body_names_the_exact_version_and_keeps_unknown_fields() {
        let mut status = pool(&json!({"addresses": []})).pool_status().expect("decodes");
        status.observed_generation = Some(2);
        let copy = CopyOf { uid: "u", resource_version: "5" };
        assert_eq!(
            status_body(PoolKind::InClusterIPPool, Some("ns"), "p", copy, &status),
            json!({
                "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
                "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "5"},
                "status": {"observedGeneration": 2, "later": 1},
            })
        );
        assert_eq!(
            status_body(PoolKind::GlobalInClusterIPPool, None, "p", copy, &status)["metadata"],
            json!({"name": "p", "uid": "u", "resourceVersion": "5"})
        );
    }

    #[test]
    fn annotations_count_whatever_their_value() {
        let annotated = |name: &str| {
            let mut pool = pool(&json!({}));
            pool.metadata.annotations = Some([(name.to_owned(), String::new())].into());
            (pool.is_paused(), pool.may_be_deleted_in_use())
        };
        assert_eq!(annotated("cluster.x-k8s.io/paused"), (true, false));
        assert_eq!(annotated("ipam.cluster.x-k8s.io/skip-validate-delete-webhook"), (false, true));
        assert_eq!(annotated("clusterctl.cluster.x-k8s.io/delete-for-move"), (false, true));
        assert_eq!(annotated("other"), (false, false));
    }

    #[test]
    fn a_pool_is_reached_by_the_resource_of_its_kind() {
        let resource = PoolKind::GlobalInClusterIPPool.api_resource();
        assert_eq!(
            PoolObject::url_path(&resource, None),
            "/apis/ipam.cluster.x-k8s.io/v1alpha2/globalinclusterippools"
        );
    }
}
