//! Decoding that takes what a server can store: null for absent, metadata without managedFields, errors with a path.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A value that is not of the form that its field has to have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct DecodeError {
    /// The field, from the object's root: `spec.addresses[2]`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Decodes the field `root` of an object, itself an object; absent and null are the default.
pub fn decode<T>(root: &str, value: Option<&Value>) -> Result<T, DecodeError>
where
    T: Default + for<'de> Deserialize<'de>,
{
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(T::default());
    };
    if !value.is_object() {
        // Serde would also take an array, one item per field.
        return Err(DecodeError { path: root.to_owned(), message: "expected an object".to_owned() });
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let path = match below.as_str() {
            "." => root.to_owned(),
            _ => format!("{root}.{below}"),
        };
        DecodeError { path, message: error.into_inner().to_string() }
    })
}

/// For `deserialize_with`: null, and an absent field too where the type is the root's own, are the default.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// For `deserialize_with`: metadata of a watched object.
///
/// managedFields are skipped while reading, not dropped afterwards: with tens of thousands of objects, building them
/// is most of the cost of a list.
pub(super) fn slim_metadata<'de, D>(deserializer: D) -> Result<ObjectMeta, D::Error>
where
    D: Deserializer<'de>,
{
    let SlimMetadata {
        annotations,
        creation_timestamp,
        deletion_grace_period_seconds,
        deletion_timestamp,
        finalizers,
        generate_name,
        generation,
        labels,
        name,
        namespace,
        owner_references,
        resource_version,
        uid,
    } = Option::deserialize(deserializer)?.unwrap_or_default();
    Ok(ObjectMeta {
        annotations,
        creation_timestamp,
        deletion_grace_period_seconds,
        deletion_timestamp,
        finalizers,
        generate_name,
        generation,
        labels,
        managed_fields: None,
        name,
        namespace,
        owner_references,
        resource_version,
        self_link: None,
        uid,
    })
}

/// [`ObjectMeta`] less managedFields and selfLink. Serde ignores the fields of a struct that it does not know.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMetadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Named {
        #[serde(deserialize_with = "slim_metadata", default)]
        metadata: ObjectMeta,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Listed {
        #[serde(default)]
        entries: Vec<String>,
    }

    #[test]
    fn metadata_keeps_everything_but_managed_fields() {
        let full = json!({
            "annotations": {"a": "1"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionGracePeriodSeconds": 0,
            "deletionTimestamp": "2026-01-02T03:04:06Z",
            "finalizers": ["f"],
            "generateName": "n-",
            "generation": 3,
            "labels": {"l": "2"},
            "name": "n",
            "namespace": "ns",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}],
            "resourceVersion": "17",
            "uid": "uid",
        });
        let mut stored = full.clone();
        // Not the shape of managedFields at all: it must not even be looked at.
        stored["managedFields"] = json!({"deep": [1, {"er": null}]});
        stored["selfLink"] = json!("/gone");
        let read: Named = serde_json::from_value(json!({"metadata": stored})).expect("metadata decodes");
        assert_eq!(serde_json::to_value(&read.metadata).expect("metadata renders"), full);
    }

    #[test]
    fn absent_and_null_metadata_are_empty() {
        for object in [json!({}), json!({"metadata": null}), json!({"metadata": {}})] {
            let read: Named = serde_json::from_value(object).expect("metadata decodes");
            assert_eq!(read.metadata, ObjectMeta::default());
        }
    }

    #[test]
    fn an_error_names_the_field_from_the_root_of_the_object() {
        for (value, message) in [
            (json!({"entries": ["a", 5]}), "spec.entries[1]: invalid type: integer `5`, expected a string"),
            (json!({"entries": 5}), "spec.entries: invalid type: integer `5`, expected a sequence"),
            (json!("text"), "spec: expected an object"),
            (json!([]), "spec: expected an object"),
        ] {
            let error = decode::<Listed>("spec", Some(&value)).expect_err("must not decode");
            assert_eq!(error.to_string(), message, "{value}");
        }
    }

    #[test]
    fn absent_and_null_decode_to_the_default() {
        assert_eq!(decode::<Listed>("spec", None), Ok(Listed::default()));
        assert_eq!(decode::<Listed>("spec", Some(&Value::Null)), Ok(Listed::default()));
    }
}
