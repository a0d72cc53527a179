//! Reviews as the API server writes them, and what is no review.

use proptest::prelude::*;

use super::*;
use crate::ipam::pool::Pool;
use crate::pool::key::ObjectKey;
use crate::webhooks::admission::{HeldOrText, Seen};

struct Nothing;

impl Facts for Nothing {
    fn holdings(&self, _: &PoolKey, _: &mut dyn FnMut(&ObjectKey, &HeldOrText)) -> Seen {
        Seen::All
    }

    fn pools(&self) -> Option<Vec<(PoolKey, Pool)>> {
        Some(Vec::new())
    }
}

fn pool(spec: &Value) -> Value {
    json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterPrefixPool",
        "metadata": { "name": "p", "namespace": "ns", "managedFields": [{}] }, "spec": spec,
    })
}

fn asked(version: &str, request: &Value) -> Value {
    json!({ "apiVersion": version, "kind": "AdmissionReview", "request": request })
}

fn answered(review: &Value, act: Act) -> Answer {
    let body = review.to_string();
    admit(body.as_bytes(), act, PoolKind::InClusterPrefixPool, &Nothing, Policy::default()).expect("a review")
}

fn create(spec: &Value) -> Value {
    json!({ "uid": "u-1", "operation": "CREATE", "name": "p", "namespace": "ns", "object": pool(spec), "oldObject": null })
}

#[test]
fn the_answer_is_in_the_version_that_was_asked_and_about_the_request() {
    for version in ADMISSION_VERSIONS {
        let answer = answered(&asked(version, &create(&json!({ "prefixes": ["fd00::/48"] }))), Act::Validate);
        assert_eq!(
            answer.body,
            json!({ "apiVersion": version, "kind": "AdmissionReview", "response": { "uid": "u-1", "allowed": true } })
        );
        assert_eq!(answer.outcome, Outcome::Allowed);
    }
}

#[test]
fn an_invalid_spec_is_refused_as_the_api_server_itself_does() {
    let spec = json!({ "prefixes": ["fd00::1/48", ""], "gateway": "x" });
    let answer = answered(&asked("admission.k8s.io/v1", &create(&spec)), Act::Validate);
    let response = &answer.body["response"];
    assert_eq!(answer.outcome, Outcome::Refused);
    assert_eq!(response["allowed"], false);
    let status = &response["status"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(422), &json!("Invalid")));
    assert_eq!(
        status["message"],
        "InClusterPrefixPool.ipam.cluster.x-k8s.io \"p\" is invalid: [spec.gateway: Invalid value: \"x\": is no IP \
         address, spec.prefixes[0]: Invalid value: \"fd00::1/48\": is no network: the aligned prefix is fd00::/48, \
         spec.prefixes[1]: must not be empty]"
    );
    let details = &status["details"];
    assert_eq!((&details["kind"], &details["name"]), (&json!("InClusterPrefixPool"), &json!("p")));
    assert_eq!(
        details["causes"][1],
        json!({
            "reason": "FieldValueInvalid", "field": "spec.prefixes[0]",
            "message": "Invalid value: \"fd00::1/48\": is no network: the aligned prefix is fd00::/48",
        })
    );
    let one = answered(&asked("admission.k8s.io/v1", &create(&json!({}))), Act::Validate);
    let message = one.body["response"]["status"]["message"].as_str().expect("a message").to_owned();
    assert!(message.ends_with("\"p\" is invalid: spec.prefixes: at least one entry is required"), "{message}");
}

#[test]
fn the_missing_length_comes_as_a_json_patch() {
    for spec in [json!({ "prefixes": [] }), json!({ "prefixes": [], "allocationPrefixLength": 0 })] {
        let answer = answered(&asked("admission.k8s.io/v1", &create(&spec)), Act::Mutate);
        let response = &answer.body["response"];
        assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
        let ByteString(patch) = serde_json::from_value(response["patch"].clone()).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
        let mut object = pool(&spec);
        json_patch::patch(&mut object, &patch).expect("it applies");
        assert_eq!(object["spec"]["allocationPrefixLength"], 64);
        assert_eq!(answer.outcome, Outcome::Changed);
    }
    let set = json!({ "prefixes": [], "allocationPrefixLength": 80 });
    let answer = answered(&asked("admission.k8s.io/v1", &create(&set)), Act::Mutate);
    assert_eq!(answer.body["response"], json!({ "uid": "u-1", "allowed": true }));
}

