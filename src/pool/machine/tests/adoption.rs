//! Moved and restored claims, whose IPAddresses come after them (C19).

use std::time::Duration;

use super::fixtures::{address, claim, key, pool};
use super::world::{ADOPTION_GRACE, Fate, World, is_create, is_put};
use crate::api::names;
use crate::api::status::AddressCounts;
use crate::pool::machine::{Action, Fact};
use crate::pool::object::{Address, Claim, ClusterState, PoolView};

const SECOND: Duration = Duration::from_secs(1);

/// A claim as `clusterctl move` or a restore creates it: with our finalizer, and at most the note of another life.
fn moved(name: &str) -> Claim {
    claim(name).held_by(names::RELEASE_ADDRESS_FINALIZER)
}

/// A pool as they create it: with our finalizer, without a status.
fn moved_pool(noted: Option<&str>) -> PoolView {
    let finalizers = vec![names::PROTECT_POOL_FINALIZER.to_owned()];
    PoolView { finalizers, noted_uid: noted.map(ToOwned::to_owned), ..pool("10.0.0.1-10.0.0.9") }
}

/// A world in which a claim waited for the pool when that came.
fn world_before(pool: PoolView) -> World {
    let mut world = World::empty();
    world.sent = Some(Vec::new());
    world.start_another();
    world.server.put_claim(claim("waiting"));
    world.pass(ADOPTION_GRACE * 2);
    world.server.put_pool(pool);
    world
}

/// Nobody is served before the address of a moved claim is there.
fn b_waits_for_the_address_of_a(world: &mut World) {
    world.claim_all(&["b"]);
    world.pass(ADOPTION_GRACE / 2);
    assert_eq!(world.addresses(), Vec::new());
    world.server.put_address(address("a", 1));
    world.pass(2 * SECOND);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
}

impl Claim {
    fn noted_as(mut self, uid: &str) -> Self {
        self.noted_uid = Some(uid.to_owned());
        self
    }
}

#[test]
fn rule_c19_nobody_is_promised_anything_until_the_address_of_a_moved_claim_arrives() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(moved("a").noted_as("its uid elsewhere"));
    world.run();
    world.server.put_claim(claim("b").created_after(-9));
    world.pass(ADOPTION_GRACE / 2);
    assert_eq!(world.addresses(), Vec::new());
    for (name, words) in [("a", "waiting for its IPAddress"), ("b", "was moved or restored")] {
        let (reason, message) = world.ready(name).expect("it says why");
        assert_eq!(reason, "AllocationFailed");
        assert!(message.contains(words), "{message}");
    }
    assert!(world.has_fact(|fact| matches!(fact, Fact::AddressesAwaited { claims: 1 })));
    world.server.put_address(address("a", 1));
    world.run();
    world.pass(2 * SECOND);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
    world.expect_sound();
}

#[test]
fn rule_c19_without_a_note_of_its_uid_a_claim_with_our_finalizer_is_waited_for_and_then_marked_as_ours() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let uid = world.server.put_claim(moved("a")).uid.clone();
    world.pass(ADOPTION_GRACE.saturating_sub(SECOND));
    assert_eq!((world.addresses(), world.server.claims[&key("a")].noted_uid.clone()), (Vec::new(), None));
    world.pass(2 * SECOND);
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!(world.server.claims[&key("a")].noted_uid.as_deref(), Some(&*uid), "it never waits again");
    world.expect_sound();
}

#[test]
fn rule_c19_a_claim_that_is_noted_here_waits_for_nothing() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut known = moved("a").noted_as("its uid");
    known.uid = "its uid".into();
    world.server.put_claim(known);
    world.run();
    assert_eq!(world.address_of("a"), Some(1));
}

#[test]
fn rule_c19_an_old_claim_of_the_original_is_served_at_once() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(moved("old").created_after(-601));
    world.run();
    assert_eq!(world.address_of("old"), Some(1));
    assert!(world.server.claims[&key("old")].noted_uid.is_some(), "and marked as ours");
}

