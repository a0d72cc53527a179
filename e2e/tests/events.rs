//! What `kubectl describe` tells of a claim or a pool (C18). In a program of its own, and so with a manager of its own: the budget
//! for Events is one for all pools, and other scenarios have backlogs.

use anyhow::{Result, ensure};
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{address, claim, global_pool, pool};
use e2e::kinds::PoolKind;
use e2e::scene::{Scene, scene};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

/// The Events about an object, as `kubectl describe` looks for them: by its uid.
async fn events_of(scene: &Scene, object: &DynamicObject) -> Result<Vec<Event>> {
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(scene.client().clone(), &namespace);
    let mut events = api.list(&ListParams::default()).await?.items;
    events.retain(|event| event.regarding.as_ref().and_then(|it| it.uid.clone()) == object.uid());
    Ok(events)
}

/// Waits for the Event of this reason; returns its note.
async fn told(scene: &Scene, object: &DynamicObject, type_: &str, reason: &str) -> Result<String> {
    eventually(&format!("{} is told {reason}", object.name_any()), PATIENCE, || async {
        let events = events_of(scene, object).await.map_err(|error| NotYet::because(format!("{error:#}")))?;
        let found = events.iter().find(|event| event.reason.as_deref() == Some(reason));
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        let found = found.ok_or_else(|| NotYet::because(format!("{reasons:?}")))?;
        if found.type_.as_deref() == Some(type_) {
            Ok(found.note.clone().unwrap_or_default())
        } else {
            Err(NotYet::because(format!("its type is {:?}", found.type_)))
        }
    })
    .await
}

#[tokio::test]
async fn rule_c18_address_allocated_and_address_released_name_the_address() -> Result<()> {
    let scene = scene("rule_c18_allocated").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    let a = scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    let note = told(&scene, &a, "Normal", "AddressAllocated").await?;
    ensure!(note.contains("10.0.0.10") && note.contains(&format!("InClusterIPPool {}/p", scene.namespace())), "{note}");
    scene.release("a").await?;
    let note = told(&scene, &a, "Normal", "AddressReleased").await?;
    ensure!(note.contains("10.0.0.10"), "{note}");
    let events = events_of(&scene, &a).await?;
    ensure!(events.len() == 2, "{events:?}");
    scene.finish().await
}

#[tokio::test]
async fn rule_c18_pool_exhausted_is_told_of_the_claim_and_of_the_pool() -> Result<()> {
    let scene = scene("rule_c18_exhausted").await?;
    let p = scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    let b = scene.create(claim("b").in_pool("p")).await?;
    for object in [&b, &p] {
        let note = told(&scene, object, "Warning", "PoolExhausted").await?;
        ensure!(note.contains("is full"), "{note}");
    }
    // Another one that waits is no news of the pool.
    let c = scene.create(claim("c").in_pool("p")).await?;
    told(&scene, &c, "Warning", "PoolExhausted").await?;
    ensure!(events_of(&scene, &p).await?.len() == 1, "{:?}", events_of(&scene, &p).await?);
    scene.finish().await
}

#[tokio::test]
async fn rule_c18_pool_not_ready_is_told_of_the_claim_and_of_a_pool_that_waits_for_its_end() -> Result<()> {
    let scene = scene("rule_c18_not_ready").await?;
    let a = scene.create(claim("a").in_pool("p")).await?;
    let note = told(&scene, &a, "Warning", "PoolNotReady").await?;
    ensure!(note.contains("does not exist"), "{note}");
    let p = scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.allocated("a").await?;
    scene.delete(&scene.pools(PoolKind::InCluster), "p").await?;
    let note = told(&scene, &p, "Warning", "PoolNotReady").await?;
    ensure!(note.contains("1 IPAddress"), "{note}");
    scene.finish().await
}

#[tokio::test]
async fn rule_c18_allocation_failed_is_told_of_the_claim() -> Result<()> {
    let scene = scene("rule_c18_failed").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(address("a", "another", "10.9.9.9")).await?;
    let a = scene.create(claim("a").in_pool("p")).await?;
    let note = told(&scene, &a, "Warning", "AllocationFailed").await?;
    ensure!(note.contains("exists already") && note.contains("another"), "{note}");
    scene.finish().await
}

#[tokio::test]
async fn rule_c18_an_invalid_pool_is_told_of_also_without_a_namespace() -> Result<()> {
    let scene = scene("rule_c18_invalid").await?;
    let name = scene.global_name("p");
    let broken = json!(["10.0.0.20-10.0.0.10"]);
    let p = scene.create(global_pool(&name).field("addresses", broken.clone())).await?;
    let note = told(&scene, &p, "Warning", "InvalidPool").await?;
    ensure!(note.contains("spec.addresses[0]") && note.contains("10.0.0.20-10.0.0.10"), "{note}");
    let q = scene.create(pool("q").field("addresses", broken)).await?;
    told(&scene, &q, "Warning", "InvalidPool").await?;
    // Mended, it is served, and nothing more is told of it.
    scene.patch(&scene.pools(PoolKind::InCluster), "q", json!({ "spec": { "addresses": ["10.0.0.10"] } })).await?;
    scene.create(claim("a").in_pool("q")).await?;
    scene.allocated("a").await?;
    ensure!(events_of(&scene, &q).await?.len() == 1);
    scene.finish().await
}
