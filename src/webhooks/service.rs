//! The webhooks as a whole: listens, shows the certificate that there is, and says when it is ready.

use std::net::SocketAddr;

use axum::Router;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::certificates::keeper::{Keeper, Settings};
use super::folder::{Folder, Found, Looker};
use super::{server, tls};
use crate::telemetry::admin::Health;

/// The name of the check of `/readyz`.
const CHECK: &str = "webhooks";

/// What the webhooks are made of.
pub struct Webhooks {
    /// Where they listen.
    pub address: SocketAddr,
    /// Where the certificate is.
    pub folder: Folder,
    /// How to make one while the folder holds none.
    pub own: Option<Settings>,
    /// What may be spoken.
    pub tls: tls::Settings,
    /// What is answered.
    pub router: Router,
    /// Where it is told whether they can be called.
    pub health: Health,
}

/// Why they cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or is none of ours.
    #[error(transparent)]
    Bind(#[from] server::BindError),
    /// Nothing could be spoken.
    #[error("--tls-min-version, --tls-cipher-suites: {0}")]
    Tls(#[from] tls::Error),
}

impl Webhooks {
    /// Listens, and serves until `stop` and for some seconds more: the task ends when the last request is answered.
    pub async fn start(self, stop: CancellationToken) -> Result<JoinHandle<()>, Error> {
        let Self { address, folder, own, tls, router, health } = self;
        let unspoken = tls::unspoken(&tls.cipher_suites);
        if !unspoken.is_empty() {
            warn!("--tls-cipher-suites: {} are not spoken here and passed over", unspoken.join(", "));
        }
        let shown = tls::Shown::default();
        let config = tls::config(&tls, &shown)?;
        let listener = server::bind(address).await?;
        let showing = Showing { folder, keeper: own.map(Keeper::new), shown, health, told: String::new() };
        let showing = tokio::spawn(showing.run(stop.clone()));
        Ok(tokio::spawn(async move {
            server::serve(listener, config, router, stop).await;
            showing.abort();
        }))
    }
}

/// Sees to it that a certificate is shown.
struct Showing {
    folder: Folder,
    keeper: Option<Keeper>,
    shown: tls::Shown,
    health: Health,
    /// What was last complained about.
    told: String,
}

impl Showing {
    async fn run(mut self, stop: CancellationToken) {
        let mut looker = Looker::new(self.folder.clone());
        let mut is_given = false;
        let shows = async {
            loop {
                let found = looker.look().await;
                is_given |= matches!(found, Found::Certificate(_) | Found::Broken(_));
                if let (Some(keeper), false) = (&mut self.keeper, is_given) {
                    let stepped = keeper.look(&self.shown).await;
                    let none_yet = || {
                        format!("the Secret {} has no certificate yet; the elected replica makes one", keeper.place())
                    };
                    self.health.set_ready(CHECK, self.shown.is_there().then_some(()).ok_or_else(none_yet));
                    keeper.pause(stepped).await;
                } else {
                    self.take(found);
                    looker.pause().await;
                }
            }
        };
        tokio::select! {
            () = shows => {}
            () = stop.cancelled() => {}
        }
        self.health.set_ready(CHECK, Err("stopping".to_owned()));
    }

    /// Takes in what the folder holds.
    fn take(&mut self, found: Found) {
        let path = self.folder.certificate.display();
        let news = match found {
            Found::Unchanged => String::new(),
            Found::Certificate(certificate) => {
                self.shown.show(*certificate);
                self.health.set_ready(CHECK, Ok(()));
                info!(file = %path, "webhooks show this certificate");
                self.told.clear();
                String::new()
            }
            Found::Nothing if self.shown.is_there() => {
                format!("{path} is gone; the certificate that it held is still shown")
            }
            // With webhooks that nobody has set up, claims are served all the same.
            Found::Nothing => format!(
                "webhooks are not served: there is no certificate {path}, and POD_NAMESPACE and --webhook-service-name, \
                 without which none is made, are not both given"
            ),
            Found::Broken(why) if self.shown.is_there() => format!("{why}; the certificate before it is still shown"),
            Found::Broken(why) => {
                self.health.set_ready(CHECK, Err(why.clone()));
                why
            }
        };
        if !news.is_empty() && news != self.told {
            warn!("{news}");
            self.told = news;
        }
    }
}
