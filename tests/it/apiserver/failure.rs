//! Refusals: the `Status` documents that the real server answers with.

use serde_json::{Value, json};

use super::resource::Resource;

/// A refusal with the code, reason and sentence of the `Status` that the client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u16,
    /// Empty where the real server gives no reason, or (404 outside of any resource) no `Status` at all.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn injected(code: u16, reason: &'static str) -> Self {
        Self::new(code, reason, "fault injected by the test")
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
    }

    /// A path that no resource is served under: the real server answers with plain text, not with a `Status`.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "", "404 page not found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
    }

    pub(super) fn conflict(resource: &Resource, name: &str, why: impl AsRef<str>) -> Self {
        let resource = resource.qualified();
        let why = why.as_ref();
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"))
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn unsupported_patch(content_type: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - {content_type} is not supported here");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(super) fn invalid(resource: &Resource, name: &str, field: &str, why: impl AsRef<str>) -> Self {
        let why = why.as_ref();
        let message = format!("{}.{} \"{name}\" is invalid: {field}: {why}", resource.kind, resource.group);
        Self::new(422, "Invalid", message)
    }

    pub(super) fn unprocessable_patch(why: impl Into<String>) -> Self {
        Self::new(422, "Invalid", why)
    }

    /// The etcd layer refuses this one, so it surfaces as an internal error without a reason.
    pub(super) fn resource_version_on_create() -> Self {
        Self::new(500, "", "resourceVersion should not be set on objects to be created")
    }

    /// The reader asked for a state that this server has not reached.
    pub(super) fn too_large_resource_version(asked: u64, current: u64) -> Self {
        Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"))
    }

    /// The document, as in a body or in an ERROR event of a watch.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
