//! The tables.

use std::time::Duration;

use e2e::control_plane::versions;

use crate::admissions::Asked;
use crate::arena::Served;
use crate::managed::Managed;

/// What the numbers were measured on.
pub(crate) fn environment() {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    println!(
        "{cores} cores, load {load} before the start; Kubernetes {}, etcd {} without fsync; client, API server, etcd and manager share the machine.",
        versions::kubernetes(),
        versions::etcd()
    );
    println!("Raw limit: per claim the finalizer patch, the IPAddress and the status patch, 64 claims in flight.\n");
}

/// One size of backlog: each round, and the medians.
#[expect(clippy::cast_precision_loss, reason = "counts of claims and bytes of memory are far below 2^52")]
pub(crate) fn backlog(size: usize, rounds: &[(Option<Served>, Managed)]) {
    const MIB: f64 = 1024.0 * 1024.0;
    println!("\nBacklog of {size} claims");
    println!(
        "{:>8} {:>14} {:>18} {:>7} {:>14} {:>16} {:>14}",
        "round", "raw claims/s", "manager claims/s", "ratio", "CPU ms/claim", "requests/claim", "peak RSS MiB"
    );
    let claims = size as f64;
    let rows: Vec<[f64; 6]> = rounds
        .iter()
        .map(|(raw, managed)| {
            let raw = raw.as_ref().map_or(f64::NAN, Served::rate);
            [
                raw,
                managed.served.rate(),
                managed.served.rate() / raw,
                managed.cpu.as_secs_f64() * 1000.0 / claims,
                managed.requests / claims,
                managed.peak_resident as f64 / MIB,
            ]
        })
        .collect();
    for (number, row) in rows.iter().enumerate() {
        line(&(number + 1).to_string(), row);
    }
    let medians: Vec<f64> = (0..6).map(|column| median(rows.iter().map(|row| row[column]).collect())).collect();
    line("median", &medians);
    println!();
}

fn line(name: &str, row: &[f64]) {
    println!(
        "{name:>8} {:>14.0} {:>18.0} {:>7.2} {:>14.2} {:>16.2} {:>14.1}",
        row[0], row[1], row[2], row[3], row[4], row[5]
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Latencies of single claims, in ascending order.
pub(crate) fn singles(sorted: &[Duration]) {
    let at = |percent: usize| {
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
    };
    println!("{} single claims, creation to addressRef: p50 {:.1} ms, p99 {:.1} ms", sorted.len(), at(50), at(99));
}

/// Admission requests about a pool with so many addresses in use, by operation.
pub(crate) fn admissions(addresses: usize, measured: &[(&str, Asked)]) {
    println!("\nAdmission with {addresses} addresses in use, as the API server measures it");
    println!("{:>10} {:>9} {:>9} {:>12} {:>13}", "operation", "requests", "mean ms", "within 5 ms", "within 25 ms");
    for (operation, asked) in measured {
        let share = |part: f64| format!("{:.2} %", 100.0 * part / asked.requests);
        println!(
            "{operation:>10} {:>9.0} {:>9.2} {:>12} {:>13}",
            asked.requests,
            1000.0 * asked.seconds / asked.requests,
            share(asked.within_5_ms),
            share(asked.within_25_ms)
        );
    }
}
