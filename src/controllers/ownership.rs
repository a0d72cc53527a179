//! Which pools this process works on: the interface between ownership and the router.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::pool::key::PoolKey;
use crate::shard::key::shard_of;

/// The shards that this process owns, as they change.
#[derive(Clone, Debug)]
pub struct Ownership {
    shards: u16,
    owned: watch::Receiver<BTreeSet<u16>>,
}

impl Ownership {
    /// What somebody else decides, of `shards` in all.
    pub fn following(shards: u16, owned: watch::Receiver<BTreeSet<u16>>) -> Self {
        Self { shards, owned }
    }

    /// One process owns every shard (O8).
    pub fn of_everything(shards: u16) -> Self {
        let (_, owned) = watch::channel((0..shards).collect());
        Self::following(shards, owned)
    }

    /// Whether this process works on the pool.
    pub fn owns(&self, pool: &PoolKey) -> bool {
        let shard = shard_of(pool.kind.kind(), &pool.namespace, &pool.name, self.shards);
        self.owned.borrow().contains(&shard)
    }

    /// Waits for a change; for ever, if there cannot be one any more.
    pub async fn changed(&mut self) {
        if self.owned.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
