//! The original's leader Lease: one replica of ours holds it, so that an original beside us stands by, and does the
//! duties of which one is enough.
//!
//! kube-leader-election acquires and renews it. That crate writes without a resourceVersion and compares the times of
//! other machines with its own clock, so it is let near the Lease only once this replica saw on its own clock that
//! nobody holds it any more; a PUT of exactly that copy frees the Lease first. Two replicas may believe to lead for a
//! moment: its duties have to bear that.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::api::lease::{read, vacated};
use crate::k8s::clock::{Clock, Deadline};
use crate::k8s::leases::{LeaseClient, Ring};
use crate::pool::key::Boot;
use crate::shard::lease::{Holder, Identity};
use crate::shard::ownership::Outcome;

/// The server takes no longer name of a field manager, and kube-leader-election uses the holder's as one.
const LONGEST_HOLDER: usize = 128;
/// The last request of a process that ends.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// Leader election as the flags describe it.
#[derive(Clone, Debug)]
pub struct Election {
    /// The name of the Lease.
    pub lease: String,
    /// Whoever tries to hold it.
    pub me: Identity,
    /// How long it lasts.
    pub duration: Duration,
    /// Between attempts.
    pub retry: Duration,
    /// Until when this replica leads: for those who do what one is enough for.
    pub leads: Deadline,
}

/// What the task has to know.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Whether the lock may be tried (O7).
    contends: bool,
    lease: Option<Arc<Lease>>,
    /// When it was first seen as it is.
    since: Boot,
    ends: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    GiveUp,
    JustStop,
}

/// The handle of the task that tries to lead.
pub(super) struct Leader {
    name: String,
    seen: watch::Sender<Seen>,
    leads: Deadline,
    clock: Clock,
    task: JoinHandle<()>,
}

impl Leader {
    pub(super) fn start(election: Election, leases: LeaseClient, client: &Client, clock: &Clock, ring: &Ring) -> Self {
        let me = holder(&election.me);
        let params =
            LeaseLockParams { lease_name: election.lease.clone(), holder_id: me.clone(), lease_ttl: election.duration };
        let lock = LeaseLock::new(client.clone(), &ring.namespace, params);
        let (seen, view) = watch::channel(Seen::default());
        let leads = election.leads.clone();
        let name = election.lease.clone();
        let candidate = Candidate { election, me, lock, leases, clock: clock.clone(), view, leads: leads.clone() };
        Self { name, seen, leads, clock: clock.clone(), task: tokio::spawn(candidate.run()) }
    }

    /// Whether that is the leader Lease.
    pub(super) fn is(&self, lease: &Lease) -> bool {
        lease.metadata.name.as_ref() == Some(&self.name)
    }

    /// Takes in the Lease as it is now.
    pub(super) fn note(&self, lease: Option<Lease>, now: Boot) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        self.seen.send_if_modified(|seen| {
            if seen.lease.as_deref().map(version) == lease.as_ref().map(version) {
                return false;
            }
            seen.lease = lease.map(Arc::new);
            seen.since = now;
            true
        });
    }

    /// Lets it try, or not any more.
    pub(super) fn contend(&self, contends: bool) {
        self.seen.send_modify(|seen| seen.contends = contends);
    }

    /// Whether this replica leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        !self.leads.has_passed(self.clock.boot())
    }

    /// Ends the task; gives the Lease up first, or leaves it alone.
    pub(super) async fn end(self, gives_up: bool) {
        let ending = if gives_up { Ending::GiveUp } else { Ending::JustStop };
        self.seen.send_modify(|seen| seen.ends = Some(ending));
        if timeout(2 * RELEASE_WITHIN, self.task).await.is_err() {
            debug!("the leader Lease is left to run out");
        }
    }
}

struct Candidate {
    election: Election,
    me: String,
    lock: LeaseLock,
    leases: LeaseClient,
    clock: Clock,
    view: watch::Receiver<Seen>,
    leads: Deadline,
}

