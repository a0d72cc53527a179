//! Watches, raw and through kube's watcher.

use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;

use super::{create, lease, leases, merge, pool, pools};
use crate::apiserver::{ApiServer, Fault, FaultKind, Gate, Verb};

const POOLS: &str = "inclusterippools";

/// Longer than anything here takes; the clock is paused, so nobody waits that long.
const SOON: Duration = Duration::from_hours(1);

type Events = std::pin::Pin<Box<dyn Stream<Item = kube::Result<String>> + Send>>;

/// The watch's events in short: `ADDED a@5`, `BOOKMARK @7`, `ERROR 410 Expired`.
async fn events(api: &Api<DynamicObject>, params: &WatchParams, from: u64) -> Events {
    let version = |object: &DynamicObject| object.metadata.resource_version.clone().unwrap_or_default();
    let short =
        move |object: &DynamicObject| format!("{}@{}", object.metadata.name.as_deref().unwrap_or(""), version(object));
    let stream = api.watch(params, &from.to_string()).await.expect("the watch opens");
    Box::pin(stream.map_ok(move |event| match event {
        WatchEvent::Added(object) => format!("ADDED {}", short(&object)),
        WatchEvent::Modified(object) => format!("MODIFIED {}", short(&object)),
        WatchEvent::Deleted(object) => format!("DELETED {}", short(&object)),
        WatchEvent::Bookmark(mark) => {
            let end = if mark.metadata.annotations.is_empty() { "" } else { "END " };
            format!("BOOKMARK {end}@{}", mark.metadata.resource_version)
        }
        WatchEvent::Error(status) => format!("ERROR {} {}", status.code, status.reason),
    }))
}

async fn next(events: &mut Events) -> String {
    let event = tokio::time::timeout(SOON, events.next()).await.expect("an event comes");
    event.expect("the watch goes on").expect("the connection holds")
}

/// Whether nothing comes for a while.
async fn is_quiet(events: &mut Events) -> bool {
    tokio::time::timeout(Duration::from_secs(30), events.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_each_change_after_its_start_once_and_in_order() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, pool("a")).await;
    let start = server.revision();
    create(&api, pool("b")).await;
    let mut events = events(&api, &WatchParams::default(), start).await;
    merge(&api, "a", json!({"spec": {"prefix": 25}})).await.expect("valid");
    create(&leases(&server), lease("l")).await;
    server.delete(POOLS, "ns", "b");
    let mut elsewhere = pool("c");
    elsewhere["metadata"]["namespace"] = json!("other");
    server.put_object(elsewhere);
    assert_eq!(next(&mut events).await, format!("ADDED b@{}", start + 1));
    assert_eq!(next(&mut events).await, format!("MODIFIED a@{}", start + 2));
    assert_eq!(next(&mut events).await, format!("DELETED b@{}", start + 4));
    assert!(is_quiet(&mut events).await);
    drop(events);
    create(&api, pool("d")).await;
    assert_eq!(server.watches(POOLS), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_version_that_lies_ahead_leaves_out_what_comes_before_it() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let mut events = events(&api, &WatchParams::default(), server.revision() + 1).await;
    create(&api, pool("a")).await;
    create(&api, pool("b")).await;
    assert_eq!(next(&mut events).await, "ADDED b@3");
}

#[tokio::test(start_paused = true)]
async fn from_version_0_a_watch_begins_with_what_there_is() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, pool("a")).await;
    create(&api, pool("b")).await;
    let mut plain = events(&api, &WatchParams::default(), 0).await;
    let mut streaming = events(&api, &WatchParams::default().initial_events(), 0).await;
    let start = server.revision();
    for events in [&mut plain, &mut streaming] {
        assert_eq!(next(events).await, format!("ADDED a@{}", start - 1));
        assert_eq!(next(events).await, format!("ADDED b@{start}"));
    }
    assert_eq!(next(&mut streaming).await, format!("BOOKMARK END @{start}"));
    assert!(is_quiet(&mut plain).await);
}

#[tokio::test(start_paused = true)]
async fn with_a_selector_objects_come_and_go_as_they_match() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, pool("a")).await;
    let start = server.revision();
    let mut events = events(&api, &WatchParams::default().labels("k=v"), start).await;
    for labels in [json!({"x": "y"}), json!({"k": "v"}), json!({"k": "v", "x": "z"}), json!({"k": "w"})] {
        merge(&api, "a", json!({"metadata": {"labels": labels}})).await.expect("valid");
    }
    assert_eq!(next(&mut events).await, format!("ADDED a@{}", start + 2));
    assert_eq!(next(&mut events).await, format!("MODIFIED a@{}", start + 3));
    assert_eq!(next(&mut events).await, format!("DELETED a@{}", start + 4));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_bookmarks_and_ends_at_its_timeout() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let mut marked = events(&api, &WatchParams::default().timeout(70), 1).await;
    let mut unmarked = events(&api, &WatchParams::default().timeout(70).disable_bookmarks(), 1).await;
    create(&leases(&server), lease("l")).await;
    let opened = tokio::time::Instant::now();
    assert_eq!(next(&mut marked).await, format!("BOOKMARK @{}", server.revision()));
    assert_eq!(opened.elapsed().as_secs(), 60);
    assert_eq!(next(&mut marked).await, format!("BOOKMARK @{}", server.revision()));
    assert!(marked.next().await.is_none());
    assert_eq!(opened.elapsed().as_secs(), 70);
    assert!(unmarked.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_compacted_start_is_410_and_running_watches_go_on() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let start = server.revision();
    let mut running = events(&api, &WatchParams::default(), start).await;
    create(&api, pool("a")).await;
    server.compact();
    let mut late = events(&api, &WatchParams::default(), start).await;
    assert_eq!(next(&mut late).await, "ERROR 410 Expired");
    assert!(late.next().await.is_none());
    assert_eq!(next(&mut running).await, format!("ADDED a@{}", start + 1));
    let mut current = events(&api, &WatchParams::default(), server.revision()).await;
    create(&api, pool("b")).await;
    assert_eq!(next(&mut current).await, format!("ADDED b@{}", start + 2));
}

