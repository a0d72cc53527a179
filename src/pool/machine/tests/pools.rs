//! The pool object: its finalizer, its status, its end and its successors (behaviour.md, C4 and "Pool status").

use std::time::Duration;

use super::fixtures::{address, claim, key, pool, spec};
use super::world::{Fate, LOCK_DELAY, World, is_create, is_list, is_put};
use crate::api::conditions::{self, Condition};
use crate::api::names::{self, PoolKind};
use crate::api::status::AddressCounts;
use crate::ipam::range::Range;
use crate::pool::key::{PoolKey, Version};
use crate::pool::machine::{Fact, Input};
use crate::pool::object::InvalidSpec;

const LITTLE: Duration = Duration::from_secs(3);

fn counts(world: &World) -> AddressCounts {
    world.server.pool.as_ref().and_then(|pool| pool.status.counts.clone()).expect("counts")
}

#[test]
fn rule_c4_every_pool_gets_our_finalizer_and_loses_it_when_it_is_deleted_unused() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    assert_eq!(world.server.pool.as_ref().expect("a pool").finalizers, [names::PROTECT_POOL_FINALIZER]);
    world.server.edit_pool(|pool| pool.deleting = true);
    world.pass(LITTLE);
    assert!(world.server.pool.is_none());
    world.expect_sound();
}

#[test]
fn rule_c4_a_deleting_pool_stays_until_its_last_address_is_gone() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.deleting = true);
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    let (reason, message) = world.pool_ready();
    assert_eq!(reason, "Deleting");
    assert!(message.contains("1 IPAddress"), "{message}");
    assert_eq!(world.ready("b").expect("a condition").0, "PoolNotReady");
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert!(world.server.pool.is_none());
    world.expect_sound();
}

#[test]
fn rule_f8_a_deleting_pool_stays_until_its_intents_are_settled_and_says_until_when() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.fate(|action| if is_create(action) { Fate::Late } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(Duration::from_secs(1));
    world.server.edit_pool(|pool| pool.deleting = true);
    world.pass(LITTLE);
    let (reason, message) = world.pool_ready();
    assert_eq!(reason, "Deleting");
    assert!(message.contains("settle, by 20"), "{message}");
    assert!(world.server.pool.is_some());
    world.flights.clear();
    world.pass(LOCK_DELAY + LITTLE);
    assert!(world.server.pool.is_none(), "though its claim lives: {:?}", world.record());
    world.expect_sound();
}

#[test]
fn a_deleting_pool_with_a_watermark_of_another_history_goes_after_a_look() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| {
        pool.status.record.as_mut().expect("a record").settled = Version(1_000_000);
    });
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.deleting = true);
    world.pass(LITTLE);
    assert!(world.server.pool.is_none());
    assert!((1..=2).contains(&world.count(is_list)), "one for each copy that had to be relied upon");
}

#[test]
fn counts_are_those_of_the_contract() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    world.server.put_address(address("x", 2));
    world.server.put_address(address("far", 200));
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    assert_eq!(counts(&world), AddressCounts { total: 5, free: 2, used: 4, out_of_range: 1 });
    // Somebody else's doing: one address in two objects takes one place.
    world.server.put_address(address("y", 2));
    world.pass(LITTLE);
    assert_eq!(counts(&world), AddressCounts { total: 5, free: 2, used: 5, out_of_range: 1 });
    world.server.strip_address(&key("x"));
    world.pass(LITTLE);
    assert_eq!(counts(&world), AddressCounts { total: 5, free: 2, used: 4, out_of_range: 1 });
    world.server.edit_pool(|pool| {
        pool.spec = Ok(spec("fd00::-fd00::ffff:ffff:ffff:ffff:ffff"));
        pool.generation += 1;
    });
    world.pass(LITTLE);
    assert_eq!(counts(&world), AddressCounts { total: i64::MAX, free: i64::MAX, used: 4, out_of_range: 4 });
}

#[test]
fn a_status_is_written_only_after_a_change_and_keeps_what_others_wrote() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    let theirs = Condition::new("Theirs", true, "Because", "", world.server.now());
    world.server.edit_pool(|pool| {
        pool.status.conditions.insert(0, theirs.clone());
        pool.status.other.insert("later".into(), 7.into());
    });
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let status = world.server.pool.as_ref().expect("a pool").status.clone();
    assert_eq!(status.conditions[0], theirs);
    assert_eq!(status.other["later"], 7);
    assert_eq!(status.observed_generation, Some(1));
    world.forget_sent();
    world.pass(Duration::from_mins(10));
    // What another installation makes of the counts is its own affair.
    world.server.edit_pool(|pool| pool.status.counts.as_mut().expect("counts").free = 77);
    world.pass(Duration::from_mins(1));
    assert_eq!(world.count(|_| true), 0);
}

