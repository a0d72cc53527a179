//! O7: after an original led, no new promise is made until its last requests are over and a LIST was made after that.

use super::{Boot, Machine, Now};

/// What a held machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The time at which nothing of the original can arrive any more.
    Until(Boot),
    /// The LIST is to be sent.
    Due,
    /// It is under way.
    Listing,
}

impl Machine {
    /// Begins to hold, or holds longer.
    pub(super) fn hold(&mut self, until: Boot) {
        self.held = match self.held {
            Some(Held::Until(known)) => Some(Held::Until(known.max(until))),
            _ => Some(Held::Until(until)),
        };
    }

    /// Whether addresses may be promised; sends the LIST that has to come first.
    pub(super) fn may_promise(&mut self) -> bool {
        if self.held == Some(Held::Due) && !self.list_busy {
            self.list_addresses();
            self.held = Some(Held::Listing);
        }
        self.held.is_none()
    }

    pub(super) fn note_time(&mut self, now: Now) {
        if matches!(self.held, Some(Held::Until(until)) if until <= now.boot) {
            self.held = Some(Held::Due);
        }
    }

    pub(super) fn hold_ends_at(&self) -> Option<Boot> {
        match self.held {
            Some(Held::Until(until)) => Some(until),
            _ => None,
        }
    }

    /// A LIST ended.
    pub(super) fn note_list(&mut self, done: bool) {
        if self.held == Some(Held::Listing) {
            self.held = if done { None } else { Some(Held::Due) };
            if done {
                self.tell_again();
            }
        }
    }
}
