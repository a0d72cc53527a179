//! IPAddresses whose claim is gone (C14).

use std::time::Duration;

use super::fixtures::{address, claim, key, pool};
use super::world::{Fate, LOCK_DELAY, ORPHAN_GRACE, World, is_create, is_put, is_write};
use crate::pool::machine::{Action, Fact, Input};
use crate::pool::object::{Address, ClusterState};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than it takes to find an orphan.
const FOUND: Duration = Duration::from_secs(15);

fn is_look(action: &Action) -> bool {
    matches!(action, Action::GetClaim(_))
}

fn is_removal(action: &Action) -> bool {
    matches!(action, Action::DeleteAddress { .. } | Action::PatchAddress { .. })
}

fn is_report(fact: &Fact) -> bool {
    matches!(fact, Fact::Orphaned { .. })
}

/// A pool with an IPAddress of ours and no claim, which the machine has found.
fn with_orphan() -> World {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_address(address("a", 1));
    world.pass(FOUND);
    world
}

fn orphans(world: &World) -> usize {
    world.actors[0].machine.as_ref().expect("it runs").orphans()
}

#[test]
fn rule_c14_an_orphan_is_reported_after_a_look_and_released_after_another_when_its_time_is_over() {
    let mut world = with_orphan();
    let reports = world.facts.iter().filter(|fact| is_report(fact)).count();
    assert_eq!((reports, orphans(&world), world.count(is_look)), (1, 1, 1));
    world.forget_sent();
    world.pass(ORPHAN_GRACE.saturating_sub(10 * SECOND));
    assert_eq!((world.count(is_write), world.count(is_look)), (0, 0), "nothing is done until then");
    assert_eq!(world.address_of("a"), Some(1));
    world.pass(11 * SECOND);
    assert_eq!(world.address_of("a"), None);
    assert_eq!((world.count(is_removal), world.count(is_look)), (2, 2), "a look before each write");
    assert!(world.has_fact(|fact| matches!(fact, Fact::OrphanReleased(found) if *found == key("a"))));
    assert_eq!((orphans(&world), world.facts.iter().filter(|fact| is_report(fact)).count()), (0, 1));
    world.claim_all(&["b"]);
    world.pass(SECOND);
    assert_eq!(world.address_of("b"), Some(1), "it is free again");
    world.expect_sound();
}

#[test]
fn rule_c14_an_address_in_the_middle_of_its_release_costs_no_look() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a", "b"]);
    world.pass(SECOND);
    world.forget_sent();
    world.server.delete_claim(&key("a"));
    world.pass(FOUND);
    assert_eq!((world.count(is_look), world.addresses().len()), (0, 1));
}

#[test]
fn rule_c14_a_thousand_addresses_without_claims_are_looked_at_slowly_and_those_with_claims_not_at_all() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.unchecked = true;
    for n in 0..1_000 {
        let mut stray = address(&format!("s{n:04}"), 1);
        stray.held = Ok(crate::ipam::pool::Held { address: [10, 1, 0, 1].into(), prefix: 16 });
        world.server.put_address(stray);
    }
    world.claim_all(&["a", "b", "c"]);
    world.pass(FOUND);
    assert_eq!(world.addresses().len(), 1_003);
    let looks = world.count(is_look);
    assert!((50..=120).contains(&looks), "{looks} in 5 s");
    world.pass(Duration::from_mins(2));
    assert_eq!((world.count(is_look), orphans(&world)), (1_000, 1_000));
}

