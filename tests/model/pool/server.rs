//! The API server of the model: pools, claims and addresses with versions, finalizers and preconditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use capi_ipam::api::names::{self, PoolKind};
use capi_ipam::api::parse;
use capi_ipam::ipam::pool::{AddressSpec, Held, Pool};
use capi_ipam::pool::key::{ObjectKey, PoolKey, Sender, Uid, Version};
use capi_ipam::pool::machine::{Action, NewAddress, Outcome};
use capi_ipam::pool::object::{Address, Claim, ClusterState, PoolSpec, PoolStatus, PoolView};
use jiff::Timestamp;

use super::Flaw;

/// The one pool of the model.
pub(crate) fn pool_key() -> PoolKey {
    PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "p")
}

/// A claim, and its IPAddress.
pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

/// The server's clock stands still: nothing in this model depends on it.
pub(crate) fn server_time() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// What a watch shows.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Claim(ObjectKey, Option<Arc<Claim>>),
    Address(ObjectKey, Option<Arc<Address>>, Version),
}

/// What happened that properties ask for.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each for a property of its own")]
pub(crate) struct Seen {
    /// A create was carried out though no intent stood for it any more.
    pub(crate) unbacked: bool,
    /// A create was carried out by another sender than the one that chose the address.
    pub(crate) rolled_forward: bool,
    /// An address that another claim had was given to a new one.
    pub(crate) reused: bool,
    /// A request took the IPAddress of a claim which lives, or its finalizer.
    pub(crate) robbed: bool,
    /// Who had an address first.
    first: BTreeMap<Held, Uid>,
}

/// Each kind counts its versions alone: they are compared within one kind only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pool_version: u64,
    claim_version: u64,
    address_version: u64,
    /// How many objects of each name there were, for uids.
    births: BTreeMap<(&'static str, String), u8>,
    pub(crate) pool: Option<Arc<PoolView>>,
    pub(crate) claims: BTreeMap<ObjectKey, Arc<Claim>>,
    pub(crate) addresses: BTreeMap<ObjectKey, Arc<Address>>,
    pub(crate) seen: Seen,
    /// The claim that each IPAddress was made for; a later one of its name may have it by now.
    pub(crate) made_for: BTreeMap<Uid, Uid>,
    /// For the watches of all replicas.
    pub(crate) events: Vec<Event>,
}

impl Server {
    fn new_uid(&mut self, kind: &'static str, name: &str) -> Uid {
        let count = self.births.entry((kind, name.to_owned())).or_default();
        *count += 1;
        format!("{kind}-{name}-{count}").into()
    }

    /// The version that a LIST of the addresses has.
    pub(crate) fn address_version(&self) -> Version {
        Version(self.address_version)
    }

    pub(crate) fn create_pool(&mut self, addresses: u8) {
        let range = parse::range(&format!("10.0.0.1-10.0.0.{addresses}")).expect("a range");
        let spec = AddressSpec {
            addresses: vec![range],
            excluded: Vec::new(),
            prefix: 16,
            gateway: None,
            allocate_reserved: true,
        };
        let spec = PoolSpec { pool: Pool::of_addresses(spec).expect("a valid pool"), grace: std::time::Duration::ZERO };
        let uid = self.new_uid("pool", "p");
        self.put_pool(PoolView {
            uid,
            version: Version(0),
            generation: 1,
            created: jiff::Timestamp::UNIX_EPOCH,
            deleting: false,
            finalizers: Vec::new(),
            noted_uid: None,
            paused: false,
            spec: Ok(spec),
            status: PoolStatus::default(),
        });
    }

    pub(crate) fn put_pool(&mut self, mut pool: PoolView) -> Arc<PoolView> {
        self.pool_version += 1;
        pool.version = Version(self.pool_version);
        let gone = pool.deleting && pool.finalizers.is_empty();
        let pool = Arc::new(pool);
        self.pool = (!gone).then(|| pool.clone());
        pool
    }

