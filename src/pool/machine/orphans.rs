//! C14: IPAddresses of ours whose claim is gone. That it is gone is proven by the server alone, when the orphan is
//! reported and again before each write that removes it.
//!
//! The view tells which addresses no claim is seen for. Most of these are in the middle of a release, or of a restore:
//! they are looked at after a while, a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Action, Fact, Machine, Op, OpId, Outcome, backoff};
use crate::pool::claim::PoolState;
use crate::pool::key::{Boot, Now, ObjectKey, Uid};
use crate::pool::object::{Address, ClusterState};

/// A claim and its IPAddress go and come by two watches: what is not seen for longer than that is worth a look.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// Between two looks: 20 a second, so that orphans by the thousand leave the server to others.
const SPACING: Duration = Duration::from_millis(50);
/// Looks and writes under way at a time.
const MAX_UNDER_WAY: usize = 8;
/// After an answer that proves nothing, or a failure.
const AGAIN_FIRST: Duration = Duration::from_secs(30);
/// And no later than this.
const AGAIN_MOST: Duration = Duration::from_mins(10);

/// What a request about an orphan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrphanOp {
    /// Whether the server has its claim.
    Ask,
    /// Its deletion, or the end of our finalizer.
    Remove,
}

/// All IPAddresses of the pool that no claim is seen for.
#[derive(Clone, Debug, Default)]
pub(super) struct Orphans {
    all: BTreeMap<ObjectKey, Orphan>,
    /// When to look at each of them; those that must stay for now are not in it.
    timers: BTreeSet<(Boot, ObjectKey)>,
    /// Not before this time.
    next: Boot,
    under_way: usize,
}

#[derive(Clone, Debug)]
struct Orphan {
    /// The state of the cluster whose label it carries.
    cluster: ClusterState,
    /// The object that all this is about.
    uid: Option<Uid>,
    /// Since when the server is known to have no claim for it.
    since: Option<Boot>,
    look_at: Option<Boot>,
    /// What is under way for it.
    busy: Option<OpId>,
    /// Answers in a row that led to nothing.
    failures: u32,
}

impl Orphans {
    /// How many of them the server has no claim for.
    pub(super) fn proven(&self) -> usize {
        self.all.values().filter(|orphan| orphan.since.is_some()).count()
    }

    /// When something is to be done.
    pub(super) fn wakes_at(&self) -> Option<Boot> {
        let (at, _) = self.timers.first().filter(|_| self.under_way < MAX_UNDER_WAY)?;
        Some((*at).max(self.next))
    }

    fn look_at(&mut self, key: &ObjectKey, at: Option<Boot>) {
        let Some(orphan) = self.all.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut orphan.look_at, at) {
            self.timers.remove(&(before, key.clone()));
        }
        self.timers.extend(at.map(|at| (at, key.clone())));
    }

    /// Whether it stays as it is until something changes.
    fn is_idle(&self, key: &ObjectKey) -> bool {
        self.all.get(key).is_some_and(|orphan| orphan.look_at.is_none() && orphan.busy.is_none())
    }

    fn look_again(&mut self, key: &ObjectKey, now: Boot, salt: u64) {
        let Some(orphan) = self.all.get_mut(key) else { return };
        orphan.failures = orphan.failures.saturating_add(1);
        let at = now + backoff(orphan.failures, AGAIN_FIRST, AGAIN_MOST, salt);
        self.look_at(key, Some(at));
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.look_at(key, None);
        self.all.remove(key);
    }

    fn ended(&mut self, key: &ObjectKey, id: OpId) -> Option<&mut Orphan> {
        self.under_way = self.under_way.saturating_sub(1);
        let orphan = self.all.get_mut(key).filter(|orphan| orphan.busy == Some(id))?;
        orphan.busy = None;
        Some(orphan)
    }
}

impl Machine {
    /// What the view says: no claim is seen for this IPAddress, or one is.
    pub(super) fn observe_unclaimed(&mut self, key: &ObjectKey, cluster: Option<ClusterState>, now: Now) {
        let Some(cluster) = cluster else { return self.orphans.forget(key) };
        if let Some(orphan) = self.orphans.all.get_mut(key) {
            orphan.cluster = cluster;
            return self.orphan_changed(key);
        }
        let orphan = Orphan { cluster, uid: None, since: None, look_at: None, busy: None, failures: 0 };
        self.orphans.all.insert(key.clone(), orphan);
        self.orphans.look_at(key, Some(now.boot + LOOK_AFTER));
    }

    /// What it waited for may have come about: its cluster's state, or its own.
    pub(super) fn orphan_changed(&mut self, key: &ObjectKey) {
        if self.orphans.is_idle(key) {
            self.orphans.look_at(key, Some(Boot::ZERO));
        }
    }

    /// How many IPAddresses are known to have no claim.
    pub fn orphans(&self) -> usize {
        self.orphans.proven()
    }

    /// The state of the pool changed: what was held back may go by now.
    pub(super) fn look_at_orphans_again(&mut self) {
        for key in self.orphans.all.keys().cloned().collect::<Vec<_>>() {
            self.orphan_changed(&key);
        }
    }

    /// Looks at those whose time has come, as many as may be looked at now.
    pub(super) fn look_at_orphans(&mut self, now: Now) {
        while !self.is_stopping() && self.orphans.wakes_at().is_some_and(|at| at <= now.boot) {
            let Some((_, key)) = self.orphans.timers.first().cloned() else { return };
            self.orphans.look_at(&key, None);
            if self.is_worth_a_look(&key, now) {
                self.ask_for_claim_of(&key);
                self.orphans.next = now.boot + SPACING;
            }
        }
    }

