//! AdmissionReview and ConversionReview: from the body of a request to the body of its answer.
//!
//! Read leniently: a review of which the essential can be read gets an answer, and an object that makes no sense a
//! denial. The API server takes anything else for a broken webhook, and refuses for that reason whatever was asked.

#[cfg(test)]
mod tests;

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admission::{Facts, Operation, Policy, Verdict, decide, missing_length};
use crate::api::conversion::convert;
use crate::api::names::{GROUP, PoolKind};
use crate::api::parse::FieldError;
use crate::api::pools::PoolObject;
use crate::pool::key::PoolKey;

/// The versions of AdmissionReview that are answered, each in itself.
const ADMISSION_VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];
/// The version of ConversionReview that is answered.
const CONVERSION_VERSION: &str = "apiextensions.k8s.io/v1";

/// What an admission webhook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Fills in defaults.
    Mutate,
    /// Says yes or no.
    Validate,
}

/// What became of a request, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Allowed as it is.
    Allowed,
    /// Allowed with a change.
    Changed,
    /// Refused by a rule.
    Refused,
    /// Converted.
    Converted,
    /// The request or an object in it makes no sense.
    Malformed,
    /// This process does not know enough yet.
    Unknown,
}

impl Outcome {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Changed => "changed",
            Self::Refused => "refused",
            Self::Converted => "converted",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
        }
    }
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A review.
    pub body: Value,
    /// What became of the request.
    pub outcome: Outcome,
}

