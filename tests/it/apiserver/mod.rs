//! An in-memory Kubernetes API server behind `kube::Client`, with the real one's rules for writes and watches, and faults.
//!
//! Guarantees: one revision counter; all rules that this product leans on (compare-and-swap, finalizers, generation,
//! subresources, 410, garbage collection); same requests, same answers. Time is tokio's, so a paused clock works.
//! Caveats: no schemas, conversion between versions, admission, quotas, RBAC or namespace lifecycle; Pods go at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

mod call;
mod discovery;
mod failure;
mod fault;
mod garbage;
mod metadata;
mod read;
mod resource;
mod rules;
mod select;
mod service;
mod store;
mod watch;
mod write;

pub(crate) use call::{Call, Verb};
pub(crate) use fault::{Fault, FaultId, FaultKind, Gate};
pub(crate) use resource::Resource;
pub(crate) use service::{ApiService, Logged};
pub(crate) use store::{Change, EventType};

use fault::Faults;
use metadata::Metadata as _;
use service::Log;
use store::{Ending, State, Table};
use write::{Deletion, Target};

/// When the server's clock starts, unless the test says otherwise: 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600;

/// The server. Clones are the same server.
#[derive(Clone)]
pub(crate) struct ApiServer(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    faults: Faults,
    log: Mutex<Log>,
}

/// Collects the resources that a server serves.
#[derive(Default)]
pub(crate) struct Builder {
    resources: Vec<Resource>,
}

impl Builder {
    pub(crate) fn resource(mut self, resource: Resource) -> Self {
        self.resources.push(resource);
        self
    }

    pub(crate) fn build(self) -> ApiServer {
        let tables = self.resources.into_iter().map(Table::new).collect();
        let state = State::new(tables, Timestamp::from_second(START).expect("the start is a valid time"));
        ApiServer(Arc::new(Inner { state: Mutex::new(state), faults: Faults::default(), log: Mutex::default() }))
    }
}

/// Construction and clients.
impl ApiServer {
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// A server of everything in [`Resource::standard`].
    pub(crate) fn standard() -> Self {
        Resource::standard().into_iter().fold(Self::builder(), Builder::resource).build()
    }

    /// A client without a name of its own, with this default namespace. Needs a tokio runtime.
    pub(crate) fn client(&self, namespace: &str) -> kube::Client {
        kube::Client::new(self.service("test"), namespace)
    }

    /// A client whose requests faults and the log know by name.
    pub(crate) fn client_named(&self, name: &str) -> kube::Client {
        kube::Client::new(self.service(name), "default")
    }

    /// What is behind a client, for those who put layers of their own around it.
    pub(crate) fn service(&self, client: &str) -> ApiService {
        ApiService { server: self.clone(), client: client.into() }
    }

    /// Takes a lock. A test's panic elsewhere must not hide behind a second one here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> &Faults {
        &self.0.faults
    }
}

/// Faults, time, and what is served.
impl ApiServer {
    /// Sets up a fault; the oldest that matches a request decides.
    pub(crate) fn fault(&self, fault: Fault) -> FaultId {
        let ending = match fault.kind {
            FaultKind::WatchEnd => Ending::Clean,
            FaultKind::WatchCut => Ending::Broken,
            _ => return self.faults().add(fault),
        };
        for table in &mut self.state().tables {
            let plural = table.resource.plural;
            table.end_watches(ending, |watcher| fault.meets_watch(&watcher.client, plural));
        }
        self.faults().spent()
    }

    pub(crate) fn lift(&self, fault: FaultId) {
        self.faults().remove(fault);
    }

    /// Ends all faults and the injector. What is held at a gate stays there until the gate opens.
    pub(crate) fn lift_all(&self) {
        self.faults().clear();
    }

    /// Asks `injector` about each request that no other fault meets; it must not call the server.
    pub(crate) fn inject(&self, injector: impl FnMut(&Call) -> Option<FaultKind> + Send + 'static) {
        self.faults().set_injector(Box::new(injector));
    }

    /// The server's time, as in creationTimestamps and `Date` headers.
    pub(crate) fn now(&self) -> Timestamp {
        self.state().now()
    }

    pub(crate) fn set_time(&self, time: Timestamp) {
        self.state().clock = (time, Instant::now());
    }

    /// Moves the server's time only; tokio's stays.
    pub(crate) fn shift_time(&self, by: SignedDuration) {
        let time = self.now();
        self.set_time(time.saturating_add(by).expect("a signed duration has no calendar units"));
    }

    /// Serves only these versions of a resource from now on; none is as if its CRD were not installed. Objects stay.
    pub(crate) fn serve(&self, plural: &str, versions: &[&str]) {
        let mut state = self.state();
        let table = state.table(plural);
        let table = &mut state.tables[table];
        let known = table.resource.versions.iter().copied();
        table.served = known.filter(|version| versions.contains(version)).collect();
        let served = table.served.clone();
        table.end_watches(Ending::Clean, |watcher| !served.contains(&watcher.version));
    }