#[test]
fn a_delete_is_about_the_old_object_and_a_subresource_is_nobodys() {
    let delete = json!({ "uid": "u", "operation": "DELETE", "object": null, "oldObject": pool(&json!({})) });
    assert_eq!(answered(&asked("admission.k8s.io/v1", &delete), Act::Validate).outcome, Outcome::Allowed);
    let mut status = create(&json!({}));
    status["subResource"] = json!("status");
    assert_eq!(answered(&asked("admission.k8s.io/v1", &status), Act::Validate).outcome, Outcome::Allowed);
}

#[test]
fn what_makes_no_sense_in_a_review_is_a_denial_that_says_where() {
    let mut foreign = create(&json!({}));
    foreign["object"]["kind"] = json!("Pod");
    let mut metadata = create(&json!({}));
    metadata["object"]["metadata"] = json!({ "name": 5 });
    for (request, named) in [
        (json!({ "uid": "u", "operation": "CREATE" }), "request.object: "),
        (json!({ "uid": "u", "operation": "UPDATE", "object": pool(&json!({})) }), "request.oldObject: "),
        (json!({ "uid": "u", "operation": "CONNECT" }), "request.operation: \"CONNECT\""),
        (foreign, "request.object: \"Pod\""),
        (metadata, "request.object: "),
    ] {
        for act in [Act::Mutate, Act::Validate] {
            let answer = answered(&asked("admission.k8s.io/v1beta1", &request), act);
            let status = &answer.body["response"]["status"];
            assert_eq!((answer.outcome, &status["code"]), (Outcome::Malformed, &json!(400)), "{request}");
            assert!(status["message"].as_str().is_some_and(|message| message.starts_with(named)), "{status}");
        }
    }
}

#[test]
fn what_is_no_review_is_told_apart() {
    for body in
        ["", "{", "[]", "null", r#"{"apiVersion":"v1","kind":"Pod","request":{"uid":"u","operation":"CREATE"}}"#]
    {
        let admitted = admit(body.as_bytes(), Act::Validate, PoolKind::InClusterIPPool, &Nothing, Policy::default());
        assert!(admitted.is_err_and(|why| why.to_string().starts_with("no AdmissionReview: ")), "{body}");
        let converted = convert_all(body.as_bytes());
        assert!(converted.is_err_and(|why| why.to_string().starts_with("no ConversionReview: ")), "{body}");
    }
}

fn conversion(wanted: &str, objects: &Value) -> Answer {
    let request = json!({ "uid": "u", "desiredAPIVersion": wanted, "objects": objects });
    let review = json!({ "apiVersion": CONVERSION_VERSION, "kind": "ConversionReview", "request": request });
    convert_all(review.to_string().as_bytes()).expect("a review")
}

#[test]
fn objects_are_converted_in_their_order_or_none_is() {
    let old = |name: &str, subnet: &str| {
        json!({
            "apiVersion": "ipam.cluster.x-k8s.io/v1alpha1", "kind": "InClusterIPPool",
            "metadata": { "name": name }, "spec": { "subnet": subnet },
        })
    };
    let wanted = "ipam.cluster.x-k8s.io/v1alpha2";
    let answer = conversion(wanted, &json!([old("a", "10.0.0.0/24"), old("b", "10.1.0.0/24")]));
    let response = &answer.body["response"];
    assert_eq!((&response["uid"], &response["result"]["status"]), (&json!("u"), &json!("Success")));
    let names: Vec<&Value> =
        response["convertedObjects"].as_array().expect("objects").iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);

    let answer = conversion(wanted, &json!([old("a", "10.0.0.0/24"), old("b", "oops")]));
    let response = &answer.body["response"];
    assert_eq!(response["convertedObjects"], json!([]));
    assert_eq!(response["result"]["status"], "Failure");
    let message = response["result"]["message"].as_str().expect("a message");
    assert!(message.starts_with("b: spec.subnet: \"oops\""), "{message}");
    assert_eq!(conversion(wanted, &json!([])).outcome, Outcome::Converted);
}

proptest! {
    #[test]
    fn no_body_breaks_it(body in any::<Vec<u8>>(), text in any::<String>(), operation in 0..4_usize) {
        let _ = convert_all(&body);
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let operation = ["CREATE", "UPDATE", "DELETE", ""][operation];
        let request = json!({ "uid": "u", "operation": operation, "object": value, "oldObject": value });
        for act in [Act::Mutate, Act::Validate] {
            let answer = answered(&asked("admission.k8s.io/v1", &request), act);
            prop_assert_eq!(&answer.body["response"]["uid"], &json!("u"));
            prop_assert!(answer.body["response"]["allowed"].is_boolean());
        }
    }
}
