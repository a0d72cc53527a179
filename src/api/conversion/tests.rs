//! Objects as users and the provider that this one replaces write them, and arbitrary ones in both directions.

use proptest::prelude::*;

use super::*;

const OLD: &str = "ipam.cluster.x-k8s.io/v1alpha1";
const NEW: &str = "ipam.cluster.x-k8s.io/v1alpha2";
const DATA: &str = CONVERSION_DATA_ANNOTATION;

fn object(version: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": "InClusterIPPool", "metadata": { "name": "p", "uid": "u" }, "spec": spec,
        "status": { "ipAddresses": { "total": 1 }, "allocation": { "seq": 7, "later": [1] } },
    })
}

fn annotated(mut object: Value, data: &str) -> Value {
    object["metadata"]["annotations"] = json!({ DATA: data });
    object
}

fn up(object: &Value) -> Value {
    convert(object.clone(), NEW).expect("converts")
}

fn down(object: &Value) -> Value {
    convert(object.clone(), OLD).expect("reading never fails")
}

fn data_of(object: &Value) -> Option<Value> {
    let text = object["metadata"]["annotations"][DATA].as_str()?;
    Some(serde_json::from_str(text).expect("JSON"))
}

#[test]
fn a_subnet_becomes_a_range_and_is_read_back_with_its_ends() {
    let addresses = json!(["10.0.0.1-10.0.0.254"]);
    let cases = [
        (json!({ "subnet": "10.0.0.0/24" }), addresses.clone(), 24, "10.0.0.1", "10.0.0.254"),
        // Host bits are legal, and 0 and empty are nothing.
        (json!({ "subnet": "10.0.0.7/24", "prefix": 0, "start": "" }), addresses.clone(), 24, "10.0.0.1", "10.0.0.254"),
        (json!({ "subnet": "10.0.0.0/24", "prefix": 16 }), addresses, 16, "10.0.0.1", "10.0.0.254"),
        (
            json!({ "subnet": "10.0.0.0/24", "start": "10.0.0.9" }),
            json!(["10.0.0.9-10.0.0.254"]),
            24,
            "10.0.0.9",
            "10.0.0.254",
        ),
        (json!({ "subnet": "fd00::/120" }), json!(["fd00::1-fd00::fe"]), 120, "fd00::1", "fd00::fe"),
        // Nothing is between the ends: an entry that ends before it begins, which admission refuses.
        (json!({ "subnet": "10.0.0.4/31" }), json!(["10.0.0.5-10.0.0.4"]), 31, "10.0.0.5", "10.0.0.4"),
    ];
    for (spec, addresses, prefix, start, end) in cases {
        let stored = up(&object(OLD, &spec));
        assert_eq!(stored["spec"], json!({ "addresses": addresses, "prefix": prefix }), "{spec}");
        assert_eq!(stored["apiVersion"], NEW);
        let mut filled = spec.clone();
        filled["start"] = start.into();
        filled["end"] = end.into();
        filled["prefix"] = prefix.into();
        let data = json!({ "apiVersion": OLD, "kind": "InClusterIPPool", "spec": filled });
        assert_eq!(data_of(&stored), Some(data), "{spec}");
        let read = down(&stored);
        assert_eq!(read["spec"], filled, "{spec}");
        assert_eq!(read["metadata"].get("annotations"), None, "nothing needs one");
    }
}

#[test]
fn at_the_ends_of_all_addresses_an_end_is_missing_and_visible() {
    for (subnet, entry) in [("255.255.255.255/32", "-255.255.255.254"), ("0.0.0.0/32", "0.0.0.1-"), ("::/128", "::1-")]
    {
        assert_eq!(up(&object(OLD, &json!({ "subnet": subnet })))["spec"]["addresses"], json!([entry]));
    }
}