#[tokio::test(start_paused = true)]
async fn running_watches_can_be_ended_and_broken_by_client() {
    let server = ApiServer::standard();
    let mine = super::objects(server.client_named("replica-0"), POOLS, "v1alpha2");
    let mut other = events(&pools(&server), &WatchParams::default(), 1).await;
    let mut events_ = events(&mine, &WatchParams::default(), 1).await;
    server.fault(Fault::new(FaultKind::WatchCut).client("replica-0"));
    assert!(matches!(events_.next().await, Some(Err(kube::Error::ReadEvents(_)))));
    let mut reopened = events(&mine, &WatchParams::default(), 1).await;
    server.fault(Fault::new(FaultKind::WatchEnd).client("replica-0").resource(POOLS));
    assert!(reopened.next().await.is_none());
    assert!(is_quiet(&mut other).await);
    server.serve(POOLS, &["v1alpha1"]);
    assert!(other.next().await.is_none(), "its version is not served any more");
}

#[tokio::test(start_paused = true)]
async fn held_events_come_late_and_in_order_and_no_bookmark_overtakes_them() {
    let server = ApiServer::standard();
    let api = pools(&server);
    let mut events = events(&api, &WatchParams::default(), 1).await;
    let gate = Gate::closed();
    let hold = server.fault(Fault::new(FaultKind::WatchHold(gate.clone())).resource(POOLS));
    create(&api, pool("a")).await;
    let watch = tokio::spawn(async move {
        let seen = [next(&mut events).await, next(&mut events).await];
        (seen, events)
    });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!watch.is_finished(), "neither event nor bookmark came");
    assert_eq!(gate.held(), 1);
    create(&api, pool("b")).await;
    gate.open();
    let (seen, mut events) = watch.await.expect("the watch goes on");
    assert_eq!(seen, ["ADDED a@2", "ADDED b@3"]);

    server.lift(hold);
    server.fault(Fault::new(FaultKind::WatchDelay(Duration::from_secs(5))));
    let committed = tokio::time::Instant::now();
    create(&api, pool("c")).await;
    assert_eq!(next(&mut events).await, "ADDED c@4");
    assert_eq!(committed.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stale_server_lets_a_watch_begin_earlier_and_catch_up() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, pool("a")).await;
    server.fault(Fault::new(FaultKind::Stale(server.revision())).times(1));
    server.delete(POOLS, "ns", "a");
    let mut events = events(&api, &WatchParams::default(), 0).await;
    assert_eq!(next(&mut events).await, "ADDED a@2");
    assert_eq!(next(&mut events).await, "DELETED a@3");
}

#[tokio::test(start_paused = true)]
async fn kubes_watcher_follows_through_a_cut_and_a_410() {
    let server = ApiServer::standard();
    let api = pools(&server);
    create(&api, pool("a")).await;
    let mut watcher = Box::pin(watcher::watcher(api.clone(), watcher::Config::default()));
    let mut short = async || match tokio::time::timeout(SOON, watcher.next()).await.expect("in time") {
        Some(Ok(Event::Init)) => "init".to_owned(),
        Some(Ok(Event::InitDone)) => "done".to_owned(),
        Some(Ok(Event::InitApply(object))) => format!("first {}", object.metadata.name.unwrap_or_default()),
        Some(Ok(Event::Apply(object))) => format!("apply {}", object.metadata.name.unwrap_or_default()),
        Some(Ok(Event::Delete(object))) => format!("delete {}", object.metadata.name.unwrap_or_default()),
        Some(Err(watcher::Error::WatchError(status))) => format!("error {}", status.code),
        Some(Err(error)) => format!("broken: {error}"),
        None => "end".to_owned(),
    };
    assert_eq!([short().await, short().await, short().await], ["init", "first a", "done"]);
    create(&api, pool("b")).await;
    assert_eq!(short().await, "apply b");

    server.fault(Fault::new(FaultKind::WatchCut));
    server.delete(POOLS, "ns", "a");
    assert!(short().await.starts_with("broken"));
    assert_eq!(short().await, "delete a", "resumed where it was");

    server.fault(Fault::new(FaultKind::WatchEnd));
    server.delete(POOLS, "ns", "b");
    create(&api, pool("c")).await;
    server.compact();
    assert_eq!(short().await, "error 410");
    assert_eq!([short().await, short().await, short().await], ["init", "first c", "done"], "listed anew");
    assert_eq!(server.count(Verb::List, POOLS), 2);
}

#[tokio::test]
async fn a_watch_of_what_is_not_served_is_a_404_in_plain_text() {
    let server = ApiServer::standard();
    server.serve(POOLS, &[]);
    let stream = pools(&server).watch(&WatchParams::default(), "0").await;
    // kube looks at the lines of a watch only, not at its code.
    let event = stream.expect("kube takes it for a watch").boxed().try_next().await;
    assert!(matches!(event, Err(kube::Error::SerdeError(_))));
    assert_eq!(server.requests().last().and_then(|request| request.code), Some(404));
}
