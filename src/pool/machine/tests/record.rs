//! The record: written ahead, compared and swapped, lost and found (docs/sharding.md, F1–F4, F9).

use std::time::Duration;

use super::fixtures::{claim, key};
use super::world::{Fate, LOCK_DELAY, World, is_create, is_list, is_put};
use crate::pool::key::Version;
use crate::pool::machine::{Action, Fact, Input};
use crate::pool::object::PoolView;

const LITTLE: Duration = Duration::from_secs(3);

#[test]
fn rule_f1_a_create_is_preceded_by_its_intent_in_the_record() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.fate(|action| if is_put(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    assert_eq!(world.count(is_create), 0);
    world.serve_all();
    world.pass(LITTLE);
    assert_eq!(world.count(is_create), 1);
    world.expect_sound();
}

#[test]
fn rule_f1_a_listing_that_is_too_old_is_renewed_before_anything_is_sent() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.run();
    let before = world.record().seq;
    world.let_pass(LOCK_DELAY / 4, || false);
    world.forget_sent();
    world.serve_all();
    world.pass(LITTLE);
    let sent: Vec<_> = world.sent.iter().flatten().map(is_create).collect();
    let first = world.sent.iter().flatten().position(is_put).expect("a commit");
    assert!(sent[0], "the sender checks, and does not send: {sent:?}");
    assert!(world.sent.iter().flatten().skip(first).any(is_create));
    assert!(world.record().seq > before);
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!(world.count(is_create), 2);
    world.expect_sound();
}

#[test]
fn rule_f2_a_server_that_drops_the_record_stops_allocation_and_the_pool_says_so() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.drops_record = true;
    world.server.edit_pool(|pool| pool.status.record = None);
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    assert_eq!(world.count(is_create), 0);
    assert_eq!(world.pool_ready().0, "RecordNotStored");
    assert_eq!(world.ready("a").expect("a condition").0, "AllocationFailed");
    world.forget_sent();
    world.pass(Duration::from_mins(5));
    let puts = world.count(is_put);
    assert!((1..10).contains(&puts), "{puts} tries in five minutes");
    // The CRD is updated.
    world.server.drops_record = false;
    world.pass(Duration::from_secs(70));
    assert_eq!(world.pool_ready().0, "PoolReady");
    assert_eq!(world.address_of("a"), Some(1));
    world.expect_sound();
}

#[test]
fn rule_f2_a_commit_whose_answer_is_lost_is_found_by_a_look_and_not_repeated() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.forget_sent();
    let mut lost = false;
    world.fate(
        move |action| {
            if is_put(action) && !std::mem::replace(&mut lost, true) { Fate::LoseReply } else { Fate::Serve }
        },
    );
    world.claim_all(&["a"]);
    world.run();
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!((world.count(is_put), world.count(|a| matches!(a, Action::GetPool))), (1, 1));
}

#[test]
fn rule_f2_a_commit_that_was_lost_or_is_late_is_repeated_and_only_one_of_them_counts() {
    for fate in [|| Fate::LoseRequest, || Fate::Late] {
        let mut world = World::with_pool("10.0.0.1-10.0.0.9");
        world.pass(LITTLE);
        let mut lost = false;
        world.fate(
            move |action| {
                if is_put(action) && !std::mem::replace(&mut lost, true) { fate() } else { Fate::Serve }
            },
        );
        world.claim_all(&["a", "b"]);
        world.pass(LITTLE);
        world.deliver_late();
        world.pass(LITTLE);
        assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)));
        assert!(world.record().pending.is_empty());
        world.expect_sound();
    }
}

#[test]
fn rule_f2_the_seq_of_a_commit_is_its_own_whether_it_was_taken_or_not() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.forget_sent();
    world.fate(|action| if is_put(action) { Fate::LoseRequest } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let seqs: Vec<u64> = world.sent.iter().flatten().filter_map(seq_of).collect();
    assert!(seqs.len() > 2 && seqs.windows(2).all(|two| two[0] < two[1]), "{seqs:?}");
}

