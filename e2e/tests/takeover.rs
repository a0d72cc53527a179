//! Taking over from the Go original and giving back to it; and finding everything again after a restore.

#[path = "takeover/half_way.rs"]
mod half_way;
#[path = "takeover/restore.rs"]
mod restore;
#[path = "takeover/swap.rs"]
mod swap;

use std::collections::BTreeMap;

use anyhow::Result;
use e2e::scene::Scene;
use e2e::{crds, manager};
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::Value;

/// The kinds of pools as this release defines them.
async fn our_crds() -> Result<Vec<Value>> {
    tokio::task::spawn_blocking(|| crds::of_manager(&manager::program()?)).await?
}

/// Address and uid of every `IPAddress` here, by name.
async fn holdings(scene: &Scene) -> Result<BTreeMap<String, (String, String)>> {
    let listed = scene.addresses().list(&ListParams::default()).await?;
    let held = listed.items.iter().map(|object| {
        let address = object.data["spec"]["address"].as_str().unwrap_or_default().to_owned();
        (object.name_any(), (address, object.uid().unwrap_or_default()))
    });
    Ok(held.collect())
}
