//! Whether this process is alive (its loops turn) and ready (what it needs is there).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The one condition while nobody has reported any: ready is something that must be said.
const NOTHING_REPORTED: &str = "startup";

/// Beats and conditions; a clone is the same ones.
///
/// - Alive: each loop that ever beat did so within its limit. A loop that ends on purpose is [`retired`](Self::retire).
/// - Ready: each condition that was ever set is met now, and at least one was set.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    beats: BTreeMap<String, Beat>,
    conditions: BTreeMap<String, Result<(), String>>,
}

#[derive(Debug)]
struct Beat {
    last: Instant,
    limit: Duration,
}

/// The result of one check, with the reason of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) result: Result<(), String>,
}

impl Health {
    /// Nothing beats yet and nothing is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A loop turns, and will have turned again before `limit` is over.
    pub fn beat(&self, name: &str, limit: Duration) {
        let beat = Beat { last: Instant::now(), limit };
        let mut state = self.state();
        match state.beats.get_mut(name) {
            Some(last) => *last = beat,
            None => drop(state.beats.insert(name.to_owned(), beat)),
        }
    }

    /// A loop has ended on purpose: it is not waited for any more.
    pub fn retire(&self, name: &str) {
        self.state().beats.remove(name);
    }

    /// A condition is met, or is not and why. Conditions are set once at the start, so that none is overlooked.
    pub fn set_ready(&self, name: &str, result: Result<(), String>) {
        self.state().conditions.insert(name.to_owned(), result);
    }

    /// Whether every loop turns.
    pub fn is_alive(&self) -> bool {
        self.liveness().iter().all(|check| check.result.is_ok())
    }

    /// Whether everything that is needed is there.
    pub fn is_ready(&self) -> bool {
        self.readiness().iter().all(|check| check.result.is_ok())
    }

    pub(super) fn liveness(&self) -> Vec<Check> {
        let now = Instant::now();
        let check = |(name, beat): (&String, &Beat)| {
            let age = now.saturating_duration_since(beat.last);
            let late =
                || format!("last turned {:.1} s ago, {:.1} s allowed", age.as_secs_f64(), beat.limit.as_secs_f64());
            Check { name: name.clone(), result: if age <= beat.limit { Ok(()) } else { Err(late()) } }
        };
        self.state().beats.iter().map(check).collect()
    }

    pub(super) fn readiness(&self) -> Vec<Check> {
        let state = self.state();
        if state.conditions.is_empty() {
            let result = Err("nothing has started yet".to_owned());
            return vec![Check { name: NOTHING_REPORTED.to_owned(), result }];
        }
        let check =
            |(name, result): (&String, &Result<(), String>)| Check { name: name.clone(), result: result.clone() };
        state.conditions.iter().map(check).collect()
    }

    /// Every change is one assignment, so that a panic elsewhere cannot leave half of one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stops_turning_is_found() {
        let health = Health::new();
        assert!(health.is_alive(), "nothing has begun that could have stopped");
        health.beat("watch", LIMIT);
        health.beat("queue", LIMIT * 2);
        tokio::time::advance(LIMIT).await;
        assert!(health.is_alive(), "the limit itself is within the limit");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!health.is_alive());
        let late = Err("last turned 30.1 s ago, 30.0 s allowed".to_owned());
        let expected =
            [Check { name: "queue".to_owned(), result: Ok(()) }, Check { name: "watch".to_owned(), result: late }];
        assert_eq!(health.liveness(), expected);
        health.beat("watch", LIMIT);
        assert!(health.is_alive(), "it turns again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_retired_loop_is_not_waited_for() {
        let health = Health::new();
        health.beat("watch", LIMIT);
        health.clone().retire("watch");
        tokio::time::advance(LIMIT * 2).await;
        assert!(health.is_alive());
    }

    #[test]
    fn ready_must_be_said_and_by_all() {
        let health = Health::new();
        assert!(!health.is_ready());
        health.set_ready("caches", Ok(()));
        assert!(health.is_ready());
        health.set_ready("lease", Err("not held".to_owned()));
        assert!(!health.is_ready());
        health.set_ready("lease", Ok(()));
        assert!(health.is_ready());
        health.set_ready("caches", Err("a watch ended".to_owned()));
        assert!(!health.is_ready(), "ready can be lost");
    }
}
