//! Faults: each kind does what it says, to whom it is meant for, as often as it should.

use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams, PostParams};
use tokio::time::{Instant, timeout};

use super::{create, object, objects, pool, pools, refused};
use crate::apiserver::{ApiServer, Fault, FaultKind, Gate, Verb};

const POOLS: &str = "inclusterippools";

async fn post(api: &Api<DynamicObject>, name: &str) -> kube::Result<DynamicObject> {
    api.create(&PostParams::default(), &object(pool(name))).await
}

fn is_stored(server: &ApiServer, name: &str) -> bool {
    server.get(POOLS, "ns", name).is_some()
}

fn is_broken<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Err(kube::Error::Service(_)))
}

#[tokio::test]
async fn a_status_meets_only_what_it_is_meant_for_and_only_so_often() {
    let server = ApiServer::standard();
    let named = |client| objects(server.client_named(client), POOLS, "v1alpha2");
    let (first, second) = (named("replica-0"), named("replica-1"));
    let fault = Fault::new(FaultKind::Status(503, "ServiceUnavailable"));
    server.fault(fault.verb(Verb::Create).resource(POOLS).name_prefix("bad").client("replica-0").times(2));
    assert!(post(&second, "bad-0").await.is_ok(), "another client");
    assert!(post(&first, "good").await.is_ok(), "another name");
    assert!(first.list(&ListParams::default()).await.is_ok(), "another verb");
    for _ in 0..2 {
        assert_eq!(refused(post(&first, "bad-1").await), (503, "ServiceUnavailable".into()));
        assert!(!is_stored(&server, "bad-1"));
    }
    assert!(post(&first, "bad-1").await.is_ok(), "twice was said");
}

#[tokio::test]
async fn a_fault_can_be_meant_for_status_alone_and_be_lifted() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let created = create(&api, pool("p")).await;
    let fault = server.fault(Fault::new(FaultKind::Status(409, "Conflict")).subresource("status"));
    let body = object(created);
    assert!(api.replace("p", &PostParams::default(), &body).await.is_ok());
    assert_eq!(refused(api.replace_status("p", &PostParams::default(), &body).await).0, 409);
    server.lift(fault);
    assert!(api.replace_status("p", &PostParams::default(), &body).await.is_ok());
    server.fault(Fault::new(FaultKind::Status(429, "TooManyRequests")));
    assert_eq!(refused(api.get("p").await).0, 429);
    server.lift_all();
    assert!(api.get("p").await.is_ok());
}

#[tokio::test]
async fn a_lost_request_and_a_lost_answer_look_alike_but_are_not() {
    let server = ApiServer::standard();
    let api = pools(&server);
    server.fault(Fault::new(FaultKind::LoseBefore).times(1));
    server.fault(Fault::new(FaultKind::ExecuteThenLose).times(1));
    assert!(is_broken(&post(&api, "before").await));
    assert!(is_broken(&post(&api, "after").await));
    assert_eq!((is_stored(&server, "before"), is_stored(&server, "after")), (false, true));
    assert_eq!(refused(post(&api, "after").await).0, 409);
    let codes: Vec<_> = server.requests().iter().map(|request| request.code).collect();
    assert_eq!(codes, [None, Some(201), Some(409)]);
}

#[tokio::test(start_paused = true)]
async fn delays_come_before_or_after_the_act() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let five = Duration::from_secs(5);
    server.fault(Fault::new(FaultKind::Delay(five)).name_prefix("before"));
    server.fault(Fault::new(FaultKind::DelayAfter(five)).name_prefix("after"));
    let start = Instant::now();
    assert!(timeout(five / 2, post(&api, "before")).await.is_err());
    assert!(timeout(five / 2, post(&api, "after")).await.is_err());
    assert!(is_stored(&server, "after"), "the act came first");
    assert!(post(&api, "after-all").await.is_ok());
    assert_eq!(start.elapsed(), 2 * five);
    assert!(is_stored(&server, "before"), "the act came late, although nobody waited for it any more");
}

#[tokio::test(start_paused = true)]
async fn a_held_request_is_carried_out_when_released_even_if_its_client_has_gone() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let gate = Gate::closed();
    server.fault(Fault::new(FaultKind::HoldUntil(gate.clone())).verb(Verb::Create).times(2));
    assert!(timeout(Duration::from_secs(1), post(&api, "given-up")).await.is_err());
    let (server_too, api_too) = (server.clone(), api.clone());
    let waiting = tokio::spawn(async move { (post(&api_too, "patient").await, server_too.now()) });
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!((gate.held(), is_stored(&server, "given-up"), waiting.is_finished()), (2, false, false));
    assert!(server.requests().is_empty(), "nothing was carried out yet");
    gate.open();
    assert!(waiting.await.expect("the task ends").0.is_ok());
    assert!(is_stored(&server, "given-up"), "the late POST landed");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_never_ends_and_never_acts() {
    let server = ApiServer::standard();
    let api = pools(&server);
    server.fault(Fault::new(FaultKind::Hang).times(1));
    let day = Duration::from_hours(24);
    assert!(timeout(day, post(&api, "p")).await.is_err());
    assert!(!is_stored(&server, "p"));
    let again = timeout(day, post(&api, "p")).await.expect("once was said");
    assert!(again.is_ok(), "the client itself still works");
}

#[tokio::test]
async fn an_injector_decides_request_by_request() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let mut number = 0;
    server.inject(move |call| {
        number += 1;
        (number == 2 && call.verb == Verb::Create).then_some(FaultKind::ExecuteThenLose)
    });
    assert!(post(&api, "a").await.is_ok());
    assert!(is_broken(&post(&api, "b").await));
    assert!(post(&api, "c").await.is_ok());
    assert_eq!(server.list(POOLS).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_same_requests_get_the_same_answers() {
    let run = async || {
        let server = ApiServer::standard();
        let api = pools(&server);
        for name in ["b", "a", "c"] {
            create(&api, pool(name)).await;
        }
        server.delete(POOLS, "ns", "a");
        server.list(POOLS)
    };
    assert_eq!(run().await, run().await);
}