#[test]
fn rule_c14_no_answer_but_a_404_proves_that_a_claim_is_gone() {
    for fate in [|| Fate::Refuse, || Fate::LoseReply, || Fate::NotSent] {
        let looks = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = looks.clone();
        let mut world = World::with_pool("10.0.0.1-10.0.0.9");
        world.fate(move |action| {
            if is_look(action) {
                seen.set(seen.get() + 1);
                return fate();
            }
            Fate::Serve
        });
        world.server.put_address(address("a", 1));
        world.pass(ORPHAN_GRACE * 2);
        assert_eq!((orphans(&world), world.addresses().len()), (0, 1));
        assert!((3..=8).contains(&looks.get()), "{} looks in ten minutes", looks.get());
        world.serve_all();
        let end = world.time + Duration::from_mins(16);
        while !world.has_fact(is_report) {
            assert!(world.time < end, "it is found after all");
            world.pass(10 * SECOND);
        }
        // The second look has to prove it too.
        world.fate(move |action| if is_look(action) { fate() } else { Fate::Serve });
        world.pass(ORPHAN_GRACE * 2);
        assert_eq!(world.addresses().len(), 1);
    }
}

#[test]
fn rule_c14_an_address_whose_claim_only_this_replica_does_not_see_is_no_orphan() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(SECOND);
    // As a watch that lost an event would have it.
    world.step(0, vec![Input::Claim(key("a"), None), Input::Unclaimed(key("a"), Some(ClusterState::None))]);
    world.pass(ORPHAN_GRACE * 4);
    assert_eq!((world.has_fact(is_report), world.address_of("a")), (false, Some(1)));
}

#[test]
fn rule_c14_a_claim_that_comes_back_keeps_its_address() {
    let mut world = with_orphan();
    world.pass(ORPHAN_GRACE / 2);
    world.server.put_claim(claim("a"));
    world.pass(ORPHAN_GRACE);
    assert_eq!((world.address_of("a"), orphans(&world)), (Some(1), 0));
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
}

#[test]
fn rule_c14_a_claim_that_comes_at_the_last_moment_keeps_its_address() {
    let mut world = with_orphan();
    // Its creation is not seen here, but by the look.
    world.server.claims.insert(key("a"), claim("a").into());
    world.pass(ORPHAN_GRACE + FOUND);
    assert_eq!((world.address_of("a"), orphans(&world)), (Some(1), 0));
    assert_eq!(world.count(is_removal), 0);
}

#[test]
fn rule_c14_with_a_grace_period_of_zero_orphans_are_reported_and_stay() {
    let mut world = World::empty();
    world.orphan_grace = None;
    world.server.put_pool(pool("10.0.0.1-10.0.0.9"));
    world.server.put_address(address("a", 1));
    world.start_another();
    world.pass(Duration::from_hours(24));
    assert_eq!((orphans(&world), world.address_of("a")), (1, Some(1)));
}

#[test]
fn rule_c14_orphans_of_a_paused_pool_stay_until_it_is_unpaused() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.edit_pool(|pool| pool.paused = true);
    world.server.put_address(address("a", 1));
    world.pass(ORPHAN_GRACE * 2);
    assert_eq!((orphans(&world), world.address_of("a")), (1, Some(1)));
    world.server.edit_pool(|pool| pool.paused = false);
    world.run();
    world.pass(SECOND);
    assert_eq!(world.address_of("a"), None);
}

#[test]
fn rule_c14_orphans_of_a_paused_cluster_stay_until_it_is_unpaused() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.cluster = ClusterState::Paused;
    world.server.put_address(address("a", 1));
    world.pass(ORPHAN_GRACE * 2);
    assert_eq!((orphans(&world), world.address_of("a")), (1, Some(1)));
    world.cluster = ClusterState::Active;
    world.step(0, vec![Input::Unclaimed(key("a"), Some(world.cluster))]);
    world.pass(SECOND);
    assert_eq!(world.address_of("a"), None);
}

#[test]
fn rule_c14_an_address_without_our_finalizer_is_never_released() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_address(Address { finalizers: Vec::new(), ..address("a", 1) });
    world.pass(ORPHAN_GRACE * 2);
    assert_eq!((world.count(is_look), world.address_of("a"), orphans(&world)), (0, Some(1), 0));
    // Not even one that loses it on the way.
    let mut world = with_orphan();
    let known = Address::clone(&world.server.addresses[&key("a")]);
    world.server.put_address(Address { finalizers: vec!["example.org/mine".into()], ..known });
    world.pass(ORPHAN_GRACE * 2);
    assert_eq!(world.address_of("a"), Some(1));
}

