//! The clients: one for watches, one for writes and looks, so that neither starves the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::clock::Clock;
use super::exchange::{ExchangeLayer, Observer};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reply may take: longer than the server itself gives a request (60 s), because rule F5 needs the answer.
const READ_TIMEOUT: Duration = Duration::from_secs(65);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--kubeconfig` names a file that cannot be used.
    #[error("cannot use the kubeconfig {path} (--kubeconfig): {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// In a pod, the service account's files are not as they should be.
    #[error("cannot use the pod's service account: {0}")]
    InCluster(String),
    /// There is nothing to connect to.
    #[error("no cluster to connect to: not in a pod, and no usable kubeconfig ({0}); give --kubeconfig or KUBECONFIG")]
    None(String),
    /// The configuration was read, but no connection can be made of it.
    #[error("cannot make a client for {url}: {reason}")]
    Client {
        /// The server.
        url: String,
        /// Why.
        reason: String,
    },
}

/// The clients of one process.
#[derive(Clone)]
pub struct Clients {
    /// For watches and their lists: no read timeout of its own.
    pub watch: Client,
    /// For everything else. Never retries: a repeated create would break rule F5.
    pub request: Client,
}

/// Where the cluster is: the flag's file, else the pod's service account, else `KUBECONFIG` or `~/.kube/config`.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    let options = KubeConfigOptions::default();
    let mut config = if let Some(path) = kubeconfig {
        let broken =
            |error: kube::config::KubeconfigError| Error::Kubeconfig { path: path.to_owned(), reason: chain(&error) };
        let file = Kubeconfig::read_from(path).map_err(broken)?;
        Config::from_custom_kubeconfig(file, &options).await.map_err(broken)?
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().map_err(|error| Error::InCluster(chain(&error)))?
    } else {
        Config::from_kubeconfig(&options).await.map_err(|error| Error::None(chain(&error)))?
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = false;
    Ok(config)
}

/// Makes the clients of a configuration.
pub fn clients(config: &Config, clock: &Clock, observer: &Observer) -> Result<Clients, Error> {
    let build = |read_timeout| client(config, clock, observer, read_timeout);
    Ok(Clients { watch: build(None)?, request: build(Some(READ_TIMEOUT))? })
}

/// Makes one more client, with connections of its own.
pub fn client(
    config: &Config,
    clock: &Clock,
    observer: &Observer,
    read_timeout: Option<Duration>,
) -> Result<Client, Error> {
    let mut config = config.clone();
    config.read_timeout = read_timeout;
    let url = config.cluster_url.to_string();
    let layer = ExchangeLayer { clock: clock.clone(), observer: observer.clone() };
    ClientBuilder::try_from(config)
        .map(|builder| builder.with_layer(&layer).build())
        .map_err(|error| Error::Client { url, reason: chain(&error) })
}

/// Why a request failed, in one line: without the names that kube gives to its own layers.
pub fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(source) => chain(&**source),
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => chain(other),
    }
}

/// An error and its causes in one line, each said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
