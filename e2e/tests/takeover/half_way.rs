//! The original is stopped in the middle of its work; we go on with it, and it goes on with ours.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::crds;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Pool, claim, cluster, global_pool, pool};
use e2e::kinds::{self, ADDRESS_FINALIZER, CLAIM_FINALIZER, CLUSTER_NAME, POOL_FINALIZER, PoolKind};
use e2e::manager::{Manager, ManagerOptions};
use e2e::original::{Era, Original, Step, manifests};
use e2e::scene::{Counts, Scene, Stage, address_ref, counts, ready};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DynamicObject, ListParams};
use serde_json::json;

use crate::{holdings, our_crds};

/// Claims that had been served in full.
const BOUND: usize = 300;
/// And of each sort of those that had not.
const EACH: usize = 5;
/// Longer than we take to start.
const GRACE: i64 = 20;
const SERVED_WITHIN: Duration = Duration::from_mins(2);

type Holdings = BTreeMap<String, (String, String)>;

/// As the original keeps a pool that was written in its first version.
fn written_as_v1alpha1(pool: Pool, gateway: &str, first: &str, last: &str) -> Pool {
    let spec = json!({ "subnet": "10.0.0.0/22", "start": first, "end": last, "prefix": 22, "gateway": gateway });
    let form = json!({ "spec": spec, "status": {} }).to_string();
    pool.prefix(22)
        .gateway(gateway)
        .addresses([format!("{first}-{last}").as_str()])
        .annotation("cluster.x-k8s.io/conversion-data", &form)
}

/// The original at work, up to the moment at which it is stopped. Returns when the claim `grace` was deleted.
async fn leave_half_way(scene: &Scene, original: &Original) -> Result<Timestamp> {
    let rack = written_as_v1alpha1(pool("rack"), "10.0.0.1", "10.0.0.10", "10.0.3.250");
    scene.create(rack).await?;
    let core = scene.global_name("core");
    scene.create(written_as_v1alpha1(global_pool(&core), "10.0.0.1", "10.0.2.10", "10.0.3.250")).await?;
    scene.create(pool("slow").addresses(["10.2.0.10-10.2.0.20"]).grace_period(GRACE)).await?;
    scene.create(pool("shrunk").addresses(["10.3.0.10-10.3.0.20"])).await?;
    scene.create(cluster("paused").spec_paused()).await?;
    scene.create(cluster("mine")).await?;

    for n in 0..BOUND {
        let (name, era) = (format!("bound-{n:03}"), if n % 3 == 0 { Era::Old } else { Era::Current });
        let bound = match n % 4 {
            0 => claim(&name).in_global_pool(&core),
            1 => claim(&name).in_pool("rack").labelled_with_cluster("mine"),
            _ => claim(&name).in_pool("rack"),
        };
        scene.create(bound).await?;
        original.serve(&name, era, Step::Referred).await?;
    }
    for n in 0..EACH {
        for (sort, step) in [("protected", Step::Protected), ("allocated", Step::Allocated)] {
            let name = format!("{sort}-{n}");
            scene.create(claim(&name).in_pool("rack")).await?;
            original.serve(&name, Era::Current, step).await?;
        }
    }
    for name in ["emptied", "freed", "guarded"] {
        scene.create(claim(name).in_pool("rack")).await?;
        original.serve(name, Era::Current, Step::Referred).await?;
    }
    scene.create(claim("outside").in_pool("shrunk")).await?;
    original.serve("outside", Era::Current, Step::Referred).await?;
    let smaller = json!({ "spec": { "addresses": ["10.3.0.15-10.3.0.20"] } });
    scene.patch(&scene.pools(PoolKind::InCluster), "shrunk", smaller).await?;
    scene.create(claim("held").in_pool("rack").of_cluster("paused")).await?;
    original.serve("held", Era::Current, Step::Protected).await?;
    scene.create(claim("grace").in_pool("slow")).await?;
    original.serve("grace", Era::Current, Step::Referred).await?;

    for name in ["rack", "slow", "shrunk"] {
        original.count(PoolKind::InCluster, name).await?;
    }
    original.count(PoolKind::GlobalInCluster, &core).await?;

    // Stopped between two requests of a release.
    let freed = json!({ "metadata": { "finalizers": null } });
    for name in ["emptied", "freed"] {
        scene.delete(&scene.claims(), name).await?;
        scene.patch(&scene.addresses(), name, freed.clone()).await?;
    }
    scene.delete(&scene.addresses(), "emptied").await?;
    // Somebody deletes an address that is in use: it stays, terminating.
    scene.delete(&scene.addresses(), "guarded").await?;
    scene.create(claim("untouched").in_pool("rack")).await?;
    scene.delete(&scene.claims(), "grace").await?;
    Ok(scene.claims().get("grace").await?.metadata.deletion_timestamp.context("it is deleting")?.0)
}

