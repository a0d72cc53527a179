//! The paths that webhook configurations name, each with the bounds of its requests, a span and a count.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use axum::routing::post;
use opentelemetry::propagation::Extractor;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, debug, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::admission::{Facts, Policy};
use super::review::{Act, Answer, NoReview, admit, convert_all};
use crate::api::names::PoolKind;
use crate::telemetry::metrics::Metrics;

/// The paths of the original, which manifests name.
const ADMISSION: [(&str, Act, PoolKind); 8] = [
    ("/mutate-ipam-cluster-x-k8s-io-v1alpha2-inclusterippool", Act::Mutate, PoolKind::InClusterIPPool),
    ("/mutate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterippool", Act::Mutate, PoolKind::GlobalInClusterIPPool),
    ("/mutate-ipam-cluster-x-k8s-io-v1alpha2-inclusterprefixpool", Act::Mutate, PoolKind::InClusterPrefixPool),
    (
        "/mutate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterprefixpool",
        Act::Mutate,
        PoolKind::GlobalInClusterPrefixPool,
    ),
    ("/validate-ipam-cluster-x-k8s-io-v1alpha2-inclusterippool", Act::Validate, PoolKind::InClusterIPPool),
    ("/validate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterippool", Act::Validate, PoolKind::GlobalInClusterIPPool),
    ("/validate-ipam-cluster-x-k8s-io-v1alpha2-inclusterprefixpool", Act::Validate, PoolKind::InClusterPrefixPool),
    (
        "/validate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterprefixpool",
        Act::Validate,
        PoolKind::GlobalInClusterPrefixPool,
    ),
];
/// Where CRDs have their objects converted.
const CONVERT: &str = "/convert";

/// An object has at most 1.5 MiB in etcd, and an update has two; escapes in annotations take room.
const ADMISSION_BYTES: usize = 8 * 1024 * 1024;
/// A whole list in one request: 5,000 pools of 6 KiB.
const CONVERSION_BYTES: usize = 32 * 1024 * 1024;
/// The API server sends its body at once, and waits for 10 s at most (conversion: 30 s).
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Reviews that are worked on at a time: parsed, one takes several times its bytes.
const AT_ONCE: usize = 4;
/// From here on a review is no work for the threads that keep Leases alive.
const LARGE: usize = 64 * 1024;

/// What the handlers share.
struct Shared {
    facts: Box<dyn Facts + Send + Sync>,
    policy: Policy,
    metrics: Metrics,
    turns: Semaphore,
}

/// All paths.
pub fn router(facts: Box<dyn Facts + Send + Sync>, policy: Policy, metrics: Metrics) -> Router {
    let shared = Arc::new(Shared { facts, policy, metrics, turns: Semaphore::new(AT_ONCE) });
    let mut router = Router::new();
    for (path, act, kind) in ADMISSION {
        let shared = shared.clone();
        let decide = move |shared: &Shared, body: &[u8]| admit(body, act, kind, &*shared.facts, shared.policy);
        let handler = move |request| served(shared.clone(), path, ADMISSION_BYTES, decide, request);
        router = router.route(path, post(handler));
    }
    let convert = |_: &Shared, body: &[u8]| convert_all(body);
    router.route(CONVERT, post(move |request| served(shared.clone(), CONVERT, CONVERSION_BYTES, convert, request)))
}

type Decided = Result<Answer, NoReview>;

async fn served(
    shared: Arc<Shared>,
    path: &'static str,
    limit: usize,
    decide: impl Fn(&Shared, &[u8]) -> Decided + Send + 'static,
    request: Request<Body>,
) -> Response<Body> {
    let began = Instant::now();
    let span = info_span!("webhook", otel.kind = "server", url.path = path, outcome = field::Empty);
    let caller = opentelemetry::global::get_text_map_propagator(|known| known.extract(&Headers(request.headers())));
    // It fails where no spans are exported.
    let _ = span.set_parent(caller);
    let answered = answer(shared.clone(), limit, decide, request).instrument(span.clone()).await;
    let outcome = match &answered {
        Ok(answer) => answer.outcome.as_str(),
        Err(_) => "malformed",
    };
    span.record("outcome", outcome);
    shared.metrics.webhook_request(path, outcome, began.elapsed());
    match answered {
        Ok(Answer { body, outcome }) => {
            if let Some(message) = body["response"]["status"]["message"].as_str() {
                let _in_span = span.enter();
                debug!(outcome = outcome.as_str(), "{message}");
            }
            let mut response = Response::new(Body::from(body.to_string()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err((code, message)) => {
            let _in_span = span.enter();
            debug!(code = code.as_u16(), "{message}");
            let mut response = Response::new(Body::from(format!("{message}\n")));
            *response.status_mut() = code;
            response
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    limit: usize,
    decide: impl Fn(&Shared, &[u8]) -> Decided + Send + 'static,
    request: Request<Body>,
) -> Result<Answer, (StatusCode, String)> {
    let body = timeout(BODY_LIMIT, to_bytes(request.into_body(), limit)).await;
    let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned()))?;
    let body = body.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, format!("at most {limit} bytes: {error}")))?;
    let _turn = shared.turns.acquire().await.expect("the semaphore is never closed");
    let decided = if body.len() < LARGE {
        decide(&shared, &body)
    } else {
        let shared = shared.clone();
        let decided = tokio::task::spawn_blocking(move || decide(&shared, &body)).await;
        decided.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
    };
    decided.map_err(|why| (StatusCode::BAD_REQUEST, why.to_string()))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests;
