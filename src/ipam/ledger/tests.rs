//! The ledger against a model that looks at every unit, and by example where a number matters.
#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "small numbers")]

use super::super::family::Family;
use super::super::pool::{AddressSpec, PrefixSpec};
use super::super::range::Range;
use super::*;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Holders with an even number are objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Someone(u8);

impl Holder for Someone {
    fn is_object(&self) -> bool {
        self.0.is_multiple_of(2)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn held(address: &str, prefix: u8) -> Held {
    Held { address: ip(address), prefix }
}

fn address_pool(net: &str) -> Pool {
    let net: IpNet = net.parse().expect("a network");
    let addresses = vec![Range::net(net)];
    let prefix = net.prefix_len();
    Pool::of_addresses(AddressSpec { addresses, excluded: vec![], prefix, gateway: None, allocate_reserved: false })
        .expect("a valid pool")
}

fn prefix_pool(net: &str, length: u8) -> Pool {
    let prefixes = vec![net.parse().expect("a network")];
    Pool::of_prefixes(PrefixSpec { prefixes, excluded: vec![], length, gateway: None }).expect("a valid pool")
}

#[test]
fn freed_lowest_address_is_reused_first() {
    let mut ledger = Ledger::new(address_pool("10.0.0.0/29"));
    for (holder, host) in (0..6).zip(1..) {
        assert_eq!(ledger.allocate(Someone(holder)), Some(held(&format!("10.0.0.{host}"), 29)));
    }
    assert_eq!((ledger.allocate(Someone(6)), ledger.lowest_free()), (None, None), "the pool is full");
    ledger.release(&Someone(4));
    ledger.release(&Someone(1));
    assert_eq!(ledger.allocate(Someone(9)), Some(held("10.0.0.2", 29)));
    assert_eq!(ledger.lowest_free(), Some(held("10.0.0.5", 29)));
}

#[test]
fn a_holder_keeps_what_it_holds_when_it_allocates_again() {
    let mut ledger = Ledger::new(address_pool("10.0.0.0/24"));
    ledger.hold(Someone(0), held("192.0.2.1", 24));
    assert_eq!(ledger.allocate(Someone(0)), Some(held("192.0.2.1", 24)));
    assert_eq!(ledger.hold(Someone(0), held("10.0.0.1", 24)), Some(held("192.0.2.1", 24)));
    assert_eq!(ledger.allocate(Someone(2)), Some(held("10.0.0.2", 24)));
}

#[test]
fn an_address_held_twice_is_free_when_both_are_gone_and_takes_one_slot() {
    let mut ledger = Ledger::new(address_pool("10.0.0.0/24"));
    let [object, promise, other] = [0, 1, 2].map(Someone);
    for holder in [object, promise, other] {
        ledger.hold(holder, held("10.0.0.1", 24));
    }
    assert_eq!(ledger.counts(), Counts { total: 254, free: 253, used: 2, out_of_range: 0 });
    assert_eq!(ledger.holders_of(ip("10.0.0.1")).copied().collect::<Vec<_>>(), [object, promise, other]);
    ledger.release(&object);
    ledger.release(&other);
    assert_eq!(ledger.counts(), Counts { total: 254, free: 254, used: 0, out_of_range: 0 });
    assert_eq!(ledger.lowest_free(), Some(held("10.0.0.2", 24)), "a promise blocks its address");
    ledger.release(&promise);
    assert_eq!(ledger.lowest_free(), Some(held("10.0.0.1", 24)));
}

#[test]
fn strays_count_as_used_and_out_of_range_and_take_nothing() {
    let mut ledger = Ledger::new(address_pool("10.0.0.0/24"));
    ledger.hold(Someone(0), held("10.0.0.0", 24));
    ledger.hold(Someone(2), held("10.0.1.1", 24));
    ledger.hold(Someone(4), held("::1", 64));
    ledger.hold(Someone(6), held("10.0.0.9", 24));
    assert_eq!(ledger.counts(), Counts { total: 254, free: 253, used: 4, out_of_range: 3 });
    assert_eq!(ledger.holders_of(ip("::1")).count(), 1);
    ledger.set_pool(address_pool("10.0.0.0/23"));
    assert_eq!(ledger.counts(), Counts { total: 510, free: 508, used: 4, out_of_range: 2 });
}

#[test]
fn a_shorter_prefix_blocks_every_block_that_it_covers() {
    let mut ledger = Ledger::new(prefix_pool("2001:db8::/48", 64));
    assert_eq!(ledger.allocate(Someone(0)), Some(held("2001:db8::", 64)));
    // Written with host bits: what counts is its masked prefix.
    ledger.hold(Someone(2), held("2001:db8:0:4::7", 62));
    ledger.hold(Someone(4), held("2001:db8:0:1::", 127));
    assert_eq!(ledger.counts(), Counts { total: 65536, free: 65530, used: 3, out_of_range: 2 });
    assert_eq!(ledger.allocate(Someone(6)), Some(held("2001:db8:0:2::", 64)));
    assert_eq!(ledger.allocate(Someone(8)), Some(held("2001:db8:0:3::", 64)));
    assert_eq!(ledger.allocate(Someone(10)), Some(held("2001:db8:0:8::", 64)));
    assert_eq!(ledger.holders_of(ip("2001:db8:0:5::1")).copied().collect::<Vec<_>>(), [Someone(2)]);
    assert_eq!(ledger.holders_of(ip("2001:db8:0:1::2")).count(), 0, "a /127 does not include it");
    ledger.release(&Someone(2));
    assert_eq!(ledger.lowest_free(), Some(held("2001:db8:0:4::", 64)));
}

#[test]
fn whole_families_cost_nothing() {
    let mut ledger = Ledger::new(prefix_pool("::/0", 128));
    ledger.hold(Someone(0), held("::", 1));
    assert_eq!(ledger.lowest_free(), Some(held("8000::", 128)));
    assert_eq!(ledger.counts().free, u128::MAX >> 1);
    ledger.hold(Someone(2), held("::", 0));
    assert_eq!((ledger.lowest_free(), ledger.counts().free), (None, 0));
    ledger.release(&Someone(0));
    assert_eq!(ledger.lowest_free(), None);
    ledger.release(&Someone(2));
    assert_eq!((ledger.lowest_free(), ledger.counts().free), (Some(held("::", 128)), u128::MAX));
}

#[test]
fn a_number_that_does_not_fit_is_exact_again_when_it_does() {
    let mut ledger = Ledger::new(prefix_pool("::/0", 128));
    ledger.hold(Someone(0), held("::", 0));
    ledger.hold(Someone(2), held("::7", 128));
    assert_eq!(ledger.counts().free, 0);
    ledger.release(&Someone(0));
    assert_eq!(ledger.counts().free, u128::MAX - 1);
    assert_eq!(ledger.counts().free_within(100), 99);
}

#[test]
fn free_is_counted_from_a_total_that_may_not_be_shown() {
    let limit = i64::MAX.unsigned_abs().into();
    let mut ledger = Ledger::new(address_pool("2001:db8::/64"));
    assert_eq!(ledger.counts().free_within(limit), limit);
    ledger.allocate(Someone(0));
    assert_eq!(ledger.counts().free_within(limit), 9_223_372_036_854_775_806);
    assert_eq!(ledger.counts().free, (1 << 64) - 2);
}

// The model.

/// A corner of the address space: 64 units at the bottom or the top of a family.
#[derive(Clone, Copy, Debug)]
struct Corner {
    family: Family,
    /// Bits below a unit; 0 for IP pools.
    shift: u32,
    first: u128,
}

impl Corner {
    fn of(family: Family, shift: u32, top: bool) -> Self {
        let last_unit = family.end() >> shift;
        Self { family, shift, first: if top { last_unit.saturating_sub(63) } else { 0 } }
    }

    fn address(self, unit: u128, host: u128) -> IpAddr {
        let below = !(u128::MAX << self.shift);
        let unit = (self.first + unit).min(self.family.end() >> self.shift);
        self.family.address(unit << self.shift | host & below)
    }

    fn units(self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let units = (self.family.end() >> self.shift) - self.first;
        (0..=units.min(63)).map(move |unit| (self.address(unit, 0), self.address(unit, u128::MAX)))
    }
}

/// The pool of one test case, and what the model knows of it.
#[derive(Clone, Debug)]
struct Case {
    corner: Corner,
    pool: Pool,
}

fn entries(corner: Corner, count: usize) -> impl Strategy<Value = Vec<Range>> {
    let one = (0..64_u128, 0..64_u128).prop_map(move |(a, b)| {
        Range::new(corner.address(a.min(b), 0), corner.address(a.max(b), u128::MAX)).expect("a range")
    });
    prop::collection::vec(one, 0..=count)
}

fn address_case() -> impl Strategy<Value = Case> {
    let corner = (prop_oneof![Just(Family::V4), Just(Family::V6)], any::<bool>())
        .prop_map(|(family, top)| Corner::of(family, 0, top));
    corner.prop_flat_map(|corner| {
        let bits = corner.family.bits();
        let prefix = prop_oneof![Just(0), Just(bits), Just(bits - 1), bits - 7..bits];
        let gateway = prop::option::of((0..64_u128).prop_map(move |unit| corner.address(unit, 0)));
        (entries(corner, 4), entries(corner, 1), prefix, gateway, any::<bool>()).prop_map(
            move |(mut addresses, excluded, prefix, gateway, allocate_reserved)| {
                addresses.push(Range::single(corner.address(63, 0)));
                let spec = AddressSpec { addresses, excluded, prefix, gateway, allocate_reserved };
                Case { corner, pool: Pool::of_addresses(spec).expect("a valid pool") }
            },
        )
    })
}

fn prefix_case() -> impl Strategy<Value = Case> {
    let length = prop_oneof![Just(128_u8), Just(127), Just(64), Just(8), 1..=128_u8];
    (length, any::<bool>()).prop_flat_map(|(length, top)| {
        let corner = Corner::of(Family::V6, u32::from(128 - length), top);
        let net = (0..64_u128, length.saturating_sub(6)..=length)
            .prop_map(move |(unit, bits)| IpNet::new(corner.address(unit, 0), bits).expect("a legal prefix").trunc());
        let host = any::<u128>().prop_map(move |host| corner.address(host & 63, host));
        let excluded = prop::collection::vec(host.prop_map(Range::single), 0..4);
        (prop::collection::vec(net, 1..4), excluded).prop_map(move |(prefixes, excluded)| {
            let spec = PrefixSpec { prefixes, excluded, length, gateway: None };
            Case { corner, pool: Pool::of_prefixes(spec).expect("a valid pool") }
        })
    })
}

#[derive(Clone, Debug)]
enum Step {
    Hold(Someone, Held),
    Allocate(Someone),
    Release(Someone),
    SetPool(Box<Pool>),
    Rebuild,
}

/// What is held: mostly in the corner, of all lengths around the pool's, sometimes anything at all.
fn something(corner: Corner) -> impl Strategy<Value = Held> {
    let bits = corner.family.bits() - u8::try_from(corner.shift).expect("at most 128");
    let near =
        (0..64_u128, any::<u128>(), prop_oneof![Just(bits), bits.saturating_sub(7)..=bits.saturating_add(2), Just(0)]);
    let near = near.prop_map(move |(unit, host, prefix)| {
        // Most objects stand on a base, some are written with host bits.
        let host = if host.is_multiple_of(4) { host } else { 0 };
        Held { address: corner.address(unit, host), prefix }
    });
    let far = (any::<IpAddr>(), any::<u8>()).prop_map(|(address, prefix)| Held { address, prefix });
    prop_oneof![9 => near, 1 => far]
}

fn steps(case: &Case, others: Vec<Case>) -> impl Strategy<Value = Vec<Step>> + use<> {
    let corner = case.corner;
    let holder = || (0..24_u8).prop_map(Someone);
    let other = prop::sample::select(others.into_iter().map(|case| case.pool).collect::<Vec<_>>());
    let step = prop_oneof![
        8 => (holder(), something(corner)).prop_map(|(holder, held)| Step::Hold(holder, held)),
        8 => holder().prop_map(Step::Allocate),
        8 => holder().prop_map(Step::Release),
        1 => other.prop_map(|pool| Step::SetPool(Box::new(pool))),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 0..60)
}

fn scenario() -> impl Strategy<Value = (Vec<Case>, Vec<Step>)> {
    let case = || prop_oneof![address_case(), prefix_case()];
    (case(), case(), case()).prop_flat_map(|(a, b, c)| {
        let cases = vec![a, b, c];
        let steps = steps(&cases[0], cases.clone());
        (Just(cases), steps)
    })
}

/// The model: who holds what, and nothing derived from it.
struct Model {
    pool: Pool,
    held: BTreeMap<Someone, Held>,
}

impl Model {
    fn blocks(&self, holder: Held, unit: (IpAddr, IpAddr)) -> bool {
        let bits = Family::of(holder.address).bits();
        let prefix = if self.pool.is_prefix_pool() { holder.prefix.min(bits) } else { bits };
        let net = IpNet::new(holder.address, prefix).expect("a legal prefix");
        Family::of(unit.0) == Family::of(holder.address) && net.network() <= unit.1 && unit.0 <= net.broadcast()
    }

    fn blocked(&self, unit: (IpAddr, IpAddr), objects_only: bool) -> bool {
        let mut holders = self.held.iter().filter(|(holder, _)| holder.is_object() || !objects_only);
        holders.any(|(_, &held)| self.blocks(held, unit))
    }

    /// Compares everything that can be asked about the units of a corner.
    fn check(&self, ledger: &Ledger<Someone>, corner: Corner) -> Result<(), TestCaseError> {
        let whole = |unit: (IpAddr, IpAddr)| Held { address: unit.0, prefix: self.pool.prefix() };
        let allowed: Vec<_> = corner.units().filter(|&unit| self.pool.allows(whole(unit))).collect();
        let free: BTreeSet<Held> =
            allowed.iter().filter(|&&unit| !self.blocked(unit, false)).map(|&unit| whole(unit)).collect();
        for unit in corner.units() {
            prop_assert_eq!(ledger.is_free(whole(unit)), free.contains(&whole(unit)), "{:?}", unit);
            let expected: BTreeSet<Someone> =
                self.held.iter().filter(|&(_, &held)| self.blocks(held, (unit.1, unit.1))).map(|(&h, _)| h).collect();
            let found: Vec<Someone> = ledger.holders_of(unit.1).copied().collect();
            prop_assert_eq!(found.len(), expected.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        let objects = || self.held.iter().filter(|(holder, _)| holder.is_object());
        let counts = ledger.counts();
        prop_assert_eq!(counts.used, objects().count() as u64);
        prop_assert_eq!(counts.out_of_range, objects().filter(|&(_, &held)| !self.pool.allows(held)).count() as u64);
        prop_assert_eq!(allowed.len() as u128, counts.total, "the corner has all of the pool");
        let taken = allowed.iter().filter(|&&unit| self.blocked(unit, true)).count() as u128;
        prop_assert_eq!(counts.free, counts.total - taken);
        prop_assert_eq!(ledger.lowest_free(), free.first().copied());
        prop_assert_eq!(ledger.holders().map(|(&h, held)| (h, held)).collect::<BTreeMap<_, _>>(), self.held.clone());
        Ok(())
    }

    fn take(&mut self, step: Step, ledger: &mut Ledger<Someone>) -> Result<(), TestCaseError> {
        match step {
            Step::Hold(holder, held) => prop_assert_eq!(ledger.hold(holder, held), self.held.insert(holder, held)),
            Step::Release(holder) => prop_assert_eq!(ledger.release(&holder), self.held.remove(&holder)),
            Step::Allocate(holder) => {
                let expected = self.held.get(&holder).copied().or(ledger.lowest_free());
                prop_assert_eq!(ledger.allocate(holder), expected);
                self.held.extend(expected.map(|held| (holder, held)));
            }
            Step::SetPool(pool) => {
                self.pool = (*pool).clone();
                ledger.set_pool(*pool);
            }
            Step::Rebuild => *ledger = Ledger::rebuild(self.pool.clone(), self.held.clone()),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_ledger_agrees_with_a_model_that_looks_at_every_unit((cases, steps) in scenario()) {
        let pool = cases[0].pool.clone();
        let (mut model, mut ledger) = (Model { pool: pool.clone(), held: BTreeMap::new() }, Ledger::new(pool));
        for step in steps {
            model.take(step, &mut ledger)?;
            let corner = cases.iter().find(|case| case.pool == model.pool).expect("one of the pools").corner;
            model.check(&ledger, corner)?;
        }
    }
}