#[test]
fn rule_c14_an_address_that_changes_at_the_last_moment_is_looked_at_again() {
    let mut world = with_orphan();
    world.fate(|action| if is_removal(action) { Fate::Hold } else { Fate::Serve });
    world.pass(ORPHAN_GRACE);
    let known = Address::clone(&world.server.addresses[&key("a")]);
    world.server.put_address(Address { cluster_label: Some("c".into()), ..known });
    world.serve_all();
    world.run();
    assert_eq!(world.address_of("a"), Some(1), "the write was about another copy");
    world.pass(Duration::from_mins(2));
    assert_eq!(world.address_of("a"), None);
}

#[test]
fn rule_c14_who_takes_over_in_the_middle_of_a_release_ends_it() {
    let mut world = with_orphan();
    world.fate(|action| if matches!(action, Action::PatchAddress { .. }) { Fate::Hold } else { Fate::Serve });
    world.pass(ORPHAN_GRACE);
    assert!(world.server.addresses[&key("a")].deleting, "half of it is done");
    world.crash(0);
    world.serve_all();
    world.start_another();
    world.pass(ORPHAN_GRACE + FOUND);
    assert_eq!(world.address_of("a"), None);
}

#[test]
fn rule_c14_the_orphans_of_a_pool_that_is_gone_are_released_and_nothing_is_left_to_do() {
    let mut world = World::empty();
    world.sent = Some(Vec::new());
    world.server.put_address(address("a", 1));
    world.start_another();
    world.pass(ORPHAN_GRACE + FOUND);
    assert_eq!((world.address_of("a"), world.count(is_put)), (None, 0));
    assert!(world.actors[0].machine.as_ref().expect("it runs").is_idle());
}

#[test]
fn rule_c4_a_deleted_pool_goes_when_its_last_orphan_went() {
    let mut world = with_orphan();
    world.server.edit_pool(|pool| pool.deleting = true);
    world.pass(ORPHAN_GRACE / 2);
    assert_eq!(world.pool_ready().0, "Deleting");
    assert!(world.pool_ready().1.contains("no claim any more"), "{}", world.pool_ready().1);
    world.pass(ORPHAN_GRACE);
    assert!(world.server.pool.is_none());
}

#[test]
fn rule_c14_an_address_that_names_a_claim_of_another_name_is_judged_by_that() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_address(Address { claim_name: "other".into(), ..address("a", 1) });
    world.server.put_claim(claim("other"));
    world.pass(FOUND);
    assert!(!world.has_fact(is_report), "the server has its claim");
    assert_eq!(world.count(|action| matches!(action, Action::GetClaim(asked) if *asked == key("other"))), 1);
}

#[test]
fn rule_f7_the_release_of_an_orphan_does_not_free_what_an_intent_still_promises() {
    let mut world = World::empty();
    world.orphan_grace = Some(SECOND);
    world.server.put_pool(pool("10.0.0.1-10.0.0.9"));
    world.start_another();
    world.fate(|action| if is_create(action) { Fate::LoseReply } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    world.serve_all();
    // Its claim is forced away.
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.clear());
    world.server.delete_claim(&key("a"));
    world.pass(FOUND);
    assert_eq!((world.address_of("a"), world.record().pending.len()), (None, 1));
    world.claim_all(&["b"]);
    world.pass(SECOND);
    assert_eq!(world.address_of("b"), Some(2), "a create may still arrive for the first one");
    world.pass(LOCK_DELAY + 40 * SECOND);
    world.claim_all(&["c"]);
    world.pass(SECOND);
    assert_eq!((world.address_of("c"), world.record().pending.len()), (Some(1), 0));
    world.expect_sound();
}
