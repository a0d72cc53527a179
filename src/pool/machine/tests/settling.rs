//! When an intent may go, and who carries it out (docs/sharding.md, F5–F7).

use std::time::Duration;

use super::fixtures::{claim, key};
use super::world::{Fate, LOCK_DELAY, World, is_create, is_put};
use crate::pool::machine::{Action, Input};

const LITTLE: Duration = Duration::from_secs(3);

/// A machine that died with its create for "a" under way.
fn with_a_late_create() -> World {
    with_a_late_create_in("10.0.0.1-10.0.0.9")
}

fn with_a_late_create_in(range: &str) -> World {
    let mut world = World::with_pool(range);
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Late } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    world.crash(0);
    world.serve_all();
    assert_eq!(world.record().pending.len(), 1);
    world
}

#[test]
fn rule_f5a_an_answered_create_is_settled_a_second_later_and_then_all_is_quiet() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.claim_all(&["a"]);
    world.run();
    assert_eq!(world.record().pending.len(), 1);
    world.pass(Duration::from_secs(2));
    assert!(world.record().pending.is_empty());
    let created = world.server.address_log[0].0;
    assert!(world.record().settled >= created, "the watermark covers the object");
    world.forget_sent();
    world.pass(Duration::from_hours(1));
    assert_eq!(world.count(|_| true), 0);
}

#[test]
fn rule_f5a_a_create_without_an_answer_keeps_its_intent_though_the_object_is_there() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::LoseReply } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(LOCK_DELAY / 2);
    assert_eq!((world.address_of("a"), world.record().pending.len()), (Some(1), 1));
    world.pass(LOCK_DELAY);
    assert!(world.record().pending.is_empty(), "F5(b): the lock delay is over");
}

#[test]
fn rule_f5b_a_dead_senders_intent_of_a_deleted_claim_waits_for_the_lock_delay() {
    let mut world = with_a_late_create();
    world.server.delete_claim(&key("a"));
    world.start_another();
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("b"), Some(2));
    world.pass(LOCK_DELAY / 2);
    assert_eq!(world.record().pending.len(), 1);
    world.flights.clear();
    world.pass(LOCK_DELAY);
    assert!(world.record().pending.is_empty());
    world.server.put_claim(claim("c"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("c"), Some(1));
    world.expect_sound();
}

#[test]
fn rule_f5b_evidence_that_a_sender_is_drained_settles_at_once_after_a_look() {
    let mut world = with_a_late_create();
    world.server.delete_claim(&key("a"));
    let other = world.start_another();
    world.pass(LITTLE);
    world.deliver_late();
    world.forget_sent();
    let dead = world.actors[0].sender.clone();
    world.step(other, vec![Input::Drained(dead)]);
    world.pass(LITTLE);
    assert!(world.record().pending.is_empty());
    assert!(world.record().settled >= world.server.addresses[&key("a")].version, "the look found the object");
    let look = world.sent.iter().flatten().position(|action| matches!(action, Action::GetAddress(_)));
    assert!(look.is_some() && look < world.sent.iter().flatten().position(is_put));
}

#[test]
fn rule_c11_a_waiting_claim_is_served_when_an_intent_is_dropped_without_an_object() {
    let mut world = with_a_late_create_in("10.0.0.1-10.0.0.1");
    world.flights.clear();
    world.server.delete_claim(&key("a"));
    let other = world.start_another();
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!(world.ready("b").expect("a condition").0, "PoolExhausted");
    let dead = world.actors[0].sender.clone();
    world.step(other, vec![Input::Drained(dead)]);
    world.pass(LITTLE);
    assert_eq!(world.address_of("b"), Some(1));
    world.expect_sound();
}

#[test]
fn rule_f5b_a_look_that_began_before_another_sender_was_listed_does_not_count() {
    let mut world = with_a_late_create();
    let other = world.start_another();
    world.server.edit_claim(&key("a"), |claim| claim.finalizers.push("example.com/consumer".into()));
    world.fate(|action| if matches!(action, Action::GetAddress(_)) { Fate::Hold } else { Fate::Serve });
    world.server.delete_claim(&key("a"));
    world.run();
    let dead = world.actors[0].sender.clone();
    world.step(other, vec![Input::Drained(dead)]);
    assert!(world.flights.iter().any(|f| f.actor == other && matches!(f.action, Action::GetAddress(_))));
    // A third party lists itself.
    world.server.edit_pool(|pool| {
        let record = pool.status.record.as_mut().expect("a record");
        record.seq += 1;
        let seq = record.seq;
        for intent in record.pending.values_mut() {
            intent.seq = seq;
            intent.senders.insert("third".into());
        }
    });
    world.run();
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.record().pending.len(), 1, "the third sender may still send");
}

#[test]
fn rule_f5c_a_sender_that_is_done_leaves_and_the_last_one_drops_the_intent() {
    let mut world = with_a_late_create();
    let second = world.start_another();
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1), "F6: inherited, carried out at once");
    let senders: Vec<_> = world.record().pending.values().map(|intent| intent.senders.clone()).collect();
    assert_eq!(senders.len(), 1);
    assert!(senders[0].contains(&world.actors[0].sender) && !senders[0].contains(&world.actors[second].sender));
    world.pass(LOCK_DELAY + LITTLE);
    assert!(world.record().pending.is_empty());
    world.expect_sound();
}

