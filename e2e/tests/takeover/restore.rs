//! A backup is restored object by object, kind by kind in alphabetical order, into a cluster in which we are at work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::fixtures::{claim, cluster, global_pool, pool};
use e2e::kinds::{self, PoolKind};
use e2e::management::ensure_namespace;
use e2e::manager::ManagerOptions;
use e2e::scene::{Scene, Stage};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;

use crate::holdings;

const EACH: usize = 12;
const SERVED_WITHIN: Duration = Duration::from_mins(2);
/// The global pool: everybody's, so the backup has it under its own name.
const CORE: &str = "core";

/// What the tool for backups makes of an object's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// Velero: owner references are dropped.
    Velero,
    /// One that keeps nothing but names, labels and annotations: finalizers are dropped as well.
    Bare,
    /// Files of `kubectl get -o yaml`: owner references name uids that are nobody's.
    Files,
}

/// In the order of their plural names, as they are restored: claims before addresses.
fn kinds_in_order() -> Vec<ApiResource> {
    let mut all = vec![kinds::cluster(), kinds::claim(), kinds::address()];
    all.extend(PoolKind::ALL.map(PoolKind::resource));
    all.sort_by(|a, b| a.plural.cmp(&b.plural));
    all
}

impl Tool {
    fn take(self, mut object: DynamicObject) -> DynamicObject {
        let metadata = &mut object.metadata;
        metadata.uid = None;
        metadata.resource_version = None;
        metadata.creation_timestamp = None;
        metadata.deletion_timestamp = None;
        metadata.deletion_grace_period_seconds = None;
        metadata.generation = None;
        metadata.managed_fields = None;
        if self != Self::Files {
            metadata.owner_references = None;
        }
        if self == Self::Bare {
            metadata.finalizers = None;
        }
        // The server drops the status of what is created.
        object
    }
}

/// Everything of the scene, in the order of a restore.
async fn backup(scene: &Scene, tool: Tool) -> Result<Vec<(ApiResource, DynamicObject)>> {
    let mut all = Vec::new();
    for resource in kinds_in_order() {
        let api: Api<DynamicObject> = Api::all_with(scene.client().clone(), &resource);
        let listed = api.list(&ListParams::default()).await?.items;
        all.extend(listed.into_iter().map(|object| (resource.clone(), tool.take(object))));
    }
    Ok(all)
}

async fn restore(target: &Scene, objects: &[(ApiResource, DynamicObject)]) -> Result<()> {
    for (resource, object) in objects {
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(target.client().clone(), namespace, resource),
            None => Api::all_with(target.client().clone(), resource),
        };
        api.create(&PostParams::default(), object).await.with_context(|| format!("restoring {}", resource.kind))?;
    }
    Ok(())
}

async fn populate(scene: &Scene) -> Result<usize> {
    scene.create(cluster("c")).await?;
    scene.create(pool("rack").addresses(["10.0.0.10-10.0.0.90"])).await?;
    scene.create(global_pool(CORE).addresses(["10.1.0.10-10.1.0.90"])).await?;
    // The lowest addresses stay, and would be given out first again; the next are freed later, so that whoever allocates
    // once more in the same order comes to another result.
    for (n, names) in [["lowest", "lowest-of-all"], ["first", "second"]].into_iter().enumerate() {
        scene.create_all([claim(names[0]).in_pool("rack"), claim(names[1]).in_global_pool(CORE)]).await?;
        scene.all_allocated(2 * (n + 1), SERVED_WITHIN).await?;
    }
    let claims = (0..EACH).flat_map(|n| {
        [
            claim(&format!("rack-{n}")).in_pool("rack"),
            claim(&format!("rack-of-c-{n}")).in_pool("rack").of_cluster("c"),
            claim(&format!("core-{n}")).in_global_pool(CORE),
        ]
    });
    scene.create_all(claims).await?;
    scene.all_allocated(4 + 3 * EACH, SERVED_WITHIN).await?;
    scene.release("first").await?;
    scene.release("second").await?;
    Ok(2 + 3 * EACH)
}

async fn drill(tool: Tool, name: &str) -> Result<()> {
    let mut stage = Stage::own(&format!("{name}-source")).await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    let scene = stage.scene("drill").await?;
    let count = populate(&scene).await?;
    let before = holdings(&scene).await?;
    let objects = backup(&scene, tool).await?;
    let namespace = scene.namespace().to_owned();
    scene.abandon();
    drop((manager, stage));

    let mut stage = Stage::own(&format!("{name}-target")).await?;
    let _manager = stage.manager(ManagerOptions::new("manager")).await?;
    let mut target = stage.scene("drill").await?;
    ensure_namespace(target.client(), &namespace).await?;
    target.enter(&namespace);
    let checker = AddressChecker::start(target.client()).await?;
    // They wait for their pools, and so come first when these are there: before the addresses that are in use.
    target.create(claim("new").in_pool("rack")).await?;
    target.create(claim("newer").in_global_pool(CORE)).await?;
    target.waits_for("new", "PoolNotReady").await?;
    target.waits_for("newer", "PoolNotReady").await?;
    restore(&target, &objects).await?;
    target.all_allocated(count + 2, SERVED_WITHIN).await?;
    let after = holdings(&target).await?;
    for (claim, (address, _)) in &before {
        let now = after.get(claim).map(|(address, _)| address);
        ensure!(now == Some(address), "{claim} had {address} and has {now:?}");
    }
    let used = i64::try_from(2 * EACH + 2)?;
    target.counts(PoolKind::InCluster, "rack", 81, used, 81 - used).await?;
    let held: BTreeSet<&String> = before.values().map(|(address, _)| address).collect();
    for new in [target.allocated("new").await?, target.allocated("newer").await?] {
        ensure!(!held.contains(&new), "{new} was given twice");
    }
    match tool {
        Tool::Velero | Tool::Bare => {
            checker.finish().await?;
        }
        // The garbage collector may have marked addresses whose owners are nobody: they stay, with the owners that they
        // came with, for as long as their claims.
        Tool::Files => ensure!(checker.violations().is_empty(), "{:#?}", checker.violations()),
    }
    target.finish().await
}

#[tokio::test]
async fn rule_c17_a_backup_by_velero_comes_back_with_its_addresses() -> Result<()> {
    drill(Tool::Velero, "velero").await
}

#[tokio::test]
async fn rule_c17_a_backup_of_files_comes_back_with_its_addresses() -> Result<()> {
    drill(Tool::Files, "files").await
}

#[tokio::test]
async fn rule_c17_a_backup_without_finalizers_comes_back_with_its_addresses() -> Result<()> {
    drill(Tool::Bare, "bare").await
}
