//! What a real API server must do with the status of pools.

use capi_ipam::api::names::PoolKind;
use serde_json::{Value, json};

use super::{ADDRESS_KINDS, Case, Expect, GLOBAL, GLOBAL_PREFIX, NAMESPACED, PREFIX, Then, accepted, case, without};

fn full_status() -> Value {
    json!({
        "ipAddresses": { "total": i64::MAX, "free": 9, "used": 1, "outOfRange": 0 },
        "conditions": [
            { "type": "Ready", "status": "True", "reason": "PoolReady", "message": "", "observedGeneration": 1,
              "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "Theirs", "status": "Unknown", "reason": "R", "message": "m",
              "lastTransitionTime": "2026-01-01T00:00:00Z" },
        ],
        "observedGeneration": 1,
        "allocation": {
            "seq": i64::MAX,
            "settledResourceVersion": "123456789012345678901234567890",
            "senders": ["capi-ipam/ns/pod_-_1", "capi-ipam/ns/pod_-_1"],
            "pending": [{ "address": "10.0.0.1", "claim": "ns/a", "claimUID": "u", "seq": 1, "senders": [0, 0] }],
        },
    })
}

/// Cases of the status, through its subresource and around it.
pub(super) fn cases() -> Vec<Case> {
    let spec = |kind: PoolKind, version: &str| match version {
        "v1alpha1" => json!({ "subnet": "10.0.0.0/24" }),
        _ if kind.is_prefix() => json!({ "prefixes": [] }),
        _ => json!({ "addresses": [], "prefix": 0 }),
    };
    let put_in = |name: &'static str, kind: PoolKind, version: &'static str, status: Value, expect: Expect| {
        let mut case = case(name, kind, version, Some(spec(kind, version)), expect);
        case.then = Then::PutStatus(status);
        case
    };
    let put = |name, status, expect| put_in(name, NAMESPACED, "v1alpha2", status, expect);
    let whole = || accepted([("/status", full_status())]);
    let condition = |change: Value| {
        let mut status = full_status();
        let fields = change.as_object().cloned().unwrap_or_default();
        status["conditions"][0].as_object_mut().expect("a condition").extend(fields);
        status
    };
    let mut later = full_status();
    later["later"] = json!(1);
    later["allocation"]["later"] = json!(1);
    later["allocation"]["pending"][0]["later"] = json!(1);
    let mut cases = vec![
        put_in("the whole status of a pool is stored", NAMESPACED, "v1alpha2", full_status(), whole()),
        put_in("the whole status of a global pool is stored", GLOBAL, "v1alpha2", full_status(), whole()),
        put_in("the whole status of a prefix pool is stored", PREFIX, "v1alpha2", full_status(), whole()),
        put_in("the whole status of a global prefix pool is stored", GLOBAL_PREFIX, "v1alpha2", full_status(), whole()),
        put_in("the whole status is stored through the old version", GLOBAL, "v1alpha1", full_status(), whole()),
        put("unknown fields of a status are pruned", later, whole()),
        put("an empty status is stored", json!({}), without(["/status/ipAddresses", "/status/allocation"])),
        put(
            "an empty record is stored",
            json!({ "allocation": { "seq": 1, "settledResourceVersion": "", "senders": [], "pending": [] } }),
            accepted([("/status/allocation/pending", json!([]))]),
        ),
        put(
            "a record needs no field",
            json!({ "allocation": { "pending": [{}] } }),
            accepted([("/status/allocation", json!({ "pending": [{}] }))]),
        ),
        put(
            "counts come together",
            json!({ "ipAddresses": { "total": 1, "free": 1, "used": 0 } }),
            Expect::Refused("status.ipAddresses.outOfRange: Required value"),
        ),
        put(
            "a condition of an unknown status is refused",
            condition(json!({ "status": "Maybe" })),
            Expect::Refused("status.conditions[0].status"),
        ),
        put(
            "a condition without a time is refused",
            condition(json!({ "lastTransitionTime": "yesterday" })),
            Expect::Refused("status.conditions[0].lastTransitionTime"),
        ),
        put(
            "two conditions of one type are refused",
            condition(json!({ "type": "Theirs" })),
            Expect::Refused("status.conditions[1]: Duplicate value"),
        ),
        put(
            "a seq as text is refused",
            json!({ "allocation": { "seq": "1" } }),
            Expect::Refused("status.allocation.seq"),
        ),
    ];
    for (kind, name) in ADDRESS_KINDS.into_iter().zip([
        "a label written through the old version keeps the record",
        "a label written through the old version keeps the record of a global pool",
    ]) {
        let mut case = case(name, kind, "v1alpha2", Some(spec(kind, "v1alpha2")), whole());
        case.then = Then::PutStatusAndPatch {
            status: full_status(),
            version: "v1alpha1",
            patch: json!({ "metadata": { "labels": { "a": "b" } } }),
        };
        cases.push(case);
    }
    cases
}