#[test]
fn rule_c19_an_address_that_arrives_at_once_costs_its_claim_and_others_no_word() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(moved("a"));
    world.server.put_claim(claim("b"));
    world.pass(SECOND);
    world.server.put_address(address("a", 4));
    world.forget_sent();
    world.run();
    let conditions = world.count(|action| matches!(action, Action::PatchClaimStatus { bound: false, .. }));
    assert_eq!((conditions, world.address_of("b")), (0, Some(1)));
    assert!(world.ready("a").is_some_and(|(reason, _)| reason == "AddressAllocated"));
}

#[test]
fn rule_c19_a_moved_pool_gives_nothing_away_before_its_claims_come() {
    for noted in [Some("its uid elsewhere"), None] {
        let mut world = world_before(moved_pool(noted));
        world.pass(SECOND * 5);
        let (reason, message) = world.ready("waiting").expect("it says why");
        assert!(reason == "AllocationFailed" && message.contains("was moved or restored"), "{reason}: {message}");
        assert!(world.has_fact(|fact| matches!(fact, Fact::AddressesAwaited { claims: 0 })));
        world.server.put_claim(moved("a").noted_as("its uid elsewhere"));
        world.pass(SECOND);
        world.server.put_address(address("a", 1));
        world.pass(ADOPTION_GRACE);
        assert_eq!((world.address_of("a"), world.address_of("waiting")), (Some(1), Some(2)));
        world.expect_sound();
    }
}

#[test]
fn rule_c19_a_moved_pool_is_marked_as_ours_after_the_wait_and_not_before() {
    let mut world = world_before(moved_pool(Some("its uid elsewhere")));
    world.pass(ADOPTION_GRACE / 2);
    world.crash(0);
    world.start_another();
    world.pass(ADOPTION_GRACE.saturating_sub(SECOND));
    let noted = |world: &World| world.server.pool.as_ref().and_then(|pool| pool.noted_uid.clone());
    assert_eq!((world.addresses(), noted(&world).as_deref()), (Vec::new(), Some("its uid elsewhere")));
    world.pass(SECOND * 2);
    assert_eq!(world.address_of("waiting"), Some(1));
    let uid = world.server.pool.as_ref().map(|pool| pool.uid.to_string());
    assert_eq!(noted(&world), uid);
    world.crash(1);
    world.claim_all(&["b"]);
    world.start_another();
    world.run();
    assert_eq!(world.address_of("b"), Some(2), "it never waits again");
    world.expect_sound();
}

#[test]
fn rule_c19_a_pool_that_is_known_here_waits_for_nothing() {
    let mut marked = moved_pool(Some("its uid"));
    marked.uid = "its uid".into();
    let mut originals = moved_pool(None);
    originals.status.counts = Some(AddressCounts::default());
    let mut old = moved_pool(None);
    old.created = old.created.saturating_sub(Duration::from_mins(11)).expect("a time");
    for pool in [marked, originals, old] {
        let mut world = world_before(pool);
        world.run();
        assert_eq!(world.address_of("waiting"), Some(1));
    }
}

#[test]
fn rule_c19_a_note_of_elsewhere_is_enough_where_a_backup_lost_the_finalizers() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(claim("a").noted_as("its uid elsewhere"));
    world.run();
    b_waits_for_the_address_of_a(&mut world);
}

#[test]
fn rule_c19_a_claim_without_its_finalizer_and_its_pool_is_still_known_as_moved_when_that_comes() {
    let mut world = World::empty();
    world.sent = Some(Vec::new());
    world.start_another();
    world.server.put_claim(claim("a").noted_as("its uid elsewhere"));
    world.pass(ADOPTION_GRACE * 2);
    assert!(world.server.claims[&key("a")].is_ours() && world.server.claims[&key("a")].may_be_moved());
    world.server.put_pool(pool("10.0.0.1-10.0.0.9"));
    b_waits_for_the_address_of_a(&mut world);
}

