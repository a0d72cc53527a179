//! The worker of one pool: steps its machine, carries out the effects, feeds the replies back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::events::Events;
use super::mailbox::Mailbox;
use super::ownership::Grant;
use crate::k8s::clock::{Clock, Deadline};
use crate::k8s::observe::PoolReader;
use crate::k8s::write::Writer;
use crate::pool::claim::record_not_stored;
use crate::pool::key::{Boot, ObjectKey, PoolKey, Version};
use crate::pool::machine::{Action, Config, Effect, Fact, Input, Machine, OpId, Outcome, Step};
use crate::pool::record::Memory;
use crate::telemetry::metrics::{Counts, Metrics, PoolLabels};

/// A stopping worker keeps the right to the pool at most this long for answers and for its own writes to come back by the
/// watch.
const STOP_WITHIN: Duration = Duration::from_secs(4);
/// Without the right it waits on until its requests have ended, which they do in this time, so that its intents need not
/// wait for the lock delay (F5(c)).
const LEFT_WITHIN: Duration = Duration::from_secs(100);
/// Of these, so long for the watch to show what was written: an intent that nobody can settle yet must not hold a
/// shutdown up for longer.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
/// A stopping machine begins nothing, so that without news it need not be asked more often.
const STOPPING_STEP: Duration = Duration::from_millis(20);
/// How often the gauges of a busy pool are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_millis(500);
/// Without anything to do, a worker looks around this often all the same.
const IDLE: Duration = Duration::from_mins(10);

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The way to the API server.
    pub writer: Writer,
    /// The clocks.
    pub clock: Clock,
    /// The metrics.
    pub metrics: Metrics,
    /// Where users are told what happened.
    pub events: Events,
    /// What machines must know.
    pub config: Config,
    /// Whether it was said that the server drops the conditions of claims (C10).
    pub said_unstored: Arc<AtomicBool>,
    /// How far the watch of addresses has come; written after the mailboxes.
    pub addresses_until: Arc<AtomicU64>,
    /// Until when this process may write anything at all.
    pub validity: watch::Receiver<Deadline>,
}

/// A worker before it runs.
pub struct Worker {
    /// The pool.
    pub key: PoolKey,
    /// What it observes.
    pub mailbox: Arc<Mailbox>,
    /// The right to work on it, as it comes and goes.
    pub right: watch::Receiver<Option<Arc<Grant>>>,
    /// Ends it for good.
    pub stop: CancellationToken,
    /// What it needs.
    pub shared: Shared,
    /// What the replica remembers of the pool's record.
    pub memory: Memory,
}

/// Why a worker does not serve any more.
enum End {
    /// Nothing is left of the pool, or nothing more is to be done for it here.
    Done,
    /// It has to leave the pool to others.
    Leave,
    /// The pool is ours again.
    Resume,
}

struct Running {
    key: PoolKey,
    shared: Shared,
    machine: Machine,
    reader: Arc<Mutex<PoolReader>>,
    right: watch::Receiver<Option<Arc<Grant>>>,
    stop: CancellationToken,
    /// The right that it holds: whoever waits for it to be given back, waits for this.
    grant: Option<Arc<Grant>>,
    /// O7: what the machine was told.
    held: Option<Boot>,
    replies: FuturesUnordered<BoxFuture<'static, (OpId, Outcome)>>,
    /// The span of the batch that promised an address to the claim.
    batches: HashMap<ObjectKey, Span>,
    gauges_at: Instant,
}

impl Worker {
    /// Works until it is stopped, or nothing is left of the pool. Returns what is remembered of the record.
    pub async fn run(self) -> Memory {
        let Self { key, mailbox, mut right, stop, shared, memory } = self;
        let machine = Machine::new(key.clone(), shared.config.clone(), memory);
        let grant = right.borrow_and_update().clone();
        let mut running = Running {
            key,
            shared,
            machine,
            reader: Arc::default(),
            right,
            stop,
            grant,
            held: None,
            replies: FuturesUnordered::new(),
            batches: HashMap::new(),
            gauges_at: Instant::now(),
        };
        loop {
            let end = match running.serve(&mailbox).await {
                End::Leave => running.leave(&mailbox).await,
                end => end,
            };
            if !matches!(end, End::Resume) {
                break;
            }
        }
        running.shared.metrics.remove_pool(labels(&running.key));
        running.machine.memory().clone()
    }
}

impl Running {
    async fn serve(&mut self, mailbox: &Mailbox) -> End {
        let mut replies = Vec::new();
        loop {
            self.step(mailbox, std::mem::take(&mut replies));
            if self.machine.is_idle() {
                return End::Done;
            }
            let wake = self.wake();
            tokio::select! {
                () = self.stop.cancelled() => return End::Leave,
                _ = self.right.changed() => return End::Leave,
                () = mailbox.filled() => {}
                Some((op, outcome)) = self.replies.next() => replies.push(Input::Reply(op, outcome)),
                () = sleep_until(wake) => {}
            }
            self.take_ready(&mut replies);
        }
    }