    pub(crate) fn edit_pool(&mut self, edit: impl FnOnce(&mut PoolView)) {
        if let Some(pool) = &self.pool {
            let mut pool = PoolView::clone(pool);
            edit(&mut pool);
            self.put_pool(pool);
        }
    }

    pub(crate) fn create_claim(&mut self, name: &str) {
        let uid = self.new_uid("claim", name);
        self.put_claim(Claim {
            key: key(name),
            uid,
            version: Version(0),
            generation: 1,
            created: server_time(),
            deleted: None,
            finalizers: Vec::new(),
            pool: pool_key(),
            noted_uid: None,
            cluster_label: None,
            paused: false,
            cluster: ClusterState::None,
            address_ref: None,
            conditions: Vec::new(),
        });
    }

    fn put_claim(&mut self, mut claim: Claim) -> Arc<Claim> {
        self.claim_version += 1;
        claim.version = Version(self.claim_version);
        let gone = claim.deleted.is_some() && claim.finalizers.is_empty();
        let claim = Arc::new(claim);
        if gone {
            self.claims.remove(&claim.key);
        } else {
            self.claims.insert(claim.key.clone(), claim.clone());
        }
        self.events.push(Event::Claim(claim.key.clone(), (!gone).then(|| claim.clone())));
        claim
    }

    pub(crate) fn delete_claim(&mut self, key: &ObjectKey) {
        let mut claim = Claim::clone(&self.claims[key]);
        claim.deleted = Some(server_time());
        self.put_claim(claim);
    }

    fn put_address(&mut self, mut address: Address) -> Arc<Address> {
        self.address_version += 1;
        address.version = Version(self.address_version);
        let gone = address.deleting && address.finalizers.is_empty();
        let address = Arc::new(address);
        if gone {
            self.addresses.remove(&address.key);
            self.made_for.remove(&address.uid);
        } else {
            self.addresses.insert(address.key.clone(), address.clone());
        }
        let shown = (!gone).then(|| address.clone());
        self.events.push(Event::Address(address.key.clone(), shown, address.version));
        address
    }

    /// Removes an IPAddress whatever its finalizers: an operator, or the sweep of orphans.
    pub(crate) fn remove_address(&mut self, key: &ObjectKey) {
        let mut address = Address::clone(&self.addresses[key]);
        (address.deleting, address.finalizers) = (true, Vec::new());
        self.put_address(address);
    }

    /// Carries out a request.
    pub(crate) fn serve(&mut self, sender: &Sender, action: &Action, flaw: Option<Flaw>) -> Outcome {
        match action {
            Action::PutPoolStatus { uid, version, status, .. } => {
                let version = if flaw == Some(Flaw::NoComparison) { None } else { Some(*version) };
                self.with_pool(uid, version, |pool| pool.status.clone_from(status))
            }
            Action::PatchPool { uid, version, finalizers } => self.with_pool(uid, Some(*version), |pool| {
                pool.finalizers.clone_from(finalizers);
                pool.noted_uid = Some(uid.to_string());
            }),
            Action::GetPool => match &self.pool {
                Some(pool) => Outcome::Pool(Box::new(PoolView::clone(pool))),
                None => Outcome::Gone,
            },
            Action::ListAddresses(copy) => {
                let items = self.addresses.values().cloned().collect();
                Outcome::Addresses { version: self.address_version(), items, copy: *copy }
            }
            Action::PatchClaim { key, uid, version, finalizers, note_uid } => {
                self.with_claim(key, uid, *version, |claim| {
                    claim.finalizers.clone_from(finalizers);
                    if *note_uid {
                        claim.noted_uid = Some(uid.to_string());
                    }
                })
            }
            Action::PatchClaimStatus { key, uid, version, bound, conditions } => {
                self.with_claim(key, uid, *version, |claim| {
                    claim.conditions.clone_from(conditions);
                    if *bound {
                        claim.address_ref = Some(key.name.to_string());
                    }
                })
            }
            Action::GetClaim(key) => self.claims.get(key).map_or(Outcome::Gone, |claim| Outcome::Claim(claim.clone())),
            Action::GetAddress(key) => self.addresses.get(key).map_or(Outcome::Gone, |a| Outcome::Address(a.clone())),
            Action::CreateAddress(new) => self.create_address(sender, new),
            Action::PatchAddress { key, uid, version, finalizers, owners, label } => {
                self.with_address(key, uid, *version, flaw, |address| {
                    address.finalizers.clone_from(finalizers);
                    if let Some(owners) = owners {
                        address.owners.clone_from(owners);
                    }
                    if label.is_some() {
                        address.cluster_label.clone_from(label);
                    }
                })
            }
            Action::DeleteAddress { key, uid, version } => {
                let outcome = self.with_address(key, uid, *version, flaw, |address| address.deleting = true);
                if self.addresses.contains_key(key) { outcome } else { Outcome::Gone }
            }
        }
    }

