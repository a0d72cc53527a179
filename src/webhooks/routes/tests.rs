//! Requests with their bounds.

use axum::http::Method;
use futures::stream;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::ipam::pool::Pool;
use crate::pool::key::{ObjectKey, PoolKey};
use crate::telemetry::metrics::Exposition;
use crate::webhooks::admission::{HeldOrText, Seen};

struct Nothing;

impl Facts for Nothing {
    fn holdings(&self, _: &PoolKey, _: &mut dyn FnMut(&ObjectKey, &HeldOrText)) -> Seen {
        Seen::NotYet
    }

    fn pools(&self) -> Option<Vec<(PoolKey, Pool)>> {
        None
    }
}

async fn asked(router: &Router, method: Method, path: &str, body: Body) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(body).expect("a request");
    let response = router.clone().oneshot(request).await.expect("a router does not fail");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn router_and_metrics() -> (Router, Metrics) {
    let metrics = Metrics::new();
    (router(Box::new(Nothing), Policy::default(), metrics.clone()), metrics)
}

fn review(kind: &str, operation: &str) -> String {
    let object = json!({ "kind": kind, "metadata": { "name": "p" }, "spec": {} });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "operation": operation, "object": object, "oldObject": object },
    })
    .to_string()
}

#[tokio::test]
async fn all_eight_paths_answer_about_their_kind() {
    let (router, metrics) = router_and_metrics();
    for (path, act, kind) in ADMISSION {
        let (status, body) = asked(&router, Method::POST, path, Body::from(review(kind.kind(), "CREATE"))).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &body["response"]["uid"]), (StatusCode::OK, &json!("u")), "{path}");
        assert_eq!(body["response"]["allowed"], act == Act::Mutate, "{path}: {body}");
        assert!(path.contains(&kind.kind().to_lowercase()), "{path}");
        let counted = format!(
            "path=\"{path}\",result=\"{}\"",
            match (act, kind.is_prefix()) {
                (Act::Validate, _) => "refused",
                (Act::Mutate, true) => "changed",
                (Act::Mutate, false) => "allowed",
            }
        );
        assert!(metrics.render(Exposition::Text).contains(&counted), "{counted}");
    }
}

#[tokio::test]
async fn what_is_not_known_yet_is_said_so() {
    let (router, _) = router_and_metrics();
    let body = Body::from(review("InClusterIPPool", "DELETE"));
    let (status, body) = asked(&router, Method::POST, ADMISSION[4].0, body).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["response"]["status"]["code"]), (StatusCode::OK, &json!(503)));
}

#[tokio::test]
async fn other_paths_methods_and_bodies_are_refused() {
    let (router, metrics) = router_and_metrics();
    assert_eq!(asked(&router, Method::POST, "/", Body::empty()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(asked(&router, Method::GET, CONVERT, Body::empty()).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, why) = asked(&router, Method::POST, CONVERT, Body::from("{}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.starts_with("no ConversionReview: "), "{why}");
    let too_large = Body::from(vec![b' '; ADMISSION_BYTES + 1]);
    assert_eq!(asked(&router, Method::POST, ADMISSION[0].0, too_large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(metrics.render(Exposition::Text).contains("path=\"/convert\",result=\"malformed\""));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (router, _) = router_and_metrics();
    let never = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let began = Instant::now();
    assert_eq!(asked(&router, Method::POST, CONVERT, never).await.0, StatusCode::REQUEST_TIMEOUT);
    assert!(began.elapsed() < 2 * BODY_LIMIT, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_converted() {
    let (router, _) = router_and_metrics();
    let pool = |number: usize| {
        json!({
            "apiVersion": "ipam.cluster.x-k8s.io/v1alpha1", "kind": "InClusterIPPool",
            "metadata": { "name": format!("p-{number}") }, "spec": { "subnet": "10.0.0.0/24" },
        })
    };
    let objects: Vec<Value> = (0..5_000).map(pool).collect();
    let request = json!({ "uid": "u", "desiredAPIVersion": "ipam.cluster.x-k8s.io/v1alpha2", "objects": objects });
    let review = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request });
    let (status, body) = asked(&router, Method::POST, CONVERT, Body::from(review.to_string())).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["response"]["convertedObjects"].as_array().map(Vec::len), Some(5_000));
}
