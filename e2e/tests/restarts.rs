//! Managers and API servers that end in the middle of work, and what must hold nevertheless: no address twice, no claim
//! with another address than before, every claim served in the end.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::address_checker::AddressChecker;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, global_prefix_pool, pool};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::progress::say;
use e2e::scene::{Scene, Stage, address_ref};
use kube::api::ListParams;

/// A backlog takes seconds; on a machine that compiles meanwhile, more of them.
const BACKLOG_WITHIN: Duration = Duration::from_mins(3);

/// Large enough that a manager is in the middle of it for a while.
const BACKLOG: usize = 600;

const IP: PoolKind = PoolKind::InCluster;

/// `10.1.0.0/20` without its first address, of which nothing else is reserved in the part that is used.
const RANGE: &str = "10.1.0.1-10.1.15.254";

fn claims(prefix: &str, count: usize) -> impl Iterator<Item = e2e::fixtures::Claim> {
    (0..count).map(move |number| claim(&format!("{prefix}-{number:04}")).in_pool("p"))
}

/// A stage, a scene on it with a pool, and a checker that knows what the pool holds.
async fn prepared(name: &str) -> Result<(Stage, Scene, AddressChecker)> {
    let stage = Stage::own(name).await?;
    let scene = stage.scene(name).await?;
    let checker = AddressChecker::start(scene.client()).await?;
    checker.allow(IP, scene.namespace(), "p", [RANGE])?;
    scene.create(pool("p").addresses([RANGE]).prefix(20)).await?;
    Ok((stage, scene, checker))
}

async fn served(scene: &Scene) -> Result<usize, kube::Error> {
    let claims = scene.claims().list(&ListParams::default()).await?;
    Ok(claims.items.iter().filter(|claim| address_ref(claim).is_some()).count())
}

/// Waits until the work has begun, and fails if it was over too soon to be interrupted.
async fn in_the_middle_of(scene: &Scene, count: usize) -> Result<()> {
    let begun = eventually("a part of the backlog is served", BACKLOG_WITHIN, || async {
        let served = served(scene).await?;
        if served > count / 10 { Ok(served) } else { Err(NotYet::because(format!("{served} of {count}"))) }
    })
    .await?;
    ensure!(begun < count, "all {count} claims were served before the interruption: the backlog is too small");
    Ok(())
}

/// Every claim has an address, the lowest ones are used, and each was used once.
async fn all_served_with_the_lowest(scene: &Scene, count: usize) -> Result<()> {
    let held = scene.all_allocated(count, BACKLOG_WITHIN).await?;
    let held: BTreeSet<u32> =
        held.iter().map(|(_, address)| Ok(address.parse::<std::net::Ipv4Addr>()?.into())).collect::<Result<_>>()?;
    ensure!(held.len() == count, "{count} claims hold {} different addresses", held.len());
    let first = u32::from(std::net::Ipv4Addr::new(10, 1, 0, 1));
    let highest = held.last().copied().unwrap_or_default();
    ensure!(
        usize::try_from(highest - first)? == count - 1,
        "the highest of {count} addresses is {}",
        std::net::Ipv4Addr::from(highest)
    );
    Ok(())
}

