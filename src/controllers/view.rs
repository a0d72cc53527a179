//! All objects that concern us, by name and by pool: the full view that every replica has.
//!
//! Values only: events of the watches in, inputs for the machines out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::clusters::Clusters;
use super::grouped::Grouped;
use super::unclaimed::ClaimIndex;
use crate::api::capi::{CapiVersion, Cluster, IPAddress, IPAddressClaim};
use crate::api::names::{PoolKind, WATCH_FILTER_LABEL};
use crate::api::pools::PoolObject;
use crate::k8s::observe::{self, PoolReader};
use crate::k8s::watch::Event;
use crate::pool::claim::Hidden;
use crate::pool::key::{Boot, ObjectKey, PoolKey, Version};
use crate::pool::machine::Input;
use crate::pool::object::{Address, Claim, ClusterState, PoolView};

/// Which claims this installation serves (C15, C16).
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only claims of this namespace.
    pub namespace: Option<String>,
    /// Only claims whose watch-filter label has this value.
    pub watch_filter: Option<String>,
}

impl Filter {
    /// Whether claims of this namespace may be ours to serve.
    fn serves_in(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }

    fn serves(&self, metadata: &ObjectMeta) -> bool {
        let label = || metadata.labels.as_ref().and_then(|labels| labels.get(WATCH_FILTER_LABEL));
        (self.namespace.is_none() || self.namespace == metadata.namespace)
            && self.watch_filter.as_ref().is_none_or(|wanted| label() == Some(wanted))
    }
}

/// What a watch told.
#[derive(Debug)]
pub enum Change {
    /// Of pools of a kind.
    Pools(PoolKind, Event<PoolObject>),
    /// Of claims.
    Claims(Event<IPAddressClaim>),
    /// Of addresses.
    Addresses(Event<IPAddress>),
    /// Of clusters.
    Clusters(Event<Cluster>),
}

/// An input for the machine of a pool.
pub type Delivery = (PoolKey, Input);

struct KnownPool {
    reader: PoolReader,
    view: PoolView,
    /// When this copy came.
    received: Boot,
}

struct KnownClaim {
    claim: Arc<Claim>,
    cluster: Option<ObjectKey>,
}

/// The view.
pub struct View {
    filter: Filter,
    api: CapiVersion,
    pools: BTreeMap<PoolKey, KnownPool>,
    claims: HashMap<ObjectKey, KnownClaim>,
    addresses: HashMap<ObjectKey, Arc<Address>>,
    clusters: Clusters,
    /// C16: kinds of pools, and addresses of other namespaces, that this installation has no right to see.
    hidden_pools: BTreeSet<PoolKind>,
    hides_foreign_addresses: bool,
    hides_all_addresses: bool,
    claims_of_pool: Grouped<PoolKey>,
    addresses_of_pool: Grouped<PoolKey, Arc<Address>>,
    claims_of_cluster: Grouped<ObjectKey>,
    all_claims: ClaimIndex,
    /// IPAddresses that no claim is seen for, with the state of their clusters (C14).
    unclaimed: BTreeMap<ObjectKey, ClusterState>,
    /// When the last complete list of addresses began, and its version (F3).
    address_list: Option<(Boot, Version)>,
    /// How far the watch of addresses has come.
    address_version: Version,
}

impl View {
    /// An empty view.
    pub fn new(filter: Filter, api: CapiVersion) -> Self {
        Self {
            filter,
            api,
            pools: BTreeMap::new(),
            claims: HashMap::new(),
            addresses: HashMap::new(),
            clusters: Clusters::None,
            hidden_pools: BTreeSet::new(),
            hides_foreign_addresses: false,
            hides_all_addresses: false,
            claims_of_pool: Grouped::default(),
            addresses_of_pool: Grouped::default(),
            claims_of_cluster: Grouped::default(),
            all_claims: ClaimIndex::default(),
            unclaimed: BTreeMap::new(),
            address_list: None,
            address_version: Version(0),
        }
    }

    /// How far the watch of addresses has come.
    pub fn address_version(&self) -> Version {
        self.address_version
    }

    /// Whether only one namespace is served (C16).
    pub fn is_of_one_namespace(&self) -> bool {
        self.filter.namespace.is_some()
    }

