//! Garbage collection by owner references, as the controller manager does it, but when the test says so.

use serde_json::{Value, json};

use super::metadata::Metadata as _;
use super::rules::{self, FOREGROUND};
use super::store::State;
use super::write::{Deletion, Target};

/// What the collector does to one object.
enum Act {
    Keep,
    /// Write the object with these references and finalizers.
    Rewrite(Vec<Value>, Vec<String>),
    Delete(&'static str),
}

impl State {
    /// Collects until nothing changes any more; tells how many steps that took.
    pub(super) fn collect_garbage(&mut self) -> usize {
        let mut steps = 0;
        loop {
            let before = self.revision;
            for table in 0..self.tables.len() {
                let keys: Vec<_> = self.tables[table].objects.keys().cloned().collect();
                for key in keys {
                    self.collect(table, &key);
                }
            }
            if self.revision == before {
                return steps;
            }
            steps += usize::try_from(self.revision - before).unwrap_or(usize::MAX);
        }
    }

    fn collect(&mut self, table: usize, key: &str) {
        // A deletion or the loss of a finalizer earlier in the round may have taken it.
        let Some(object) = self.tables[table].objects.get(key).cloned() else { return };
        match self.act(&object) {
            Act::Keep => {}
            Act::Rewrite(owners, finalizers) => {
                let mut new = Value::clone(&object);
                new.set_metadata("ownerReferences", json!(owners));
                new.set_metadata("finalizers", json!(finalizers));
                self.settle(table, key, new);
            }
            Act::Delete(policy) => {
                let target = Target {
                    table,
                    version: "",
                    namespace: object.text("namespace"),
                    name: object.text("name"),
                    status: false,
                    dry_run: false,
                };
                let deletion = Deletion { policy: policy.to_owned(), ..Deletion::default() };
                self.delete(target, &deletion).expect("the object exists, and there is no precondition");
            }
        }
    }

    fn act(&self, object: &Value) -> Act {
        let has = |finalizer: &str| object.finalizers().any(|other| other == finalizer);
        let without = |unwanted: &str| {
            object.finalizers().filter(|finalizer| *finalizer != unwanted).map(str::to_owned).collect::<Vec<_>>()
        };
        let owners = object.owners();
        if object.is_deleting() {
            let dependents = self.dependents(object.text("uid"));
            let blocked = dependents.iter().any(|owner| owner["blockOwnerDeletion"] == true);
            let owned = !dependents.is_empty();
            return match () {
                () if has(FOREGROUND) && !blocked => Act::Rewrite(owners.to_vec(), without(FOREGROUND)),
                () if has("orphan") && !owned => Act::Rewrite(owners.to_vec(), without("orphan")),
                () => Act::Keep,
            };
        }
        if owners.is_empty() {
            return Act::Keep;
        }
        let namespace = object.text("namespace");
        let known: Vec<_> = owners.iter().map(|reference| (reference, self.owner(reference, namespace))).collect();
        let those = |wanted: Owner| known.iter().filter(move |(_, owner)| *owner == wanted);
        if those(Owner::Unknown).next().is_some() {
            return Act::Keep;
        }
        let finalizers = || object.finalizers().map(str::to_owned).collect();
        if those(Owner::Orphaning).next().is_some() {
            let rest = known.iter().filter(|(_, owner)| *owner != Owner::Orphaning);
            return Act::Rewrite(rest.map(|(reference, _)| Value::clone(reference)).collect(), finalizers());
        }
        let solid: Vec<_> = those(Owner::Solid).map(|(reference, _)| Value::clone(reference)).collect();
        let waited_for = those(Owner::Waiting).next().is_some();
        match solid.len() {
            0 if waited_for && !self.dependents(object.text("uid")).is_empty() => Act::Delete("Foreground"),
            0 => Act::Delete("Background"),
            count if count == owners.len() => Act::Keep,
            _ => Act::Rewrite(solid, finalizers()),
        }
    }

    /// The references that name this uid, of all objects.
    fn dependents(&self, uid: &str) -> Vec<&Value> {
        let objects = self.tables.iter().flat_map(|table| table.objects.values());
        objects.flat_map(|object| object.owners()).filter(|owner| owner["uid"] == uid).collect()
    }

    fn owner(&self, reference: &Value, namespace: &str) -> Owner {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let is_meant = |kind: &str, other: &str| kind == text("kind") && other == group;
        let Some(table) = self.tables.iter().find(|table| is_meant(table.resource.kind, table.resource.group)) else {
            return Owner::Unknown;
        };
        let owner = table.objects.get(&table.resource.key(namespace, text("name")));
        let Some(owner) = owner.filter(|owner| owner.text("uid") == text("uid")) else { return Owner::Absent };
        let has = |finalizer: &str| owner.finalizers().any(|other| other == finalizer);
        match owner.is_deleting() {
            true if has(FOREGROUND) => Owner::Waiting,
            true if has("orphan") => Owner::Orphaning,
            _ => Owner::Solid,
        }
    }

    /// Stores what `new` has become outside of any request: removed if it was waiting for its last finalizer only.
    pub(super) fn settle(&mut self, table: usize, key: &str, mut new: Value) {
        new.normalize_metadata();
        if rules::is_finished(&new) {
            self.remove(table, key);
        } else if self.tables[table].objects.get(key).is_none_or(|old| **old != new) {
            self.commit(table, key.to_owned(), new);
        }
    }
}

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Solid,
    /// Deleted in the foreground: waits until its dependents are gone.
    Waiting,
    /// Deleted with its dependents left alone.
    Orphaning,
    Absent,
    /// Of a kind that is not served, so not known to be absent: the real collector keeps the object and tries again.
    Unknown,
}
