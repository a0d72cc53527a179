//! HTTPS for the API server: connections, requests and their limits, and an end that no request notices.
//!
//! The API server's client keeps connections open for a minute and a half and sends no request twice: a connection that
//! is closed in the very moment of a request is a failed request of some user. So a connection is closed after an answer
//! that says so, for as long as there is time for that.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header::CONNECTION};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

/// A TLS handshake takes two round trips.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Silence before a connection is closed: above the 90 s after which Go's clients close theirs.
const IDLE_LIMIT: Duration = Duration::from_mins(2);
/// Heads are a few hundred bytes and a trace context.
const HEAD_BYTES: usize = 32 * 1024;
/// A connection carries one request at a time, and three API servers have several hundred in flight at the very most.
const MAX_CONNECTIONS: usize = 512;
/// Pause after the kernel refused a connection, for lack of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// After the readiness is withdrawn, clients still come for as long: endpoints take a moment to be told to all nodes.
const FAREWELL: Duration = Duration::from_secs(4);
/// And requests that are under way then may take this long. Together well within the 10 s that a process has to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[error("--webhook-port, --webhook-host: cannot listen on {address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens on an address; `[::]` means every interface, with or without IPv6.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let any_v4 = SocketAddr::from(([0, 0, 0, 0], address.port()));
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(any_v4).await
        }
        bound => bound,
    };
    bound.map_err(|source| BindError { address, source })
}

/// Serves until `stop`, then says farewell.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, stop: CancellationToken) {
    let serving = Serving {
        tls: TlsAcceptor::from(tls),
        router,
        closing: Arc::default(),
        crowded: Arc::default(),
        drain: CancellationToken::new(),
    };
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let farewell = async {
        stop.cancelled().await;
        serving.closing.store(true, Ordering::Relaxed);
        sleep(FAREWELL).await;
    };
    tokio::pin!(farewell);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut farewell => break,
            // Ended connections are collected on the way; `Some(..) =` turns this branch off while there are none.
            Some(_) = connections.join_next() => continue,
            accepted = accepted(&listener, &places, &serving.crowded) => accepted,
        };
        let connection = serving.clone().connection(stream);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    serving.drain.cancel();
    // Each connection bounds its own end.
    while connections.join_next().await.is_some() {}
}

/// Takes a place first, so that a client beyond the limit waits in the kernel. While all are taken, the connection that
/// has been idle for longest is asked to make room: whoever opens many and says nothing is in nobody's way.
async fn accepted(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    crowded: &Notify,
) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            place
        } else {
            crowded.notify_one();
            Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and waited for.
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Serving {
    tls: TlsAcceptor,
    router: Router,
    /// Answers say that their connection ends.
    closing: Arc<AtomicBool>,
    /// One idle connection has to make room.
    crowded: Arc<Notify>,
    /// No further request is taken.
    drain: CancellationToken,
}

impl Serving {
    async fn connection(self, stream: TcpStream) {
        let shaken = tokio::select! {
            shaken = timeout(HANDSHAKE_LIMIT, self.tls.accept(stream)) => shaken,
            () = self.drain.cancelled() => return,
        };
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            // A client's fault as a rule: nothing to tell an operator about.
            Ok(Err(error)) => return debug!(%error, "a TLS handshake failed"),
            Err(_) => return debug!("a TLS handshake took too long"),
        };
        let busy = Arc::new(Busy::default());
        let service = service_fn(|request| respond(self.router.clone(), self.closing.clone(), busy.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut ends = None;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = self.drain.cancelled(), if ends.is_none() => {}
                () = busy.idle_and(&self.crowded), if ends.is_none() => {}
                () = sleep_until(ends.unwrap_or_else(Instant::now)), if ends.is_some() => {
                    return debug!("a connection was cut off: its request took too long");
                }
            }
            connection.as_mut().graceful_shutdown();
            ends = Some(Instant::now() + DRAIN_LIMIT);
        };
        if let Err(error) = ended {
            debug!(%error, "a connection broke");
        }
    }
}

/// Whether a connection has a request under way.
#[derive(Default)]
struct Busy {
    now: AtomicBool,
    changed: Notify,
}

impl Busy {
    fn set(&self, busy: bool) {
        self.now.store(busy, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Waits, while idle, for the word that a place is needed.
    async fn idle_and(&self, crowded: &Notify) {
        loop {
            if self.now.load(Ordering::Relaxed) {
                self.changed.notified().await;
            } else {
                tokio::select! {
                    () = crowded.notified() => return,
                    () = self.changed.notified() => {}
                }
            }
        }
    }
}

async fn respond(
    router: Router,
    closing: Arc<AtomicBool>,
    busy: Arc<Busy>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    busy.set(true);
    let response = router.oneshot(request.map(Body::new)).await;
    busy.set(false);
    response.map(|mut response| {
        if closing.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    })
}

#[cfg(test)]
mod tests;
