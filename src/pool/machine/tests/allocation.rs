//! Which claim gets which address (behaviour.md, B1–B6), and what that costs.

use std::time::Duration;

use super::fixtures::{address, claim, held, key};
use super::world::{Fate, LOCK_DELAY, World, is_create, is_put};
use crate::api::names::PoolKind;
use crate::pool::key::PoolKey;
use crate::pool::machine::Action;

fn pairs(expected: &[(&str, u8)]) -> Vec<(String, u8)> {
    expected.iter().map(|(name, last)| ((*name).to_owned(), *last)).collect()
}

#[test]
fn rule_b1_the_lowest_free_address_is_given_and_a_freed_low_one_is_reused_first() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a", "b", "c"]);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.addresses(), pairs(&[("a", 1), ("b", 2), ("c", 3)]));
    world.server.delete_claim(&key("b"));
    world.pass(Duration::from_secs(2));
    world.claim_all(&["d"]);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.addresses(), pairs(&[("a", 1), ("c", 3), ("d", 2)]));
    world.expect_sound();
}

#[test]
fn rule_b1_an_address_is_free_again_as_soon_as_its_claim_is_released() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(Duration::from_secs(2));
    world.claim_all(&["a"]);
    // Not long enough for the intent to be dropped by a write of its own.
    world.pass(Duration::from_millis(100));
    world.server.delete_claim(&key("a"));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.addresses(), pairs(&[]));
    world.claim_all(&["b"]);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.addresses(), pairs(&[("b", 1)]));
    world.expect_sound();
}

#[test]
fn rule_b3_an_address_that_was_created_before_is_adopted_and_only_its_metadata_repaired() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut restored = address("a", 7);
    restored.finalizers = vec!["example.com/other".into()];
    world.server.put_address(restored);
    world.server.put_claim(claim("a"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.addresses(), pairs(&[("a", 7)]));
    let repaired = &world.server.addresses[&key("a")];
    assert!(repaired.is_protected() && repaired.finalizers.len() == 2 && repaired.owners.len() == 2, "{repaired:?}");
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
    assert_eq!(world.server.claims[&key("a")].address_ref.as_deref(), Some("a"));
    assert_eq!(world.count(is_create), 0);
}

#[test]
fn rule_b3_a_foreign_address_of_the_name_is_left_alone_and_the_claim_says_so() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut foreign = address("a", 7);
    foreign.pool = Some(PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "other"));
    let before = world.server.put_address(foreign);
    world.server.put_claim(claim("a"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.server.addresses[&key("a")], before);
    assert_eq!(world.ready("a").expect("a condition").0, "AllocationFailed");
    // C11: it is looked at again when that address disappears.
    world.server.strip_address(&key("a"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.address_of("a"), Some(1));
}

#[test]
fn rule_b3_a_foreign_address_that_disappears_behind_a_list_is_noticed() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut foreign = address("a", 7);
    foreign.pool = Some(PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "other"));
    world.server.put_address(foreign);
    world.claim_all(&["a", "b"]);
    world.pass(Duration::from_secs(2));
    // A LIST of this pool's addresses, which do not tell about that one, is newer than its end.
    world.server.strip_address(&key("a"));
    world.server.edit_pool(|pool| pool.status.record = None);
    world.server.put_claim(claim("c"));
    for kind in 0..2 {
        while world.deliver(0, kind) {}
    }
    while let Some(flight) = world.flights.iter().position(|f| matches!(f.action, Action::ListAddresses(_))) {
        world.send(flight);
        world.execute(flight);
        world.answer(flight);
    }
    world.pass(Duration::from_secs(3));
    assert_eq!(world.addresses().len(), 3);
    world.expect_sound();
}

#[test]
fn rule_b3_a_terminating_address_without_our_finalizer_is_waited_for() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut ending = address("a", 1);
    ending.deleting = true;
    ending.finalizers = vec!["example.com/other".into()];
    world.server.put_address(ending);
    world.server.put_claim(claim("a"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.ready("a").expect("a condition").0, "AllocationFailed");
    assert_eq!(world.server.addresses[&key("a")].finalizers, ["example.com/other"]);
    world.server.strip_address(&key("a"));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.address_of("a"), Some(1));
    assert!(!world.server.addresses[&key("a")].deleting);
    world.expect_sound();
}

