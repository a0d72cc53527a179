//! Which pools this process works on: the interface between whoever decides that and the router.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::k8s::clock::Deadline;
use crate::pool::key::{Boot, PoolKey};
use crate::shard::key::shard_of;

/// The right to work on a shard. Whoever works on one of its pools keeps a clone until he has finished; that the last
/// one is dropped is what tells that work on the shard has ended.
#[derive(Debug)]
pub struct Grant {
    shard: u16,
    /// Grows with every change of hands; for logs.
    pub epoch: u32,
    /// After it nothing may be sent.
    pub deadline: Deadline,
    /// O7: nothing new is given out before, and not before a LIST that is made after it.
    pub hold_until: watch::Receiver<Option<Boot>>,
    ended: Option<mpsc::UnboundedSender<u16>>,
}

impl Grant {
    /// A right that is reported to `ended` when nobody uses it any more.
    pub fn new(
        shard: u16,
        epoch: u32,
        deadline: Deadline,
        hold_until: watch::Receiver<Option<Boot>>,
        ended: mpsc::UnboundedSender<u16>,
    ) -> Self {
        Self { shard, epoch, deadline, hold_until, ended: Some(ended) }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(ended) = &self.ended {
            // If nobody listens, nobody waits for it either.
            let _ = ended.send(self.shard);
        }
    }
}

/// The shards that this process owns.
pub type Grants = BTreeMap<u16, Arc<Grant>>;

/// Where it is said what this process may do.
#[derive(Debug)]
pub struct Rights {
    /// The shards that it owns.
    pub grants: watch::Sender<Grants>,
    /// Until when it may write at all, in the present run of validity of its membership: whoever finishes what was begun
    /// on a pool that is not ours any more keeps to that.
    pub validity: watch::Sender<Deadline>,
}

/// The shards that this process owns, as they change.
#[derive(Clone, Debug)]
pub struct Ownership {
    shards: u16,
    grants: watch::Receiver<Grants>,
    validity: watch::Receiver<Deadline>,
}

impl Ownership {
    /// What somebody else decides, of `shards` in all, and where he says it. Nothing is owned at first.
    pub fn decided_elsewhere(shards: u16) -> (Self, Rights) {
        let rights =
            Rights { grants: watch::Sender::default(), validity: watch::Sender::new(Deadline::at(Boot::ZERO)) };
        (Self { shards, grants: rights.grants.subscribe(), validity: rights.validity.subscribe() }, rights)
    }

    /// One process owns every shard (O8).
    pub fn of_everything(shards: u16) -> Self {
        let (_, hold) = watch::channel(None);
        let grant = |shard| {
            let hold_until = hold.clone();
            Grant { shard, epoch: 0, deadline: Deadline::never(), hold_until, ended: None }
        };
        let (_, grants) = watch::channel((0..shards).map(|shard| (shard, Arc::new(grant(shard)))).collect());
        let (_, validity) = watch::channel(Deadline::never());
        Self { shards, grants, validity }
    }

    /// Until when this process may write anything at all.
    pub fn validity(&self) -> watch::Receiver<Deadline> {
        self.validity.clone()
    }

    /// The right to work on the pool, if this process has it.
    pub fn of(&self, pool: &PoolKey) -> Option<Arc<Grant>> {
        let shard = shard_of(pool.kind.kind(), &pool.namespace, &pool.name, self.shards);
        self.grants.borrow().get(&shard).cloned()
    }

    /// Waits for a change; for ever, if there cannot be one any more.
    pub async fn changed(&mut self) {
        if self.grants.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::PoolKind;

    #[test]
    fn the_end_of_work_is_told_once_the_last_worker_has_finished() {
        let (ended, mut reports) = mpsc::unbounded_channel();
        let (ownership, Rights { grants, validity: _ }) = Ownership::decided_elsewhere(1);
        let pool = PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "a");
        assert!(ownership.of(&pool).is_none());
        grants.send_modify(|grants| {
            let (_, hold) = watch::channel(None);
            grants.insert(0, Arc::new(Grant::new(0, 7, Deadline::never(), hold, ended)));
        });
        let workers = [ownership.of(&pool).expect("a grant"), ownership.of(&pool).expect("a grant")];
        grants.send_modify(Grants::clear);
        assert!(ownership.of(&pool).is_none());
        let [first, last] = workers;
        drop(first);
        assert!(reports.try_recv().is_err());
        drop(last);
        assert_eq!(reports.try_recv(), Ok(0));
    }
}