fn seq_of(action: &Action) -> Option<u64> {
    match action {
        Action::PutPoolStatus { status, .. } => status.record.as_ref().map(|record| record.seq),
        _ => None,
    }
}

#[test]
fn rule_f3_a_store_behind_the_watermark_is_not_relied_upon() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.start_another();
    world.run();
    // The second machine's watch of addresses stands still, while the first one gives, settles and goes.
    world.claim_all(&["a"]);
    while world.deliver(0, 1) {}
    for _ in 0..20 {
        while !world.flights.is_empty() {
            world.send(0);
            world.execute(0);
            world.answer(0);
        }
        while world.deliver(0, 0) || world.deliver(0, 1) || world.deliver(0, 2) {}
        world.let_pass(Duration::from_millis(200), || false);
        world.wake(0);
    }
    assert!(world.record().pending.is_empty() && world.address_of("a") == Some(1), "{:?}", world.record());
    world.crash(0);
    world.forget_sent();
    world.server.put_claim(claim("b"));
    while world.deliver(1, 0) || world.deliver(1, 1) {}
    for _ in 0..20 {
        while !world.flights.is_empty() {
            world.send(0);
            world.execute(0);
            world.answer(0);
        }
    }
    assert_eq!(world.address_of("b"), Some(2));
    assert_eq!(world.count(is_list), 1);
    world.expect_sound();
}

#[test]
fn rule_f3_a_watermark_of_another_history_is_replaced_by_that_of_a_list() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| {
        pool.status.record.as_mut().expect("a record").settled = Version(1_000_000);
    });
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!(world.address_of("b"), Some(2));
    assert!(world.record().settled < Version(1_000));
    world.expect_sound();
}

#[test]
fn rule_f9_a_record_that_is_gone_older_or_of_another_pool_is_put_back_after_a_look() {
    let harms: [fn(&mut PoolView); 3] = [
        |pool| pool.status.record = None,
        |pool| {
            let record = pool.status.record.as_mut().expect("a record");
            (record.seq, record.settled) = (1, Version(1));
            record.pending.clear();
        },
        |pool| {
            (pool.uid, pool.finalizers, pool.noted_uid) = ("".into(), Vec::new(), None);
            pool.status.record = None;
        },
    ];
    for (harm, which) in harms.into_iter().zip(0..) {
        let mut world = World::with_pool("10.0.0.1-10.0.0.9");
        world.pass(LITTLE);
        world.fate(|action| if is_create(action) { Fate::Late } else { Fate::Serve });
        world.claim_all(&["a"]);
        world.pass(Duration::from_millis(50));
        let before = world.record();
        assert_eq!(before.pending.len(), 1);
        world.server.history_was_lost = true;
        world.server.delete_claim(&key("a"));
        world.pass(Duration::from_millis(50));
        world.forget_sent();
        world.server.edit_pool(harm);
        world.server.put_claim(claim("b"));
        world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
        world.pass(LITTLE);
        let after = world.record();
        assert!(after.seq > before.seq, "{which}: {} after {}", after.seq, before.seq);
        assert_eq!(after.pending.values().filter(|i| *i.claim.name == *"a").count(), 1, "{which}");
        assert!(world.has_fact(|fact| matches!(fact, Fact::RecordLost)));
        assert!(world.count(is_list) >= 1, "{which}");
        let list = world.sent.iter().flatten().position(is_list);
        assert!(list < world.sent.iter().flatten().position(is_put), "{which}: looks before it writes");
        // The late create finds its address reserved.
        world.deliver_late();
        world.serve_all();
        world.pass(LITTLE);
        assert_eq!((world.address_of("a"), world.address_of("b")), (Some(1), Some(2)), "{which}");
        world.expect_sound();
    }
}

