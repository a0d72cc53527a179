//! The move of the storage version, as docs/operations/webhooks.md has it: pools that an old release has stored as v1alpha1.

use anyhow::{Context as _, Result, ensure};
use e2e::chart::{Release, api_of};
use e2e::crds;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::claim;
use e2e::kinds::{GROUP, POOL_FINALIZER, PoolKind};
use e2e::manager::{self, ManagerOptions};
use e2e::scene::Stage;
use e2e::webhooks::{Certificate, Door, serving};
use kube::api::{Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::kubectl;

const OLD: &str = "ipam.cluster.x-k8s.io/v1alpha1";

const PLURALS: [&str; 2] = ["inclusterippools", "globalinclusterippools"];

/// All kinds; those that have two versions store `stored`.
fn storing(stored: &str) -> Result<Vec<Value>> {
    let mut ours = crds::of_manager(&manager::program()?)?;
    for crd in &mut ours {
        let versions = crd["spec"]["versions"].as_array_mut().context("no versions")?;
        if versions.len() > 1 {
            for version in versions {
                version["storage"] = json!(version["name"] == stored);
            }
        }
    }
    Ok(ours)
}

/// The versions of a kind without v1alpha1.
fn without_v1alpha1(plural: &str) -> Result<Value> {
    let ours = storing("v1alpha2")?;
    let crd = ours.into_iter().find(|crd| crd["spec"]["names"]["plural"] == plural).context("no such kind")?;
    let mut versions = crd["spec"]["versions"].clone();
    versions.as_array_mut().context("no versions")?.retain(|version| version["name"] != "v1alpha1");
    Ok(versions)
}

async fn patch_crd(client: &Client, plural: &str, patch: &Value) -> Result<()> {
    let name = format!("{plural}.{GROUP}");
    let manifest = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": name },
    });
    let (api, name) = api_of(client, &manifest)?;
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .with_context(|| format!("changing {name}"))?;
    Ok(())
}

#[tokio::test]
async fn pools_stored_as_v1alpha1_are_served_and_migrated_and_the_old_version_can_go() -> Result<()> {
    let mut stage = Stage::with_pools("webhooks-storage", &storing("v1alpha1")?).await?;
    let client = stage.control_plane.admin_client().await?;
    let certificate = Certificate::new(&stage.control_plane, "storage")?;
    let door = Door::open()?;
    door.install(&client, &Release::default(), Some(certificate.authority())).await?;
    let (options, port) = serving(ManagerOptions::new("manager"), &certificate)?;
    door.leads_to(&[port]);
    let scene = stage.scene("storage").await?;
    let global = scene.global_name("g");
    let (namespaced, everywhere) = (json!({ "name": "p", "namespace": scene.namespace() }), json!({ "name": global }));
    let _manager = stage.manager(options).await?;
    door.is_used(&client).await?;
    for (kind, metadata, spec) in [
        ("InClusterIPPool", namespaced, json!({ "subnet": "10.0.0.0/24", "gateway": "10.0.0.1" })),
        ("GlobalInClusterIPPool", everywhere, json!({ "start": "10.1.0.10", "end": "10.1.0.20", "prefix": 24 })),
    ] {
        let old = json!({ "apiVersion": OLD, "kind": kind, "metadata": metadata, "spec": spec });
        kubectl(&stage.control_plane, &["apply", "-f", "-"], &old.to_string())?;
    }
    scene.create(claim("a").in_pool("p")).await?;
    scene.create(claim("g").in_global_pool(&global)).await?;
    ensure!(scene.allocated("a").await? == "10.0.0.2");
    ensure!(scene.allocated("g").await? == "10.1.0.10");

    // This release's CRDs: what is written from now on is stored as v1alpha2.
    let meant = [
        (
            PoolKind::InCluster,
            "p",
            json!({ "addresses": ["10.0.0.1-10.0.0.254"], "prefix": 24, "gateway": "10.0.0.1" }),
        ),
        (PoolKind::GlobalInCluster, &global, json!({ "addresses": ["10.1.0.10-10.1.0.20"], "prefix": 24 })),
    ];
    crds::install(&client, &storing("v1alpha2")?).await?;
    scene.create(claim("b").in_pool("p")).await?;
    ensure!(scene.allocated("b").await? == "10.0.0.3");
    for (kind, name, spec) in &meant {
        ensure!(scene.pools(*kind).get(name).await?.data["spec"] == *spec, "{name} reads otherwise");
    }

    // As a storage migration does: each object is written as it is.
    for plural in PLURALS {
        let resource = format!("{plural}.v1alpha2.{GROUP}");
        eventually("all are written once more", PATIENCE, || async {
            kubectl(&stage.control_plane, &["get", &resource, "-A", "-o", "json"], "")
                .and_then(|all| kubectl(&stage.control_plane, &["replace", "-f", "-"], &all))
                .map_err(|error| NotYet::because(format!("{error:#}")))
        })
        .await?;
        let stored = json!({ "status": { "storedVersions": ["v1alpha2"] } }).to_string();
        let crd = format!("{plural}.{GROUP}");
        let patch = ["patch", "crd", &crd, "--subresource", "status", "--type", "merge", "-p", &stored];
        kubectl(&stage.control_plane, &patch, "")?;
    }
    // The old version goes, and nobody converts any more: what was still stored in it would lose its fields.
    for plural in PLURALS {
        let nobody = json!({ "strategy": "None", "webhook": null });
        let patch = json!({ "spec": { "versions": without_v1alpha1(plural)?, "conversion": nobody } });
        patch_crd(&client, plural, &patch).await?;
    }
    for (kind, name, spec) in &meant {
        // The server needs a moment to serve what has changed.
        let pools = scene.pools(*kind);
        let pool = eventually("the kind is served again", PATIENCE, || async { Ok(pools.get(name).await?) }).await?;
        ensure!(pool.data["spec"] == *spec, "{name} is {}", pool.data["spec"]);
        ensure!(pool.finalizers() == [POOL_FINALIZER], "{name} has {:?}", pool.finalizers());
    }
    // The manager has seen nothing of all that.
    scene.create(claim("c").in_pool("p")).await?;
    ensure!(scene.allocated("c").await? == "10.0.0.4");
    for name in ["a", "b", "c", "g"] {
        scene.release(name).await?;
    }
    scene.finish().await
}