#[test]
fn rule_b4_an_address_that_is_none_is_counted_and_blocks_nothing() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    let mut damaged = address("x", 1);
    damaged.held = Err("10.0.0".into());
    world.server.put_address(damaged);
    world.claim_all(&["a", "b"]);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.addresses(), pairs(&[("a", 1), ("b", 2)]));
    let counts = world.server.pool.as_ref().and_then(|p| p.status.counts.clone()).expect("counts");
    assert_eq!((counts.total, counts.free, counts.used, counts.out_of_range), (2, 0, 3, 1));
}

#[test]
fn rule_b5_claims_are_served_by_age_then_by_name() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    for (name, after) in [("a", 9), ("z", 1), ("m", 5), ("b", 5)] {
        world.server.put_claim(claim(name).created_after(after));
    }
    // Known at once, as after a start: claims that were seen alone may be served alone.
    world.start_another();
    world.crash(0);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.addresses(), pairs(&[("a", 4), ("b", 2), ("m", 3), ("z", 1)]));
}

#[test]
fn rule_b5_the_oldest_of_very_many_claims_is_served_first_whatever_its_name() {
    let mut world = World::empty();
    let mut pool = super::fixtures::pool("10.0.0.0-10.0.255.255");
    pool.finalizers.push(crate::api::names::PROTECT_POOL_FINALIZER.into());
    pool.status.counts = Some(crate::api::status::AddressCounts::default());
    world.server.put_pool(pool);
    for n in 0..5_000 {
        world.server.put_claim(claim(&format!("c{n:05}")).created_after(10_000 - n));
    }
    world.start_another();
    world.run();
    assert_eq!(world.server.addresses[&key("c04999")].held, Ok(held(0)));
    assert_eq!(world.server.addresses[&key("c04998")].held, Ok(held(1)));
    world.expect_sound();
}

#[test]
fn a_thousand_claims_cost_little_more_than_three_writes_each_and_no_read() {
    let mut world = World::with_pool("10.0.0.0-10.0.255.255");
    world.forget_sent();
    for n in 0..1_000 {
        world.server.put_claim(claim(&format!("c{n:05}")));
    }
    world.pass(Duration::from_secs(5));
    assert_eq!(world.server.addresses.len(), 1_000);
    assert_eq!(world.count(|action| !super::world::is_write(action)), 0);
    let sent = world.count(|_| true);
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for action in world.sent.iter().flatten() {
        let kind = format!("{action:?}").split([' ', '(']).next().map(str::to_owned);
        *kinds.entry(kind.unwrap_or_default()).or_default() += 1;
    }
    assert!(sent <= 3_200, "{sent} requests: {kinds:?}");
    assert!(world.record().pending.is_empty());
    world.expect_sound();
}

#[test]
fn claims_that_come_while_a_commit_is_under_way_ride_in_the_next_one_together() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.99");
    world.pass(Duration::from_secs(5));
    world.forget_sent();
    world.fate(|action| if is_put(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    world.claim_all(&["b", "c", "d", "e"]);
    world.run();
    world.serve_all();
    world.run();
    assert_eq!(world.addresses().len(), 5);
    assert_eq!(world.count(is_put), 2);
}

#[test]
fn rule_f10_a_record_that_is_full_takes_no_more_and_the_claims_say_so() {
    let mut world = World::with_pool("10.0.0.0-10.0.255.255");
    world.fate(|action| if is_create(action) { Fate::LoseRequest } else { Fate::Serve });
    for n in 0..700 {
        world.server.put_claim(claim(&format!("c{n:05}")).created_after(n));
    }
    // Claims whose create is never answered are deleted: their intents wait for the lock delay.
    for _ in 0..12 {
        world.pass(Duration::from_millis(400));
        let waiting: Vec<_> = world.record().pending.values().map(|i| i.claim.clone()).collect();
        for name in waiting {
            if world.server.claims.contains_key(&name) {
                world.server.delete_claim(&name);
            }
        }
        assert!(world.record().pending.len() <= crate::pool::record::MAX_INTENTS);
    }
    assert_eq!(world.record().pending.len(), crate::pool::record::MAX_INTENTS);
    let (reason, message) = world.ready("c00699").expect("a condition");
    assert_eq!(reason, "AllocationFailed");
    assert!(message.contains("unsettled"), "{message}");
    world.serve_all();
    world.pass(LOCK_DELAY * 2);
    assert_eq!(world.server.addresses.len(), world.server.claims.len());
    assert!(world.record().pending.is_empty());
    world.expect_sound();
}
