//! The router: the only writer of the view; starts and ends the workers of the pools that this process owns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::drained::Senders;
use super::mailbox::Mailbox;
use super::overlaps::PoolOverlaps;
use super::ownership::{Grant, Ownership};
use super::shared_view::SharedView;
use super::sight::Sight;
use super::sources::Source;
use super::view::{Change, Delivery};
use super::worker::{Shared, Worker};
use crate::k8s::watch::Event;
use crate::pool::key::{PoolKey, Sender};
use crate::pool::machine::Input;
use crate::pool::record::Memory;
use crate::telemetry::admin::Health;

/// The router says that it is alive this often at least.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// And counts as stuck after this long without a word.
const BEAT_LIMIT: Duration = Duration::from_mins(1);
/// Changes that are taken in before workers are told how far the watch has come.
const TAKE_AT_ONCE: usize = 256;
/// All workers together may take this long to stop; the pod has 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Why the router ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// A kind that is needed is not served any more: find out again what is.
    Rediscover(String),
    /// A worker panicked; the process must not go on without it.
    Broken(String),
}

struct Running {
    mailbox: Arc<Mailbox>,
    right: watch::Sender<Option<Arc<Grant>>>,
    stop: CancellationToken,
}

impl Running {
    /// Gives the right to the pool, or takes it away, if that is news.
    fn set_right(&self, grant: Option<Arc<Grant>>) {
        self.right.send_if_modified(|known| {
            let is_news = known.as_ref().map(Arc::as_ptr) != grant.as_ref().map(Arc::as_ptr);
            *known = grant;
            is_news
        });
    }
}

/// The router.
pub struct Router {
    view: SharedView,
    overlaps: PoolOverlaps,
    ownership: Ownership,
    shared: Shared,
    health: Health,
    sight: Sight,
    senders: Senders,
    /// Opens when all pools have been listed: only then may addresses be listed (F3).
    pools_listed: watch::Sender<bool>,
    unlisted: BTreeSet<Source>,
    missing: BTreeSet<Source>,
    trouble: BTreeMap<Source, String>,
    /// What this installation has no right to see.
    forbidden: BTreeSet<Source>,
    workers: HashMap<PoolKey, Running>,
    tasks: JoinSet<(PoolKey, Memory)>,
    /// F9: what is remembered of the records of pools without a worker.
    memories: HashMap<PoolKey, Memory>,
    /// No worker is started any more.
    stopping: bool,
}

impl Router {
    /// A router that has seen nothing yet.
    pub fn new(
        view: SharedView,
        ownership: Ownership,
        shared: Shared,
        health: Health,
        sight: Sight,
        senders: Senders,
        pools_listed: watch::Sender<bool>,
    ) -> Self {
        Self {
            view,
            overlaps: PoolOverlaps::default(),
            ownership,
            shared,
            health,
            sight,
            senders,
            pools_listed,
            unlisted: Source::all().collect(),
            missing: BTreeSet::new(),
            trouble: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            memories: HashMap::new(),
            stopping: false,
        }
    }

