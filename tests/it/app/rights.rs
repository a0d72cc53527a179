//! The right to a pool goes while requests are under way, and comes back or does not.

use std::sync::Arc;
use std::time::Duration;

use capi_ipam::controllers::ownership::{Grant, Grants, Ownership, Rights};
use capi_ipam::controllers::view::Filter;
use capi_ipam::k8s::clock::Deadline;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::fixtures::{ADDRESSES, bound, pending, pool, put_claims, unbound};
use super::invariants::Invariants;
use super::process::Process;
use super::{Scene, until, until_within};
use crate::apiserver::{ApiServer, Fault, FaultKind, Gate, Verb};

const CLAIM_COUNT: usize = 40;

/// The one shard of a process, given and taken by the test.
struct Right {
    rights: Rights,
    ended: (mpsc::UnboundedSender<u16>, mpsc::UnboundedReceiver<u16>),
    epoch: u32,
}

impl Right {
    fn give(&mut self) {
        let (_, hold) = watch::channel(None);
        self.epoch += 1;
        self.rights.validity.send_replace(Deadline::never());
        let grant = Grant::new(0, self.epoch, Deadline::never(), hold, self.ended.0.clone());
        self.rights.grants.send_modify(|grants| drop(grants.insert(0, Arc::new(grant))));
    }

    /// Returns how long it took until nobody worked on the shard any more.
    async fn take(&mut self) -> Duration {
        let since = Instant::now();
        self.rights.grants.send_modify(Grants::clear);
        let ended = timeout(Duration::from_mins(1), self.ended.1.recv()).await;
        assert_eq!(ended.expect("work ends"), Some(0));
        since.elapsed()
    }
}

/// A manager whose predecessor died with creates under way.
async fn with_intents_of_the_dead() -> (ApiServer, Invariants, Process, Right) {
    let Scene { server, invariants, manager } = Scene::ready().await;
    server.put_object(pool("p", &["10.0.0.0/16"]));
    server.fault(Fault::new(FaultKind::LoseBefore).verb(Verb::Create).resource(ADDRESSES));
    put_claims(&server, "a", "p", 5);
    until("the record promises", || pending(&server, "p").len() == 5).await;
    manager.kill().await;
    server.lift_all();
    let (manager, right) = start(&server).await;
    until("all are bound", || unbound(&server).is_empty()).await;
    until("its own part is settled", || {
        pending(&server, "p").iter().all(|intent| intent["senders"].as_array().is_some_and(|all| all.len() == 1))
    })
    .await;
    (server, invariants, manager, right)
}

/// A manager with the right to everything.
async fn start(server: &ApiServer) -> (Process, Right) {
    let (ownership, rights) = Ownership::decided_elsewhere(1);
    let mut right = Right { rights, ended: mpsc::unbounded_channel(), epoch: 0 };
    right.give();
    let manager = Process::with(server, "m2", Filter::default(), ownership);
    manager.until_ready().await;
    (manager, right)
}

/// A manager whose creates are all under way, and the gate that holds them.
async fn under_way() -> (ApiServer, Invariants, Process, Right, Gate) {
    let server = ApiServer::standard();
    let invariants = Invariants::of(&server);
    let (manager, right) = start(&server).await;
    server.put_object(pool("p", &["10.0.0.0/16"]));
    let gate = Gate::closed();
    server.fault(Fault::new(FaultKind::HoldUntil(gate.clone())).verb(Verb::Create).resource(ADDRESSES));
    put_claims(&server, "a", "p", CLAIM_COUNT);
    until("the creates are under way", || gate.held() == CLAIM_COUNT).await;
    server.lift_all();
    (server, invariants, manager, right, gate)
}

#[tokio::test(start_paused = true)]
async fn rule_f5c_whoever_lost_a_pool_waits_for_its_answers_and_leaves_no_intent_behind() {
    let (server, invariants, manager, mut right, gate) = under_way().await;
    let took = right.take().await;
    assert!(took < Duration::from_secs(5), "the right was kept for {took:?}");
    let _successor = Process::start(&server, "m3");
    until("all are bound", || unbound(&server).is_empty()).await;
    assert_eq!(pending(&server, "p").len(), CLAIM_COUNT, "the first one has had no answer yet");
    gate.open();
    until_within(Duration::from_secs(30), "both have left", || pending(&server, "p").is_empty()).await;
    assert!(manager.is_running());
    assert_eq!(invariants.created(), CLAIM_COUNT);
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_comes_back_while_requests_are_under_way_is_served_on() {
    let (server, invariants, manager, mut right, gate) = under_way().await;
    right.take().await;
    put_claims(&server, "b", "p", 10);
    right.give();
    until("new claims are served", || bound(&server, "b-0009").is_some()).await;
    assert_eq!(unbound(&server).len(), CLAIM_COUNT, "the others' creates are under way still");
    gate.open();
    until("all are bound", || unbound(&server).is_empty()).await;
    until_within(Duration::from_secs(30), "all is settled", || pending(&server, "p").is_empty()).await;
    manager.stop().await;
    assert_eq!(invariants.created(), CLAIM_COUNT + 10);
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn intents_of_the_dead_do_not_hold_up_a_handover() {
    let (server, invariants, manager, mut right) = with_intents_of_the_dead().await;
    let took = right.take().await;
    assert!(took < Duration::from_millis(1_500), "the right was kept for {took:?}");
    manager.stop().await;
    assert_eq!(pending(&server, "p").len(), 5, "they wait for the lock delay");
    invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_does_not_wait_for_answers_to_pools_that_it_lost() {
    let (_server, invariants, manager, mut right, _gate) = under_way().await;
    right.take().await;
    let since = Instant::now();
    manager.stop().await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    invariants.assert_kept();
}
