//! The tables, as Markdown.

use std::time::Duration;

use e2e::control_plane::versions;
use e2e::faults::backlog::Flood;
use e2e::faults::edits::Edits;
use e2e::faults::network::{Late, Partition};
use e2e::faults::scaling::Scaled;
use e2e::faults::servers::{Outage, Server};
use e2e::faults::signals::{Blow, Takeover};
use e2e::load::Service;
use e2e::proxy::Way;

/// What the numbers were measured on.
pub(crate) fn environment(seed: u64) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    println!(
        "{cores} cores, load {load} before the start; Kubernetes {}, etcd {} without fsync; everything shares the machine.",
        versions::kubernetes(),
        versions::etcd()
    );
    println!("Seed {seed}.\n");
}

/// From a blow to the first claim served by a successor.
pub(crate) fn takeovers(blow: Blow, rounds: &[Takeover]) {
    let of = |part: fn(&Takeover) -> Duration| spread(rounds.iter().map(part).collect());
    let untouched = rounds.iter().map(|round| round.untouched.longest).max().unwrap_or_default();
    println!(
        "| blow | rounds | first pool served again, median / max | all pools, median / max | longest wait in untouched pools |"
    );
    println!("|---|---|---|---|---|");
    println!(
        "| {} | {} | {} | {} | {:.2} s |\n",
        blow.name(),
        rounds.len(),
        of(|round| round.first),
        of(|round| round.all),
        untouched.as_secs_f64()
    );
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    format!("{:.2} / {:.2} s", median.as_secs_f64(), most.as_secs_f64())
}

/// What moves when replicas come and go.
pub(crate) fn scaling(steps: &[Scaled]) {
    println!("| replicas | shards moved | at least | even after | longest wait | in untouched pools |");
    println!("|---|---|---|---|---|---|");
    for step in steps {
        println!(
            "| {} → {} | {} | {} | {:.1} s | {:.2} s | {:.2} s |",
            step.from,
            step.to,
            step.moved,
            step.least,
            step.took.as_secs_f64(),
            step.all.longest.as_secs_f64(),
            step.untouched.longest.as_secs_f64()
        );
    }
    println!();
}

/// Owners that are cut off, and one whose events come late.
pub(crate) fn network(rows: &[(Way, Vec<Partition>)], late: Late) {
    println!(
        "| way to the API server | rounds | first pool served again, median / max | all pools, median / max | longest wait in untouched pools | ended when healed |"
    );
    println!("|---|---|---|---|---|---|");
    for (way, rounds) in rows {
        let untouched = rounds.iter().map(|round| round.untouched.longest).max().unwrap_or_default();
        println!(
            "| {way:?} | {} | {} | {} | {:.2} s | {} |",
            rounds.len(),
            spread(rounds.iter().map(|round| round.first).collect()),
            spread(rounds.iter().map(|round| round.all).collect()),
            untouched.as_secs_f64(),
            rounds.iter().map(|round| round.ended).sum::<usize>()
        );
    }
    println!(
        "\nEvents held back 30 s: longest wait in its own pools {:.1} s, in untouched pools {:.2} s; {} shards moved.\n",
        late.victims.longest.as_secs_f64(),
        late.untouched.longest.as_secs_f64(),
        late.moved
    );
}

/// Servers that were away.
pub(crate) fn outages(rows: &[(Server, Outage)]) {
    println!("| server | away | first claim served after its return | longest wait | shards moved |");
    println!("|---|---|---|---|---|");
    for (server, outage) in rows {
        println!(
            "| {server:?} | {:.1} s | {:.2} s | {:.1} s | {} |",
            outage.away.as_secs_f64(),
            outage.first.as_secs_f64(),
            outage.after.longest.as_secs_f64(),
            outage.moved
        );
    }
    println!();
}

/// More claims than the API server can take in.
pub(crate) fn backlog(flood: Flood) {
    println!(
        "Backlog of {} claims, served after {:.0} s: {} shards moved, {} members held dead, {} Leases not renewed in time.\n",
        flood.claims,
        flood.took.as_secs_f64(),
        flood.moved,
        flood.dead,
        flood.expired
    );
}

/// Others who write to pools.
pub(crate) fn edits(edits: Edits, service: Service) {
    println!("{edits:?}: longest wait {:.2} s.\n", service.longest.as_secs_f64());
}

/// What replicas cost while nothing happens.
pub(crate) fn leases(rates: &[(usize, f64)]) {
    println!("| replicas | Lease writes/s |");
    println!("|---|---|");
    for (replicas, rate) in rates {
        println!("| {replicas} | {rate:.2} |");
    }
    println!();
}
