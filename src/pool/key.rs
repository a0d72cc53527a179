//! Names and versions: which pool, which claim, which object, and how new a copy of it is.

use std::fmt;
use std::sync::Arc;

use crate::api::names::PoolKind;

/// A pool by its name, which is known before the pool exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// One of the four kinds.
    pub kind: PoolKind,
    /// Empty for the Global kinds.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl PoolKey {
    /// The pool that a `poolRef` of an object in `namespace` names; Global kinds have no namespace.
    pub fn referenced(kind: PoolKind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_global() { "" } else { namespace };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// `namespace/name`, or the name alone for the Global kinds: how people write it.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.to_string() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.kind(), self.path())
    }
}

/// A claim and its address: the IPAddress has the claim's namespace and name (B3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Reads `namespace/name` as [`fmt::Display`] writes it; neither part of a Kubernetes name contains a slash.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `metadata.uid`: tells an object from a later one of the same name.
pub type Uid = Arc<str>;

/// An instance of a process that sends creates, as the record's `senders` table names it.
pub type Sender = Arc<str>;

/// A `resourceVersion`, compared as a number and only within one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// Reads the server's text; what is no number counts as the oldest version.
    pub fn parse(text: &str) -> Self {
        Self(text.parse().unwrap_or(0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Time since an arbitrary start on a clock that counts suspend (`CLOCK_BOOTTIME`).
pub type Boot = std::time::Duration;

/// The two clocks that a decision may look at; both are arguments, never read.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For delays and deadlines of this process.
    pub boot: Boot,
    /// For comparison with timestamps in objects: the API server's clock, never the local wall clock.
    pub server: jiff::Timestamp,
}
