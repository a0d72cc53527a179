//! Following all objects of one kind: a consistent list, then a watch, for ever.
//!
//! Unlike kube's watcher this shows the resourceVersions of lists and bookmarks, which rule F3 needs, it bounds a
//! connection that ends at once or falls silent, and it tells when the kind is missing.
//!
//! Guarantees: events of one object come in the order of their versions; after [`Event::Listed`] nothing older comes.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::clients::why;
use super::clock::Clock;
use super::observe::version;
use crate::pool::key::{Boot, Version};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long the server keeps a watch open: a connection that died silently is noticed after little more.
const WATCH_SECONDS: u32 = 60;
/// And after that much more silence it is given up.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);
/// After a failure, or a watch that ended at once.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// And at most: a server that comes back is heard of soon, and few watches ask.
const RETRY_MOST: Duration = Duration::from_secs(2);
/// How often a kind is looked for that the server does not have.
const MISSING_RETRY: Duration = Duration::from_secs(3);
/// And one that is forbidden and can be done without.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(10);
/// A watch that lives shorter than this counts as a failure.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// What happened to the objects of the kind.
#[derive(Clone, Debug)]
pub enum Event<K> {
    /// All objects there are; replaces all that came before.
    Listed {
        /// When the list was asked for.
        began: Boot,
        /// Its version.
        version: Version,
        /// The objects.
        items: Vec<K>,
    },
    /// A new or changed object.
    Applied(K),
    /// The last state of an object that is gone; its version is that of the deletion.
    Deleted(K),
    /// Everything up to this version has been told.
    Progress(Version),
    /// The server does not know the kind.
    Missing,
    /// This installation has no right to see them (403); it is tried again.
    Forbidden(String),
    /// Why only the objects of one namespace are seen: told before the first list of them. `None`: all are seen again,
    /// told after the first list of all.
    Narrowed(Option<String>),
    /// The server could not be asked; it is tried again.
    Failed(String),
}

enum Stop {
    Closed,
    /// The version is too old: list again.
    Expired,
    /// No answer, or a refusal.
    Failed(String),
    /// An answer that is no event.
    Unreadable(String),
    Forbidden(String),
    Missing,
}

/// What is followed, and for whom.
pub struct Follower<K, T> {
    /// The objects.
    pub api: Api<K>,
    /// Some of them, if all of them are forbidden.
    pub narrow: Option<Api<K>>,
    /// Whether the product can do without them, if they are forbidden.
    pub spare: bool,
    /// Plural name, for logs.
    pub resource: &'static str,
    /// Where events go; a slow listener slows the watch.
    pub events: mpsc::Sender<T>,
    /// What the listener takes events as.
    pub wrap: Box<dyn Fn(Event<K>) -> T + Send + Sync>,
    /// For [`Event::Listed`].
    pub clock: Clock,
    /// Told of every sign of life of the watch (O6).
    pub pulse: Pulse,
}

/// When a watch was last opened or delivered something. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    fn beat(&self, clock: &Clock) {
        self.0.store(u64::try_from(clock.boot().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time since then; since the clock's start, if it never did.
    pub fn age(&self, now: Boot) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }
}

