//! What a real API server must do with pools under our CRDs: accept, refuse, fill in and prune, as data.
//!
//! For a server without webhooks: these are the CRDs' own answers. Every object has the name of its case, and the
//! namespaced ones are in `default`.

mod statuses;

use capi_ipam::api::names::{GROUP, PoolKind};
use serde_json::{Value, json};

/// One object and what becomes of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// A sentence, made into a name that the server takes too by [`Case::object_name`].
    pub name: &'static str,
    /// The kind of the object.
    pub kind: PoolKind,
    /// The version that the object is created in, and that the outcome is read in.
    pub version: &'static str,
    /// The object to create.
    pub object: Value,
    /// What is done once it is created.
    pub then: Then,
    /// What must come out of the last request.
    pub expect: Expect,
}

/// What is done to an object after it was created, which must have succeeded.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing: the creation itself is the request to be judged.
    Nothing,
    /// A PUT to `/status` of the object as created, with this status.
    PutStatus(Value),
    /// The same, and then a merge patch of the object through another version.
    PutStatusAndPatch {
        /// The status to put first.
        status: Value,
        /// The version to patch through.
        version: &'static str,
        /// The merge patch.
        patch: Value,
    },
    /// A merge patch of the object.
    Patch(Value),
}

/// The outcome of the last request.
#[derive(Clone, Debug)]
pub enum Expect {
    /// The object is stored so: JSON pointers into it, each with its value, or `None` for absent.
    Accepted(Vec<(&'static str, Option<Value>)>),
    /// 422, with this in the message.
    Refused(&'static str),
}

impl Case {
    /// The name of the object, which the object carries already.
    pub fn object_name(&self) -> String {
        object_name(self.name)
    }

    /// What the object as stored gets wrong, one sentence each.
    pub fn complaints(&self, stored: &Value) -> Vec<String> {
        let Expect::Accepted(checks) = &self.expect else {
            return vec![format!("{}: was accepted", self.name)];
        };
        let wrong = checks.iter().filter(|(pointer, expected)| stored.pointer(pointer) != expected.as_ref());
        let complain = |(pointer, expected): &(&str, Option<Value>)| {
            let show = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
            let (is, should) = (show(stored.pointer(pointer)), show(expected.as_ref()));
            format!("{}: {pointer} is {is}, should be {should}", self.name)
        };
        wrong.map(complain).collect()
    }
}

fn object_name(sentence: &str) -> String {
    sentence.replace(' ', "-")
}

const ADDRESS_KINDS: [PoolKind; 2] = [PoolKind::InClusterIPPool, PoolKind::GlobalInClusterIPPool];
const NAMESPACED: PoolKind = PoolKind::InClusterIPPool;
const GLOBAL: PoolKind = PoolKind::GlobalInClusterIPPool;
const PREFIX: PoolKind = PoolKind::InClusterPrefixPool;
const GLOBAL_PREFIX: PoolKind = PoolKind::GlobalInClusterPrefixPool;

fn case(name: &'static str, kind: PoolKind, version: &'static str, spec: Option<Value>, expect: Expect) -> Case {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/{version}"),
        "kind": kind.kind(),
        "metadata": { "name": object_name(name) },
    });
    if !kind.is_global() {
        object["metadata"]["namespace"] = "default".into();
    }
    if let Some(spec) = spec {
        object["spec"] = spec;
    }
    Case { name, kind, version, object, then: Then::Nothing, expect }
}

fn current(name: &'static str, kind: PoolKind, spec: Value, expect: Expect) -> Case {
    case(name, kind, "v1alpha2", Some(spec), expect)
}

fn old(name: &'static str, kind: PoolKind, spec: Value, expect: Expect) -> Case {
    case(name, kind, "v1alpha1", Some(spec), expect)
}

fn accepted<const N: usize>(checks: [(&'static str, Value); N]) -> Expect {
    Expect::Accepted(checks.into_iter().map(|(pointer, value)| (pointer, Some(value))).collect())
}

fn without<const N: usize>(pointers: [&'static str; N]) -> Expect {
    Expect::Accepted(pointers.into_iter().map(|pointer| (pointer, None)).collect())
}

/// All cases. Their names are unique.
pub fn cases() -> Vec<Case> {
    [
        stored_address_specs(),
        refused_address_specs(),
        old_specs(),
        prefix_specs(),
        whole_objects(),
        patches(),
        statuses::cases(),
    ]
    .concat()
}

/// A good address pool with these fields added or replaced.
fn pool(fields: Value) -> Value {
    let mut whole = json!({ "addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24 });
    if let (Some(whole), Value::Object(fields)) = (whole.as_object_mut(), fields) {
        whole.extend(fields);
    }
    whole
}

fn stored_address_specs() -> Vec<Case> {
    let defaults = [
        "/spec/gateway",
        "/spec/allocateReservedIPAddresses",
        "/spec/excludedAddresses",
        "/spec/addressReuseGracePeriodSeconds",
        "/status",
    ];
    vec![
        current("the least pool gets no defaults", NAMESPACED, pool(json!({})), without(defaults)),
        current("the least global pool gets no defaults", GLOBAL, pool(json!({})), without(defaults)),
        current(
            "every field is stored",
            GLOBAL,
            json!({ "addresses": ["fd00::/120"], "prefix": 120, "gateway": "fd00::1", "allocateReservedIPAddresses": true,
                    "excludedAddresses": ["fd00::5"], "addressReuseGracePeriodSeconds": 60 }),
            accepted([(
                "/spec",
                json!({ "addresses": ["fd00::/120"], "prefix": 120, "gateway": "fd00::1",
                        "allocateReservedIPAddresses": true, "excludedAddresses": ["fd00::5"],
                        "addressReuseGracePeriodSeconds": 60 }),
            )]),
        ),
        current(
            "empty values stay as they are written",
            NAMESPACED,
            pool(json!({ "gateway": "", "excludedAddresses": [], "allocateReservedIPAddresses": false,
                         "addressReuseGracePeriodSeconds": 0 })),
            accepted([
                ("/spec/gateway", json!("")),
                ("/spec/excludedAddresses", json!([])),
                ("/spec/allocateReservedIPAddresses", json!(false)),
                ("/spec/addressReuseGracePeriodSeconds", json!(0)),
            ]),
        ),
        current("no addresses at all are stored", NAMESPACED, pool(json!({ "addresses": [] })), accepted([])),
        current(
            "nonsense is stored and left to the webhook",
            NAMESPACED,
            json!({ "addresses": ["nonsense", "nonsense", ""], "prefix": 24, "gateway": "no gateway" }),
            accepted([("/spec/addresses", json!(["nonsense", "nonsense", ""]))]),
        ),
        current("prefix 0 is legal", NAMESPACED, pool(json!({ "prefix": 0 })), accepted([("/spec/prefix", json!(0))])),
        current(
            "prefix 128 is legal",
            GLOBAL,
            pool(json!({ "prefix": 128 })),
            accepted([("/spec/prefix", json!(128))]),
        ),
        current(
            "unknown fields of a spec are pruned",
            NAMESPACED,
            pool(json!({ "start": "10.0.0.1", "subnet": "10.0.0.0/24", "later": { "a": 1 } })),
            without(["/spec/start", "/spec/subnet", "/spec/later"]),
        ),
        current("a null gateway is dropped", NAMESPACED, pool(json!({ "gateway": null })), without(["/spec/gateway"])),
        current(
            "the longest grace period is an int32",
            GLOBAL,
            pool(json!({ "addressReuseGracePeriodSeconds": i32::MAX })),
            accepted([("/spec/addressReuseGracePeriodSeconds", json!(i32::MAX))]),
        ),
    ]
}

fn refused_address_specs() -> Vec<Case> {
    vec![
        current("prefix 129 is refused", NAMESPACED, pool(json!({ "prefix": 129 })), Expect::Refused("spec.prefix")),
        current("prefix below 0 is refused", GLOBAL, pool(json!({ "prefix": -1 })), Expect::Refused("spec.prefix")),
        current("a prefix as text is refused", GLOBAL, pool(json!({ "prefix": "24" })), Expect::Refused("spec.prefix")),
        current(
            "a broken prefix number is refused",
            NAMESPACED,
            pool(json!({ "prefix": 24.5 })),
            Expect::Refused("spec.prefix"),
        ),
        current(
            "addresses are required",
            NAMESPACED,
            json!({ "prefix": 24 }),
            Expect::Refused("spec.addresses: Required value"),
        ),
        current(
            "the prefix is required",
            GLOBAL,
            json!({ "addresses": ["10.0.0.1"] }),
            Expect::Refused("spec.prefix: Required value"),
        ),
        current("an empty spec is refused", NAMESPACED, json!({}), Expect::Refused("spec.addresses: Required value")),
        current(
            "null addresses are refused",
            GLOBAL,
            pool(json!({ "addresses": null })),
            Expect::Refused("spec.addresses"),
        ),
        current(
            "addresses as text are refused",
            NAMESPACED,
            pool(json!({ "addresses": "10.0.0.1" })),
            Expect::Refused("spec.addresses"),
        ),
        current(
            "an address as a number is refused",
            NAMESPACED,
            pool(json!({ "addresses": ["10.0.0.1", 7] })),
            Expect::Refused("spec.addresses[1]"),
        ),
        current(
            "a flag as text is refused",
            NAMESPACED,
            pool(json!({ "allocateReservedIPAddresses": "yes" })),
            Expect::Refused("spec.allocateReservedIPAddresses"),
        ),
        current(
            "a negative grace period is refused",
            GLOBAL,
            pool(json!({ "addressReuseGracePeriodSeconds": -1 })),
            Expect::Refused("spec.addressReuseGracePeriodSeconds"),
        ),
        current(
            "a grace period beyond an int32 is refused",
            GLOBAL,
            pool(json!({ "addressReuseGracePeriodSeconds": i64::from(i32::MAX) + 1 })),
            Expect::Refused("spec.addressReuseGracePeriodSeconds"),
        ),
    ]
}

fn old_specs() -> Vec<Case> {
    vec![
        old("nothing is required in the old version", NAMESPACED, json!({}), accepted([("/spec", json!({}))])),
        old(
            "addresses are stored through the old version",
            GLOBAL,
            json!({ "addresses": ["10.0.0.9"] }),
            accepted([("/spec/addresses", json!(["10.0.0.9"]))]),
        ),
        old(
            "an old prefix below 0 is stored",
            NAMESPACED,
            json!({ "prefix": -1 }),
            accepted([("/spec/prefix", json!(-1))]),
        ),
        old("an old prefix of 129 is refused", NAMESPACED, json!({ "prefix": 129 }), Expect::Refused("spec.prefix")),
        old("an old subnet as a number is refused", GLOBAL, json!({ "subnet": 10 }), Expect::Refused("spec.subnet")),
        old("an old null start is dropped", NAMESPACED, json!({ "start": null }), without(["/spec/start"])),
        old(
            "new fields are pruned from the old version",
            GLOBAL,
            json!({ "excludedAddresses": ["10.0.0.1"], "allocateReservedIPAddresses": true,
                    "addressReuseGracePeriodSeconds": 5 }),
            without([
                "/spec/excludedAddresses",
                "/spec/allocateReservedIPAddresses",
                "/spec/addressReuseGracePeriodSeconds",
            ]),
        ),
    ]
}

const LENGTH: &str = "spec.allocationPrefixLength";

fn prefix_specs() -> Vec<Case> {
    let length = |length: Value| json!({ "prefixes": ["fd00::/48"], "allocationPrefixLength": length });
    vec![
        current(
            "an absent allocation length becomes 64",
            PREFIX,
            json!({ "prefixes": ["fd00::/48"] }),
            accepted([("/spec", json!({ "prefixes": ["fd00::/48"], "allocationPrefixLength": 64 }))]),
        ),
        current(
            "a null allocation length becomes 64",
            GLOBAL_PREFIX,
            length(Value::Null),
            accepted([("/spec/allocationPrefixLength", json!(64))]),
        ),
        current("allocation length 1 is legal", PREFIX, length(json!(1)), accepted([])),
        current("allocation length 128 is legal", GLOBAL_PREFIX, length(json!(128)), accepted([])),
        current("allocation length 0 is refused", PREFIX, length(json!(0)), Expect::Refused(LENGTH)),
        current("allocation length 129 is refused", GLOBAL_PREFIX, length(json!(129)), Expect::Refused(LENGTH)),
        current("an allocation length as text is refused", PREFIX, length(json!("64")), Expect::Refused(LENGTH)),
        current("prefixes are required", PREFIX, json!({}), Expect::Refused("spec.prefixes: Required value")),
        current("no prefixes at all are stored", GLOBAL_PREFIX, json!({ "prefixes": [] }), accepted([])),
        current(
            "every field of a prefix pool is stored and others pruned",
            GLOBAL_PREFIX,
            json!({ "prefixes": ["x"], "allocationPrefixLength": 80, "excludedPrefixes": ["y"], "gateway": "z",
                    "addresses": ["10.0.0.1"], "prefix": 24 }),
            accepted([(
                "/spec",
                json!({ "prefixes": ["x"], "allocationPrefixLength": 80, "excludedPrefixes": ["y"], "gateway": "z" }),
            )]),
        ),
    ]
}

fn whole_objects() -> Vec<Case> {
    let with_status = |name: &'static str, status: Value, expect: Expect| {
        let mut case = current(name, NAMESPACED, json!({ "addresses": [], "prefix": 0 }), expect);
        case.object["status"] = status;
        case
    };
    let mut unknown = current(
        "unknown fields of the object are pruned",
        GLOBAL,
        json!({ "addresses": [], "prefix": 0 }),
        without(["/later"]),
    );
    unknown.object["later"] = json!({ "a": 1 });
    vec![
        case("a pool without spec is stored", NAMESPACED, "v1alpha2", None, without(["/spec"])),
        case("a global pool without spec is stored", GLOBAL, "v1alpha2", None, without(["/spec"])),
        case("an old pool without spec is stored", NAMESPACED, "v1alpha1", None, without(["/spec"])),
        case("a prefix pool without spec is stored", PREFIX, "v1alpha2", None, without(["/spec"])),
        current("a spec that is a list is refused", GLOBAL, json!([]), Expect::Refused("spec")),
        with_status("an empty status may be sent along", json!({}), accepted([])),
        with_status(
            "a status sent along is dropped on creation",
            json!({ "observedGeneration": 5 }),
            without(["/status/observedGeneration"]),
        ),
        unknown,
    ]
}

fn patches() -> Vec<Case> {
    let patch = |name: &'static str, kind: PoolKind, patch: Value, expect: Expect| {
        let mut case = current(name, kind, json!({ "addresses": ["nonsense"], "prefix": 24 }), expect);
        case.then = Then::Patch(patch);
        case
    };
    vec![
        patch(
            "a stored bad pool can be labelled",
            NAMESPACED,
            json!({ "metadata": { "labels": { "a": "b" } } }),
            accepted([("/metadata/labels/a", json!("b")), ("/spec/addresses", json!(["nonsense"]))]),
        ),
        patch(
            "a finalizer can be put on a stored bad pool",
            GLOBAL,
            json!({ "metadata": { "finalizers": ["ipam.cluster.x-k8s.io/ProtectPool"] } }),
            accepted([("/metadata/finalizers", json!(["ipam.cluster.x-k8s.io/ProtectPool"]))]),
        ),
        patch(
            "addresses cannot be taken away",
            NAMESPACED,
            json!({ "spec": { "addresses": null } }),
            Expect::Refused("spec.addresses: Required value"),
        ),
        patch(
            "the status is not changed through the object",
            NAMESPACED,
            json!({ "status": { "observedGeneration": 5 } }),
            without(["/status/observedGeneration"]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_and_version_is_covered_by_an_accepted_and_a_refused_object() {
        let covered: BTreeSet<_> =
            cases().iter().map(|case| (case.kind, case.version, matches!(case.expect, Expect::Accepted(_)))).collect();
        for kind in PoolKind::ALL {
            for version in ["v1alpha1", "v1alpha2"] {
                for accepted in [true, false] {
                    let exists = version == "v1alpha2" || !kind.is_prefix();
                    assert_eq!(covered.contains(&(kind, version, accepted)), exists, "{kind} {version} {accepted}");
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_fit_an_object() {
        let names: BTreeSet<_> = cases().iter().map(Case::object_name).collect();
        assert_eq!(names.len(), cases().len());
        for name in names {
            assert!(
                name.len() <= 253 && name.bytes().all(|b| b.is_ascii_lowercase() || b"-0123456789".contains(&b)),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_stored_otherwise_is_complained_about() {
        let case = current("a case", NAMESPACED, json!({}), accepted([("/spec/prefix", json!(1))]));
        assert!(case.complaints(&json!({"spec": {"prefix": 1}})).is_empty());
        assert_eq!(case.complaints(&json!({"spec": {}})), ["a case: /spec/prefix is absent, should be 1"]);
        let pruned = current("a case", NAMESPACED, json!({}), without(["/spec/later"]));
        assert_eq!(pruned.complaints(&json!({"spec": {"later": 2}})), ["a case: /spec/later is 2, should be absent"]);
    }
}
