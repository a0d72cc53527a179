//! Every rule of admission, on values.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::api::parse;

/// What is known: nothing, or these addresses and pools.
#[derive(Default)]
struct Known {
    blind: bool,
    barred: bool,
    holdings: HashMap<PoolKey, Vec<(ObjectKey, HeldOrText)>>,
    pools: Vec<(PoolKey, Pool)>,
}

impl Facts for Known {
    fn holdings(&self, pool: &PoolKey, look: &mut dyn FnMut(&ObjectKey, &HeldOrText)) -> Seen {
        if self.barred {
            return Seen::Hidden;
        }
        if self.blind {
            return Seen::NotYet;
        }
        for (object, held) in self.holdings.get(pool).into_iter().flatten() {
            look(object, held);
        }
        Seen::All
    }

    fn pools(&self) -> Option<Vec<(PoolKey, Pool)>> {
        (!self.blind).then(|| self.pools.clone())
    }
}

impl Known {
    fn holding(mut self, addresses: &[(&str, i64)]) -> Self {
        for kind in PoolKind::ALL {
            let holding = |(number, (text, prefix)): (usize, &(&str, i64))| {
                let held = parse::held(text, Some(*prefix)).map_err(|_| (*text).to_owned());
                (ObjectKey::new("ns", &format!("c{number}")), held)
            };
            self.holdings.insert(key(kind, "p"), addresses.iter().enumerate().map(holding).collect());
        }
        self
    }

    fn beside(mut self, kind: PoolKind, namespace: &str, name: &str, spec: &Value) -> Self {
        let read = spec::read(kind, &object(spec));
        self.pools.push((PoolKey::referenced(kind, namespace, name), read.pool.expect("a valid pool")));
        self
    }
}

fn key(kind: PoolKind, name: &str) -> PoolKey {
    PoolKey::referenced(kind, "ns", name)
}

fn object(spec: &Value) -> PoolObject {
    serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": spec })).expect("a pool")
}

const IP: PoolKind = PoolKind::InClusterIPPool;
const PREFIX: PoolKind = PoolKind::InClusterPrefixPool;

fn create(kind: PoolKind, spec: &Value) -> Verdict {
    let operation = Operation::Create(Box::new(object(spec)));
    decide(&key(kind, "p"), &operation, &Known::default(), Policy::default())
}

fn update(kind: PoolKind, old: &Value, new: &Value, known: &Known) -> Verdict {
    let operation = Operation::Update(Box::new(object(old)), Box::new(object(new)));
    decide(&key(kind, "p"), &operation, known, Policy::default())
}

