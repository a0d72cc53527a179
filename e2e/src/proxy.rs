//! A proxy between one manager and the API server that can be cut, made silent, or made slow.
//!
//! It ends TLS with a certificate of its own and opens a connection to the API server for each one that it accepts; the
//! bearer token goes through as it is. What a silent proxy has taken in is delivered when it speaks again, as a network
//! that was partitioned delivers what was sent again: a request may land long after its sender gave it up.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::config::Kubeconfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::control_plane::{self, ControlPlane};

/// What is read at once.
const CHUNK: usize = 16 * 1024;

/// How the way between a manager and the API server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As if there were no proxy.
    Open,
    /// Nothing comes through, in either direction, and nobody is told.
    Silent,
    /// Requests come through; answers and events do not.
    AnswersSilent,
    /// Connections are closed, new ones too.
    Refused,
    /// Events of watches come so much later; all else is as if there were no proxy.
    WatchesHeld(Duration),
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    kubeconfig: PathBuf,
    way: watch::Sender<Way>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Starts one, open, whose kubeconfig is called after `name`.
    pub async fn start(control_plane: &ControlPlane, name: &str) -> Result<Self> {
        let server = control_plane::config(control_plane.kubeconfig_path()).await?;
        let address = server.cluster_url.authority().context("the API server's URL has no address")?.to_string();
        let identity = rcgen::generate_simple_self_signed(vec![Ipv4Addr::LOCALHOST.to_string()])
            .context("making the proxy's certificate")?;
        let ways = Ways { acceptor: acceptor(&identity)?, connector: connector(server.root_cert)?, address };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("binding the proxy")?;
        let kubeconfig = control_plane.folder().join(format!("{name}-proxy.kubeconfig"));
        let url = format!("https://{}", listener.local_addr()?);
        write_kubeconfig(control_plane.kubeconfig_path(), &kubeconfig, &url, &identity.cert.pem())?;
        let (way, seen) = watch::channel(Way::Open);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::new(ways), seen));
        Ok(Self { kubeconfig, way, _accepting: accepting })
    }

    /// The cluster as it is reached through the proxy, without credentials that work.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Changes the way, for connections that exist too.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

struct Ways {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    address: String,
}

