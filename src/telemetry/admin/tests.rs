//! What kubelet and Prometheus get.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

async fn asked(router: Router, method: Method, path: &str) -> (StatusCode, String, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("a router does not fail");
    let status = response.status();
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default().to_owned();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, media_type, String::from_utf8_lossy(&body).into_owned())
}

async fn got(health: &Health, path: &str) -> (StatusCode, String) {
    let (status, _, body) = asked(health_router(health.clone()), Method::GET, path).await;
    (status, body)
}

#[tokio::test(start_paused = true)]
async fn healthz_fails_with_the_loop_that_stopped() {
    let health = Health::new();
    assert_eq!(got(&health, "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    health.beat("router", Duration::from_secs(10));
    assert_eq!(got(&health, "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    tokio::time::advance(Duration::from_secs(11)).await;
    let body = "[-]router failed: last turned 11.0 s ago, 10.0 s allowed\nhealthz check failed\n";
    assert_eq!(got(&health, "/healthz").await, (StatusCode::SERVICE_UNAVAILABLE, body.to_owned()));
}

#[tokio::test]
async fn readyz_lists_its_checks_when_it_fails_or_is_asked() {
    let health = Health::new();
    assert_eq!(got(&health, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    health.set_ready("caches", Ok(()));
    health.set_ready("lease", Err("not held yet".to_owned()));
    let failed = "[+]caches ok\n[-]lease failed: not held yet\nreadyz check failed\n".to_owned();
    assert_eq!(got(&health, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, failed));
    health.set_ready("lease", Ok(()));
    assert_eq!(got(&health, "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    let listed = (StatusCode::OK, "[+]caches ok\n[+]lease ok\nreadyz check passed\n".to_owned());
    assert_eq!(got(&health, "/readyz?verbose").await, listed);
    assert_eq!(got(&health, "/readyz?a=b&verbose=true").await, listed);
    assert_eq!(got(&health, "/readyz?quiet").await.1, "ok\n");
}

#[tokio::test]
async fn metrics_are_served_in_their_media_type() {
    let metrics = Metrics::new();
    metrics.error("for_the_test");
    let router = metrics_router(metrics);
    let (status, media_type, body) = asked(router.clone(), Method::GET, "/metrics").await;
    assert_eq!((status, media_type.as_str()), (StatusCode::OK, Exposition::Text.content_type()));
    assert!(body.contains("capi_ipam_errors_total{reason=\"for_the_test\"} 1\n"), "{body}");

    let request = Request::builder().uri("/metrics").header(ACCEPT, Exposition::OpenMetrics.content_type());
    let response =
        router.oneshot(request.body(Body::empty()).expect("a request")).await.expect("a router does not fail");
    assert_eq!(response.headers()[CONTENT_TYPE], Exposition::OpenMetrics.content_type());
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let health = Health::new();
    assert_eq!(got(&health, "/metrics").await.0, StatusCode::NOT_FOUND);
    assert_eq!(got(&health, "/").await.0, StatusCode::NOT_FOUND);
    let (status, ..) = asked(health_router(health.clone()), Method::POST, "/healthz").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _, body) = asked(health_router(health), Method::HEAD, "/healthz").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
}
