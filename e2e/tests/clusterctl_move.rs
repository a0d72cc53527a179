//! `clusterctl move`, the real one, with Cluster API's own webhooks on both sides (C14, C17, C19). Without its programs
//! each test says that it is skipped; `make move` builds them first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::control_plane::Tools;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{Claim, Fixture, Pool, claim, global_pool, pool};
use e2e::kinds::{self, PoolKind};
use e2e::management::{Management, clusterctl_move, ensure_namespace, owned_by};
use e2e::manager::ManagerOptions;
use e2e::scene::{address_ref, counts, ready};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use tempfile::TempDir;

const FLEET: &str = "fleet";
const OTHERS: &str = "others";
/// Claims of each sort: enough for the moment between the first claim and the first address to be long.
const EACH: usize = 4;
/// clusterctl leaves the addresses of Global pools behind, without their claims; they are kept this long.
const ORPHANED_FOR: &str = "--orphan-grace-period=5s";
/// Everything is on a machine that is shared, and a moved pool gives nothing new away for a minute.
const SERVED_WITHIN: Duration = Duration::from_mins(2);

/// By claim.
type Addresses = BTreeMap<String, String>;

fn claims(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kinds::claim())
}

fn addresses(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kinds::address())
}

/// The pools of the fleet. Addresses from the middle, so that the lowest free one is never by chance the one moved.
fn pools() -> [Pool; 2] {
    [pool("rack").addresses(["10.0.0.10-10.0.0.60"]), global_pool("core").addresses(["10.1.0.10-10.1.0.60"])]
}

/// A claim for each way to name the cluster, and for each pool. All belong to it by their owner reference alone.
fn claims_of_fleet() -> Vec<Claim> {
    let sorts = |pool: &str, named: fn(&str) -> Claim| {
        (0..EACH)
            .flat_map(|n| {
                [
                    named(&format!("{pool}-spec-{n}")).of_cluster("c"),
                    named(&format!("{pool}-label-{n}")).labelled_with_cluster("c"),
                    named(&format!("{pool}-owner-{n}")),
                ]
            })
            .collect::<Vec<_>>()
    };
    let namespaced = sorts("rack", |name| claim(name).in_pool("rack"));
    namespaced.into_iter().chain(sorts("core", |name| claim(name).in_global_pool("core"))).collect()
}

