//! The kinds that belong to Cluster API core: `Cluster`, `IPAddressClaim`, `IPAddress`.
//!
//! Their CRDs come out of Cluster API's own Go module, with what clusterctl and Cluster API's release add: labels. Its
//! webhooks are not here, so versions are converted by changing `apiVersion` alone.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{go, programs, versions};
use crate::folders;

const FILES: [&str; 3] = [
    "cluster.x-k8s.io_clusters.yaml",
    "ipam.cluster.x-k8s.io_ipaddressclaims.yaml",
    "ipam.cluster.x-k8s.io_ipaddresses.yaml",
];

/// The three CRDs, from the cache or the module.
pub fn crds() -> Result<Vec<Value>> {
    let folder = folders::cache()?.join("control-plane");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join(format!("cluster-api-crds-{}.json", versions::CLUSTER_API));
    if !path.is_file() {
        let _lock = programs::lock(&folder)?;
        if !path.is_file() {
            let crds = from_module()?;
            let partial = path.with_extension(format!("partial-{}", std::process::id()));
            std::fs::write(&partial, serde_json::to_vec(&crds)?)
                .with_context(|| format!("writing {}", partial.display()))?;
            std::fs::rename(&partial, &path).with_context(|| format!("moving {} into place", path.display()))?;
        }
    }
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("parsing {}; remove it to have it made again", path.display()))
}

fn from_module() -> Result<Vec<Value>> {
    let folder = go::source(&format!("sigs.k8s.io/cluster-api@v{}", versions::CLUSTER_API))?.join("config/crd/bases");
    FILES
        .iter()
        .map(|file| {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let crd: Value = serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
            Ok(as_installed(crd))
        })
        .collect()
}

/// What a management cluster has after `clusterctl init`, without the webhook.
fn as_installed(mut crd: Value) -> Value {
    label(&mut crd);
    crd["spec"]["conversion"] = json!({ "strategy": "None" });
    crd
}

/// With the labels that Cluster API's release and clusterctl add.
pub(super) fn label(crd: &mut Value) {
    crd["metadata"]["labels"] = json!({
        "cluster.x-k8s.io/provider": "cluster-api",
        "cluster.x-k8s.io/v1beta1": "v1beta1",
        "cluster.x-k8s.io/v1beta2": "v1beta2",
        "clusterctl.cluster.x-k8s.io": "",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_webhook_is_replaced_by_none() {
        let crd = as_installed(json!({
            "metadata": { "name": "x" },
            "spec": { "conversion": { "strategy": "Webhook", "webhook": {} } },
        }));
        assert_eq!(crd["spec"]["conversion"], json!({ "strategy": "None" }));
        assert_eq!(crd["metadata"]["labels"]["clusterctl.cluster.x-k8s.io"], "");
    }
}
