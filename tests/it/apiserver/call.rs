//! A request as the rules see it: parsed out of method, path, query and body.

use std::fmt;
use std::sync::Arc;

use axum::body::Bytes;
use http::{Method, header, request::Parts};
use serde_json::Value;

use super::failure::Failure;
use super::metadata::Metadata as _;
use super::resource::Resource;
use super::select::Selector;
use super::write::{Deletion, Target, Update};

/// What a request does, in the words of RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// One request to a resource.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) client: Arc<str>,
    pub(crate) verb: Verb,
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped objects, and for lists and watches of all namespaces.
    pub(crate) namespace: String,
    /// Empty for lists and watches; of a create it is the name (or generateName) in the body.
    pub(crate) name: String,
    pub(crate) subresource: String,
    pub(super) table: usize,
    /// As in the path; it need not be one that is served.
    pub(super) version: String,
    pub(super) query: Query,
    /// Whether the client asked for metadata only.
    pub(super) metadata_only: bool,
    pub(super) payload: Payload,
}

/// The parsed body.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    None,
    Create(Value),
    Update(Update),
    Delete(Deletion),
    Refused(Failure),
}

/// The parameters that the server knows; others are ignored.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent parameters of the wire format")]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) selector: Selector,
    pub(super) limit: usize,
    pub(super) token: String,
    pub(super) resource_version: String,
    pub(super) version_match: String,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) bookmarks: bool,
    pub(super) initial_events: bool,
    pub(super) dry_run: bool,
}

/// A path under `/api` or `/apis`, split; parts that are absent are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) namespace: &'a str,
    pub(super) plural: &'a str,
    pub(super) name: &'a str,
    pub(super) subresource: &'a str,
}

impl<'a> Path<'a> {
    /// `None` for a path that cannot be a resource's.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let core_namespace = group.is_empty() && matches!(rest, [_, _] | [_, _, "status" | "finalize"]);
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !core_namespace => (*namespace, rest),
            _ => ("", rest),
        };
        let mut rest = rest.iter().copied();
        let mut next = || rest.next().unwrap_or_default();
        let parsed = Self { group, version, namespace, plural: next(), name: next(), subresource: next() };
        (rest.next().is_none() && !parsed.plural.is_empty()).then_some(parsed)
    }
}

impl Query {
    pub(super) fn parse(query: &str) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        let number = |key: &str, value: &str| {
            value.parse::<u64>().map_err(|_| Failure::bad_request(format!("{key}: {value:?} is not a number")))
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            match key {
                "watch" => parsed.watch = is_true(&value),
                "labelSelector" => parsed.selector.parse_labels(&value)?,
                "fieldSelector" => parsed.selector.parse_fields(&value)?,
                "limit" => parsed.limit = usize::try_from(number(key, &value)?).unwrap_or(usize::MAX),
                "continue" => parsed.token = value,
                "resourceVersion" => parsed.resource_version = value,
                "resourceVersionMatch" => parsed.version_match = value,
                "timeoutSeconds" => parsed.timeout_seconds = Some(number(key, &value)?),
                "allowWatchBookmarks" => parsed.bookmarks = is_true(&value),
                "sendInitialEvents" => parsed.initial_events = is_true(&value),
                "dryRun" => parsed.dry_run = value == "All",
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The resourceVersion asked for; unset reads as `None`.
    pub(super) fn revision(&self) -> Result<Option<u64>, Failure> {
        match self.resource_version.as_str() {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Failure::bad_request(format!("invalid resource version: {text}")))
            }
        }
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

/// Undoes the form encoding of a query's value. What is no valid escape stays as it is.
fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = if *first == b'%' { tail.get(..2) } else { None };
        let escaped = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(match (escaped, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, other) => *other,
        });
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Builds the call out of its parts, or says why there is none.
pub(super) fn parse(
    client: &Arc<str>,
    parts: &Parts,
    body: &Bytes,
    path: &Path<'_>,
    (table, resource): (usize, Arc<Resource>),
) -> Result<Call, Failure> {
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let verb = match (&parts.method, path.name.is_empty()) {
        (&Method::GET, true) if query.watch => Verb::Watch,
        (&Method::GET, true) => Verb::List,
        (&Method::GET, false) => Verb::Get,
        (&Method::POST, true) if resource.namespaced != path.namespace.is_empty() => Verb::Create,
        (&Method::PUT, false) => Verb::Update,
        (&Method::PATCH, false) => Verb::Patch,
        (&Method::DELETE, false) if path.subresource.is_empty() => Verb::Delete,
        _ => return Err(Failure::method_not_allowed()),
    };
    let scoped = path.namespace.is_empty() || resource.namespaced;
    let complete = path.name.is_empty() || resource.namespaced != path.namespace.is_empty();
    if !(scoped && complete) {
        return Err(Failure::no_such_path());
    }
    let payload = payload(verb, header(header::CONTENT_TYPE), body);
    let name = match &payload {
        Payload::Create(object) if object.text("name").is_empty() => object.text("generateName"),
        Payload::Create(object) => object.text("name"),
        _ => path.name,
    };
    Ok(Call {
        client: Arc::clone(client),
        verb,
        resource,
        namespace: path.namespace.to_owned(),
        name: name.to_owned(),
        subresource: path.subresource.to_owned(),
        table,
        version: path.version.to_owned(),
        query,
        metadata_only: header(header::ACCEPT).contains("as=PartialObjectMetadata"),
        payload,
    })
}

fn payload(verb: Verb, content_type: &str, body: &Bytes) -> Payload {
    let refused = |error: serde_json::Error| Payload::Refused(Failure::bad_request(format!("body: {error}")));
    match (verb, content_type) {
        (Verb::Get | Verb::List | Verb::Watch, _) => Payload::None,
        (Verb::Delete, _) if body.is_empty() => Payload::Delete(Deletion::default()),
        (Verb::Patch, "application/json-patch+json") => {
            serde_json::from_slice(body).map_or_else(refused, |patch| Payload::Update(Update::Json(patch)))
        }
        (Verb::Patch, "application/merge-patch+json") => {
            serde_json::from_slice(body).map_or_else(refused, |patch| Payload::Update(Update::Merge(patch)))
        }
        (Verb::Patch, other) => Payload::Refused(Failure::unsupported_patch(other)),
        (Verb::Create, _) => serde_json::from_slice(body).map_or_else(refused, Payload::Create),
        (Verb::Update, _) => {
            serde_json::from_slice(body).map_or_else(refused, |object| Payload::Update(Update::Put(object)))
        }
        (Verb::Delete, _) => {
            serde_json::from_slice(body).map_or_else(refused, |options| Payload::Delete(deletion(&options)))
        }
    }
}

fn deletion(options: &Value) -> Deletion {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Deletion {
        uid: text(&options["preconditions"]["uid"]),
        resource_version: text(&options["preconditions"]["resourceVersion"]),
        policy: text(&options["propagationPolicy"]).unwrap_or_default(),
    }
}

impl Call {
    pub(super) fn target(&self) -> Target<'_> {
        Target {
            table: self.table,
            version: &self.version,
            namespace: &self.namespace,
            name: &self.name,
            status: !self.subresource.is_empty(),
            dry_run: self.query.dry_run,
        }
    }

    /// What the keys of the objects that a list or watch covers begin with.
    pub(super) fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }
}
