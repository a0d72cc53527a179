//! What is known of clusters: nothing, because the kind is missing or forbidden, or which of them are paused.

use std::collections::HashMap;

use crate::pool::key::ObjectKey;

/// What is known of clusters.
pub(super) enum Clusters {
    /// There is no Cluster kind.
    None,
    /// This installation has no right to see them.
    Hidden,
    /// Whether each is paused.
    Known(HashMap<ObjectKey, bool>),
}

impl Clusters {
    /// Notes whether one is paused; returns what was known of it.
    pub(super) fn insert(&mut self, key: ObjectKey, paused: bool) -> Option<bool> {
        if let Self::Known(known) = self {
            return known.insert(key, paused);
        }
        *self = Self::Known([(key, paused)].into());
        None
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if let Self::Known(known) = self {
            known.remove(key);
        }
    }
}
