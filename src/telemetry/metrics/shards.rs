//! How the replicas share the work.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How things stand for this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shards {
    /// Members that count as alive, this one included.
    pub members: i64,
    /// Shards whose Lease this replica holds.
    pub held: i64,
    /// Shards that it works on.
    pub working: i64,
    /// Shards that nobody alive holds.
    pub orphaned: i64,
    /// Whether it holds the leader Lease.
    pub leads: bool,
}

/// The gauges.
pub(super) struct Gauges {
    members: Gauge,
    held: Gauge,
    working: Gauge,
    orphaned: Gauge,
    leads: Gauge,
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            members: gauge("members", "Replicas that count as alive, as this one sees it"),
            held: gauge("shards_held", "Shards whose Lease this replica holds"),
            working: gauge("shards_working", "Shards that this replica works on"),
            orphaned: gauge("shards_orphaned", "Shards that no live replica holds, as this one sees it"),
            leads: gauge("leader", "Whether this replica holds the leader Lease"),
        }
    }

    pub(super) fn set(&self, shards: Shards) {
        let Shards { members, held, working, orphaned, leads } = shards;
        self.members.set(members);
        self.held.set(held);
        self.working.set(working);
        self.orphaned.set(orphaned);
        self.leads.set(i64::from(leads));
    }
}
