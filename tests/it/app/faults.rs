//! Faults one by one, in the middle of a backlog with deletions.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::fixtures::{
    ADDRESSES, CLAIMS, POOLS, address, bound, claim, counts, pending, pool, put_claims, refused, unbound, verdict,
};
use super::process::LOCK_DELAY;
use super::{SOON, Scene, until, until_within};
use crate::apiserver::{ApiServer, Fault, FaultKind, Gate, Verb};

const ALL: [&str; 3] = [POOLS, CLAIMS, ADDRESSES];
const WRITES: [Verb; 4] = [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];

/// Claims come and go while `hurt` does its harm, for a quarter of a minute; then `heal`, and all must be served.
async fn survives(what: &str, hurt: impl Fn(&ApiServer), heal: impl Fn(&ApiServer)) {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.1.0/24"]));
    let old = put_claims(server, "old", "p", 30);
    until("the first claims are bound", || unbound(server).is_empty()).await;
    hurt(server);
    for round in 0..15 {
        for name in &old[round * 2..][..2] {
            server.delete(CLAIMS, "ns", name);
        }
        put_claims(server, &format!("new-{round}"), "p", 4);
        sleep(Duration::from_secs(1)).await;
    }
    server.lift_all();
    heal(server);
    let all_bound = || server.list(CLAIMS).len() == 60 && unbound(server).is_empty();
    until(&format!("{what}: all are served and the deleted are gone"), all_bound).await;
    assert!(old.iter().all(|name| server.get(ADDRESSES, "ns", name).is_none()), "{what}: addresses are released");
    assert!(scene.manager.is_running() && scene.manager.health.is_ready(), "{what}");
    scene.invariants.assert_kept();
    until("the pool counts what is there", || counts(server, "p")[2] == 60).await;
}

