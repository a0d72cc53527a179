//! Other rings that serve the same claims with another number of shards: the one with the oldest member goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use crate::api::lease::{RING_LABEL, SERVES_LABEL, label, read};
use crate::k8s::leases::Ring;
use crate::pool::key::Boot;

/// A member that does not delete its Lease counts for this long after its last sign of life: longer than a watch of ours
/// can be blind without being noticed. Replicas that end in order delete theirs.
const SILENT: Duration = Duration::from_secs(90);

/// A member of a ring, by its Lease.
struct Member {
    ring: String,
    created: Timestamp,
    version: u64,
    duration: Duration,
    /// When it was first seen as it is.
    seen: Boot,
}

/// The members of all rings that serve what we serve.
pub(super) struct OtherRings {
    mine: String,
    serves: String,
    members: BTreeMap<String, Member>,
    told: bool,
}

impl OtherRings {
    pub(super) fn new(ring: &Ring) -> Self {
        Self { mine: ring.name.clone(), serves: ring.serves.clone(), members: BTreeMap::new(), told: false }
    }

    pub(super) fn note(&mut self, lease: &Lease, now: Boot) {
        let Some((name, ring)) = self.read(lease) else { return };
        let seen = read(lease);
        let created = lease.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        let known = self.members.get(&name).filter(|known| known.version == seen.version);
        let member = Member {
            ring,
            created,
            version: seen.version,
            duration: seen.duration,
            seen: known.map_or(now, |known| known.seen),
        };
        self.members.insert(name, member);
    }

    pub(super) fn forget(&mut self, lease: &Lease) {
        if let Some(name) = &lease.metadata.name {
            self.members.remove(name);
        }
    }

    pub(super) fn replace(&mut self, leases: &[Lease], now: Boot) {
        let names: Vec<&String> = leases.iter().filter_map(|lease| lease.metadata.name.as_ref()).collect();
        self.members.retain(|name, _| names.contains(&name));
        for lease in leases {
            self.note(lease, now);
        }
    }

    /// Whether another ring goes first, if that is news.
    pub(super) fn change(&mut self, now: Boot) -> Option<bool> {
        let alive = |member: &&Member| now.saturating_sub(member.seen) <= (member.duration * 11 / 10).max(SILENT);
        let first = self.members.values().filter(alive).min_by_key(|member| (member.created, &member.ring));
        let is_other = first.is_some_and(|first| first.ring != self.mine);
        (std::mem::replace(&mut self.told, is_other) != is_other).then_some(is_other)
    }

    /// The name and the ring of a member Lease of a ring that serves what we serve.
    fn read(&self, lease: &Lease) -> Option<(String, String)> {
        let (name, ring) = (lease.metadata.name.as_ref()?, label(lease, RING_LABEL)?);
        let is_member = name.contains(&format!("-{ring}-member-"));
        (is_member && label(lease, SERVES_LABEL) == Some(&self.serves)).then(|| (name.clone(), ring.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shard::lease::LeaseNames;

    fn rings() -> OtherRings {
        let names = LeaseNames::new("mine", 64);
        OtherRings::new(&Ring { namespace: "ns".into(), names, name: "mine".into(), serves: "all".into() })
    }

    fn member(ring: &str, name: &str, serves: &str, created: &str, version: u64) -> Lease {
        serde_json::from_value(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": format!("capi-ipam-{ring}-member-{name}"), "resourceVersion": version.to_string(),
                "creationTimestamp": format!("2026-11-22T10:00:{created}Z"),
                "labels": {RING_LABEL: ring, SERVES_LABEL: serves},
            },
            "spec": {"leaseDurationSeconds": 10},
        }))
        .expect("a Lease")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_ring_with_the_oldest_live_member_goes_first() {
        let mut rings = rings();
        rings.note(&member("mine", "b", "all", "05", 7), 100 * SECOND);
        assert_eq!(rings.change(100 * SECOND), None, "alone");
        rings.note(&member("else", "a", "all", "01", 8), 101 * SECOND);
        assert_eq!(rings.change(101 * SECOND), Some(true));
        assert_eq!(rings.change(102 * SECOND), None, "no news");
        // Ours goes on living, the other one falls silent.
        rings.note(&member("mine", "b", "all", "05", 9), 190 * SECOND);
        rings.note(&member("else", "a", "all", "01", 8), 190 * SECOND);
        assert_eq!(rings.change(191 * SECOND), None);
        assert_eq!(rings.change(192 * SECOND), Some(false));
    }

    #[test]
    fn rings_that_serve_other_claims_and_shards_do_not_count() {
        let mut rings = rings();
        rings.note(&member("else", "a", "some", "01", 8), SECOND);
        let mut shard = member("else", "a", "all", "01", 9);
        shard.metadata.name = Some("capi-ipam-else-shard-07".into());
        rings.note(&shard, SECOND);
        assert_eq!(rings.change(SECOND), None);
    }

    #[test]
    fn a_ring_whose_members_are_gone_does_not_count() {
        let mut rings = rings();
        let other = member("else", "a", "all", "01", 8);
        rings.note(&other, SECOND);
        assert_eq!(rings.change(SECOND), Some(true));
        rings.forget(&other);
        assert_eq!(rings.change(SECOND), Some(false));
        rings.note(&other, SECOND);
        assert_eq!(rings.change(SECOND), Some(true));
        rings.replace(&[], SECOND);
        assert_eq!(rings.change(SECOND), Some(false));
    }
}