fn errors(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Invalid(errors) => errors.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn paths(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Invalid(errors) => errors.into_iter().map(|error| error.path).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ip_pools_that_hold_together_are_allowed() {
    for spec in [
        json!({ "addresses": ["10.0.0.0/24"], "prefix": 24, "gateway": "10.0.0.1" }),
        json!({ "addresses": ["10.0.0.10", "10.0.0.5-10.0.0.7"], "prefix": 24, "gateway": "" }),
        json!({ "addresses": ["10.0.0.10/24"], "prefix": 24, "excludedAddresses": ["10.0.0.0/28", "10.0.1.1"] }),
        json!({ "addresses": ["fd00::/64"], "prefix": 64, "addressReuseGracePeriodSeconds": 0 }),
        json!({ "addresses": ["10.0.0.1", "200.0.0.1"], "prefix": 0 }),
    ] {
        assert_eq!(create(IP, &spec), Verdict::allowed(), "{spec}");
        assert_eq!(create(PoolKind::GlobalInClusterIPPool, &spec), Verdict::allowed(), "{spec}");
    }
}

#[test]
fn each_fault_of_an_ip_pool_is_refused_with_its_field() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({ "addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24 });
        spec[field] = value;
        spec
    };
    for (spec, path) in [
        (json!({}), "spec.addresses"),
        (with("addresses", json!([])), "spec.addresses"),
        (with("addresses", json!("10.0.0.1")), "spec.addresses"),
        (with("addresses", json!(["10.0.0.10", "oops"])), "spec.addresses[1]"),
        (with("addresses", json!(["10.0.0.20-10.0.0.10"])), "spec.addresses[0]"),
        (with("addresses", json!(["10.0.0.0/33"])), "spec.addresses[0]"),
        (with("addresses", json!(["10.0.0.10", "fd00::1"])), "spec.addresses[1]"),
        (with("addresses", json!(["10.0.0.10", "10.0.1.10"])), "spec.addresses[1]"),
        (with("excludedAddresses", json!(["10.0.0.11", "x"])), "spec.excludedAddresses[1]"),
        (with("excludedAddresses", json!(["fd00::1"])), "spec.excludedAddresses[0]"),
        (with("excludedAddresses", json!(["10.0.0.1", "fd00::1"])), "spec.excludedAddresses[1]"),
        (with("gateway", json!("10.0.0.256")), "spec.gateway"),
        (with("gateway", json!("fd00::1")), "spec.gateway"),
        (with("prefix", json!(33)), "spec.prefix"),
        (with("prefix", json!(-1)), "spec.prefix"),
        (with("addressReuseGracePeriodSeconds", json!(-1)), "spec.addressReuseGracePeriodSeconds"),
    ] {
        assert_eq!(paths(create(IP, &spec)), [path], "{spec}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let spec = json!({
        "addresses": ["10.0.0.1", "10.9.0.1"], "prefix": 24, "gateway": "gate", "excludedAddresses": ["x"],
        "addressReuseGracePeriodSeconds": -5,
    });
    let mut found = paths(create(IP, &spec));
    found.sort();
    assert_eq!(
        found,
        ["spec.addressReuseGracePeriodSeconds", "spec.addresses[1]", "spec.excludedAddresses[0]", "spec.gateway"]
    );
}

#[test]
fn each_fault_of_a_prefix_pool_is_refused_with_its_field() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({ "prefixes": ["fd00::/48"], "allocationPrefixLength": 64 });
        spec[field] = value;
        spec
    };
    for (spec, path) in [
        (json!({}), "spec.prefixes"),
        (with("prefixes", json!(["fd00::"])), "spec.prefixes[0]"),
        (with("prefixes", json!(["fd00::-fd00::1"])), "spec.prefixes[0]"),
        (with("prefixes", json!(["fd00::/48", "10.0.0.0/24"])), "spec.prefixes[1]"),
        (with("prefixes", json!(["fd00::1/48"])), "spec.prefixes[0]"),
        (with("prefixes", json!(["fd00::/65"])), "spec.prefixes[0]"),
        (with("allocationPrefixLength", json!(129)), "spec.allocationPrefixLength"),
        (with("allocationPrefixLength", json!(-1)), "spec.allocationPrefixLength"),
        (with("gateway", json!("10.0.0.1")), "spec.gateway"),
        (with("gateway", json!("x")), "spec.gateway"),
        (with("excludedPrefixes", json!(["x"])), "spec.excludedPrefixes[0]"),
        (with("excludedPrefixes", json!(["10.0.0.1"])), "spec.excludedPrefixes[0]"),
    ] {
        assert_eq!(paths(create(PREFIX, &spec)), [path], "{spec}");
    }
    assert_eq!(create(PREFIX, &json!({ "prefixes": ["fd00::/64"] })), Verdict::allowed());
}

#[test]
fn prefixes_of_single_addresses_are_warned_of_with_their_fields() {
    let warnings = |spec: &Value| match create(PREFIX, spec) {
        Verdict::Allowed(warnings) => warnings,
        other => panic!("{other:?}"),
    };
    let mut spec = json!({ "prefixes": ["fd00::/120"], "allocationPrefixLength": 128, "gateway": "fd00:1::1" });
    let found = warnings(&spec);
    assert!(found.len() == 1 && found[0].starts_with("spec.allocationPrefixLength: "), "{found:?}");
    spec["gateway"] = json!("fd00::1");
    let found = warnings(&spec);
    assert!(found.len() == 2 && found[1].starts_with("spec.gateway: fd00::1 is inside of fd00::/120"), "{found:?}");
    spec["allocationPrefixLength"] = json!(127);
    assert!(warnings(&spec).is_empty());
    for warning in found {
        assert!(warning.len() <= 256, "the API server cuts off longer ones: {warning}");
    }
}

