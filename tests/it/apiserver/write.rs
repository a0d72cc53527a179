//! Writes as a whole: create, update (PUT and both patches), delete, each one step under the store's lock.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;
use super::metadata::Metadata as _;
use super::resource::Resource;
use super::rules;
use super::store::State;

/// Where a write goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) table: usize,
    pub(super) version: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Whether the request is for `/status`.
    pub(super) status: bool,
    pub(super) dry_run: bool,
}

/// How an update says what the object becomes.
#[derive(Debug, Clone)]
pub(super) enum Update {
    Put(Value),
    Merge(Value),
    Json(json_patch::Patch),
}

/// What a deletion asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Deletion {
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    /// `Orphan`, `Background`, `Foreground`, or empty.
    pub(super) policy: String,
}

/// The outcome of a deletion that was not refused.
#[derive(Debug)]
pub(super) enum Deleted {
    Gone(Arc<Value>),
    /// Finalizers are left; the object has its deletionTimestamp.
    Pending(Arc<Value>),
}

impl State {
    pub(super) fn create(&mut self, target: Target<'_>, mut object: Value) -> Result<Arc<Value>, Failure> {
        let resource = Arc::clone(&self.tables[target.table].resource);
        rules::check_type(&resource, target.version, &object)?;
        rules::settle_namespace(&resource, &mut object, target.namespace)?;
        if object.text("name").is_empty() && !object.text("generateName").is_empty() {
            let name = format!("{}{}", object.text("generateName"), suffix(self.serial()));
            object.set_metadata("name", json!(name));
        }
        let name = object.text("name").to_owned();
        rules::check_name(&resource, &name)?;
        rules::check_owners(&resource, &object)?;
        if !["", "0"].contains(&object.text("resourceVersion")) {
            return Err(Failure::resource_version_on_create());
        }
        let key = resource.key(target.namespace, &name);
        if self.tables[target.table].objects.contains_key(&key) {
            return Err(Failure::already_exists(&resource, &name));
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "uid", "creationTimestamp"] {
            object.set_metadata(field, Value::Null);
        }
        if resource.status_subresource {
            rules::set_status(&mut object, None);
        }
        object["apiVersion"] = json!(resource.api_version(resource.storage_version()));
        object.set_metadata("generation", json!(1));
        self.fill_system_fields(&mut object);
        object.normalize_metadata();
        if target.dry_run { Ok(Arc::new(object)) } else { Ok(self.commit(target.table, key, object)) }
    }

    /// Gives the object a uid and a creationTimestamp where it has none.
    pub(super) fn fill_system_fields(&mut self, object: &mut Value) {
        if object.text("uid").is_empty() {
            let uid = format!("00000000-0000-4000-8000-{:012x}", self.serial());
            object.set_metadata("uid", json!(uid));
        }
        if object.metadata("creationTimestamp").is_null() {
            object.set_metadata("creationTimestamp", self.stamp());
        }
    }

    /// Also tells whether the object was created (a PUT can, for some kinds).
    pub(super) fn update(&mut self, target: Target<'_>, update: Update) -> Result<(Arc<Value>, bool), Failure> {
        let resource = Arc::clone(&self.tables[target.table].resource);
        let key = resource.key(target.namespace, target.name);
        let Some(old) = self.tables[target.table].objects.get(&key).cloned() else {
            return self.update_missing(target, &resource, update).map(|object| (object, true));
        };
        let is_put = matches!(update, Update::Put(_));
        let mut new = updated(&resource, target.version, &old, update)?;
        rules::check_type(&resource, target.version, &new)?;
        rules::settle_namespace(&resource, &mut new, target.namespace)?;
        if new.text("name") != target.name {
            let message = format!("the name of the object ({}) does not match the URL", new.text("name"));
            return Err(Failure::bad_request(message));
        }
        if is_put && !["", old.text("uid")].contains(&new.text("uid")) {
            return Err(uid_conflict(&resource, target.name, new.text("uid"), old.text("uid")));
        }
        rules::check_lock(&resource, &old, &new)?;
        new["apiVersion"] = old["apiVersion"].clone();
        rules::settle_update(&resource, &old, &mut new, target.status)?;
        if rules::is_finished(&new) {
            // As the real server, the answer is the object of the request, and the event the one that was stored.
            if !target.dry_run {
                self.remove(target.table, &key);
            }
            return Ok((Arc::new(new), false));
        }
        if new == *old {
            return Ok((old, false));
        }
        let committed = if target.dry_run { Arc::new(new) } else { self.commit(target.table, key, new) };
        Ok((committed, false))
    }

