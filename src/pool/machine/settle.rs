//! Settling: when an intent may be dropped, and by whom (F5, F6, F9).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Action, Hold, Machine, Op, OpId};
use crate::ipam::pool::Held;
use crate::pool::claim::PoolState;
use crate::pool::key::{Boot, Now, ObjectKey, Sender, Uid, Version};
use crate::pool::record::{Intent, Record};
use crate::pool::rule::{Rule, is_broken};

/// F6: how long somebody else's intent must have stood unchanged before it is rolled forward, unless it was there
/// when this process took the pool.
const FOREIGN_AGE: Duration = Duration::from_secs(10);

/// After a look at a drained intent without an answer; and while an intent whose time is over is still wanted.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What became of an intent that a commit gave to me.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// What it is about.
    pub(super) held: Held,
    /// When the PUT that listed me was sent (F1).
    pub(super) at: Boot,
    /// F1: too long ago to send another create; I must be listed again first.
    pub(super) expired: bool,
    /// Creates under way.
    pub(super) outstanding: u32,
    /// A create had no definitive answer: it may still be delivered.
    pub(super) tainted: bool,
    /// Its claim is gone or going: there is nothing more to send.
    pub(super) abandoned: bool,
    /// Every create was answered, and there is nothing more to send.
    pub(super) answer: Option<Answer>,
}

/// The definitive end of my part in an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An IPAddress of this name exists since this version.
    Exists(Version),
    /// The server refused it.
    Refused,
}

impl Listing {
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding > 0
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Of a commit that was sent then.
    pub(super) fn new(held: Held, at: Boot) -> Self {
        Self { held, at, expired: false, outstanding: 0, tainted: false, abandoned: false, answer: None }
    }

    /// Of somebody who had my name before me: what he sent, nobody knows.
    fn of_predecessor(held: Held) -> Self {
        Self { expired: true, tainted: true, abandoned: true, ..Self::new(held, Boot::ZERO) }
    }
}

/// An intent as it stands in the record.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) held: Held,
    seq: u64,
    senders: BTreeSet<Sender>,
    pub(super) claim: ObjectKey,
    /// Since when it stands like this.
    since: Boot,
    /// When to look whether its senders can still deliver: at the end of the lock delay.
    pub(super) look_at: Boot,
    /// It was there when I took the pool.
    inherited: bool,
    /// F5(b): after it was drained, a consistent GET found its IPAddress at this version; zero for none.
    confirmed: Option<Version>,
    /// That GET, while it is under way.
    look: Option<OpId>,
}

impl Seen {
    /// Whether it promises this address, with `me` among its senders.
    pub(super) fn lists(&self, me: &Sender, held: Held) -> bool {
        self.held == held && self.senders.contains(me)
    }

    /// Another create goes out: whatever a look shows that was sent before it, says nothing about it.
    pub(super) fn look_is_outdated(&mut self) {
        if !is_broken(Rule::VoidLook) {
            self.confirmed = None;
            self.look = None;
        }
    }
}

/// What settling does to an intent in the next commit.
enum Settled {
    /// It is dropped, and the watermark raised.
    Drop(Version),
    /// I leave it to its other senders.
    Leave(Version),
    /// It stays.
    Stay,
}

impl Machine {
    /// Follows the intents of the newest record: holds their addresses and notes since when they stand unchanged.
    pub(super) fn refresh_intents(&mut self, first: bool, now: Now) {
        let pending = self
            .pool
            .as_ref()
            .and_then(|pool| pool.status.record.as_ref())
            .map(|record| record.pending.clone())
            .unwrap_or_default();
        // F9: until a lost record is restored, its intents hold their addresses too.
        let pending = if self.lost {
            self.memory.restore(Some(&Record { pending, ..Record::default() })).pending
        } else {
            pending
        };
        let dropped: Vec<Uid> = self.seen.keys().filter(|uid| !pending.contains_key(*uid)).cloned().collect();
        for uid in dropped {
            self.drop_intent(&uid);
        }
        for (uid, intent) in pending {
            self.note_intent(uid, intent, first, now);
        }
        self.refresh_drained();
    }

    fn drop_intent(&mut self, uid: &Uid) {
        let Some(seen) = self.seen.remove(uid) else { return };
        self.listings.remove(uid);
        self.to_list.remove(uid);
        self.release_promise(uid, &seen.claim);
        self.mark(&seen.claim);
    }

