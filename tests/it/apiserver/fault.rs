//! Faults: what goes wrong, for which requests, how often. All waiting is tokio time, so it runs under a paused clock.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::call::{Call, Verb};

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum FaultKind {
    /// Answers with this code and reason; the request is not carried out.
    Status(u16, &'static str),
    /// Carries the request out; the client sees a broken connection.
    ExecuteThenLose,
    /// The client sees a broken connection; the request is not carried out.
    LoseBefore,
    /// Carries the request out that much later, even if the client has given up by then.
    Delay(Duration),
    /// Carries the request out at once, and answers that much later.
    DelayAfter(Duration),
    /// Carries the request out when the gate opens, even if the client has given up by then.
    HoldUntil(Gate),
    /// Never answers and never carries out; the client's own timeout must end it.
    Hang,
    /// Gets, lists and watches that accept any state (resourceVersion 0, or one not newer) see this older revision.
    Stale(u64),
    /// Watches that are open when the fault is set up end as after their timeout. Nothing stays behind.
    WatchEnd,
    /// Watches that are open when the fault is set up break. Nothing stays behind.
    WatchCut,
    /// Watches, open or new, deliver each event that much after its commit.
    WatchDelay(Duration),
    /// Watches, open or new, deliver nothing until the gate opens; then everything, in order.
    WatchHold(Gate),
}

impl FaultKind {
    fn is_for_deliveries(&self) -> bool {
        matches!(self, Self::WatchDelay(_) | Self::WatchHold(_))
    }

    fn applies_to(&self, verb: Verb) -> bool {
        match self {
            Self::Stale(_) => matches!(verb, Verb::Get | Verb::List | Verb::Watch),
            _ => !self.is_for_deliveries(),
        }
    }
}

/// A fault and the requests that it meets: everything that is left open matches all.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(super) kind: FaultKind,
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    name_prefix: String,
    client: Option<String>,
    cluster_wide: bool,
    times: Option<u32>,
}

impl Fault {
    /// Meets every request of every client, without end.
    pub(crate) fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            verb: None,
            resource: None,
            subresource: None,
            name_prefix: String::new(),
            client: None,
            cluster_wide: false,
            times: None,
        }
    }

    pub(crate) fn verb(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// By plural name.
    pub(crate) fn resource(self, plural: &str) -> Self {
        Self { resource: Some(plural.to_owned()), ..self }
    }

    /// `status`, or empty for the main resource only.
    pub(crate) fn subresource(self, subresource: &str) -> Self {
        Self { subresource: Some(subresource.to_owned()), ..self }
    }

    /// Lists and watches have no name, and do not match.
    pub(crate) fn name_prefix(self, prefix: &str) -> Self {
        Self { name_prefix: prefix.to_owned(), ..self }
    }

    pub(crate) fn client(self, client: &str) -> Self {
        Self { client: Some(client.to_owned()), ..self }
    }

    /// Only requests that are about no namespace.
    pub(crate) fn cluster_wide(self) -> Self {
        Self { cluster_wide: true, ..self }
    }

    /// Only the first requests that match. Not for deliveries of watches, which have no number.
    pub(crate) fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    fn meets(&self, call: &Call) -> bool {
        self.verb.is_none_or(|verb| verb == call.verb)
            && self.subresource.as_ref().is_none_or(|subresource| *subresource == call.subresource)
            && call.name.starts_with(&self.name_prefix)
            && (!self.cluster_wide || call.namespace.is_empty())
            && self.meets_watch(&call.client, call.resource.plural)
    }

    /// Whether the watch of this client on this resource is among those meant.
    pub(super) fn meets_watch(&self, client: &str, plural: &str) -> bool {
        self.client.as_ref().is_none_or(|only| only == client)
            && self.resource.as_ref().is_none_or(|only| only == plural)
    }
}

/// Names a fault that was set up, to lift it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FaultId(u64);

/// Holds back whoever waits at it, until it is opened; it stays open.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// How many requests or watches are held back now.
    pub(crate) fn held(&self) -> usize {
        self.0.receiver_count()
    }

    pub(super) async fn wait(&self) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate(held: {})", self.held())
    }
}

/// Decides for each request which fault it meets, such as by a seeded source of randomness.
pub(super) type Injector = Box<dyn FnMut(&Call) -> Option<FaultKind> + Send>;

impl Table {
    fn next_id(&mut self) -> FaultId {
        self.last += 1;
        FaultId(self.last)
    }
}

/// The faults that are set up.
#[derive(Default)]
pub(super) struct Faults {
    /// Whether there are any: requests look here first.
    any: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    faults: Vec<(FaultId, Fault)>,
    injector: Option<Injector>,
    last: u64,
}

impl Faults {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, fault: Fault) -> FaultId {
        let mut table = self.table();
        let id = table.next_id();
        table.faults.push((id, fault));
        self.note(&table);
        id
    }

    /// The name of a fault that did all that it does when it was set up.
    pub(super) fn spent(&self) -> FaultId {
        self.table().next_id()
    }

    pub(super) fn remove(&self, id: FaultId) {
        let mut table = self.table();
        table.faults.retain(|(other, _)| *other != id);
        self.note(&table);
    }

    pub(super) fn clear(&self) {
        let mut table = self.table();
        table.faults.clear();
        table.injector = None;
        self.note(&table);
    }

    pub(super) fn set_injector(&self, injector: Injector) {
        let mut table = self.table();
        table.injector = Some(injector);
        self.note(&table);
    }

    fn note(&self, table: &Table) {
        self.any.store(!table.faults.is_empty() || table.injector.is_some(), Ordering::Release);
    }

    pub(super) fn are_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The fault that this request meets, which counts as one of its times. The oldest that matches decides.
    pub(super) fn take(&self, call: &Call) -> Option<FaultKind> {
        if !self.are_any() {
            return None;
        }
        let mut table = self.table();
        let meets = |(_, fault): &(FaultId, Fault)| fault.kind.applies_to(call.verb) && fault.meets(call);
        if let Some(position) = table.faults.iter().position(meets) {
            let (_, fault) = &mut table.faults[position];
            let kind = fault.kind.clone();
            fault.times = fault.times.map(|times| times.saturating_sub(1));
            if fault.times == Some(0) {
                table.faults.remove(position);
                self.note(&table);
            }
            return Some(kind);
        }
        let kind = table.injector.as_mut().and_then(|injector| injector(call));
        kind.filter(|kind| kind.applies_to(call.verb))
    }

    /// What holds back an event to this client's watch, if anything does.
    pub(super) fn delivery(&self, client: &str, plural: &str) -> Option<FaultKind> {
        if !self.are_any() {
            return None;
        }
        let table = self.table();
        let mut faults = table.faults.iter().map(|(_, fault)| fault);
        let held = faults.find(|fault| fault.kind.is_for_deliveries() && fault.meets_watch(client, plural));
        held.map(|fault| fault.kind.clone())
    }
}
