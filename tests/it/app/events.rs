//! Events (C18): what users are told, once, and never at the expense of serving.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixtures::{CLAIMS, POOLS, bound, claim, pool, put_claims, refused, stored, unbound, verdict};
use super::{Scene, until};
use crate::apiserver::{ApiServer, Fault, FaultKind, Verb};

/// Kind, name, reason and note of all Events, in the order of the first three.
fn told(server: &ApiServer) -> Vec<[String; 4]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = server.list("events");
    let mut told: Vec<[String; 4]> = events
        .iter()
        .map(|it| {
            let about = &it["regarding"];
            [text(&about["kind"]), text(&about["name"]), text(&it["reason"]), text(&it["note"])]
        })
        .collect();
    told.sort_unstable();
    told
}

fn has_told(server: &ApiServer, kind: &str, name: &str, reason: &str) -> bool {
    told(server).iter().any(|it| it[..3] == [kind, name, reason])
}

fn dropped(scene: &Scene, reason: &str) -> usize {
    let text = scene.manager.metrics.render(capi_ipam::telemetry::metrics::Exposition::Text);
    let line = format!("capi_ipam_events_dropped_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|it| it.strip_prefix(&line)).map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn rule_c18_what_becomes_of_a_claim_is_told_once() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(claim("a", "p"));
    until("a is told why it waits", || has_told(server, "IPAddressClaim", "a", "PoolNotReady")).await;
    server.put_object(pool("p", &["10.0.0.10"]));
    until("a has its address", || bound(server, "a").is_some()).await;
    server.put_object(claim("b", "p"));
    until("b is told why it waits", || has_told(server, "IPAddressClaim", "b", "PoolExhausted")).await;
    let uid = stored(server, CLAIMS, "b")["metadata"]["uid"].clone();
    server.delete(CLAIMS, "ns", "a");
    until("b has its address", || bound(server, "b").is_some()).await;
    // Looks and retries are not told.
    sleep(Duration::from_mins(15)).await;
    let line = |kind: &str, name: &str, reason: &str, note: &str| [kind, name, reason, note].map(str::to_owned);
    assert_eq!(
        told(server),
        [
            line("IPAddressClaim", "a", "AddressAllocated", "10.0.0.10 is allocated from InClusterIPPool ns/p"),
            line("IPAddressClaim", "a", "AddressReleased", "10.0.0.10 is given back to InClusterIPPool ns/p"),
            line("IPAddressClaim", "a", "PoolNotReady", "InClusterIPPool ns/p does not exist"),
            line("IPAddressClaim", "b", "AddressAllocated", "10.0.0.10 is allocated from InClusterIPPool ns/p"),
            line("IPAddressClaim", "b", "PoolExhausted", "InClusterIPPool ns/p is full: all 1 addresses are in use"),
            line("InClusterIPPool", "p", "PoolExhausted", "InClusterIPPool ns/p is full: all 1 addresses are in use"),
        ]
    );
    let events = server.list("events");
    let of_b = events.iter().find(|it| it["regarding"]["uid"] == uid && it["reason"] == "PoolExhausted");
    let of_b = of_b.expect("the Event names the very claim, or kubectl does not show it");
    assert_eq!((&of_b["type"], &of_b["metadata"]["namespace"]), (&json!("Warning"), &json!("ns")));
    assert_eq!(of_b["reportingInstance"], "m1");
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn rule_c18_an_invalid_pool_says_so_with_each_edit_that_leaves_it_invalid() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    let mut broken = pool("p", &["10.0.0.10"]);
    broken["spec"]["prefix"] = json!(99);
    server.put_object(broken);
    until("the pool is told of", || has_told(server, "InClusterIPPool", "p", "InvalidPool")).await;
    assert!(told(server)[0][3].contains("spec.prefix"), "{:?}", told(server));
    server.edit(POOLS, "ns", "p", |pool| pool["metadata"]["labels"] = json!({ "a": "b" }));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(told(server).len(), 1);
    server.edit(POOLS, "ns", "p", |pool| pool["spec"]["prefix"] = json!(98));
    until("the edit is told of", || told(server).len() == 2).await;
    server.edit(POOLS, "ns", "p", |pool| pool["spec"]["prefix"] = json!(24));
    until("the pool is mended", || verdict(server, POOLS, "p").0 == "True").await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(told(server).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn rule_c18_a_backlog_is_told_of_in_part_and_its_pool_all_the_same() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.1.0-10.0.4.231"]));
    put_claims(server, "a", "p", 1_010);
    until("the pool is full", || unbound(server).len() == 10).await;
    until("the pool is told of", || has_told(server, "InClusterIPPool", "p", "PoolExhausted")).await;
    until("the last waits", || verdict(server, CLAIMS, "a-1009") == refused("PoolExhausted")).await;
    sleep(Duration::from_secs(10)).await;
    let events = told(server).len();
    assert!((20..200).contains(&events), "{events}");
    assert_eq!(dropped(&scene, "budget") + dropped(&scene, "queue") + events, 1_000 + 10 + 1);
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn rule_c18_where_events_are_forbidden_nothing_else_suffers_and_they_come_with_the_right() {
    let server = ApiServer::standard();
    let forbidden = FaultKind::Status(403, "Forbidden");
    let fault = server.fault(Fault::new(forbidden).verb(Verb::Create).resource("events"));
    let scene = Scene::on(server).await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.99"]));
    put_claims(server, "a", "p", 50);
    until("all are served", || unbound(server).is_empty()).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(server.count(Verb::Create, "events"), 1, "the first refusal is the last question for a while");
    assert_eq!(dropped(&scene, "forbidden"), 50);
    server.lift(fault);
    sleep(Duration::from_mins(10)).await;
    put_claims(server, "b", "p", 1);
    until("Events are written", || has_told(server, "IPAddressClaim", "b-0000", "AddressAllocated")).await;
}

#[tokio::test(start_paused = true)]
async fn rule_c18_an_api_server_that_does_not_answer_events_delays_nobody() {
    let server = ApiServer::standard();
    server.fault(Fault::new(FaultKind::Hang).resource("events"));
    let scene = Scene::on(server).await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.1.0-10.0.4.231"]));
    put_claims(server, "a", "p", 1_000);
    until("all are served", || unbound(server).is_empty()).await;
    sleep(Duration::from_mins(1)).await;
    assert!(dropped(&scene, "queue") >= 800, "{}", dropped(&scene, "queue"));
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn rule_c18_what_happens_again_is_one_event_with_a_count() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    put_claims(server, "a", "p", 2);
    until("one waits", || has_told(server, "IPAddressClaim", "a-0001", "PoolExhausted")).await;
    let pause = |paused: bool| {
        let value = if paused { json!({ "cluster.x-k8s.io/paused": "" }) } else { json!({}) };
        server.edit(POOLS, "ns", "p", |pool| pool["metadata"]["annotations"] = value);
    };
    for _ in 0..3 {
        pause(true);
        until("it is paused", || verdict(server, CLAIMS, "a-0001") == refused("PoolNotReady")).await;
        pause(false);
        until("it goes on", || verdict(server, CLAIMS, "a-0001") == refused("PoolExhausted")).await;
    }
    let series = |reason: &str| {
        let events = server.list("events");
        let found: Vec<_> = events
            .iter()
            .filter(|it| it["regarding"]["name"] == "a-0001" && it["reason"] == reason)
            .map(|it| it["series"]["count"].as_i64())
            .collect();
        found
    };
    until("they are counted", || series("PoolExhausted") == [Some(4)] && series("PoolNotReady") == [Some(3)]).await;
    let told_so_far = server.revision();
    sleep(Duration::from_mins(15)).await;
    assert_eq!(server.revision(), told_so_far, "nothing is written again");
}