#[test]
fn rule_f5_nothing_is_sent_while_a_commit_that_drops_the_intent_is_under_way() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.claim_all(&["a"]);
    world.run();
    world.fate(|action| if is_put(action) { Fate::Hold } else { Fate::Serve });
    world.pass(Duration::from_secs(2));
    assert!(world.flights.iter().any(|flight| is_put(&flight.action)), "the flush");
    world.forget_sent();
    world.server.strip_address(&key("a"));
    world.pass(LITTLE);
    assert_eq!(world.count(is_create), 0);
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    world.expect_sound();
}

#[test]
fn rule_f6_an_intent_that_somebody_else_made_meanwhile_is_carried_out_after_ten_seconds() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let other = world.start_another();
    world.pass(LITTLE);
    // Only the first one sees the claim, commits and dies.
    world.claim_all(&["a"]);
    while world.deliver(0, 1) {}
    for _ in 0..8 {
        let flight = world.flights.iter().position(|flight| flight.actor == 0 && !is_create(&flight.action));
        let Some(flight) = flight else { break };
        world.send(flight);
        world.execute(flight);
        world.answer(flight);
    }
    world.crash(0);
    assert_eq!(world.record().pending.len(), 1);
    world.pass(Duration::from_secs(9));
    assert_eq!(world.address_of("a"), None);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.address_of("a"), Some(1));
    assert!(world.actors[other].machine.is_some());
    world.expect_sound();
}

#[test]
fn a_machine_of_the_same_process_does_not_take_its_predecessors_creates_for_unsent() {
    let mut world = with_a_late_create();
    world.server.delete_claim(&key("a"));
    let sender = world.actors[0].sender.clone();
    world.read_pool(0);
    world.start_as(0, sender);
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!(world.record().pending.len(), 1, "the first machine's create may still arrive");
    world.deliver_late();
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
    world.expect_sound();
}

#[test]
fn an_answer_that_comes_after_the_watch_showed_the_end_does_not_bring_an_address_back() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.1");
    world.pass(LITTLE);
    world.claim_all(&["a"]);
    world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
    world.run();
    let create = world.flights.iter().position(|flight| is_create(&flight.action)).expect("a create");
    world.send(create);
    world.execute(create);
    world.server.strip_address(&key("a"));
    while world.deliver(0, 2) {}
    world.answer(create);
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
    assert!(world.record().pending.is_empty());
}

#[test]
fn a_404_that_is_older_than_the_object_does_not_free_its_address() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.fate(|action| if matches!(action, Action::PatchAddress { .. }) { Fate::Hold } else { Fate::Serve });
    world.server.delete_claim(&key("a"));
    world.run();
    let patch = world.flights.iter().position(|f| matches!(f.action, Action::PatchAddress { .. })).expect("a patch");
    world.send(patch);
    world.server.strip_address(&key("a"));
    world.execute(patch);
    // Another object of the name comes before that answer does.
    world.server.put_address(super::fixtures::address("a", 1));
    while world.deliver(0, 2) {}
    world.answer(patch);
    world.server.put_claim(claim("b"));
    world.run();
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("b")), (None, Some(2)));
    world.expect_sound();
}

#[test]
fn rule_f5c_whoever_lost_the_pool_still_leaves_its_intents_when_its_creates_are_answered() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    let second = world.start_another();
    let lost = |world: &mut World| {
        world.actors[0].machine.as_mut().map(|machine| {
            machine.stop();
            machine.give_up();
            machine.has_left()
        })
    };
    assert_eq!(lost(&mut world), Some(false), "its create is under way");
    world.fate(|_| Fate::Serve);
    world.forget_sent();
    world.run();
    assert_eq!(world.address_of("a"), Some(1));
    world.pass(LITTLE);
    assert!(world.record().pending.is_empty(), "no lock delay: both senders have left");
    assert_eq!(lost(&mut world), Some(true));
    let (first, second) = (world.actors[0].sender.clone(), world.actors[second].sender.clone());
    assert_ne!(first, second);
}

#[test]
fn a_pool_that_comes_back_goes_on_where_it_stopped() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    let machine = |world: &mut World, act: fn(&mut crate::pool::machine::Machine)| {
        world.actors[0].machine.as_mut().map(act).expect("a machine");
        world.step(0, Vec::new());
    };
    machine(&mut world, crate::pool::machine::Machine::stop);
    world.server.put_claim(claim("b"));
    world.fate(|_| Fate::Serve);
    world.pass(LITTLE);
    assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), None), "nothing new begins");
    assert!(world.record().pending.is_empty(), "flushed");
    machine(&mut world, crate::pool::machine::Machine::give_up);
    machine(&mut world, crate::pool::machine::Machine::resume);
    world.forget_sent();
    world.pass(LITTLE);
    assert_eq!(world.address_of("b"), Some(2));
    assert_eq!(world.count(|action| matches!(action, Action::ListAddresses(_))), 0, "it knows the pool");
    world.expect_sound();
}
