//! Strings that are addresses, strings that nearly are, and specs with everything wrong with them.

use super::*;
use proptest::prelude::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn shown(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(FieldError::to_string).collect()
}

#[test]
fn entries_are_addresses_ranges_and_networks() {
    let displayed = |text: &str| range(text).expect("a range").to_string();
    assert_eq!(displayed("10.0.0.1"), "10.0.0.1");
    assert_eq!(displayed("10.0.0.1-10.0.0.1"), "10.0.0.1");
    assert_eq!(displayed("10.0.0.1-10.0.0.9"), "10.0.0.1-10.0.0.9");
    assert_eq!(displayed("10.0.0.10/24"), "10.0.0.0-10.0.0.255");
    assert_eq!(displayed("10.0.0.10/0"), "0.0.0.0-255.255.255.255");
    assert_eq!(displayed("2001:DB8:0:0::1-2001:db8::ffff"), "2001:db8::1-2001:db8::ffff");
    assert_eq!(displayed("::/0"), "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
}

#[test]
fn an_ipv4_mapped_address_stays_ipv6() {
    let mapped = address("::ffff:1.2.3.4").expect("an address");
    assert!(mapped.is_ipv6());
    assert_eq!(range("::ffff:1.2.3.4/120").expect("a range").to_string(), "::ffff:1.2.3.0-::ffff:1.2.3.255");
    assert_eq!(range("1.2.3.4-::ffff:1.2.3.5"), Err(ParseError::Range(RangeError::MixedFamilies)));
}

#[test]
fn what_is_no_entry_is_refused_with_the_reason() {
    for text in ["", " ", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1\n", "010.0.0.1", "10.0.0", "fe80::1%eth0", "[::1]", "a"] {
        let error = if text.is_empty() { ParseError::Empty } else { ParseError::Entry };
        assert_eq!(range(text), Err(error), "{text:?}");
    }
    for text in ["10.0.0.1-", "-10.0.0.1", "-", "10.0.0.1 - 10.0.0.2", "10.0.0.1-2", "10.0.0.1-10.0.0.2-10.0.0.3"] {
        assert_eq!(range(text), Err(ParseError::Entry), "{text:?}");
    }
    for text in ["10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.0/00"]
    {
        assert_eq!(range(text), Err(ParseError::PrefixLength { bits: 32 }), "{text:?}");
    }
    assert_eq!(net("::/129"), Err(ParseError::PrefixLength { bits: 128 }));
    assert_eq!(net("::/99999999999999999999"), Err(ParseError::PrefixLength { bits: 128 }));
    for text in ["/8", "fe80::%1/64", "010.0.0.0/8", "10.0.0.1-10.0.0.2/24"] {
        assert_eq!(range(text), Err(ParseError::Entry), "{text:?}");
    }
    assert_eq!(net("10.0.0.0"), Err(ParseError::NoPrefixLength));
    assert_eq!(range("10.0.0.2-10.0.0.1"), Err(ParseError::Range(RangeError::Reversed)));
}

#[test]
fn an_absurd_prefix_length_of_an_object_is_nobodys() {
    for prefix in [None, Some(-1), Some(256), Some(i64::MAX)] {
        assert_eq!(held("10.0.0.1", prefix).expect("an address").prefix, 255);
    }
    assert_eq!(held("::1", Some(64)).expect("an address").prefix, 64);
    assert_eq!(held("", Some(64)), Err(ParseError::Empty));
}

fn addresses(list: &[String]) -> AddressPoolInput<'_> {
    AddressPoolInput { addresses: list, excluded: &[], prefix: 24, gateway: None, allocate_reserved: false }
}

fn prefixes(list: &[String]) -> PrefixPoolInput<'_> {
    PrefixPoolInput { prefixes: list, excluded: &[], allocation_prefix_length: 0, gateway: None }
}

#[test]
fn a_valid_spec_is_a_pool_and_an_empty_gateway_is_none() {
    let list = strings(&["10.0.0.0/24"]);
    let pool = address_pool(&AddressPoolInput { gateway: Some(""), ..addresses(&list) }).expect("valid");
    assert_eq!((pool.total(), pool.prefix(), pool.gateway()), (254, 24, None));
    let list = strings(&["2001:db8::/48"]);
    let pool = prefix_pool(&PrefixPoolInput { gateway: Some(""), ..prefixes(&list) }).expect("valid");
    assert_eq!((pool.total(), pool.prefix(), pool.gateway()), (65536, 64, None));
}

