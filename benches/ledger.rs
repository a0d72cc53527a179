//! How long the ledger takes, with as many addresses in use as one pool is meant to hold.
//!
//! `cargo bench --bench ledger` prints; nothing is asserted. Goals: allocation and release under 2 µs with 1,000,000
//! addresses in use, a rebuild from 500,000 under 250 ms, and pools of a whole family that cost nothing.

use capi_ipam::ipam::ledger::{Holder, Ledger};
use capi_ipam::ipam::pool::{AddressSpec, Held, Pool, PrefixSpec};
use capi_ipam::ipam::range::Range;
use divan::{Bencher, black_box};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const IN_USE: u32 = 1_000_000;
const REBUILT: u32 = 500_000;

/// Shaped like a real holder: a shared namespace and name, hashed and compared as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Object(Arc<str>);

impl Holder for Object {
    fn is_object(&self) -> bool {
        true
    }
}

fn object(number: u32) -> Object {
    Object(format!("clusters-{}/machine-{number}", number % 97).into())
}

fn address_pool(net: &str) -> Pool {
    let net: ipnet::IpNet = net.parse().expect("a network");
    let (addresses, prefix) = (vec![Range::net(net)], net.prefix_len());
    Pool::of_addresses(AddressSpec { addresses, excluded: vec![], prefix, gateway: None, allocate_reserved: true })
        .expect("a valid pool")
}

fn prefix_pool(net: &str, length: u8) -> Pool {
    let prefixes = vec![net.parse().expect("a network")];
    Pool::of_prefixes(PrefixSpec { prefixes, excluded: vec![], length, gateway: None }).expect("a valid pool")
}

fn v4(number: u32) -> Held {
    Held { address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)), prefix: 8 }
}

fn v6_block(number: u32) -> Held {
    let block = (0x2001_0db8_u128 << 96) | (u128::from(number) << 64);
    Held { address: IpAddr::V6(Ipv6Addr::from_bits(block)), prefix: 64 }
}

/// Numbers from 0, each of them once, in an order that jumps about: what watch stores list, and no cache foresees.
fn scattered(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(move |number| u32::try_from(u64::from(number) * 611_953 % u64::from(count)).expect("below count"))
}

/// Addresses `0..IN_USE * step`, every `step`th one held.
fn full(pool: Pool, held: fn(u32) -> Held, step: u32) -> Ledger<Object> {
    Ledger::rebuild(pool, scattered(IN_USE).map(|number| (object(number), held(number * step))))
}

/// One round gives an address back and takes one, so that the number of addresses in use stays.
fn churn(bencher: Bencher<'_, '_>, ledger: Ledger<Object>) {
    let ledger = RefCell::new(ledger);
    let victims = RefCell::new(scattered(IN_USE).map(object).collect::<VecDeque<_>>());
    bencher.with_inputs(|| victims.borrow_mut().pop_front().expect("never empty")).bench_local_values(|victim| {
        let mut ledger = ledger.borrow_mut();
        black_box(ledger.release(&victim));
        black_box(ledger.allocate(victim.clone()));
        victims.borrow_mut().push_back(victim);
    });
}

#[divan::bench_group(name = "1,000,000 in use: a release and an allocation", sample_count = 1000, sample_size = 100)]
mod both {
    use super::{Bencher, address_pool, churn, full, prefix_pool, v4, v6_block};

    #[divan::bench]
    fn dense_ipv4(bencher: Bencher<'_, '_>) {
        churn(bencher, full(address_pool("10.0.0.0/8"), v4, 1));
    }

    #[divan::bench]
    fn shredded_ipv4(bencher: Bencher<'_, '_>) {
        churn(bencher, full(address_pool("10.0.0.0/8"), v4, 2));
    }

    #[divan::bench]
    fn shredded_prefixes(bencher: Bencher<'_, '_>) {
        churn(bencher, full(prefix_pool("2001:db8::/32", 64), v6_block, 2));
    }
}

