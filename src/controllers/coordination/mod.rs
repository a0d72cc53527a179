//! Replicas among themselves: drives [`shard::ownership`](crate::shard::ownership) with Leases, clocks and Pods, and
//! grants shards to the router as it decides.

mod leader;
mod others;
mod peers;
mod report;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::leader::Leader;
use self::others::OtherRings;
use self::peers::Peers;
use self::report::Reporter;
use self::sweep::{Abandoned, Sweep};
use super::ownership::{Grant, Grants, Rights};
use super::sight::Sight;
use crate::api::lease::{TAKEN_OVER_ANNOTATION, annotation, read};
use crate::k8s::clock::{Clock, Deadline};
use crate::k8s::leases::{LeaseClient, Ring};
use crate::k8s::watch::{Event as Watched, Follower};
use crate::pool::key::Boot;
use crate::shard::lease::{Identity, Member};
use crate::shard::ownership::{Config, Effect, Event, Exit, ORIGINALS_LAST_POST, OpId, Outcome, Ownership};
use crate::telemetry::admin::Health;
use crate::telemetry::metrics::Metrics;

pub use self::leader::Election;

/// Changes of Leases that may wait to be taken in; more slow the watch down.
const QUEUE: usize = 1_024;
/// What is no event, freshness and silence of others, is looked at this often.
const TICK: Duration = Duration::from_millis(500);
/// Two readings of one noted time differ by no more.
const TAKEOVER_ROUNDING: Duration = Duration::from_secs(2);
/// After this long without a turn, the loop counts as stuck.
const BEAT_LIMIT: Duration = Duration::from_secs(30);

/// What coordination is made of.
pub struct Coordination {
    /// This run of this replica.
    pub me: Identity,
    /// The Leases that it shares with its peers.
    pub ring: Arc<Ring>,
    /// How many shards there are.
    pub shards: u16,
    /// How long the member Lease lasts.
    pub duration: Duration,
    /// The original's Lease.
    pub election: Election,
    /// Writes Leases.
    pub leases: LeaseClient,
    /// A client without retries, with short timeouts, that nothing else uses.
    pub client: Client,
    /// For the watch of Leases.
    pub watch_client: Client,
    /// The clocks.
    pub clock: Clock,
    /// What this replica sees of everything else.
    pub sight: Sight,
    /// Where it is told whether this replica is a member.
    pub health: Health,
    /// The metrics.
    pub metrics: Metrics,
}

impl Coordination {
    /// Runs until the process has to end: when everything is handed over after `stop`, or when it must not go on (O9).
    pub async fn run(self, rights: Rights, stop: CancellationToken) -> Exit {
        let (events, changes) = mpsc::channel(QUEUE);
        let follower = Follower {
            api: Api::<Lease>::namespaced(self.watch_client.clone(), &self.ring.namespace),
            narrow: None,
            spare: false,
            resource: "leases",
            events,
            wrap: Box::new(|event| event),
            clock: self.clock.clone(),
            pulse: self.sight.pulse("leases"),
        };
        let following = tokio::spawn(follower.run());
        let (ended, reports) = mpsc::unbounded_channel();
        let config = Config { me: self.me.clone(), shards: self.shards, duration: self.duration };
        let driver = Driver {
            machine: Ownership::new(config),
            leader: Leader::start(self.election.clone(), self.leases.clone(), &self.client, &self.clock, &self.ring),
            others: OtherRings::new(&self.ring),
            sweep: Sweep::default(),
            peers: Peers::new(&self.me, self.client.clone(), self.duration),
            reporter: Reporter::new(self.health.clone(), self.metrics.clone()),
            deadline: Deadline::at(Boot::ZERO),
            replies: FuturesUnordered::new(),
            looks: FuturesUnordered::new(),
            rights,
            ended,
            fresh: false,
            hold_until: watch::Sender::new(None),
            it: self,
        };
        let exit = driver.run(changes, reports, stop).await;
        following.abort();
        exit
    }
}

