//! Claims that wait for an address: they cost nothing while nothing changes.

use std::time::Duration;

use tokio::time::sleep;

use super::claims::writes;
use super::fixtures::{CLAIMS, bound, claim, counts, pending, pool, put_claims, refused, unbound, verdict};
use super::{Scene, until};

const WAITING: usize = 1_000;

#[tokio::test(start_paused = true)]
async fn c11_a_thousand_waiting_claims_cost_nothing_until_an_address_is_freed() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10-10.0.0.11"]));
    put_claims(server, "first", "p", 2);
    until("the pool is full", || unbound(server).is_empty()).await;
    put_claims(server, "late", "p", WAITING);
    let told = |i: usize| verdict(server, CLAIMS, &format!("late-{i:04}")) == refused("PoolExhausted");
    until("all know why they wait", || (0..WAITING).all(told)).await;
    until("the pool is at rest", || pending(server, "p").is_empty() && counts(server, "p") == [2, 0, 2, 0]).await;
    server.clear_requests();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(writes(server), Vec::<String>::new());

    server.delete(CLAIMS, "ns", "first-0001");
    until("the first in line is bound", || bound(server, "late-0000").is_some()).await;
    until("the intent is settled", || pending(server, "p").is_empty()).await;
    sleep(Duration::from_mins(1)).await;
    let release = ["delete ipaddresses first-0001", "patch ipaddressclaims first-0001", "patch ipaddresses first-0001"];
    let allocation = ["create ipaddresses late-0000", "patch ipaddressclaims/status late-0000"];
    // One to promise, one to settle.
    let records = ["update inclusterippools/status p"; 2];
    let mut expected: Vec<&str> = release.into_iter().chain(allocation).chain(records).collect();
    expected.sort_unstable();
    assert_eq!(writes(server), expected);
    assert_eq!(unbound(server).len(), WAITING - 1);
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn b5_waiting_claims_are_served_in_the_order_of_their_creation() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    server.put_object(claim("first", "p"));
    until("the pool is full", || bound(server, "first").is_some()).await;
    for name in ["c", "a", "b"] {
        server.put_object(claim(name, "p"));
        until("it waits", || verdict(server, CLAIMS, name) == refused("PoolExhausted")).await;
        sleep(Duration::from_secs(2)).await;
    }
    let mut before = "first";
    for name in ["c", "a", "b"] {
        server.delete(CLAIMS, "ns", before);
        until("the next one is bound", || bound(server, name).is_some()).await;
        before = name;
    }
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn c11_a_pool_that_grows_serves_those_who_wait() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.10"]));
    put_claims(server, "a", "p", 30);
    until("the pool is full", || verdict(server, CLAIMS, "a-0029") == refused("PoolExhausted")).await;
    server.edit("inclusterippools", "ns", "p", |pool| {
        pool["spec"]["addresses"] = serde_json::json!(["10.0.0.10-10.0.0.29"]);
    });
    until("twenty are bound", || unbound(server).len() == 10).await;
    until("the pool counts them", || counts(server, "p") == [20, 0, 20, 0]).await;
    scene.invariants.assert_kept();
}