    /// Forgets the history: watches and continued lists from before now answer 410.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        let revision = state.revision;
        for table in &mut state.tables {
            table.compact(revision);
        }
    }

    /// Collects what has lost its owners, and lets foreground deletions go on. Tells how many changes that made.
    pub(crate) fn collect_garbage(&self) -> usize {
        self.state().collect_garbage()
    }
}

/// What tests see.
impl ApiServer {
    /// All requests, oldest first, in the order in which they were carried out.
    pub(crate) fn requests(&self) -> Vec<Logged> {
        self.log().requests.iter().cloned().collect()
    }

    /// How many requests there were, subresources included.
    pub(crate) fn count(&self, verb: Verb, plural: &str) -> usize {
        self.log().counts.iter().filter(|((v, p), _)| *v == verb && *p == plural).map(|(_, count)| count).sum()
    }

    pub(crate) fn clear_requests(&self) {
        *self.log() = Log::default();
    }

    /// How many watches of this resource are open.
    pub(crate) fn watches(&self, plural: &str) -> usize {
        let state = self.state();
        let watchers = &state.tables[state.table(plural)].watchers;
        watchers.iter().filter(|watcher| !watcher.queue.is_closed()).count()
    }

    /// The last resourceVersion given out.
    pub(crate) fn revision(&self) -> u64 {
        self.state().revision
    }

    /// Calls `observer` with every change from now on, in order, before the writer has its answer.
    /// The store is locked meanwhile: the observer must not call the server, and should note violations, not panic.
    pub(crate) fn observe(&self, observer: impl FnMut(&Change) + Send + 'static) {
        self.state().observers.push(Box::new(observer));
    }

    /// The stored object. Namespaces of cluster-scoped objects are ignored.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let state = self.state();
        let table = &state.tables[state.table(plural)];
        table.objects.get(&table.resource.key(namespace, name)).cloned()
    }

    /// All stored objects of all namespaces, ordered by namespace and name.
    pub(crate) fn list(&self, plural: &str) -> Vec<Arc<Value>> {
        let state = self.state();
        state.tables[state.table(plural)].objects.values().cloned().collect()
    }
}

/// Writes behind the clients' backs: no locks, no log, no faults. Observers and watches see them.
impl ApiServer {
    /// Stores the object as it is, status included, found by apiVersion, kind, namespace and name.
    /// Metadata that the server sets is kept from the object there was, or filled in, where `object` has none.
    pub(crate) fn put_object(&self, mut object: Value) -> Arc<Value> {
        let mut state = self.state();
        let (group, kind) = {
            let api_version = object["apiVersion"].as_str().unwrap_or_default();
            (api_version.rsplit_once('/').map_or("", |(group, _)| group), object["kind"].as_str())
        };
        let is_meant = |table: &Table| table.resource.group == group && Some(table.resource.kind) == kind;
        let table = state.tables.iter().position(is_meant).expect("the object's kind is one of the server's");
        let resource = Arc::clone(&state.tables[table].resource);
        let key = resource.key(object.text("namespace"), object.text("name"));
        object["apiVersion"] = json!(resource.api_version(resource.storage_version()));
        match state.tables[table].objects.get(&key).cloned() {
            Some(old) => {
                for field in ["uid", "creationTimestamp"] {
                    if object.metadata(field).is_null() {
                        object.take_metadata(field, &old);
                    }
                }
                rules::settle_generation(&resource, &old, &mut object);
            }
            None => object.set_metadata("generation", json!(1)),
        }
        state.fill_system_fields(&mut object);
        object.normalize_metadata();
        state.commit(table, key, object)
    }

    /// Changes the stored object; what its last finalizer leaves while it is being deleted is gone.
    pub(crate) fn edit(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let table = state.table(plural);
        let resource = Arc::clone(&state.tables[table].resource);
        let key = resource.key(namespace, name);
        let old = state.tables[table].objects.get(&key).cloned().expect("the object to edit exists");
        let mut new = Value::clone(&old);
        change(&mut new);
        rules::settle_generation(&resource, &old, &mut new);
        state.settle(table, &key, new);
    }

    /// As a DELETE without options. Tells whether there was such an object; finalizers may keep it.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let mut state = self.state();
        let table = state.table(plural);
        let target = Target { table, version: "", namespace, name, status: false, dry_run: false };
        state.delete(target, &Deletion::default()).is_ok()
    }
}

impl State {
    /// The table of a resource that the test names.
    fn table(&self, plural: &str) -> usize {
        let found = self.tables.iter().position(|table| table.resource.plural == plural);
        found.unwrap_or_else(|| panic!("the server has no resource {plural:?}"))
    }
}
