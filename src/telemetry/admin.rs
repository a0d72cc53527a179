//! The endpoints for kubelet and Prometheus: `/healthz`, `/readyz` and `/metrics` over plain HTTP.

mod health;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;

pub use health::Health;
pub use server::{Error, bind, serve};

use super::metrics::{Exposition, Metrics};

/// `/healthz` and `/readyz`: 200 or 503; `?verbose` lists the checks, a failure always does.
pub fn health_router(health: Health) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(health)
}

/// `/metrics`, for whoever can reach it.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
}

/// Makes a report as JSON, or says why it cannot.
pub type Report = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// A report at this path; 503 with the reason when there is none.
pub fn report_router(path: &str, report: Report) -> Router {
    let show = move || async move {
        match report().await {
            Ok(json) => ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], json).into_response(),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
        }
    };
    Router::new().route(path, get(show))
}

async fn healthz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    answer("healthz", &health.liveness(), query.as_deref())
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    answer("readyz", &health.readiness(), query.as_deref())
}

async fn scrape(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    let exposition = Exposition::accepted_by(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(CONTENT_TYPE, exposition.content_type())], metrics.render(exposition)).into_response()
}

/// In the manner of Kubernetes' own health endpoints, which people and tools read.
fn answer(endpoint: &str, checks: &[health::Check], query: Option<&str>) -> Response {
    let passed = checks.iter().all(|check| check.result.is_ok());
    let verbose = query.unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some("verbose"));
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = if passed && !verbose {
        "ok\n".to_owned()
    } else {
        let list: String = checks
            .iter()
            .map(|health::Check { name, result }| match result {
                Ok(()) => format!("[+]{name} ok\n"),
                Err(reason) => format!("[-]{name} failed: {reason}\n"),
            })
            .collect();
        format!("{list}{endpoint} check {}\n", if passed { "passed" } else { "failed" })
    };
    (status, [(CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests;
