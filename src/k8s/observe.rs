//! From objects of the API to the values that decisions are made of.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::capi::{CapiVersion, IPAddress, IPAddressClaim};
use crate::api::names::{self, PoolKind};
use crate::api::parse::{self, AddressPoolInput, FieldError, PrefixPoolInput};
use crate::api::pools::PoolObject;
use crate::api::status;
use crate::pool::key::{ObjectKey, PoolKey, Uid, Version};
use crate::pool::object::{Address, Claim, ClusterState, InvalidSpec, PoolSpec, PoolStatus, PoolView};
use crate::pool::record::Record;

/// A spec as it was read, to be used again while the generation stays: a status write does not change it, and a spec
/// of thousands of ranges is not parsed at every one.
#[derive(Clone, Debug)]
struct ReadSpec {
    uid: Uid,
    generation: i64,
    spec: Result<PoolSpec, InvalidSpec>,
}

/// Reads copies of one pool.
#[derive(Clone, Debug, Default)]
pub struct PoolReader {
    last: Option<ReadSpec>,
}

impl PoolReader {
    /// The copy as the machine sees it.
    pub fn read(&mut self, kind: PoolKind, object: &PoolObject) -> PoolView {
        let metadata = &object.metadata;
        let uid: Uid = metadata.uid.as_deref().unwrap_or_default().into();
        let generation = metadata.generation.unwrap_or_default();
        let known = self.last.as_ref().filter(|last| last.uid == uid && last.generation == generation);
        let spec = known.map_or_else(|| pool_spec(kind, object), |last| last.spec.clone());
        let prefix = spec.as_ref().map_or(0, |spec| spec.pool.prefix());
        let status = pool_status(object, prefix);
        self.last = Some(ReadSpec { uid: uid.clone(), generation, spec: spec.clone() });
        PoolView {
            uid,
            version: version(metadata),
            generation,
            created: created(metadata),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            noted_uid: noted(metadata, names::POOL_UID_ANNOTATION),
            paused: object.is_paused(),
            spec,
            status,
        }
    }
}

fn pool_spec(kind: PoolKind, object: &PoolObject) -> Result<PoolSpec, InvalidSpec> {
    let undecodable = |error: crate::api::lenient::DecodeError| InvalidSpec(error.to_string());
    if kind.is_prefix() {
        let spec = object.prefix_spec().map_err(undecodable)?;
        let pool = parse::prefix_pool(&PrefixPoolInput::from(&spec)).map_err(|errors| invalid(&errors))?;
        return Ok(PoolSpec { pool, grace: Duration::ZERO });
    }
    let spec = object.address_spec().map_err(undecodable)?;
    let pool = parse::address_pool(&AddressPoolInput::from(&spec)).map_err(|errors| invalid(&errors))?;
    let grace = spec.address_reuse_grace_period_seconds.unwrap_or(0);
    let grace = u64::try_from(grace)
        .map_err(|_| InvalidSpec(format!("spec.addressReuseGracePeriodSeconds: {grace} is negative")))?;
    Ok(PoolSpec { pool, grace: Duration::from_secs(grace) })
}

fn invalid(errors: &[FieldError]) -> InvalidSpec {
    InvalidSpec(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// A status that cannot be read counts as lost: the record's rule F9 puts it back.
fn pool_status(object: &PoolObject, prefix: u8) -> PoolStatus {
    let status::PoolStatus { ip_addresses, conditions, observed_generation, allocation, other } =
        object.pool_status().unwrap_or_default();
    let record = allocation.and_then(|allocation| Record::read(&allocation, prefix).ok());
    PoolStatus { counts: ip_addresses, conditions, observed_generation, record, other }
}

/// A claim, if it names a pool of ours (C1).
pub fn claim(object: &IPAddressClaim, api: CapiVersion, cluster: ClusterState) -> Option<Claim> {
    let key = key(&object.metadata)?;
    let kind = object.spec.pool_ref.claimed_kind()?;
    let metadata = &object.metadata;
    Some(Claim {
        pool: PoolKey::referenced(kind, &key.namespace, &object.spec.pool_ref.name),
        key,
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        version: version(metadata),
        generation: metadata.generation.unwrap_or_default(),
        created: created(metadata),
        deleted: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        finalizers: metadata.finalizers.clone().unwrap_or_default(),
        noted_uid: noted(metadata, names::CLAIM_UID_ANNOTATION),
        cluster_label: object.address_cluster_label().map(ToOwned::to_owned),
        paused: object.is_paused(),
        cluster,
        address_ref: object.address_name().map(ToOwned::to_owned),
        conditions: object.conditions(api).to_vec(),
    })
}

/// An IPAddress, whatever pool it names.
pub fn address(object: &IPAddress) -> Option<Arc<Address>> {
    let key = key(&object.metadata)?;
    let metadata = &object.metadata;
    let reference = &object.spec.pool_ref;
    let pool = reference.holding_kind().map(|kind| PoolKey::referenced(kind, &key.namespace, &reference.name));
    let labels = metadata.labels.as_ref();
    Some(Arc::new(Address {
        pool,
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        version: version(metadata),
        deleting: metadata.deletion_timestamp.is_some(),
        moving: noted(metadata, names::DELETE_FOR_MOVE_ANNOTATION).is_some(),
        finalizers: metadata.finalizers.clone().unwrap_or_default(),
        claim_name: object.spec.claim_ref.name.clone(),
        held: parse::held(&object.spec.address, object.spec.prefix).map_err(|_| object.spec.address.clone()),
        owners: metadata.owner_references.clone().unwrap_or_default(),
        cluster_label: labels.and_then(|all| all.get(names::CLUSTER_NAME_LABEL)).cloned(),
        key,
    }))
}

/// Namespace and name; an object without them is none of the server's.
pub fn key(metadata: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

/// `metadata.resourceVersion`
pub fn version(metadata: &ObjectMeta) -> Version {
    metadata.resource_version.as_deref().map_or(Version(0), Version::parse)
}

/// `metadata.creationTimestamp`
fn created(metadata: &ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// What an annotation says.
fn noted(metadata: &ObjectMeta, annotation: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(annotation).cloned()
}

/// The key of a pool object of this kind.
pub fn pool_key(kind: PoolKind, metadata: &ObjectMeta) -> Option<PoolKey> {
    Some(PoolKey::referenced(kind, metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref()?))
}
