//! The objects that the tests start from, short to write.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::names::{self, PoolKind};
use crate::api::parse;
use crate::ipam::pool::{AddressSpec, Held, Pool};
use crate::pool::key::{ObjectKey, PoolKey, Version};
use crate::pool::object::{Address, Claim, ClusterState, PoolSpec, PoolStatus, PoolView};

/// Where the server's clock starts.
pub(super) const START: i64 = 1_800_000_000;

pub(super) fn pool_key() -> PoolKey {
    PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "p")
}

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

/// An address as the test pool hands it out.
pub(super) fn held(last: u8) -> Held {
    Held { address: [10, 0, 0, last].into(), prefix: 16 }
}

/// The spec of a pool of one range.
pub(super) fn spec(range: &str) -> PoolSpec {
    let addresses = vec![parse::range(range).expect("a range")];
    let spec = AddressSpec { addresses, excluded: Vec::new(), prefix: 16, gateway: None, allocate_reserved: true };
    PoolSpec { pool: Pool::of_addresses(spec).expect("a pool"), grace: Duration::ZERO }
}

/// A new pool, as a user creates it.
pub(super) fn pool(range: &str) -> PoolView {
    PoolView {
        uid: "".into(),
        version: Version(0),
        generation: 1,
        created: Timestamp::from_second(START).expect("a time"),
        deleting: false,
        finalizers: Vec::new(),
        noted_uid: None,
        paused: false,
        spec: Ok(spec(range)),
        status: PoolStatus::default(),
    }
}

/// A claim on the pool, as a user creates it.
pub(super) fn claim(name: &str) -> Claim {
    Claim {
        key: key(name),
        uid: "".into(),
        version: Version(0),
        generation: 1,
        created: Timestamp::from_second(START).expect("a time"),
        deleted: None,
        finalizers: Vec::new(),
        pool: pool_key(),
        noted_uid: None,
        cluster_label: None,
        paused: false,
        cluster: ClusterState::None,
        address_ref: None,
        conditions: Vec::new(),
    }
}

/// An IPAddress of the pool for the claim of its name, as we write it but for the owners.
pub(super) fn address(name: &str, last: u8) -> Address {
    Address {
        key: key(name),
        uid: "".into(),
        version: Version(0),
        deleting: false,
        moving: false,
        finalizers: vec![names::PROTECT_ADDRESS_FINALIZER.to_owned()],
        pool: Some(pool_key()),
        claim_name: name.to_owned(),
        held: Ok(held(last)),
        owners: Vec::new(),
        cluster_label: None,
    }
}

/// Fluent changes of a claim.
impl Claim {
    pub(super) fn created_after(mut self, seconds: i64) -> Self {
        self.created = Timestamp::from_second(START + seconds).expect("a time");
        self
    }

    pub(super) fn held_by(mut self, finalizer: &str) -> Self {
        self.finalizers.push(finalizer.to_owned());
        self
    }
}
