//! Kubeconfig files: how other programs find the API server and who they are there.

use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use super::certificates::Identity;

/// Writes one for a client certificate, complete in itself.
pub(super) fn write(path: &Path, server: &str, authority: &str, identity: &Identity) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "e2e",
            "cluster": { "server": server, "certificate-authority-data": base64(authority)? },
        }],
        "users": [{
            "name": "admin",
            "user": {
                "client-certificate-data": base64(&identity.certificate)?,
                "client-key-data": base64(&identity.key)?,
            },
        }],
        "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": "admin" } }],
        "current-context": "e2e",
    });
    write_private(path, &serde_saphyr::to_string(&config).context("writing a kubeconfig as YAML")?)
}

/// The same server for another user: the kubeconfig `from`, with everybody's credentials replaced by a bearer token.
pub fn with_token(from: &Path, to: &Path, token: &str) -> Result<()> {
    let config = Kubeconfig::read_from(from).with_context(|| format!("reading the kubeconfig {}", from.display()))?;
    let mut config = serde_json::to_value(&config).context("taking the kubeconfig apart")?;
    let current = config["current-context"].as_str().context("the kubeconfig has no current context")?.to_owned();
    let mut context = named(&config, "contexts", &current)?.clone();
    let cluster = named(&config, "clusters", context["context"]["cluster"].as_str().unwrap_or_default())?.clone();
    context["context"]["user"] = json!("token");
    config["clusters"] = json!([cluster]);
    config["contexts"] = json!([context]);
    config["users"] = json!([{ "name": "token", "user": { "token": token } }]);
    write_private(to, &serde_saphyr::to_string(&config).context("writing a kubeconfig as YAML")?)
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value> {
    config[list]
        .as_array()
        .and_then(|entries| entries.iter().find(|entry| entry["name"] == name))
        .with_context(|| format!("the kubeconfig has no {name:?} among its {list}"))
}

fn base64(text: &str) -> Result<Value> {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).context("encoding as base64")
}

/// Writes a file that only the current user may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
