//! Installs CRDs and waits until their kinds are served.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// A server that has just learnt a kind answers 404 and 429 for a moment; on two busy cores that can last.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The product's own CRDs, as its program prints them.
pub fn of_manager(program: &Path) -> Result<Vec<Value>> {
    let output = std::process::Command::new(program)
        .arg("crds")
        .output()
        .with_context(|| format!("running {} crds", program.display()))?;
    if !output.status.success() {
        bail!("{} crds ({}): {}", program.display(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("reading the CRDs that the manager prints")?;
    let crds: Vec<Value> = serde_saphyr::from_multiple(&text).context("parsing the CRDs that the manager prints")?;
    if crds.is_empty() {
        bail!("{} crds prints nothing", program.display());
    }
    Ok(crds)
}

/// Installs those that are missing, leaves those that exist as they are, and waits until all are served. Returns the
/// names of the installed ones.
pub async fn install_missing(client: &Client, crds: &[Value]) -> Result<Vec<String>> {
    let existing: Api<CustomResourceDefinition> = Api::all(client.clone());
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let mut installed = Vec::new();
    for crd in crds {
        let name = crd["metadata"]["name"].as_str().context("a CRD without a name")?;
        if existing.get_metadata_opt(name).await.with_context(|| format!("looking for the CRD {name}"))?.is_none() {
            api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(crd))
                .await
                .with_context(|| format!("installing the CRD {name}"))?;
            installed.push(name.to_owned());
        }
    }
    for crd in crds {
        wait_until_served(client, crd).await?;
    }
    Ok(installed)
}

/// Installs them over those that exist, as an update does, and waits until all are served.
pub async fn install(client: &Client, crds: &[Value]) -> Result<()> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    for crd in crds {
        let name = crd["metadata"]["name"].as_str().context("a CRD without a name")?;
        api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(crd))
            .await
            .with_context(|| format!("installing the CRD {name}"))?;
    }
    for crd in crds {
        wait_until_served(client, crd).await?;
    }
    Ok(())
}

async fn wait_until_served(client: &Client, crd: &Value) -> Result<()> {
    let (group, plural) = (&crd["spec"]["group"], &crd["spec"]["names"]["plural"]);
    let (group, plural) = (group.as_str().unwrap_or_default(), plural.as_str().unwrap_or_default());
    for version in crd["spec"]["versions"].as_array().into_iter().flatten() {
        if version["served"] != true {
            continue;
        }
        let path = format!("/apis/{group}/{}/{plural}?limit=1", version["name"].as_str().unwrap_or_default());
        let started = Instant::now();
        while let Err(error) = list(client, &path).await {
            if started.elapsed() > SERVED_WITHIN {
                return Err(error).with_context(|| format!("{path} is not served after {SERVED_WITHIN:?}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

async fn list(client: &Client, path: &str) -> Result<()> {
    client.request_text(Request::get(path).body(Vec::new())?).await?;
    Ok(())
}