    /// O5: begins nothing new, waits for what was sent and for the watch to show it, and flushes the record. Then the
    /// right is given back. Answers that come later are waited for without it (F5(c)), unless the pool comes back before.
    async fn leave(&mut self, mailbox: &Mailbox) -> End {
        self.machine.stop();
        let since = Instant::now();
        let mut shown = since + SHOWN_WITHIN;
        let mut replies = Vec::new();
        loop {
            self.step(mailbox, std::mem::take(&mut replies));
            if self.has_finished(since, shown) {
                self.machine.give_up();
                self.grant = None;
                if let Some(end) = self.next_without_right(since) {
                    return end;
                }
            }
            let soon = Instant::now() + STOPPING_STEP;
            let limit = match self.grant {
                Some(_) => shown.max(soon).min(since + STOP_WITHIN),
                None => since + LEFT_WITHIN,
            };
            let wake = limit.min(self.wake().max(soon));
            tokio::select! {
                Some((op, outcome)) = self.replies.next() => replies.push(Input::Reply(op, outcome)),
                () = mailbox.filled() => {}
                Ok(()) = self.right.changed() => {}
                () = self.stop.cancelled(), if self.grant.is_none() => {}
                () = sleep_until(wake) => {}
            }
            self.take_ready(&mut replies);
            if !replies.is_empty() {
                shown = Instant::now() + SHOWN_WITHIN;
            }
        }
    }

    /// Whether the right may be given back.
    fn has_finished(&self, since: Instant, shown: Instant) -> bool {
        let Some(grant) = &self.grant else { return true };
        let now = Instant::now();
        // After the deadline nothing is sent any more: only answers are waited for (O2).
        let is_late = grant.deadline.has_passed(self.shared.clock.boot()) && self.replies.is_empty();
        let is_flushed = self.machine.is_stopped() && (self.machine.pending() == 0 || now >= shown);
        is_late || is_flushed || now >= since + STOP_WITHIN
    }

    fn next_without_right(&mut self, since: Instant) -> Option<End> {
        if self.stop.is_cancelled() {
            return Some(End::Done);
        }
        self.grant.clone_from(&self.right.borrow_and_update());
        if self.grant.is_some() {
            self.machine.resume();
            return Some(End::Resume);
        }
        (self.machine.has_left() || since.elapsed() >= LEFT_WITHIN).then_some(End::Done)
    }

    /// Until when something may be sent: for the pool, and without the right to it for this member as a whole.
    fn deadline(&self) -> Deadline {
        let of_member = || self.shared.validity.borrow().clone();
        self.grant.as_ref().map_or_else(of_member, |grant| grant.deadline.clone())
    }

    fn take_ready(&mut self, replies: &mut Vec<Input>) {
        while let Some(Some((op, outcome))) = self.replies.next().now_or_never() {
            replies.push(Input::Reply(op, outcome));
        }
    }

    fn step(&mut self, mailbox: &Mailbox, mut inputs: Vec<Input>) {
        // Read before the mailbox is emptied: all changes up to this version are in it by then (F3).
        let until = self.shared.addresses_until.load(Ordering::Acquire);
        inputs.extend(mailbox.take());
        let hold = self.grant.as_ref().map_or(self.held, |grant| *grant.hold_until.borrow());
        if hold != self.held {
            self.held = hold;
            inputs.extend(hold.map(Input::Hold));
        }
        inputs.push(Input::Store(Version(until)));
        let now = self.shared.clock.now();
        let Step { effects, facts } = self.machine.step(inputs, now);
        for effect in effects {
            self.carry_out(effect);
        }
        for fact in facts {
            let version = self.shared.config.version;
            self.shared.events.tell(&self.key, self.machine.pool_uid(), version, &fact);
            self.tell(fact);
        }
        self.show_gauges();
    }

    fn wake(&self) -> Instant {
        let wait = self.machine.wake_at().map_or(IDLE, |at| at.saturating_sub(self.shared.clock.boot())).min(IDLE);
        Instant::now() + wait
    }

    fn carry_out(&mut self, effect: Effect) {
        let Effect { op, action } = effect;
        let span = self.span_of(&action);
        let (writer, key, reader) = (self.shared.writer.clone(), self.key.clone(), self.reader.clone());
        let deadline = self.deadline();
        let request = async move { (op, writer.carry_out(&key, action, &reader, &deadline).await) };
        self.replies.push(request.instrument(span).boxed());
    }

    /// The batch that a request belongs to; a commit opens one.
    fn span_of(&mut self, action: &Action) -> Span {
        match action {
            Action::PutPoolStatus { claims, .. } if !claims.is_empty() => {
                let span = info_span!(parent: None, "batch", pool = %self.key, claims = claims.len());
                self.batches.extend(claims.iter().map(|claim| (claim.clone(), span.clone())));
                span
            }
            Action::PatchClaim { key, .. } => self.batches.get(key).cloned().unwrap_or_else(Span::none),
            Action::CreateAddress(new) => self.batches.get(&new.key).cloned().unwrap_or_else(Span::none),
            Action::PatchClaimStatus { key, .. } => self.batches.remove(key).unwrap_or_else(Span::none),
            _ => Span::none(),
        }
    }

