//! Events for users: a bounded queue to one task, so that telling never slows anything else down.
//!
//! Best effort: what finds the queue or the budget used up is dropped and counted. Conditions say what is so; Events
//! say what happened, to whoever happens to look.

mod budget;
mod series;
mod told;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use self::budget::Budget;
use self::series::{Series, Telling};
use self::told::Of;
use crate::api::capi::CapiVersion;
use crate::k8s::clock::Clock;
use crate::k8s::events::{EventClient, News, NotWritten};
use crate::pool::key::{Boot, PoolKey, Uid};
use crate::pool::machine::Fact;
use crate::telemetry::metrics::Metrics;

/// Events that may wait for the task: more than the budget gives to all of them.
const QUEUE: usize = 256;
/// Of these places, so many are kept for what concerns a whole pool.
const RESERVE: usize = 128;
/// Counts of what happened again are written this long after at the latest, beyond their own minute.
const TICK: Duration = Duration::from_secs(10);
/// A namespace in which Events are forbidden is tried again after this time: rights may be granted later.
const TRY_AGAIN: Duration = Duration::from_mins(10);
/// Such namespaces that are remembered.
const MOST_FORBIDDEN: usize = 256;

/// Where workers tell what happened. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Events {
    queue: Option<mpsc::Sender<(News, bool)>>,
    metrics: Metrics,
}

impl Events {
    /// Nobody listens.
    pub fn unheard(metrics: Metrics) -> Self {
        Self { queue: None, metrics }
    }

    /// Starts the task that writes them; it ends with the last clone.
    pub fn written_by(client: EventClient, clock: Clock, metrics: Metrics) -> Self {
        let (queue, news) = mpsc::channel(QUEUE);
        let budget = Budget::new(clock.boot());
        let series = Series::default();
        let task =
            Task { client, clock, metrics: metrics.clone(), budget, series, forbidden: BTreeMap::new(), said: false };
        tokio::spawn(task.run(news));
        Self { queue: Some(queue), metrics }
    }

    /// Tells users of a fact, if it is one for them. Never waits.
    pub fn tell(&self, pool: &PoolKey, uid: Option<&Uid>, version: CapiVersion, fact: &Fact) {
        let Some(queue) = &self.queue else { return };
        let Some(news) = (Of { pool, uid, version }).news(fact) else { return };
        let about_pool = news.subject.kind.1 == pool.kind.kind();
        let has_place = about_pool || queue.capacity() > RESERVE;
        if !has_place || queue.try_send((news, about_pool)).is_err() {
            self.metrics.event_dropped("queue");
        }
    }
}

struct Task {
    client: EventClient,
    clock: Clock,
    metrics: Metrics,
    budget: Budget,
    series: Series,
    /// Namespaces in which Events are forbidden, and when that is tried again.
    forbidden: BTreeMap<String, Boot>,
    /// Whether that was said.
    said: bool,
}

impl Task {
    async fn run(mut self, mut news: mpsc::Receiver<(News, bool)>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                next = news.recv() => match next {
                    Some((news, about_pool)) => self.tell(&news, about_pool).await,
                    None => return,
                },
                _ = tick.tick() => self.count_up().await,
            }
        }
    }

    async fn tell(&mut self, news: &News, about_pool: bool) {
        let now = self.clock.boot();
        if self.series.observe(news, now) == Telling::Counted {
            return;
        }
        let namespace = news.subject.event_namespace();
        if self.forbidden.get(namespace).is_some_and(|again| now < *again) {
            return self.metrics.event_dropped("forbidden");
        }
        if !self.budget.take(about_pool, now) {
            return self.metrics.event_dropped("budget");
        }
        match self.client.create(news).await {
            Ok(event) => {
                self.series.created(news, event, now);
                if self.forbidden.remove(namespace).is_some() {
                    info!(namespace, "Events are allowed now");
                }
            }
            Err(NotWritten::Forbidden(why)) => self.note_forbidden(namespace, &why, now),
            Err(NotWritten::Expired) => self.note_failure("the namespace does not exist"),
            Err(NotWritten::Failed(why)) => self.note_failure(&why),
        }
    }

    /// Writes how often something has happened by now.
    async fn count_up(&mut self) {
        for (event, count) in self.series.due(self.clock.boot()) {
            if !self.budget.take(true, self.clock.boot()) {
                self.metrics.event_dropped("budget");
                continue;
            }
            match self.client.repeat(&event, count).await {
                Ok(()) => {}
                Err(NotWritten::Expired) => self.series.forget(&event),
                Err(NotWritten::Forbidden(why)) => self.note_forbidden(&event.namespace, &why, self.clock.boot()),
                Err(NotWritten::Failed(why)) => self.note_failure(&why),
            }
        }
    }

    fn note_forbidden(&mut self, namespace: &str, why: &str, now: Boot) {
        self.metrics.event_dropped("forbidden");
        if self.forbidden.len() >= MOST_FORBIDDEN {
            self.forbidden.clear();
        }
        // Once for all namespaces: most installations have all of these rights or none.
        if !std::mem::replace(&mut self.said, true) {
            warn!("Events are left out where they are forbidden (create and patch events.events.k8s.io): {why}");
        }
        self.forbidden.insert(namespace.to_owned(), now + TRY_AGAIN);
    }

    fn note_failure(&self, why: &str) {
        self.metrics.event_dropped("failed");
        debug!("an Event was not written: {why}");
    }
}
