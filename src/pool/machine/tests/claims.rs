//! The life of a claim (behaviour.md, C2–C13).

use std::time::Duration;

use super::fixtures::{claim, key, pool};
use super::world::{Fate, LOCK_DELAY, World, is_create, is_put};
use crate::api::conditions;
use crate::api::names;
use crate::pool::machine::Action;
use crate::pool::object::{Address, ClusterState, InvalidSpec};

const LITTLE: Duration = Duration::from_secs(3);

#[test]
fn rule_c2_a_claim_gets_our_finalizer_also_without_a_pool_and_is_served_when_the_pool_appears() {
    let mut world = World::empty();
    world.sent = Some(Vec::new());
    world.start_another();
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let found = &world.server.claims[&key("a")];
    assert!(found.is_ours());
    assert_eq!(found.noted_uid.as_deref(), Some(&*found.uid));
    assert_eq!(world.ready("a").expect("a condition").0, "PoolNotReady");
    world.server.put_pool(pool("10.0.0.1-10.0.0.2"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    world.expect_sound();
}

#[test]
fn rule_c3_a_stripped_address_comes_again_before_any_waiting_claim_gets_it() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.claim_all(&["b", "c"]);
    world.pass(LITTLE);
    world.server.put_claim(claim("a").created_after(-9));
    world.pass(LITTLE);
    assert_eq!(world.ready("a").expect("a condition").0, "PoolExhausted");
    world.server.strip_address(&key("b"));
    world.pass(LITTLE);
    assert_eq!((world.address_of("b"), world.address_of("a")), (Some(1), None));
    world.expect_sound();
}

#[test]
fn rule_c3_a_stripped_address_comes_again_also_before_its_intent_is_settled() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.claim_all(&["a", "b"]);
    world.run();
    assert_eq!(world.record().pending.len(), 2, "not settled yet");
    world.server.strip_address(&key("a"));
    world.server.put_claim(claim("0").created_after(-9));
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("0")), (Some(1), Some(3)));
    world.expect_sound();
}

#[test]
fn rule_c3_an_address_that_was_stripped_before_its_claim_knew_of_it_comes_again() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.fate(|action| match action {
        Action::PatchClaimStatus { bound: true, .. } => Fate::Hold,
        _ => Fate::Serve,
    });
    world.claim_all(&["a"]);
    world.run();
    world.server.strip_address(&key("a"));
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    assert!(world.record().pending.is_empty());
}

#[test]
fn rule_c3_an_address_that_somebody_else_was_promised_meanwhile_is_not_insisted_on() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    // Another replica, which does not know what "a" had, is quicker.
    world.server.strip_address(&key("a"));
    world.server.put_claim(claim("0").created_after(-9));
    let other = world.add_actor();
    world.read_pool(other);
    world.start(other, crate::pool::record::Memory::default());
    world.pass(LITTLE);
    world.expect_sound();
    let mut given: Vec<u8> = world.addresses().into_iter().map(|(_, last)| last).collect();
    given.sort_unstable();
    assert_eq!(given, [1, 2, 3]);
}

#[test]
fn rule_c7_c8_a_claim_of_a_missing_or_paused_cluster_is_left_without_any_write() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut missing = claim("missing");
    missing.cluster = ClusterState::Missing;
    let mut paused = claim("paused");
    paused.cluster = ClusterState::Paused;
    let mut itself = claim("itself");
    itself.paused = true;
    for waiting in [missing, paused, itself] {
        world.server.put_claim(waiting);
    }
    world.pass(LITTLE);
    world.forget_sent();
    world.pass(LITTLE);
    assert_eq!(world.count(|_| true), 0);
    assert!(world.server.claims.values().all(|claim| claim.finalizers.is_empty() && claim.conditions.is_empty()));
    // Unpausing acts at once (C11).
    for name in ["missing", "paused", "itself"] {
        world.server.edit_claim(&key(name), |claim| {
            (claim.paused, claim.cluster) = (false, ClusterState::Active);
        });
    }
    world.run();
    assert_eq!(world.addresses().len(), 3);
}

