//! A manager ends in the middle of a backlog, in order or not, and another one goes on.

use std::time::Duration;

use tokio::time::sleep;

use super::claims::writes;
use super::fixtures::{ADDRESSES, CLAIMS, POOLS, bound, claim, pending, pool, put_claims, stored, unbound, verdict};
use super::process::{LOCK_DELAY, Process};
use super::{Scene, until, until_within};
use crate::apiserver::{Fault, FaultKind, Gate, Verb};

const CLAIM_COUNT: usize = 300;

/// A manager that has served a part of its claims; every reply takes a while, and the watch shows it later still.
async fn half_served() -> Scene {
    let scene = Scene::ready().await;
    scene.server.put_object(pool("p", &["10.0.0.0/16"]));
    put_claims(&scene.server, "a", "p", CLAIM_COUNT);
    scene.server.fault(Fault::new(FaultKind::DelayAfter(Duration::from_millis(20))));
    scene.server.fault(Fault::new(FaultKind::WatchDelay(Duration::from_millis(300))).resource(ADDRESSES));
    until("some are bound", || unbound(&scene.server).len() < CLAIM_COUNT - 50).await;
    assert!(unbound(&scene.server).len() > 50, "and some are not");
    scene
}

#[tokio::test(start_paused = true)]
async fn o5_a_stopped_manager_leaves_no_intent_behind() {
    let Scene { server, invariants, manager } = half_served().await;
    let late = FaultKind::WatchDelay(Duration::from_millis(300));
    server.fault(Fault::new(late).resource(ADDRESSES));
    manager.stop().await;
    assert_eq!(pending(&server, "p").len(), 0);
    assert!(!unbound(&server).is_empty(), "it did not serve on");
    // Events that wait are written to the end; in a process of its own they would go with it.
    let quiet = writes(&server).len();
    sleep(Duration::from_mins(2)).await;
    assert_eq!(writes(&server).len(), quiet, "it writes nothing any more");
    Process::start(&server, "m2").until_ready().await;
    until("all are bound", || unbound(&server).is_empty()).await;
    assert_eq!(invariants.created(), CLAIM_COUNT);
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn o5_a_stopped_manager_with_settled_writes_stops_at_once() {
    let scene = Scene::ready().await;
    scene.server.put_object(pool("p", &["10.0.0.0/16"]));
    put_claims(&scene.server, "a", "p", 20);
    until("all are bound", || unbound(&scene.server).is_empty()).await;
    let start = tokio::time::Instant::now();
    scene.manager.stop().await;
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(pending(&scene.server, "p").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn f6_inherited_intents_are_rolled_forward_at_once() {
    let Scene { server, invariants, manager } = half_served().await;
    let inherited = pending(&server, "p");
    manager.kill().await;
    server.lift_all();
    let start = tokio::time::Instant::now();
    let _successor = Process::start(&server, "m2");
    until("all are bound", || unbound(&server).is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(inherited.len() > 10, "there were some");
    for intent in inherited {
        let (_, name) = intent["claim"].as_str().and_then(|claim| claim.split_once('/')).expect("a claim");
        let address = intent["address"].as_str().and_then(|held| held.split('/').next());
        assert_eq!(bound(&server, name).as_deref(), address, "{name} gets what it was promised");
    }
    assert_eq!(invariants.created(), CLAIM_COUNT);
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn creates_of_a_killed_manager_that_arrive_late_double_nothing() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.79"]));
    let gate = Gate::closed();
    server.fault(Fault::new(FaultKind::HoldUntil(gate.clone())).verb(Verb::Create).resource(ADDRESSES));
    let names = put_claims(&server, "a", "p", 60);
    until("the creates are under way", || gate.held() == 60).await;
    manager.kill().await;
    server.lift_all();
    let _successor = Process::start(&server, "m2");
    until("all are bound", || unbound(&server).is_empty()).await;
    // Half of the claims are gone before the old creates arrive; their addresses must not go to others.
    for name in &names[..30] {
        server.delete(CLAIMS, "ns", name);
    }
    until("those are gone", || server.list(CLAIMS).len() == 30).await;
    put_claims(&server, "b", "p", 10);
    until("new ones are bound", || unbound(&server).is_empty()).await;
    gate.open();
    sleep(Duration::from_mins(1)).await;
    invariants.assert_kept();
    until("nobody waits", || unbound(&server).is_empty()).await;
    assert!(names[30..].iter().all(|name| server.get(ADDRESSES, "ns", name).is_some()));
}

#[tokio::test(start_paused = true)]
async fn f5_intents_of_a_dead_sender_are_settled_after_the_lock_delay() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    server.fault(Fault::new(FaultKind::LoseBefore).verb(Verb::Create).resource(ADDRESSES));
    put_claims(&server, "a", "p", 5);
    until("the record promises", || pending(&server, "p").len() == 5).await;
    manager.kill().await;
    server.lift_all();
    let _successor = Process::start(&server, "m2");
    until("all are bound", || unbound(&server).is_empty()).await;
    sleep(LOCK_DELAY / 2).await;
    assert_eq!(pending(&server, "p").len(), 5, "the dead one may have sent a create that is on its way");
    until_within(LOCK_DELAY, "they are settled", || pending(&server, "p").is_empty()).await;
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn claims_that_were_deleted_while_nobody_was_there_are_released() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
    put_claims(&server, "a", "p", 10);
    until("all are bound", || unbound(&server).is_empty()).await;
    manager.stop().await;
    server.delete(CLAIMS, "ns", "a-0003");
    server.put_object(claim("b", "p"));
    let written = stored(&server, CLAIMS, "a-0001")["metadata"]["resourceVersion"].clone();
    let _successor = Process::start(&server, "m2");
    until("the new claim has the freed address", || bound(&server, "b").as_deref() == Some("10.0.0.13")).await;
    assert_eq!(
        stored(&server, CLAIMS, "a-0001")["metadata"]["resourceVersion"],
        written,
        "served claims are left alone"
    );
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn two_managers_that_do_not_know_of_each_other_double_nothing() {
    let Scene { server, invariants, manager } = Scene::ready().await;
    let other = Process::start(&server, "m2");
    other.until_ready().await;
    server.put_object(pool("p", &["10.0.0.0/16"]));
    let names = put_claims(&server, "a", "p", 100);
    until("all are bound", || unbound(&server).is_empty()).await;
    for name in &names[..50] {
        server.delete(CLAIMS, "ns", name);
    }
    put_claims(&server, "b", "p", 50);
    let served = || unbound(&server).is_empty() && server.list(CLAIMS).len() == 100;
    until("all are served", served).await;
    invariants.assert_kept();
    // And they come to rest, rather than overwriting each other for ever.
    sleep(LOCK_DELAY * 2).await;
    let quiet = server.revision();
    sleep(LOCK_DELAY).await;
    assert_eq!(server.revision(), quiet);
    assert_eq!(verdict(&server, POOLS, "p").0, "True");
    assert!(manager.is_running() && other.is_running());
}
