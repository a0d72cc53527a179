//! Events (events.k8s.io/v1), which `kubectl describe` shows with the object that they are about.
//!
//! Not kube's `Recorder`: it writes once for every repetition, cannot name the Event of an object whose own name is long,
//! and takes its time from the local wall clock.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::time::timeout;

use super::clients::why;
use super::clock::Clock;
use crate::api::names::{CLAIM_KIND, POOL_API_VERSION};
use crate::pool::key::{ObjectKey, PoolKey, Uid};

/// Who reports, as `kubectl` shows it.
const CONTROLLER: &str = "ipam.cluster.x-k8s.io/in-cluster";
/// An Event that takes longer is given up.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The server refuses a longer note, in bytes.
const NOTE_LIMIT: usize = 1_024;
/// And a longer reporting instance.
const INSTANCE_LIMIT: usize = 128;
/// So much of the object's name goes into the Event's: a name has at most 253 characters.
const NAME_LIMIT: usize = 230;
/// Where Events of objects go that have no namespace.
const CLUSTER_NAMESPACE: &str = "default";

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The object.
    pub subject: Subject,
    /// Whether somebody ought to look at it.
    pub warning: bool,
    /// Why, as one word.
    pub reason: &'static str,
    /// What was being done, as one word.
    pub action: &'static str,
    /// What happened, for people.
    pub note: String,
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `apiVersion` and `kind`
    pub kind: (String, &'static str),
    /// Empty for what belongs to none.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`: `kubectl describe` asks for it.
    pub uid: Uid,
}

impl Subject {
    /// A pool.
    pub fn pool(key: &PoolKey, uid: &Uid) -> Self {
        Self {
            kind: (POOL_API_VERSION.to_owned(), key.kind.kind()),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.clone(),
        }
    }

    /// A claim that is served in this version.
    pub fn claim(api_version: String, key: &ObjectKey, uid: &Uid) -> Self {
        Self {
            kind: (api_version, CLAIM_KIND),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.clone(),
        }
    }

    /// The namespace of its Events.
    pub fn event_namespace(&self) -> &str {
        if self.namespace.is_empty() { CLUSTER_NAMESPACE } else { &self.namespace }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.kind.0.clone()),
            kind: Some(self.kind.1.to_owned()),
            namespace: Some(self.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }
}

/// An Event that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Why an Event was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// This service account may not write Events in this namespace.
    Forbidden(String),
    /// The Event that should have been counted up does not exist any more.
    Expired,
    /// Anything else; it is not tried again.
    Failed(String),
}

/// Writes Events, each at most once. Cheap to clone.
#[derive(Clone)]
pub struct EventClient {
    client: Client,
    clock: Clock,
    instance: String,
}

impl EventClient {
    /// For the Events of this replica.
    pub fn new(client: Client, clock: Clock, instance: &str) -> Self {
        Self { client, clock, instance: cut(instance, INSTANCE_LIMIT).to_owned() }
    }

    /// Writes a new Event.
    pub async fn create(&self, news: &News) -> Result<Written, NotWritten> {
        let namespace = news.subject.event_namespace().to_owned();
        let name = event_name(&news.subject.name, rand::random());
        let event = Event {
            metadata: ObjectMeta {
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(self.clock.now().server)),
            type_: Some(if news.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(news.reason.to_owned()),
            action: Some(news.action.to_owned()),
            note: Some(cut(&news.note, NOTE_LIMIT).to_owned()),
            regarding: Some(news.subject.reference()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        end(api.create(&PostParams::default(), &event)).await?;
        Ok(Written { namespace, name })
    }

    /// Says how often an Event has happened by now.
    pub async fn repeat(&self, event: &Written, count: i32) -> Result<(), NotWritten> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.namespace);
        let last = MicroTime(self.clock.now().server);
        let series = json!({ "series": { "count": count, "lastObservedTime": last } });
        end(api.patch(&event.name, &PatchParams::default(), &Patch::Merge(series))).await.map(drop)
    }
}

async fn end(request: impl Future<Output = Result<Event, Error>>) -> Result<Event, NotWritten> {
    match timeout(END_WITHIN, request).await {
        Ok(Ok(event)) => Ok(event),
        Ok(Err(error)) => Err(of_error(&error)),
        Err(_) => Err(NotWritten::Failed("no answer in time".to_owned())),
    }
}

fn of_error(error: &Error) -> NotWritten {
    match error {
        Error::Api(status) if status.code == 404 => NotWritten::Expired,
        // A namespace that is being deleted takes nothing new, whoever asks.
        Error::Api(status) if status.code == 403 => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let ends = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
            if ends { NotWritten::Failed(why(error)) } else { NotWritten::Forbidden(why(error)) }
        }
        _ => NotWritten::Failed(why(error)),
    }
}

/// A name that nobody else gives: the object's, as far as it fits, and a number.
fn event_name(object: &str, number: u64) -> String {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    format!("{}.{number:016x}", cut(object, NAME_LIMIT).trim_end_matches(|c| !is_end(c)))
}

/// As much of a text as fits into so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_valid_name_however_long_that_of_its_object_is() {
        assert_eq!(event_name("a", 10), "a.000000000000000a");
        let long = format!("{}-.{}", "a".repeat(NAME_LIMIT - 2), "b".repeat(23));
        let name = event_name(&long, 1);
        assert!(name.len() <= 253 && name.contains("a.0"), "{name}");
    }

    #[test]
    fn a_namespace_that_ends_is_no_missing_right() {
        let status = |causes: serde_json::Value| {
            let status =
                json!({ "code": 403, "reason": "Forbidden", "message": "no", "details": { "causes": causes } });
            Error::Api(serde_json::from_value::<kube::core::Status>(status).expect("a status").boxed())
        };
        let ends = status(json!([{ "reason": "NamespaceTerminating", "message": "m", "field": "metadata.namespace" }]));
        assert!(matches!(of_error(&ends), NotWritten::Failed(_)));
        assert!(matches!(of_error(&status(json!([]))), NotWritten::Forbidden(_)));
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("aüb", 2), "a");
        assert_eq!(cut("aüb", 3), "aü");
        assert_eq!(cut("ab", 9), "ab");
    }
}
