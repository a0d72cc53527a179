//! Pools that can hand out the same addresses: nobody who asks two pools notices that they gave him one address.

use super::PoolKind;
use crate::api::parse::FieldError;
use crate::ipam::pool::Pool;
use crate::ipam::range::Range;
use crate::pool::key::PoolKey;

/// One overlap is a mistake to mend, a hundred are a plan: more than this are counted.
const NAMED: usize = 3;

/// A pool that can hand out some of the same addresses.
pub(super) struct Overlap<'a> {
    key: &'a PoolKey,
    pub(super) other: &'a Pool,
    /// The lowest addresses that both may hand out.
    common: Range,
}

/// The pools that overlap one: those of its namespace and the Global ones, and all where it is Global itself.
pub(super) fn found<'a>(key: &PoolKey, pool: &Pool, others: &'a [(PoolKey, Pool)]) -> Vec<Overlap<'a>> {
    let meets = |other: &PoolKey| {
        other != key && (key.kind.is_global() || other.kind.is_global() || other.namespace == key.namespace)
    };
    let others = others.iter().filter(|(other, _)| meets(other));
    others.filter_map(|(key, other)| Some(Overlap { key, other, common: pool.overlap(other)? })).collect()
}

fn field(kind: PoolKind) -> &'static str {
    if kind.is_prefix() { "spec.prefixes" } else { "spec.addresses" }
}

/// A warning for each, up to a number.
pub(super) fn warnings(kind: PoolKind, overlaps: &[Overlap<'_>]) -> Vec<String> {
    let mut warnings: Vec<String> = overlaps
        .iter()
        .take(NAMED)
        .map(|Overlap { key, common, .. }| format!("{}: {key} can hand out {common} too", field(kind)))
        .collect();
    if let Some(more) = overlaps.len().checked_sub(NAMED).filter(|more| *more > 0) {
        warnings.push(format!("{}: pools that can hand out some of it beside these: {more}", field(kind)));
    }
    warnings
}

/// The refusal of all of them.
pub(super) fn error(kind: PoolKind, overlaps: &[Overlap<'_>]) -> FieldError {
    let named: Vec<String> =
        overlaps.iter().take(NAMED).map(|Overlap { key, common, .. }| format!("{common} ({key})")).collect();
    let more = overlaps.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let reason = format!("overlaps other pools, which --overlap=deny forbids: {}{more}", named.join(", "));
    FieldError { path: field(kind).to_owned(), value: String::new(), reason }
}
