//! Discovery documents: which groups, versions and resources are served now.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use kube::core::Version;
use serde_json::{Value, json};

use super::store::State;

/// The document under `path`, if it is one of discovery's.
pub(super) fn document(state: &State, path: &str) -> Option<Value> {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["version"] => Some(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: BTreeSet<_> = state.tables.iter().map(|table| table.resource.group).collect();
            let groups: Vec<_> = groups.into_iter().filter_map(|group| api_group(state, group)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] => {
            let mut document = api_group(state, group)?;
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            Some(document)
        }
        ["api", version] => api_resources(state, "", version),
        ["apis", group, version] => api_resources(state, group, version),
        _ => None,
    }
}

/// `None` for the core group, which has a document of its own, and for groups without served resources.
fn api_group(state: &State, group: &str) -> Option<Value> {
    let of_group = state.tables.iter().filter(|table| table.resource.group == group);
    let versions: BTreeSet<_> = of_group.flat_map(|table| table.served.iter().copied()).collect();
    if group.is_empty() || versions.is_empty() {
        return None;
    }
    let mut versions: Vec<_> = versions.into_iter().collect();
    versions.sort_by_key(|version| Reverse(Version::parse(version).priority()));
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<_> = versions.iter().map(version).collect();
    Some(json!({"name": group, "preferredVersion": versions[0], "versions": versions}))
}

fn api_resources(state: &State, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    let mut group_version = String::new();
    for table in &state.tables {
        let resource = &table.resource;
        if resource.group != group || !table.served.contains(&version) {
            continue;
        }
        group_version = resource.api_version(version);
        let common = json!({
            "name": resource.plural, "singularName": resource.kind.to_lowercase(), "kind": resource.kind,
            "namespaced": resource.namespaced,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        });
        let mut status = common.clone();
        resources.push(common);
        if resource.status_subresource {
            status["name"] = json!(format!("{}/status", resource.plural));
            status["singularName"] = json!("");
            status["verbs"] = json!(["get", "patch", "update"]);
            resources.push(status);
        }
    }
    let document = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    });
    (!resources.is_empty()).then_some(document)
}
