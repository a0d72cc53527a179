//! A small HTTP/1.1 server that no client can hold up: heads, connections and their lifetimes are bounded.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// A request's head is one packet; whoever needs longer for it, or is silent for longer between two, is cut off.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// The least that hyper takes; probes and scrapes send a few hundred bytes.
const HEAD_BYTES: usize = 8 * 1024;

/// Kubelet and a few Prometheus servers use one or two each. More clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// After this time a connection ends with the request that it is in: well above a scrape's interval of 15 to 60 s.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(2);

/// What a request may take that began at the end of its connection's lifetime, or as the process shuts down.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Pause after the kernel refused a connection, for lack of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or is none of ours.
    #[error("{flag}: cannot listen on {address}")]
    Bind {
        /// The flag that asked for it.
        flag: String,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on an address that a flag (named with its dashes) asks for.
///
/// `[::]` means every interface; on a host without IPv6 that is `0.0.0.0`.
pub async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = match TcpListener::bind(address).await {
        Err(error) => match without_ipv6(address, &error) {
            Some(every_interface) => TcpListener::bind(every_interface).await,
            None => Err(error),
        },
        bound => bound,
    };
    bound.map_err(|source| Error::Bind { flag: flag.to_owned(), address, source })
}

fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let no_ipv6 = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(|errno| Some(errno.raw_os_error()));
    let wanted = address.is_ipv6() && address.ip().is_unspecified() && no_ipv6.contains(&error.raw_os_error());
    wanted.then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

/// Serves until `shutdown`; then lets requests finish for 2 s.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Ended connections are collected on the way; `Some(..) =` turns this branch off while there are none.
        let (stream, place) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accepted(&listener, &places) => accepted,
        };
        let connection = serve_connection(stream, router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    // Each connection bounds its own end.
    while connections.join_next().await.is_some() {}
}

/// Takes a place first, so that a client beyond the limit waits in the kernel and not in our memory.
async fn accepted(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(CONNECTION_LIFETIME) => None,
        () = shutdown.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        Ok(ended)
    } else {
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(DRAIN_LIMIT, connection).await
    };
    // A client's fault, as a rule: nothing to tell an operator about.
    if let Ok(Err(error)) = ended {
        debug!(%error, "a connection broke");
    }
}

#[cfg(test)]
mod tests;
