//! Nothing but the image is swapped: the original's kinds and rights, our program.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::crds;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{claim, global_pool, pool};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::original::{Era, Original, Step, manifests};
use e2e::scene::Stage;

use crate::our_crds;

/// Whether the server stores the record by now is tried once a minute.
const NOTICED_WITHIN: Duration = Duration::from_secs(100);

/// How often the log has lines with all of this in them.
fn lines(log: &std::path::Path, parts: &[&str]) -> Result<usize> {
    let text = std::fs::read_to_string(log)?;
    Ok(text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count())
}

#[tokio::test]
async fn rule_f2_with_the_originals_kinds_and_rights_it_serves_what_is_safe_and_says_what_to_do() -> Result<()> {
    let ours = our_crds().await?;
    let theirs = manifests::crds_without_prefix_pools(&ours);
    let mut stage = Stage::with_pools("swap", &theirs).await?;
    let scene = stage.scene("swap").await?;
    manifests::install_rights(scene.client(), &[PoolKind::InCluster, PoolKind::GlobalInCluster]).await?;
    let original = Original::new(scene.client().clone(), scene.namespace());
    let checker = AddressChecker::start(scene.client()).await?;
    let core = scene.global_name("core");
    scene.create(pool("rack").addresses(["10.0.0.10-10.0.0.60"])).await?;
    scene.create(global_pool(&core).addresses(["10.1.0.10-10.1.0.60"])).await?;
    for (name, step) in [("served", Step::Referred), ("leaving", Step::Referred), ("allocated", Step::Allocated)] {
        scene.create(claim(name).in_pool("rack")).await?;
        original.serve(name, Era::Current, step).await?;
    }

    let options = ManagerOptions::new("swapped").as_account(manifests::release()).leader_elect();
    let manager = stage.manager(options.argument("--adoption-grace-period=2s")).await?;
    scene.allocated("allocated").await?;
    scene.release("leaving").await?;
    scene.create(claim("new").in_pool("rack")).await?;
    scene.create(claim("global").in_global_pool(&core)).await?;
    for (name, crd) in [("new", "inclusterippools"), ("global", "globalinclusterippools")] {
        let why = scene.waits_for(name, "AllocationFailed").await?;
        ensure!(why.contains(&format!("{crd}.ipam.cluster.x-k8s.io")) && why.contains("manager crds"), "{why}");
    }
    // Counts are the original's, too.
    scene.counts(PoolKind::InCluster, "rack", 51, 2, 49).await?;
    ensure!(lines(manager.log(), &["WARN", "does not store status.allocation"])? == 2, "once for each pool");
    for plural in ["inclusterprefixpools", "globalinclusterprefixpools"] {
        let said = lines(manager.log(), &["WARN", &format!("\"{plural}."), "forbidden"])?;
        ensure!(said == 1, "{plural} are forbidden: said {said} times");
    }

    // The kinds are updated; the rights are not.
    crds::install(scene.client(), &ours).await?;
    eventually("new claims are served", NOTICED_WITHIN, || async {
        scene.all_allocated(4, PATIENCE).await.map(drop).map_err(|error| NotYet::because(error.to_string()))
    })
    .await?;
    scene.pool_is(PoolKind::InCluster, "rack", "True", "PoolReady").await?;
    scene.pool_is(PoolKind::GlobalInCluster, &core, "True", "PoolReady").await?;

    // Back, with us at work: what is served stays, nothing new is promised.
    crds::install(scene.client(), &theirs).await?;
    scene.create(claim("late").in_pool("rack")).await?;
    scene.waits_for("late", "AllocationFailed").await?;
    scene.release("served").await?;
    ensure!(manager.is_ready().await, "it is not ready any more");
    checker.finish().await?;
    scene.finish().await
}
