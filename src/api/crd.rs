//! The custom resource definitions of the pools, generated from the types.
//!
//! The types say what is right for Rust; a CRD must say exactly what the provider that this one replaces said, so that
//! the same objects are accepted, refused and pruned. What the derive adds beyond that is taken off here.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResourceExt, core::crd::merge_crds};
use serde_json::Value;

use super::{
    names::{MOVE_HIERARCHY_LABEL, PROVIDER, PROVIDER_LABEL, PoolKind, V1ALPHA2},
    v1alpha1, v1alpha2,
};

/// The formats that the schemas name. int64 is not one of them: an integer without a format is as large.
const FORMATS: [&str; 2] = ["int32", "date-time"];

/// The four CRDs, in the order of [`PoolKind::ALL`], without a conversion stanza: chart and components add it.
pub fn crds() -> Vec<CustomResourceDefinition> {
    PoolKind::ALL.into_iter().map(crd).collect()
}

fn crd(kind: PoolKind) -> CustomResourceDefinition {
    let versions = match kind {
        PoolKind::InClusterIPPool => vec![v1alpha1::InClusterIPPool::crd(), v1alpha2::InClusterIPPool::crd()],
        PoolKind::GlobalInClusterIPPool => {
            vec![v1alpha1::GlobalInClusterIPPool::crd(), v1alpha2::GlobalInClusterIPPool::crd()]
        }
        PoolKind::InClusterPrefixPool => vec![v1alpha2::InClusterPrefixPool::crd()],
        PoolKind::GlobalInClusterPrefixPool => vec![v1alpha2::GlobalInClusterPrefixPool::crd()],
    };
    let mut crd =
        merge_crds(versions, V1ALPHA2).expect("both versions are derived with the same group, kind and scope");
    // Not by the derive: it would label every pool that is made with `new` too, and clusterctl looks at those labels.
    let labels = [(MOVE_HIERARCHY_LABEL, ""), (PROVIDER_LABEL, PROVIDER)];
    crd.metadata.labels = Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    crd.spec.names.list_kind = Some(format!("{kind}List"));
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns(kind, &version.name));
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            // A pool without spec is stored and reported as invalid; refusing it would refuse what is stored already.
            root.required = None;
            simplify(root);
        }
    }
    crd
}

/// What `kubectl get` shows.
fn columns(kind: PoolKind, version: &str) -> Vec<CustomResourceColumnDefinition> {
    let column = |name: &str, type_: &str, json_path: &str, description: &str| CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: json_path.to_owned(),
        description: Some(description.to_owned()),
        ..CustomResourceColumnDefinition::default()
    };
    let total = column("Total", "integer", ".status.ipAddresses.total", "How many can be allocated");
    let free = column("Free", "integer", ".status.ipAddresses.free", "How many of them are free");
    let used = column("Used", "integer", ".status.ipAddresses.used", "How many are in use");
    let addresses = column("Addresses", "string", ".spec.addresses", "Addresses to allocate from");
    if version != V1ALPHA2 {
        let subnet = column("Subnet", "string", ".spec.subnet", "Network to allocate from");
        let first = column("First", "string", ".spec.start", "First address to allocate");
        let last = column("Last", "string", ".spec.end", "Last address to allocate");
        return vec![subnet, first, last, addresses, total, free, used];
    }
    let prefixes = column("Prefixes", "string", ".spec.prefixes", "Networks to allocate from");
    let ready_path = ".status.conditions[?(@.type=='Ready')].status";
    let ready = column("Ready", "string", ready_path, "Whether the pool can be allocated from");
    let age = column("Age", "date", ".metadata.creationTimestamp", "Time since the pool was created");
    vec![if kind.is_prefix() { prefixes } else { addresses }, total, free, used, ready, age]
}

/// Takes off what describes the Rust type and not the API: titles, nullable, integer widths, empty defaults.
fn simplify(schema: &mut JSONSchemaProps) {
    schema.title = None;
    schema.nullable = None;
    schema.format = schema.format.take().filter(|format| FORMATS.contains(&format.as_str()));
    // Doc comments are wrapped for the source, not for `kubectl explain`.
    schema.description = schema.description.take().map(|text| text.replace('\n', " "));
    schema.default = schema.default.take().filter(|default| !is_empty(&default.0));
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        simplify(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        simplify(items);
    }
}

