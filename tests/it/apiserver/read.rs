//! Reads: get, and list with paging, older states and selectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use super::call::Call;
use super::failure::Failure;
use super::store::{State, Table};

/// An object as one client asked for it: in a version, and whole or metadata only. Nothing is copied.
pub(super) struct Rendered<'a> {
    pub(super) object: &'a Value,
    pub(super) api_version: &'a str,
    pub(super) metadata_only: bool,
}

impl Serialize for Rendered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.metadata_only {
            map.serialize_entry("kind", "PartialObjectMetadata")?;
            map.serialize_entry("apiVersion", "meta.k8s.io/v1")?;
            map.serialize_entry("metadata", &self.object["metadata"])?;
        } else {
            map.serialize_entry("apiVersion", self.api_version)?;
            for (field, value) in self.object.as_object().into_iter().flatten() {
                if field != "apiVersion" {
                    map.serialize_entry(field, value)?;
                }
            }
        }
        map.end()
    }
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Arc<Value>>,
    pub(super) revision: u64,
    /// Empty on the last page.
    pub(super) token: String,
    pub(super) remaining: Option<usize>,
}

impl State {
    /// `lag` is the revision that a lagging server would show to readers who accept any state.
    pub(super) fn get(&self, call: &Call, lag: Option<u64>) -> Result<Arc<Value>, Failure> {
        let table = &self.tables[call.table];
        let key = call.resource.key(&call.namespace, &call.name);
        let object = match self.readable_revision(call, lag)? {
            Some(revision) => {
                check_kept(table, revision)?;
                table.undo_to(revision).get(key.as_str()).map_or_else(|| table.objects.get(&key), |then| *then)
            }
            None => table.objects.get(&key),
        };
        object.cloned().ok_or_else(|| Failure::not_found(&call.resource, &call.name))
    }

    pub(super) fn list(&self, call: &Call, lag: Option<u64>) -> Result<Page, Failure> {
        let table = &self.tables[call.table];
        let prefix = call.prefix();
        let query = &call.query;
        let (as_of, after) = match query.token.split_once(':') {
            Some((revision, key)) => {
                let revision = revision.parse().map_err(|_| Failure::bad_request("continue key is not valid"))?;
                (Some(revision), Some(key))
            }
            None if !query.token.is_empty() => return Err(Failure::bad_request("continue key is not valid")),
            None => (self.readable_revision(call, lag)?, None),
        };
        let matching = self.matching(table, call, as_of)?;
        let first = after.map_or(0, |key| matching.partition_point(|(candidate, _)| *candidate <= key));
        let rest = &matching[first..];
        // The cache of the real server, which answers "any state", does not page.
        let limit = if query.limit == 0 || query.resource_version == "0" { usize::MAX } else { query.limit };
        let page = &rest[..rest.len().min(limit)];
        let revision = as_of.unwrap_or(self.revision);
        let remaining = rest.len() - page.len();
        let token = match page.last() {
            Some((key, _)) if remaining > 0 => format!("{revision}:{key}"),
            _ => String::new(),
        };
        debug_assert!(matching.iter().all(|(key, _)| key.starts_with(&prefix)), "a list keeps to its namespace");
        Ok(Page {
            objects: page.iter().map(|(_, object)| Arc::clone(object)).collect(),
            revision,
            token,
            remaining: (remaining > 0 && query.selector.is_everything()).then_some(remaining),
        })
    }

    /// The objects that the call covers, in the order of their keys, as they are or as they were at a revision.
    pub(super) fn matching<'a>(
        &self,
        table: &'a Table,
        call: &Call,
        as_of: Option<u64>,
    ) -> Result<Vec<(&'a str, &'a Arc<Value>)>, Failure> {
        let prefix = call.prefix();
        let undone = match as_of {
            Some(revision) if revision < self.revision => {
                check_kept(table, revision)?;
                table.undo_to(revision)
            }
            _ => BTreeMap::new(),
        };
        let present = table.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let unchanged = present.filter(|(key, _)| !undone.contains_key(key.as_str()));
        let mut objects: Vec<_> = unchanged.map(|(key, object)| (key.as_str(), object)).collect();
        let undone = undone.into_iter().filter_map(|(key, then)| then.map(|object| (key, object)));
        let before = objects.len();
        objects.extend(undone.filter(|(key, _)| key.starts_with(&prefix)));
        if objects.len() > before {
            objects.sort_unstable_by_key(|(key, _)| *key);
        }
        if !call.query.selector.is_everything() {
            objects.retain(|(_, object)| call.query.selector.matches(object));
        }
        Ok(objects)
    }

    /// The revision that a read without a continue token shows; `None` is the newest.
    fn readable_revision(&self, call: &Call, lag: Option<u64>) -> Result<Option<u64>, Failure> {
        let query = &call.query;
        let exact = query.version_match == "Exact" || (query.version_match.is_empty() && query.limit > 0);
        match query.revision()? {
            None => Ok(None),
            Some(asked) if asked > self.revision => Err(Failure::too_large_resource_version(asked, self.revision)),
            Some(asked) if exact && asked > 0 => Ok(Some(asked)),
            // "Not older than": a lagging server may answer with what it has, if that is new enough.
            Some(asked) => Ok(lag.filter(|lag| (asked..self.revision).contains(lag))),
        }
    }
}

fn check_kept(table: &Table, revision: u64) -> Result<(), Failure> {
    if revision < table.compacted {
        let compacted = table.compacted;
        return Err(Failure::expired(format!("too old resource version: {revision} ({compacted})")));
    }
    Ok(())
}