#[test]
fn rule_f9_an_older_record_does_not_give_away_an_address_that_a_create_is_under_way_for() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.1");
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Hold } else { Fate::Serve });
    world.claim_all(&["b"]);
    world.run();
    let old = world.record();
    assert_eq!(old.pending.len(), 1);
    world.serve_all();
    world.pass(LITTLE);
    world.server.delete_claim(&key("b"));
    world.pass(LITTLE);
    world.fate(|action| if is_create(action) { Fate::Late } else { Fate::Serve });
    world.claim_all(&["a"]);
    world.pass(Duration::from_millis(50));
    world.server.delete_claim(&key("a"));
    world.pass(Duration::from_millis(50));
    world.server.history_was_lost = true;
    world.server.edit_pool(|pool| pool.status.record = Some(old));
    world.serve_all();
    world.server.put_claim(claim("b"));
    world.pass(LITTLE);
    assert_eq!(world.addresses(), []);
    world.deliver_late();
    world.pass(LITTLE);
    assert_eq!(world.addresses(), [("a".to_owned(), 1)]);
    world.server.strip_address(&key("a"));
    world.pass(LOCK_DELAY + LITTLE);
    assert_eq!(world.address_of("b"), Some(1), "at the end of the lock delay");
    world.expect_sound();
}

#[test]
fn rule_f9_a_list_that_was_asked_for_before_the_record_was_lost_does_not_count() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.status.record = None);
    world.server.put_claim(claim("a"));
    while world.deliver(0, 0) || world.deliver(0, 1) {}
    let list = world.flights.iter().position(|flight| is_list(&flight.action)).expect("a LIST");
    world.send(list);
    world.execute(list);
    world.server.edit_pool(|pool| pool.generation += 1);
    while world.deliver(0, 0) {}
    world.answer(list);
    assert!(world.flights.iter().any(|flight| is_list(&flight.action)), "{:?}", world.flights);
    assert!(!world.flights.iter().any(|flight| is_put(&flight.action)));
}

#[test]
fn a_list_that_the_watch_has_overtaken_does_not_bring_an_address_back() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    world.server.edit_pool(|pool| pool.status.record = None);
    world.server.put_claim(claim("b"));
    while world.deliver(0, 0) || world.deliver(0, 1) {}
    let list = world.flights.iter().position(|flight| is_list(&flight.action)).expect("a LIST");
    world.send(list);
    world.execute(list);
    world.server.delete_claim(&key("a"));
    world.server.strip_address(&key("a"));
    while world.deliver(0, 2) || world.deliver(0, 1) {}
    world.answer(list);
    world.pass(LITTLE);
    let counts = world.server.pool.as_ref().and_then(|pool| pool.status.counts.clone()).expect("counts");
    assert!(world.address_of("b").is_some());
    assert_eq!(counts.used, 1);
}

#[test]
fn observations_that_a_look_has_overtaken_change_nothing() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    let old = world.server.pool_log[0].1.clone().expect("a pool");
    world.facts.clear();
    world.step(
        0,
        vec![Input::Pool { view: Some(Box::new(PoolView { uid: "earlier".into(), ..(*old).clone() })), covered: None }],
    );
    assert!(world.facts.is_empty() && world.flights.is_empty(), "{:?} {:?}", world.facts, world.flights);
}

#[test]
fn requests_that_cannot_be_sent_are_not_tried_in_a_circle() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.fate(|_| Fate::NotSent);
    world.pass(Duration::from_secs(10));
    world.serve_all();
    world.pass(Duration::from_secs(40));
    world.server.put_claim(claim("b"));
    world.fate(|action| if is_create(action) { Fate::NotSent } else { Fate::Serve });
    world.pass(Duration::from_secs(10));
    world.serve_all();
    world.pass(Duration::from_secs(40));
    world.server.put_claim(claim("c").created_after(-3_600).held_by(crate::api::names::RELEASE_ADDRESS_FINALIZER));
    world.fate(|action| if is_put(action) { Fate::NotSent } else { Fate::Serve });
    world.forget_sent();
    world.pass(Duration::from_secs(10));
    world.serve_all();
    world.pass(Duration::from_secs(40));
    assert_eq!((world.address_of("a"), world.address_of("b"), world.address_of("c")), (Some(1), Some(2), Some(3)));
    assert!(world.record().pending.is_empty());
}