    /// The IPAddress that an orphan is about: of this pool, and protected by our finalizer.
    fn orphaned_address(&self, key: &ObjectKey) -> Option<&Address> {
        self.addresses
            .get(key)
            .map(|address| &**address)
            .filter(|it| it.pool.as_ref() == Some(&self.key) && it.is_protected())
    }

    /// Whether the server is to be asked: nobody has, or the time of the orphan is over and it may be released.
    fn is_worth_a_look(&mut self, key: &ObjectKey, now: Now) -> bool {
        let uid = self.orphaned_address(key).map(|address| address.uid.clone());
        let Some(orphan) = self.orphans.all.get_mut(key) else { return false };
        if orphan.uid != uid {
            (orphan.uid, orphan.since, orphan.failures) = (uid, None, 0);
        }
        if orphan.uid.is_none() {
            // Not ours to release. If it becomes so, it changes.
            return false;
        }
        let Some(since) = orphan.since else { return true };
        let cluster = orphan.cluster;
        let due = self.config.orphan_grace.map(|grace| since + grace);
        self.orphans.look_at(key, due.filter(|due| now.boot < *due));
        self.may_release(since, cluster, now)
    }

    /// Whether the time of an orphan is over, and nothing holds it back.
    fn may_release(&self, since: Boot, cluster: ClusterState, now: Now) -> bool {
        let is_over = self.config.orphan_grace.is_some_and(|grace| now.boot >= since + grace);
        let is_paused = matches!(self.state, PoolState::Paused | PoolState::Deleting { paused: true });
        is_over && !is_paused && cluster != ClusterState::Paused
    }

    fn ask_for_claim_of(&mut self, key: &ObjectKey) {
        let Some(claim) = self.orphaned_address(key).map(|address| ObjectKey::new(&key.namespace, &address.claim_name))
        else {
            return;
        };
        let id = self.send(Op::Orphan(key.clone(), OrphanOp::Ask), Action::GetClaim(claim));
        self.orphan_is_busy(key, id);
    }

    fn orphan_is_busy(&mut self, key: &ObjectKey, id: OpId) {
        self.orphans.under_way += 1;
        if let Some(orphan) = self.orphans.all.get_mut(key) {
            orphan.busy = Some(id);
        }
    }

    pub(super) fn orphan_reply(&mut self, key: &ObjectKey, id: OpId, op: OrphanOp, outcome: Outcome, now: Now) {
        let asked = self.asked.remove(&id);
        let orphan = self.orphans.ended(key, id);
        let is_known = orphan.is_some();
        match (op, outcome) {
            (OrphanOp::Ask, Outcome::Gone) if is_known => self.claim_is_gone(key, now),
            // It exists, or nothing is known. The view tells when its claim is seen.
            (OrphanOp::Ask, outcome) => {
                if let Some(orphan) = orphan {
                    orphan.since = orphan.since.filter(|_| !matches!(outcome, Outcome::Claim(_)));
                    self.orphans.look_again(key, now.boot, id.0);
                }
            }
            (OrphanOp::Remove, Outcome::Address(address)) => {
                if !address.is_protected() {
                    self.facts.push(Fact::OrphanReleased(key.clone()));
                }
                self.take_answer(address);
                self.orphan_changed(key);
            }
            (OrphanOp::Remove, Outcome::Gone) => {
                self.facts.push(Fact::OrphanReleased(key.clone()));
                self.address_is_gone(key, asked);
            }
            // The copy was old, or the write failed: the watch brings a newer copy.
            (OrphanOp::Remove, _) => self.orphans.look_again(key, now.boot, id.0),
        }
    }

    /// The server has no claim of that name: reports the orphan, or removes it if its time is over.
    fn claim_is_gone(&mut self, key: &ObjectKey, now: Now) {
        let Some(address) = self.orphaned_address(key).cloned() else { return };
        let Some(orphan) = self.orphans.all.get_mut(key).filter(|orphan| orphan.uid.as_ref() == Some(&address.uid))
        else {
            return self.orphans.look_at(key, Some(now.boot));
        };
        orphan.failures = 0;
        let claim = ObjectKey::new(&key.namespace, &address.claim_name);
        let Some(since) = orphan.since else {
            orphan.since = Some(now.boot);
            self.facts.push(Fact::Orphaned { address: key.clone(), held: address.held.ok(), claim });
            return self.orphans.look_at(key, self.config.orphan_grace.map(|grace| now.boot + grace));
        };
        let cluster = orphan.cluster;
        // The server spoke of a moment that is over: what is known since counts as well.
        if self.claims.contains_key(&claim) || self.is_stopping() {
            return self.orphans.look_again(key, now.boot, address.version.0);
        }
        if !self.may_release(since, cluster, now) {
            return self.orphans.look_at(key, Some(now.boot));
        }
        self.remove_orphan(key, &address);
    }

    /// Deletes it first and lets it go then: if this process ends in between, it is still known by its finalizer. The
    /// server is asked before each of the two.
    fn remove_orphan(&mut self, key: &ObjectKey, address: &Address) {
        let (uid, version) = (address.uid.clone(), address.version);
        let action = if address.deleting {
            let finalizers = address.finalizers_without_ours();
            Action::PatchAddress { key: key.clone(), uid, version, finalizers, owners: None, label: None }
        } else {
            Action::DeleteAddress { key: key.clone(), uid, version }
        };
        let id = self.send(Op::Orphan(key.clone(), OrphanOp::Remove), action);
        self.note_asked(id, key);
        self.orphan_is_busy(key, id);
    }
}
