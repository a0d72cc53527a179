//! What a process has used, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Linux counts CPU time in hundredths of a second for everybody who reads `/proc`.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since it started.
    pub cpu: Duration,
    /// The most memory that it ever had resident, in bytes.
    pub peak_resident: u64,
}

/// Of a running process.
pub fn of_process(id: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).context("reading the CPU time of a process")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("reading the memory of a process")?;
    Ok(Usage {
        cpu: cpu(&stat).context("finding the CPU time of a process")?,
        peak_resident: peak_resident(&status).context("finding the memory of a process")?,
    })
}

fn cpu(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold anything; the fields after it are numbered from 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(Duration::from_secs(1) / TICKS_PER_SECOND * ticks)
}

fn peak_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(of_process(std::process::id()).expect("it runs").peak_resident > 1024 * 1024);
    }
}