#[divan::bench_group(name = "1,000,000 in use: one operation", sample_count = 1000, sample_size = 100)]
mod one {
    use super::{Bencher, IN_USE, RefCell, address_pool, full, object, scattered, v4};

    #[divan::bench]
    fn allocate_shredded(bencher: Bencher<'_, '_>) {
        let ledger = RefCell::new(full(address_pool("10.0.0.0/8"), v4, 2));
        let mut next = IN_USE..;
        bencher
            .with_inputs(|| object(next.next().expect("no end")))
            .bench_local_values(|holder| ledger.borrow_mut().allocate(holder));
    }

    #[divan::bench]
    fn release_shredded(bencher: Bencher<'_, '_>) {
        let ledger = RefCell::new(full(address_pool("10.0.0.0/8"), v4, 2));
        let mut victims = scattered(IN_USE);
        bencher
            .with_inputs(|| object(victims.next().expect("a victim for each sample")))
            .bench_local_values(|holder| ledger.borrow_mut().release(&holder));
    }

    /// An address that two others hold.
    #[divan::bench]
    fn hold_and_release_a_duplicate(bencher: Bencher<'_, '_>) {
        let ledger = RefCell::new(full(address_pool("10.0.0.0/8"), v4, 2));
        let mut victims = scattered(IN_USE).cycle();
        let double = object(IN_USE + 1);
        bencher.with_inputs(|| v4(victims.next().expect("no end") * 2)).bench_local_values(|held| {
            let mut ledger = ledger.borrow_mut();
            ledger.hold(double.clone(), held);
            ledger.release(&double)
        });
    }
}

#[divan::bench_group(name = "500,000 in use: from nothing", sample_count = 10, sample_size = 1)]
mod rebuild {
    use super::{Bencher, Held, Ledger, Pool, REBUILT, address_pool, object, prefix_pool, scattered, v4, v6_block};

    fn rebuild(bencher: Bencher<'_, '_>, pool: &Pool, held: fn(u32) -> Held, step: u32) {
        bencher
            .with_inputs(|| scattered(REBUILT).map(|n| (object(n), held(n * step))).collect::<Vec<_>>())
            .bench_local_values(|held| Ledger::rebuild(pool.clone(), held));
    }

    #[divan::bench]
    fn dense_ipv4(bencher: Bencher<'_, '_>) {
        rebuild(bencher, &address_pool("10.0.0.0/8"), v4, 1);
    }

    #[divan::bench]
    fn shredded_ipv4(bencher: Bencher<'_, '_>) {
        rebuild(bencher, &address_pool("10.0.0.0/8"), v4, 2);
    }

    #[divan::bench]
    fn shredded_prefixes(bencher: Bencher<'_, '_>) {
        rebuild(bencher, &prefix_pool("2001:db8::/32", 64), v6_block, 2);
    }
}

/// A prefix that lies over everything else: the one thing that is not O(log n).
#[divan::bench_group(name = "1,000,000 in use: a /32 over them all", sample_count = 5, sample_size = 1)]
mod wide {
    use super::{Bencher, Held, IN_USE, RefCell, full, object, prefix_pool, v6_block};

    #[divan::bench]
    fn hold_and_release(bencher: Bencher<'_, '_>) {
        let ledger = RefCell::new(full(prefix_pool("2001:db8::/32", 64), v6_block, 2));
        let wide = Held { prefix: 32, ..v6_block(0) };
        bencher.bench_local(|| {
            let mut ledger = ledger.borrow_mut();
            ledger.hold(object(IN_USE + 1), wide);
            ledger.release(&object(IN_USE + 1))
        });
    }
}

#[divan::bench_group(name = "pools of a whole family")]
mod whole {
    use super::{Ledger, address_pool, black_box, object};

    #[divan::bench(args = ["0.0.0.0/0", "::/0"])]
    fn new_allocate_count(net: &str) -> u128 {
        let mut ledger = Ledger::new(address_pool(net));
        black_box(ledger.allocate(object(1)));
        ledger.counts().free
    }
}

fn main() {
    divan::main();
}
