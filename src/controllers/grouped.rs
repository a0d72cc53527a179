//! Objects by what they belong to: claims and addresses of a pool, claims of a cluster.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::pool::key::ObjectKey;

/// Objects by name, in groups; there are no empty groups.
pub(super) struct Grouped<G, V = ()>(HashMap<G, BTreeMap<ObjectKey, V>>);

impl<G, V> Default for Grouped<G, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<G: Hash + Eq, V> Grouped<G, V> {
    /// Adds an object, or replaces its copy.
    pub(super) fn put(&mut self, group: G, key: ObjectKey, value: V) {
        self.0.entry(group).or_default().insert(key, value);
    }

    pub(super) fn remove(&mut self, group: &G, key: &ObjectKey) {
        if let Some(members) = self.0.get_mut(group) {
            members.remove(key);
            if members.is_empty() {
                self.0.remove(group);
            }
        }
    }

    /// The names of a group, in order.
    pub(super) fn names_of(&self, group: &G) -> impl Iterator<Item = &ObjectKey> {
        self.of(group).map(|(key, _)| key)
    }

    /// The objects of a group, in the order of their names.
    pub(super) fn of(&self, group: &G) -> impl Iterator<Item = (&ObjectKey, &V)> {
        self.0.get(group).into_iter().flatten()
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &G> {
        self.0.keys()
    }
}