/// Every claim that was left half way comes to its end.
async fn ends_right(scene: &Scene, before: &Holdings, deleted: Timestamp) -> Result<()> {
    scene.gone(&scene.claims(), "grace").await?;
    let lasted = scene.server_time().await?.as_second() - deleted.as_second();
    ensure!(lasted >= GRACE, "released after {lasted} s; its pool keeps addresses for {GRACE} s");
    scene.gone(&scene.addresses(), "grace").await?;
    for name in ["emptied", "freed"] {
        scene.gone(&scene.claims(), name).await?;
        scene.gone(&scene.addresses(), name).await?;
    }
    for n in 0..EACH {
        let (adopted, new) = (format!("allocated-{n}"), format!("protected-{n}"));
        let held = scene.allocated(&adopted).await?;
        ensure!(Some(&held) == before.get(&adopted).map(|(held, _)| held), "{adopted} has {held}");
        scene.allocated(&new).await?;
    }
    scene.allocated("untouched").await?;
    let guarded = scene.addresses().get("guarded").await?;
    ensure!(guarded.metadata.deletion_timestamp.is_some(), "nobody can take a deletion back");
    let outside = Counts { total: 6, used: 1, free: 6, out_of_range: 1 };
    scene.counts_are(PoolKind::InCluster, "shrunk", outside).await?;
    let held = scene.claims().get("held").await?;
    ensure!(held.data["status"].is_null() && address_ref(&held).is_none(), "its cluster is paused: {}", held.data);
    Ok(())
}

/// Waits until every claim says that it is served; the one whose cluster is paused says nothing.
async fn all_say_so(scene: &Scene) -> Result<()> {
    eventually("every claim is served", SERVED_WITHIN, || async {
        let claims = scene.claims().list(&ListParams::default()).await?.items;
        let is_served = |claim: &DynamicObject| ready(claim).is_some_and(|ready| ready.status == "True");
        let waiting = claims.iter().filter(|claim| claim.name_any() != "held" && !is_served(claim));
        let waiting: Vec<String> = waiting.map(ResourceExt::name_any).collect();
        if claims.len() == BOUND + 2 * EACH + 4 && waiting.is_empty() {
            Ok(())
        } else {
            Err(NotYet::because(format!("{} claims, of which wait {waiting:?}", claims.len())))
        }
    })
    .await
}

/// What was served stays as it is: the same object with the same address, with references that count today.
async fn stays(scene: &Scene, before: &Holdings, names: impl Iterator<Item = String>) -> Result<()> {
    let after = holdings(scene).await?;
    for name in names {
        ensure!(after.get(&name) == before.get(&name), "{name}: {:?}, {:?}", before.get(&name), after.get(&name));
    }
    Ok(())
}

fn bound() -> impl Iterator<Item = String> {
    (0..BOUND).map(|n| format!("bound-{n:03}"))
}

/// What the original looks for in an object.
fn lacks(claim: &DynamicObject, address: &DynamicObject, pools: &[DynamicObject]) -> Vec<String> {
    let name = claim.name_any();
    let mut lacking = Vec::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            lacking.push(format!("{name}: {what}"));
        }
    };
    need(claim.finalizers().iter().any(|f| f == CLAIM_FINALIZER), "the claim's finalizer");
    need(address_ref(claim) == Some(&name), "the reference to its address");
    need(ready(claim).is_some_and(|ready| ready.status == "True"), "a condition that says so");
    need(address.finalizers().iter().any(|f| f == ADDRESS_FINALIZER), "the address' finalizer");
    need(claim.labels().get(CLUSTER_NAME) == address.labels().get(CLUSTER_NAME), "the label of the cluster");
    let pool = address.data["spec"]["poolRef"]["name"].as_str().unwrap_or_default();
    let pool = pools.iter().find(|found| found.name_any() == pool);
    let refers = |version: &str, owner: &DynamicObject, controls: bool| {
        address.owner_references().iter().any(|reference| {
            reference.api_version == version
                && Some(&reference.uid) == owner.metadata.uid.as_ref()
                && reference.controller == Some(controls)
                && reference.block_owner_deletion == Some(true)
        })
    };
    // A deletion under way is not held up by new references.
    if address.metadata.deletion_timestamp.is_none() {
        need(refers(&kinds::claim().api_version, claim, true), "the claim as its controller");
        need(pool.is_some_and(|pool| refers("ipam.cluster.x-k8s.io/v1alpha2", pool, false)), "the pool as an owner");
    }
    lacking
}

