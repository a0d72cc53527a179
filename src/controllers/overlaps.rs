//! Tells machines of pools that can hand out the same addresses of each other.

use std::collections::BTreeSet;

use super::view::{Delivery, View};
use crate::ipam::overlap::{Overlaps, Scope};
use crate::pool::key::PoolKey;
use crate::pool::machine::{Input, MAX_NAMED_PEERS};

/// Follows all valid pools that the view has.
#[derive(Default)]
pub(super) struct PoolOverlaps {
    index: Overlaps<PoolKey>,
}

impl PoolOverlaps {
    /// Takes in what became of pools, and says whose peers are others now. An installation that serves one namespace does
    /// not see all pools: it has nothing to say, or it would contradict one that does.
    pub(super) fn follow(&mut self, deliveries: &[Delivery], view: &View) -> Vec<Delivery> {
        if view.is_of_one_namespace() {
            return Vec::new();
        }
        let mut concerned = BTreeSet::new();
        for (key, _) in deliveries.iter().filter(|(_, input)| matches!(input, Input::Pool { .. })) {
            let changed = match view.pool(key).and_then(|view| view.spec.as_ref().ok()) {
                Some(spec) => self.index.put(key, scope_of(key), spec.pool.clone()),
                None => self.index.remove(key),
            };
            if !changed.is_empty() {
                concerned.insert(key.clone());
                concerned.extend(changed);
            }
        }
        let known = concerned.into_iter().filter(|key| view.pool(key).is_some());
        known.map(|key| (key.clone(), self.input(&key))).collect()
    }

    /// What a new machine of this pool must know.
    pub(super) fn input_for(&self, key: &PoolKey, view: &View) -> Option<Input> {
        (!view.is_of_one_namespace()).then(|| self.input(key))
    }

    fn input(&self, key: &PoolKey) -> Input {
        Input::Overlaps(self.index.peers(key, MAX_NAMED_PEERS + 1))
    }
}

fn scope_of(key: &PoolKey) -> Scope {
    (!key.kind.is_global()).then(|| key.namespace.clone())
}
