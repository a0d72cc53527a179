//! Which pools can hand out the same addresses, as pools come, change and go.
//!
//! Compared are the pools of one scope (a namespace) with each other, and those without a scope with all: equal private
//! ranges in two namespaces are normal.

use super::pool::Pool;
use super::range::Range;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pools by key. It remembers no pairs: a thousand pools of one range would have a million of them.
#[derive(Clone, Debug)]
pub struct Overlaps<K> {
    pools: BTreeMap<K, (Scope, Pool)>,
}

/// Where the addresses of a pool mean the same; `None`: everywhere.
pub type Scope = Option<Arc<str>>;

impl<K> Default for Overlaps<K> {
    fn default() -> Self {
        Self { pools: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Overlaps<K> {
    /// Puts a pool in, or in the place of what it was before. Returns the other pools that have something else in common
    /// with it now.
    pub fn put(&mut self, key: &K, scope: Scope, pool: Pool) -> Vec<K> {
        let before = self.pools.insert(key.clone(), (scope.clone(), pool.clone()));
        let after = (scope, pool);
        if before.as_ref() == Some(&after) {
            return Vec::new();
        }
        self.changed(key, before.as_ref(), Some(&after))
    }

    /// Takes a pool out. Returns the other pools that had something in common with it.
    pub fn remove(&mut self, key: &K) -> Vec<K> {
        let Some(before) = self.pools.remove(key) else { return Vec::new() };
        self.changed(key, Some(&before), None)
    }

    /// The first pools, by key, that have addresses in common with this one, with the lowest of these addresses. Not more
    /// than `most`, so that it costs little where all pools overlap.
    pub fn peers(&self, key: &K, most: usize) -> Vec<(K, Range)> {
        let Some(known) = self.pools.get(key) else { return Vec::new() };
        let others = self.pools.iter().filter(|(other, _)| *other != key);
        others.filter_map(|(other, it)| Some((other.clone(), common(known, it)?))).take(most).collect()
    }

    fn changed(&self, key: &K, before: Option<&(Scope, Pool)>, after: Option<&(Scope, Pool)>) -> Vec<K> {
        let with = |pool: Option<&(Scope, Pool)>, other| pool.and_then(|pool| common(pool, other));
        let others = self.pools.iter().filter(|(other, _)| *other != key);
        others.filter(|(_, it)| with(before, it) != with(after, it)).map(|(other, _)| other.clone()).collect()
    }
}

/// The lowest addresses that both can hand out, where these mean the same.
fn common((scope, pool): &(Scope, Pool), (other_scope, other): &(Scope, Pool)) -> Option<Range> {
    let meet = scope.is_none() || other_scope.is_none() || scope == other_scope;
    if meet { pool.overlap(other) } else { None }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::ipam::pool::AddressSpec;
    use proptest::prelude::*;

    fn pool(first: u8, last: u8) -> Pool {
        let range =
            |first: u8, last: u8| Range::new([10, 0, 0, first].into(), [10, 0, 0, last].into()).expect("a range");
        let spec = AddressSpec {
            addresses: vec![range(first, last)],
            excluded: Vec::new(),
            prefix: 24,
            gateway: None,
            allocate_reserved: false,
        };
        Pool::of_addresses(spec).expect("a valid spec")
    }

    proptest! {
        /// However the pools came about, peers are those that a look at all pairs finds, and whoever is not named after a
        /// change has the peers that it had.
        #[test]
        fn peers_are_those_of_a_look_at_all_pairs(
            acts in prop::collection::vec((0..6_u8, prop::option::of((0..3_u8, 20..40_u8, 0..9_u8))), 1..40),
        ) {
            let mut overlaps = Overlaps::default();
            let mut naive: BTreeMap<u8, (Scope, Pool)> = BTreeMap::new();
            for (key, act) in acts {
                let before: BTreeMap<u8, _> = naive.keys().map(|key| (*key, overlaps.peers(key, 99))).collect();
                let changed = if let Some((scope, first, more)) = act {
                    let scope = (scope > 0).then(|| Arc::from(scope.to_string()));
                    naive.insert(key, (scope.clone(), pool(first, first + more)));
                    overlaps.put(&key, scope, pool(first, first + more))
                } else {
                    naive.remove(&key);
                    overlaps.remove(&key)
                };
                for (one, it) in &naive {
                    let expected: Vec<(u8, Range)> = naive
                        .iter()
                        .filter(|(other, _)| *other != one)
                        .filter_map(|(other, other_it)| Some((*other, common(it, other_it)?)))
                        .collect();
                    let peers = overlaps.peers(one, 99);
                    prop_assert_eq!(&peers, &expected);
                    let is_news = before.get(one).is_some_and(|before| *before != peers);
                    prop_assert!(*one == key || changed.contains(one) == is_news, "{} of {:?}", one, changed);
                }
            }
        }
    }

    #[test]
    fn pools_of_two_namespaces_may_have_equal_addresses_and_global_ones_meet_all() {
        let mut overlaps = Overlaps::default();
        let scope = |name: &str| Some(Arc::from(name));
        assert!(overlaps.put(&"a", scope("one"), pool(20, 29)).is_empty());
        assert!(overlaps.put(&"b", scope("two"), pool(20, 29)).is_empty());
        assert_eq!(overlaps.put(&"c", None, pool(25, 39)), ["a", "b"]);
        let range = Range::new([10, 0, 0, 25].into(), [10, 0, 0, 29].into()).expect("a range");
        assert_eq!(overlaps.peers(&"a", 3), [("c", range)]);
        assert_eq!(overlaps.peers(&"c", 1), [("a", range)], "no more than asked for");
        assert!(overlaps.put(&"c", None, pool(25, 39)).is_empty(), "nothing changed");
        assert_eq!(overlaps.remove(&"c"), ["a", "b"]);
        assert!(overlaps.peers(&"a", 3).is_empty());
    }
}