#[test]
fn addresses_come_first_and_an_end_alone_becomes_an_entry_that_is_refused() {
    for (spec, addresses) in [
        (
            json!({ "addresses": ["10.0.0.1"], "start": "10.0.0.5", "end": "10.0.0.9" }),
            json!(["10.0.0.1", "10.0.0.5-10.0.0.9"]),
        ),
        (json!({ "addresses": null, "start": "10.0.0.5" }), json!(["10.0.0.5-"])),
        (json!({ "end": "10.0.0.5" }), json!(["-10.0.0.5"])),
        (json!({}), json!([])),
    ] {
        let stored = up(&object(OLD, &spec));
        assert_eq!(stored["spec"], json!({ "addresses": addresses, "prefix": 0 }), "{spec}");
        for entry in stored["spec"]["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert_eq!(parse::range(entry).is_err(), entry.starts_with('-') || entry.ends_with('-'), "{entry}");
        }
        assert_eq!(down(&stored)["spec"], spec);
    }
}

#[test]
fn a_subnet_that_cannot_be_read_is_refused_with_its_path() {
    for (subnet, error) in [
        ("10.0.0.0", r#"spec.subnet: "10.0.0.0" is no prefix: the slash and the prefix length are missing"#),
        ("10.0.0.0/33", r#"spec.subnet: "10.0.0.0/33" has no prefix length of 0 to 32 behind the slash"#),
        ("net/24", r#"spec.subnet: "net/24" is no IP address"#),
    ] {
        let failed = convert(object(OLD, &json!({ "subnet": subnet })), NEW).expect_err("must not convert");
        assert_eq!(failed.to_string(), error);
    }
}

#[test]
fn other_objects_and_versions_are_refused_by_name() {
    let mut prefixes = object(NEW, &json!({}));
    prefixes["kind"] = "InClusterPrefixPool".into();
    assert_eq!(convert(prefixes.clone(), NEW), Ok(prefixes.clone()));
    let error = convert(prefixes, OLD).expect_err("no such version");
    assert_eq!(error.to_string(), r#"InClusterPrefixPool has no version "ipam.cluster.x-k8s.io/v1alpha1""#);
    for wanted in ["ipam.cluster.x-k8s.io/v1", "v1alpha1", "other/v1alpha1", ""] {
        assert!(convert(object(NEW, &json!({})), wanted).is_err(), "{wanted}");
    }
    for foreign in [json!({}), json!([]), Value::Null, json!({ "apiVersion": NEW, "kind": "IPAddress" })] {
        assert!(matches!(convert(foreign, NEW), Err(ConversionError::Foreign { .. })));
    }
}

#[test]
fn what_v1alpha1_cannot_say_survives_a_change_through_it() {
    let stored = object(
        NEW,
        &json!({
            "addresses": ["10.0.0.0/24"], "prefix": 24, "gateway": "10.0.0.1", "allocateReservedIPAddresses": true,
            "excludedAddresses": ["10.0.0.7"], "addressReuseGracePeriodSeconds": 30, "later": { "a": 1 },
        }),
    );
    let mut read = down(&stored);
    assert_eq!(read["spec"], json!({ "addresses": ["10.0.0.0/24"], "prefix": 24, "gateway": "10.0.0.1" }));
    assert_eq!(up(&read), stored, "without a change");

    read["spec"] = json!({ "subnet": "10.1.0.0/24" });
    let changed = up(&read);
    assert_eq!(
        changed["spec"],
        json!({
            "addresses": ["10.1.0.1-10.1.0.254"], "prefix": 24, "allocateReservedIPAddresses": true,
            "excludedAddresses": ["10.0.0.7"], "addressReuseGracePeriodSeconds": 30, "later": { "a": 1 },
        }),
    );
    let read = down(&changed);
    assert_eq!(read["spec"]["subnet"], "10.1.0.0/24");
    assert_eq!(up(&read), changed);
}

#[test]
fn the_v1alpha1_form_counts_as_long_as_it_means_the_same() {
    for kind in ["InClusterIPPool", "GlobalInClusterIPPool"] {
        let mut stored = object(OLD, &json!({ "subnet": "10.0.0.0/24" }));
        stored["kind"] = kind.into();
        let stored = up(&stored);
        for (field, value) in
            [("addresses", json!(["10.0.0.0/24"])), ("prefix", json!(16)), ("gateway", json!("10.0.0.1"))]
        {
            let mut changed = stored.clone();
            changed["spec"][field] = value;
            let read = down(&changed);
            let mut spec = changed["spec"].clone();
            spec.as_object_mut().expect("a spec").retain(|field, _| SHARED.contains(&field.as_str()));
            assert_eq!(read["spec"], spec, "{kind} {field}");
            assert_eq!(up(&read)["spec"], changed["spec"], "{kind} {field}");
        }
    }
}

/// As the provider that this one replaces writes it: the whole object but for its metadata.
fn as_the_original(spec: &Value) -> String {
    json!({ "kind": "InClusterIPPool", "apiVersion": OLD, "spec": spec, "status": { "allocation": { "seq": 99 } } })
        .to_string()
}

#[test]
fn annotations_of_the_original_are_understood_and_their_status_is_not_read() {
    let filled =
        json!({ "subnet": "10.0.0.0/24", "start": "10.0.0.1", "end": "10.0.0.254", "prefix": 24, "gateway": "" });
    let spec = json!({ "addresses": ["10.0.0.1-10.0.0.254"], "prefix": 24 });
    let bare = json!({ "spec": filled }).to_string();
    for data in [as_the_original(&filled), bare] {
        let read = down(&annotated(object(NEW, &spec), &data));
        assert_eq!(read["spec"], filled, "{data}");
        assert_eq!(read["status"], object(NEW, &spec)["status"], "{data}");
    }
}

#[test]
fn broken_annotations_and_those_of_a_rewritten_version_are_ignored() {
    let spec = json!({ "addresses": ["10.0.0.1-10.0.0.254"], "prefix": 24 });
    let filled = json!({ "subnet": "10.0.0.0/24" });
    let with = |version: &Value, spec: &Value| json!({ "apiVersion": version, "spec": spec }).to_string();
    let broken = [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        json!({ "spec": [filled] }).to_string(),
        with(&json!(OLD), &json!({ "subnet": "x" })),
        with(&json!(OLD), &json!({ "subnet": "10.0.0.0/24", "prefix": "24" })),
        with(&json!(NEW), &filled),
        with(&json!(5), &filled),
    ];
    for data in broken {
        assert_eq!(down(&annotated(object(NEW, &spec), &data))["spec"], spec, "{data}");
    }
    for data in [
        as_the_original(&json!({ "excludedAddresses": ["10.0.0.7"] })),
        with(&json!(NEW), &json!({ "excludedAddresses": 7 })),
    ] {
        assert_eq!(up(&annotated(object(OLD, &spec), &data)), object(NEW, &spec), "{data}");
    }
}

#[test]
fn a_pool_without_spec_stays_without() {
    for spec in [Value::Null, json!("text")] {
        let stored = object(NEW, &spec);
        assert_eq!(down(&stored), object(OLD, &spec));
        assert_eq!(up(&down(&stored)), stored);
    }
    let bare = json!({ "apiVersion": OLD, "kind": "GlobalInClusterIPPool" });
    assert_eq!(up(&bare), json!({ "apiVersion": NEW, "kind": "GlobalInClusterIPPool" }));
}

fn address() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "10.0.0.1",
        "10.0.0.254",
        "fd00::1",
        "10.0.0.1-10.0.0.254",
        "10.0.0.0/24",
        "",
        "oops",
        "-",
    ])
    .prop_map(str::to_owned)
}

fn subnet() -> impl Strategy<Value = String> {
    let whole = prop::sample::select(vec!["10.0.0.0/24", "10.0.0.7/24", "fd00::/64", "0.0.0.0/0", "::/0", ""]);
    let any = (any::<IpAddr>(), 0..=128_u8)
        .prop_map(|(ip, bits)| format!("{ip}/{}", if ip.is_ipv4() { bits.min(32) } else { bits }));
    prop_oneof![whole.prop_map(str::to_owned), any]
}

fn field<T: Into<Value> + std::fmt::Debug>(
    name: &'static str,
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<(String, Value)>> {
    prop::option::of(value.prop_map(move |value| (name.to_owned(), value.into())))
}

fn shared() -> impl Strategy<Value = Vec<Option<(String, Value)>>> {
    (
        field("addresses", prop::collection::vec(address(), 0..4)),
        field("prefix", prop_oneof![-1..130_i64, any::<i64>()]),
        field("gateway", address()),
        field("later", any::<bool>()),
    )
        .prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn spec_of(fields: Vec<Option<(String, Value)>>) -> Value {
    Value::Object(fields.into_iter().flatten().collect())
}

fn old_spec() -> impl Strategy<Value = Value> {
    (shared(), field("subnet", subnet()), field("start", address()), field("end", address()))
        .prop_map(|(fields, a, b, c)| spec_of([fields, vec![a, b, c]].concat()))
}

fn new_spec() -> impl Strategy<Value = Value> {
    (
        shared(),
        field("allocateReservedIPAddresses", any::<bool>()),
        field("excludedAddresses", prop::collection::vec(address(), 0..3)),
        field("addressReuseGracePeriodSeconds", any::<i64>()),
    )
        .prop_map(|(fields, a, b, c)| spec_of([fields, vec![a, b, c]].concat()))
}

/// Annotations without ours, with ours as we or the original write it, and with something else in its place.
fn annotations() -> impl Strategy<Value = Option<Value>> {
    let data = prop_oneof![
        Just(None),
        any::<String>().prop_map(Some),
        old_spec().prop_map(|spec| Some(as_the_original(&spec))),
        old_spec().prop_map(|spec| Some(json!({ "apiVersion": OLD, "spec": spec }).to_string())),
        new_spec().prop_map(|spec| Some(json!({ "apiVersion": NEW, "spec": spec }).to_string())),
    ];
    (any::<bool>(), data).prop_map(|(other, data)| {
        let mut all = Map::new();
        all.extend(other.then(|| ("other".to_owned(), json!("value"))));
        all.extend(data.map(|data| (DATA.to_owned(), data.into())));
        (!all.is_empty()).then_some(Value::Object(all))
    })
}

fn pool(version: &'static str, spec: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    (spec, annotations(), any::<bool>()).prop_map(move |(spec, annotations, global)| {
        let mut object = object(version, &spec);
        if global {
            object["kind"] = "GlobalInClusterIPPool".into();
        }
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = annotations;
        }
        object
    })
}

