//! Several replicas at once: who owns what, and that claims are served whoever does.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use e2e::manager::{Manager, ManagerOptions};
use e2e::scene::Stage;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

const WITHIN: Duration = Duration::from_mins(1);

#[tokio::test]
async fn three_replicas_share_the_pools_and_serve_all_claims() -> Result<()> {
    let mut stage = Stage::own("three-replicas").await?;
    let scene = stage.scene("three-replicas").await?;
    let mut managers = Vec::new();
    for name in ["a", "b", "c"] {
        managers.push(stage.manager(ManagerOptions::new(name).leader_elect()).await?);
    }
    let leases: Api<Lease> = Api::all(scene.client().clone());
    let holders = eventually("every shard has an owner", WITHIN, || async {
        let all = leases.list(&ListParams::default()).await?.items;
        let shards = all.iter().filter(|lease| lease.name_any().contains("-shard-"));
        let held: Vec<String> = shards
            .filter_map(|lease| lease.spec.as_ref()?.holder_identity.clone())
            .filter(|holder| !holder.is_empty())
            .collect();
        if held.len() == 64 { Ok(held) } else { Err(NotYet::because(format!("{} of 64", held.len()))) }
    })
    .await?;
    println!("{holders:?}");
    let checker = AddressChecker::start(scene.client()).await?;
    checker.allow(PoolKind::InCluster, scene.namespace(), "p", ["10.1.0.1-10.1.15.254"])?;
    scene.create(pool("p").addresses(["10.1.0.1-10.1.15.254"]).prefix(20)).await?;
    scene.create_all((0..200).map(|n| claim(&format!("c-{n:03}")).in_pool("p"))).await?;
    scene.all_allocated(200, WITHIN).await?;
    checker.finish().await?;
    scene.finish().await?;
    for manager in managers {
        let status = Manager::terminate(manager).await?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}