    fn note_intent(&mut self, uid: Uid, intent: Intent, first: bool, now: Now) {
        let known = self.seen.get(&uid);
        if known.is_some_and(|seen| seen.seq == intent.seq && seen.senders == intent.senders) {
            return;
        }
        if first && intent.senders.contains(&self.config.me) && !self.listings.contains_key(&uid) {
            self.listings.insert(uid.clone(), Listing::of_predecessor(intent.held));
        }
        let inherited = first || known.is_some_and(|seen| seen.inherited);
        let afresh = (now.boot, now.boot + self.config.lock_delay);
        let (since, look_at) =
            known.filter(|_| is_broken(Rule::DelayStartsAgain)).map_or(afresh, |seen| (seen.since, seen.look_at));
        let (confirmed, look) =
            known.filter(|_| is_broken(Rule::VoidLook)).map_or((None, None), |seen| (seen.confirmed, seen.look));
        if let Some(ledger) = self.ledger.as_mut().filter(|_| !is_broken(Rule::IntentsHold)) {
            ledger.hold(Hold::Promise(uid.clone()), intent.held);
        }
        if is_broken(Rule::ListedFirst) {
            self.listings.entry(uid.clone()).or_insert_with(|| Listing::new(intent.held, now.boot));
        }
        self.mark(&intent.claim);
        let Intent { held, claim, claim_uid: _, seq, senders, other: _ } = intent;
        let key = claim.clone();
        let seen = Seen { held, seq, senders, claim, since, look_at, inherited, confirmed, look };
        self.look_due = Some(self.look_due.map_or(look_at, |at| at.min(look_at)));
        self.seen.insert(uid, seen);
        self.refresh_expected(&key);
    }

    /// F6: whether I may be listed in this intent of others, or (again) in my own.
    pub(super) fn may_list(&self, uid: &Uid, now: Now) -> bool {
        self.seen.get(uid).is_some_and(|seen| {
            seen.inherited || seen.senders.contains(&self.config.me) || now.boot >= seen.since + FOREIGN_AGE
        })
    }

    /// When [`Self::may_list`] will allow it by age alone, and for which claim.
    pub(super) fn may_list_at(&self, uid: &Uid) -> Option<(Boot, ObjectKey)> {
        self.seen.get(uid).map(|seen| (seen.since + FOREIGN_AGE, seen.claim.clone()))
    }

    /// Whether the next commit could drop an intent or leave one.
    pub(super) fn can_settle(&self) -> bool {
        self.seen.keys().any(|uid| !matches!(self.settled(uid), Settled::Stay))
    }

    /// Whether creates are under way, or answered and seen soon by my own store.
    pub(super) fn is_settling(&self) -> bool {
        self.listings.values().any(|listing| !listing.tainted && (listing.is_busy() || !listing.abandoned))
    }

    /// Whether an intent names this process that will be able to settle its part in it.
    pub(super) fn owes_settling(&self) -> bool {
        let is_tainted = |uid| self.listings.get(uid).is_some_and(|listing| listing.tainted);
        self.seen.iter().any(|(uid, seen)| seen.senders.contains(&self.config.me) && !is_tainted(uid))
    }

    /// F6: all intents were there when the pool was taken.
    pub(super) fn inherit_intents(&mut self) {
        for seen in self.seen.values_mut() {
            seen.inherited = true;
        }
    }

    /// Whether the next commit could drop an intent whose IPAddress was released already: nothing else holds its address.
    pub(super) fn can_free(&self) -> bool {
        let gone = self.seen.iter().filter(|(_, seen)| !self.addresses.contains_key(&seen.claim));
        gone.into_iter().any(|(uid, _)| matches!(self.settled(uid), Settled::Drop(_)))
    }

    /// Applies to `record` all that may be settled now. From here on nothing is sent for it under its old listing: the
    /// commit may be taken at any time, also after its answer was given up on.
    pub(super) fn settle(&mut self, record: &mut Record) {
        let settled: Vec<(Uid, Settled)> = self.seen.keys().map(|uid| (uid.clone(), self.settled(uid))).collect();
        for (uid, settled) in settled {
            let version = match settled {
                Settled::Stay => continue,
                Settled::Drop(version) => {
                    record.pending.remove(&uid);
                    version
                }
                Settled::Leave(version) => {
                    if let Some(intent) = record.pending.get_mut(&uid) {
                        intent.senders.remove(&self.config.me);
                    }
                    version
                }
            };
            if !is_broken(Rule::RaisedWatermark) {
                record.settled = record.settled.max(version);
            }
            if let Some(listing) = self.listings.get_mut(&uid) {
                listing.expired = !is_broken(Rule::NothingAfterDrop);
            }
        }
    }

    fn settled(&self, uid: &Uid) -> Settled {
        let Some(seen) = self.seen.get(uid) else { return Settled::Stay };
        let listing = self.listings.get(uid);
        if let Some(object) = self.addresses.get(&seen.claim).filter(|_| is_broken(Rule::SettledByAnswers)) {
            return Settled::Drop(object.version);
        }
        if self.is_wanted(uid, seen) || listing.is_some_and(Listing::is_busy) {
            return Settled::Stay;
        }
        let object = self.addresses.get(&seen.claim).map_or(Version(0), |address| address.version);
        let tainted = listing.is_some_and(|listing| listing.tainted) && !is_broken(Rule::EveryCreateAnswered);
        if let Some(found) = seen.confirmed {
            return Settled::Drop(object.max(found));
        }
        if tainted || !seen.senders.contains(&self.config.me) {
            return Settled::Stay;
        }
        let answered = match listing.and_then(|listing| listing.answer) {
            Some(Answer::Exists(version)) => version,
            // Nothing was ever sent, or it was refused.
            Some(Answer::Refused) | None => Version(0),
        };
        let version = object.max(answered);
        if version > self.store {
            return Settled::Stay;
        }
        let alone = seen.senders.len() == 1 || is_broken(Rule::SoleSender);
        if alone { Settled::Drop(version) } else { Settled::Leave(version) }
    }