#[test]
fn a_new_owner_does_not_write_a_status_that_is_right() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.crash(0);
    world.forget_sent();
    world.start_another();
    world.pass(Duration::from_mins(1));
    assert_eq!(world.count(|_| true), 0, "{:?}", world.sent);
}

#[test]
fn an_invalid_spec_is_named_and_mended_at_once() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    let broken = "spec.prefix: 99 is too long";
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Err(InvalidSpec(broken.into())), 2));
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    assert_eq!(world.pool_ready(), ("InvalidSpec".into(), broken.into()));
    let (reason, message) = world.ready("a").expect("a condition");
    assert!(reason == "PoolNotReady" && message.contains(broken), "{message}");
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.4-10.0.0.5")), 3));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(4));
    assert_eq!(world.pool_ready().0, "PoolReady");
}

#[test]
fn a_paused_pool_neither_gives_nor_takes_and_goes_on_at_once() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.paused = true);
    world.run();
    world.server.put_claim(claim("b"));
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), None));
    assert!(world.ready("b").expect("a condition").1.contains("paused"));
    assert_eq!(world.pool_ready().0, "PoolReady");
    world.server.edit_pool(|pool| pool.paused = false);
    world.run();
    assert_eq!((world.address_of("a"), world.address_of("b").is_some()), (None, true));
}

#[test]
fn rule_c8_a_paused_pool_that_is_deleted_releases_nothing_until_the_pause_is_over() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.5");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| (pool.paused, pool.deleting) = (true, true));
    world.run();
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!(world.pool_ready().0, "Deleting");
    world.server.edit_pool(|pool| pool.paused = false);
    world.pass(LITTLE);
    assert!(world.server.pool.is_none() && world.address_of("a").is_none());
    world.expect_sound();
}

#[test]
fn a_changed_spec_is_used_from_the_next_choice_on() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.1");
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.7-10.0.0.9")), 2));
    world.run();
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(7)));
    world.expect_sound();
}

#[test]
fn a_commit_that_a_spec_edit_overtakes_is_chosen_anew() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.fate(|action| if is_put(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.7-10.0.0.9")), 2));
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(7));
    world.expect_sound();
}

#[test]
fn a_pool_that_is_created_again_keeps_addresses_and_gets_their_references() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| (pool.deleting, pool.finalizers) = (true, Vec::new()));
    world.pass(LITTLE);
    let new = world.server.put_pool(pool("10.0.0.1-10.0.0.9")).uid.clone();
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
    assert!(world.server.addresses.values().all(|address| address.owners.iter().any(|owner| *owner.uid == *new)));
    let ready = conditions::find(&world.server.pool.as_ref().expect("a pool").status.conditions, names::READY).cloned();
    assert!(ready.is_some_and(|ready| ready.is_true()));
    world.expect_sound();
}

#[test]
fn an_overlap_is_told_once_and_other_peers_alone_are_no_reason_for_a_write() {
    let peers = |names: &[&str]| {
        let range = Range::single("10.0.0.2".parse().expect("an address"));
        let peer = |name: &&str| (PoolKey::referenced(PoolKind::InClusterIPPool, "ns", name), range);
        Input::Overlaps(names.iter().map(peer).collect())
    };
    let told = |world: &World| {
        let conditions = world.server.pool.as_ref().map(|pool| pool.status.conditions.clone()).unwrap_or_default();
        conditions::find(&conditions, names::OVERLAPPING).map(|it| (it.status.clone(), it.message.clone()))
    };
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.step(0, vec![peers(&[])]);
    world.pass(LITTLE);
    assert_eq!(told(&world), None, "a pool that never overlapped has no condition");
    world.step(0, vec![peers(&["b"])]);
    world.pass(LITTLE);
    let message = "InClusterIPPool ns/b can hand out 10.0.0.2 too";
    assert_eq!(told(&world), Some(("True".to_owned(), message.to_owned())));
    assert!(world.has_fact(|fact| matches!(fact, Fact::Overlaps(told) if told == message)));
    world.facts.clear();
    world.forget_sent();
    world.step(0, vec![peers(&["b", "c", "d", "e"])]);
    world.pass(Duration::from_mins(10));
    assert_eq!(world.count(is_put), 0);
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let (_, message) = told(&world).expect("a condition");
    assert!(message.ends_with("ns/d can hand out 10.0.0.2 too, and more pools some other"), "{message}");
    assert!(!world.has_fact(|fact| matches!(fact, Fact::Overlaps(_))), "that is no news");
    world.step(0, vec![peers(&[])]);
    world.pass(LITTLE);
    assert_eq!(told(&world).expect("a condition").0, "False");
    world.expect_sound();
}