    /// Takes in a change and says which machines must hear what.
    pub fn apply(&mut self, change: Change, now: Boot) -> Vec<Delivery> {
        match change {
            Change::Pools(kind, event) => self.apply_pools(kind, event, now),
            Change::Claims(event) => self.apply_claims(event),
            Change::Addresses(event) => self.apply_addresses(event),
            Change::Clusters(event) => self.apply_clusters(event),
        }
    }

    /// The pool's newest copy.
    pub fn pool(&self, key: &PoolKey) -> Option<&PoolView> {
        self.pools.get(key).map(|known| &known.view)
    }

    /// The pools that something names or that exist: each needs a machine.
    pub fn pools(&self) -> BTreeSet<PoolKey> {
        let named = self.claims_of_pool.groups().chain(self.addresses_of_pool.groups());
        self.pools.keys().chain(named).cloned().collect()
    }

    /// All pools.
    pub fn known_pools(&self) -> impl Iterator<Item = (&PoolKey, &PoolView)> {
        self.pools.iter().map(|(key, known)| (key, &known.view))
    }

    /// The addresses of a pool.
    pub fn addresses_of(&self, pool: &PoolKey) -> impl Iterator<Item = &Arc<Address>> {
        self.addresses_of_pool.of(pool).map(|(_, address)| address)
    }

    /// Everything that a new machine of this pool must know.
    pub fn inputs_for(&self, pool: &PoolKey) -> Vec<Input> {
        let mut inputs = vec![Input::Closed(self.hidden(pool)), self.pool_input(pool)];
        let claims: Vec<&ObjectKey> = self.claims_of_pool.names_of(pool).collect();
        let addresses: BTreeSet<&ObjectKey> =
            self.addresses_of_pool.names_of(pool).chain(claims.iter().copied()).collect();
        inputs.extend(addresses.into_iter().filter_map(|key| {
            let address = self.addresses.get(key)?;
            Some(Input::Address(key.clone(), Some(address.clone()), address.version))
        }));
        let claim = |key: &ObjectKey| Input::Claim(key.clone(), self.claims.get(key).map(|known| known.claim.clone()));
        inputs.extend(claims.into_iter().map(claim));
        let unclaimed = |key: &ObjectKey| Some(Input::Unclaimed(key.clone(), Some(*self.unclaimed.get(key)?)));
        inputs.extend(self.addresses_of_pool.names_of(pool).filter_map(unclaimed));
        inputs.push(Input::Store(self.address_version));
        inputs
    }

    /// C16: what cannot be seen of what this pool needs.
    fn hidden(&self, pool: &PoolKey) -> Option<Hidden> {
        let pools = self.hidden_pools.contains(&pool.kind).then_some(Hidden::Pools);
        pools.or(self.hides_addresses_of(pool).then_some(Hidden::Addresses))
    }

    /// C16: whether there may be IPAddresses of the pool that this installation has no right to see.
    pub fn hides_addresses_of(&self, pool: &PoolKey) -> bool {
        let is_elsewhere = self.filter.namespace.as_deref() != Some(&*pool.namespace);
        self.hides_all_addresses || (self.hides_foreign_addresses && is_elsewhere)
    }

    fn tell_hidden(&self, concerns: impl Fn(PoolKind) -> bool) -> Vec<Delivery> {
        let pools = self.pools().into_iter().filter(|pool| concerns(pool.kind));
        pools.map(|pool| (pool.clone(), Input::Closed(self.hidden(&pool)))).collect()
    }

    fn pool_input(&self, key: &PoolKey) -> Input {
        let known = self.pools.get(key);
        let listed_after = |known: &KnownPool| self.address_list.filter(|(began, _)| *began >= known.received);
        Input::Pool {
            view: known.map(|known| Box::new(known.view.clone())),
            covered: known.and_then(listed_after).map(|(_, version)| version),
        }
    }

