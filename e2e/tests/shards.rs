//! Several replicas at once, and nothing breaks: who owns what, and that claims are served whoever does.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::chance;
use e2e::eventually::{NotYet, eventually};
use e2e::faults::{Plan, Trial};
use e2e::replicas::must_be_even;

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn three_replicas_that_start_together_share_the_pools_and_one_of_them_leads() -> Result<()> {
    let mut trial = Trial::start(Plan::new("three-replicas", 3, chance::seed())).await?;
    let holdings = trial.even().await?;
    must_be_even(&holdings.counts())?;
    ensure!(holdings.members == trial.replicas.names(), "{holdings:?}");
    let owners = trial.owners();
    ensure!(owners.iter().all(Option::is_some), "a pool without an owner: {owners:?}");
    // The one that holds the Lease knows it, and goes on knowing it.
    for _ in 0..2 {
        eventually("one replica says that it leads", WITHIN, || async {
            let leaders = trial.replicas.sum("capi_ipam_leader").await?;
            if (leaders - 1.0).abs() < 0.5 { Ok(()) } else { Err(NotYet::because(format!("{leaders} do"))) }
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let said = trial.replicas.names().iter().try_fold(0, |sum, name| {
        Ok::<_, anyhow::Error>(sum + trial.replicas.count_said(name, "\"message\":\"leads\"")?)
    })?;
    ensure!(said == 1, "that somebody leads was said {said} times");
    trial.replicas.must_run()?;
    trial.finish(Instant::now()).await?;
    Ok(())
}