/// A body that is no review: there is nothing that an answer could refer to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {expected}: {why}")]
pub struct NoReview {
    expected: &'static str,
    why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<R> {
    api_version: String,
    kind: String,
    request: R,
}

/// Reads a review of one of the versions, and its request.
fn review<R: for<'de> Deserialize<'de>>(
    body: &[u8],
    expected: &'static str,
    versions: &[&'static str],
) -> Result<(&'static str, R), NoReview> {
    let no_review = |why| NoReview { expected, why };
    let Review { api_version, kind, request } =
        serde_json::from_slice(body).map_err(|error| no_review(error.to_string()))?;
    let version = versions.iter().find(|known| **known == api_version && kind == expected);
    let version = version.ok_or_else(|| no_review(format!("it is a {kind:.100} of {api_version:.100}")))?;
    Ok((version, request))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest {
    uid: String,
    operation: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// Answers an AdmissionReview about a pool of this kind.
pub fn admit(body: &[u8], act: Act, kind: PoolKind, facts: &dyn Facts, policy: Policy) -> Result<Answer, NoReview> {
    let (version, request) = review::<AdmissionRequest>(body, "AdmissionReview", &ADMISSION_VERSIONS)?;
    let (response, outcome) = respond(&request, act, kind, facts, policy);
    let mut response = response;
    response["uid"] = request.uid.into();
    Ok(Answer { body: json!({ "apiVersion": version, "kind": "AdmissionReview", "response": response }), outcome })
}

fn respond(
    request: &AdmissionRequest,
    act: Act,
    kind: PoolKind,
    facts: &dyn Facts,
    policy: Policy,
) -> (Value, Outcome) {
    if request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
        // Our rules do not ask for them.
        return (json!({ "allowed": true }), Outcome::Allowed);
    }
    let operation = match operation(request, kind) {
        Ok(operation) => operation,
        Err(why) => return (refusal(400, "BadRequest", &why, None), Outcome::Malformed),
    };
    match act {
        Act::Mutate => mutated(kind, &operation),
        Act::Validate => {
            let name = name_of(request, &operation);
            let key = PoolKey::referenced(kind, request.namespace.as_deref().unwrap_or_default(), &name);
            rendered(&key, decide(&key, &operation, facts, policy))
        }
    }
}

/// What is asked, or why that cannot be told.
fn operation(request: &AdmissionRequest, kind: PoolKind) -> Result<Operation, String> {
    let object = |field: &str, value: &Value| {
        let object: PoolObject =
            serde_json::from_value(value.clone()).map_err(|error| format!("request.{field}: {error}"))?;
        match object.kind.as_deref() {
            Some(other) if other != kind.kind() => Err(format!("request.{field}: {other:?} is no {kind}")),
            _ => Ok(Box::new(object)),
        }
    };
    let (new, old) = (|| object("object", &request.object), || object("oldObject", &request.old_object));
    match request.operation.as_str() {
        "CREATE" => Ok(Operation::Create(new()?)),
        "UPDATE" => Ok(Operation::Update(old()?, new()?)),
        "DELETE" => Ok(Operation::Delete(old()?)),
        other => Err(format!("request.operation: {other:?} is none of CREATE, UPDATE and DELETE")),
    }
}

/// Objects that are made with generateName have no name yet.
fn name_of(request: &AdmissionRequest, operation: &Operation) -> String {
    let (Operation::Create(object) | Operation::Update(_, object) | Operation::Delete(object)) = operation;
    let given = request.name.as_ref().filter(|name| !name.is_empty()).or(object.metadata.name.as_ref());
    given.or(object.metadata.generate_name.as_ref()).cloned().unwrap_or_default()
}

fn mutated(kind: PoolKind, operation: &Operation) -> (Value, Outcome) {
    let (Operation::Create(object) | Operation::Update(_, object)) = operation else {
        return (json!({ "allowed": true }), Outcome::Allowed);
    };
    let Some(length) = missing_length(kind, object) else {
        return (json!({ "allowed": true }), Outcome::Allowed);
    };
    // JSON Patch: "add" sets a member that is there, too.
    let patch = json!([{ "op": "add", "path": "/spec/allocationPrefixLength", "value": length }]);
    let patch = ByteString(patch.to_string().into_bytes());
    (json!({ "allowed": true, "patchType": "JSONPatch", "patch": patch }), Outcome::Changed)
}

fn rendered(key: &PoolKey, verdict: Verdict) -> (Value, Outcome) {
    match verdict {
        Verdict::Allowed(warnings) if warnings.is_empty() => (json!({ "allowed": true }), Outcome::Allowed),
        Verdict::Allowed(warnings) => (json!({ "allowed": true, "warnings": warnings }), Outcome::Allowed),
        Verdict::Invalid(errors) => (invalid(key, &errors), Outcome::Refused),
        Verdict::InUse(message) => (refusal(400, "BadRequest", &message, None), Outcome::Refused),
        Verdict::Unknown => {
            let message = "this replica has not seen all pools and addresses yet; try again in a moment";
            (refusal(503, "ServiceUnavailable", message, None), Outcome::Unknown)
        }
    }
}

fn refusal(code: u16, reason: &str, message: &str, details: Option<Value>) -> Value {
    let mut status = json!({ "status": "Failure", "code": code, "reason": reason, "message": message });
    if let Some(details) = details {
        status["details"] = details;
    }
    json!({ "allowed": false, "status": status })
}

/// As the API server itself refuses an object: kubectl shows the causes one by one.
fn invalid(key: &PoolKey, errors: &[FieldError]) -> Value {
    let said = |error: &FieldError| match error.value.as_str() {
        "" => error.reason.clone(),
        value => format!("Invalid value: {value:?}: {}", error.reason),
    };
    let causes: Vec<Value> = errors
        .iter()
        .map(|error| json!({ "reason": "FieldValueInvalid", "field": error.path, "message": said(error) }))
        .collect();
    let all: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.path, said(error))).collect();
    let all = if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) };
    let message = format!("{}.{GROUP} {:?} is invalid: {all}", key.kind, &*key.name);
    let details = json!({ "group": GROUP, "kind": key.kind.kind(), "name": &*key.name, "causes": causes });
    refusal(422, "Invalid", &message, Some(details))
}

#[derive(Deserialize)]
struct ConversionRequest {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    wanted: String,
    #[serde(default)]
    objects: Vec<Value>,
}

/// Answers a ConversionReview: all objects in their order, or the reason of the first that cannot be converted.
pub fn convert_all(body: &[u8]) -> Result<Answer, NoReview> {
    let (version, request) = review::<ConversionRequest>(body, "ConversionReview", &[CONVERSION_VERSION])?;
    let ConversionRequest { uid, wanted, objects } = request;
    let many = objects.len() > 1;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let converted = objects.into_iter().map(|object| {
        let name = name(&object);
        convert(object, &wanted).map_err(|why| if many { format!("{name}: {why}") } else { why.to_string() })
    });
    let (response, outcome) = match converted.collect::<Result<Vec<Value>, String>>() {
        Ok(objects) => (json!({ "convertedObjects": objects, "result": { "status": "Success" } }), Outcome::Converted),
        Err(message) => {
            let result = json!({ "status": "Failure", "code": 422, "reason": "Invalid", "message": message });
            (json!({ "convertedObjects": [], "result": result }), Outcome::Refused)
        }
    };
    let mut response = response;
    response["uid"] = uid.into();
    Ok(Answer { body: json!({ "apiVersion": version, "kind": "ConversionReview", "response": response }), outcome })
}
