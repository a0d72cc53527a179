//! Watches: opening one under the store's lock, and the stream of lines that its client reads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::ApiServer;
use super::call::Call;
use super::failure::Failure;
use super::fault::FaultKind;
use super::metadata::Metadata as _;
use super::read::Rendered;
use super::store::{Change, Ending, EventType, Item, Queued, State, Watcher};

/// How often an idle watch gets a bookmark, if its client allows that.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);

/// The least time that the real server gives a watch that states no timeout.
const DEFAULT_TIMEOUT_SECONDS: u64 = 1800;

/// Events that go into one chunk at most.
const CHUNK_EVENTS: usize = 256;

/// The ends that a watch's stream reads from.
type Opened = (mpsc::UnboundedReceiver<Queued>, watch::Receiver<Option<Ending>>);

impl State {
    /// Queues what the client has missed and subscribes it to what comes, with nothing in between.
    fn open_watch(&mut self, call: &Call, version: &'static str, lag: Option<u64>) -> Result<Opened, Failure> {
        let (queue, receiver) = mpsc::unbounded_channel();
        let since = Instant::now();
        let send = |item| drop(queue.send(Queued { since, item }));
        let table = &self.tables[call.table];
        let asked = call.query.revision()?.unwrap_or(0);
        let from_state = asked == 0 || call.query.initial_events;
        let start = if from_state { lag.filter(|lag| *lag >= asked).unwrap_or(self.revision) } else { asked };
        if from_state && asked > self.revision {
            return Err(Failure::too_large_resource_version(asked, self.revision));
        }
        if start < table.compacted {
            // As the real server: the watch opens, and its only event is the error.
            let oldest = table.compacted;
            send(Item::Failed(Failure::expired(format!("too old resource version: {start} ({oldest})"))));
        } else {
            if from_state {
                for (_, object) in self.matching(table, call, Some(start))? {
                    send(Item::Initial(Arc::clone(object)));
                }
            }
            if call.query.initial_events {
                send(Item::InitialEnd(start));
            }
            let prefix = call.prefix();
            for change in table.changes_after(start).filter(|change| change.key.starts_with(&prefix)) {
                send(Item::Change(Arc::clone(change)));
            }
        }
        let (ending, ended) = watch::channel(None);
        let watchers = &mut self.tables[call.table].watchers;
        watchers.retain(|watcher| !watcher.queue.is_closed());
        watchers.push(Watcher { client: Arc::clone(&call.client), prefix: call.prefix(), version, queue, ending });
        Ok((receiver, ended))
    }
}

/// Opens the watch; its body goes on until timeout, cut, error, or until the client drops it.
pub(super) fn open(server: &ApiServer, call: Call, version: &'static str, lag: Option<u64>) -> Result<Body, Failure> {
    let (receiver, ended) = server.state().open_watch(&call, version, lag)?;
    let now = Instant::now();
    let timeout = call.query.timeout_seconds.filter(|seconds| *seconds > 0);
    let timeout = Duration::from_secs(timeout.unwrap_or(DEFAULT_TIMEOUT_SECONDS));
    let feed = Feed {
        server: server.clone(),
        api_version: call.resource.api_version(version),
        receiver,
        pending: None,
        ended,
        deadline: now + timeout,
        next_bookmark: now + BOOKMARK_INTERVAL,
        // Changes up to a resourceVersion that lies ahead are not for this client.
        after: call.query.revision()?.unwrap_or(0),
        last: false,
        call,
    };
    let lines = stream::try_unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Ok::<_, io::Error>(chunk.map(|chunk| (chunk, feed)))
    });
    Ok(Body::from_stream(lines))
}

/// The state of one stream.
struct Feed {
    server: ApiServer,
    call: Call,
    api_version: String,
    receiver: mpsc::UnboundedReceiver<Queued>,
    /// Taken from the queue, held back by a fault.
    pending: Option<Queued>,
    ended: watch::Receiver<Option<Ending>>,
    deadline: Instant,
    next_bookmark: Instant,
    after: u64,
    /// The stream ends after what was sent.
    last: bool,
}

/// Why the stream woke up.
enum Wake {
    Ended(Ending),
    Ready(Item),
    Bookmark,
    Timeout,
}