fn acceptor(identity: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Result<TlsAcceptor> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![identity.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(authorities: Option<Vec<Vec<u8>>>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for authority in authorities.context("the kubeconfig names no certificate authority")? {
        roots.add(CertificateDer::from(authority)).context("trusting the API server")?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn write_kubeconfig(from: &Path, to: &Path, url: &str, certificate: &str) -> Result<()> {
    let config = Kubeconfig::read_from(from).with_context(|| format!("reading {}", from.display()))?;
    let mut config = serde_json::to_value(&config)?;
    for cluster in config["clusters"].as_array_mut().into_iter().flatten() {
        let authority = serde_json::to_value(ByteString(certificate.as_bytes().to_vec()))?;
        cluster["cluster"] = json!({ "server": url, "certificate-authority-data": authority });
    }
    config["users"] = json!([]);
    std::fs::write(to, serde_saphyr::to_string(&config)?).with_context(|| format!("writing {}", to.display()))
}

async fn accept(listener: TcpListener, ways: Arc<Ways>, way: watch::Receiver<Way>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, Arc::clone(&ways), way.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends with either side, and at once when the way is refused.
async fn connection(client: TcpStream, ways: Arc<Ways>, mut way: watch::Receiver<Way>) {
    let mut refused = way.clone();
    let relayed = async {
        let _ = way.wait_for(|way| !matches!(way, Way::Silent | Way::AnswersSilent)).await;
        let client = ways.acceptor.accept(client).await?;
        let server = TcpStream::connect(&ways.address).await?;
        let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
        let server = ways.connector.connect(name, server).await?;
        let (from_client, to_client) = split(client);
        let (from_server, to_server) = split(server);
        let kind = Arc::new(Kind::default());
        tokio::select! {
            () = requests(from_client, to_server, Arc::clone(&kind), way.clone()) => {}
            () = answers(from_server, to_client, kind, way.clone()) => {}
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        // A connection that fails ends; whoever opened it sees that.
        _ = relayed => {}
        _ = refused.wait_for(|way| *way == Way::Refused) => {}
    }
}

/// What a connection is used for now: HTTP/1.1 has one request at a time on it.
#[derive(Debug, Default)]
struct Kind {
    watches: AtomicBool,
    /// The head of its answer has not come yet.
    head_pending: AtomicBool,
}

impl Kind {
    /// Takes in what a client sent. A request line comes at the beginning of a piece: nobody pipelines here.
    fn note(&self, piece: &[u8]) {
        let line = piece.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let Some((method, target)) = line.split_once(" /") else { return };
        if ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method) {
            let watches = target.contains("watch=true") || target.contains("watch=1");
            self.watches.store(watches, Ordering::Release);
            self.head_pending.store(true, Ordering::Release);
        }
    }

    /// Where events begin in a piece of an answer. `None`: there are none in it.
    fn events_from(&self, piece: &[u8]) -> Option<usize> {
        let is_head = self.head_pending.swap(false, Ordering::AcqRel);
        if !self.watches.load(Ordering::Acquire) {
            return None;
        }
        if !is_head {
            return Some(0);
        }
        let end = piece.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        (end < piece.len()).then_some(end)
    }
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    kind: Arc<Kind>,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kind.note(&buffer[..read]);
        let _ = way.wait_for(|way| *way != Way::Silent).await;
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // Who hung up has sent all that: it goes on its way before the connection ends.
    let _ = to.shutdown().await;
}

/// Bytes, when they came, and whether they are events.
type Piece = (Vec<u8>, Instant, bool);

async fn answers(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    kind: Arc<Kind>,
    way: watch::Receiver<Way>,
) {
    // Held events wait here and not at the API server, which would end a watch that does not read.
    let (sender, pieces) = mpsc::unbounded_channel::<Piece>();
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let now = Instant::now();
            let events = kind.events_from(&buffer[..read]).unwrap_or(read);
            for (piece, is_event) in [(&buffer[..events], false), (&buffer[events..read], true)] {
                if !piece.is_empty() && sender.send((piece.to_vec(), now, is_event)).is_err() {
                    return;
                }
            }
        }
    };
    tokio::join!(reading, deliver(pieces, to, way));
}

async fn deliver(
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
) {
    while let Some((piece, came, is_event)) = pieces.recv().await {
        loop {
            let now = *way.borrow_and_update();
            let wait = match now {
                Way::Silent | Way::AnswersSilent => None,
                Way::WatchesHeld(by) if is_event && came + by > Instant::now() => Some(came + by),
                _ => break,
            };
            tokio::select! {
                changed = way.changed() => if changed.is_err() { return },
                () = async { sleep_until(wait.unwrap_or_else(Instant::now)).await }, if wait.is_some() => {}
            }
        }
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_by_its_request_line() {
        let kind = Kind::default();
        kind.note(b"GET /apis/x/v1/y?&watch=true&timeoutSeconds=60 HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(kind.events_from(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(kind.events_from(b"{\"type\":\"ADDED\"}"), Some(0));
        kind.note(b"{\"a body\": \"GET /?watch=true\"}");
        kind.note(b"GET /apis/x/v1/y HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(kind.events_from(b"HTTP/1.1 200 OK\r\n\r\n{}"), None);
        assert_eq!(kind.events_from(b"{}"), None);
    }

    #[test]
    fn events_that_come_with_the_head_are_told_from_it() {
        let kind = Kind::default();
        kind.note(b"GET /x?watch=1 HTTP/1.1\r\n\r\n");
        assert_eq!(kind.events_from(b"HTTP/1.1 200 OK\r\n\r\n{}"), Some(19));
    }

    /// What is delivered after each step: (the way from then on, how long to wait).
    async fn delivered(piece: Piece, steps: &[(Way, u64)]) -> Vec<usize> {
        let (sender, pieces) = mpsc::unbounded_channel();
        let (way, seen) = watch::channel(steps[0].0);
        let (to, mut from) = tokio::io::duplex(1024);
        tokio::spawn(deliver(pieces, to, seen));
        sender.send(piece).expect("it listens");
        let mut came = Vec::new();
        for (next, wait) in steps {
            way.send_replace(*next);
            let mut buffer = [0; 64];
            let read = tokio::time::timeout(Duration::from_millis(*wait), from.read(&mut buffer)).await;
            came.push(read.map_or(0, |read| read.expect("a pipe")));
        }
        came
    }

    #[tokio::test]
    async fn what_a_silent_way_took_in_is_delivered_when_it_speaks_again() {
        let piece = (b"late".to_vec(), Instant::now(), false);
        let steps = [(Way::Silent, 50), (Way::AnswersSilent, 50), (Way::Open, 1000)];
        assert_eq!(delivered(piece, &steps).await, [0, 0, 4]);
    }

    #[tokio::test]
    async fn held_events_come_late_and_all_else_does_not() {
        let held =
            [(Way::WatchesHeld(Duration::from_millis(300)), 50), (Way::WatchesHeld(Duration::from_millis(300)), 2000)];
        assert_eq!(delivered((b"event".to_vec(), Instant::now(), true), &held).await, [0, 5]);
        assert_eq!(delivered((b"answer".to_vec(), Instant::now(), false), &held[..1]).await, [6]);
    }
}
