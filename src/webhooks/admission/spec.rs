//! A spec as admission sees it: everything that is wrong with it, and what people should know about it.

use super::PoolKind;
use crate::api::lenient::DecodeError;
use crate::api::parse::{self, AddressPoolInput, FieldError, PrefixPoolInput};
use crate::api::pools::{AddressPoolSpec, PoolObject, PrefixPoolSpec};
use crate::ipam::pool::Pool;
use crate::ipam::range::Range;

pub(super) const DEFAULT_LENGTH: i64 = crate::api::v1alpha2::DEFAULT_ALLOCATION_PREFIX_LENGTH;

/// The length at which a prefix is one address.
const SINGLE_ADDRESS: i64 = 128;

/// A spec of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    Addresses(AddressPoolSpec),
    Prefixes(PrefixPoolSpec),
}

/// What there is to say about a spec.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) spec: Option<Spec>,
    /// What may be allocated, where the spec is valid.
    pub(super) pool: Option<Pool>,
    pub(super) errors: Vec<FieldError>,
    pub(super) warnings: Vec<String>,
}

/// Reads the spec of a pool.
pub(super) fn read(kind: PoolKind, object: &PoolObject) -> Read {
    match decode(kind, object) {
        Err(error) => {
            let DecodeError { path, message } = error;
            let errors = vec![FieldError { path, value: String::new(), reason: message }];
            Read { spec: None, pool: None, errors, warnings: Vec::new() }
        }
        Ok(Spec::Addresses(spec)) => read_addresses(spec),
        Ok(Spec::Prefixes(spec)) => read_prefixes(spec),
    }
}

fn decode(kind: PoolKind, object: &PoolObject) -> Result<Spec, DecodeError> {
    if kind.is_prefix() { object.prefix_spec().map(Spec::Prefixes) } else { object.address_spec().map(Spec::Addresses) }
}

fn read_addresses(spec: AddressPoolSpec) -> Read {
    let input = AddressPoolInput::from(&spec);
    let (pool, mut errors) = match parse::address_pool(&input) {
        Ok(pool) => (Some(pool), Vec::new()),
        Err(errors) => (None, errors),
    };
    // Whatever else is wrong: that is for the addresses and the prefix alone to say.
    errors.extend(parse::outside_subnet(&AddressPoolInput { excluded: &[], gateway: None, ..input }));
    if let Some(seconds) = spec.address_reuse_grace_period_seconds.filter(|seconds| *seconds < 0) {
        errors.push(FieldError {
            path: "spec.addressReuseGracePeriodSeconds".to_owned(),
            value: seconds.to_string(),
            reason: "must not be negative".to_owned(),
        });
    }
    Read { pool, errors, warnings: Vec::new(), spec: Some(Spec::Addresses(spec)) }
}

fn read_prefixes(spec: PrefixPoolSpec) -> Read {
    let (pool, errors) = match parse::prefix_pool(&PrefixPoolInput::from(&spec)) {
        Ok(pool) => (Some(pool), Vec::new()),
        Err(errors) => (None, errors),
    };
    let warnings = if errors.is_empty() { prefix_warnings(&spec) } else { Vec::new() };
    Read { pool, errors, warnings, spec: Some(Spec::Prefixes(spec)) }
}

fn prefix_warnings(spec: &PrefixPoolSpec) -> Vec<String> {
    if spec.allocation_length() != SINGLE_ADDRESS {
        return Vec::new();
    }
    let mut warnings = vec![
        "spec.allocationPrefixLength: with 128 every prefix is a single address, the first and the last of a network \
         too; an IP pool reserves those"
            .to_owned(),
    ];
    let gateway = spec.gateway.as_deref().and_then(|text| parse::address(text).ok());
    let mut inside = spec.prefixes.iter().filter(|text| {
        let net = parse::net(text).map(Range::net);
        net.is_ok_and(|net| gateway.is_some_and(|gateway| net.contains(gateway)))
    });
    if let (Some(prefix), Some(gateway)) = (inside.next(), gateway) {
        warnings.push(format!("spec.gateway: {gateway} is inside of {prefix} and may be handed out: exclude it"));
    }
    warnings
}

/// Whether a spec is as it was. An absent default is the default.
pub(super) fn is_same(kind: PoolKind, old: &PoolObject, new: &PoolObject) -> bool {
    let with_length = |spec| match spec {
        Spec::Prefixes(spec) => {
            Spec::Prefixes(PrefixPoolSpec { allocation_prefix_length: Some(spec.allocation_length()), ..spec })
        }
        spec @ Spec::Addresses(_) => spec,
    };
    let meant = |object| decode(kind, object).map(with_length);
    old.spec == new.spec || matches!((meant(old), meant(new)), (Ok(old), Ok(new)) if old == new)
}

/// The error of a prefix pool whose allocation length changes.
pub(super) fn changed_length(kind: PoolKind, old: &PoolObject, new: &PoolObject) -> Option<FieldError> {
    let length = |object: &PoolObject| object.prefix_spec().ok().map(|spec| spec.allocation_length());
    let (old, new) = (length(old)?, length(new)?);
    (kind.is_prefix() && old != new).then(|| FieldError {
        path: "spec.allocationPrefixLength".to_owned(),
        value: new.to_string(),
        reason: format!("must stay {old}"),
    })
}
