//! Shows the certificate of the Secret, and renews it while this replica leads.
//!
//! **Assumes** that two replicas may believe to lead for a moment: the Secret is written by compare-and-swap, and what is
//! written elsewhere is only ever the bundle that the Secret has.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::make::{self, trusting, with_authority, with_certificate};
use super::plan::{Lives, SETTLED, Step, next};
use super::stored::{CERTIFICATE, Data, KEY, Stored, Trusted};
use super::trust::Trust;
use crate::k8s::clock::Clock;
use crate::webhooks::tls::{self, Shown, certified};

/// Between two looks at the Secret. A new certificate is shown well within 10 s of its making.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two steps of a renewal.
const STEP_AFTER: Duration = Duration::from_millis(500);
/// For one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the certificate is for and where it is kept.
#[derive(Clone)]
pub struct Settings {
    /// The namespace of the Service and the Secret.
    pub namespace: String,
    /// The name of both.
    pub service: String,
    /// How long certificates last.
    pub lives: Lives,
    /// Whether this replica is the one to renew them.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The way to the API server.
    pub client: Client,
    /// The API server's clock.
    pub clock: Clock,
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the Secret {0}: {1}")]
    Secret(String, Box<kube::Error>),
    #[error("the Secret {0}: no answer in time")]
    NoAnswer(String),
    #[error(transparent)]
    Make(#[from] make::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Keeps one certificate.
pub struct Keeper {
    settings: Settings,
    secrets: Api<Secret>,
    trust: Trust,
    names: Vec<String>,
    /// What is shown.
    shown: Option<(ByteString, ByteString)>,
    /// The last data that were good, in case the Secret is lost.
    memory: Option<Data>,
    told: String,
}

impl Keeper {
    /// One that has not looked yet.
    pub fn new(settings: Settings) -> Self {
        let Settings { namespace, service, client, clock, .. } = &settings;
        let secrets = Api::namespaced(client.clone(), namespace);
        let trust = Trust::new(client, clock, &format!("{namespace}.{service}"));
        // The second one is for kubectl port-forward.
        let names = vec![format!("{service}.{namespace}.svc"), "localhost".to_owned()];
        Self { settings, secrets, trust, names, shown: None, memory: None, told: String::new() }
    }

    /// Where the certificate is kept, for people.
    pub fn place(&self) -> String {
        format!("{}/{}", self.settings.namespace, self.settings.service)
    }

    /// Waits for a moment.
    pub async fn pause(&self, stepped: bool) {
        sleep(if stepped { STEP_AFTER } else { LOOK_EVERY }).await;
    }

    /// Looks at the Secret, shows what is new, and takes the next step of a renewal; whether it took one.
    pub async fn look(&mut self, shown: &Shown) -> bool {
        match self.tend(shown).await {
            Ok(stepped) => {
                self.told.clear();
                stepped
            }
            Err(error) => {
                let message = error.to_string();
                if message != self.told {
                    warn!("the webhooks' certificate: {message}");
                    self.told = message;
                }
                false
            }
        }
    }

    async fn tend(&mut self, shown: &Shown) -> Result<bool, Error> {
        let secret = self.asked(self.secrets.get_opt(&self.settings.service)).await?;
        let data = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
        let stored = Stored::read(&data);
        // What is damaged is not shown but mended.
        if stored.leaf.is_some() {
            self.show(&data, shown)?;
        }
        if !(self.settings.leads)() {
            return Ok(false);
        }
        if secret.is_none()
            && let Some(memory) = self.memory.clone()
        {
            warn!("the Secret {} was lost; it is restored", self.place());
            return self.write(None, memory).await;
        }
        let published = self.trust.publish(&stored).await;
        let now = self.settings.clock.now().server;
        let mut elsewhere: Vec<Trusted> = self.trust.seen().to_vec();
        elsewhere.extend(self.memory.as_ref().map(|data| Stored::read(data).trusted).into_iter().flatten());
        let step = next(&stored, &self.names, &elsewhere, published, now, self.settings.lives);
        let lives = self.settings.lives;
        let data = match step {
            Step::Nothing => {
                if stored.leaf.is_some() && stored.can_sign {
                    self.memory = Some(data);
                }
                // A certificate that waits for the API servers comes soon.
                return Ok(published.is_some_and(|published| published < SETTLED));
            }
            Step::NewAuthority(others) => {
                info!("makes an authority for the webhooks' certificates");
                with_authority(data, &others, now, lives)?
            }
            Step::NewCertificate => {
                let authority = stored.trusted.first().ok_or(make::Error::Authority)?;
                info!(names = self.names.join(","), "makes a certificate for the webhooks");
                with_certificate(data, authority, &self.names, now, lives)?
            }
            Step::Trust(trusted) => {
                info!("the old authority of the webhooks' certificates is not trusted any more");
                trusting(data, &trusted)
            }
        };
        self.write(secret, data).await
    }

    /// Shows what is stored, if it is good and not shown yet.
    fn show(&mut self, data: &Data, shown: &Shown) -> Result<(), Error> {
        let (Some(certificate), Some(key)) = (data.get(CERTIFICATE), data.get(KEY)) else { return Ok(()) };
        if self.shown.as_ref().is_some_and(|(one, other)| one == certificate && other == key) {
            return Ok(());
        }
        shown.show(certified(&certificate.0, &key.0)?);
        info!(secret = self.place(), "webhooks show this certificate");
        self.shown = Some((certificate.clone(), key.clone()));
        Ok(())
    }

    /// Writes over exactly what was read. Whether it was written: if not, somebody else was quicker.
    async fn write(&self, read: Option<Secret>, data: Data) -> Result<bool, Error> {
        let params = PostParams::default();
        let name = &self.settings.service;
        let written = if let Some(secret) = read {
            let secret = Secret { data: Some(data), ..secret };
            self.asked(self.secrets.replace(name, &params, &secret)).await
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let secret = Secret { metadata, data: Some(data), ..Secret::default() };
            self.asked(self.secrets.create(&params, &secret)).await
        };
        let is_conflict = |error: &Error| matches!(error, Error::Secret(_, why) if matches!(&**why, kube::Error::Api(it) if it.code == 409));
        match written {
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(true),
        }
    }

    async fn asked<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
        match timeout(ANSWER_WITHIN, request).await {
            Ok(answer) => answer.map_err(|error| Error::Secret(self.place(), Box::new(error))),
            Err(_) => Err(Error::NoAnswer(self.place())),
        }
    }
}
