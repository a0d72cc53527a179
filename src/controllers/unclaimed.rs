//! Which IPAddresses no claim is seen for (C14): by the name of the claim that they refer to, by their own name, and by
//! the status of every claim, served here or not.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::pool::key::ObjectKey;
use crate::pool::object::Address;

/// All claims by name, and the few references between objects whose names differ.
#[derive(Debug, Default)]
pub struct ClaimIndex {
    claims: HashSet<ObjectKey>,
    /// From a claim to the IPAddress that its status names, if that has another name.
    refers_to: HashMap<ObjectKey, ObjectKey>,
    /// And back.
    referred_by: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// From an IPAddress to the claim that it names, if that has another name.
    claim_of: HashMap<ObjectKey, ObjectKey>,
    /// And back.
    addresses_of: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl ClaimIndex {
    /// A claim exists, and its status names this IPAddress. Returns the IPAddresses that this is news for.
    pub fn put_claim(&mut self, key: &ObjectKey, address: Option<&str>) -> BTreeSet<ObjectKey> {
        let mut concerned = BTreeSet::new();
        if self.claims.insert(key.clone()) {
            concerned = self.named_by(key);
        }
        let other = address.filter(|name| **name != *key.name).map(|name| ObjectKey::new(&key.namespace, name));
        concerned.extend(relate(&mut self.refers_to, &mut self.referred_by, key, other));
        concerned
    }

    /// A claim does not exist any more.
    pub fn drop_claim(&mut self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let mut concerned = BTreeSet::new();
        if self.claims.remove(key) {
            concerned = self.named_by(key);
        }
        concerned.extend(relate(&mut self.refers_to, &mut self.referred_by, key, None));
        concerned
    }

    /// All claims but these are gone.
    pub fn others_than(&self, listed: &BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
        self.claims.iter().filter(|key| !listed.contains(*key)).cloned().collect()
    }

    /// An IPAddress refers to this claim.
    pub fn put_address(&mut self, address: &Address) {
        let other = (*address.claim_name != *address.key.name).then(|| claim_of(address));
        relate(&mut self.claim_of, &mut self.addresses_of, &address.key, other);
    }

    /// It is gone.
    pub fn drop_address(&mut self, key: &ObjectKey) {
        relate(&mut self.claim_of, &mut self.addresses_of, key, None);
    }

    /// Whether a claim is seen that this IPAddress may be of.
    pub fn is_claimed(&self, address: &Address) -> bool {
        self.claims.contains(&address.key)
            || self.claims.contains(&claim_of(address))
            || self.referred_by.contains_key(&address.key)
    }

    fn named_by(&self, claim: &ObjectKey) -> BTreeSet<ObjectKey> {
        self.addresses_of.get(claim).into_iter().flatten().chain([claim]).cloned().collect()
    }
}

fn claim_of(address: &Address) -> ObjectKey {
    ObjectKey::new(&address.key.namespace, &address.claim_name)
}

/// Notes what `from` refers to now, and back. Returns what it referred to and what it refers to, if that changed.
fn relate(
    there: &mut HashMap<ObjectKey, ObjectKey>,
    back: &mut HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    from: &ObjectKey,
    to: Option<ObjectKey>,
) -> Vec<ObjectKey> {
    let before = match &to {
        Some(to) => there.insert(from.clone(), to.clone()),
        None => there.remove(from),
    };
    if before == to {
        return Vec::new();
    }
    if let Some(before) = &before
        && let Some(all) = back.get_mut(before)
    {
        all.remove(from);
        if all.is_empty() {
            back.remove(before);
        }
    }
    if let Some(to) = &to {
        back.entry(to.clone()).or_default().insert(from.clone());
    }
    before.into_iter().chain(to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::key::Version;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn address(name: &str, claim: &str) -> Address {
        Address {
            key: key(name),
            uid: "".into(),
            version: Version(1),
            deleting: false,
            moving: false,
            finalizers: Vec::new(),
            pool: None,
            claim_name: claim.to_owned(),
            held: Err(String::new()),
            owners: Vec::new(),
            cluster_label: None,
        }
    }

    #[test]
    fn an_address_is_claimed_by_the_claim_that_it_names_and_by_whoever_refers_to_it() {
        let mut index = ClaimIndex::default();
        let same = address("a", "a");
        let other = address("b", "c");
        for address in [&same, &other] {
            index.put_address(address);
            assert!(!index.is_claimed(address));
        }
        assert_eq!(index.put_claim(&key("a"), None), BTreeSet::from([key("a")]));
        assert!(index.is_claimed(&same));
        assert_eq!(index.put_claim(&key("a"), Some("a")), BTreeSet::new(), "no news");
        assert_eq!(index.put_claim(&key("c"), None), BTreeSet::from([key("b"), key("c")]));
        assert!(index.is_claimed(&other));
        index.drop_claim(&key("c"));
        assert!(!index.is_claimed(&other));
        // By the status of a claim of another name.
        assert_eq!(index.put_claim(&key("d"), Some("b")), BTreeSet::from([key("d"), key("b")]));
        assert!(index.is_claimed(&other));
        assert_eq!(index.put_claim(&key("d"), Some("e")), BTreeSet::from([key("b"), key("e")]));
        assert!(!index.is_claimed(&other));
        // By its own name.
        index.put_claim(&key("b"), None);
        assert!(index.is_claimed(&other));
    }

    #[test]
    fn nothing_is_left_in_the_index_of_what_is_gone() {
        let mut index = ClaimIndex::default();
        index.put_address(&address("b", "c"));
        index.put_claim(&key("c"), Some("x"));
        index.put_claim(&key("d"), Some("b"));
        for claim in ["c", "d"] {
            index.drop_claim(&key(claim));
        }
        index.drop_address(&key("b"));
        let ClaimIndex { claims, refers_to, referred_by, claim_of, addresses_of } = index;
        assert!(claims.is_empty() && refers_to.is_empty() && referred_by.is_empty());
        assert!(claim_of.is_empty() && addresses_of.is_empty());
    }
}