async fn create(client: &Client, namespace: &str, fixture: &impl Fixture, owner: Option<&DynamicObject>) -> Result<()> {
    let (resource, global) = fixture.resource();
    let mut object = fixture.object();
    object.metadata.owner_references = owner.map(|owner| serde_json::from_value(owned_by(owner))).transpose()?;
    let api: Api<DynamicObject> = if global {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    api.create(&PostParams::default(), &object).await.with_context(|| format!("creating {}", object.name_any()))?;
    Ok(())
}

/// Waits until that many claims refer to an address of their own name, and returns all addresses.
async fn served(client: &Client, namespace: &str, count: usize) -> Result<Addresses> {
    eventually(&format!("{count} claims are served"), SERVED_WITHIN, || async {
        let claims = claims(client, namespace).list(&ListParams::default()).await?.items;
        let unserved = claims.iter().filter(|claim| {
            address_ref(claim) != Some(&claim.name_any()) || ready(claim).is_none_or(|ready| ready.status != "True")
        });
        let unserved: Vec<String> = unserved.map(|c| format!("{} {}", c.name_any(), c.data["status"])).collect();
        if claims.len() == count && unserved.is_empty() {
            Ok(())
        } else {
            Err(NotYet::because(format!("{} claims, of which wait {unserved:?}", claims.len())))
        }
    })
    .await?;
    let addresses = addresses(client, namespace).list(&ListParams::default()).await?;
    let held = |object: &DynamicObject| object.data["spec"]["address"].as_str().unwrap_or_default().to_owned();
    Ok(addresses.items.iter().map(|object| (object.name_any(), held(object))).collect())
}

async fn used(client: &Client, kind: PoolKind, name: &str, wanted: i64) -> Result<()> {
    let api = kind.api(client, FLEET);
    eventually(&format!("{name} counts {wanted} addresses"), SERVED_WITHIN, || async {
        let pool = api.get(name).await?;
        match counts(&pool) {
            Some(counts) if counts.used == wanted && counts.out_of_range == 0 => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await
}

/// Waits until nothing of the fleet is there any more but the pool that belongs to everybody.
async fn left_behind_nothing(client: &Client) -> Result<()> {
    eventually("nothing is left behind", SERVED_WITHIN, || async {
        let mut left = Vec::new();
        let rack = PoolKind::InCluster.api(client, FLEET);
        for api in [claims(client, FLEET), addresses(client, FLEET), rack] {
            left.extend(api.list(&ListParams::default()).await?.items.iter().map(ResourceExt::name_any));
        }
        if left.is_empty() { Ok(()) } else { Err(NotYet::because(format!("{left:?}"))) }
    })
    .await
}

/// The fleet is here, with the addresses that it had, all counted, and what comes next gets others.
async fn arrived(here: &Management, before: &Addresses, newcomer: &str) -> Result<()> {
    let client = here.client().await?;
    here.initialize(FLEET, "c").await?;
    let after = served(&client, FLEET, before.len()).await?;
    ensure!(&after == before, "the move changed addresses: {before:?} became {after:?}");
    let each = i64::try_from(3 * EACH)?;
    used(&client, PoolKind::InCluster, "rack", each).await?;
    for object in addresses(&client, FLEET).list(&ListParams::default()).await?.items {
        let owners: BTreeSet<&str> = object.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
        ensure!(owners.contains("IPAddressClaim") && owners.len() == 2, "{} has {owners:?}", object.name_any());
        let finalizers = object.finalizers();
        ensure!(finalizers.iter().any(|f| f == kinds::ADDRESS_FINALIZER), "{}: {finalizers:?}", object.name_any());
    }
    ensure_namespace(&client, OTHERS).await?;
    let new = claim(newcomer).in_global_pool("core");
    create(&client, OTHERS, &new, None).await?;
    eventually("a newcomer is served", SERVED_WITHIN, || async {
        let found = addresses(&client, OTHERS).get(newcomer).await?;
        let given = found.data["spec"]["address"].as_str().unwrap_or_default().to_owned();
        if before.values().any(|held| *held == given) {
            return Ok(Err(anyhow::anyhow!("{given} was given twice")));
        }
        Ok::<_, NotYet>(Ok(()))
    })
    .await?
}

async fn management(name: &str, tools: &Tools) -> Result<Management> {
    Management::start(name, tools, ManagerOptions::new("manager").argument(ORPHANED_FOR)).await
}

/// A management cluster with a fleet.
async fn with_fleet(name: &str, tools: &Tools) -> Result<(Management, Addresses)> {
    let here = management(name, tools).await?;
    let client = here.client().await?;
    let cluster = here.provision(FLEET, "c").await?;
    for pool in pools() {
        create(&client, FLEET, &pool, None).await?;
    }
    // Addresses that are freed again, so that what moves is not what would be given out first.
    for early in [claim("x").in_pool("rack"), claim("y").in_global_pool("core")] {
        create(&client, FLEET, &early, None).await?;
    }
    served(&client, FLEET, 2).await?;
    let fleet = claims_of_fleet();
    for claim in &fleet {
        create(&client, FLEET, claim, Some(&cluster)).await?;
    }
    served(&client, FLEET, 2 + fleet.len()).await?;
    for early in ["x", "y"] {
        claims(&client, FLEET).delete(early, &kube::api::DeleteParams::default()).await?;
    }
    let held = eventually("the first addresses are free again", SERVED_WITHIN, || async {
        let held = served(&client, FLEET, fleet.len()).await.map_err(|error| NotYet::because(error.to_string()))?;
        if held.len() == fleet.len() { Ok(held) } else { Err(NotYet::because(format!("{held:?}"))) }
    })
    .await?;
    Ok((here, held))
}

fn kubeconfig(of: &Management) -> String {
    of.control_plane.kubeconfig_path().display().to_string()
}

fn move_fleet(tools: &Tools, from: &Management, to: &Management) -> Result<String> {
    clusterctl_move(tools, &["--kubeconfig", &kubeconfig(from), "--to-kubeconfig", &kubeconfig(to), "-n", FLEET])
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_c17_a_cluster_moves_there_and_back_with_its_addresses() -> Result<()> {
    let Some(tools) = Tools::for_test("rule_c17_a_cluster_moves_there_and_back_with_its_addresses")? else {
        return Ok(());
    };
    let (source, before) = with_fleet("move-source", &tools).await?;
    let target = management("move-target", &tools).await?;
    let checkers =
        [AddressChecker::start(&source.client().await?).await?, AddressChecker::start(&target.client().await?).await?];

    move_fleet(&tools, &source, &target)?;
    arrived(&target, &before, "newcomer-there").await?;
    left_behind_nothing(&source.client().await?).await?;
    used(&source.client().await?, PoolKind::GlobalInCluster, "core", 0).await?;

    move_fleet(&tools, &target, &source)?;
    arrived(&source, &before, "newcomer-here").await?;
    left_behind_nothing(&target.client().await?).await?;
    for checker in checkers {
        checker.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_c17_a_cluster_comes_out_of_a_directory_with_its_addresses() -> Result<()> {
    let Some(tools) = Tools::for_test("rule_c17_a_cluster_comes_out_of_a_directory_with_its_addresses")? else {
        return Ok(());
    };
    let (source, before) = with_fleet("directory-source", &tools).await?;
    let folder = TempDir::new().context("making a folder for the backup")?;
    let folder = folder.path().display().to_string();
    clusterctl_move(&tools, &["--kubeconfig", &kubeconfig(&source), "--to-directory", &folder, "-n", FLEET])?;
    // The backup changes nothing where it was taken.
    let still = served(&source.client().await?, FLEET, before.len()).await?;
    ensure!(still == before, "the backup changed addresses: {before:?} became {still:?}");
    drop(source);

    let target = management("directory-target", &tools).await?;
    let checker = AddressChecker::start(&target.client().await?).await?;
    clusterctl_move(&tools, &["--to-kubeconfig", &kubeconfig(&target), "--from-directory", &folder])?;
    arrived(&target, &before, "newcomer").await?;
    checker.finish().await?;
    Ok(())
}
