//! The API server of the tests: objects with versions, finalizers and preconditions, and what it must never see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::fixtures::{START, pool_key};
use crate::api::names;
use crate::ipam::pool::Held;
use crate::pool::key::{ObjectKey, Sender, Uid, Version};
use crate::pool::machine::{Action, NewAddress, Outcome};
use crate::pool::object::{Address, Claim, PoolStatus, PoolView};

/// What a watch of one kind shows, in order.
pub(super) type Log<T> = Vec<(Version, T)>;

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a test")]
pub(super) struct Server {
    version: u64,
    uids: u64,
    /// Seconds since [`START`].
    pub(super) seconds: i64,
    pub(super) pool: Option<Arc<PoolView>>,
    pub(super) claims: BTreeMap<ObjectKey, Arc<Claim>>,
    pub(super) addresses: BTreeMap<ObjectKey, Arc<Address>>,
    pub(super) pool_log: Log<Option<Arc<PoolView>>>,
    pub(super) claim_log: Log<(ObjectKey, Option<Arc<Claim>>)>,
    pub(super) address_log: Log<(ObjectKey, Option<Arc<Address>>)>,
    /// F2: whether the CRD lacks `status.allocation`.
    pub(super) drops_record: bool,
    /// C10: whether the conditions of claims are taken and not stored.
    pub(super) drops_conditions: bool,
    /// Whether somebody wiped the record or replaced the pool, so that its history does not bind us any more.
    pub(super) history_was_lost: bool,
    /// Who holds each address of the pool.
    by_address: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    /// The claim that each IPAddress object was made for.
    made_for: BTreeMap<Uid, Uid>,
    /// Every (claim, held, sender) that a record listed.
    listed: BTreeSet<(Uid, Held, Sender)>,
    promised: BTreeSet<(Uid, Held)>,
    /// Invariants are not checked: that costs more than all the rest.
    pub(super) unchecked: bool,
    /// What must never happen and did.
    pub(super) broken: Vec<String>,
}

