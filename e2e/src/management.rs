//! A management cluster: a control plane with Cluster API's own manager and webhooks, the product, and a cluster whose
//! infrastructure needs nobody; and clusterctl, which moves that cluster to another one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::chart::api_of;
use crate::control_plane::{ControlPlane, CoreManager, Options, Tools};
use crate::eventually::{NotYet, eventually};
use crate::manager::{self, Manager, ManagerOptions};
use crate::{crds, kinds};

/// Cluster API needs some rounds of its own, on a machine that is shared.
const PROVISIONED_WITHIN: Duration = Duration::from_mins(2);

/// What a cluster is made of, the version, and what says that it is there.
const PARTS: [(&str, &str, &str); 2] = [
    ("FakeCluster", "infrastructure.cluster.x-k8s.io/v1", "provisioned"),
    ("FakeControlPlane", "controlplane.cluster.x-k8s.io/v1", "controlPlaneInitialized"),
];

/// A running management cluster.
#[derive(Debug)]
pub struct Management {
    /// The servers.
    pub control_plane: ControlPlane,
    /// The product.
    pub manager: Manager,
    core: CoreManager,
}

impl Management {
    /// Starts all of it.
    pub async fn start(name: &str, tools: &Tools, manager: ManagerOptions) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::new(name).without_cluster_api()).await?;
        let core = CoreManager::start(&control_plane, &tools.core_manager).await?;
        let client = control_plane.admin_client().await?;
        let mut ours = tokio::task::spawn_blocking(|| crds::of_manager(&manager::program()?)).await??;
        for crd in &mut ours {
            // As clusterctl does with all that it installs: it moves only what it finds this label on.
            crd["metadata"]["labels"]["clusterctl.cluster.x-k8s.io"] = json!("");
        }
        crds::install(&client, &ours).await?;
        crds::install(&client, &infrastructure()).await?;
        let manager = Manager::start_ready(&control_plane, manager).await?;
        Ok(Self { control_plane, manager, core })
    }

    /// An administrator's client.
    pub async fn client(&self) -> Result<Client> {
        self.control_plane.admin_client().await
    }

    /// The file of the log of Cluster API's manager.
    pub fn core_log(&self) -> &Path {
        self.core.log()
    }

    /// Creates a cluster, and waits until it is provisioned.
    pub async fn provision(&self, namespace: &str, name: &str) -> Result<DynamicObject> {
        let client = self.client().await?;
        ensure_namespace(&client, namespace).await?;
        let endpoint = json!({ "host": "192.0.2.10", "port": 6443 });
        let part = |kind: &str, spec: Value| {
            json!({
                "apiVersion": PARTS.iter().find(|part| part.0 == kind).map_or("cluster.x-k8s.io/v1beta2", |part| part.1),
                "kind": kind, "metadata": { "name": name, "namespace": namespace }, "spec": spec,
            })
        };
        let reference = |kind: &str, group: &str| json!({ "apiGroup": group, "kind": kind, "name": name });
        let spec = json!({
            "clusterNetwork": { "pods": { "cidrBlocks": ["192.168.0.0/16"] } },
            "infrastructureRef": reference("FakeCluster", "infrastructure.cluster.x-k8s.io"),
            "controlPlaneRef": reference("FakeControlPlane", "controlplane.cluster.x-k8s.io"),
        });
        for object in [
            part("FakeCluster", json!({ "controlPlaneEndpoint": endpoint })),
            part("FakeControlPlane", json!({})),
            part("Cluster", spec),
        ] {
            let (api, _) = api_of(&client, &object)?;
            let what = object["kind"].to_string();
            api.create(&PostParams::default(), &serde_json::from_value(object)?)
                .await
                .with_context(|| format!("creating the {what} {name}"))?;
        }
        self.initialize(namespace, name).await
    }

    /// Does what the providers of a real infrastructure do with an object that is new here: its status says that the
    /// machines are there. Waits until the cluster says so, too.
    pub async fn initialize(&self, namespace: &str, name: &str) -> Result<DynamicObject> {
        let client = self.client().await?;
        for (kind, version, what) in PARTS {
            let named = json!({
                "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": namespace },
            });
            let (api, _) = api_of(&client, &named)?;
            let status = Patch::Merge(json!({ "status": { "initialization": { what: true } } }));
            api.patch_status(name, &PatchParams::default(), &status).await.with_context(|| format!("the {kind}"))?;
        }
        let clusters: Api<DynamicObject> = Api::namespaced_with(client, namespace, &kinds::cluster());
        eventually("the cluster is provisioned", PROVISIONED_WITHIN, || async {
            let cluster = clusters.get(name).await?;
            let status = &cluster.data["status"];
            let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let initialized =
                conditions.iter().any(|c| c["type"] == "ControlPlaneInitialized" && c["status"] == "True");
            if status["initialization"]["infrastructureProvisioned"] == true && initialized {
                Ok(cluster)
            } else {
                Err(NotYet::because(status.to_string()))
            }
        })
        .await
    }
}

/// Creates a namespace where it is missing.
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let (api, _) = api_of(client, &namespace)?;
    api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(&namespace)).await?;
    Ok(())
}

/// How an object names the cluster that owns it.
pub fn owned_by(cluster: &DynamicObject) -> Value {
    json!([{
        "apiVersion": kinds::cluster().api_version, "kind": "Cluster",
        "name": cluster.metadata.name, "uid": cluster.metadata.uid,
    }])
}

/// Two kinds that accept everything and that nobody works on.
fn infrastructure() -> Vec<Value> {
    let kind = |group: &str, kind: &str| {
        let (lower, group) = (kind.to_lowercase(), format!("{group}.cluster.x-k8s.io"));
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{lower}s.{group}"),
                "labels": {
                    "cluster.x-k8s.io/v1beta2": "v1", "cluster.x-k8s.io/provider": "infrastructure-fake",
                    "clusterctl.cluster.x-k8s.io": "",
                },
            },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": { "kind": kind, "plural": format!("{lower}s"), "singular": lower, "listKind": format!("{kind}List") },
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": schema },
                }],
            },
        })
    };
    vec![kind("infrastructure", "FakeCluster"), kind("controlplane", "FakeControlPlane")]
}

/// Runs `clusterctl move`; fails with what it says.
pub fn clusterctl_move(tools: &Tools, arguments: &[&str]) -> Result<String> {
    let home = tempfile::tempdir().context("making a folder for clusterctl")?;
    let output = Command::new(&tools.clusterctl)
        .arg("move")
        .args(arguments)
        .args(["-v", "3"])
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        // It would ask GitHub.
        .env("CLUSTERCTL_DISABLE_VERSIONCHECK", "true")
        .env_remove("KUBECONFIG")
        .output()
        .context("starting clusterctl")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("clusterctl move {} ({}):\n{said}", arguments.join(" "), output.status);
    }
    Ok(said)
}