#[test]
fn the_allocation_length_stays_and_absent_is_64() {
    let spec = |length: Value| json!({ "prefixes": ["fd00::/48"], "allocationPrefixLength": length });
    let known = Known::default();
    for (old, new) in [(json!(64), json!(0)), (json!(0), json!(64)), (Value::Null, json!(64)), (json!(64), Value::Null)]
    {
        assert_eq!(update(PREFIX, &spec(old), &spec(new), &known), Verdict::allowed());
    }
    let refused = update(PREFIX, &spec(json!(64)), &spec(json!(80)), &known);
    assert_eq!(errors(refused), [r#"spec.allocationPrefixLength: "80" must stay 64"#]);
}

#[test]
fn addresses_in_use_must_stay_allocatable_and_the_field_that_takes_them_is_named() {
    let old = json!({ "addresses": ["10.0.0.0/24"], "prefix": 24, "allocateReservedIPAddresses": true });
    let known = Known::default().holding(&[("10.0.0.0", 24), ("10.0.0.10", 24), ("10.0.0.11", 24)]);
    let with = |field: &str, value: Value| {
        let mut spec = old.clone();
        spec[field] = value;
        update(IP, &old, &spec, &known)
    };
    for (verdict, expected) in [
        (
            with("addresses", json!(["10.0.0.0/29"])),
            "spec.addresses: leaves out what is in use: 10.0.0.10 (ns/c1), 10.0.0.11 (ns/c2)",
        ),
        (
            with("excludedAddresses", json!(["10.0.0.99", "10.0.0.8/30"])),
            r#"spec.excludedAddresses[1]: "10.0.0.8/30" excludes what is in use: 10.0.0.10 (ns/c1), 10.0.0.11 (ns/c2)"#,
        ),
        (with("gateway", json!("10.0.0.10")), r#"spec.gateway: "10.0.0.10" is in use: 10.0.0.10 (ns/c1)"#),
        (
            with("allocateReservedIPAddresses", json!(false)),
            r#"spec.allocateReservedIPAddresses: "false" reserves what is in use: 10.0.0.0 (ns/c0)"#,
        ),
    ] {
        assert_eq!(errors(verdict), [expected]);
    }
    assert_eq!(with("addresses", json!(["10.0.0.0/24", "10.0.0.0/28"])), Verdict::allowed());
    assert_eq!(with("gateway", json!("10.0.0.12")), Verdict::allowed());
}

#[test]
fn a_longer_prefix_must_not_reserve_what_is_in_use() {
    let spec = |prefix: i64| json!({ "addresses": ["10.0.0.0-10.0.0.15"], "prefix": prefix });
    let known = Known::default().holding(&[("10.0.0.15", 24)]);
    let refused = update(IP, &spec(24), &spec(28), &known);
    assert_eq!(errors(refused), [r#"spec.prefix: "28" reserves what is in use: 10.0.0.15 (ns/c0)"#]);
}

#[test]
fn what_was_out_of_range_before_does_not_count() {
    let known = Known::default().holding(&[("10.0.0.10", 24), ("10.9.9.9", 24), ("oops", 24), ("fd00::1", 64)]);
    let old = json!({ "addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24 });
    let new = json!({ "addresses": ["10.0.0.10-10.0.0.12"], "prefix": 24 });
    assert_eq!(update(IP, &old, &new, &known), Verdict::allowed());
    let invalid = json!({ "addresses": ["10.0.0.10-10.0.0.20", "oops"], "prefix": 24 });
    assert_eq!(update(IP, &invalid, &json!({ "addresses": ["10.0.0.20"], "prefix": 24 }), &known), Verdict::allowed());
}

#[test]
fn prefixes_in_use_must_stay_allocatable() {
    let spec = |prefixes: Value| json!({ "prefixes": prefixes });
    let known = Known::default().holding(&[("fd00:0:0:3::", 64), ("fd00:0:0:1::", 65)]);
    let refused = update(PREFIX, &spec(json!(["fd00::/48"])), &spec(json!(["fd00::/63"])), &known);
    assert_eq!(errors(refused), ["spec.prefixes: leaves out what is in use: fd00:0:0:3::/64 (ns/c0)"]);
    let excluding = json!({ "prefixes": ["fd00::/48"], "excludedPrefixes": ["fd00:0:0:3::5"] });
    let refused = update(PREFIX, &spec(json!(["fd00::/48"])), &excluding, &known);
    assert_eq!(
        errors(refused),
        [r#"spec.excludedPrefixes[0]: "fd00:0:0:3::5" excludes what is in use: fd00:0:0:3::/64 (ns/c0)"#]
    );
    let gateway = json!({ "prefixes": ["fd00::/48"], "gateway": "fd00:0:0:3::1" });
    assert_eq!(
        update(PREFIX, &spec(json!(["fd00::/48"])), &gateway, &known),
        Verdict::allowed(),
        "it reserves nothing"
    );
}

#[test]
fn promised_addresses_of_the_old_object_count_as_in_use() {
    let spec = json!({ "addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24 });
    let mut old = object(&spec);
    old.status = Some(json!({ "allocation": {
        "seq": 1, "settledResourceVersion": "1", "senders": ["me"],
        "pending": [{ "address": "10.0.0.15", "claim": "ns/new", "claimUID": "u", "seq": 1, "senders": [0] }],
    } }));
    let new = object(&json!({ "addresses": ["10.0.0.10-10.0.0.14"], "prefix": 24 }));
    let operation = Operation::Update(Box::new(old), Box::new(new));
    let refused = decide(&key(IP, "p"), &operation, &Known::default(), Policy::default());
    assert_eq!(errors(refused), ["spec.addresses: leaves out what is in use: 10.0.0.15 (ns/new)"]);
}

#[test]
fn many_addresses_in_use_are_counted() {
    let addresses: Vec<String> = (0..25).map(|n| format!("10.0.0.{n}")).collect();
    let held: Vec<(&str, i64)> = addresses.iter().map(|text| (text.as_str(), 24)).collect();
    let known = Known::default().holding(&held);
    let old = json!({ "addresses": ["10.0.0.0-10.0.1.255"], "prefix": 16, "allocateReservedIPAddresses": true });
    let new = json!({ "addresses": ["10.0.1.0-10.0.1.255"], "prefix": 16, "allocateReservedIPAddresses": true });
    let told = errors(update(IP, &old, &new, &known));
    assert!(told[0].ends_with("10.0.0.9 (ns/c9) and 15 more"), "{told:?}");
}

#[test]
fn an_unchanged_spec_is_always_accepted() {
    for (kind, spec) in [
        (IP, json!({ "addresses": ["oops"], "prefix": 24 })),
        (IP, json!({ "addresses": 5 })),
        (IP, Value::Null),
        (PREFIX, json!({ "prefixes": ["10.0.0.0/8"] })),
    ] {
        let known = Known { blind: true, ..Known::default() };
        assert_eq!(update(kind, &spec, &spec, &known), Verdict::allowed(), "{spec}");
        assert!(matches!(create(kind, &spec), Verdict::Invalid(_)), "{spec}");
    }
    let absent = json!({ "prefixes": ["10.0.0.0/8"] });
    let filled = json!({ "prefixes": ["10.0.0.0/8"], "allocationPrefixLength": 64 });
    assert_eq!(update(PREFIX, &absent, &filled, &Known::default()), Verdict::allowed(), "a default is no change");
}

#[test]
fn an_object_that_is_being_deleted_may_be_updated() {
    let mut new = object(&json!({ "addresses": ["oops"] }));
    new.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    let operation = Operation::Update(Box::new(object(&json!({ "addresses": ["10.0.0.1"] }))), Box::new(new));
    let known = Known { blind: true, ..Known::default() };
    assert_eq!(decide(&key(IP, "p"), &operation, &known, Policy::default()), Verdict::allowed());
}

#[test]
fn a_pool_in_use_is_not_deleted_unless_it_says_so() {
    let addresses: Vec<String> = (1..=12).map(|n| format!("10.0.0.{n}")).collect();
    let mut held: Vec<(&str, i64)> = addresses.iter().map(|text| (text.as_str(), 24)).collect();
    held[1] = ("oops", 24);
    let known = Known::default().holding(&held);
    // With a spec that cannot be read, too.
    let mut pool = object(&json!({ "addresses": 7 }));
    let delete = |pool: &PoolObject, known: &Known| {
        decide(&key(IP, "p"), &Operation::Delete(Box::new(pool.clone())), known, Policy::default())
    };
    let Verdict::InUse(message) = delete(&pool, &known) else { panic!("it is in use") };
    assert_eq!(
        message,
        "InClusterIPPool ns/p cannot be deleted, IPAddress objects of it are in use: ns/c0 (10.0.0.1), ns/c1 (\"oops\"), \
         ns/c2 (10.0.0.3), ns/c3 (10.0.0.4), ns/c4 (10.0.0.5), ns/c5 (10.0.0.6), ns/c6 (10.0.0.7), ns/c7 (10.0.0.8), \
         ns/c8 (10.0.0.9), ns/c9 (10.0.0.10) and 2 more"
    );
    assert_eq!(delete(&pool, &Known::default()), Verdict::allowed());
    let blind = Known { blind: true, ..Known::default() };
    assert_eq!(delete(&pool, &blind), Verdict::Unknown);
    for annotation in
        ["ipam.cluster.x-k8s.io/skip-validate-delete-webhook", "clusterctl.cluster.x-k8s.io/delete-for-move"]
    {
        pool.metadata.annotations = Some([(annotation.to_owned(), String::new())].into());
        assert_eq!(delete(&pool, &known), Verdict::allowed(), "{annotation}");
        assert_eq!(delete(&pool, &blind), Verdict::allowed(), "{annotation}");
    }
}

#[test]
fn whoever_may_not_see_the_addresses_of_a_pool_says_so_and_stands_in_nobodys_way() {
    let barred = Known { barred: true, ..Known::default() };
    let said = Verdict::Allowed(vec![
        "InClusterIPPool ns/p: this provider has no right to see its IPAddresses: whether any are in use was not looked \
         at"
        .to_owned(),
    ]);
    let old = json!({ "addresses": ["10.0.0.0/24"], "prefix": 24 });
    let new = json!({ "addresses": ["10.0.1.0/24"], "prefix": 24 });
    assert_eq!(update(IP, &old, &new, &barred), said);
    assert_eq!(decide(&key(IP, "p"), &Operation::Delete(Box::new(object(&old))), &barred, Policy::default()), said);
    let wrong = json!({ "addresses": ["oops"], "prefix": 24 });
    assert_eq!(paths(update(IP, &old, &wrong, &barred)), ["spec.addresses[0]"]);
}

#[test]
fn overlapping_pools_are_warned_of_or_denied() {
    let spec = |addresses: &str| json!({ "addresses": [addresses], "prefix": 24 });
    let known = Known::default()
        .beside(IP, "ns", "same", &spec("10.0.0.10-10.0.0.20"))
        .beside(IP, "other", "elsewhere", &spec("10.0.0.10-10.0.0.20"))
        .beside(PoolKind::GlobalInClusterIPPool, "", "global", &spec("10.0.0.15-10.0.0.30"))
        .beside(IP, "ns", "p", &spec("10.0.0.0/24"));
    let new = object(&spec("10.0.0.18-10.0.0.40"));
    let verdict =
        |key: &PoolKey, operation: &Operation, deny_overlap| decide(key, operation, &known, Policy { deny_overlap });
    let create = Operation::Create(Box::new(new.clone()));
    let Verdict::Allowed(warnings) = verdict(&key(IP, "p"), &create, false) else { panic!("warned of") };
    assert_eq!(
        warnings,
        [
            "spec.addresses: InClusterIPPool ns/same can hand out 10.0.0.18-10.0.0.20 too",
            "spec.addresses: GlobalInClusterIPPool global can hand out 10.0.0.18-10.0.0.30 too",
        ]
    );
    let global = PoolKey::referenced(PoolKind::GlobalInClusterIPPool, "", "mine");
    let Verdict::Allowed(warnings) = verdict(&global, &create, false) else { panic!("warned of") };
    assert_eq!(warnings.len(), 4, "a Global pool meets all, and more than three are counted: {warnings:?}");
    assert_eq!(warnings[3], "spec.addresses: pools that can hand out some of it beside these: 1");
    assert_eq!(
        errors(verdict(&key(IP, "p"), &create, true)),
        ["spec.addresses: overlaps other pools, which --overlap=deny forbids: 10.0.0.18-10.0.0.20 (InClusterIPPool \
          ns/same), 10.0.0.18-10.0.0.30 (GlobalInClusterIPPool global)"]
    );
    // An overlap that is there already may stay.
    let overlapped = object(&spec("10.0.0.20-10.0.0.50"));
    let update = Operation::Update(Box::new(overlapped), Box::new(new));
    assert!(matches!(verdict(&key(IP, "p"), &update, true), Verdict::Allowed(warnings) if warnings.len() == 2));
    let blind = Known { blind: true, ..Known::default() };
    assert_eq!(decide(&key(IP, "p"), &create, &blind, Policy { deny_overlap: true }), Verdict::Unknown);
    assert_eq!(decide(&key(IP, "p"), &create, &blind, Policy::default()), Verdict::allowed());
}

#[test]
fn only_prefix_pools_without_a_length_are_given_one() {
    for (kind, spec, length) in [
        (PREFIX, json!({}), Some(64)),
        (PoolKind::GlobalInClusterPrefixPool, json!({ "allocationPrefixLength": 0 }), Some(64)),
        (PREFIX, json!({ "allocationPrefixLength": null }), Some(64)),
        (PREFIX, json!({ "allocationPrefixLength": 80 }), None),
        (PREFIX, json!({ "allocationPrefixLength": "64" }), None),
        (PREFIX, Value::Null, None),
        (PREFIX, json!([]), None),
        (IP, json!({}), None),
        (PoolKind::GlobalInClusterIPPool, json!({}), None),
    ] {
        assert_eq!(missing_length(kind, &object(&spec)), length, "{kind} {spec}");
    }
}