    fn tell(&self, fact: Fact) {
        let (kind, metrics) = (self.key.kind.kind(), &self.shared.metrics);
        match fact {
            Fact::Allocated { claim, held, after } => {
                let age = self.shared.clock.now().server.duration_since(claim.created);
                metrics.allocated(kind, 1);
                metrics.claim_service(kind, after);
                metrics.claim_duration(kind, Duration::try_from(age).unwrap_or(Duration::ZERO));
                let address = held.map(|held| held.address.to_string()).unwrap_or_default();
                info!(pool = %self.key, claim = %claim.key, address, "allocated");
            }
            Fact::Released { claim, held } => {
                metrics.released(kind, 1);
                let address = held.map(|held| held.address.to_string()).unwrap_or_default();
                info!(pool = %self.key, claim = %claim.key, address, "released");
            }
            Fact::Waiting { claim, reason, message } => {
                debug!(pool = %self.key, claim = %claim.key, reason, "{message}");
            }
            Fact::Exhausted(message) => info!(pool = %self.key, "{message}"),
            Fact::Overlaps(message) => warn!(pool = %self.key, "overlaps: {message}"),
            Fact::Unready { reason, message } => warn!(pool = %self.key, reason, "{message}"),
            Fact::Committed { claims } => {
                if claims > 0 {
                    metrics.batch(kind, u32::try_from(claims).unwrap_or(u32::MAX));
                }
            }
            Fact::CommitConflict => metrics.commit_conflict(kind),
            Fact::Failed { reason, message } => {
                metrics.error(reason);
                warn!(pool = %self.key, reason, "{message}");
            }
            Fact::AddressesAwaited { claims } => {
                info!(pool = %self.key, claims, "waiting for IPAddresses of what was moved or restored");
            }
            Fact::HeldTooLong { claims } => {
                warn!(pool = %self.key, claims, "going on without IPAddresses of what was moved or restored; claims without theirs still wait");
            }
            Fact::Orphaned { address, held, claim } => {
                let held = held.map(|held| held.address.to_string()).unwrap_or_default();
                warn!(pool = %self.key, ipaddress = %address, %claim, address = held, "orphaned: the claim of an IPAddress does not exist");
            }
            Fact::OrphanReleased(address) => {
                metrics.orphan_released(kind);
                info!(pool = %self.key, ipaddress = %address, "released an IPAddress whose claim does not exist");
            }
            Fact::Duplicate { held, addresses } => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                warn!(pool = %self.key, address = %held.address, ipaddresses = all.join(", "), "one address is in several IPAddress objects");
            }
            Fact::OutOfRange { address, held } => {
                warn!(pool = %self.key, ipaddress = %address, address = held, "an IPAddress holds what its pool does not give out");
            }
            Fact::RecordLost => {
                metrics.error("record_lost");
                warn!(pool = %self.key, "somebody replaced or removed status.allocation; it is put back before anything is allocated");
            }
            Fact::ConditionNotStored => {
                metrics.error("condition_not_stored");
                if !self.shared.said_unstored.swap(true, Ordering::Relaxed) {
                    warn!(pool = %self.key, "the server drops the conditions of claims in this version of Cluster API; they are not written again (are the conversion webhooks of Cluster API installed?)");
                }
            }
            Fact::RecordNotStored => {
                metrics.error("record_not_stored");
                warn!(pool = %self.key, "{}; nothing new is allocated until then", record_not_stored(&self.key));
            }
        }
    }

    fn show_gauges(&mut self) {
        let now = Instant::now();
        if now < self.gauges_at && !self.replies.is_empty() {
            return;
        }
        self.gauges_at = now + GAUGES_EVERY;
        let metrics = &self.shared.metrics;
        // A pool without a right to it is another replica's to show.
        let Some(units) = self.machine.units().filter(|_| self.grant.is_some()) else {
            metrics.remove_pool(labels(&self.key));
            return self.show_orphans();
        };
        let counts = self.machine.counts();
        let known = |n: i64| u64::try_from(n).unwrap_or(0);
        let (used, out_of_range) = (known(counts.used), known(counts.out_of_range));
        metrics.pool_counts(labels(&self.key), Counts { total: units.total, free: units.free, used, out_of_range });
        metrics.pool_pending_intents(labels(&self.key), self.machine.pending() as u64);
        let waiting: Vec<(&'static str, u64)> =
            self.machine.waiting_by_reason().into_iter().map(|(reason, n)| (reason, n as u64)).collect();
        metrics.waiting_claims(labels(&self.key), &waiting);
        metrics.pool_duplicates(labels(&self.key), self.machine.doubled() as u64);
        self.show_orphans();
    }

    /// Also of a pool that does not exist (C14).
    fn show_orphans(&self) {
        let orphans = self.machine.orphans() as u64;
        if self.grant.is_some() && (self.machine.units().is_some() || orphans > 0) {
            self.shared.metrics.pool_orphaned(labels(&self.key), orphans);
        }
    }
}

fn labels(key: &PoolKey) -> PoolLabels<'_> {
    PoolLabels { kind: key.kind.kind(), namespace: &key.namespace, pool: &key.name }
}
