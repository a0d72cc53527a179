//! Pools against the words of the contract, and against a list of single addresses.
#![expect(clippy::arithmetic_side_effects, reason = "small numbers")]

use super::*;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn range(text: &str) -> Range {
    match text.split_once('-') {
        Some((first, last)) => Range::new(ip(first), ip(last)).expect("a range"),
        None if text.contains('/') => Range::net(net(text)),
        None => Range::single(ip(text)),
    }
}

fn addresses(entries: &[&str], prefix: u8) -> AddressSpec {
    let addresses = entries.iter().map(|entry| range(entry)).collect();
    AddressSpec { addresses, excluded: Vec::new(), prefix, gateway: None, allocate_reserved: false }
}

fn prefixes(entries: &[&str], length: u8) -> PrefixSpec {
    let prefixes = entries.iter().map(|entry| net(entry)).collect();
    PrefixSpec { prefixes, excluded: Vec::new(), length, gateway: None }
}

fn pool(entries: &[&str], prefix: u8) -> Pool {
    Pool::of_addresses(addresses(entries, prefix)).expect("a valid pool")
}

fn shown(pool: &Pool) -> String {
    pool.ranges().map(|range| range.to_string()).collect::<Vec<_>>().join(",")
}

fn held(address: &str, prefix: u8) -> Held {
    Held { address: ip(address), prefix }
}

#[test]
fn entries_merge_and_network_and_broadcast_are_kept_back() {
    assert_eq!(shown(&pool(&["10.0.0.128/25", "10.0.0.10/25"], 24)), "10.0.0.1-10.0.0.254");
    assert_eq!(shown(&pool(&["2001:db8::/126"], 126)), "2001:db8::1-2001:db8::3");
}

#[test]
fn reserved_addresses_are_those_of_the_subnet_of_the_lowest_entry() {
    // The lowest address decides, although it is excluded; other /24s have ordinary .0 and .255.
    let mut spec = addresses(&["10.0.1.0/24", "10.0.0.255"], 24);
    spec.excluded = vec![range("10.0.0.255")];
    assert_eq!(shown(&Pool::of_addresses(spec.clone()).expect("valid")), "10.0.1.0-10.0.1.255");
    spec.addresses = vec![range("0.0.0.0/0")];
    spec.prefix = 0;
    spec.excluded.clear();
    assert_eq!(shown(&Pool::of_addresses(spec.clone()).expect("valid")), "0.0.0.1-255.255.255.254");
    spec.allocate_reserved = true;
    assert_eq!(Pool::of_addresses(spec).expect("valid").total(), 1 << 32);
}

#[test]
fn point_to_point_subnets_reserve_nothing() {
    assert_eq!(shown(&pool(&["10.0.0.0/31"], 31)), "10.0.0.0-10.0.0.1");
    assert_eq!(shown(&pool(&["10.0.0.7"], 32)), "10.0.0.7");
    assert_eq!(shown(&pool(&["2001:db8::/127"], 127)), "2001:db8::-2001:db8::1");
    assert_eq!(shown(&pool(&["2001:db8::7"], 128)), "2001:db8::7");
    assert_eq!(shown(&pool(&["10.0.0.0/30"], 30)), "10.0.0.1-10.0.0.2");
}

#[test]
fn the_gateway_is_never_allocated_reserved_or_not() {
    for allocate_reserved in [false, true] {
        let spec =
            AddressSpec { gateway: Some(ip("10.0.0.1")), allocate_reserved, ..addresses(&["10.0.0.1-10.0.0.2"], 24) };
        let pool = Pool::of_addresses(spec).expect("valid");
        assert_eq!((shown(&pool).as_str(), pool.gateway()), ("10.0.0.2", Some(ip("10.0.0.1"))));
    }
}

#[test]
fn a_pool_of_which_nothing_is_left_is_valid_and_has_no_address() {
    let spec = AddressSpec { excluded: vec![range("10.0.0.0/8")], ..addresses(&["10.0.0.0/24"], 24) };
    assert_eq!(Pool::of_addresses(spec).expect("valid").total(), 0);
}

