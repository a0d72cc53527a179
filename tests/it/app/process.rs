//! One manager process: its clients, clock and tasks; it can be stopped in order, killed, and cut off the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use capi_ipam::controllers::events::Events;
use capi_ipam::controllers::lifecycle::{Controllers, Error};
use capi_ipam::controllers::ownership::Ownership;
use capi_ipam::controllers::sight::Sight;
use capi_ipam::controllers::view::Filter;
use capi_ipam::k8s::clients::Clients;
use capi_ipam::k8s::clock::Clock;
use capi_ipam::k8s::events::EventClient;
use capi_ipam::k8s::exchange::ExchangeLayer;
use capi_ipam::telemetry::admin::{Health, health_router};
use capi_ipam::telemetry::metrics::Metrics;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer as _, Service, ServiceExt as _};

use super::until;
use crate::apiserver::{ApiServer, ApiService};

/// As the default of `--lock-delay`.
pub(super) const LOCK_DELAY: Duration = Duration::from_mins(20);

/// As the default of `--adoption-grace-period`.
pub(super) const ADOPTION_GRACE: Duration = Duration::from_mins(1);

/// As the default of `--orphan-grace-period`.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_mins(10);

/// A running manager. Its clients are called `<name>-watch`, `<name>-request` and `<name>-event`.
pub(super) struct Process {
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) line: Line,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Process {
    /// Starts one that serves all claims; `name` is its identity in records, too.
    pub(super) fn start(server: &ApiServer, name: &str) -> Self {
        Self::with_filter(server, name, Filter::default())
    }

    pub(super) fn with_filter(server: &ApiServer, name: &str, filter: Filter) -> Self {
        Self::with(server, name, filter, Ownership::of_everything(64))
    }

    pub(super) fn with(server: &ApiServer, name: &str, filter: Filter, ownership: Ownership) -> Self {
        let (health, stop, line) = (Health::new(), CancellationToken::new(), Line::default());
        let start = Instant::now();
        let clock = Clock::of(move || Duration::from_secs(1_000) + start.elapsed());
        let client = |part: &str| {
            let end = LineEnd { service: server.service(&format!("{name}-{part}")), line: line.clone() };
            let layer = ExchangeLayer { clock: clock.clone(), observer: Arc::new(|_| {}) };
            kube::Client::new(layer.layer(end), "default")
        };
        let metrics = Metrics::new();
        let events = EventClient::new(client("event"), clock.clone(), name);
        let controllers = Controllers {
            clients: Clients { watch: client("watch"), request: client("request") },
            clock: clock.clone(),
            events: Events::written_by(events, clock.clone(), metrics.clone()),
            metrics: metrics.clone(),
            health: health.clone(),
            ownership,
            sight: Sight::default(),
            leases: None,
            filter,
            me: name.into(),
            lock_delay: LOCK_DELAY,
            adoption_grace: ADOPTION_GRACE,
            orphan_grace: Some(ORPHAN_GRACE),
            server: "in memory".to_owned(),
        };
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { controllers.run(&stop).await }
        });
        Self { health, metrics, line, stop, task }
    }

    pub(super) async fn until_ready(&self) {
        until("the manager is ready", || self.health.is_ready()).await;
    }

    /// The body of `/readyz`.
    pub(super) async fn readyz(&self) -> String {
        let request = Request::builder().uri("/readyz?verbose").body(Body::empty()).expect("a valid request");
        let response = health_router(self.health.clone()).oneshot(request).await.expect("it always answers");
        let body = response.into_body().collect().await.expect("it is in memory").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    /// As SIGTERM does. Panics if it does not end in order.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let end = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        end.expect("it stops within 10 s").expect("no task panics").expect("it stops without an error");
    }

    /// As SIGKILL does: from now on it sends nothing. What it sent is on its way.
    pub(super) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()), "it ran until now");
    }

    /// Whether its tasks still run.
    pub(super) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

/// What is between the process and the server.
#[derive(Clone, Default)]
pub(super) struct Line {
    /// While it is set, no connection to the server can be made.
    pub(super) cut_off: Arc<AtomicBool>,
    /// Requests that the process wanted to send.
    pub(super) attempts: Arc<AtomicUsize>,
    /// After so many milliseconds without a reply the connection breaks, or the gateway in between answers 504, in
    /// turns; the request goes on. 0: never.
    pub(super) patience: Arc<AtomicU64>,
}

impl Line {
    /// What the process gets instead of a reply that takes too long.
    fn lose(&self) -> Result<Response<Body>, BoxError> {
        if self.attempts.load(Ordering::Relaxed).is_multiple_of(2) {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "the gateway gave up", "reason": "Timeout", "code": 504});
        Ok(Response::builder().status(504).body(status.to_string().into())?)
    }
}

#[derive(Clone)]
struct LineEnd {
    service: ApiService,
    line: Line,
}

impl Service<Request<kube::client::Body>> for LineEnd {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        self.line.attempts.fetch_add(1, Ordering::Relaxed);
        if self.line.cut_off.load(Ordering::Relaxed) {
            return refused().boxed();
        }
        let (reply, line) = (self.service.call(request), self.line.clone());
        match self.line.patience.load(Ordering::Relaxed) {
            0 => reply,
            patience => async move {
                let reply = tokio::time::timeout(Duration::from_millis(patience), reply).await;
                reply.unwrap_or_else(|_| line.lose())
            }
            .boxed(),
        }
    }
}

/// The very error of a connection that cannot be made: that nothing was sent is told by its type.
async fn refused() -> Result<Response<Body>, BoxError> {
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(HttpConnector::new());
    // The connector refuses schemes but http before it opens anything.
    let error = client.get("https://127.0.0.1".parse()?).await.expect_err("an http connector has no https");
    assert!(error.is_connect(), "{error} is an error of connecting");
    Err(error.into())
}
