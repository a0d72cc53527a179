//! A duty of the elected leader: to delete Leases that nobody needs any more.
//!
//! Two leaders for a moment do no harm: a Lease is deleted in exactly the version that was seen unchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::api::lease::{RING_LABEL, label, read};
use crate::pool::key::Boot;

/// How long a member is silent, or a ring without members, before its Leases go.
const ABANDONED: Duration = Duration::from_hours(1);
/// Between two sweeps.
const EVERY: Duration = Duration::from_mins(1);
/// Deletions in one sweep: a ring of the usual size at once.
const AT_ONCE: usize = 64;

/// A Lease that may be deleted if it is this copy still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abandoned {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) version: u64,
}

struct Known {
    ring: String,
    is_member: bool,
    uid: String,
    version: u64,
    /// When it was first seen as it is.
    seen: Boot,
}

/// All Leases of ours, of whatever ring.
#[derive(Default)]
pub(super) struct Sweep {
    leases: BTreeMap<String, Known>,
    /// When each ring was last seen with a member Lease, or first seen at all.
    rings: BTreeMap<String, Boot>,
    next: Boot,
}

impl Sweep {
    pub(super) fn note(&mut self, lease: &Lease, now: Boot) {
        let (Some(name), Some(ring)) = (&lease.metadata.name, label(lease, RING_LABEL)) else { return };
        let seen = read(lease);
        let is_member = name.contains(&format!("-{ring}-member-"));
        let unchanged = self.leases.get(name).filter(|known| known.version == seen.version);
        let since = unchanged.map_or(now, |known| known.seen);
        let known = Known { ring: ring.to_owned(), is_member, uid: seen.uid, version: seen.version, seen: since };
        self.leases.insert(name.clone(), known);
        let last = self.rings.entry(ring.to_owned()).or_insert(now);
        if is_member {
            *last = now;
        }
    }

    pub(super) fn forget(&mut self, lease: &Lease, now: Boot) {
        let gone = lease.metadata.name.as_ref().and_then(|name| self.leases.remove(name));
        if let Some(member) = gone.filter(|known| known.is_member) {
            self.rings.insert(member.ring, now);
        }
    }

    pub(super) fn replace(&mut self, leases: &[Lease], now: Boot) {
        let names: Vec<&String> = leases.iter().filter_map(|lease| lease.metadata.name.as_ref()).collect();
        self.leases.retain(|name, _| names.contains(&name));
        for lease in leases {
            self.note(lease, now);
        }
    }

    /// What to delete now, if it is time for a sweep.
    pub(super) fn abandoned(&mut self, now: Boot) -> Vec<Abandoned> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now + EVERY;
        for known in self.leases.values().filter(|known| known.is_member) {
            self.rings.insert(known.ring.clone(), now);
        }
        self.rings.retain(|ring, _| self.leases.values().any(|known| known.ring == *ring));
        let is_over = |since: Boot| now.saturating_sub(since) >= ABANDONED;
        let is_abandoned = |known: &Known| {
            let last = if known.is_member { Some(&known.seen) } else { self.rings.get(&known.ring) };
            last.is_some_and(|last| is_over(*last))
        };
        let abandoned = self.leases.iter().filter(|(_, known)| is_abandoned(known)).take(AT_ONCE);
        abandoned
            .map(|(name, known)| Abandoned { name: name.clone(), uid: known.uid.clone(), version: known.version })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn lease(ring: &str, rest: &str, version: u64) -> Lease {
        serde_json::from_value(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": format!("capi-ipam-{ring}-{rest}"), "uid": rest, "resourceVersion": version.to_string(),
                "labels": {RING_LABEL: ring},
            },
        }))
        .expect("a Lease")
    }

    fn names(abandoned: Vec<Abandoned>) -> Vec<String> {
        abandoned.into_iter().map(|abandoned| abandoned.name).collect()
    }

    #[test]
    fn a_member_that_was_silent_for_an_hour_is_forgotten() {
        let mut sweep = Sweep::default();
        sweep.note(&lease("r", "member-dead", 1), MINUTE);
        for minute in 1..=60 {
            sweep.note(&lease("r", "member-live", 100 + u64::from(minute)), minute * MINUTE);
            assert_eq!(sweep.abandoned(minute * MINUTE), []);
        }
        sweep.note(&lease("r", "member-dead", 1), 61 * MINUTE);
        sweep.note(&lease("r", "member-live", 200), 61 * MINUTE);
        sweep.note(&lease("r", "shard-00", 3), 61 * MINUTE);
        assert_eq!(names(sweep.abandoned(61 * MINUTE)), ["capi-ipam-r-member-dead"]);
        assert_eq!(sweep.abandoned(61 * MINUTE), [], "not again at once");
    }

    #[test]
    fn the_shards_of_a_ring_go_an_hour_after_its_last_member() {
        let mut sweep = Sweep::default();
        let member = lease("old", "member-m", 1);
        sweep.note(&member, MINUTE);
        sweep.note(&lease("old", "shard-00", 2), MINUTE);
        assert_eq!(sweep.abandoned(10 * MINUTE), []);
        sweep.forget(&member, 12 * MINUTE);
        for minute in 13..72 {
            assert_eq!(sweep.abandoned(minute * MINUTE), []);
        }
        assert_eq!(names(sweep.abandoned(72 * MINUTE)), ["capi-ipam-old-shard-00"]);
        sweep.replace(&[], 73 * MINUTE);
        assert_eq!(sweep.abandoned(80 * MINUTE), []);
    }

    #[test]
    fn leases_of_others_are_left_alone() {
        let mut sweep = Sweep::default();
        let mut other = lease("r", "member-m", 1);
        other.metadata.labels = None;
        sweep.note(&other, MINUTE);
        assert_eq!(sweep.abandoned(1000 * MINUTE), []);
    }
}