/// Nothing that the original needs is missing, nothing that it does not know is left.
async fn is_the_originals(scene: &Scene) -> Result<()> {
    let mut pools = scene.pools(PoolKind::InCluster).list(&ListParams::default()).await?.items;
    pools.extend(scene.pools(PoolKind::GlobalInCluster).list(&ListParams::default()).await?.items);
    let mut lacking = Vec::new();
    for pool in &pools {
        ensure!(pool.finalizers().iter().any(|f| f == POOL_FINALIZER), "{} may go", pool.name_any());
        ensure!(counts(pool).is_some(), "{} has no counts: {}", pool.name_any(), pool.data["status"]);
        for field in manifests::OURS {
            ensure!(pool.data["status"].get(field).is_none(), "{} still has {field}", pool.name_any());
        }
    }
    for claim in scene.claims().list(&ListParams::default()).await?.items {
        let name = claim.name_any();
        if name != "held" {
            let address = scene.addresses().get(&name).await.with_context(|| format!("the address of {name}"))?;
            lacking.extend(lacks(&claim, &address, &pools));
        }
    }
    ensure!(lacking.is_empty(), "{lacking:#?}");
    Ok(())
}

async fn nothing_is_pending(scene: &Scene) -> Result<()> {
    for kind in [PoolKind::InCluster, PoolKind::GlobalInCluster] {
        for pool in scene.pools(kind).list(&ListParams::default()).await?.items {
            let pending = &pool.data["status"]["allocation"]["pending"];
            let is_empty = pending.as_array().is_none_or(Vec::is_empty);
            ensure!(is_empty, "{} was stopped with {pending}", pool.name_any());
        }
    }
    Ok(())
}

async fn ours(stage: &mut Stage, name: &str) -> Result<Manager> {
    crds::install(&stage.control_plane.admin_client().await?, &our_crds().await?).await?;
    stage.manager(ManagerOptions::new(name).argument("--adoption-grace-period=2s")).await
}

#[tokio::test]
async fn rule_b3_what_the_original_left_half_way_is_finished_by_us_and_what_we_leave_by_the_original() -> Result<()> {
    let theirs = manifests::crds(&our_crds().await?);
    let mut stage = Stage::with_pools("takeover", &theirs).await?;
    let scene = stage.scene("takeover").await?;
    let original = Original::new(scene.client().clone(), scene.namespace());
    let checker = AddressChecker::start(scene.client()).await?;
    let deleted = leave_half_way(&scene, &original).await?;
    let before = holdings(&scene).await?;

    let manager = ours(&mut stage, "first").await?;
    ends_right(&scene, &before, deleted).await?;
    all_say_so(&scene).await?;
    stays(&scene, &before, bound().chain(["guarded".to_owned(), "outside".to_owned()])).await?;

    // The way back.
    ensure!(manager.terminate().await?.success(), "it was not stopped in order");
    nothing_is_pending(&scene).await?;
    crds::install(scene.client(), &theirs).await?;
    eventually("everything is as the original wants it", PATIENCE, || async {
        is_the_originals(&scene).await.map_err(|error| NotYet::because(format!("{error:#}")))
    })
    .await?;
    let between = holdings(&scene).await?;
    scene.create(claim("again").in_pool("rack")).await?;
    original.serve("again", Era::Current, Step::Referred).await?;
    scene.delete(&scene.claims(), "bound-001").await?;
    original.release("bound-001").await?;
    scene.create(claim("interrupted").in_pool("rack")).await?;
    original.serve("interrupted", Era::Current, Step::Allocated).await?;
    for name in ["rack", "slow", "shrunk"] {
        original.count(PoolKind::InCluster, name).await?;
    }

    // And once more: the record is gone, and nobody relies on it.
    let _manager = ours(&mut stage, "second").await?;
    scene.allocated("interrupted").await?;
    scene.create(claim("last").in_pool("rack")).await?;
    scene.allocated("last").await?;
    scene.patch(&scene.clusters(), "paused", json!({ "spec": { "paused": false } })).await?;
    scene.allocated("held").await?;
    stays(&scene, &between, bound().filter(|name| name != "bound-001")).await?;
    checker.finish().await?;
    scene.finish().await
}