#[test]
fn rule_c19_a_paused_claim_and_one_of_a_paused_cluster_are_waited_for_without_a_write() {
    for paused in [ClusterState::None, ClusterState::Paused, ClusterState::Missing] {
        let mut world = World::with_pool("10.0.0.1-10.0.0.9");
        let mut waiting = moved("a");
        (waiting.paused, waiting.cluster) = (paused == ClusterState::None, paused);
        let before = world.server.put_claim(waiting);
        world.run();
        world.claim_all(&["b"]);
        world.pass(ADOPTION_GRACE.saturating_sub(SECOND));
        assert_eq!((world.addresses(), &world.server.claims[&key("a")]), (Vec::new(), &before));
        world.server.put_address(address("a", 1));
        world.pass(2 * SECOND);
        assert_eq!(world.address_of("b"), Some(2));
    }
}

#[test]
fn rule_c19_a_deleting_claim_is_not_waited_for() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(moved("a"));
    world.run();
    world.claim_all(&["b"]);
    world.run();
    assert_eq!(world.address_of("b"), None);
    world.server.delete_claim(&key("a"));
    world.run();
    assert_eq!((world.address_of("b"), world.server.claims.contains_key(&key("a"))), (Some(1), false));
}

#[test]
fn rule_c19_the_wait_begins_again_when_the_pool_appears() {
    let mut world = World::empty();
    world.sent = Some(Vec::new());
    world.start_another();
    world.server.put_claim(moved("a"));
    world.pass(ADOPTION_GRACE * 2);
    assert_eq!(world.ready("a").expect("a condition").0, "PoolNotReady");
    assert_eq!(world.server.claims[&key("a")].noted_uid, None);
    world.server.put_pool(pool("10.0.0.1-10.0.0.9"));
    b_waits_for_the_address_of_a(&mut world);
}

#[test]
fn rule_c19_a_pool_is_held_for_five_minutes_of_an_hour_and_then_only_the_claims_wait() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.90");
    let mut created = 0;
    // One after another, so that the pool would never be free again.
    let mut moves = |world: &mut World, minutes: i64| {
        for _ in 0..minutes {
            let seconds = world.server.seconds;
            world.server.put_claim(moved(&format!("m{created}")).created_after(seconds));
            created += 1;
            world.pass(ADOPTION_GRACE.saturating_sub(SECOND / 2));
        }
    };
    world.claim_all(&["before"]);
    world.run();
    moves(&mut world, 3);
    world.claim_all(&["b"]);
    moves(&mut world, 2);
    assert_eq!(world.address_of("b"), None);
    moves(&mut world, 1);
    assert!(world.address_of("b").is_some());
    assert!(world.has_fact(|fact| matches!(fact, Fact::HeldTooLong { claims: 1 })));
    // The claim itself waits on, and is served in the end.
    let seconds = world.server.seconds;
    world.server.put_claim(moved("last").created_after(seconds));
    world.pass(ADOPTION_GRACE / 2);
    world.claim_all(&["c"]);
    world.run();
    assert_eq!((world.address_of("c").is_some(), world.address_of("last")), (true, None));
    world.pass(ADOPTION_GRACE);
    assert!(world.address_of("last").is_some());
    // An hour later the pool may be held again.
    world.pass(Duration::from_hours(1));
    let seconds = world.server.seconds;
    world.server.put_claim(moved("later").created_after(seconds));
    world.run();
    world.claim_all(&["d"]);
    world.pass(ADOPTION_GRACE / 2);
    assert_eq!(world.address_of("d"), None);
    world.expect_sound();
}

