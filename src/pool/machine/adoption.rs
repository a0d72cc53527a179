//! C19: a moved or restored claim comes a moment before its IPAddress, and a moved pool before its claims. Until the
//! address arrives nothing new is promised to anybody, or the pool would give that very address away.
//!
//! Bounded twice: each claim is waited for once and not for long, and a pool as a whole is held for a part of the time
//! only, whatever comes. A claim or pool that is known here, by the annotation with its uid, is never waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Fact, Machine};
use crate::pool::key::{Boot, Now, ObjectKey};
use crate::pool::object::Claim;

/// What was moved or restored longer ago than this has its address, or will not get it.
const OLD: SignedDuration = SignedDuration::from_mins(10);
/// A pool is held for at most so long in [`WINDOW`]: a tenant must not hold a Global pool for everybody.
const HELD_MOST: Duration = Duration::from_mins(5);
/// See [`HELD_MOST`].
const WINDOW: Duration = Duration::from_hours(1);
/// The window's grain.
const SLICE: Duration = Duration::from_mins(1);
/// Most addresses come a moment after their claims; waiting is worth a write to each claim after this only.
pub(super) const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Which claims are waited for, and how long the pool was held for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Adoption {
    /// Claims whose IPAddress may still arrive, by when that is given up.
    expected: BTreeSet<(Boot, ObjectKey)>,
    /// The same for a pool that was moved or restored: which claims and IPAddresses come with it nobody can know.
    pool_until: Option<Boot>,
    /// Since when the pool is held.
    held_since: Option<Boot>,
    /// Whether the claims that wait are told so by now.
    told: bool,
    /// Up to when the time was counted.
    counted: Boot,
    /// How long the pool was held in each slice of the window.
    spent: BTreeMap<u128, Duration>,
}

impl Adoption {
    /// Whether nothing new may be promised.
    pub(super) fn holds(&self) -> bool {
        self.held_since.is_some()
    }

    /// Whether claims are to be told that they wait for this.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Whether more may come with the pool.
    pub(super) fn expects_pool(&self) -> bool {
        self.pool_until.is_some()
    }

    fn is_expecting(&self) -> bool {
        self.expects_pool() || !self.expected.is_empty()
    }

    /// When something changes by time alone.
    pub(super) fn wakes_at(&self) -> Option<Boot> {
        let given_up = self.expected.first().map(|(until, _)| *until);
        let spent = self.held_since.map(|_| self.counted + self.left());
        let told = self.held_since.filter(|_| !self.told).map(|since| since + TOLD_AFTER);
        [given_up, self.pool_until, spent, told].into_iter().flatten().min()
    }

    /// Counts the time until now, and forgets what lies outside of the window.
    fn count(&mut self, now: Boot) {
        let slice = |at: Boot| at.as_millis() / SLICE.as_millis();
        if self.held_since.is_some() {
            *self.spent.entry(slice(now)).or_default() += now.saturating_sub(self.counted);
            self.counted = now;
        }
        let window = slice(now).saturating_sub(slice(WINDOW));
        self.spent.retain(|at, _| *at >= window);
    }

    fn begin(&mut self, now: Boot) {
        (self.held_since, self.counted) = (Some(now), now);
    }

    fn end(&mut self) {
        (self.held_since, self.told) = (None, false);
    }

    /// How much longer the pool may be held.
    fn left(&self) -> Duration {
        HELD_MOST.saturating_sub(self.spent.values().sum())
    }
}

impl Machine {
    /// When the IPAddress of a claim that is seen for the first time is given up; `None` if none is waited for.
    pub(super) fn expects_until(&self, claim: &Claim, now: Now) -> Option<Boot> {
        self.waits_until(claim.created, now).filter(|_| claim.may_be_moved())
    }

    fn waits_until(&self, created: Timestamp, now: Now) -> Option<Boot> {
        let grace = self.config.adoption_grace;
        (!grace.is_zero() && now.server.duration_since(created) < OLD).then(|| now.boot + grace)
    }

    /// Begins to wait for a claim's IPAddress, if it is to be waited for.
    pub(super) fn expect(&mut self, key: &ObjectKey, until: Option<Boot>) {
        let Some(entry) = self.claims.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut entry.expected_until, until) {
            self.adoption.expected.remove(&(before, key.clone()));
        }
        if let Some(until) = until {
            self.adoption.expected.insert((until, key.clone()));
            self.refresh_expected(key);
        }
    }

    /// The time that a claim is waited for counts from when its pool is there: before, nothing could be given away.
    pub(super) fn expect_again(&mut self, now: Now) {
        let pool = self.pool.as_ref().filter(|pool| pool.may_be_moved());
        self.adoption.pool_until = pool.and_then(|pool| self.waits_until(pool.created, now));
        let claims = self.claims.values().map(|entry| entry.claim.clone()).filter(|claim| claim.may_be_moved());
        for claim in claims.collect::<Vec<_>>() {
            self.expect(&claim.key, self.expects_until(&claim, now));
        }
    }

    /// Ends the wait for a claim that is going, that is known here, or that has an IPAddress or the promise of one.
    pub(super) fn refresh_expected(&mut self, key: &ObjectKey) {
        let Some(entry) = self.claims.get_mut(key).filter(|entry| entry.expected_until.is_some()) else { return };
        let claim = &entry.claim;
        let is_promised = self.seen.contains_key(&claim.uid) || self.planned.contains(&claim.uid);
        if !claim.may_be_moved() || claim.deleted.is_some() || is_promised || self.addresses.contains_key(key) {
            self.expect(key, None);
        }
    }

    /// Lets time pass: gives up claims that were waited for long enough, and begins or ends to hold the pool.
    pub(super) fn note_adoption(&mut self, now: Now) {
        self.adoption.count(now.boot);
        self.adoption.pool_until = self.adoption.pool_until.filter(|until| *until > now.boot);
        while let Some((until, key)) = self.adoption.expected.first().cloned() {
            if until > now.boot {
                break;
            }
            self.expect(&key, None);
            self.mark(&key);
        }
        let is_expecting = self.adoption.is_expecting();
        match self.adoption.held_since {
            None if is_expecting && !self.adoption.left().is_zero() => self.adoption.begin(now.boot),
            Some(_) if !is_expecting || self.adoption.left().is_zero() => {
                self.adoption.end();
                if is_expecting {
                    self.facts.push(Fact::HeldTooLong { claims: self.adoption.expected.len() });
                }
                self.tell_again();
            }
            _ => {}
        }
        let is_long = self.adoption.held_since.is_some_and(|since| now.boot >= since + TOLD_AFTER);
        if is_long && !self.adoption.told {
            self.adoption.told = true;
            self.facts.push(Fact::AddressesAwaited { claims: self.adoption.expected.len() });
        }
    }

    /// What claims were told while the pool was held is not true any more: if they do not get an address now, they are
    /// told why.
    pub(super) fn tell_again(&mut self) {
        self.unreported.extend(self.waiting.iter().cloned());
    }
}