    fn apply_pools(&mut self, kind: PoolKind, event: Event<PoolObject>, now: Boot) -> Vec<Delivery> {
        match event {
            Event::Applied(object) => self.put_pool(kind, &object, now).into_iter().collect(),
            Event::Deleted(object) => {
                observe::pool_key(kind, &object.metadata).map(|key| self.drop_pool(key)).into_iter().collect()
            }
            Event::Listed { items, .. } => {
                let was_hidden = self.hidden_pools.remove(&kind);
                let listed: BTreeSet<PoolKey> =
                    items.iter().filter_map(|item| observe::pool_key(kind, &item.metadata)).collect();
                let gone: Vec<PoolKey> =
                    self.pools.keys().filter(|key| key.kind == kind && !listed.contains(*key)).cloned().collect();
                let mut deliveries: Vec<Delivery> = gone.into_iter().map(|key| self.drop_pool(key)).collect();
                deliveries.extend(items.iter().filter_map(|object| self.put_pool(kind, object, now)));
                if was_hidden {
                    deliveries.extend(self.tell_hidden(|it| it == kind));
                }
                deliveries
            }
            Event::Forbidden(_) if self.hidden_pools.insert(kind) => self.tell_hidden(|it| it == kind),
            Event::Progress(_) | Event::Missing | Event::Failed(_) | Event::Forbidden(_) | Event::Narrowed(_) => {
                Vec::new()
            }
        }
    }

    fn put_pool(&mut self, kind: PoolKind, object: &PoolObject, now: Boot) -> Option<Delivery> {
        let key = observe::pool_key(kind, &object.metadata)?;
        let mut reader = self.pools.remove(&key).map(|known| known.reader).unwrap_or_default();
        let view = reader.read(kind, object);
        self.pools.insert(key.clone(), KnownPool { reader, view, received: now });
        let input = self.pool_input(&key);
        Some((key, input))
    }

    fn drop_pool(&mut self, key: PoolKey) -> Delivery {
        self.pools.remove(&key);
        (key, Input::Pool { view: None, covered: None })
    }

    fn apply_claims(&mut self, event: Event<IPAddressClaim>) -> Vec<Delivery> {
        let mut out = Vec::new();
        match event {
            Event::Applied(object) => self.put_claim(&object, &mut out),
            Event::Deleted(object) => {
                if let Some(key) = observe::key(&object.metadata) {
                    self.lose_claim(&key, &mut out);
                }
            }
            Event::Listed { items, .. } => {
                let listed: BTreeSet<ObjectKey> =
                    items.iter().filter_map(|item| observe::key(&item.metadata)).collect();
                for key in self.all_claims.others_than(&listed) {
                    self.lose_claim(&key, &mut out);
                }
                for object in &items {
                    self.put_claim(object, &mut out);
                }
            }
            Event::Progress(_) | Event::Missing | Event::Failed(_) | Event::Forbidden(_) | Event::Narrowed(_) => {}
        }
        out
    }

    fn put_claim(&mut self, object: &IPAddressClaim, out: &mut Vec<Delivery>) {
        let Some(key) = observe::key(&object.metadata) else { return };
        let concerned = self.all_claims.put_claim(&key, object.address_name());
        self.refresh_unclaimed(concerned, out);
        let cluster = object.cluster_name().map(|name| ObjectKey::new(&key.namespace, name));
        let state = self.cluster_state(cluster.as_ref());
        let served = self.filter.serves(&object.metadata);
        let Some(claim) = observe::claim(object, self.api, state).filter(|_| served) else {
            // It is not (any more) one that we serve.
            return self.drop_claim(&key, out);
        };
        let pool = claim.pool.clone();
        if self.claims.get(&key).is_some_and(|known| known.claim.pool != pool || known.cluster != cluster) {
            self.drop_claim(&key, out);
        }
        let first = !self.claims.contains_key(&key);
        if first {
            self.claims_of_pool.put(pool.clone(), key.clone(), ());
            if let Some(cluster) = &cluster {
                self.claims_of_cluster.put(cluster.clone(), key.clone(), ());
            }
            // An address of this name that is from another pool: the machine has not heard of it (B3).
            if let Some(address) = self.addresses.get(&key).filter(|address| address.pool.as_ref() != Some(&pool)) {
                let input = Input::Address(key.clone(), Some(address.clone()), address.version);
                out.push((pool.clone(), input));
            }
        }
        let claim = Arc::new(claim);
        self.claims.insert(key.clone(), KnownClaim { claim: claim.clone(), cluster });
        out.push((pool, Input::Claim(key, Some(claim))));
    }