    /// Routes until it is stopped.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>, stop: CancellationToken) -> End {
        let mut beat = interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(TAKE_AT_ONCE);
        self.show_ready();
        let end = loop {
            self.health.beat("router", BEAT_LIMIT);
            tokio::select! {
                () = stop.cancelled() => break End::Stopped,
                n = changes.recv_many(&mut batch, TAKE_AT_ONCE) => {
                    if n == 0 {
                        break End::Broken("all watches ended".to_owned());
                    }
                    if let Some(end) = self.take(&mut batch) {
                        break end;
                    }
                }
                () = self.ownership.changed() => self.follow_ownership(),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(end) = self.worker_ended(ended) {
                        break end;
                    }
                }
                Ok(()) = self.senders.drained.changed() => self.tell_drained(),
                _ = beat.tick() => self.ask_for_drained(),
            }
        };
        self.health.set_ready("caches", Err("stopping".to_owned()));
        self.stop_workers(&mut changes).await;
        self.health.retire("router");
        end
    }

    fn take(&mut self, batch: &mut Vec<Change>) -> Option<End> {
        let synced = self.unlisted.is_empty();
        for change in batch.drain(..) {
            if let Some(end) = self.note_source(&change) {
                return Some(end);
            }
            let mut deliveries = self.view.write().apply(change, self.shared.clock.boot());
            deliveries.extend(self.overlaps.follow(&deliveries, &self.view.read()));
            if synced {
                for delivery in deliveries {
                    self.deliver(delivery);
                }
            }
        }
        // After the mailboxes: see `Worker::step`.
        self.shared.addresses_until.store(self.view.read().address_version().0, Ordering::Release);
        if !synced && self.unlisted.is_empty() && !self.stopping {
            info!("all objects are known; serving");
            self.sight.note_synced();
            self.show_ready();
            self.follow_ownership();
        }
        None
    }

    /// Follows which kinds have been listed, are missing, or cannot be followed.
    fn note_source(&mut self, change: &Change) -> Option<End> {
        let (source, state) = match change {
            Change::Pools(kind, event) => (Source::Pools(*kind), state_of(event)),
            Change::Claims(event) => (Source::Claims, state_of(event)),
            Change::Addresses(event) => (Source::Addresses, state_of(event)),
            Change::Clusters(event) => (Source::Clusters, state_of(event)),
        };
        match state {
            State::Known => {
                let calm = self.trouble.is_empty() && self.missing.is_empty();
                if calm && !self.unlisted.contains(&source) {
                    return None;
                }
                let listed = self.unlisted.remove(&source);
                let back = self.missing.remove(&source) | self.trouble.remove(&source).is_some();
                self.forbidden.remove(&source);
                if listed || back {
                    self.show_ready();
                }
            }
            State::Missing => {
                let known = self.unlisted.is_empty();
                if self.missing.insert(source) {
                    warn!("the CustomResourceDefinition {} is missing; waiting for it", source.name());
                }
                if source.may_be_missing() {
                    self.unlisted.remove(&source);
                } else if known {
                    return Some(End::Rediscover(source.name()));
                }
                self.show_ready();
            }
            State::Forbidden(message) => {
                self.trouble.insert(source, message);
                // What can be done without is left out until it is allowed; who may not see the rest is not ready.
                if source.may_be_forbidden(self.view.read().is_of_one_namespace()) {
                    self.unlisted.remove(&source);
                } else {
                    self.forbidden.insert(source);
                }
                self.show_ready();
            }
            State::Failed(message) => {
                self.trouble.insert(source, message);
                self.show_ready();
            }
        }
        if !self.unlisted.iter().any(|source| matches!(source, Source::Pools(_))) {
            self.pools_listed.send_replace(true);
        }
        None
    }

    /// Ready when everything has been listed once; a watch that fails for a while does not take a replica out.
    fn show_ready(&self) {
        if self.stopping {
            return;
        }
        let first = self.unlisted.iter().chain(&self.forbidden).next();
        let result = first.map_or(Ok(()), |source| {
            let why = self.trouble.get(source).map(|why| format!(": {why}")).unwrap_or_default();
            let what = if self.missing.contains(source) {
                "its CustomResourceDefinition is missing"
            } else if self.forbidden.contains(source) {
                "it is forbidden to list and watch it"
            } else {
                "not listed yet"
            };
            Err(format!("{}: {what}{why}", source.name()))
        });
        self.health.set_ready("caches", result);
    }

    fn deliver(&mut self, (pool, input): Delivery) {
        if let Some(running) = self.workers.get(&pool) {
            running.mailbox.put(input);
        } else if let Some(grant) = self.ownership.of(&pool) {
            self.start_worker(pool, grant);
        } else if matches!(input, Input::Pool { .. }) {
            self.remember(&pool);
        }
    }

    /// F9: a replica that does not own the pool remembers its record too, so that it notices later if it is lost.
    fn remember(&mut self, pool: &PoolKey) {
        let view = self.view.clone();
        match view.read().pool(pool) {
            Some(view) => {
                let memory = self.memories.entry(pool.clone()).or_default();
                memory.follow(&view.uid, view.status.record.as_ref());
            }
            None => self.forget_if_nothing_is_promised(pool),
        }
    }

    /// A pool that is gone took its record along, unless something was promised in it.
    fn forget_if_nothing_is_promised(&mut self, pool: &PoolKey) {
        if self.memories.get(pool).is_some_and(|memory| memory.pending.is_empty()) {
            self.memories.remove(pool);
        }
    }

    /// Starts workers of pools that became ours, tells those that are there whether their pool still is.
    fn follow_ownership(&mut self) {
        if !self.unlisted.is_empty() {
            return;
        }
        for (pool, running) in &self.workers {
            running.set_right(self.ownership.of(pool));
        }
        let pools = self.view.read().pools();
        for pool in pools {
            if self.workers.contains_key(&pool) {
                continue;
            }
            match self.ownership.of(&pool) {
                Some(grant) => self.start_worker(pool, grant),
                None => self.remember(&pool),
            }
        }
    }

    /// F5(b): asks for evidence about others that stand in records of pools that are worked on here.
    fn ask_for_drained(&mut self) {
        let (me, view) = (&self.shared.config.me, self.view.read());
        let records = self.workers.keys().filter_map(|pool| view.pool(pool)?.status.record.as_ref());
        let senders = records.flat_map(|record| record.pending.values()).flat_map(|intent| &intent.senders);
        let wanted: BTreeSet<Sender> = senders.filter(|sender| *sender != me).cloned().collect();
        self.senders.wanted.send_if_modified(|known| {
            let is_news = *known != wanted;
            *known = wanted;
            is_news
        });
    }

    fn tell_drained(&mut self) {
        let drained = self.senders.drained.borrow_and_update().clone();
        for running in self.workers.values() {
            for sender in drained.iter() {
                running.mailbox.put(Input::Drained(sender.clone()));
            }
        }
    }

    fn start_worker(&mut self, pool: PoolKey, grant: Arc<Grant>) {
        if self.stopping {
            return;
        }
        let mailbox = Arc::new(Mailbox::default());
        for input in self.view.read().inputs_for(&pool) {
            mailbox.put(input);
        }
        if let Some(input) = self.overlaps.input_for(&pool, &self.view.read()) {
            mailbox.put(input);
        }
        for sender in self.senders.drained.borrow().iter() {
            mailbox.put(Input::Drained(sender.clone()));
        }
        let (stop, right) = (CancellationToken::new(), watch::Sender::new(Some(grant)));
        let worker = Worker {
            key: pool.clone(),
            mailbox: mailbox.clone(),
            right: right.subscribe(),
            stop: stop.clone(),
            shared: self.shared.clone(),
            memory: self.memories.remove(&pool).unwrap_or_default(),
        };
        let key = pool.clone();
        self.tasks.spawn(async move { (key, worker.run().await) });
        self.workers.insert(pool, Running { mailbox, right, stop });
    }

    fn worker_ended(&mut self, ended: Result<(PoolKey, Memory), JoinError>) -> Result<(), End> {
        let (pool, memory) = ended.map_err(|error| End::Broken(format!("a worker ended: {error}")))?;
        self.workers.remove(&pool);
        self.memories.insert(pool.clone(), memory);
        if !self.view.read().pools().contains(&pool) {
            self.forget_if_nothing_is_promised(&pool);
        } else if let Some(grant) = self.ownership.of(&pool) {
            self.start_worker(pool, grant);
        }
        Ok(())
    }

    /// Goes on routing meanwhile: a worker settles what it has done when the watch shows it.
    async fn stop_workers(&mut self, changes: &mut mpsc::Receiver<Change>) {
        self.stopping = true;
        for running in self.workers.values() {
            running.set_right(None);
            running.stop.cancel();
        }
        let all = async {
            let mut batch = Vec::with_capacity(TAKE_AT_ONCE);
            loop {
                tokio::select! {
                    ended = self.tasks.join_next() => {
                        if ended.is_none() {
                            return;
                        }
                    }
                    n = changes.recv_many(&mut batch, TAKE_AT_ONCE) => {
                        // A kind that goes away now is the next start's concern.
                        let gone = self.take(&mut batch).is_some();
                        if n == 0 || gone {
                            break;
                        }
                    }
                }
            }
            while self.tasks.join_next().await.is_some() {}
        };
        if timeout(STOP_WITHIN, all).await.is_err() {
            warn!("some workers did not stop in time; what they had under way is left to the next owner");
        }
    }
}

enum State {
    Known,
    Missing,
    Forbidden(String),
    Failed(String),
}

fn state_of<K>(event: &Event<K>) -> State {
    match event {
        Event::Listed { .. } | Event::Applied(_) | Event::Deleted(_) | Event::Progress(_) | Event::Narrowed(_) => {
            State::Known
        }
        Event::Missing => State::Missing,
        Event::Forbidden(message) => State::Forbidden(message.clone()),
        Event::Failed(message) => State::Failed(message.clone()),
    }
}
