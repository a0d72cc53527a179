//! The API server goes away for a minute, in the two ways that a client sees: it cannot be reached, or nothing returns.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::fixtures::{CLAIMS, pending, pool, put_claims, ready, unbound};
use super::{Scene, until};
use crate::apiserver::{Fault, FaultKind, Verb};

const MINUTE: Duration = Duration::from_mins(1);
const CLAIM_COUNT: usize = 100;
/// 200 ms, 400 ms … 30 s: a claim is tried about eight times in a minute, and each watch about ten times.
const MOST_ATTEMPTS: usize = 10 * (CLAIM_COUNT + 7) + 100;

/// A manager in the middle of its work: all is promised, and the reply that says so is on its way.
async fn busy_scene() -> Scene {
    let scene = Scene::ready().await;
    let server = &scene.server;
    put_claims(server, "a", "p", CLAIM_COUNT);
    until("they wait for their pool", || {
        (0..CLAIM_COUNT).all(|i| ready(server, CLAIMS, &format!("a-{i:04}")) != json!(null))
    })
    .await;
    let slow = Fault::new(FaultKind::DelayAfter(Duration::from_secs(1))).verb(Verb::Update);
    let slow = server.fault(slow);
    server.put_object(pool("p", &["10.0.1.0/24"]));
    until("all is promised", || pending(server, "p").len() == CLAIM_COUNT).await;
    server.lift(slow);
    assert_eq!(scene.invariants.created(), 0);
    scene
}

async fn all_are_served_again(scene: &Scene) {
    assert!(scene.manager.is_running());
    until("all are bound", || unbound(&scene.server).is_empty()).await;
    for claim in scene.server.list(CLAIMS) {
        scene.server.delete(CLAIMS, "ns", claim["metadata"]["name"].as_str().unwrap_or_default());
    }
    until("all are released", || scene.server.list(CLAIMS).is_empty()).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_asked_less_and_less() {
    let scene = busy_scene().await;
    scene.manager.line.cut_off.store(true, Ordering::Relaxed);
    scene.server.fault(Fault::new(FaultKind::WatchCut));
    let before = scene.manager.line.attempts.load(Ordering::Relaxed);
    sleep(MINUTE).await;
    let attempts = scene.manager.line.attempts.load(Ordering::Relaxed) - before;
    assert!(attempts <= MOST_ATTEMPTS, "{attempts} attempts in a minute");
    assert!(attempts > 50, "it does try: {attempts}");
    scene.manager.line.cut_off.store(false, Ordering::Relaxed);
    all_are_served_again(&scene).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_asked_less_and_less() {
    let scene = busy_scene().await;
    let fault = scene.server.fault(Fault::new(FaultKind::LoseBefore));
    scene.server.fault(Fault::new(FaultKind::WatchCut));
    let before = scene.server.requests().len();
    sleep(MINUTE).await;
    let attempts = scene.server.requests().len() - before;
    assert!(attempts <= MOST_ATTEMPTS, "{attempts} attempts in a minute");
    scene.server.lift(fault);
    all_are_served_again(&scene).await;
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_server_is_asked_less_and_less() {
    let scene = busy_scene().await;
    let fault = scene.server.fault(Fault::new(FaultKind::Status(429, "TooManyRequests")));
    let before = scene.server.requests().len();
    sleep(MINUTE).await;
    let attempts = scene.server.requests().len() - before;
    assert!(attempts <= MOST_ATTEMPTS, "{attempts} attempts in a minute");
    scene.server.lift(fault);
    all_are_served_again(&scene).await;
}