    /// A claim does not exist any more.
    fn lose_claim(&mut self, key: &ObjectKey, out: &mut Vec<Delivery>) {
        self.drop_claim(key, out);
        let concerned = self.all_claims.drop_claim(key);
        self.refresh_unclaimed(concerned, out);
    }

    /// Finds out which of these IPAddresses no claim is seen for, and tells their pools what changed.
    fn refresh_unclaimed(&mut self, addresses: impl IntoIterator<Item = ObjectKey>, out: &mut Vec<Delivery>) {
        for key in addresses {
            let Some(address) = self.addresses.get(&key).cloned() else { continue };
            let is_ours = self.filter.serves_in(&key.namespace) && !self.all_claims.is_claimed(&address);
            let state = is_ours.then(|| {
                let cluster = address.cluster_label.as_deref().filter(|name| !name.is_empty());
                self.cluster_state(cluster.map(|name| ObjectKey::new(&key.namespace, name)).as_ref())
            });
            let before = match state {
                Some(state) => self.unclaimed.insert(key.clone(), state),
                None => self.unclaimed.remove(&key),
            };
            if let Some(pool) = address.pool.clone().filter(|_| before != state) {
                out.push((pool, Input::Unclaimed(key, state)));
            }
        }
    }

    fn drop_claim(&mut self, key: &ObjectKey, out: &mut Vec<Delivery>) {
        let Some(KnownClaim { claim, cluster }) = self.claims.remove(key) else { return };
        self.claims_of_pool.remove(&claim.pool, key);
        if let Some(cluster) = cluster {
            self.claims_of_cluster.remove(&cluster, key);
        }
        out.push((claim.pool.clone(), Input::Claim(key.clone(), None)));
    }

    fn cluster_state(&self, cluster: Option<&ObjectKey>) -> ClusterState {
        match (&self.clusters, cluster) {
            (Clusters::None, _) | (_, None) => ClusterState::None,
            // Whether it is paused is not known, so it counts as that.
            (Clusters::Hidden, Some(_)) => ClusterState::Paused,
            (Clusters::Known(known), Some(cluster)) => match known.get(cluster) {
                None => ClusterState::Missing,
                Some(true) => ClusterState::Paused,
                Some(false) => ClusterState::Active,
            },
        }
    }

    fn apply_clusters(&mut self, event: Event<Cluster>) -> Vec<Delivery> {
        let changed: BTreeSet<ObjectKey> = match event {
            Event::Applied(object) => {
                let Some(key) = observe::key(&object.metadata) else { return Vec::new() };
                let before = self.clusters.insert(key.clone(), object.is_paused());
                if before == Some(object.is_paused()) {
                    return Vec::new();
                }
                [key].into()
            }
            Event::Deleted(object) => {
                let Some(key) = observe::key(&object.metadata) else { return Vec::new() };
                self.clusters.remove(&key);
                [key].into()
            }
            Event::Listed { items, .. } => {
                let paused = |item: &Cluster| Some((observe::key(&item.metadata)?, item.is_paused()));
                self.clusters = Clusters::Known(items.iter().filter_map(paused).collect());
                self.claims_of_cluster.groups().cloned().collect()
            }
            Event::Missing => {
                self.clusters = Clusters::None;
                self.claims_of_cluster.groups().cloned().collect()
            }
            Event::Forbidden(_) => {
                self.clusters = Clusters::Hidden;
                self.claims_of_cluster.groups().cloned().collect()
            }
            Event::Progress(_) | Event::Failed(_) | Event::Narrowed(_) => return Vec::new(),
        };
        self.refresh_claims_of(&changed)
    }

    fn refresh_claims_of(&mut self, clusters: &BTreeSet<ObjectKey>) -> Vec<Delivery> {
        let mut out = Vec::new();
        for cluster in clusters {
            let state = self.cluster_state(Some(cluster));
            for key in self.claims_of_cluster.names_of(cluster) {
                let Some(known) = self.claims.get_mut(key).filter(|known| known.claim.cluster != state) else {
                    continue;
                };
                known.claim = Arc::new(Claim { cluster: state, ..(*known.claim).clone() });
                out.push((known.claim.pool.clone(), Input::Claim(key.clone(), Some(known.claim.clone()))));
            }
        }
        // There are few of them.
        let unclaimed: Vec<ObjectKey> = self.unclaimed.keys().cloned().collect();
        self.refresh_unclaimed(unclaimed, &mut out);
        out
    }

