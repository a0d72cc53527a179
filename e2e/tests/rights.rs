//! Rights that do not reach everywhere, and that change while the manager runs (C16); a server that drops conditions (C10).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::{Release, api_of};
use e2e::crds;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Fixture as _, claim, cluster, global_pool, pool};
use e2e::kinds::{self, PoolKind};
use e2e::manager::{Manager, ManagerOptions};
use e2e::scene::{Stage, address_ref};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::sleep;

/// A watch that is open when rights change goes on until it ends, after a minute; and then it is tried again.
const RIGHTS_ARE_KNOWN_WITHIN: Duration = Duration::from_secs(100);
/// Long enough for a claim to be served, if anybody did.
const NOTHING_FOR: Duration = Duration::from_secs(3);

/// Takes the rights away that only an installation for all namespaces has.
async fn revoke(client: &Client, only: Option<&str>, kinds: &[&str]) -> Result<()> {
    for manifest in Release::default().manifests_in(only)? {
        if kinds.iter().any(|kind| manifest["kind"] == *kind) {
            let (api, name) = api_of(client, &manifest)?;
            api.delete(&name, &DeleteParams::default()).await.with_context(|| format!("deleting {name}"))?;
        }
    }
    Ok(())
}

fn log_of(manager: &Manager) -> Result<String> {
    std::fs::read_to_string(manager.log()).context("reading the manager's log")
}

#[tokio::test]
async fn rule_c16_rights_in_one_namespace_serve_it_and_refuse_global_pools_until_they_reach_further() -> Result<()> {
    let mut stage = Stage::own("one-namespace").await?;
    let (here, elsewhere) = (stage.scene("here").await?, stage.scene("elsewhere").await?);
    let global = here.global_name("g");
    here.create(global_pool(&global).addresses(["10.1.0.10-10.1.0.20"])).await?;
    for scene in [&here, &elsewhere] {
        scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
        scene.create(claim("a").in_pool("p")).await?;
    }
    // In use in another namespace: who does not see it must not give it.
    let foreign = e2e::fixtures::address("x", "p", "10.1.0.10")
        .field("poolRef", json!({ "apiGroup": kinds::GROUP, "kind": "GlobalInClusterIPPool", "name": global }));
    elsewhere.create(foreign).await?;
    here.create(cluster("c")).await?;
    here.create(claim("of-cluster").in_pool("p").of_cluster("c")).await?;
    here.create(claim("g1").in_global_pool(&global)).await?;

    let options = ManagerOptions::new("manager").in_one_namespace(here.namespace());
    let mut manager = stage.manager(options).await?;
    here.allocated("a").await?;
    here.allocated("of-cluster").await?;
    let message = here.waits_for("g1", "PoolNotReady").await?;
    ensure!(message.contains("no right to read"), "{message}");
    sleep(NOTHING_FOR).await;
    let untouched = elsewhere.claims().get("a").await?;
    ensure!(untouched.finalizers().is_empty() && untouched.data["status"].is_null(), "{:?}", untouched.data);
    let pool = here.pools(PoolKind::GlobalInCluster).get(&global).await?;
    ensure!(pool.finalizers().is_empty() && pool.data["status"].is_null(), "{:?}", pool.data);
    let log = log_of(&manager)?;
    for resource in ["globalinclusterippools", "globalinclusterprefixpools", "ipaddresses"] {
        let said =
            log.lines().filter(|line| line.contains(&format!("{resource}.{} is forbidden", kinds::GROUP))).count();
        ensure!(said == 1, "{resource} is said {said} times:\n{log}");
    }

    // Granted later.
    Release::default().install(here.client()).await?;
    eventually("the Global pool is served", RIGHTS_ARE_KNOWN_WITHIN, || async {
        let claim = here.claims().get("g1").await?;
        if address_ref(&claim).is_some() { Ok(()) } else { Err(NotYet::because(claim.data["status"].to_string())) }
    })
    .await?;
    ensure!(here.allocated("g1").await? == "10.1.0.11", "10.1.0.10 is in use in another namespace");
    here.becomes(&here.pools(PoolKind::GlobalInCluster), &global, "counts both", |pool| {
        pool.data["status"]["ipAddresses"]["used"] == 2
    })
    .await?;

    // Revoked again: nothing is given any more, what was given can be released, and the rest goes on.
    revoke(here.client(), None, &["ClusterRoleBinding"]).await?;
    eventually("a claim on the Global pool is refused", RIGHTS_ARE_KNOWN_WITHIN, || async {
        let name = format!("g-{}", jiff::Timestamp::now().as_millisecond());
        here.create(claim(&name).in_global_pool(&global))
            .await
            .map_err(|error| NotYet::because(format!("{error:#}")))?;
        sleep(Duration::from_secs(2)).await;
        let claim = here.claims().get(&name).await?;
        let reason = e2e::scene::ready(&claim).map(|ready| ready.reason).unwrap_or_default();
        if reason == "PoolNotReady" { Ok(()) } else { Err(NotYet::because(reason)) }
    })
    .await?;
    here.release("g1").await?;
    here.create(claim("b").in_pool("p")).await?;
    here.allocated("b").await?;
    ensure!(manager.is_ready().await, "{}", manager.readiness().await?);

    // Without its own namespace there is nothing left to do, and it says so.
    revoke(here.client(), Some(here.namespace()), &["RoleBinding"]).await?;
    eventually("it is not ready", RIGHTS_ARE_KNOWN_WITHIN, || async {
        let readiness = manager.readiness().await.map_err(|error| NotYet::because(format!("{error:#}")))?;
        let is_said = readiness.contains("forbidden") && readiness.contains(kinds::GROUP);
        if is_said && !manager.is_ready().await { Ok(()) } else { Err(NotYet::because(readiness)) }
    })
    .await?;
    manager.must_run()?;
    Release::default().install_in(here.client(), Some(here.namespace())).await?;
    eventually("it is ready again", RIGHTS_ARE_KNOWN_WITHIN, || async {
        if manager.is_ready().await { Ok(()) } else { Err(NotYet::because("it is not")) }
    })
    .await?;
    here.create(claim("d").in_pool("p")).await?;
    here.allocated("d").await?;
    elsewhere.finish().await?;
    here.finish().await
}