#[test]
fn rule_c19_an_inherited_intent_is_carried_out_while_the_pool_is_held() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.fate(|action| if is_create(action) { Fate::LoseRequest } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    assert_eq!(world.record().pending.len(), 1);
    world.crash(0);
    world.serve_all();
    world.server.put_claim(moved("m"));
    world.start_another();
    world.claim_all(&["b"]);
    world.pass(SECOND);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), None));
    world.expect_sound();
}

#[test]
fn rule_c19_another_replica_that_takes_over_waits_as_well() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(moved("m"));
    world.claim_all(&["a"]);
    world.pass(ADOPTION_GRACE / 2);
    world.crash(0);
    let other = world.start_another();
    world.pass(ADOPTION_GRACE / 2);
    assert_eq!(world.addresses(), Vec::new());
    world.crash(other);
    world.server.put_address(address("m", 1));
    world.start_another();
    world.run();
    assert_eq!((world.address_of("m"), world.address_of("a")), (Some(1), Some(2)));
}

#[test]
fn rule_c19_those_that_find_the_pool_full_after_the_wait_are_told_so() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.server.put_claim(moved("m"));
    world.run();
    world.claim_all(&["a", "b", "c"]);
    world.pass(ADOPTION_GRACE / 2);
    assert!(world.ready("c").is_some_and(|(reason, _)| reason == "AllocationFailed"));
    world.server.put_address(address("m", 2));
    world.pass(SECOND);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), None));
    for name in ["b", "c"] {
        assert_eq!(world.ready(name).expect("a condition").0, "PoolExhausted");
    }
}

#[test]
fn rule_c19_ten_thousand_claims_that_wait_are_told_once_and_cost_nothing_more() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.server.unchecked = true;
    world.claim_all(&["x"]);
    world.run();
    world.server.put_claim(moved("m"));
    for n in 0..10_000 {
        world.server.put_claim(claim(&format!("c{n:05}")));
    }
    world.pass(5 * SECOND);
    assert!(world.ready("c09999").is_some_and(|(reason, _)| reason == "AllocationFailed"));
    world.forget_sent();
    world.pass(30 * SECOND);
    assert_eq!(world.count(|_| true), 0);
    assert_eq!(world.count(is_put), 0);
    world.server.put_address(address("m", 2));
    world.pass(3 * SECOND);
    assert!(world.ready("c09999").is_some_and(|(reason, _)| reason == "PoolExhausted"));
    let told = world.count(|action| matches!(action, Action::PatchClaimStatus { bound: false, .. }));
    assert_eq!(told, 10_000, "once each");
}

/// `clusterctl move` takes the address of a claim away, as the last but one thing that it does.
fn taken_along(world: &mut World) {
    world.claim_all(&["a", "b"]);
    world.pass(SECOND);
    let mut known = Address::clone(&world.server.addresses[&key("a")]);
    known.moving = true;
    world.server.put_address(known);
    world.run();
    world.server.strip_address(&key("a"));
    world.pass(SECOND * 5);
    assert_eq!(world.addresses(), [("b".to_owned(), 2)], "it is not made again");
}

#[test]
fn rule_c3_what_a_move_takes_away_is_not_made_again_while_its_claim_follows() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    taken_along(&mut world);
    world.claim_all(&["c"]);
    world.pass(SECOND);
    assert_eq!(world.address_of("c"), Some(3), "it is nobody else's before its claim is gone");
    world.server.edit_claim(&key("a"), |claim| {
        claim.deleted = Some(claim.created);
        claim.finalizers.clear();
    });
    world.claim_all(&["d"]);
    world.pass(SECOND);
    assert_eq!((world.server.claims.contains_key(&key("a")), world.address_of("d")), (false, Some(1)));
    world.expect_sound();
}

#[test]
fn rule_c3_where_a_move_has_failed_the_claim_gets_the_same_address_again() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    taken_along(&mut world);
    world.pass(Duration::from_mins(1));
    assert_eq!(world.address_of("a"), Some(1));
    world.expect_sound();
}