    fn apply_addresses(&mut self, event: Event<IPAddress>) -> Vec<Delivery> {
        let mut out = Vec::new();
        match event {
            Event::Applied(object) => self.put_address(&object, &mut out),
            Event::Deleted(object) => {
                let version = observe::version(&object.metadata);
                if let Some(key) = observe::key(&object.metadata) {
                    self.drop_address(&key, version, &mut out);
                }
                self.address_version = self.address_version.max(version);
            }
            Event::Listed { began, version, items } => {
                let listed: BTreeSet<ObjectKey> =
                    items.iter().filter_map(|item| observe::key(&item.metadata)).collect();
                let gone: Vec<ObjectKey> =
                    self.addresses.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                for key in gone {
                    self.drop_address(&key, version, &mut out);
                }
                for object in &items {
                    self.put_address(object, &mut out);
                }
                self.address_list = Some((began, version));
                self.address_version = version;
                if std::mem::take(&mut self.hides_all_addresses) {
                    out.extend(self.tell_hidden(|_| true));
                }
            }
            Event::Progress(version) => self.address_version = self.address_version.max(version),
            Event::Narrowed(why) => {
                self.hides_foreign_addresses = why.is_some();
                out = self.tell_hidden(PoolKind::is_global);
            }
            Event::Forbidden(_) => {
                if !std::mem::replace(&mut self.hides_all_addresses, true) {
                    out = self.tell_hidden(|_| true);
                }
            }
            Event::Missing | Event::Failed(_) => {}
        }
        out
    }

    fn put_address(&mut self, object: &IPAddress, out: &mut Vec<Delivery>) {
        let Some(address) = observe::address(object) else { return };
        let (key, version) = (address.key.clone(), address.version);
        self.address_version = self.address_version.max(version);
        if !self.concerns(&address) {
            return self.drop_address(&key, version, out);
        }
        if let Some(before) = self.addresses.insert(key.clone(), address.clone())
            && let Some(pool) = before.pool.as_ref().filter(|pool| address.pool.as_ref() != Some(*pool))
        {
            self.addresses_of_pool.remove(pool, &key);
            if self.unclaimed.remove(&key).is_some() {
                out.push((pool.clone(), Input::Unclaimed(key.clone(), None)));
            }
        }
        self.all_claims.put_address(&address);
        if let Some(pool) = &address.pool {
            self.addresses_of_pool.put(pool.clone(), key.clone(), address.clone());
        }
        let before = self.listeners_of(&key, Some(&address));
        out.extend(before.into_iter().map(|pool| (pool, Input::Address(key.clone(), Some(address.clone()), version))));
        self.refresh_unclaimed([key], out);
    }

    /// C16: where one namespace is served, what other namespaces hold of their own pools does not matter.
    fn concerns(&self, address: &Address) -> bool {
        let is_here = self.filter.namespace.as_deref().is_none_or(|only| only == &*address.key.namespace);
        is_here || address.pool.as_ref().is_some_and(|pool| pool.kind.is_global())
    }

    fn drop_address(&mut self, key: &ObjectKey, version: Version, out: &mut Vec<Delivery>) {
        let Some(address) = self.addresses.remove(key) else { return };
        self.all_claims.drop_address(key);
        if let Some(pool) = &address.pool {
            self.addresses_of_pool.remove(pool, key);
            if self.unclaimed.remove(key).is_some() {
                out.push((pool.clone(), Input::Unclaimed(key.clone(), None)));
            }
        }
        let listeners = self.listeners_of(key, Some(&address));
        out.extend(listeners.into_iter().map(|pool| (pool, Input::Address(key.clone(), None, version))));
    }

    /// The pool that an address is from, and that of the claim of its name.
    fn listeners_of(&self, key: &ObjectKey, address: Option<&Address>) -> BTreeSet<PoolKey> {
        let of_claim = self.claims.get(key).map(|known| known.claim.pool.clone());
        address.and_then(|address| address.pool.clone()).into_iter().chain(of_claim).collect()
    }
}

#[cfg(test)]
mod tests;
