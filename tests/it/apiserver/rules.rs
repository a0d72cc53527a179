//! What a write may do to an object: the checks and corrections of the real server, as functions of values.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::failure::Failure;
use super::metadata::Metadata as _;
use super::resource::Resource;

/// DNS subdomain, the rule for the names of all kinds here.
const NAME_LIMIT: usize = 253;

/// The wire form of a request's body: an object of this resource, in the version of the path.
pub(super) fn check_type(resource: &Resource, version: &str, object: &Value) -> Result<(), Failure> {
    if !object.is_object() || !(object["metadata"].is_object() || object["metadata"].is_null()) {
        return Err(Failure::bad_request("the body of the request is not an object with metadata"));
    }
    let expected = resource.api_version(version);
    if object["apiVersion"] != expected.as_str() || object["kind"] != resource.kind {
        let kind = resource.kind;
        let message = format!("the object is {} {}, not {expected} {kind}", object["apiVersion"], object["kind"]);
        return Err(Failure::bad_request(message));
    }
    Ok(())
}

/// The object's namespace is that of the request; left out, it is filled in.
pub(super) fn settle_namespace(resource: &Resource, object: &mut Value, namespace: &str) -> Result<(), Failure> {
    let stated = object.text("namespace");
    if !stated.is_empty() && stated != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(message));
    }
    if resource.namespaced && stated.is_empty() {
        object.set_metadata("namespace", json!(namespace));
    }
    Ok(())
}

pub(super) fn check_name(resource: &Resource, name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edges = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() {
        let why = "Required value: name or generateName is required";
        return Err(Failure::invalid(resource, name, "metadata.name", why));
    }
    if name.len() > NAME_LIMIT || !name.chars().all(allowed) || !name.starts_with(edges) || !name.ends_with(edges) {
        let why = "Invalid value: a lowercase RFC 1123 subdomain is required";
        return Err(Failure::invalid(resource, name, "metadata.name", why));
    }
    Ok(())
}

/// References name their owner fully, and one owner at most is the controller.
pub(super) fn check_owners(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let refuse = |field: &str, why: &str| Err(Failure::invalid(resource, object.text("name"), field, why));
    for owner in object.owners() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                return refuse(&format!("metadata.ownerReferences.{field}"), "Invalid value: must not be empty");
            }
        }
    }
    if object.owners().iter().filter(|owner| owner["controller"] == true).count() > 1 {
        let why = "Invalid value: Only one reference can have Controller set to true";
        return refuse("metadata.ownerReferences", why);
    }
    Ok(())
}

/// Compare-and-swap: a resourceVersion in the object must be the stored one; a PUT needs it unless the kind says otherwise.
pub(super) fn check_lock(resource: &Resource, old: &Value, new: &Value) -> Result<(), Failure> {
    let name = old.text("name");
    match new.text("resourceVersion") {
        "" | "0" if resource.unconditional_update => Ok(()),
        "" | "0" => {
            let why = "Invalid value: 0: must be specified for an update";
            Err(Failure::invalid(resource, name, "metadata.resourceVersion", why))
        }
        stated if stated != old.text("resourceVersion") => {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            Err(Failure::conflict(resource, name, why))
        }
        _ => Ok(()),
    }
}

/// What a client may not change is taken from `old`, or refused; the generation follows from what is left.
pub(super) fn settle_update(
    resource: &Resource,
    old: &Value,
    new: &mut Value,
    status_only: bool,
) -> Result<(), Failure> {
    if status_only {
        let status = new.as_object_mut().and_then(|fields| fields.remove("status"));
        *new = old.clone();
        set_status(new, status);
    } else if resource.status_subresource {
        set_status(new, old.get("status").cloned());
    }
    new.take_metadata("creationTimestamp", old);
    if old.is_deleting() {
        new.take_metadata("deletionTimestamp", old);
    }
    if new.metadata("deletionGracePeriodSeconds").is_null() {
        new.take_metadata("deletionGracePeriodSeconds", old);
    }
    if new.text("uid").is_empty() {
        new.take_metadata("uid", old);
    }
    new.take_metadata("resourceVersion", old);
    settle_generation(resource, old, new);
    new.normalize_metadata();
    for field in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.metadata(field) != old.metadata(field) {
            let why = "Invalid value: field is immutable";
            return Err(Failure::invalid(resource, old.text("name"), &format!("metadata.{field}"), why));
        }
    }
    check_finalizers(resource, old, new)?;
    check_owners(resource, new)
}

/// Puts `status` into the object, or takes it away.
pub(super) fn set_status(object: &mut Value, status: Option<Value>) {
    if let Some(fields) = object.as_object_mut() {
        match status {
            Some(status) => fields.insert("status".to_owned(), status),
            None => fields.remove("status"),
        };
    }
}

/// One more than before if anything outside of metadata changed, status aside where it is a subresource.
pub(super) fn settle_generation(resource: &Resource, old: &Value, new: &mut Value) {
    let counts = |field: &str| field != "metadata" && !(resource.status_subresource && field == "status");
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return };
    let fields: BTreeSet<_> = before.keys().chain(after.keys()).filter(|field| counts(field)).collect();
    let changed = fields.into_iter().any(|field| before.get(field) != after.get(field));
    new.set_metadata("generation", json!(old.generation() + i64::from(changed)));
}

fn check_finalizers(resource: &Resource, old: &Value, new: &Value) -> Result<(), Failure> {
    let known: BTreeSet<_> = old.finalizers().collect();
    let added: Vec<_> = new.finalizers().filter(|finalizer| !known.contains(finalizer)).collect();
    if old.is_deleting() && !added.is_empty() {
        let why = format!("Forbidden: no new finalizers can be added if the object is being deleted, found {added:?}");
        return Err(Failure::invalid(resource, old.text("name"), "metadata.finalizers", why));
    }
    Ok(())
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_finished(object: &Value) -> bool {
    object.is_deleting() && object.finalizers().next().is_none()
}

/// The finalizers that a deletion begins with: the propagation policy is kept as one of two of them.
pub(super) fn deletion_finalizers(object: &Value, policy: &str) -> Vec<String> {
    let kept = object.finalizers().filter(|finalizer| policy.is_empty() || !["orphan", FOREGROUND].contains(finalizer));
    let mut finalizers: Vec<_> = kept.map(str::to_owned).collect();
    match policy {
        "Orphan" => finalizers.push("orphan".to_owned()),
        "Foreground" => finalizers.push(FOREGROUND.to_owned()),
        _ => {}
    }
    finalizers
}

/// The finalizer of an object whose dependents are deleted before it.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