#[test]
fn all_errors_of_an_ip_pool_are_told_at_once_with_their_places() {
    let list = strings(&["x", "10.0.0.1", "10.0.0.9-10.0.0.1", "::1"]);
    let excluded = strings(&["10.0.0.1-", "::2"]);
    let input = AddressPoolInput { excluded: &excluded, prefix: 33, gateway: Some("gate"), ..addresses(&list) };
    assert_eq!(
        shown(&address_pool(&input).expect_err("invalid")),
        [
            r#"spec.addresses[0]: "x" is no IP address, range (first-last) or CIDR"#,
            r#"spec.addresses[2]: "10.0.0.9-10.0.0.1" ends before it begins"#,
            r#"spec.addresses[3]: "::1" must be IPv4, as the first of the addresses is"#,
            r#"spec.excludedAddresses[0]: "10.0.0.1-" is no IP address, range (first-last) or CIDR"#,
            r#"spec.excludedAddresses[1]: "::2" must be IPv4, as the first of the addresses is"#,
            r#"spec.prefix: "33" is too long: IPv4 has at most 32 bits"#,
            r#"spec.gateway: "gate" is no IP address"#,
        ]
    );
}

#[test]
fn all_errors_of_a_prefix_pool_are_told_at_once_with_their_places() {
    let list = strings(&["2001:db8::", "2001:db8::/48", "2001:db8::1/48", "10.0.0.0/8", "2001:db8::/96"]);
    let excluded = strings(&["2001:db8::1", "10.0.0.1"]);
    let input = PrefixPoolInput { excluded: &excluded, gateway: Some("10.0.0.1"), ..prefixes(&list) };
    assert_eq!(
        shown(&prefix_pool(&input).expect_err("invalid")),
        [
            r#"spec.gateway: "10.0.0.1" must be IPv6"#,
            r#"spec.prefixes[0]: "2001:db8::" is no prefix: the slash and the prefix length are missing"#,
            r#"spec.prefixes[2]: "2001:db8::1/48" is no network: the aligned prefix is 2001:db8::/48"#,
            r#"spec.prefixes[3]: "10.0.0.0/8" must be IPv6"#,
            r#"spec.prefixes[4]: "2001:db8::/96" is longer than the allocation prefix length 64"#,
            r#"spec.excludedPrefixes[1]: "10.0.0.1" must be IPv6"#,
        ]
    );
    for allocation_prefix_length in [-1, 129, i64::MAX] {
        let good = strings(&["2001:db8::/48"]);
        let errors = prefix_pool(&PrefixPoolInput { allocation_prefix_length, ..prefixes(&good) });
        let expected =
            format!(r#"spec.allocationPrefixLength: "{allocation_prefix_length}" must be between 1 and 128"#);
        assert_eq!(shown(&errors.expect_err("invalid")), [expected]);
    }
}

#[test]
fn absurd_prefixes_and_empty_lists_are_named() {
    let list = strings(&["::1"]);
    let errors = |prefix| shown(&address_pool(&AddressPoolInput { prefix, ..addresses(&list) }).expect_err("invalid"));
    assert_eq!(errors(-1), [r#"spec.prefix: "-1" must not be negative"#]);
    assert_eq!(errors(i64::MAX), [r#"spec.prefix: "9223372036854775807" is too long: IPv6 has at most 128 bits"#]);
    assert_eq!(
        shown(&address_pool(&addresses(&[])).expect_err("invalid")),
        ["spec.addresses: at least one entry is required"]
    );
    assert_eq!(
        shown(&prefix_pool(&prefixes(&[])).expect_err("invalid")),
        ["spec.prefixes: at least one entry is required"]
    );
}

#[test]
fn an_empty_list_is_told_beside_other_errors() {
    let (one, other) = (addresses(&[]), prefixes(&[]));
    let errors = address_pool(&AddressPoolInput { gateway: Some("x"), ..one }).expect_err("invalid");
    assert_eq!(errors.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(), ["spec.addresses", "spec.gateway"]);
    let errors = prefix_pool(&PrefixPoolInput { gateway: Some("x"), ..other }).expect_err("invalid");
    assert_eq!(errors.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(), ["spec.gateway", "spec.prefixes"]);
}

#[test]
fn errors_are_bounded_in_number_and_length() {
    let list = vec!["ä".repeat(10_000); 1_000];
    let errors = address_pool(&addresses(&list)).expect_err("invalid");
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    assert_eq!(errors[MAX_ERRORS].to_string(), "spec: has 980 more errors");
    assert_eq!(errors[0].value.chars().count(), MAX_VALUE_CHARS + 1);
}

#[test]
fn entries_outside_the_subnet_are_named_and_the_pool_is_served_all_the_same() {
    let list = strings(&["10.0.1.0/24", "10.0.0.10"]);
    let reason = "is not inside 10.0.0.0-10.0.0.255, which is the lowest of the addresses with its prefix";
    assert_eq!(shown(&outside_subnet(&addresses(&list))), [format!(r#"spec.addresses[0]: "10.0.1.0/24" {reason}"#)]);
    assert_eq!(address_pool(&addresses(&list)).expect("valid").total(), 257);
    assert_eq!(outside_subnet(&addresses(&strings(&["10.0.0.0/25", "x"]))), []);
}

/// Text that is an entry.
fn valid() -> impl Strategy<Value = String> {
    let ip = any::<IpAddr>;
    prop_oneof![
        ip().prop_map(|address| address.to_string()),
        (ip(), 0..=128_u8)
            .prop_map(|(address, bits)| format!("{address}/{}", if address.is_ipv4() { bits % 33 } else { bits })),
        (any::<u32>(), any::<u32>()).prop_map(|(a, b)| {
            format!("{}-{}", std::net::Ipv4Addr::from(a.min(b)), std::net::Ipv4Addr::from(a.max(b)))
        }),
        (any::<u128>(), any::<u128>()).prop_map(|(a, b)| {
            format!("{}-{}", std::net::Ipv6Addr::from(a.min(b)), std::net::Ipv6Addr::from(a.max(b)))
        }),
    ]
}

/// Text that was an entry before one character of it was replaced, added, doubled or dropped.
fn nearly_valid() -> impl Strategy<Value = String> {
    let noise = prop_oneof![
        prop::sample::select(vec!['0', '1', '9', 'f', 'g', '.', ':', '-', '/', '%', '+', ' ', '\n', '\0', '٣', '１']),
        any::<char>(),
    ];
    (valid(), any::<prop::sample::Index>(), noise, 0..4).prop_map(|(text, at, noise, change)| {
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        match change {
            0 => chars[at] = noise,
            1 => chars.insert(at, noise),
            2 => chars.insert(at, chars[at]),
            _ => drop(chars.remove(at)),
        }
        chars.into_iter().collect()
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => nearly_valid(), 2 => valid(), 1 => any::<String>()]
}

proptest! {
    #[test]
    fn every_valid_entry_parses(text in valid()) {
        prop_assert!(range(&text).is_ok(), "{}", text);
    }

    #[test]
    fn what_parses_displays_as_what_parses_to_the_same(text in any_text()) {
        if let Ok(parsed) = range(&text) {
            prop_assert_eq!(range(&parsed.to_string()), Ok(parsed));
            prop_assert!(parsed.first() <= parsed.last());
        }
        if let Ok(parsed) = net(&text) {
            prop_assert_eq!(net(&parsed.to_string()), Ok(parsed));
            prop_assert_eq!(range(&text), Ok(Range::net(parsed)));
        }
        if let Ok(parsed) = address(&text) {
            prop_assert_eq!(address(&parsed.to_string()), Ok(parsed));
            prop_assert_eq!(range(&text), Ok(Range::single(parsed)));
        }
    }

    #[test]
    fn what_parses_has_the_characters_of_addresses_only(text in any_text()) {
        if range(&text).is_ok() {
            let known = |c: char| c.is_ascii_hexdigit() || ".:-/".contains(c);
            prop_assert!(text.chars().all(known), "{:?}", text);
        }
    }

    #[test]
    fn any_spec_is_a_pool_or_has_errors_that_name_their_fields(
        list in prop::collection::vec(any_text(), 0..5),
        excluded in prop::collection::vec(any_text(), 0..3),
        gateway in prop::option::of(any_text()),
        prefix in prop_oneof![-2..140_i64, any::<i64>()],
        allocate_reserved: bool,
    ) {
        let gateway = gateway.as_deref();
        let input = AddressPoolInput { addresses: &list, excluded: &excluded, prefix, gateway, allocate_reserved };
        let as_prefixes = PrefixPoolInput { prefixes: &list, excluded: &excluded, allocation_prefix_length: prefix, gateway };
        let outcomes = [address_pool(&input), prefix_pool(&as_prefixes)];
        if outcomes[0].is_err() {
            prop_assert_eq!(outside_subnet(&input), []);
        }
        for errors in outcomes.into_iter().filter_map(Result::err) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|error| error.path.starts_with("spec.") && !error.reason.is_empty()));
        }
    }
}