#[test]
fn rule_c10_ten_thousand_claims_of_a_full_pool_cost_nothing_while_nothing_changes() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    for n in 0..10_000 {
        world.server.put_claim(claim(&format!("c{n:05}")));
    }
    world.pass(LITTLE);
    assert_eq!(world.ready("c09999").expect("a condition").0, "PoolExhausted");
    let then = world.server.claims[&key("c09999")].clone();
    world.forget_sent();
    for _ in 0..50 {
        world.let_pass(Duration::from_mins(1), || false);
        world.step(0, Vec::new());
        world.run();
    }
    assert_eq!(world.count(|_| true), 0);
    assert_eq!(world.server.claims[&key("c09999")], then);
    // C11: capacity frees up, and exactly one of them is served.
    world.server.delete_claim(&key("c00000"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("c00002"), Some(1));
    let writes = world.count(|_| true);
    assert!(writes < 12, "{writes}");
}

#[test]
fn rule_c10_a_refused_create_is_told_once_and_tried_again() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.forget_sent();
    world.fate(|action| if is_create(action) { Fate::Refuse } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(Duration::from_secs(20));
    let (reason, message) = world.ready("a").expect("a condition");
    assert_eq!(reason, "AllocationFailed");
    assert!(message.contains("refused"), "{message}");
    assert_eq!(world.count(|action| matches!(action, Action::PatchClaimStatus { .. })), 1);
    let creates = world.sent.iter().flatten().filter(|action| is_put(action)).count();
    assert!(creates < 30, "{creates} commits while the server refuses");
    world.serve_all();
    world.pass(Duration::from_mins(1));
    assert_eq!(world.address_of("a"), Some(1));
    assert!(world.record().pending.is_empty());
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.1");
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    let since = |world: &World| {
        let conditions = &world.server.claims[&key("b")].conditions;
        conditions::find(conditions, names::READY).map(|c| c.last_transition_time.clone())
    };
    let then = since(&world);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.paused = true);
    world.pass(LITTLE);
    assert_eq!(world.ready("b").expect("a condition").0, "PoolNotReady");
    assert_eq!(since(&world), then);
}

#[test]
fn rule_c12_a_claim_that_a_consumer_holds_keeps_its_address() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_claim(claim("a").held_by("example.com/consumer").held_by(names::FOREGROUND_FINALIZER));
    world.pass(LITTLE);
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.retain(|f| f != "example.com/consumer"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), None);
    assert_eq!(world.server.claims[&key("a")].finalizers, [names::FOREGROUND_FINALIZER]);
    world.expect_sound();
}

#[test]
fn rule_c12_a_released_address_is_held_back_for_the_whole_grace_period_rounded_up() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.edit_pool(|pool| pool.spec.as_mut().expect("a spec").grace = Duration::from_secs(30));
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.delete_claim(&key("a"));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.address_of("a"), Some(1), "30 s after a time that was cut to the second may be less than 30 s");
    world.forget_sent();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.address_of("a"), None);
    assert!(world.server.claims.is_empty());
}

#[test]
fn rule_c12_a_release_works_without_a_pool_and_with_an_invalid_one() {
    for gone in [true, false] {
        let mut world = World::with_pool("10.0.0.1-10.0.0.9");
        world.server.edit_pool(|pool| pool.spec.as_mut().expect("a spec").grace = Duration::from_mins(50));
        world.claim_all(&["a"]);
        world.pass(LITTLE);
        world.server.edit_pool(|pool| {
            if gone {
                (pool.deleting, pool.finalizers) = (true, Vec::new());
            } else {
                pool.spec = Err(InvalidSpec("spec.prefix: 99 is too long".into()));
                pool.generation += 1;
            }
        });
        world.pass(LITTLE);
        world.server.delete_claim(&key("a"));
        world.pass(LITTLE);
        assert_eq!(world.address_of("a"), None, "pool gone: {gone}");
        assert!(world.server.claims.is_empty());
        world.expect_sound();
    }
}