    /// Whether a create for it is still to be sent: its claim lives here and has no IPAddress, and the pool is to stay.
    fn is_wanted(&self, uid: &Uid, seen: &Seen) -> bool {
        let refused = self.listings.get(uid).is_some_and(|l| l.answer == Some(Answer::Refused));
        let lives = self.claims.get(&seen.claim).is_some_and(|e| e.claim.uid == *uid && e.claim.deleted.is_none());
        lives
            && !self.is_stopping()
            && !refused
            && !matches!(self.state, PoolState::Deleting { .. })
            && !self.addresses.contains_key(&seen.claim)
            && !self.is_contested(uid, seen)
    }

    /// Whether somebody else holds this address too, or is promised it. Only the loss of a record brings that about (F9):
    /// what stands against each other then is not carried out, and goes when nothing can arrive any more.
    pub(super) fn is_contested(&self, uid: &Uid, seen: &Seen) -> bool {
        let is_other = |holder: &Hold| match holder {
            Hold::Object(key) => *key != seen.claim,
            Hold::Promise(other) => other != uid,
        };
        self.ledger.as_ref().is_some_and(|ledger| ledger.holders_of(seen.held.address).any(is_other))
    }

    /// F5(b): nobody but me is left who could still deliver a create, and my own creates are answered.
    fn is_drained_by_evidence(&self, uid: &Uid, seen: &Seen) -> bool {
        let clean = self.listings.get(uid).is_none_or(|listing| !listing.tainted && !listing.is_busy());
        let mut others = seen.senders.iter().filter(|sender| **sender != self.config.me);
        let is_drained = |sender| self.drained.contains(sender);
        let all = others.clone().all(is_drained) || is_broken(Rule::EverySenderDrained);
        clean && others.any(is_drained) && all
    }

    /// Asks for the consistent look that must follow on draining, before an intent is dropped (F5(b)). Most steps have
    /// nothing to ask, and do not go through the intents.
    pub(super) fn look_at_drained(&mut self, now: Now) {
        if !self.has_drained && self.look_due.is_none_or(|at| at > now.boot) {
            return;
        }
        self.look_due = None;
        let mut due = Vec::new();
        for (uid, seen) in &self.seen {
            if seen.confirmed.is_some() || seen.look.is_some() {
                continue;
            }
            let over = now.boot >= seen.look_at;
            if (over || self.is_drained_by_evidence(uid, seen)) && !self.is_wanted(uid, seen) {
                due.push((uid.clone(), seen.claim.clone()));
            } else {
                let again = if over { now.boot + LOOK_AGAIN } else { seen.look_at };
                self.look_due = Some(self.look_due.map_or(again, |at| at.min(again)));
            }
        }
        for (uid, key) in due {
            if is_broken(Rule::LookAfterDrain) {
                if let Some(seen) = self.seen.get_mut(&uid) {
                    seen.confirmed = Some(Version(0));
                }
                continue;
            }
            let look = self.send(Op::Settle(uid.clone()), Action::GetAddress(key));
            if let Some(seen) = self.seen.get_mut(&uid) {
                seen.look = Some(look);
            }
        }
    }

    /// Whether a drained sender stands in an intent.
    pub(super) fn refresh_drained(&mut self) {
        self.has_drained = self.seen.values().any(|seen| !seen.senders.is_disjoint(&self.drained));
    }

    /// The answer to that look: the version of the IPAddress, `None` if the server has none of the name, or no answer.
    /// If the intent was listed again meanwhile, or another create was sent, the look came too early and says nothing.
    pub(super) fn confirm(&mut self, uid: &Uid, look: OpId, found: Result<Option<Version>, ()>, now: Now) {
        let Some(seen) = self.seen.get_mut(uid).filter(|seen| seen.look == Some(look)) else { return };
        seen.look = None;
        if let Ok(found) = found {
            seen.confirmed = Some(found.unwrap_or_default());
        } else {
            seen.look_at = now.boot + LOOK_AGAIN;
            self.look_due = Some(self.look_due.map_or(seen.look_at, |at| at.min(seen.look_at)));
        }
    }

    /// The latest time at which all pending intents are settled even if nobody answers any more (F8).
    pub(super) fn settled_by(&self) -> Option<Boot> {
        self.seen.values().map(|seen| seen.since + self.config.lock_delay).max()
    }
}