#[test]
fn whole_families_are_pools() {
    assert_eq!(pool(&["::/0"], 0).total(), u128::MAX);
    assert_eq!(shown(&pool(&["::/0"], 0)), "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    let whole = Pool::of_prefixes(prefixes(&["::/0"], 128)).expect("valid");
    assert_eq!(whole.total(), u128::MAX);
    assert!(whole.allows(held("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 128)));
    let halves = Pool::of_prefixes(prefixes(&["::/0"], 1)).expect("valid");
    assert_eq!(halves.total(), 2);
    assert!(halves.allows(held("8000::", 1)));
}

#[test]
fn every_error_of_an_ip_pool_names_its_field() {
    let errors = |spec: AddressSpec| {
        let first = Pool::of_addresses(spec.clone()).expect_err("invalid");
        let all = spec.errors().map(|error| error.field().to_string()).collect::<Vec<_>>();
        assert_eq!(all.first(), Some(&first.field().to_string()));
        all
    };
    let good = addresses(&["10.0.0.0/24"], 24);
    assert_eq!(errors(addresses(&[], 24)), ["addresses"]);
    assert_eq!(errors(addresses(&["10.0.0.0/24", "10.0.1.0/24", "::1"], 24)), ["addresses[2]"]);
    assert_eq!(
        errors(AddressSpec { excluded: vec![range("10.0.0.1"), range("::1")], ..good.clone() }),
        ["excludedAddresses[1]"]
    );
    assert_eq!(errors(AddressSpec { gateway: Some(ip("::1")), ..good.clone() }), ["gateway"]);
    assert_eq!(errors(AddressSpec { prefix: 33, ..good.clone() }), ["prefix"]);
    assert_eq!(errors(AddressSpec { prefix: 129, ..addresses(&["::1"], 0) }), ["prefix"]);
    assert_eq!(
        errors(AddressSpec { prefix: 33, gateway: Some(ip("::1")), excluded: vec![range("::1")], ..good }),
        ["excludedAddresses[0]", "prefix", "gateway"]
    );
}

#[test]
fn every_error_of_a_prefix_pool_names_its_field() {
    let errors = |spec: PrefixSpec| {
        Pool::of_prefixes(spec.clone()).expect_err("invalid");
        spec.errors().map(|error| (error.field().to_string(), error.to_string())).collect::<Vec<_>>()
    };
    let one = |spec, field: &str, message: &str| assert_eq!(errors(spec), [(field.into(), message.into())]);
    let good = prefixes(&["2001:db8::/48"], 64);
    one(prefixes(&[], 64), "prefixes", "at least one entry is required");
    one(prefixes(&["10.0.0.0/8"], 64), "prefixes[0]", "must be IPv6");
    one(
        prefixes(&["::/48", "2001:db8::1/48"], 64),
        "prefixes[1]",
        "is no network: the aligned prefix is 2001:db8::/48",
    );
    one(prefixes(&["2001:db8::/65"], 64), "prefixes[0]", "is longer than the allocation prefix length 64");
    one(PrefixSpec { length: 0, ..good.clone() }, "allocationPrefixLength", "must be between 1 and 128");
    one(PrefixSpec { length: 129, ..good.clone() }, "allocationPrefixLength", "must be between 1 and 128");
    one(PrefixSpec { gateway: Some(ip("10.0.0.1")), ..good.clone() }, "gateway", "must be IPv6");
    one(PrefixSpec { excluded: vec![range("10.0.0.1")], ..good }, "excludedPrefixes[0]", "must be IPv6");
}

#[test]
fn entries_outside_the_inferred_subnet_are_named_but_served() {
    let spec = addresses(&["10.0.1.0-10.0.1.9", "10.0.0.10", "10.0.0.250-10.0.1.1"], 24);
    let outside: Vec<String> = spec.outside_subnet().map(|(field, range)| format!("{field} {range}")).collect();
    assert_eq!(outside, ["addresses[0] 10.0.1.0-10.0.1.9", "addresses[2] 10.0.0.250-10.0.1.1"]);
    assert_eq!(shown(&Pool::of_addresses(spec).expect("valid")), "10.0.0.10,10.0.0.250-10.0.0.254,10.0.1.0-10.0.1.9");
}

#[test]
fn an_exclusion_removes_every_block_that_it_touches() {
    let excluded = vec![range("2001:db8:0:1::5"), range("2001:db8:0:2:ffff::-2001:db8:0:3::")];
    let spec = PrefixSpec { excluded, gateway: Some(ip("2001:db8::1")), ..prefixes(&["2001:db8::/61"], 64) };
    let pool = Pool::of_prefixes(spec).expect("valid");
    assert_eq!(pool.total(), 5);
    assert_eq!(
        shown(&pool),
        "2001:db8::-2001:db8::ffff:ffff:ffff:ffff,2001:db8:0:4::-2001:db8:0:7:ffff:ffff:ffff:ffff"
    );
    assert!(pool.allows(held("2001:db8::", 64)), "the gateway reserves nothing");
    assert!(!pool.allows(held("2001:db8:0:1::", 64)));
}

#[test]
fn a_prefix_pool_allows_only_its_length_on_its_boundaries() {
    let pool = Pool::of_prefixes(prefixes(&["2001:db8::/48"], 64)).expect("valid");
    assert!(pool.allows(held("2001:db8:0:1::", 64)));
    assert!(!pool.allows(held("2001:db8:0:1::", 63)));
    assert!(!pool.allows(held("2001:db8:0:1::", 65)));
    assert!(!pool.allows(held("2001:db8:0:1::1", 64)));
    assert!(!pool.allows(held("2001:db9::", 64)));
    assert!(!pool.allows(held("10.0.0.1", 64)));
}

#[test]
fn an_ip_pool_allows_its_addresses_whatever_their_prefix_length() {
    let pool = pool(&["10.0.0.5-10.0.0.9"], 24);
    assert!(pool.allows(held("10.0.0.5", 24)) && pool.allows(held("10.0.0.9", 255)));
    assert!(!pool.allows(held("10.0.0.4", 24)) && !pool.allows(held("::a00:5", 24)));
}

#[test]
fn pools_overlap_where_both_may_allocate() {
    let a = pool(&["10.0.0.10-10.0.0.20", "10.0.0.40-10.0.0.50"], 24);
    assert_eq!(a.overlap(&pool(&["10.0.0.21-10.0.0.39"], 24)), None);
    assert_eq!(a.overlap(&pool(&["10.0.0.30-10.0.0.42"], 24)), Some(range("10.0.0.40-10.0.0.42")));
    assert_eq!(pool(&["10.0.0.30-10.0.0.42"], 24).overlap(&a), Some(range("10.0.0.40-10.0.0.42")));
    let blocks = Pool::of_prefixes(prefixes(&["2001:db8::/48"], 64)).expect("valid");
    assert_eq!(a.overlap(&blocks), None);
    assert_eq!(blocks.overlap(&pool(&["2001:db8::5", "::7"], 64)), Some(range("2001:db8::5")));
}

/// Positions around one of the four corners: the bottom and the top of each family.
fn corner() -> impl Strategy<Value = (Family, u128)> {
    let base = |family: Family, top| (family, if top { family.end() - 63 } else { 0 });
    (prop_oneof![Just(Family::V4), Just(Family::V6)], any::<bool>()).prop_map(move |(family, top)| base(family, top))
}

fn ranges(family: Family, base: u128, count: usize) -> impl Strategy<Value = Vec<Range>> {
    let one = (0..64_u128, 0..64_u128).prop_map(move |(a, b)| {
        Range::new(family.address(base + a.min(b)), family.address(base + a.max(b))).expect("a range")
    });
    prop::collection::vec(one, 0..=count)
}

fn corner_spec() -> impl Strategy<Value = (u128, AddressSpec)> {
    corner().prop_flat_map(|(family, base)| {
        let bits = family.bits();
        let prefix = prop_oneof![Just(0), Just(bits), Just(bits - 1), bits - 7..=bits, 0..=bits];
        let gateway = prop::option::of((0..64_u128).prop_map(move |n| family.address(base + n)));
        (ranges(family, base, 4), ranges(family, base, 2), prefix, gateway, any::<bool>()).prop_map(
            move |(addresses, excluded, prefix, gateway, allocate_reserved)| {
                (base, AddressSpec { addresses, excluded, prefix, gateway, allocate_reserved })
            },
        )
    })
}

/// The allocatable addresses of a spec, one by one and word by word from the contract.
fn naive(base: u128, spec: &AddressSpec) -> BTreeSet<IpAddr> {
    let family = Family::of(spec.addresses.first().expect("not empty").first());
    let all = (0..64).map(|n| family.address(base + n));
    let lowest = all.clone().find(|&address| spec.addresses.iter().any(|range| range.contains(address)));
    let subnet = IpNet::new(lowest.expect("not empty"), spec.prefix).expect("a legal prefix");
    let links = family.bits() - spec.prefix <= 1;
    let is_reserved = |address| address == subnet.network() || (family == Family::V4 && address == subnet.broadcast());
    all.filter(|&address| spec.addresses.iter().any(|range| range.contains(address)))
        .filter(|&address| !spec.excluded.iter().any(|range| range.contains(address)))
        .filter(|&address| spec.gateway != Some(address))
        .filter(|&address| spec.allocate_reserved || links || !is_reserved(address))
        .collect()
}

/// The corners of IPv6 again, in blocks of a length: 64 of them, or all if there are fewer.
fn corner_prefix_spec() -> impl Strategy<Value = (u128, PrefixSpec)> {
    (prop_oneof![1..=128_u8, Just(64), Just(128)], any::<bool>()).prop_flat_map(|(length, top)| {
        let shift = u32::from(128 - length);
        let last = u128::MAX >> shift;
        let base = if top { last.saturating_sub(63) } else { 0 };
        let address = move |(unit, host): (u128, u128)| {
            let unit = (base + unit).min(last);
            Family::V6.address(unit << shift | host & !(u128::MAX << shift))
        };
        let host = || (0..64_u128, any::<u128>()).prop_map(address);
        let net = (host(), length.saturating_sub(6)..=length)
            .prop_map(|(address, bits)| IpNet::new(address, bits).expect("a legal prefix").trunc());
        let excluded = (host(), host()).prop_map(|(a, b)| Range::new(a.min(b), a.max(b)).expect("a range"));
        (prop::collection::vec(net, 1..4), prop::collection::vec(excluded, 0..3)).prop_map(
            move |(prefixes, excluded)| (base << shift, PrefixSpec { prefixes, excluded, length, gateway: None }),
        )
    })
}

proptest! {
    #[test]
    fn prefix_pools_agree_with_a_list_of_single_blocks((base, spec) in corner_prefix_spec()) {
        let pool = Pool::of_prefixes(spec.clone()).expect("a valid pool");
        let shift = u32::from(128 - spec.length);
        let blocks = (base >> shift..=u128::MAX >> shift).take(64).map(|unit| Family::V6.address(unit << shift));
        let mut total = 0;
        for address in blocks {
            let block = IpNet::new(address, spec.length).expect("a legal prefix");
            let expected = spec.prefixes.iter().any(|net| net.contains(&block))
                && !spec.excluded.iter().any(|out| out.first() <= block.broadcast() && block.network() <= out.last());
            prop_assert_eq!(pool.allows(Held { address, prefix: spec.length }), expected, "{}", block);
            total += u128::from(expected);
        }
        prop_assert_eq!(pool.total(), total);
    }

    #[test]
    fn pools_agree_with_a_list_of_single_addresses((base, spec) in corner_spec()) {
        let Ok(pool) = Pool::of_addresses(spec.clone()) else {
            prop_assert!(spec.addresses.is_empty());
            return Ok(());
        };
        let expected = naive(base, &spec);
        prop_assert_eq!(pool.total(), expected.len() as u128);
        for position in 0..64 {
            let address = pool.family().address(base + position);
            prop_assert_eq!(pool.allows(Held { address, prefix: 0 }), expected.contains(&address), "{}", address);
        }
    }
}
