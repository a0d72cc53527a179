//! How many Events a replica may write: a bucket of tokens that fills up slowly.

use std::time::Duration;

use crate::pool::key::Boot;

/// Events at once: the claims of a usual cluster, twice.
const MOST: u32 = 100;
/// Of these, so many are kept for what concerns a whole pool, however many claims there is something to tell about.
const RESERVE: u32 = 50;
/// One more after this time: little beside what a claim costs (three requests), much for somebody who reads them.
const ONE_MORE: Duration = Duration::from_millis(200);

/// The tokens.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: u32,
    /// When the last token came in.
    filled: Boot,
}

impl Budget {
    /// A full one.
    pub(super) fn new(now: Boot) -> Self {
        Self { tokens: MOST, filled: now }
    }

    /// Takes a token if there is one for this.
    pub(super) fn take(&mut self, about_pool: bool, now: Boot) -> bool {
        let since = now.saturating_sub(self.filled);
        let more = u32::try_from(since.as_millis() / ONE_MORE.as_millis()).unwrap_or(u32::MAX);
        self.filled += ONE_MORE.saturating_mul(more);
        self.tokens = self.tokens.saturating_add(more).min(MOST);
        let kept = if about_pool { 0 } else { RESERVE };
        let has_one = self.tokens > kept;
        self.tokens -= u32::from(has_one);
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_claims_gets_few_events_and_leaves_some_for_pools() {
        let start = Duration::from_secs(100);
        let mut budget = Budget::new(start);
        let of_claims = (0..10_000).filter(|_| budget.take(false, start)).count();
        assert_eq!(of_claims, 50);
        let of_pools = (0..10_000).filter(|_| budget.take(true, start)).count();
        assert_eq!(of_pools, 50);
        // 10,000 claims within 15 seconds: less than 2 % more requests.
        let later = (0..15_000).filter(|ms| budget.take(false, start + Duration::from_millis(*ms))).count();
        assert!(later <= 25, "{later}");
    }

    #[test]
    fn tokens_come_back_and_are_not_hoarded() {
        let start = Duration::from_secs(100);
        let mut budget = Budget::new(start);
        while budget.take(true, start) {}
        assert!(!budget.take(true, start + Duration::from_millis(199)));
        assert!(budget.take(true, start + Duration::from_millis(200)));
        assert!(!budget.take(true, start + Duration::from_millis(399)));
        let much_later = start + Duration::from_hours(1);
        assert_eq!((0..1_000).filter(|_| budget.take(true, much_later)).count(), 100);
    }
}
