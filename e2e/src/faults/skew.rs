//! Replicas whose clocks differ: by hours, and in speed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Trial;
use crate::progress::say;

/// The variable with the path of libfaketime, if it is somewhere else than a distribution puts it.
pub const LIBRARY_VARIABLE: &str = "E2E_FAKETIME";

/// What the clocks show: an hour ahead, an hour behind, and a tenth too fast.
const CLOCKS: [&str; 3] = ["+3600s", "-3600s", "+0 x1.1"];

/// Handovers take much less.
const QUIET: Duration = Duration::from_secs(3);

/// The library that lies about the time to the program that loads it. `None`: not installed.
pub fn library() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|folder| format!("/usr/lib/{folder}/faketime"));
    let files = folders.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
    files.into_iter().find(|path| path.is_file())
}

/// Replaces the replicas by ones with clocks of their own, and looks whether they live with each other for a while.
/// Returns how many shards changed hands in that while.
pub async fn skew(trial: &mut Trial, library: &Path, during: Duration) -> Result<usize> {
    let honest = trial.replicas.names();
    for clock in CLOCKS {
        let skewed = trial
            .replicas
            .start_with(&trial.stage.control_plane, |options| {
                options.environment("LD_PRELOAD", library.display().to_string()).environment("FAKETIME", clock)
            })
            .await?;
        say(format!("{skewed}: {clock}"));
    }
    for name in honest {
        let status = trial.replicas.terminate(&name).await?;
        ensure!(status.success(), "after SIGTERM {name} ended with {status}");
    }
    trial.even().await?;
    // Handovers that began while the others left end first.
    tokio::time::sleep(QUIET).await;
    let before = trial.leases.holdings();
    let since = Instant::now();
    tokio::time::sleep(during).await;
    trial.replicas.must_run()?;
    let moved = trial.leases.holdings().moved_since(&before);
    say(format!("{moved} shards moved in {:.1?}; {:?}", since.elapsed(), trial.service(since)));
    Ok(moved)
}