#[tokio::test]
async fn two_thousand_claims_get_the_lowest_two_thousand_addresses() -> Result<()> {
    let (mut stage, scene, checker) = prepared("two-thousand").await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    scene.create_all(claims("c", 2000)).await?;
    all_served_with_the_lowest(&scene, 2000).await?;
    scene.counts(IP, "p", 4094, 2000, 2094).await?;
    assert_eq!(checker.finish().await?.addresses, 2000);
    scene.finish().await?;
    manager.terminate().await?;
    stage.control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn a_manager_that_is_told_to_end_in_the_middle_of_a_backlog_ends_well_and_the_next_one_goes_on() -> Result<()> {
    let (mut stage, scene, checker) = prepared("sigterm").await?;
    scene.create_all(claims("c", BACKLOG)).await?;
    let manager = stage.manager(ManagerOptions::new("first")).await?;
    in_the_middle_of(&scene, BACKLOG).await?;
    let status = manager.terminate().await?;
    ensure!(status.success(), "after SIGTERM it ended with {status}");
    let _manager = stage.manager(ManagerOptions::new("second")).await?;
    all_served_with_the_lowest(&scene, BACKLOG).await?;
    checker.finish().await?;
    scene.finish().await
}

#[tokio::test]
async fn a_manager_that_is_killed_in_the_middle_of_a_backlog_leaves_nothing_twice() -> Result<()> {
    let (mut stage, scene, checker) = prepared("sigkill").await?;
    scene.create_all(claims("c", BACKLOG)).await?;
    for attempt in ["first", "second"] {
        let manager = stage.manager(ManagerOptions::new(attempt)).await?;
        in_the_middle_of(&scene, BACKLOG).await?;
        manager.kill();
    }
    let _manager = stage.manager(ManagerOptions::new("third")).await?;
    all_served_with_the_lowest(&scene, BACKLOG).await?;
    checker.finish().await?;
    scene.finish().await
}

#[tokio::test]
async fn two_thousand_prefixes_are_the_lowest_two_thousand_though_managers_die_in_the_middle() -> Result<()> {
    let mut stage = Stage::own("prefixes").await?;
    let scene = stage.scene("prefixes").await?;
    let checker = AddressChecker::start(scene.client()).await?;
    let pool = scene.global_name("p");
    let kind = PoolKind::GlobalPrefix;
    checker.allow(kind, scene.namespace(), &pool, ["fd00::/48"])?;
    scene.create(global_prefix_pool(&pool).prefixes(["fd00::/48"], 64)).await?;
    let of_pool = |range: std::ops::Range<usize>| {
        range.map(|number| claim(&format!("c-{number:04}")).in_pool_of(kind, &pool)).collect::<Vec<_>>()
    };
    let started = Instant::now();
    scene.create_all(of_pool(0..BACKLOG)).await?;
    let manager = stage.manager(ManagerOptions::new("first")).await?;
    in_the_middle_of(&scene, BACKLOG).await?;
    manager.kill();
    let manager = stage.manager(ManagerOptions::new("second")).await?;
    scene.create_all(of_pool(BACKLOG..2000)).await?;
    let held = scene.all_allocated(2000, BACKLOG_WITHIN).await?;
    say(format!("2,000 prefixes, with a manager that was killed: {:?}", started.elapsed()));
    let blocks = (0..2000).map(|block: u16| Ipv6Addr::new(0xfd00, 0, 0, block, 0, 0, 0, 0).to_string());
    ensure!(held.into_iter().map(|(_, base)| base).collect::<BTreeSet<_>>() == blocks.collect(), "not the lowest");
    scene.counts(kind, &pool, 65_536, 2000, 63_536).await?;
    assert_eq!(checker.finish().await?.addresses, 2000);
    scene.abandon();
    manager.terminate().await?;
    stage.control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn claims_that_were_deleted_while_no_manager_ran_are_released_by_the_next_one() -> Result<()> {
    let (mut stage, scene, checker) = prepared("deleted-meanwhile").await?;
    let manager = stage.manager(ManagerOptions::new("first")).await?;
    scene.create_all(claims("c", 20)).await?;
    scene.all_allocated(20, BACKLOG_WITHIN).await?;
    manager.kill();
    for number in 0..10 {
        scene.delete(&scene.claims(), &format!("c-{number:04}")).await?;
    }
    scene.create_all(claims("d", 10)).await?;
    let _manager = stage.manager(ManagerOptions::new("second")).await?;
    for number in 0..10 {
        scene.gone(&scene.claims(), &format!("c-{number:04}")).await?;
    }
    scene.all_allocated(20, BACKLOG_WITHIN).await?;
    scene.counts(IP, "p", 4094, 20, 4074).await?;
    checker.finish().await?;
    scene.finish().await
}

#[tokio::test]
async fn an_api_server_that_is_gone_for_a_while_costs_no_address() -> Result<()> {
    let (mut stage, scene, checker) = prepared("outage").await?;
    let mut manager = stage.manager(ManagerOptions::new("manager")).await?;
    scene.create_all(claims("c", BACKLOG)).await?;
    stage.control_plane.restart_api_server().await?;
    all_served_with_the_lowest(&scene, BACKLOG).await?;
    manager.must_run()?;
    checker.finish().await?;
    scene.finish().await
}

#[tokio::test]
async fn a_stopped_replica_that_wakes_up_again_gives_nothing_twice() -> Result<()> {
    let (mut stage, scene, checker) = prepared("sigstop").await?;
    let mut one = stage.manager(ManagerOptions::new("one").leader_elect()).await?;
    let mut other = stage.manager(ManagerOptions::new("other").leader_elect()).await?;
    scene.create_all(claims("c", BACKLOG)).await?;
    // Longer than a member Lease lasts: the other replica takes over, and then both are awake.
    one.stop_cont(Duration::from_secs(8)).await?;
    other.stop_cont(Duration::from_secs(8)).await?;
    all_served_with_the_lowest(&scene, BACKLOG).await?;
    // A replica whose Lease was lost may end by itself; one of them serves.
    ensure!(one.must_run().is_ok() || other.must_run().is_ok(), "no replica is left");
    checker.finish().await?;
    scene.finish().await
}