struct Driver {
    it: Coordination,
    machine: Ownership,
    leader: Leader,
    others: OtherRings,
    sweep: Sweep,
    peers: Peers,
    reporter: Reporter,
    /// Of all work in the present run of validity.
    deadline: Deadline,
    replies: FuturesUnordered<BoxFuture<'static, (OpId, Outcome)>>,
    /// Looks at Pods.
    looks: FuturesUnordered<BoxFuture<'static, Option<(Member, String)>>>,
    rights: Rights,
    ended: mpsc::UnboundedSender<u16>,
    fresh: bool,
    /// O7: nothing new is given out before; all grants follow it.
    hold_until: watch::Sender<Option<Boot>>,
}

impl Driver {
    async fn run(
        mut self,
        mut changes: mpsc::Receiver<Watched<Lease>>,
        mut ended: mpsc::UnboundedReceiver<u16>,
        stop: CancellationToken,
    ) -> Exit {
        let mut synced = self.it.sight.synced();
        let mut is_synced = false;
        let mut is_stopping = false;
        loop {
            self.it.health.beat("ownership", BEAT_LIMIT);
            let wake = self.wake();
            let event = tokio::select! {
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    Event::Stop
                }
                Some((id, outcome)) = self.replies.next() => Event::Reply(id, outcome),
                Some(shard) = ended.recv() => Event::Stopped(shard),
                Some(change) = changes.recv() => {
                    if let Some(exit) = self.take(change) {
                        return self.end(exit).await;
                    }
                    Event::Tick
                }
                Some(gone) = self.looks.next() => gone.map_or(Event::Tick, |(member, uid)| Event::PodGone(member, uid)),
                true = is_true(&mut synced), if !is_synced => {
                    is_synced = true;
                    Event::Synced
                }
                () = sleep_until(wake) => Event::Tick,
            };
            if let Some(exit) = self.step(event).or_else(|| self.look_around()) {
                return self.end(exit).await;
            }
        }
    }

    fn wake(&self) -> Instant {
        let now = self.it.clock.boot();
        let wait = self.machine.wake_at().map_or(TICK, |at| at.saturating_sub(now)).min(TICK);
        Instant::now() + wait
    }

    /// What comes by no event: whether this replica sees, and whether others are silent.
    fn look_around(&mut self) -> Option<Exit> {
        let now = self.it.clock.boot();
        let fresh = match self.it.sight.stale(now) {
            None => true,
            Some(resource) => {
                Reporter::blind(resource, self.fresh);
                false
            }
        };
        if fresh != self.fresh {
            self.fresh = fresh;
            if let Some(exit) = self.step(Event::Fresh(fresh)) {
                return Some(exit);
            }
        }
        self.looks.extend(self.peers.looks(now));
        if self.leader.leads() {
            self.delete_abandoned(now);
        }
        if let Some(first) = self.others.change(now) {
            Reporter::standby(first);
            return self.step(Event::OtherRing(first));
        }
        self.reporter.show(self.machine.counts(), self.leader.leads());
        None
    }

    fn delete_abandoned(&mut self, now: Boot) {
        let abandoned = self.sweep.abandoned(now);
        if abandoned.is_empty() {
            return;
        }
        let leases = self.it.leases.clone();
        tokio::spawn(async move {
            for Abandoned { name, uid, version } in abandoned {
                let outcome = leases.delete(&name, uid, version).await;
                info!(lease = name, ?outcome, "deleted a Lease that nobody has used for an hour");
            }
        });
    }

    /// Takes in what the watch of Leases told.
    fn take(&mut self, change: Watched<Lease>) -> Option<Exit> {
        let now = self.it.clock.boot();
        match change {
            Watched::Applied(object) => self.applied(object, now),
            Watched::Deleted(object) => {
                self.others.forget(&object);
                self.sweep.forget(&object, now);
                if self.leader.is(&object) {
                    self.leader.note(None, now);
                    return self.step(Event::Leader(None));
                }
                let key = self.it.ring.key(&object)?;
                self.peers.forget(&key);
                self.step(Event::Gone(key, read(&object).version))
            }
            Watched::Listed { version, items, .. } => {
                let listing = self.it.ring.listing(&items, version);
                self.others.replace(&items, now);
                self.sweep.replace(&items, now);
                self.peers.replace(&listing, now);
                let leader = items.into_iter().find(|item| self.leader.is(item));
                if let Some(leader) = &leader {
                    self.note_takeover(leader, now);
                }
                let lease = leader.as_ref().map(read);
                self.leader.note(leader, now);
                self.step(Event::Listed(listing)).or_else(|| self.step(Event::Leader(lease)))
            }
            Watched::Failed(message) | Watched::Forbidden(message) => {
                self.reporter.unseen(&message);
                None
            }
            Watched::Progress(_) | Watched::Narrowed(_) | Watched::Missing => None,
        }
    }

    fn applied(&mut self, object: Lease, now: Boot) -> Option<Exit> {
        self.others.note(&object, now);
        self.sweep.note(&object, now);
        if self.leader.is(&object) {
            let lease = read(&object);
            self.note_takeover(&object, now);
            self.leader.note(Some(object), now);
            return self.step(Event::Leader(Some(lease)));
        }
        let key = self.it.ring.key(&object)?;
        let lease = read(&object);
        self.peers.note(&key, &lease, now);
        self.step(Event::Observed(key, lease))
    }

    fn step(&mut self, event: Event) -> Option<Exit> {
        let now = self.it.clock.boot();
        let effects = self.machine.step(event, now);
        let mut exit = None;
        for effect in effects {
            exit = self.carry_out(effect, now).or(exit);
        }
        exit
    }

    fn carry_out(&mut self, effect: Effect, now: Boot) -> Option<Exit> {
        match effect {
            Effect::Request { id, key, call } => {
                let leases = self.it.leases.clone();
                self.replies.push(async move { (id, leases.carry_out(&key, call, now).await) }.boxed());
            }
            Effect::List { id } => {
                let leases = self.it.leases.clone();
                self.replies.push(async move { (id, leases.list(now).await) }.boxed());
            }
            Effect::Valid { until } if self.deadline.has_passed(now) => {
                self.deadline = Deadline::at(until);
                self.rights.validity.send_replace(self.deadline.clone());
            }
            Effect::Valid { until } => self.deadline.put_off(until),
            Effect::Start { shard, epoch, until: _ } => {
                let (deadline, hold) = (self.deadline.clone(), self.hold_until.subscribe());
                let grant = Grant::new(shard, epoch, deadline, hold, self.ended.clone());
                self.rights.grants.send_modify(|grants| drop(grants.insert(shard, Arc::new(grant))));
            }
            Effect::Stop { shard } => self.rights.grants.send_modify(|grants| drop(grants.remove(&shard))),
            Effect::HoldAllocations { until } => self.hold(until, now),
            Effect::Contend(contends) => self.leader.contend(contends),
            // Last of all, in `end`.
            Effect::ReleaseLeader => {}
            Effect::Exit(exit) => return Some(exit),
            Effect::Log(fact) => self.reporter.tell(&fact),
        }
        None
    }

    /// O7: one of ours noted on the leader Lease that it took it from an original, and when.
    fn note_takeover(&mut self, leader: &Lease, now: Boot) {
        let noted = annotation(leader, TAKEN_OVER_ANNOTATION).and_then(|time| time.parse::<Timestamp>().ok());
        let Some(noted) = noted else { return };
        let server = self.it.clock.now().server;
        // A note from the future is one from now: its writer's server had another clock.
        let age = Duration::try_from(server.duration_since(noted)).unwrap_or(Duration::ZERO);
        if let Some(left) = ORIGINALS_LAST_POST.checked_sub(age) {
            self.hold(now + left, now);
        }
    }

    fn hold(&mut self, until: Boot, now: Boot) {
        let known = *self.hold_until.borrow();
        // The same takeover is noted again with each renewal, by clocks that tell whole seconds.
        if known.is_none_or(|known| known + TAKEOVER_ROUNDING < until) {
            let is_news = known.is_none_or(|known| known <= now);
            self.hold_until.send_replace(Some(until));
            if is_news {
                Reporter::hold(until.saturating_sub(now));
            }
        }
    }

    /// Nothing is written any more, but that the leader Lease is given up after everything else was (O5, O9).
    async fn end(self, exit: Exit) -> Exit {
        self.rights.grants.send_modify(Grants::clear);
        let orderly = matches!(exit, Exit::Left | Exit::LeftLate);
        if !orderly {
            self.deadline.end();
        }
        self.leader.end(orderly).await;
        self.it.health.retire("ownership");
        exit
    }
}

async fn is_true(flag: &mut watch::Receiver<bool>) -> bool {
    flag.wait_for(|flag| *flag).await.is_ok()
}
