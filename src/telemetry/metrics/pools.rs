//! The series of each pool, kept as values and written at each scrape.
//!
//! At most [`MAX_POOLS`] pools have series of their own. The others are summed, per kind, under the name and namespace
//! `_other`, which no pool can have. Nothing is lost in the sum, and it follows every change, because it is made anew at
//! each scrape. A pool that has its own series keeps them; when one goes, another takes its place.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Pools with series of their own: with 4 states and some reasons each, about 10,000 series, what one target should have
/// at most.
pub(super) const MAX_POOLS: usize = 1000;

/// Name and namespace of the sum of all other pools.
const OTHER: &str = "_other";

/// Which pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLabels<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; empty for a Global pool.
    pub namespace: &'a str,
    /// Its name.
    pub pool: &'a str,
}

/// How many addresses or prefixes a pool has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allocatable ones.
    pub total: u128,
    /// Those of them that nobody has.
    pub free: u128,
    /// Objects of the pool.
    pub used: u64,
    /// Objects whose address is not allocatable.
    pub out_of_range: u64,
}

/// The labels of one pool, ordered so that a scrape is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: &'static str,
    namespace: String,
    pool: String,
}

#[derive(Debug, Clone, Default)]
struct Values {
    /// As numbers of Prometheus: the sum of two whole IPv6 spaces does not fit `u128`.
    counts: Option<[f64; 4]>,
    pending_intents: Option<f64>,
    orphaned: Option<f64>,
    duplicates: Option<f64>,
    waiting: BTreeMap<&'static str, f64>,
    has_series: bool,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<Key, Values>,
    with_series: usize,
}

/// All pools of this replica.
#[derive(Debug, Default)]
pub(super) struct Pools(Mutex<State>);

/// One number for each pool: name, help, value.
type Gauge = (&'static str, &'static str, fn(&Values) -> Option<f64>);

const GAUGES: [Gauge; 3] = [
    ("pool_pending_intents", "Intents in the record of a pool that no address has settled yet.", |values| {
        values.pending_intents
    }),
    ("pool_orphaned_addresses", "IPAddress objects of a pool whose claim does not exist.", |values| values.orphaned),
    ("pool_duplicate_addresses", "IPAddress objects of a pool that hold what another one holds.", |values| {
        values.duplicates
    }),
];

const STATES: [&str; 4] = ["total", "free", "used", "out_of_range"];

impl Pools {
    pub(super) fn set_counts(&self, pool: PoolLabels<'_>, counts: Counts) {
        let Counts { total, free, used, out_of_range } = counts;
        let counts = [number(total), number(free), number(used.into()), number(out_of_range.into())];
        self.state().change(pool, |values| values.counts = Some(counts));
    }

    pub(super) fn set_pending_intents(&self, pool: PoolLabels<'_>, intents: u64) {
        self.state().change(pool, |values| values.pending_intents = Some(number(intents.into())));
    }

    pub(super) fn set_orphaned(&self, pool: PoolLabels<'_>, addresses: u64) {
        self.state().change(pool, |values| values.orphaned = Some(number(addresses.into())));
    }

    pub(super) fn set_duplicates(&self, pool: PoolLabels<'_>, addresses: u64) {
        self.state().change(pool, |values| values.duplicates = Some(number(addresses.into())));
    }

    pub(super) fn set_waiting(&self, pool: PoolLabels<'_>, waiting: &[(&'static str, u64)]) {
        let waiting = waiting.iter().map(|(reason, claims)| (*reason, number((*claims).into()))).collect();
        self.state().change(pool, |values| values.waiting = waiting);
    }

    pub(super) fn remove(&self, pool: PoolLabels<'_>) {
        self.state().remove(pool);
    }

    /// A panic elsewhere leaves numbers that are still worth showing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn change(&mut self, pool: PoolLabels<'_>, change: impl FnOnce(&mut Values)) {
        let values = self.pools.entry(Key::from(pool)).or_insert_with(|| {
            let has_series = self.with_series < MAX_POOLS;
            self.with_series += usize::from(has_series);
            Values { has_series, ..Values::default() }
        });
        change(values);
    }

    fn remove(&mut self, pool: PoolLabels<'_>) {
        let Some(removed) = self.pools.remove(&Key::from(pool)) else { return };
        if !removed.has_series {
            return;
        }
        match self.pools.values_mut().find(|values| !values.has_series) {
            Some(next) => next.has_series = true,
            None => self.with_series -= 1,
        }
    }

    /// What is shown: pools with series as they are, then the sums of the others.
    fn shown(&self) -> BTreeMap<Key, Values> {
        let mut shown = BTreeMap::new();
        for (key, values) in &self.pools {
            if values.has_series {
                shown.insert(key.clone(), values.clone());
            } else {
                let other = Key { kind: key.kind, namespace: OTHER.to_owned(), pool: OTHER.to_owned() };
                shown.entry(other).or_insert_with(Values::default).add(values);
            }
        }
        shown
    }
}

impl Values {
    fn add(&mut self, other: &Self) {
        if let Some(counts) = other.counts {
            for (sum, count) in self.counts.get_or_insert_default().iter_mut().zip(counts) {
                *sum += count;
            }
        }
        let sums = [
            (&mut self.pending_intents, other.pending_intents),
            (&mut self.orphaned, other.orphaned),
            (&mut self.duplicates, other.duplicates),
        ];
        for (sum, value) in sums {
            if let Some(value) = value {
                *sum.get_or_insert_default() += value;
            }
        }
        for (reason, claims) in &other.waiting {
            *self.waiting.entry(reason).or_default() += claims;
        }
    }
}

impl Key {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("kind", self.kind), ("namespace", &self.namespace), ("pool", &self.pool)]
    }
}

impl From<PoolLabels<'_>> for Key {
    fn from(PoolLabels { kind, namespace, pool }: PoolLabels<'_>) -> Self {
        Self { kind, namespace: namespace.to_owned(), pool: pool.to_owned() }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of Prometheus is a double")]
fn number(count: u128) -> f64 {
    count as f64
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        // Copied, so that a slow scrape does not hold up the pools.
        let shown = self.state().shown();

        let help = "Addresses or prefixes of a pool: total, free, used and out of range.";
        let mut family = encoder.encode_descriptor("pool_addresses", help, None, MetricType::Gauge)?;
        for (key, values) in &shown {
            for (state, count) in STATES.into_iter().zip(values.counts.into_iter().flatten()) {
                let [kind, namespace, pool] = key.labels();
                let labels = [kind, namespace, pool, ("state", state)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }

        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (key, values) in &shown {
                if let Some(value) = value(values) {
                    ConstGauge::new(value).encode(family.encode_family(&key.labels())?)?;
                }
            }
        }

        let help = "Claims of a pool that wait, by what they wait for.";
        let mut family = encoder.encode_descriptor("waiting_claims", help, None, MetricType::Gauge)?;
        for (key, values) in &shown {
            for (reason, claims) in &values.waiting {
                let [kind, namespace, pool] = key.labels();
                let labels = [kind, namespace, pool, ("reason", *reason)];
                ConstGauge::new(*claims).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