/// The object without our annotation.
fn bare(mut object: Value) -> Value {
    keep(&mut object, None);
    object
}

proptest! {
    #[test]
    fn reading_as_v1alpha1_and_writing_back_changes_nothing(stored in pool(NEW, new_spec())) {
        let read = down(&stored);
        prop_assert_eq!(&read["status"], &stored["status"]);
        prop_assert_eq!(&read["metadata"]["uid"], &stored["metadata"]["uid"]);
        let again = up(&read);
        prop_assert_eq!(bare(again.clone()), bare(stored));
        // What was written once is written the same for ever.
        prop_assert_eq!(up(&down(&again)), again);
    }

    #[test]
    fn what_is_written_as_v1alpha1_is_read_back_with_its_defaults(written in pool(OLD, old_spec())) {
        let stored = up(&written);
        prop_assert_eq!(&stored["status"], &written["status"]);
        let read = down(&stored);
        let spec = written["spec"].as_object().expect("a spec");
        let filled = Meaning::of(spec).expect("a subnet").filled;
        prop_assert_eq!(&read["spec"], &Value::Object(filled.clone()));
        for (name, value) in spec.iter().filter(|(name, value)| !["start", "end", "prefix"].contains(&name.as_str()) && !value.is_null()) {
            prop_assert_eq!(filled.get(name), Some(value));
        }
        prop_assert_eq!(up(&read), stored);
    }

    #[test]
    fn a_change_through_v1alpha1_leaves_what_it_cannot_say(stored in pool(NEW, new_spec()), spec in old_spec()) {
        let mut read = down(&stored);
        let had = read["metadata"]["annotations"][DATA].is_string();
        read["spec"] = spec;
        let changed = up(&read);
        for name in ["allocateReservedIPAddresses", "excludedAddresses", "addressReuseGracePeriodSeconds"] {
            prop_assert_eq!(changed["spec"].get(name), stored["spec"].get(name).filter(|_| had));
        }
    }

    #[test]
    fn no_object_breaks_it(spec in any::<String>(), data in any::<String>(), metadata in any::<bool>()) {
        let spec: Value = serde_json::from_str(&spec).unwrap_or(Value::String(spec));
        for (from, to) in [(OLD, NEW), (NEW, OLD)] {
            let mut object = annotated(object(from, &spec), &data);
            if !metadata {
                object["metadata"] = data.clone().into();
            }
            prop_assert_eq!(&convert(object, to).expect("converts")["spec"], &spec);
        }
    }
}