/// The same object in the old version.
fn in_v1beta1(resource: &ApiResource) -> ApiResource {
    let mut older = resource.clone();
    "v1beta1".clone_into(&mut older.version);
    older.api_version = format!("{}/v1beta1", older.group);
    older
}

#[tokio::test]
async fn rule_c10_conditions_that_the_server_drops_are_written_once_and_said_once() -> Result<()> {
    let mut stage = Stage::own("unconverted").await?;
    let scene = stage.scene("unconverted").await?;
    // v1beta2 is stored and not served, and nothing converts: status.v1beta2 is in no schema that counts.
    let crds: Api<CustomResourceDefinition> = Api::all(scene.client().clone());
    for name in ["ipaddressclaims", "ipaddresses", "clusters"] {
        let group = if name == "clusters" { "cluster.x-k8s.io" } else { kinds::GROUP };
        let crd = crds.get(&format!("{name}.{group}")).await?;
        let mut spec = serde_json::to_value(&crd.spec)?;
        for version in spec["versions"].as_array_mut().context("versions")? {
            version["served"] = json!(version["name"] == "v1beta1");
        }
        let patch = json!({ "spec": { "versions": spec["versions"], "conversion": { "strategy": "None" } } });
        crds.patch(&crd.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    let claims: Api<DynamicObject> =
        Api::namespaced_with(scene.client().clone(), scene.namespace(), &in_v1beta1(&kinds::claim()));
    let create = |name: &'static str| {
        let mut object = claim(name).in_pool("p").object();
        object.types = Some(kube::core::TypeMeta {
            api_version: format!("{}/v1beta1", kinds::GROUP),
            kind: "IPAddressClaim".to_owned(),
        });
        let claims = claims.clone();
        async move { claims.create(&PostParams::default(), &object).await }
    };
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    eventually("the old version is served", PATIENCE, || async { create("a").await.map_err(NotYet::from) }).await?;
    create("b").await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    eventually("a has its address", PATIENCE, || async {
        let a = claims.get("a").await?;
        if address_ref(&a).is_some() { Ok(()) } else { Err(NotYet::because(a.data.to_string())) }
    })
    .await?;
    eventually("it is said", PATIENCE, || async {
        let log = log_of(&manager).map_err(|error| NotYet::because(format!("{error:#}")))?;
        if log.contains("drops the conditions of claims") { Ok(()) } else { Err(NotYet::because("nothing is said")) }
    })
    .await?;
    let patches = |metrics: &e2e::metrics::Metrics| {
        metrics.sum("capi_ipam_api_requests_total", &[("verb", "patch"), ("resource", "ipaddressclaims/status")])
    };
    sleep(NOTHING_FOR).await;
    let before = patches(&manager.metrics().await?);
    sleep(2 * NOTHING_FOR).await;
    let after = patches(&manager.metrics().await?);
    ensure!(before == after, "{before:?} patches of claims' statuses, and then {after:?}");
    ensure!(log_of(&manager)?.matches("drops the conditions of claims").count() == 1);
    scene.finish().await
}

#[tokio::test]
async fn rule_c7_clusters_whose_kind_appears_later_are_waited_for_from_then_on() -> Result<()> {
    let mut stage = Stage::own("late-clusters").await?;
    let scene = stage.scene("late-clusters").await?;
    let crds: Api<CustomResourceDefinition> = Api::all(scene.client().clone());
    let name = "clusters.cluster.x-k8s.io";
    let crd = serde_json::to_value(crds.get(name).await?)?;
    crds.delete(name, &DeleteParams::default()).await?;
    eventually("there is no Cluster kind", PATIENCE, || async {
        if crds.get_opt(name).await?.is_none() { Ok(()) } else { Err(NotYet::because("it is still there")) }
    })
    .await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p").of_cluster("c")).await?;
    scene.allocated("a").await?;

    let mut fresh = crd;
    let labels = fresh["metadata"]["labels"].clone();
    fresh["metadata"] = json!({ "name": name, "labels": labels });
    fresh.as_object_mut().context("a CRD")?.remove("status");
    crds::install_missing(scene.client(), &[fresh]).await?;
    eventually("clusters are watched", PATIENCE, || async {
        let watches = manager
            .metrics()
            .await
            .map_err(|error| NotYet::because(format!("{error:#}")))?
            .sum("capi_ipam_api_requests_total", &[("verb", "watch"), ("resource", "clusters"), ("code", "200")]);
        if watches.is_some_and(|watches| watches > 0.0) { Ok(()) } else { Err(NotYet::because("no watch yet")) }
    })
    .await?;
    scene.create(claim("b").in_pool("p").of_cluster("c")).await?;
    scene.settled("p").await?;
    let waiting = scene.claims().get("b").await?;
    ensure!(waiting.finalizers().is_empty() && waiting.data["status"].is_null(), "{:?}", waiting.data);
    scene.create(cluster("c")).await?;
    scene.allocated("b").await?;
    scene.finish().await
}
