//! The controllers as production composes them, against the in-memory API server, in tokio's stopped time.

mod adoption;
mod backlog;
mod claims;
mod events;
mod faults;
mod fixtures;
mod invariants;
mod kinds;
mod moves;
mod orphans;
mod outage;
mod pools;
mod process;
mod reach;
mod restarts;
mod rights;
mod storm;
mod waiting;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::invariants::Invariants;
use self::process::Process;
use crate::apiserver::ApiServer;

/// In simulated time: longer than any backoff or flush, shorter than the lock delay.
const SOON: Duration = Duration::from_mins(3);

/// A server whose changes are checked, with one running manager.
struct Scene {
    server: ApiServer,
    invariants: Invariants,
    manager: Process,
}

impl Scene {
    /// An empty server and a manager that is ready.
    async fn ready() -> Self {
        Self::on(ApiServer::standard()).await
    }

    /// A manager on this server, ready.
    async fn on(server: ApiServer) -> Self {
        let invariants = Invariants::of(&server);
        let manager = Process::start(&server, "m1");
        manager.until_ready().await;
        Self { server, invariants, manager }
    }
}

/// Waits until the predicate holds; what is waited for is named when it does not come true.
async fn until(what: &str, predicate: impl FnMut() -> bool) {
    until_within(SOON, what, predicate).await;
}

async fn until_within(limit: Duration, what: &str, mut predicate: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    let step = (limit / 20_000).max(Duration::from_millis(5));
    while !predicate() {
        assert!(Instant::now() < end, "waited {limit:?} of simulated time in vain: {what}");
        sleep(step).await;
    }
}