impl<K, T> Follower<K, T>
where
    T: Send + 'static,
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Follows until nobody listens.
    pub async fn run(self) {
        let mut failures = 0_u32;
        let mut last_failure = String::new();
        let mut known: Option<Version> = None;
        let mut narrowed = false;
        loop {
            let stop = match known {
                None => match self.list(&mut narrowed).await {
                    Ok(version) => {
                        if failures > 0 {
                            info!(resource = self.resource, "the API server answers again");
                        }
                        failures = 0;
                        last_failure.clear();
                        known = Some(version);
                        continue;
                    }
                    Err(stop) => stop,
                },
                Some(from) => {
                    let start = self.clock.boot();
                    let (version, stop) = self.watch(from, narrowed).await;
                    known = Some(version);
                    let lived = self.clock.boot().saturating_sub(start);
                    match stop {
                        None if lived >= SHORT_LIFE => {
                            failures = 0;
                            if narrowed && self.may_see_all().await {
                                known = None;
                            }
                            continue;
                        }
                        // kube reads the body of a refused watch as if it were events: what is behind a watch that
                        // ends at once, or sends what cannot be read, only a list tells.
                        None => {
                            known = None;
                            Stop::Failed("the watch ended at once".to_owned())
                        }
                        Some(Stop::Unreadable(message)) => {
                            known = None;
                            Stop::Failed(message)
                        }
                        // Only a list tells what may be seen instead, and what happened until it may be seen again.
                        Some(stop @ Stop::Forbidden(_)) => {
                            known = None;
                            stop
                        }
                        Some(stop) => stop,
                    }
                }
            };
            let delay = match stop {
                Stop::Closed => return,
                Stop::Expired => {
                    known = None;
                    debug!(resource = self.resource, "the watch expired, listing again");
                    failures = failures.saturating_add(1);
                    if failures > 1 { backoff(failures) } else { Duration::ZERO }
                }
                Stop::Missing => {
                    known = None;
                    if !self.tell(Event::Missing).await {
                        return;
                    }
                    MISSING_RETRY
                }
                Stop::Forbidden(message) if self.spare => {
                    if message != last_failure {
                        warn!(resource = self.resource, "{message}; left out until that is allowed");
                        last_failure.clone_from(&message);
                    }
                    if !self.tell(Event::Forbidden(message)).await {
                        return;
                    }
                    FORBIDDEN_RETRY
                }
                stop @ (Stop::Failed(_) | Stop::Unreadable(_) | Stop::Forbidden(_)) => {
                    let (message, event) = told(stop);
                    failures = failures.saturating_add(1);
                    if message != last_failure && failures > 1 {
                        warn!(resource = self.resource, "cannot follow: {message}");
                        last_failure.clone_from(&message);
                    }
                    if !self.tell(event).await {
                        return;
                    }
                    backoff(failures)
                }
            };
            sleep(delay).await;
        }
    }

    /// Returns whether anybody listens.
    async fn tell(&self, event: Event<K>) -> bool {
        let is_sign_of_life = match event {
            Event::Failed(_) => false,
            Event::Forbidden(_) => self.spare,
            _ => true,
        };
        let heard = self.events.send((self.wrap)(event)).await.is_ok();
        if is_sign_of_life {
            self.pulse.beat(&self.clock);
        }
        heard
    }

    /// Lists all pages; one consistent state, whose version every page carries.
    async fn list(&self, narrowed: &mut bool) -> Result<Version, Stop> {
        let began = self.clock.boot();
        let mut narrows = None;
        let (items, version) = match list_all(&self.api).await.map_err(|error| of_error(&error)) {
            Err(Stop::Forbidden(why)) if self.narrow.is_some() => {
                narrows = Some(why);
                list_all(self.narrow.as_ref().unwrap_or(&self.api)).await.map_err(|error| of_error(&error))?
            }
            all => all?,
        };
        let widens = *narrowed && narrows.is_none();
        if let Some(why) = narrows.filter(|_| !*narrowed) {
            warn!(resource = self.resource, "only one namespace is seen: {why}");
            *narrowed = true;
            if !self.tell(Event::Narrowed(Some(why))).await {
                return Err(Stop::Closed);
            }
        }
        if !self.tell(Event::Listed { began, version, items }).await {
            return Err(Stop::Closed);
        }
        if widens {
            info!(resource = self.resource, "all namespaces are seen now");
            *narrowed = false;
            if !self.tell(Event::Narrowed(None)).await {
                return Err(Stop::Closed);
            }
        }
        Ok(version)
    }

    /// Whether all objects are allowed by now.
    async fn may_see_all(&self) -> bool {
        self.api.list(&ListParams::default().limit(1)).await.is_ok()
    }

    /// Watches from `known` until the connection ends. Returns how far it came.
    async fn watch(&self, known: Version, narrowed: bool) -> (Version, Option<Stop>) {
        let mut known = known;
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let api = self.narrow.as_ref().filter(|_| narrowed).unwrap_or(&self.api);
        let stream = match timeout(SILENCE, api.watch(&params, &known.to_string())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return (known, Some(of_error(&error))),
            Err(_) => return (known, Some(Stop::Failed("no answer to a watch".to_owned()))),
        };
        let mut stream = stream.boxed();
        self.pulse.beat(&self.clock);
        loop {
            let event = match timeout(SILENCE, stream.try_next()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) => return (known, None),
                Ok(Err(error)) => return (known, Some(of_error(&error))),
                Err(_) => return (known, Some(Stop::Failed("the watch fell silent".to_owned()))),
            };
            let event = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    known = known.max(version(object.meta()));
                    Event::Applied(object)
                }
                WatchEvent::Deleted(object) => {
                    known = known.max(version(object.meta()));
                    Event::Deleted(object)
                }
                WatchEvent::Bookmark(bookmark) => {
                    known = known.max(Version::parse(&bookmark.metadata.resource_version));
                    Event::Progress(known)
                }
                WatchEvent::Error(status) => return (known, Some(of_status(&status))),
            };
            if !self.tell(event).await {
                return (known, Some(Stop::Closed));
            }
        }
    }
}

/// One consistent list of everything, and its version.
pub async fn list_all<K>(api: &Api<K>) -> Result<(Vec<K>, Version), kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            let version = page.metadata.resource_version.as_deref().map_or(Version(0), Version::parse);
            return Ok((items, version));
        }
    }
}

fn of_error(error: &kube::Error) -> Stop {
    match error {
        kube::Error::Api(status) => of_status(status),
        kube::Error::SerdeError(_) => Stop::Unreadable(why(error)),
        other => Stop::Failed(why(other)),
    }
}

fn of_status(status: &kube::core::Status) -> Stop {
    match status.code {
        403 => Stop::Forbidden(format!("{} (403)", status.message)),
        404 => Stop::Missing,
        410 => Stop::Expired,
        _ => Stop::Failed(format!("{} ({})", status.message, status.code)),
    }
}

/// A failure, as it is said and told.
fn told<K>(stop: Stop) -> (String, Event<K>) {
    match stop {
        Stop::Forbidden(message) => (message.clone(), Event::Forbidden(message)),
        Stop::Failed(message) | Stop::Unreadable(message) => (message.clone(), Event::Failed(message)),
        Stop::Closed | Stop::Expired | Stop::Missing => (String::new(), Event::Missing),
    }
}

fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(RETRY_MOST)
}
