//! Many claims at once: what they get, and that they cost little.

use std::collections::BTreeSet;

use super::fixtures::{ADDRESSES, CLAIMS, POOLS, bound, counts, pending, pool, put_claims, unbound, verdict};
use super::{Scene, until};
use crate::apiserver::Verb;

const CLAIM_COUNT: usize = 500;

#[tokio::test(start_paused = true)]
async fn five_hundred_claims_get_the_lowest_addresses_by_little_more_than_three_requests_each() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    server.put_object(pool("p", &["10.0.0.0/20"]));
    until("the pool is described", || verdict(server, POOLS, "p").0 == "True").await;
    server.clear_requests();
    put_claims(server, "a", "p", CLAIM_COUNT);
    until("all are bound", || unbound(server).is_empty()).await;
    until("all intents are settled", || pending(server, "p").is_empty()).await;
    until("the pool counts them", || counts(server, "p")[2] == 500).await;

    let requests = server.requests().iter().filter(|request| request.client.ends_with("-request")).count();
    assert!(requests * 10 <= CLAIM_COUNT * 32, "{requests} requests for {CLAIM_COUNT} claims");
    assert_eq!(server.count(Verb::Create, ADDRESSES), CLAIM_COUNT);
    assert_eq!(server.count(Verb::Patch, CLAIMS), 2 * CLAIM_COUNT);
    assert_eq!(server.count(Verb::Get, CLAIMS) + server.count(Verb::Get, ADDRESSES), 0);

    let parse = |text: String| text.parse::<std::net::Ipv4Addr>().map(u32::from).expect("an address");
    let names = (0..CLAIM_COUNT).map(|i| format!("a-{i:04}"));
    let given: BTreeSet<u32> = names.filter_map(|name| bound(server, &name)).map(parse).collect();
    // 10.0.0.0 is reserved, 10.0.0.1 the gateway.
    let lowest: BTreeSet<u32> = (0x0A00_0002..).take(CLAIM_COUNT).collect();
    assert_eq!(given, lowest);
    assert_eq!(scene.invariants.created(), CLAIM_COUNT);
    scene.invariants.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn b6_pools_do_not_wait_for_each_other() {
    let scene = Scene::ready().await;
    let server = &scene.server;
    for name in ["p", "q"] {
        server.put_object(pool(name, &["10.0.0.10-10.0.0.59"]));
    }
    let gate = crate::apiserver::Gate::closed();
    let held = crate::apiserver::FaultKind::HoldUntil(gate.clone());
    server.fault(crate::apiserver::Fault::new(held).resource(POOLS).name_prefix("p").subresource("status"));
    put_claims(server, "of-p", "p", 50);
    let others = put_claims(server, "of-q", "q", 50);
    until("those of the other pool are bound", || others.iter().all(|name| bound(server, name).is_some())).await;
    assert_eq!(unbound(server).len(), 50);
    gate.open();
    until("all are bound", || unbound(server).is_empty()).await;
    scene.invariants.assert_kept();
}
