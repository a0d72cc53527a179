//! The controllers as a whole: waits for the kinds that they need, runs them, and starts them anew when a kind goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::drained::{Drained, Senders, Watcher};
use super::events::Events;
use super::ownership::Ownership;
use super::router::{End, Router};
use super::shared_view::SharedView;
use super::sight::Sight;
use super::sources;
use super::view::{Filter, View};
use super::worker::Shared;
use crate::api::capi::CapiVersion;
use crate::k8s::clients::Clients;
use crate::k8s::clock::Clock;
use crate::k8s::discover::{Found, capi_version};
use crate::k8s::leases::LeaseClient;
use crate::k8s::write::Writer;
use crate::pool::key::Sender;
use crate::pool::machine::Config;
use crate::telemetry::admin::Health;
use crate::telemetry::metrics::Metrics;

/// How long the API server may be out of reach at the start: it may be starting too.
const FIRST_CONTACT: Duration = Duration::from_secs(20);
/// Between two looks for the server or for what it misses.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why the controllers ended unasked. The process must end with them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be asked even once.
    #[error("cannot reach the API server at {server}: {why}")]
    Unreachable {
        /// Its URL.
        server: String,
        /// The last failure.
        why: String,
    },
    /// A task ended that must not end.
    #[error("{0}")]
    Broken(String),
}

/// What the controllers are made of.
#[derive(Clone)]
pub struct Controllers {
    /// The ways to the API server.
    pub clients: Clients,
    /// The clocks; the clients teach them the server's time.
    pub clock: Clock,
    /// The metrics.
    pub metrics: Metrics,
    /// Where users are told what happened.
    pub events: Events,
    /// Where it is told whether they are alive and ready.
    pub health: Health,
    /// Which pools are worked on.
    pub ownership: Ownership,
    /// Where it is told what this replica sees.
    pub sight: Sight,
    /// Looks at Leases, where there are any (F5(b)).
    pub leases: Option<LeaseClient>,
    /// Which claims are served.
    pub filter: Filter,
    /// This process' name in records: unique to this start.
    pub me: Sender,
    /// F5(b): when an unanswered create counts as dead.
    pub lock_delay: Duration,
    /// C19: how long the IPAddress of a moved or restored claim is waited for.
    pub adoption_grace: Duration,
    /// C14: how long an IPAddress without a claim stays; `None`: for ever.
    pub orphan_grace: Option<Duration>,
    /// The API server's URL, for messages.
    pub server: String,
}

impl Controllers {
    /// Runs until it is asked to stop; then what was sent is finished first.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut reached = false;
        loop {
            let Some(api) = self.wait_for_kinds(&mut reached, stop).await? else { return Ok(()) };
            info!(version = %api, "Cluster API's claims and addresses are served");
            match self.run_in(api, stop).await {
                End::Stopped => return Ok(()),
                End::Rediscover(kind) => warn!("{kind} is not served any more; looking for it again"),
                End::Broken(why) => return Err(Error::Broken(why)),
            }
        }
    }

    /// Waits until the server has the kinds that are needed. `None`: asked to stop.
    async fn wait_for_kinds(&self, reached: &mut bool, stop: &CancellationToken) -> Result<Option<CapiVersion>, Error> {
        let start = self.clock.boot();
        let mut told = String::new();
        loop {
            self.health.beat("router", 6 * FIRST_CONTACT);
            let found = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                found = capi_version(&self.clients.request) => found,
            };
            let message = match found {
                Found::Version(version) => return Ok(Some(version)),
                Found::Missing(kinds) => {
                    *reached = true;
                    format!(
                        "the CustomResourceDefinitions {} are missing (Cluster API's core provider brings them); waiting for them",
                        kinds.join(" and ")
                    )
                }
                Found::Unknown(why) if !*reached && self.clock.boot().saturating_sub(start) >= FIRST_CONTACT => {
                    return Err(Error::Unreachable { server: self.server.clone(), why });
                }
                Found::Unknown(why) => format!("cannot reach the API server at {}: {why}", self.server),
            };
            if message != told {
                warn!("{message}");
                self.health.set_ready("caches", Err(message.clone()));
                told = message;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Runs on the kinds in this version.
    async fn run_in(&self, api: CapiVersion, stop: &CancellationToken) -> End {
        let config = Config {
            me: self.me.clone(),
            lock_delay: self.lock_delay,
            adoption_grace: self.adoption_grace,
            orphan_grace: self.orphan_grace,
            version: api,
        };
        let shared = Shared {
            writer: Writer::new(&self.clients, self.clock.clone(), api),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            events: self.events.clone(),
            config,
            said_unstored: Arc::default(),
            addresses_until: Arc::new(AtomicU64::new(0)),
            validity: self.ownership.validity(),
        };
        self.sight.note_blind();
        let (pools_listed, listed) = watch::channel(false);
        let view = SharedView::new(View::new(self.filter.clone(), api));
        self.sight.show(view.clone());
        let senders = self.watch_senders();
        let (health, sight) = (self.health.clone(), self.sight.clone());
        let router = Router::new(view, self.ownership.clone(), shared, health, sight, senders, pools_listed);
        let mut sources = {
            let namespace = self.filter.namespace.as_deref();
            sources::follow(&self.clients, &self.clock, api, namespace, &self.sight, listed)
        };
        tokio::select! {
            end = router.run(sources.changes, stop.clone()) => end,
            // A watch never ends while the router listens.
            Some(ended) = sources.tasks.join_next() => match ended {
                Ok(name) => End::Broken(format!("the watch of {name} ended")),
                Err(error) => End::Broken(format!("a watch ended: {error}")),
            },
        }
    }

    /// Starts to look for evidence about dead senders.
    fn watch_senders(&self) -> Senders {
        let (wanted, asked) = watch::channel(BTreeSet::new());
        let (told, drained) = watch::channel(Drained::default());
        let watcher = Watcher {
            client: self.clients.request.clone(),
            leases: self.leases.clone(),
            clock: self.clock.clone(),
            me: self.me.clone(),
        };
        // It ends when the router drops its side.
        tokio::spawn(watcher.run(asked, told));
        Senders { wanted, drained }
    }
}
