//! The state behind the server: objects by resource, one revision counter, and the history that watches follow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::failure::Failure;
use super::metadata::Metadata as _;
use super::resource::Resource;

/// Changes kept per resource; older ones are compacted away, so that long simulations stay small.
const HISTORY_LIMIT: usize = 65_536;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One committed change.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) event: EventType,
    pub(crate) resource: Arc<Resource>,
    /// The object after the change; for a deletion its last state with the deletion's own resourceVersion.
    pub(crate) object: Arc<Value>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Value>>,
    pub(crate) revision: u64,
    pub(super) key: String,
}

/// Called with every committed change, while the store is locked: it must not call the server.
pub(super) type Observer = Box<dyn FnMut(&Change) + Send>;

/// How a running watch is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Clean,
    Broken,
}

/// What is queued for one watch, and since when.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) since: Instant,
    pub(super) item: Item,
}

/// What a watch has to tell.
#[derive(Debug)]
pub(super) enum Item {
    /// An object that existed when the watch began.
    Initial(Arc<Value>),
    /// All initial objects were sent; carries the revision that they show.
    InitialEnd(u64),
    Change(Arc<Change>),
    /// The watch cannot go on.
    Failed(Failure),
}

/// The server's end of one open watch.
pub(super) struct Watcher {
    pub(super) client: Arc<str>,
    /// Empty, or `namespace/`: keys that this watch covers begin with it.
    pub(super) prefix: String,
    pub(super) version: &'static str,
    pub(super) queue: mpsc::UnboundedSender<Queued>,
    pub(super) ending: watch::Sender<Option<Ending>>,
}

/// All objects of one resource.
pub(super) struct Table {
    pub(super) resource: Arc<Resource>,
    /// Versions served now; none means that the resource is not installed.
    pub(super) served: Vec<&'static str>,
    pub(super) objects: BTreeMap<String, Arc<Value>>,
    pub(super) history: VecDeque<Arc<Change>>,
    /// Changes up to this revision are forgotten.
    pub(super) compacted: u64,
    pub(super) watchers: Vec<Watcher>,
}

impl Table {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            served: resource.versions.to_vec(),
            resource: Arc::new(resource),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: 0,
            watchers: Vec::new(),
        }
    }

    /// The changes after `revision`, oldest first.
    pub(super) fn changes_after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let first = self.history.partition_point(|change| change.revision <= revision);
        self.history.range(first..)
    }

    /// What differs between now and `revision`: for each key changed since, the object as it was then.
    pub(super) fn undo_to(&self, revision: u64) -> BTreeMap<&str, Option<&Arc<Value>>> {
        let changes = self.changes_after(revision).rev();
        changes.map(|change| (change.key.as_str(), change.previous.as_ref())).collect()
    }

    /// Forgets the history, as etcd does every five minutes. Running watches have their events queued already.
    pub(super) fn compact(&mut self, revision: u64) {
        self.history.clear();
        self.compacted = revision;
    }

    pub(super) fn end_watches(&mut self, ending: Ending, is_meant: impl Fn(&Watcher) -> bool) {
        for watcher in self.watchers.iter().filter(|watcher| is_meant(watcher)) {
            watcher.ending.send_replace(Some(ending));
        }
        self.watchers.retain(|watcher| watcher.ending.borrow().is_none());
    }

    fn record(&mut self, change: Change) -> Arc<Change> {
        let change = Arc::new(change);
        if self.history.len() == HISTORY_LIMIT
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.revision;
        }
        self.history.push_back(Arc::clone(&change));
        let since = Instant::now();
        self.watchers.retain(|watcher| {
            if change.key.starts_with(&watcher.prefix) {
                watcher.queue.send(Queued { since, item: Item::Change(Arc::clone(&change)) }).is_ok()
            } else {
                !watcher.queue.is_closed()
            }
        });
        change
    }
}

/// Everything that the server remembers, behind one lock.
pub(super) struct State {
    pub(super) tables: Vec<Table>,
    /// The last resourceVersion given out; there is one counter for all resources.
    pub(super) revision: u64,
    pub(super) observers: Vec<Observer>,
    /// The server's time, and the instant at which it was set: it goes on with tokio's clock.
    pub(super) clock: (Timestamp, Instant),
    serial: u64,
}

impl State {
    pub(super) fn new(tables: Vec<Table>, time: Timestamp) -> Self {
        // Not 0, which readers use for "any state".
        Self { tables, revision: 1, observers: Vec::new(), clock: (time, Instant::now()), serial: 0 }
    }

    pub(super) fn now(&self) -> Timestamp {
        let (time, set) = self.clock;
        time.saturating_add(Instant::now().saturating_duration_since(set)).unwrap_or(Timestamp::MAX)
    }

    /// The time as metadata has it: RFC 3339, whole seconds.
    pub(super) fn stamp(&self) -> Value {
        Timestamp::from_second(self.now().as_second()).unwrap_or(Timestamp::MAX).to_string().into()
    }

    /// The next number of a sequence that uids and generated names are made of.
    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Stores `object` under `key`, with the next resourceVersion, and tells watches and observers.
    pub(super) fn commit(&mut self, table: usize, key: String, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object.set_metadata("resourceVersion", json!(self.revision.to_string()));
        let object = Arc::new(object);
        let previous = self.tables[table].objects.insert(key.clone(), Arc::clone(&object));
        let event = if previous.is_some() { EventType::Modified } else { EventType::Added };
        self.publish(table, key, event, Arc::clone(&object), previous);
        object
    }

    /// Removes the object under `key`. The deletion has a resourceVersion of its own, which its event carries.
    pub(super) fn remove(&mut self, table: usize, key: &str) -> Option<Arc<Value>> {
        let previous = self.tables[table].objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&previous);
        last.set_metadata("resourceVersion", json!(self.revision.to_string()));
        let last = Arc::new(last);
        self.publish(table, key.to_owned(), EventType::Deleted, Arc::clone(&last), Some(previous));
        Some(last)
    }

    fn publish(
        &mut self,
        table: usize,
        key: String,
        event: EventType,
        object: Arc<Value>,
        previous: Option<Arc<Value>>,
    ) {
        let table = &mut self.tables[table];
        let resource = Arc::clone(&table.resource);
        let change = table.record(Change { event, resource, object, previous, revision: self.revision, key });
        for observer in &mut self.observers {
            observer(&change);
        }
    }
}
