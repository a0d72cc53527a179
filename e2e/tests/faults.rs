//! Three to five replicas of the real program under load while owners end, networks break and servers restart.
//!
//! Each scenario runs once and small here; `make faults` repeats them and measures. In all of them no address is held
//! twice at any moment, no claim's address changes, no shards move but those that must, and nobody waits any more 10 s
//! after the last fault. How long takeovers take is printed and not judged: that is a figure of the machine, too
//! (docs/evaluation.md).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::chance;
use e2e::faults::backlog::flood;
use e2e::faults::edits::edit;
use e2e::faults::network::{cut_off, hold_events};
use e2e::faults::scaling::scale;
use e2e::faults::servers::{Server, restart, restore};
use e2e::faults::signals::{Blow, strike};
use e2e::faults::skew::{library, skew};
use e2e::faults::{Plan, Trial};
use e2e::progress::say;
use e2e::proxy::Way;
use tokio::sync::Mutex;

/// One at a time: two control planes and six replicas on two cores would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

fn plan(name: &str, replicas: usize) -> Plan {
    Plan::new(name, replicas, chance::seed())
}

#[tokio::test]
async fn owners_that_end_or_die_or_sleep_are_succeeded_and_others_do_not_notice() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("owners", 3)).await?;
    for blow in [Blow::Terminate, Blow::Kill, Blow::Stop] {
        let takeover = strike(&mut trial, blow).await?;
        ensure!(takeover.moved == takeover.held, "{}: others' shards moved, too: {takeover:?}", blow.name());
    }
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn an_owner_whose_pod_is_deleted_is_succeeded_before_its_lease_runs_out() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("pods", 3).with_pods()).await?;
    let takeover = strike(&mut trial, Blow::KillAndDeletePod).await?;
    ensure!(takeover.moved == takeover.held, "others' shards moved, too: {takeover:?}");
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn from_one_replica_to_five_to_two_shards_stay_even_and_claims_are_served() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("scaling", 1)).await?;
    for to in [5, 2] {
        scale(&mut trial, to).await?;
    }
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn an_owner_that_is_cut_off_is_succeeded_and_comes_back_in_peace() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("network", 3).with_proxies()).await?;
    for way in [Way::Silent, Way::AnswersSilent] {
        cut_off(&mut trial, way).await?;
    }
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn an_owner_whose_watch_events_come_thirty_seconds_late_gives_nothing_twice() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("late-events", 3).with_proxies()).await?;
    let late = hold_events(&mut trial, Duration::from_secs(30)).await?;
    ensure!(late.moved == 0, "an owner that sees late is not dead: {late:?}");
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_api_server_or_of_etcd_moves_no_shard() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("outages", 3)).await?;
    for server in [Server::Api, Server::Etcd] {
        let outage = restart(&mut trial, server).await?;
        ensure!(outage.moved == 0, "replicas took an outage of {server:?} for the death of others: {outage:?}");
    }
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn replicas_that_see_a_restored_snapshot_end_and_new_ones_give_nothing_twice() -> Result<()> {
    let _alone = ALONE.lock().await;
    let restored = restore(plan("restore", 3)).await?;
    ensure!(restored.ended == restored.replicas, "{restored:?}");
    Ok(())
}

#[tokio::test]
async fn a_backlog_that_saturates_the_api_server_moves_no_shard() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("backlog", 3)).await?;
    let flood = flood(&mut trial, 1500, Duration::from_mins(3)).await?;
    ensure!(flood.moved == 0 && flood.dead == 0.0, "load was taken for death: {flood:?}");
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn records_that_others_remove_under_load_are_put_back_before_anything_is_given_out() -> Result<()> {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::start(plan("edits", 3)).await?;
    edit(&mut trial, Duration::from_secs(15)).await?;
    trial.finish(Instant::now()).await?;
    Ok(())
}

#[tokio::test]
async fn replicas_whose_clocks_differ_live_with_each_other() -> Result<()> {
    let _alone = ALONE.lock().await;
    let Some(library) = library() else {
        say("SKIPPED: clock skew: libfaketime is not installed (E2E_FAKETIME names it elsewhere)");
        return Ok(());
    };
    let mut trial = Trial::start(plan("skew", 3)).await?;
    let moved = skew(&mut trial, &library, Duration::from_secs(15)).await?;
    ensure!(moved == 0, "{moved} shards moved though nothing happened");
    strike(&mut trial, Blow::Kill).await?;
    trial.finish(Instant::now()).await?;
    Ok(())
}
