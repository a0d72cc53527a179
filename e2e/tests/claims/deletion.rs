//! Pools and whole namespaces that go, whatever is left in them (C4, C12).

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, global_pool, pool, prefix_pool};
use e2e::kinds::PoolKind;
use e2e::progress::say;
use e2e::scene::{Scene, scene};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

const IP: PoolKind = PoolKind::InCluster;

/// Thousands of requests, on a machine that does other things meanwhile.
const MANY_WITHIN: Duration = Duration::from_mins(2);

/// The server deletes the objects of a namespace one after the other. A second or two on a machine at rest.
const NAMESPACE_WITHIN: Duration = Duration::from_mins(10);

/// A pool with claims that hold its addresses, and one that waits.
async fn full(scene: &Scene, name: &str) -> Result<Vec<String>> {
    scene.create(pool(name).addresses(["10.0.0.10-10.0.0.11"])).await?;
    let claims: Vec<String> = ["x", "y", "z"].map(|claim| format!("{name}-{claim}")).into();
    for claim_name in &claims[..2] {
        scene.create(claim(claim_name).in_pool(name)).await?;
        scene.allocated(claim_name).await?;
    }
    scene.create(claim(&claims[2]).in_pool(name)).await?;
    scene.waits_for(&claims[2], "PoolExhausted").await?;
    Ok(claims)
}

#[tokio::test]
async fn rule_c4_pools_and_their_claims_go_in_any_order() -> Result<()> {
    let scene = scene("rule_c4_orders").await?;
    let pools = scene.pools(IP);
    // The claims first, without a look back.
    for name in full(&scene, "last").await? {
        scene.delete(&scene.claims(), &name).await?;
    }
    scene.delete(&pools, "last").await?;
    // The pool first.
    let claims = full(&scene, "first").await?;
    scene.delete(&pools, "first").await?;
    for name in claims {
        scene.delete(&scene.claims(), &name).await?;
    }
    // In between.
    let claims = full(&scene, "between").await?;
    scene.delete(&scene.claims(), &claims[0]).await?;
    scene.delete(&pools, "between").await?;
    for name in &claims[1..] {
        scene.delete(&scene.claims(), name).await?;
    }
    // Also before anybody has looked at it.
    scene.create(pool("unseen").addresses(["10.0.0.10"])).await?;
    scene.delete(&pools, "unseen").await?;
    for name in ["last", "first", "between", "unseen"] {
        scene.gone(&pools, name).await?;
    }
    nothing_is_left(&scene).await?;
    scene.finish().await
}

#[tokio::test]
async fn rule_c4_a_pool_goes_while_claims_wait_for_it_and_one_of_its_name_serves_them() -> Result<()> {
    let scene = scene("rule_c4_successor").await?;
    let claims = full(&scene, "p").await?;
    scene.delete(&scene.pools(IP), "p").await?;
    scene.waits_for(&claims[2], "PoolNotReady").await?;
    for name in &claims[..2] {
        scene.release(name).await?;
    }
    scene.gone(&scene.pools(IP), "p").await?;
    scene.create(pool("p").addresses(["10.0.0.30"])).await?;
    assert_eq!(scene.allocated(&claims[2]).await?, "10.0.0.30");
    scene.finish().await
}

#[tokio::test]
async fn rule_c4_a_pool_that_is_deleted_in_the_middle_of_its_work_goes_with_its_claims() -> Result<()> {
    let scene = scene("rule_c4_middle").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.200"])).await?;
    let names: Vec<String> = (0..100).map(|number| format!("c-{number:03}")).collect();
    let creation = scene.create_all(names.iter().map(|name| claim(name).in_pool("p")));
    let deletion = async {
        scene.allocated("c-000").await?;
        scene.delete(&scene.pools(IP), "p").await
    };
    tokio::try_join!(creation, deletion)?;
    scene.pool_is(IP, "p", "False", "Deleting").await?;
    let all = scene.claims().list(&ListParams::default()).await?.items.len();
    assert_eq!(all, names.len());
    scene.claims().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    scene.gone(&scene.pools(IP), "p").await?;
    nothing_is_left(&scene).await?;
    scene.finish().await
}

/// Claims and addresses; `kubectl get` would show none.
async fn nothing_is_left(scene: &Scene) -> Result<()> {
    eventually("no claim and no address is left", MANY_WITHIN, || async {
        let claims = scene.claims().list(&ListParams::default()).await?.items.len();
        let addresses = scene.addresses().list(&ListParams::default()).await?.items.len();
        if (claims, addresses) == (0, 0) {
            Ok(())
        } else {
            Err(NotYet::because(format!("{claims} claims and {addresses} addresses")))
        }
    })
    .await
}

#[tokio::test]
async fn rule_c12_a_namespace_of_a_thousand_claims_goes_without_help() -> Result<()> {
    let scene = scene("rule_c12_namespace").await?;
    let shared = scene.global_name("g");
    scene.create(global_pool(&shared).addresses(["10.1.0.0/16"]).prefix(16)).await?;
    scene.create(pool("p").addresses(["10.2.0.0/16"]).prefix(16)).await?;
    // Full, with claims that wait; with a grace period, which ends with the pool.
    scene.create(pool("small").addresses(["10.3.0.0/25"]).grace_period(3600)).await?;
    scene.create(prefix_pool("blocks").prefixes(["fd00::/48"], 64)).await?;
    scene.create(pool("broken").addresses(["nonsense"])).await?;
    let started = Instant::now();
    scene
        .create_all((0..1000).map(|number| {
            let claim = claim(&format!("c-{number:04}"));
            match number % 5 {
                0 => claim.in_global_pool(&shared),
                1 => claim.in_pool("small"),
                2 => claim.in_pool_of(PoolKind::Prefix, "blocks"),
                3 if number % 10 == 3 => claim.in_pool("broken"),
                _ => claim.in_pool("p"),
            }
        }))
        .await?;
    // In `small` 127 of 200 are served, of those of `broken` none.
    scene.all_allocated(827, MANY_WITHIN).await?;
    let served = started.elapsed();
    let started = Instant::now();
    let namespaces: Api<Namespace> = Api::all(scene.client().clone());
    namespaces.delete(scene.namespace(), &DeleteParams::default()).await?;
    eventually("the namespace is gone", NAMESPACE_WITHIN, || async {
        if namespaces.get_opt(scene.namespace()).await?.is_none() {
            return Ok(());
        }
        let claims = scene.claims().list(&ListParams::default()).await?.items.len();
        let addresses = scene.addresses().list(&ListParams::default()).await?.items.len();
        Err(NotYet::because(format!("{claims} claims and {addresses} addresses")))
    })
    .await?;
    say(format!("1,000 claims: served in {served:?}, gone with their namespace in {:?}", started.elapsed()));
    // What belongs to no namespace knows that they are gone.
    scene.counts(PoolKind::GlobalInCluster, &shared, 65_534, 0, 65_534).await?;
    scene.finish().await
}