impl Candidate {
    async fn run(mut self) {
        loop {
            let seen = self.view.borrow_and_update().clone();
            match seen.ends {
                Some(Ending::GiveUp) => return self.give_up().await,
                Some(Ending::JustStop) => return,
                None => {}
            }
            if seen.contends {
                self.contend(&seen).await;
            }
            // A Lease that we hold changes with each of our own renewals: only time tells when the next one is due.
            let holds = seen.contends && self.is_mine(seen.lease.as_deref());
            let is_news = |seen: &Seen| !holds || seen.ends.is_some() || !seen.contends;
            tokio::select! {
                () = changed(&mut self.view, is_news) => {}
                () = sleep(self.election.retry) => {}
            }
        }
    }

    async fn contend(&self, seen: &Seen) {
        if let Some(lease) = &seen.lease
            && !self.is_mine(Some(lease))
        {
            if !self.is_over(lease, seen.since) {
                return;
            }
            let original = matches!(read(lease).holder, Holder::Foreign(_));
            let is_vacated = **lease == vacated(lease, jiff::Timestamp::UNIX_EPOCH, false);
            if !is_vacated && !matches!(self.leases.vacate(lease, original).await, Outcome::Done(_)) {
                return;
            }
        }
        let before = self.clock.boot();
        let result = timeout(self.election.retry, self.lock.try_acquire_or_renew()).await;
        match result {
            Ok(Ok(LeaseLockResult::Acquired(lease))) if self.is_mine(Some(&lease)) => {
                if self.leads.has_passed(self.clock.boot()) {
                    info!(lease = self.election.lease, "leads");
                }
                self.leads.put_off(before + self.election.duration * 4 / 5);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(lease = self.election.lease, "cannot hold the leader Lease: {error}"),
            Err(_) => warn!(lease = self.election.lease, "cannot hold the leader Lease: no answer in time"),
        }
    }

    fn is_mine(&self, lease: Option<&Lease>) -> bool {
        let holder = lease.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(self.me.as_str())
    }

    /// Whether whoever holds it has been silent for longer than he said, on our clock.
    fn is_over(&self, lease: &Lease, since: Boot) -> bool {
        let lease = read(lease);
        lease.holder == Holder::Nobody || self.clock.boot() >= since + lease.duration * 11 / 10
    }

    async fn give_up(self) {
        let holds = self.is_mine(self.view.borrow().lease.as_deref());
        self.leads.end();
        if holds && !matches!(timeout(RELEASE_WITHIN, self.lock.step_down()).await, Ok(Ok(()))) {
            debug!(lease = self.election.lease, "the leader Lease is left to run out");
        }
    }
}

/// Waits for a change that matters.
async fn changed(view: &mut watch::Receiver<Seen>, is_news: impl Fn(&Seen) -> bool) {
    while view.changed().await.is_ok() {
        if is_news(&view.borrow_and_update()) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// The identity by which a replica holds the leader Lease: without the Pod's uid, and with a shortened name if need be.
fn holder(me: &Identity) -> String {
    let of = |name: &str| {
        let member = name.trim_end_matches(['-', '.']).parse().ok()?;
        Identity::new(me.namespace(), member, None, me.instance()).ok().map(|identity| identity.to_string())
    };
    let name = me.member().as_str();
    let full = of(name).unwrap_or_default();
    let cut = name.len().saturating_sub(full.len().saturating_sub(LONGEST_HOLDER)).max(1);
    name.get(..cut).and_then(of).unwrap_or(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_fits_into_the_name_of_a_field_manager_and_is_recognised() {
        let names = ["m", "manager-7d9f-abcde", &format!("{}-.x", "a".repeat(70)), &"a.".repeat(100)];
        for name in names {
            let Ok(member) = name.trim_end_matches('.').parse() else { continue };
            let me = Identity::new(&"n".repeat(63), member, Some("1b4e28ba"), "0123456789abcdef").expect("an identity");
            let holder = holder(&me);
            assert!(holder.len() <= LONGEST_HOLDER, "{holder}");
            assert!(matches!(Holder::parse(&holder), Holder::Ours(_)), "{holder}");
            assert!(holder.ends_with("_-_0123456789abcdef"), "{holder}");
        }
    }
}