    fn with_pool(&mut self, uid: &Uid, version: Option<Version>, patch: impl FnOnce(&mut PoolView)) -> Outcome {
        let Some(known) = self.pool.clone() else { return Outcome::Gone };
        if known.uid != *uid || version.is_some_and(|version| known.version != version) {
            return Outcome::Conflict;
        }
        let mut pool = PoolView::clone(&known);
        patch(&mut pool);
        let is_same = pool.status == known.status && pool.finalizers == known.finalizers;
        let stored = if is_same { known } else { self.put_pool(pool) };
        Outcome::Pool(Box::new(PoolView::clone(&stored)))
    }

    fn with_claim(&mut self, key: &ObjectKey, uid: &Uid, version: Version, patch: impl FnOnce(&mut Claim)) -> Outcome {
        let Some(known) = self.claims.get(key).cloned() else { return Outcome::Gone };
        if known.uid != *uid || known.version != version {
            return Outcome::Conflict;
        }
        let mut claim = Claim::clone(&known);
        patch(&mut claim);
        Outcome::Claim(if claim == *known { known } else { self.put_claim(claim) })
    }

    fn with_address(
        &mut self,
        key: &ObjectKey,
        uid: &Uid,
        version: Version,
        flaw: Option<Flaw>,
        patch: impl FnOnce(&mut Address),
    ) -> Outcome {
        let Some(known) = self.addresses.get(key).cloned() else { return Outcome::Gone };
        if (known.uid != *uid || known.version != version) && flaw != Some(Flaw::NoPreconditions) {
            return Outcome::Conflict;
        }
        let mut address = Address::clone(&known);
        patch(&mut address);
        let changed = if address == *known { known } else { self.put_address(address) };
        let lives = |owner: &str| self.claims.get(key).is_some_and(|it| *it.uid == *owner && it.deleted.is_none());
        let is_released = changed.deleting || !changed.is_protected();
        self.seen.robbed |= is_released && changed.owners.first().is_some_and(|owner| lives(&owner.uid));
        Outcome::Address(changed)
    }

    fn create_address(&mut self, sender: &Sender, new: &NewAddress) -> Outcome {
        if self.addresses.contains_key(&new.key) {
            return Outcome::Exists;
        }
        let claim: Uid = new.owners[0].uid.as_str().into();
        let intent = self.pool.as_ref().and_then(|pool| pool.status.record.as_ref()?.pending.get(&claim));
        match intent.filter(|intent| intent.held == new.held) {
            Some(intent) => self.seen.rolled_forward |= intent.senders.iter().any(|other| other != sender),
            None => self.seen.unbacked = true,
        }
        let first = self.seen.first.entry(new.held).or_insert_with(|| claim.clone());
        self.seen.reused |= *first != claim;
        let uid = self.new_uid("address", &new.key.name);
        self.made_for.insert(uid.clone(), claim);
        Outcome::Address(self.put_address(Address {
            key: new.key.clone(),
            uid,
            version: Version(0),
            deleting: false,
            moving: false,
            finalizers: vec![names::PROTECT_ADDRESS_FINALIZER.to_owned()],
            pool: Some(pool_key()),
            claim_name: new.key.name.to_string(),
            held: Ok(new.held),
            owners: new.owners.clone(),
            cluster_label: new.label.clone(),
        }))
    }
}
