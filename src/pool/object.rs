//! Pools, claims and addresses as the machine sees them: values, without YAML.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::key::{ObjectKey, PoolKey, Uid, Version};
use super::record::Record;
use crate::api::conditions::Condition;
use crate::api::names;
use crate::api::status::AddressCounts;
use crate::ipam::pool::{Held, Pool};

/// One copy of a pool object.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// `metadata.uid`
    pub uid: Uid,
    /// `metadata.resourceVersion`
    pub version: Version,
    /// `metadata.generation`
    pub generation: i64,
    /// `metadata.creationTimestamp`
    pub created: Timestamp,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// Annotation `ipam.cluster.x-k8s.io/pool-uid` (C19).
    pub noted_uid: Option<String>,
    /// Whether the pool carries the paused annotation (C8).
    pub paused: bool,
    /// What may be allocated, or why nothing may.
    pub spec: Result<PoolSpec, InvalidSpec>,
    /// What the status holds.
    pub status: PoolStatus,
}

impl PoolView {
    /// Whether our finalizer is on (C4).
    pub fn is_protected(&self) -> bool {
        self.finalizers.iter().any(|f| f == names::PROTECT_POOL_FINALIZER)
    }

    /// C19: whether it was marked as ours elsewhere, by us or, without counts yet, by the original.
    pub fn may_be_moved(&self) -> bool {
        let is_new = self.status.counts.is_none() && self.status.record.is_none();
        may_be_moved(self.noted_uid.as_deref(), &self.uid, self.is_protected() && is_new)
    }

    /// C19: whether another uid than its own is noted.
    pub fn is_noted_elsewhere(&self) -> bool {
        self.noted_uid.as_deref().is_some_and(|noted| *noted != *self.uid)
    }
}

/// A valid spec.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// The allocatable set.
    pub pool: Pool,
    /// How long a released address is held back, counted from the claim's deletion (C12); zero for none.
    pub grace: Duration,
}

/// Why a spec cannot be allocated from, with the field's path, in a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSpec(pub String);

/// The status of a pool, ours and others' parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolStatus {
    /// `ipAddresses`
    pub counts: Option<AddressCounts>,
    /// `conditions`
    pub conditions: Vec<Condition>,
    /// `observedGeneration`
    pub observed_generation: Option<i64>,
    /// `allocation`; absent is not the same as empty (F9).
    pub record: Option<Record>,
    /// Fields that we do not know are written back as they are.
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What the claim's cluster has to say (C7, C8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterState {
    /// The claim names no cluster, or there is no Cluster kind.
    #[default]
    None,
    /// Named, but not found.
    Missing,
    /// Found and paused.
    Paused,
    /// Found and at work.
    Active,
}

/// One copy of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`
    pub uid: Uid,
    /// `metadata.resourceVersion`
    pub version: Version,
    /// `metadata.generation`
    pub generation: i64,
    /// `metadata.creationTimestamp`
    pub created: Timestamp,
    /// `metadata.deletionTimestamp`
    pub deleted: Option<Timestamp>,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// The pool that it names.
    pub pool: PoolKey,
    /// Annotation `ipam.cluster.x-k8s.io/claim-uid` (C19).
    pub noted_uid: Option<String>,
    /// The cluster's name for the label of the address (C6).
    pub cluster_label: Option<String>,
    /// Whether the claim itself carries the paused annotation (C8).
    pub paused: bool,
    /// The state of its cluster.
    pub cluster: ClusterState,
    /// `status.addressRef.name`
    pub address_ref: Option<String>,
    /// The metav1 conditions of the status.
    pub conditions: Vec<Condition>,
}

impl Claim {
    /// Whether our finalizer is on (C2).
    pub fn is_ours(&self) -> bool {
        self.finalizers.iter().any(|f| f == names::RELEASE_ADDRESS_FINALIZER)
    }

    /// C19: whether it was marked as ours elsewhere: it was moved, restored, or comes from the original.
    pub fn may_be_moved(&self) -> bool {
        may_be_moved(self.noted_uid.as_deref(), &self.uid, self.is_ours())
    }

    /// Whether a consumer still holds on to the deleting claim (C12).
    pub fn is_held_by_others(&self) -> bool {
        let ours = [names::RELEASE_ADDRESS_FINALIZER, names::FOREGROUND_FINALIZER, names::ORPHAN_FINALIZER];
        self.finalizers.iter().any(|f| !ours.contains(&f.as_str()))
    }

    /// The finalizers with ours appended.
    pub fn finalizers_with_ours(&self) -> Vec<String> {
        with(&self.finalizers, names::RELEASE_ADDRESS_FINALIZER)
    }

    /// The finalizers without ours.
    pub fn finalizers_without_ours(&self) -> Vec<String> {
        without(&self.finalizers, names::RELEASE_ADDRESS_FINALIZER)
    }
}

/// One copy of an IPAddress.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Namespace and name; its claim's too, if it is one of ours.
    pub key: ObjectKey,
    /// `metadata.uid`
    pub uid: Uid,
    /// `metadata.resourceVersion`
    pub version: Version,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Annotation `clusterctl.cluster.x-k8s.io/delete-for-move`: it is elsewhere by now, and its claim follows.
    pub moving: bool,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// The pool that it names, when that is one of the four kinds.
    pub pool: Option<PoolKey>,
    /// `spec.claimRef.name`
    pub claim_name: String,
    /// What it holds, or the text that is no address (B4).
    pub held: Result<Held, String>,
    /// `metadata.ownerReferences`
    pub owners: Vec<OwnerReference>,
    /// Label `cluster.x-k8s.io/cluster-name`
    pub cluster_label: Option<String>,
}

impl Address {
    /// Whether our finalizer is on (C3).
    pub fn is_protected(&self) -> bool {
        self.finalizers.iter().any(|f| f == names::PROTECT_ADDRESS_FINALIZER)
    }

    /// Whether this is the address of the claim of its name in `pool` (B3).
    pub fn belongs_to(&self, pool: &PoolKey) -> bool {
        self.pool.as_ref() == Some(pool) && self.claim_name == *self.key.name
    }

    /// The finalizers with ours appended.
    pub fn finalizers_with_ours(&self) -> Vec<String> {
        with(&self.finalizers, names::PROTECT_ADDRESS_FINALIZER)
    }

    /// The finalizers without ours.
    pub fn finalizers_without_ours(&self) -> Vec<String> {
        without(&self.finalizers, names::PROTECT_ADDRESS_FINALIZER)
    }
}

/// The note tells; backups may keep it and drop the finalizer. Without a note the finalizer does, as the original's.
fn may_be_moved(noted_uid: Option<&str>, uid: &Uid, is_marked: bool) -> bool {
    noted_uid.map_or(is_marked, |noted| *noted != **uid)
}

/// The list with `ours` in it once.
pub(super) fn with(finalizers: &[String], ours: &str) -> Vec<String> {
    let mut all = without(finalizers, ours);
    all.push(ours.to_owned());
    all
}

/// The list without `ours`.
pub(super) fn without(finalizers: &[String], ours: &str) -> Vec<String> {
    finalizers.iter().filter(|f| *f != ours).cloned().collect()
}