#[test]
fn a_release_does_not_wait_for_an_unsettled_create() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let mut lost = false;
    world.fate(
        move |action| {
            if is_create(action) && !std::mem::replace(&mut lost, true) { Fate::LoseRequest } else { Fate::Serve }
        },
    );
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.record().pending.len()), (Some(1), 1));
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert!(world.server.claims.is_empty() && world.server.addresses.is_empty());
    // F7: the address itself stays reserved meanwhile.
    world.claim_all(&["b"]);
    world.pass(LITTLE);
    assert_eq!(world.address_of("b"), Some(2));
    world.pass(LOCK_DELAY * 2);
    assert!(world.record().pending.is_empty());
    world.expect_sound();
}

#[test]
fn a_claim_that_is_created_again_under_its_name_gets_an_address_of_its_own_uid() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let before = world.server.addresses[&key("a")].uid.clone();
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let after = &world.server.addresses[&key("a")];
    assert_ne!(after.uid, before);
    assert_eq!(after.owners[0].uid, *world.server.claims[&key("a")].uid);
    world.expect_sound();
}

#[test]
fn rule_f7_a_replica_that_still_sees_an_earlier_claim_does_not_release_what_a_later_one_has() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.push("example.com/consumer".into()));
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    // The earlier claim goes, and another replica gives the IPAddress to the next one of its name.
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.retain(|finalizer| !finalizer.contains("consumer")));
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.clear());
    let next = world.server.put_claim(claim("a"));
    let mut address = Address::clone(&world.server.addresses[&key("a")]);
    address.owners[0].uid = next.uid.to_string();
    let address = world.server.put_address(address);
    world.forget_sent();
    while world.deliver(0, 2) {}
    assert!(world.deliver(0, 1), "the earlier claim may be released, as far as this replica sees");
    world.pass(LITTLE);
    assert_eq!(world.count(|action| matches!(action, Action::PatchAddress { .. } | Action::DeleteAddress { .. })), 0);
    assert_eq!(world.server.addresses[&key("a")].version, address.version);
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
}

/// What a replica sees that starts with a watch of claims that lags: the claim is bound, its IPAddress is gone.
fn with_lagging_claims(settled: bool) -> World {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    if settled {
        world.pass(LITTLE);
    } else {
        world.run();
    }
    let old = world.server.claims[&key("a")].clone();
    assert!(old.address_ref.is_some());
    world.fate(|action| if matches!(action, Action::PatchClaim { .. }) { Fate::Hold } else { Fate::Serve });
    world.server.delete_claim(&key("a"));
    world.run();
    assert_eq!(world.address_of("a"), None, "all but the end of its release is done");
    world.crash(0);
    let newest = world.server.claims.insert(key("a"), old).expect("it is being deleted");
    world.start_another();
    world.server.claims.insert(key("a"), newest);
    world.forget_sent();
    world.serve_all();
    world
}

#[test]
fn a_claim_that_is_not_seen_to_be_deleted_is_given_no_second_address() {
    for settled in [true, false] {
        let mut world = with_lagging_claims(settled);
        world.pass(LITTLE);
        assert_eq!(world.count(is_create), 0, "settled: {settled}");
        assert!(!world.server.claims.contains_key(&key("a")), "it is released");
        world.expect_sound();
    }
}

#[test]
fn a_claim_whose_life_is_in_doubt_waits_for_an_answer_and_is_served_when_it_lives() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let refused = |action: &Action| if matches!(action, Action::GetClaim(_)) { Fate::Refuse } else { Fate::Serve };
    world.fate(refused);
    world.server.strip_address(&key("a"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), None, "a refused look proves nothing");
    world.serve_all();
    world.pass(Duration::from_secs(40));
    assert_eq!(world.address_of("a"), Some(1));
}

#[test]
fn a_look_at_a_claim_counts_only_for_the_loss_of_its_address_before() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    for _ in 0..2 {
        world.forget_sent();
        world.server.strip_address(&key("a"));
        world.pass(LITTLE);
        assert_eq!(world.count(|action| matches!(action, Action::GetClaim(_))), 1);
        assert_eq!(world.address_of("a"), Some(1));
    }
}
