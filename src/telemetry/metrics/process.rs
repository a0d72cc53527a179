//! What the kernel knows of this process, under the names that every Prometheus client uses; read at each scrape.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks per second in `/proc`: `USER_HZ`, which is 100 in the kernel's interface on every platform that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Collects the metrics; holds nothing.
#[derive(Debug)]
pub(super) struct Process;

/// What of `/proc` could be read; nothing of it on other systems than Linux.
#[derive(Debug, Default, PartialEq)]
struct Sample {
    cpu_seconds: Option<f64>,
    /// Since the epoch.
    start_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
}

impl Sample {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        // One of them is the folder itself, open while it is read.
        let fds = fs::read_dir("/proc/self/fd").map(|fds| fds.count().saturating_sub(1));
        Self {
            open_fds: fds.ok().and_then(|fds| fds.try_into().ok()),
            ..Self::parse(&text("/proc/self/stat"), &text("/proc/self/status"), &text("/proc/stat"))
        }
    }

    /// From the texts of `/proc/self/stat`, `/proc/self/status` and `/proc/stat`.
    fn parse(stat: &str, status: &str, system: &str) -> Self {
        // The program's name is in parentheses and may hold spaces and parentheses itself. Behind it is field 3.
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = |field: usize| behind_name.split_ascii_whitespace().nth(field - 3)?.parse::<f64>().ok();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
        let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, kernel)| (user + kernel) / TICKS_PER_SECOND),
            start_seconds: boot.zip(ticks(22)).map(|(boot, start)| boot + start / TICKS_PER_SECOND),
            resident_bytes: kib.map(|kib| kib.saturating_mul(1024)),
            open_fds: None,
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Sample { cpu_seconds, start_seconds, resident_bytes, open_fds } = Sample::read();
        if let Some(seconds) = cpu_seconds {
            write(&mut encoder, "process_cpu_seconds", "CPU time of this process.", &ConstCounter::new(seconds))?;
        }
        if let Some(seconds) = start_seconds {
            let help = "When this process began, in seconds since the epoch.";
            write(&mut encoder, "process_start_time_seconds", help, &ConstGauge::new(seconds))?;
        }
        if let Some(bytes) = resident_bytes {
            write(&mut encoder, "process_resident_memory_bytes", "Memory in use.", &ConstGauge::new(bytes))?;
        }
        if let Some(fds) = open_fds {
            write(&mut encoder, "process_open_fds", "Open files and connections.", &ConstGauge::new(fds))?;
        }
        Ok(())
    }
}

fn write(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> Result<(), Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 8 0 1000 123456 789 18446744073709551615";

    #[test]
    fn the_kernels_texts_are_understood() {
        let status = "Name:\tmanager\nVmSize:\t  999 kB\nVmRSS:\t  20480 kB\n";
        let sample = Sample::parse(STAT, status, "cpu  1 2 3\nbtime 1700000000\n");
        let expected = Sample {
            cpu_seconds: Some(4.0),
            start_seconds: Some(1_700_000_010.0),
            resident_bytes: Some(20_971_520),
            open_fds: None,
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn what_is_missing_is_not_made_up() {
        assert_eq!(Sample::parse("", "", ""), Sample::default());
        assert_eq!(Sample::parse("1 (a) S 1", "VmRSS: x kB", "btime x"), Sample::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_everything() {
        let file = fs::File::open("/proc/self/stat").expect("Linux");
        let Sample { cpu_seconds, start_seconds, resident_bytes, open_fds } = Sample::read();
        assert!(cpu_seconds.is_some_and(|seconds| seconds >= 0.0));
        assert!(start_seconds.is_some_and(|seconds| seconds > 1_600_000_000.0));
        assert!(resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(open_fds.is_some_and(|fds| fds >= 1));
        drop(file);
    }
}
