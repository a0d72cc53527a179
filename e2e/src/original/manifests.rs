//! What its release installs: kinds without the fields that are ours, and rights without those that only we need.

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::chart::{Release, api_of};
use crate::kinds::{GROUP, PoolKind};

/// The fields of a pool's status that its kinds do not have.
pub const OURS: [&str; 3] = ["allocation", "conditions", "observedGeneration"];

/// Its kinds, made from ours: the same ones without [`OURS`].
pub fn crds(ours: &[Value]) -> Vec<Value> {
    ours.iter().cloned().map(without_our_fields).collect()
}

/// Its kinds before there were prefix pools.
pub fn crds_without_prefix_pools(ours: &[Value]) -> Vec<Value> {
    let is_prefix = |crd: &Value| crd["spec"]["names"]["kind"].as_str().is_some_and(|kind| kind.contains("Prefix"));
    crds(ours).into_iter().filter(|crd| !is_prefix(crd)).collect()
}

fn without_our_fields(mut crd: Value) -> Value {
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let status = &mut version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
        for field in OURS {
            status.as_object_mut().map(|fields| fields.remove(field));
        }
        if let Some(columns) = version["additionalPrinterColumns"].as_array_mut() {
            columns.retain(|column| column["name"] != "Ready");
        }
    }
    crd
}

/// What everything that `clusterctl` has installed of it is found by.
pub const LABEL: (&str, &str) = ("cluster.x-k8s.io/provider", "ipam-in-cluster");

/// Its service account and namespace.
pub fn release() -> Release {
    Release {
        name: "capi-ipam-in-cluster-controller-manager".to_owned(),
        namespace: "capi-ipam-in-cluster-system".to_owned(),
    }
}

/// Installs its service account with its rights. `kinds`: the pools that it knows.
pub async fn install_rights(client: &Client, kinds: &[PoolKind]) -> Result<()> {
    for manifest in rights(&release(), kinds) {
        let (api, name) = api_of(client, &manifest)?;
        api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&manifest))
            .await
            .with_context(|| format!("installing {} {name}", manifest["kind"]))?;
    }
    Ok(())
}

fn rights(release: &Release, kinds: &[PoolKind]) -> Vec<Value> {
    let (namespace, account) = (&release.namespace, &release.name);
    let plurals = |part: &str| kinds.iter().map(|kind| format!("{}{part}", kind.resource().plural)).collect::<Vec<_>>();
    let all = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let rule = |resources: Value, verbs: Value| json!({ "apiGroups": [GROUP], "resources": resources, "verbs": verbs });
    let rules = json!([
        { "apiGroups": ["cluster.x-k8s.io"], "resources": ["clusters"], "verbs": ["get", "list", "watch"] },
        rule(json!(plurals("")), json!(all)),
        rule(json!(plurals("/finalizers")), json!(["update"])),
        rule(json!(plurals("/status")), json!(["get", "patch", "update"])),
        rule(json!(["ipaddressclaims"]), json!(["get", "list", "patch", "update", "watch"])),
        rule(json!(["ipaddressclaims/finalizers", "ipaddresses/finalizers"]), json!(["update"])),
        rule(json!(["ipaddressclaims/status", "ipaddresses/status"]), json!(["get", "patch", "update"])),
        rule(json!(["ipaddresses"]), json!(all)),
    ]);
    let election = json!([
        { "apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"],
          "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"] },
        { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
    ]);
    let subjects = json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }]);
    let rbac = "rbac.authorization.k8s.io";
    let reference = |kind: &str, name: &str| json!({ "apiGroup": rbac, "kind": kind, "name": name });
    let (manager, leader) = ("capi-ipam-in-cluster-manager-role", "capi-ipam-in-cluster-leader-election-role");
    let version = format!("{rbac}/v1");
    let mut manifests = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": namespace } }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": manager }, "rules": rules }),
        json!({ "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": { "name": manager },
                "roleRef": reference("ClusterRole", manager), "subjects": subjects }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": { "name": leader, "namespace": namespace }, "rules": election }),
        json!({ "apiVersion": version, "kind": "RoleBinding", "metadata": { "name": leader, "namespace": namespace },
                "roleRef": reference("Role", leader), "subjects": subjects }),
    ];
    for manifest in &mut manifests {
        manifest["metadata"]["labels"] = json!({ LABEL.0: LABEL.1 });
    }
    manifests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_fields_of_status_are_left_out() {
        let status = json!({ "ipAddresses": {}, "allocation": {}, "conditions": {}, "observedGeneration": {} });
        let ours = json!({ "spec": { "names": { "kind": "InClusterIPPool" }, "versions": [{
            "schema": { "openAPIV3Schema": { "properties": { "status": { "properties": status } } } },
            "additionalPrinterColumns": [{ "name": "Free" }, { "name": "Ready" }],
        }] } });
        let theirs = crds(&[ours]).remove(0);
        let version = &theirs["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
        assert_eq!(*schema, json!({ "ipAddresses": {} }));
        assert_eq!(version["additionalPrinterColumns"], json!([{ "name": "Free" }]));
    }
}