/// The same fault for every write of everything.
async fn survives_in_writes(what: &str, kind: &FaultKind) {
    let hurt = |server: &ApiServer| {
        for verb in WRITES {
            server.fault(Fault::new(kind.clone()).verb(verb));
        }
    };
    survives(what, hurt, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_server_are_survived() {
    for (code, reason) in
        [(500, "InternalError"), (503, "ServiceUnavailable"), (504, "Timeout"), (429, "TooManyRequests")]
    {
        survives_in_writes(reason, &FaultKind::Status(code, reason)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lost_requests_and_lost_replies_are_survived() {
    survives_in_writes("lost requests", &FaultKind::LoseBefore).await;
    survives_in_writes("lost replies", &FaultKind::ExecuteThenLose).await;
}

#[tokio::test(start_paused = true)]
async fn slow_requests_and_slow_replies_are_survived() {
    let three = Duration::from_secs(3);
    survives_in_writes("slow requests", &FaultKind::Delay(three)).await;
    survives_in_writes("slow replies", &FaultKind::DelayAfter(three)).await;
    survives_in_writes("replies after the writer gave up", &FaultKind::DelayAfter(Duration::from_secs(100))).await;
}

#[tokio::test(start_paused = true)]
async fn creates_that_arrive_after_the_claims_are_gone_are_survived() {
    let gate = Gate::closed();
    let hurt = |server: &ApiServer| {
        server.fault(Fault::new(FaultKind::HoldUntil(gate.clone())).verb(Verb::Create).times(20));
    };
    survives("held creates", hurt, |_| gate.open()).await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_never_answered_are_survived() {
    for verb in WRITES {
        let hurt = |server: &ApiServer| {
            server.fault(Fault::new(FaultKind::Hang).verb(verb).times(5));
        };
        survives(&format!("{verb} hangs"), hurt, |_| {}).await;
    }
}

#[tokio::test(start_paused = true)]
async fn broken_and_lagging_watches_are_survived() {
    for plural in ALL {
        let hurt = |server: &ApiServer| {
            server.fault(Fault::new(FaultKind::WatchCut).resource(plural));
            server
                .fault(Fault::new(FaultKind::Status(500, "InternalError")).verb(Verb::Watch).resource(plural).times(3));
        };
        survives(&format!("the watch of {plural} is cut"), hurt, |_| {}).await;
        let hurt = |server: &ApiServer| {
            server.fault(Fault::new(FaultKind::WatchEnd).resource(plural));
            server.compact();
        };
        survives(&format!("the watch of {plural} ends and its history is gone"), hurt, |_| {}).await;
        let gate = Gate::closed();
        let hold = FaultKind::WatchHold(gate.clone());
        let hurt = |server: &ApiServer| {
            server.fault(Fault::new(hold.clone()).resource(plural));
        };
        survives(&format!("the watch of {plural} is held"), hurt, |_| gate.open()).await;
        let late = FaultKind::WatchDelay(Duration::from_secs(2));
        let hurt = |server: &ApiServer| {
            server.fault(Fault::new(late.clone()).resource(plural));
        };
        survives(&format!("the watch of {plural} lags"), hurt, |_| {}).await;
    }
}

#[tokio::test(start_paused = true)]
async fn f3_lists_of_a_lagging_server_are_not_relied_on() {
    let hurt = |server: &ApiServer| {
        server.fault(Fault::new(FaultKind::Stale(server.revision() - 20)));
        server.compact();
        server.fault(Fault::new(FaultKind::WatchCut));
    };
    survives("a server that lags behind etcd", hurt, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn f5_an_address_whose_create_was_not_answered_waits_for_the_lock_delay() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    server.fault(Fault::new(FaultKind::ExecuteThenLose).verb(Verb::Create).resource(ADDRESSES).times(1));
    server.put_object(claim("a", "p"));
    until("the claim is bound all the same", || bound(server, "a").is_some()).await;
    assert_eq!(scene.invariants.created(), 1);
    sleep(SOON).await;
    assert_eq!(pending(server, "p").len(), 1, "what was sent may arrive again");

    server.delete(CLAIMS, "ns", "a");
    until("the claim is gone", || server.get(CLAIMS, "ns", "a").is_none()).await;
    assert_eq!(server.list(ADDRESSES).len(), 0);
    server.put_object(claim("b", "p"));
    until("the next claim has to wait", || verdict(server, CLAIMS, "b") == refused("PoolExhausted")).await;
    sleep(LOCK_DELAY.saturating_sub(2 * SOON)).await;
    assert_eq!((bound(server, "b"), pending(server, "p").len()), (None, 1));
    until_within(3 * SOON, "the lock delay is over", || bound(server, "b").is_some()).await;
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn f2_a_commit_whose_reply_is_lost_is_found_by_a_look() {
    for (kind, puts) in [(FaultKind::ExecuteThenLose, 1), (FaultKind::LoseBefore, 2)] {
        let scene = Scene::ready().await;
        let server = &scene.server;
        server.put_object(pool("p", &["10.0.0.10-10.0.0.19"]));
        until("the pool is described", || verdict(server, POOLS, "p").0 == "True").await;
        server.clear_requests();
        server.fault(Fault::new(kind.clone()).verb(Verb::Update).resource(POOLS).times(1));
        server.put_object(claim("a", "p"));
        until("the claim is bound", || bound(server, "a").is_some()).await;
        assert_eq!(server.count(Verb::Update, POOLS), puts, "{kind:?}");
        assert_eq!(server.count(Verb::Get, POOLS), 1, "{kind:?}");
        assert_eq!(bound(server, "a").as_deref(), Some("10.0.0.10"), "{kind:?}: nothing is skipped");
        until("the intent is settled", || pending(server, "p").is_empty()).await;
        scene.invariants.assert_kept();
    }
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_no_watch_was_open_is_missed_by_the_next_list() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.11"]));
    server.put_object(address("foreign", "p", "10.0.0.10"));
    server.put_object(claim("first", "p"));
    until("one is bound", || bound(server, "first").is_some()).await;
    for name in ["ghost", "last"] {
        server.put_object(claim(name, "p"));
        until("it waits", || verdict(server, CLAIMS, name) == refused("PoolExhausted")).await;
        sleep(Duration::from_secs(2)).await;
    }
    let vanish = |plural: &str, name: &str| {
        let error = server.fault(Fault::new(FaultKind::Status(500, "InternalError")).client("m1-watch"));
        server.fault(Fault::new(FaultKind::WatchCut).resource(plural));
        server.edit(plural, "ns", name, |object| object["metadata"]["finalizers"] = json!([]));
        server.delete(plural, "ns", name);
        server.compact();
        server.lift(error);
    };
    vanish(CLAIMS, "ghost");
    sleep(SOON).await;
    vanish(ADDRESSES, "foreign");
    until("the next one is bound", || bound(server, "last").is_some()).await;
    assert_eq!(bound(server, "last").as_deref(), Some("10.0.0.10"));
    assert_eq!(server.get(ADDRESSES, "ns", "ghost"), None, "nothing is given to a claim that is gone");
    scene.invariants.assert_kept();
}