    fn update_missing(
        &mut self,
        target: Target<'_>,
        resource: &Resource,
        update: Update,
    ) -> Result<Arc<Value>, Failure> {
        match update {
            Update::Put(mut object) if resource.create_on_update && !target.status => {
                // A uid is a precondition that no missing object fulfils; a resourceVersion, in contrast, is ignored.
                if !object.text("uid").is_empty() {
                    return Err(uid_conflict(resource, target.name, object.text("uid"), ""));
                }
                if object.text("name") != target.name {
                    return Err(Failure::bad_request("the name of the object does not match the URL"));
                }
                object.set_metadata("resourceVersion", Value::Null);
                self.create(target, object)
            }
            _ => Err(Failure::not_found(resource, target.name)),
        }
    }

    pub(super) fn delete(&mut self, target: Target<'_>, deletion: &Deletion) -> Result<Deleted, Failure> {
        let resource = Arc::clone(&self.tables[target.table].resource);
        let key = resource.key(target.namespace, target.name);
        let Some(old) = self.tables[target.table].objects.get(&key).cloned() else {
            return Err(Failure::not_found(&resource, target.name));
        };
        for (field, expected) in [("uid", &deletion.uid), ("resourceVersion", &deletion.resource_version)] {
            if let Some(expected) = expected
                && expected != old.text(field)
            {
                let why = format!(
                    "the {field} in the precondition ({expected}) does not match that in record ({})",
                    old.text(field)
                );
                return Err(Failure::conflict(&resource, target.name, why));
            }
        }
        let finalizers = rules::deletion_finalizers(&old, &deletion.policy);
        if finalizers.is_empty() {
            let last = if target.dry_run { Some(old) } else { self.remove(target.table, &key) };
            return last.map(Deleted::Gone).ok_or_else(|| Failure::not_found(&resource, target.name));
        }
        let mut new = Value::clone(&old);
        if !old.is_deleting() {
            new.set_metadata("generation", json!(old.generation() + 1));
            new.set_metadata("deletionTimestamp", self.stamp());
            new.set_metadata("deletionGracePeriodSeconds", json!(0));
        }
        new.set_metadata("finalizers", json!(finalizers));
        if new == *old {
            return Ok(Deleted::Pending(old));
        }
        let pending = if target.dry_run { Arc::new(new) } else { self.commit(target.table, key, new) };
        Ok(Deleted::Pending(pending))
    }
}

/// The object that an update asks for, before any rule is applied to it.
fn updated(resource: &Resource, version: &str, old: &Arc<Value>, update: Update) -> Result<Value, Failure> {
    let as_served = || {
        let mut object = Value::clone(old);
        object["apiVersion"] = json!(resource.api_version(version));
        object
    };
    match update {
        Update::Put(object) => Ok(object),
        Update::Merge(patch) => {
            let mut object = as_served();
            json_patch::merge(&mut object, &patch);
            Ok(object)
        }
        Update::Json(patch) => {
            let mut object = as_served();
            // On failure the copy is half patched, and dropped.
            json_patch::patch_unsafe(&mut object, &patch.0)
                .map_err(|error| Failure::unprocessable_patch(error.to_string()))?;
            Ok(object)
        }
    }
}

fn uid_conflict(resource: &Resource, name: &str, stated: &str, stored: &str) -> Failure {
    let why = format!("Precondition failed: UID in precondition: {stated}, UID in object meta: {stored}");
    Failure::conflict(resource, name, why)
}

/// Five characters in the alphabet of generated names, different for each number.
fn suffix(mut number: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut letters = [b'b'; 5];
    for letter in letters.iter_mut().rev() {
        *letter = ALPHABET[usize::try_from(number % 27).unwrap_or(0)];
        number /= 27;
    }
    letters.into_iter().map(char::from).collect()
}
