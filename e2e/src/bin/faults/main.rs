//! `make faults`: replicas under load while owners end, networks break and servers restart; prints what it measured.
//!
//! The tests run the same scenarios once and small (e2e/tests/faults.rs). All random choices follow from the seed that is
//! printed first.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use e2e::chance;
use e2e::faults::backlog::flood;
use e2e::faults::edits::edit;
use e2e::faults::network::{cut_off, hold_events};
use e2e::faults::servers::{Server, restart, restore};
use e2e::faults::signals::{Blow, strike};
use e2e::faults::skew::{library, skew};
use e2e::faults::{Plan, Trial, scaling};
use e2e::proxy::Way;

/// Measures the replicas under faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all of it if nothing is named
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often an owner is struck in each way
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many replicas there are
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// How many claims the backlog has
    #[arg(long, default_value_t = 10_000)]
    claims: usize,
    /// What all random choices follow from; without, it is taken from the clock
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Owners that end, are killed, or sleep
    Owners,
    /// Replicas that come and go
    Scaling,
    /// Writes of Leases while nothing happens
    Leases,
    /// Owners that are cut off, or see everything late
    Network,
    /// Restarts of the API server and of etcd
    Outages,
    /// A snapshot of etcd that is put back
    Restore,
    /// More claims than the API server can take in
    Backlog,
    /// Others who write to pools
    Edits,
    /// Clocks that differ
    Skew,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!((2..=10).contains(&arguments.replicas), "--replicas: 2 to 10");
    let seed = arguments.seed.unwrap_or_else(chance::seed);
    report::environment(seed);
    let is_wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    if is_wanted(Part::Owners) {
        for blow in [Blow::Terminate, Blow::Kill, Blow::KillAndDeletePod, Blow::Stop] {
            owners(blow, &arguments, seed).await.with_context(|| format!("{}, seed {seed}", blow.name()))?;
        }
    }
    if is_wanted(Part::Scaling) {
        scale(seed).await.with_context(|| format!("scaling, seed {seed}"))?;
    }
    if is_wanted(Part::Leases) {
        leases(seed).await.context("writes of Leases")?;
    }
    if is_wanted(Part::Network) {
        network(&arguments, seed).await.with_context(|| format!("network, seed {seed}"))?;
    }
    if is_wanted(Part::Outages) {
        outages(&arguments, seed).await.with_context(|| format!("outages, seed {seed}"))?;
    }
    if is_wanted(Part::Restore) {
        let restored = restore(Plan::new("faults-restore", arguments.replicas, seed)).await.context("restore")?;
        println!("Restored snapshot: {} of {} replicas ended by themselves.\n", restored.ended, restored.replicas);
    }
    if is_wanted(Part::Backlog) {
        backlog(&arguments, seed).await.context("backlog")?;
    }
    if is_wanted(Part::Edits) {
        let mut trial = Trial::start(Plan::new("faults-edits", arguments.replicas, seed)).await?;
        let since = Instant::now();
        let edits = edit(&mut trial, Duration::from_mins(1)).await.with_context(|| format!("edits, seed {seed}"))?;
        let service = trial.service(since);
        trial.finish(Instant::now()).await?;
        report::edits(edits, service);
    }
    if is_wanted(Part::Skew) {
        skewed(&arguments, seed).await.with_context(|| format!("clock skew, seed {seed}"))?;
    }
    Ok(())
}

async fn network(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut trial = Trial::start(Plan::new("faults-network", arguments.replicas, seed).with_proxies()).await?;
    let mut rows = Vec::new();
    for way in [Way::Silent, Way::AnswersSilent, Way::Refused] {
        let mut partitions = Vec::new();
        for _ in 0..arguments.rounds.div_ceil(4) {
            partitions.push(cut_off(&mut trial, way).await?);
        }
        rows.push((way, partitions));
    }
    let late = hold_events(&mut trial, Duration::from_secs(30)).await?;
    trial.finish(Instant::now()).await?;
    report::network(&rows, late);
    Ok(())
}

async fn outages(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut trial = Trial::start(Plan::new("faults-outages", arguments.replicas, seed)).await?;
    let mut rows = Vec::new();
    for _ in 0..arguments.rounds.div_ceil(5) {
        for server in [Server::Api, Server::Etcd] {
            rows.push((server, restart(&mut trial, server).await?));
        }
    }
    trial.finish(Instant::now()).await?;
    report::outages(&rows);
    Ok(())
}

async fn backlog(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut trial = Trial::start(Plan::new("faults-backlog", arguments.replicas, seed)).await?;
    let flood = flood(&mut trial, arguments.claims, Duration::from_mins(15)).await?;
    trial.finish(Instant::now()).await?;
    report::backlog(flood);
    Ok(())
}

async fn skewed(arguments: &Arguments, seed: u64) -> Result<()> {
    let Some(library) = library() else {
        println!("Clock skew: SKIPPED, libfaketime is not installed (E2E_FAKETIME names it elsewhere).\n");
        return Ok(());
    };
    let mut trial = Trial::start(Plan::new("faults-skew", 3, seed)).await?;
    let moved = skew(&mut trial, &library, Duration::from_mins(1)).await?;
    println!("Clocks an hour ahead, an hour behind and a tenth too fast: {moved} shards moved in a minute.\n");
    let mut takeovers = Vec::new();
    for _ in 0..arguments.rounds.div_ceil(10) {
        takeovers.push(strike(&mut trial, Blow::Kill).await?);
    }
    trial.finish(Instant::now()).await?;
    report::takeovers(Blow::Kill, &takeovers);
    Ok(())
}

async fn owners(blow: Blow, arguments: &Arguments, seed: u64) -> Result<()> {
    let mut plan = Plan::new("faults-owners", arguments.replicas, seed);
    if blow == Blow::KillAndDeletePod {
        plan = plan.with_pods();
    }
    let mut trial = Trial::start(plan).await?;
    let mut takeovers = Vec::new();
    for _ in 0..arguments.rounds {
        takeovers.push(strike(&mut trial, blow).await?);
    }
    trial.finish(Instant::now()).await?;
    report::takeovers(blow, &takeovers);
    Ok(())
}

async fn scale(seed: u64) -> Result<()> {
    let mut trial = Trial::start(Plan::new("faults-scaling", 1, seed)).await?;
    let mut steps = Vec::new();
    for to in [5, 2, 3, 4, 5, 4, 3, 2] {
        steps.push(scaling::scale(&mut trial, to).await?);
    }
    trial.finish(Instant::now()).await?;
    report::scaling(&steps);
    Ok(())
}

async fn leases(seed: u64) -> Result<()> {
    let mut trial = Trial::start(Plan::new("faults-leases", 1, seed)).await?;
    let mut rates = Vec::new();
    for replicas in [1, 3, 5, 10] {
        let more = replicas - trial.replicas.names().len();
        trial.replicas.start(&trial.stage.control_plane, more).await?;
        trial.even().await?;
        rates.push((replicas, scaling::lease_writes(&trial, Duration::from_secs(30)).await));
    }
    trial.finish(Instant::now()).await?;
    report::leases(&rates);
    Ok(())
}