impl Feed {
    /// The next lines, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, io::Error> {
        let mut chunk = Vec::new();
        while chunk.is_empty() && !self.last {
            match self.wake().await {
                Wake::Ended(Ending::Clean) => return Ok(None),
                Wake::Ended(Ending::Broken) => return Err(broken()),
                Wake::Ready(item) => {
                    self.write(&mut chunk, item);
                    self.drain(&mut chunk);
                }
                Wake::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    self.write_bookmark(&mut chunk);
                }
                Wake::Timeout => {
                    self.last = true;
                    self.write_bookmark(&mut chunk);
                }
            }
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    async fn wake(&mut self) -> Wake {
        let Self { server, call, receiver, pending, ended, deadline, next_bookmark, .. } = self;
        let ended = async {
            let ending = ended.wait_for(Option::is_some).await;
            ending.ok().and_then(|ending| *ending).unwrap_or(Ending::Clean)
        };
        let ready = async {
            if pending.is_none() {
                *pending = receiver.recv().await;
            }
            if let Some(queued) = pending {
                hold_back(server, call, queued.since).await;
            }
            pending.take().map(|queued| queued.item)
        };
        tokio::select! {
            biased;
            ending = ended => Wake::Ended(ending),
            item = ready => item.map_or(Wake::Ended(Ending::Clean), Wake::Ready),
            () = sleep_until(*deadline) => Wake::Timeout,
            () = sleep_until(*next_bookmark) => Wake::Bookmark,
        }
    }

    /// Takes what else is ready into the same chunk; with faults about, one event at a time.
    fn drain(&mut self, chunk: &mut Vec<u8>) {
        for _ in 1..CHUNK_EVENTS {
            if self.last || self.server.faults().are_any() {
                return;
            }
            let Ok(queued) = self.receiver.try_recv() else { return };
            self.write(chunk, queued.item);
        }
    }

    fn write(&mut self, chunk: &mut Vec<u8>, item: Item) {
        match item {
            Item::Initial(object) => self.write_event(chunk, EventType::Added, &object),
            Item::InitialEnd(revision) => {
                let annotations = json!({"k8s.io/initial-events-end": "true"});
                self.write_mark(chunk, revision, annotations);
            }
            Item::Change(change) if change.revision > self.after => self.write_change(chunk, &change),
            Item::Change(_) => {}
            Item::Failed(failure) => {
                self.last = true;
                write_line(chunk, &json!({"type": "ERROR", "object": failure.status()}));
            }
        }
    }

    /// A change as this client sees it: with a selector, objects come and go as they begin and cease to match.
    fn write_change(&self, chunk: &mut Vec<u8>, change: &Change) {
        let selector = &self.call.query.selector;
        if selector.is_everything() {
            return self.write_event(chunk, change.event, &change.object);
        }
        let before = change.previous.as_deref().filter(|object| selector.matches(object));
        let after = change.event != EventType::Deleted && selector.matches(&change.object);
        match (before, after) {
            (None, false) => {}
            (None, true) => self.write_event(chunk, EventType::Added, &change.object),
            (Some(_), true) => self.write_event(chunk, EventType::Modified, &change.object),
            (Some(before), false) => {
                let mut last = before.clone();
                last.take_metadata("resourceVersion", &change.object);
                self.write_event(chunk, EventType::Deleted, &last);
            }
        }
    }

    fn write_event(&self, chunk: &mut Vec<u8>, event: EventType, object: &Value) {
        let object = Rendered { object, api_version: &self.api_version, metadata_only: self.call.metadata_only };
        chunk.extend_from_slice(b"{\"type\":\"");
        chunk.extend_from_slice(event.name().as_bytes());
        chunk.extend_from_slice(b"\",\"object\":");
        write_json(chunk, &object);
        chunk.extend_from_slice(b"}\n");
    }

    /// Only when the client has seen everything: a bookmark must never overtake an event.
    fn write_bookmark(&self, chunk: &mut Vec<u8>) {
        let state = self.server.state();
        if self.call.query.bookmarks && self.pending.is_none() && self.receiver.is_empty() {
            self.write_mark(chunk, state.revision, json!({}));
        }
    }

    fn write_mark(&self, chunk: &mut Vec<u8>, revision: u64, annotations: Value) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if annotations != json!({}) {
            metadata["annotations"] = annotations;
        }
        let object = json!({"kind": self.call.resource.kind, "apiVersion": self.api_version, "metadata": metadata});
        write_line(chunk, &json!({"type": "BOOKMARK", "object": object}));
    }
}

/// Waits as long as a fault holds back what is queued since then.
async fn hold_back(server: &ApiServer, call: &Call, since: Instant) {
    match server.faults().delivery(&call.client, call.resource.plural) {
        Some(FaultKind::WatchDelay(delay)) => sleep_until(since + delay).await,
        Some(FaultKind::WatchHold(gate)) => gate.wait().await,
        _ => {}
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection broken by the test")
}

fn write_line(chunk: &mut Vec<u8>, value: &Value) {
    write_json(chunk, value);
    chunk.push(b'\n');
}

fn write_json(chunk: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(chunk, value).expect("JSON values can be written to memory");
}
