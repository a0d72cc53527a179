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
        if self == Self::Velero {
            metadata.owner_references = None;
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
    // Freed again later: otherwise the addresses to be given out first would be those that have to come back.
    scene.create_all([claim("first").in_pool("rack"), claim("second").in_global_pool(CORE)]).await?;
    scene.all_allocated(2, SERVED_WITHIN).await?;
    let claims = (0..EACH).flat_map(|n| {
        [
            claim(&format!("rack-{n}")).in_pool("rack"),
            claim(&format!("rack-of-c-{n}")).in_pool("rack").of_cluster("c"),
            claim(&format!("core-{n}")).in_global_pool(CORE),
        ]
    });
    scene.create_all(claims).await?;
    scene.all_allocated(2 + 3 * EACH, SERVED_WITHIN).await?;
    scene.release("first").await?;
    scene.release("second").await?;
    Ok(3 * EACH)
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
    restore(&target, &objects).await?;
    target.all_allocated(count, SERVED_WITHIN).await?;
    let after = holdings(&target).await?;
    for (claim, (address, _)) in &before {
        let now = after.get(claim).map(|(address, _)| address);
        ensure!(now == Some(address), "{claim} had {address} and has {now:?}");
    }
    target.counts(PoolKind::InCluster, "rack", 81, i64::try_from(2 * EACH)?, i64::try_from(81 - 2 * EACH)?).await?;
    // Only now: what was waiting meanwhile would have been served from the addresses of others.
    target.create(claim("new").in_pool("rack")).await?;
    let new = target.allocated("new").await?;
    let held: BTreeSet<&String> = before.values().map(|(address, _)| address).collect();
    ensure!(!held.contains(&new), "{new} was given twice");
    match tool {
        Tool::Velero => {
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