impl Server {
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_second(START + self.seconds).expect("a time")
    }

    pub(super) fn version(&self) -> Version {
        Version(self.version)
    }

    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version(self.version)
    }

    fn next_uid(&mut self, kind: &str) -> Uid {
        self.uids += 1;
        format!("{kind}-{}", self.uids).into()
    }

    /// Stores a pool, new if its uid is empty.
    pub(super) fn put_pool(&mut self, mut pool: PoolView) -> Arc<PoolView> {
        if pool.uid.is_empty() {
            pool.uid = self.next_uid("pool");
        }
        pool.version = self.next_version();
        let gone = pool.deleting && pool.finalizers.is_empty();
        let pool = Arc::new(pool);
        self.pool = (!gone).then(|| pool.clone());
        self.pool_log.push((pool.version, self.pool.clone()));
        pool
    }

    pub(super) fn edit_pool(&mut self, edit: impl FnOnce(&mut PoolView)) {
        let mut pool = PoolView::clone(self.pool.as_ref().expect("a pool"));
        edit(&mut pool);
        self.put_pool(pool);
    }

    pub(super) fn put_claim(&mut self, mut claim: Claim) -> Arc<Claim> {
        if claim.uid.is_empty() {
            claim.uid = self.next_uid("claim");
        }
        claim.version = self.next_version();
        let (key, version) = (claim.key.clone(), claim.version);
        let gone = claim.deleted.is_some() && claim.finalizers.is_empty();
        let claim = Arc::new(claim);
        if gone {
            self.claims.remove(&key);
        } else {
            self.claims.insert(key.clone(), claim.clone());
        }
        self.claim_log.push((version, (key, (!gone).then(|| claim.clone()))));
        claim
    }

    pub(super) fn edit_claim(&mut self, key: &ObjectKey, edit: impl FnOnce(&mut Claim)) {
        let mut claim = Claim::clone(&self.claims[key]);
        edit(&mut claim);
        self.put_claim(claim);
    }

    pub(super) fn delete_claim(&mut self, key: &ObjectKey) {
        let now = self.now();
        self.edit_claim(key, |claim| claim.deleted = claim.deleted.or(Some(now)));
    }

    pub(super) fn put_address(&mut self, mut address: Address) -> Arc<Address> {
        if address.uid.is_empty() {
            address.uid = self.next_uid("address");
        }
        address.version = self.next_version();
        let (key, version) = (address.key.clone(), address.version);
        let gone = address.deleting && address.finalizers.is_empty();
        let address = Arc::new(address);
        if let Some(before) = self.addresses.remove(&key) {
            self.holders(&before).remove(&key);
        }
        if !gone {
            self.addresses.insert(key.clone(), address.clone());
            self.take(&address);
        }
        self.address_log.push((version, (key, (!gone).then(|| address.clone()))));
        address
    }

    /// Removes an IPAddress whatever its finalizers, as an operator can.
    pub(super) fn strip_address(&mut self, key: &ObjectKey) {
        let mut address = Address::clone(&self.addresses[key]);
        (address.deleting, address.finalizers) = (true, Vec::new());
        self.put_address(address);
    }

    /// Carries out a request of `sender`.
    pub(super) fn serve(&mut self, sender: &Sender, action: &Action) -> Outcome {
        match action {
            Action::PutPoolStatus { uid, version, status, .. } => match self.pool_at(uid, *version) {
                Ok(pool) => self.put_status(pool, status),
                Err(outcome) => outcome,
            },
            Action::PatchPool { uid, version, finalizers } => match self.pool_at(uid, *version) {
                Ok(mut pool) => {
                    self.expect_no_new_finalizer(pool.deleting, &pool.finalizers, finalizers);
                    pool.finalizers.clone_from(finalizers);
                    pool.noted_uid = Some(uid.to_string());
                    Outcome::Pool(Box::new(PoolView::clone(&self.put_pool(pool))))
                }
                Err(outcome) => outcome,
            },
            Action::GetPool => match &self.pool {
                Some(pool) => Outcome::Pool(Box::new(PoolView::clone(pool))),
                None => Outcome::Gone,
            },
            Action::ListAddresses(copy) => {
                let items = self.addresses.values().filter(|a| a.pool == Some(pool_key())).cloned().collect();
                Outcome::Addresses { version: self.version(), items, copy: *copy }
            }
            Action::PatchClaim { key, uid, version, finalizers, note_uid } => {
                self.patch_claim(key, uid, *version, |server, claim| {
                    server.expect_no_new_finalizer(claim.deleted.is_some(), &claim.finalizers, finalizers);
                    claim.finalizers.clone_from(finalizers);
                    if *note_uid {
                        claim.noted_uid = Some(uid.to_string());
                    }
                })
            }
            Action::PatchClaimStatus { key, uid, version, bound, conditions } => {
                self.patch_claim(key, uid, *version, |server, claim| {
                    if !server.drops_conditions {
                        claim.conditions.clone_from(conditions);
                    }
                    if *bound {
                        claim.address_ref = Some(key.name.to_string());
                    }
                })
            }
            Action::GetClaim(key) => self.claims.get(key).map_or(Outcome::Gone, |c| Outcome::Claim(c.clone())),
            Action::GetAddress(key) => self.addresses.get(key).map_or(Outcome::Gone, |a| Outcome::Address(a.clone())),
            Action::CreateAddress(new) => self.create(sender, new),
            Action::PatchAddress { key, uid, version, finalizers, owners, label } => {
                self.with_address(key, uid, *version, |server, address| {
                    server.expect_no_new_finalizer(address.deleting, &address.finalizers, finalizers);
                    if address.is_protected() && !finalizers.iter().any(|f| f == names::PROTECT_ADDRESS_FINALIZER) {
                        server.expect_no_living_claim(address);
                    }
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
                let outcome = self.with_address(key, uid, *version, |server, address| {
                    server.expect_no_living_claim(address);
                    address.deleting = true;
                });
                if self.addresses.contains_key(key) { outcome } else { Outcome::Gone }
            }
        }
    }

    fn pool_at(&self, uid: &Uid, version: Version) -> Result<PoolView, Outcome> {
        match &self.pool {
            None => Err(Outcome::Gone),
            Some(pool) if pool.uid != *uid || pool.version != version => Err(Outcome::Conflict),
            Some(pool) => Ok(PoolView::clone(pool)),
        }
    }

    fn put_status(&mut self, mut pool: PoolView, status: &PoolStatus) -> Outcome {
        let before = std::mem::replace(&mut pool.status, status.clone());
        if self.drops_record {
            pool.status.record = None;
        }
        if pool.status == before {
            return Outcome::Pool(Box::new(pool));
        }
        self.check_intents(&pool);
        Outcome::Pool(Box::new(PoolView::clone(&self.put_pool(pool))))
    }

    fn patch_claim(
        &mut self,
        key: &ObjectKey,
        uid: &Uid,
        version: Version,
        patch: impl FnOnce(&mut Self, &mut Claim),
    ) -> Outcome {
        let Some(known) = self.claims.get(key).cloned() else { return Outcome::Gone };
        if known.uid != *uid || known.version != version {
            return Outcome::Conflict;
        }
        let mut claim = Claim::clone(&known);
        patch(self, &mut claim);
        Outcome::Claim(if claim == *known { known } else { self.put_claim(claim) })
    }

    fn with_address(
        &mut self,
        key: &ObjectKey,
        uid: &Uid,
        version: Version,
        patch: impl FnOnce(&mut Self, &mut Address),
    ) -> Outcome {
        let Some(known) = self.addresses.get(key).cloned() else { return Outcome::Gone };
        if known.uid != *uid || known.version != version {
            return Outcome::Conflict;
        }
        let mut address = Address::clone(&known);
        patch(self, &mut address);
        Outcome::Address(if address == *known { known } else { self.put_address(address) })
    }

    fn create(&mut self, sender: &Sender, new: &NewAddress) -> Outcome {
        let claim: Uid = new.owners[0].uid.as_str().into();
        if !self.unchecked && !self.listed.contains(&(claim.clone(), new.held, sender.clone())) {
            self.broken.push(format!("F1: {sender} creates {} for {claim} without being listed", new.held.address));
        }
        if self.addresses.contains_key(&new.key) {
            return Outcome::Exists;
        }
        let pending = self.pool.as_ref().and_then(|pool| pool.status.record.as_ref()?.pending.get(&claim));
        if pending.is_none_or(|intent| intent.held != new.held) && !self.history_was_lost {
            self.broken.push(format!("F5: {sender} delivers {} for {claim} after it was settled", new.held.address));
        }
        let uid = self.next_uid("address");
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

    fn expect_no_new_finalizer(&mut self, deleting: bool, before: &[String], after: &[String]) {
        if deleting && after.iter().any(|finalizer| !before.contains(finalizer)) {
            self.broken.push("C13: a finalizer for an object that is being deleted".into());
        }
    }

    /// Nobody takes the IPAddress from a claim that lives and refers to it (C12, C14).
    fn expect_no_living_claim(&mut self, address: &Address) {
        let Some(claim) = self.claims.get(&address.key) else { return };
        let is_its = address.owners.iter().any(|owner| *owner.uid == *claim.uid) && claim.address_ref.is_some();
        if is_its && claim.deleted.is_none() {
            self.broken.push(format!("{} is taken from its living claim", address.key));
        }
    }

    /// A newly promised address is allocatable, and nobody else has it or is promised it (F3, F4).
    fn check_intents(&mut self, pool: &PoolView) {
        let Some(record) = pool.status.record.as_ref().filter(|_| !self.unchecked) else { return };
        let mut promised = BTreeSet::new();
        for (uid, intent) in &record.pending {
            self.listed.extend(intent.senders.iter().map(|sender| (uid.clone(), intent.held, sender.clone())));
            let address = intent.held.address;
            // F9: what is put back may stand against what others promised meanwhile; neither is carried out then.
            if !promised.insert(address) && !self.history_was_lost {
                self.broken.push(format!("F4: {address} is promised to {uid} and to another"));
            }
            if !self.promised.insert((uid.clone(), intent.held)) {
                continue;
            }
            if pool.spec.as_ref().is_ok_and(|spec| !spec.pool.allows(intent.held)) {
                self.broken.push(format!("{address} is promised to {uid} outside of the pool"));
            }
            if let Some(other) = self.by_address.get(&address).and_then(|all| all.iter().find(|k| **k != intent.claim))
            {
                self.broken.push(format!("F3: {address} is promised to {uid}, but {other} has it"));
            }
            // A claim with an IPAddress made for it is not promised another.
            let own = self.addresses.get(&intent.claim).filter(|own| self.made_for.get(&own.uid) == Some(uid));
            if let Some(own) = own.filter(|own| own.held != Ok(intent.held)) {
                self.broken.push(format!("{uid} is promised {address} beside its {:?}", own.held));
            }
        }
    }

    /// The names of the IPAddresses of the pool that hold what this one holds.
    fn holders(&mut self, address: &Address) -> &mut BTreeSet<ObjectKey> {
        let counts = address.pool == Some(pool_key());
        let held = address.held.as_ref().ok().filter(|_| counts).map(|held| held.address);
        self.by_address.entry(held.unwrap_or(IpAddr::from([0, 0, 0, 0]))).or_default()
    }

    /// No address is in two objects, those apart that the tests themselves wrote.
    fn take(&mut self, address: &Address) {
        let ours = self.made_for.contains_key(&address.uid);
        let holders = self.holders(address);
        holders.insert(address.key.clone());
        let twice = holders.len() > 1;
        if twice && ours && address.held.is_ok() {
            self.broken.push(format!("{:?} is in two IPAddress objects, one of them {}", address.held, address.key));
        }
    }
}