/// Whether this is what Rust fills in for an absent field. The API leaves it absent.
fn is_empty(default: &Value) -> bool {
    match default {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

/// One CRD as a YAML document.
///
/// # Panics
///
/// If the CRD cannot be written as JSON; each of [`crds`] can.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(crd).expect("a CRD has only string keys");
    whole_numbers(&mut value);
    serde_saphyr::to_string(&value).expect("JSON is YAML")
}

/// All CRDs as a stream of YAML documents, the same bytes every time.
pub fn crds_yaml() -> String {
    crds().iter().flat_map(|crd| ["---\n".to_owned(), crd_yaml(crd)]).collect()
}

/// Bounds are floating-point in the CRD types; `128`, not `128.0`, is what people write and diff against.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e9);
            if let Some(whole) = whole {
                #[expect(clippy::cast_possible_truncation, reason = "a whole number below 1e9")]
                let whole = whole as i64;
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionVersion;
    use serde_json::json;

    use super::*;

    fn versions() -> Vec<(String, CustomResourceDefinitionVersion)> {
        let named = |crd: CustomResourceDefinition| {
            let kind = crd.spec.names.kind;
            crd.spec.versions.into_iter().map(move |version| (format!("{kind}/{}", version.name), version))
        };
        crds().into_iter().flat_map(named).collect()
    }

    fn schema(version: &CustomResourceDefinitionVersion) -> Value {
        serde_json::to_value(&version.schema.as_ref().expect("a schema").open_api_v3_schema).expect("renders")
    }

    /// Every node of the schemas, with its path.
    fn nodes() -> BTreeMap<String, Value> {
        fn walk(path: String, node: &Value, nodes: &mut BTreeMap<String, Value>) {
            for (name, property) in node["properties"].as_object().into_iter().flatten() {
                walk(format!("{path}.{name}"), property, nodes);
            }
            if node["items"].is_object() {
                walk(format!("{path}[]"), &node["items"], nodes);
            }
            nodes.insert(path, node.clone());
        }
        let mut nodes = BTreeMap::new();
        for (name, version) in versions() {
            walk(name, &schema(&version), &mut nodes);
        }
        nodes
    }

    /// What a keyword says, wherever a schema has it; status is left out, as it is the same in all.
    fn spec_keyword(keyword: &str) -> BTreeMap<String, Value> {
        let nodes = nodes().into_iter().filter(|(path, _)| !path.contains(".status"));
        nodes.filter_map(|(path, node)| node.get(keyword).map(|value| (path, value.clone()))).collect()
    }

    fn keyed<const N: usize>(entries: [(&str, Value); N]) -> BTreeMap<String, Value> {
        entries.into_iter().map(|(path, value)| (path.to_owned(), value)).collect()
    }

    #[test]
    fn kinds_scopes_and_versions_are_those_of_the_contract() {
        for (kind, crd) in PoolKind::ALL.into_iter().zip(crds()) {
            let plural = kind.plural();
            assert_eq!(crd.metadata.name, Some(format!("{plural}.ipam.cluster.x-k8s.io")));
            assert_eq!(crd.spec.names.kind, kind.kind());
            assert_eq!(crd.spec.names.plural, plural);
            assert_eq!(crd.spec.names.categories, Some(vec!["cluster-api".to_owned()]));
            assert_eq!(crd.spec.scope, if kind.is_global() { "Cluster" } else { "Namespaced" });
            assert_eq!(crd.spec.conversion, None);
            let labels = crd.metadata.labels.expect("labels");
            assert_eq!(labels["clusterctl.cluster.x-k8s.io/move-hierarchy"], "");
            assert_eq!(labels["cluster.x-k8s.io/provider"], "ipam-in-cluster");

            let versions: Vec<_> =
                crd.spec.versions.iter().map(|v| (v.name.as_str(), v.served, v.storage, v.deprecated)).collect();
            let current = ("v1alpha2", true, true, None);
            let old = ("v1alpha1", true, false, Some(true));
            assert_eq!(versions, if kind.is_prefix() { vec![current] } else { vec![current, old] });
        }
    }

    #[test]
    fn a_deprecated_version_says_what_to_use() {
        for (name, version) in versions() {
            assert_eq!(version.deprecation_warning.is_some(), version.name == "v1alpha1", "{name}");
            assert!(version.subresources.expect("subresources").status.is_some(), "{name}");
        }
    }

    #[test]
    fn only_these_fields_are_required() {
        let address = json!(["addresses", "prefix"]);
        let prefix = json!(["prefixes"]);
        assert_eq!(
            spec_keyword("required"),
            keyed([
                ("InClusterIPPool/v1alpha2.spec", address.clone()),
                ("GlobalInClusterIPPool/v1alpha2.spec", address),
                ("InClusterPrefixPool/v1alpha2.spec", prefix.clone()),
                ("GlobalInClusterPrefixPool/v1alpha2.spec", prefix),
            ])
        );
    }

    #[test]
    fn the_bounds_are_the_originals() {
        let prefix = "prefix";
        assert_eq!(
            spec_keyword("minimum"),
            keyed([
                (&format!("InClusterIPPool/v1alpha2.spec.{prefix}"), json!(0.0)),
                (&format!("GlobalInClusterIPPool/v1alpha2.spec.{prefix}"), json!(0.0)),
                ("InClusterIPPool/v1alpha2.spec.addressReuseGracePeriodSeconds", json!(0.0)),
                ("GlobalInClusterIPPool/v1alpha2.spec.addressReuseGracePeriodSeconds", json!(0.0)),
                ("InClusterPrefixPool/v1alpha2.spec.allocationPrefixLength", json!(1.0)),
                ("GlobalInClusterPrefixPool/v1alpha2.spec.allocationPrefixLength", json!(1.0)),
            ])
        );
        assert_eq!(
            spec_keyword("maximum"),
            keyed([
                ("InClusterIPPool/v1alpha1.spec.prefix", json!(128.0)),
                ("GlobalInClusterIPPool/v1alpha1.spec.prefix", json!(128.0)),
                ("InClusterIPPool/v1alpha2.spec.prefix", json!(128.0)),
                ("GlobalInClusterIPPool/v1alpha2.spec.prefix", json!(128.0)),
                ("InClusterPrefixPool/v1alpha2.spec.allocationPrefixLength", json!(128.0)),
                ("GlobalInClusterPrefixPool/v1alpha2.spec.allocationPrefixLength", json!(128.0)),
            ])
        );
    }

    #[test]
    fn the_only_default_is_the_allocation_prefix_length() {
        let defaults: Vec<_> =
            nodes().into_iter().filter_map(|(path, node)| node.get("default").map(|d| (path, d.clone()))).collect();
        assert_eq!(
            defaults,
            [
                ("GlobalInClusterPrefixPool/v1alpha2.spec.allocationPrefixLength".to_owned(), json!(64)),
                ("InClusterPrefixPool/v1alpha2.spec.allocationPrefixLength".to_owned(), json!(64)),
            ]
        );
    }

    #[test]
    fn nothing_is_nullable_preserved_composed_or_checked_by_rules() {
        let allowed = [
            "type",
            "description",
            "properties",
            "items",
            "required",
            "minimum",
            "maximum",
            "default",
            "format",
            "enum",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        for (path, node) in nodes() {
            for keyword in node.as_object().expect("a schema").keys() {
                assert!(allowed.contains(&keyword.as_str()), "{path} has {keyword}");
            }
            assert!(node["type"].is_string(), "{path} has no type");
        }
        for (path, format) in spec_keyword("format") {
            assert!(path.ends_with(".addressReuseGracePeriodSeconds") && format == "int32", "{path}: {format}");
        }
        assert_eq!(spec_keyword("enum"), BTreeMap::new());
    }

    #[test]
    fn the_spec_fields_are_those_of_the_contract() {
        let fields = |path: &str| -> Vec<String> {
            let node = nodes().remove(path).expect("a spec");
            node["properties"].as_object().expect("properties").keys().cloned().collect()
        };
        for scope in ["", "Global"] {
            let mut current = fields(&format!("{scope}InClusterIPPool/v1alpha2.spec"));
            current.sort();
            assert_eq!(
                current,
                [
                    "addressReuseGracePeriodSeconds",
                    "addresses",
                    "allocateReservedIPAddresses",
                    "excludedAddresses",
                    "gateway",
                    "prefix"
                ]
            );
            let mut old = fields(&format!("{scope}InClusterIPPool/v1alpha1.spec"));
            old.sort();
            assert_eq!(old, ["addresses", "end", "gateway", "prefix", "start", "subnet"]);
            let mut prefixes = fields(&format!("{scope}InClusterPrefixPool/v1alpha2.spec"));
            prefixes.sort();
            assert_eq!(prefixes, ["allocationPrefixLength", "excludedPrefixes", "gateway", "prefixes"]);
        }
    }

    #[test]
    fn every_version_has_the_whole_status() {
        let nodes = nodes();
        let reference = &nodes["InClusterIPPool/v1alpha2.status"];
        for (name, _) in versions() {
            assert_eq!(&nodes[&format!("{name}.status")], reference, "{name}");
        }
        assert_eq!(reference["required"], Value::Null);
        let properties = &reference["properties"];
        assert_eq!(properties["ipAddresses"]["required"], json!(["free", "outOfRange", "total", "used"]));
        assert_eq!(properties["conditions"]["x-kubernetes-list-type"], "map");
        assert_eq!(properties["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
        assert_eq!(
            properties["conditions"]["items"]["required"],
            json!(["lastTransitionTime", "message", "reason", "status", "type"])
        );
        let allocation = &properties["allocation"];
        assert_eq!(allocation["required"], Value::Null);
        assert_eq!(allocation["properties"]["pending"]["x-kubernetes-list-type"], "atomic");
        assert_eq!(allocation["properties"]["senders"]["x-kubernetes-list-type"], "atomic");
        assert_eq!(allocation["properties"]["seq"]["type"], "integer");
        let intent = &allocation["properties"]["pending"]["items"];
        for (field, of_type) in [
            ("address", "string"),
            ("claim", "string"),
            ("claimUID", "string"),
            ("seq", "integer"),
            ("senders", "array"),
        ] {
            assert_eq!(intent["properties"][field]["type"], of_type, "{field}");
        }
        assert_eq!(intent["required"], Value::Null);
    }

    #[test]
    fn the_columns_are_those_of_the_contract() {
        for (name, version) in versions() {
            let columns = version.additional_printer_columns.expect("columns");
            let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
            let expected: &[&str] = match name.split_once('/').expect("kind/version") {
                (_, "v1alpha1") => &["Subnet", "First", "Last", "Addresses", "Total", "Free", "Used"],
                (kind, _) if kind.ends_with("PrefixPool") => &["Prefixes", "Total", "Free", "Used", "Ready", "Age"],
                _ => &["Addresses", "Total", "Free", "Used", "Ready", "Age"],
            };
            assert_eq!(names, expected, "{name}");
            let nodes = nodes();
            for column in columns.iter().filter(|column| !["Ready", "Age"].contains(&column.name.as_str())) {
                assert!(nodes.contains_key(&format!("{name}{}", column.json_path)), "{name}: {}", column.json_path);
            }
        }
    }

    #[test]
    fn the_yaml_reads_back_as_the_same_crds() {
        let yaml = crds_yaml();
        assert_eq!(yaml, crds_yaml());
        let read: Vec<CustomResourceDefinition> = yaml
            .split("---\n")
            .filter(|document| !document.is_empty())
            .map(|document| serde_saphyr::from_str(document).expect("a CRD"))
            .collect();
        assert_eq!(read, crds());
        assert!(!yaml.contains("128.0"), "bounds are whole numbers");
    }
}
