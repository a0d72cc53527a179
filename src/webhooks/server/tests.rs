//! Clients as they are: quick, slow, silent, many, and one that is told to go.

use std::time::Duration;

use axum::routing::{get, post};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::webhooks::tls::{self, Shown, certified};

struct Running {
    address: SocketAddr,
    connector: TlsConnector,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn running() -> Running {
    running_with(&tls::Settings::default(), rustls::DEFAULT_VERSIONS).await
}

async fn running_with(settings: &tls::Settings, spoken: &[&'static SupportedProtocolVersion]) -> Running {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let shown = Shown::default();
    shown.show(certified(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).expect("a pair"));
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(spoken).expect("versions");
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let slow = async || {
        sleep(Duration::from_millis(300)).await;
        "slow"
    };
    let router = Router::new().route("/", get("quick")).route("/slow", get(slow)).route("/", post("posted"));
    let stop = CancellationToken::new();
    let config = tls::config(settings, &shown).expect("TLS");
    let task = tokio::spawn(serve(listener, config, router, stop.clone()));
    Running { address, connector: TlsConnector::from(Arc::new(client)), stop, task }
}

impl Running {
    async fn connect(&self) -> TlsStream<TcpStream> {
        self.try_to_connect().await.expect("a handshake")
    }

    async fn try_to_connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        self.connector.connect(name, stream).await
    }
}

async fn asked(stream: &mut TlsStream<TcpStream>, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    let mut bytes = [0; 1024];
    while !["quick", "slow"].iter().any(|end| text.ends_with(end)) {
        let n = stream.read(&mut bytes).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    Ok(text)
}

#[tokio::test]
async fn a_farewell_is_said_in_answers_and_nothing_fails() {
    let server = running().await;
    let (mut one, mut other) = (server.connect().await, server.connect().await);
    assert!(!asked(&mut one, "/").await.expect("an answer").contains("connection: close"));
    server.stop.cancel();
    let slow = asked(&mut other, "/slow");
    let (slow, late) = tokio::join!(slow, async {
        tokio::task::yield_now().await;
        sleep(Duration::from_millis(50)).await;
        let answer = asked(&mut one, "/").await;
        // Endpoints lead here for a moment more.
        let mut new = server.connect().await;
        (answer, asked(&mut new, "/").await)
    });
    for answer in [slow, late.0, late.1] {
        assert!(answer.expect("an answer").contains("connection: close"));
    }
    timeout(2 * (FAREWELL + DRAIN_LIMIT), server.task).await.expect("it ends").expect("well");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn clients_that_say_nothing_make_room_for_others() {
    let server = running().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(server.connect().await);
    }
    let mut stream = timeout(Duration::from_secs(30), server.connect()).await.expect("a place");
    asked(&mut stream, "/").await.expect("an answer");
    // The one that was silent for longest has gone.
    assert!(asked(&mut silent[0], "/").await.is_err());
    asked(&mut silent[MAX_CONNECTIONS - 1], "/").await.expect("an answer");
    server.stop.cancel();
    server.task.abort();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let server = running().await;
    let mut plain = TcpStream::connect(server.address).await.expect("a connection");
    let mut bytes = [0; 16];
    let read = timeout(2 * HANDSHAKE_LIMIT, plain.read(&mut bytes)).await.expect("cut off");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    server.stop.cancel();
    server.task.abort();
}

#[tokio::test]
async fn what_is_no_request_is_cut_off_and_others_are_served() {
    let server = running().await;
    let mut garbage = server.connect().await;
    garbage.write_all(&vec![b'x'; 2 * HEAD_BYTES]).await.expect("written");
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), garbage.read_to_end(&mut answer)).await.expect("cut off");
    let mut stream = server.connect().await;
    asked(&mut stream, "/").await.expect("an answer");
    server.stop.cancel();
    server.task.abort();
}

#[tokio::test]
async fn the_lowest_version_of_tls_is_what_was_asked_for() {
    for (only_1_3, spoken, is_served) in [
        (false, &version::TLS12, true),
        (false, &version::TLS13, true),
        (true, &version::TLS12, false),
        (true, &version::TLS13, true),
    ] {
        let settings = tls::Settings { only_1_3, ..tls::Settings::default() };
        let server = running_with(&settings, &[spoken]).await;
        assert_eq!(server.try_to_connect().await.is_ok(), is_served, "{only_1_3} {spoken:?}");
        server.task.abort();
    }
}
