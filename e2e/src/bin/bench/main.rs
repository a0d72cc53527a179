//! `make bench`: how fast a backlog of claims is served, against the limit of the API server.
//!
//! The raw limit is a writer that decides nothing: for each claim the finalizer, the `IPAddress` and the status, and no
//! other request. Both work on the same backlog, through the same service account, on a control plane of their own that
//! has just started and ends with the round, and take turns, so that a slow minute of the machine hits both.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod admissions;
mod arena;
mod latency;
mod managed;
mod raw;
mod report;

use anyhow::{Result, ensure};
use clap::Parser;

/// Measures the manager against the limit of the API server.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many claims wait in a backlog; several sizes are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1000,4000")]
    sizes: Vec<usize>,
    /// How many times each is measured, raw and managed in turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many single claims are made one after the other; 0 = none.
    #[arg(long, default_value_t = 100)]
    singles: usize,
    /// How many times admission is asked about a change and about a deletion of a pool; 0 = not measured.
    #[arg(long, default_value_t = 1000)]
    admissions: usize,
    /// How many addresses that pool has in use.
    #[arg(long, default_value_t = 10_000)]
    addresses: usize,
    /// Leaves the raw limit out: to compare two managers with each other (MANAGER=file says which), or to profile one.
    #[arg(long)]
    manager_only: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.sizes.iter().all(|size| (1..=arena::LARGEST).contains(size)), "--sizes: 1 to {}", arena::LARGEST);
    ensure!((1..=50_000).contains(&arguments.addresses), "--addresses: 1 to 50000");
    report::environment();
    for size in arguments.sizes {
        let mut rounds = Vec::new();
        for round in 1..=arguments.rounds {
            let raw = if arguments.manager_only { None } else { Some(raw::round(size).await?) };
            if let Some(raw) = &raw {
                println!("  {size} claims, round {round}: raw {:.0}/s", raw.rate());
            }
            let managed = managed::round(size).await?;
            println!(
                "  {size} claims, round {round}: manager {:.0}/s; sent: {}",
                managed.served.rate(),
                managed.sent()
            );
            rounds.push((raw, managed));
        }
        report::backlog(size, &rounds);
    }
    if arguments.singles > 0 {
        report::singles(&latency::singles(arguments.singles).await?);
    }
    if arguments.admissions > 0 {
        report::admissions(arguments.addresses, &admissions::round(arguments.addresses, arguments.admissions).await?);
    }
    Ok(())
}
