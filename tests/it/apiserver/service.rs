//! The server as a tower service: routes a request, lets it meet its fault, carries it out, logs it, answers.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use futures::future::BoxFuture;
use http::{Request, Response, header, request::Parts};
use http_body_util::BodyExt as _;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use super::ApiServer;
use super::call::{self, Call, Path, Payload, Verb};
use super::discovery;
use super::failure::Failure;
use super::fault::FaultKind;
use super::read::{Page, Rendered};
use super::store::State;
use super::watch;
use super::write::Deleted;

/// Requests remembered one by one; older ones only count.
const LOG_LIMIT: usize = 65_536;

/// One request, in the order in which requests were carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) client: Arc<str>,
    pub(crate) verb: Verb,
    pub(crate) resource: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The code of the answer; `None` if the request was never carried out nor answered.
    pub(crate) code: Option<u16>,
}

/// The requests so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) requests: VecDeque<Logged>,
    pub(super) counts: BTreeMap<(Verb, &'static str), usize>,
}

/// One client's connection to the server.
#[derive(Clone)]
pub(crate) struct ApiService {
    pub(super) server: ApiServer,
    pub(super) client: Arc<str>,
}

impl Service<Request<kube::client::Body>> for ApiService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let Self { server, client } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            match server.route(&client, &parts, &body) {
                Ok(Route::Call(call)) => server.meet(*call).await,
                Ok(Route::Document(document)) => Ok(server.respond(200, document.to_string())),
                Err(failure) => Ok(server.refuse(&failure)),
            }
        })
    }
}

enum Route {
    Call(Box<Call>),
    Document(Value),
}

impl ApiServer {
    fn route(&self, client: &Arc<str>, parts: &Parts, body: &Bytes) -> Result<Route, Failure> {
        let state = self.state();
        if let Some(document) = discovery::document(&state, parts.uri.path()) {
            return Ok(Route::Document(document));
        }
        let path = Path::parse(parts.uri.path()).ok_or_else(Failure::no_such_path)?;
        let is_meant = |resource: &super::Resource| resource.group == path.group && resource.plural == path.plural;
        let table = state.tables.iter().position(|table| is_meant(&table.resource));
        let table = table.ok_or_else(Failure::no_such_path)?;
        let resource = Arc::clone(&state.tables[table].resource);
        drop(state);
        call::parse(client, parts, body, &path, (table, resource)).map(|call| Route::Call(Box::new(call)))
    }

    /// Carries the request out as far as its fault allows.
    async fn meet(&self, call: Call) -> Result<Response<Body>, BoxError> {
        match self.faults().take(&call) {
            None => Ok(self.execute(call, None)),
            Some(FaultKind::Stale(revision)) => Ok(self.execute(call, Some(revision))),
            Some(FaultKind::Status(code, reason)) => {
                self.record(&call, Some(code));
                Ok(self.refuse(&Failure::injected(code, reason)))
            }
            Some(FaultKind::LoseBefore) => {
                self.record(&call, None);
                Err(lost())
            }
            Some(FaultKind::ExecuteThenLose) => {
                drop(self.execute(call, None));
                Err(lost())
            }
            Some(FaultKind::Hang) => {
                self.record(&call, None);
                match pending::<Infallible>().await {}
            }
            Some(FaultKind::DelayAfter(delay)) => {
                let response = self.execute(call, None);
                tokio::time::sleep(delay).await;
                Ok(response)
            }
            Some(FaultKind::Delay(delay)) => self.execute_after(call, tokio::time::sleep(delay)).await,
            Some(FaultKind::HoldUntil(gate)) => self.execute_after(call, async move { gate.wait().await }).await,
            Some(FaultKind::WatchEnd | FaultKind::WatchCut | FaultKind::WatchDelay(_) | FaultKind::WatchHold(_)) => {
                Ok(self.execute(call, None))
            }
        }
    }

    /// In a task of its own: what is under way arrives, whether or not the client still waits for the answer.
    async fn execute_after(
        &self,
        call: Call,
        wait: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, BoxError> {
        let server = self.clone();
        let task = tokio::spawn(async move {
            wait.await;
            server.execute(call, None)
        });
        Ok(task.await?)
    }

    /// Carries the request out and logs it.
    fn execute(&self, mut call: Call, lag: Option<u64>) -> Response<Body> {
        let payload = std::mem::replace(&mut call.payload, Payload::None);
        let response = match call.verb {
            Verb::Watch => self.watch(&call, lag),
            _ => self.perform(&call, payload, lag),
        };
        let response = response.unwrap_or_else(|failure| self.refuse(&failure));
        self.record(&call, Some(response.status().as_u16()));
        response
    }

    fn watch(&self, call: &Call, lag: Option<u64>) -> Result<Response<Body>, Failure> {
        let served = served(&self.state(), call)?;
        Ok(self.respond(200, watch::open(self, call.clone(), served, lag)?))
    }

    fn perform(&self, call: &Call, payload: Payload, lag: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut state = self.state();
        let served = served(&state, call)?;
        let (code, object) = match (call.verb, payload) {
            (_, Payload::Refused(failure)) => return Err(failure),
            (Verb::Get, _) => (200, state.get(call, lag)?),
            (Verb::List, _) => {
                let page = state.list(call, lag)?;
                drop(state);
                return Ok(self.respond(200, list_document(call, &page)));
            }
            (_, Payload::Create(object)) => (201, state.create(call.target(), object)?),
            (_, Payload::Update(update)) => {
                let (object, created) = state.update(call.target(), update)?;
                (if created { 201 } else { 200 }, object)
            }
            (_, Payload::Delete(deletion)) => match state.delete(call.target(), &deletion)? {
                Deleted::Pending(object) => (200, object),
                Deleted::Gone(object) => {
                    drop(state);
                    return Ok(self.respond(200, deleted_document(call, &object).to_string()));
                }
            },
            (_, Payload::None) => return Err(Failure::method_not_allowed()),
        };
        drop(state);
        let api_version = call.resource.api_version(served);
        let rendered = Rendered { object: &object, api_version: &api_version, metadata_only: call.metadata_only };
        Ok(self.respond(code, serde_json::to_vec(&rendered).unwrap_or_default()))
    }

    fn respond(&self, code: u16, body: impl Into<Body>) -> Response<Body> {
        let date = self.now();
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap_or_default();
        let response = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
        response.header(header::DATE, date).body(body.into()).expect("code and headers are valid")
    }

    fn refuse(&self, failure: &Failure) -> Response<Body> {
        let plain = *failure == Failure::no_such_path();
        let body = if plain { failure.message.clone() } else { failure.status().to_string() };
        self.respond(failure.code, body)
    }

    fn record(&self, call: &Call, code: Option<u16>) {
        let mut log = self.log();
        *log.counts.entry((call.verb, call.resource.plural)).or_default() += 1;
        if log.requests.len() == LOG_LIMIT {
            log.requests.pop_front();
        }
        log.requests.push_back(Logged {
            client: Arc::clone(&call.client),
            verb: call.verb,
            resource: call.resource.plural,
            namespace: call.namespace.clone(),
            name: call.name.clone(),
            subresource: call.subresource.clone(),
            code,
        });
    }
}

/// The version of the path, if it and the subresource are served now.
fn served(state: &State, call: &Call) -> Result<&'static str, Failure> {
    let served = state.tables[call.table].served.iter().find(|served| **served == call.version);
    let has_status = call.resource.status_subresource && call.subresource == "status";
    match served {
        Some(served) if call.subresource.is_empty() || has_status => Ok(served),
        _ => Err(Failure::no_such_path()),
    }
}

fn lost() -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection broken by the test").into()
}

/// A list on the wire.
#[derive(serde::Serialize)]
struct List<'a> {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    metadata: Value,
    items: Vec<Rendered<'a>>,
}

fn list_document(call: &Call, page: &Page) -> Vec<u8> {
    let api_version = call.resource.api_version(&call.version);
    let render = |object| Rendered { object, api_version: &api_version, metadata_only: call.metadata_only };
    let items: Vec<_> = page.objects.iter().map(|object| render(object)).collect();
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.token.is_empty() {
        metadata["continue"] = json!(page.token);
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let (kind, api_version) = if call.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1")
    } else {
        (format!("{}List", call.resource.kind), api_version.as_str())
    };
    serde_json::to_vec(&List { kind, api_version, metadata, items }).unwrap_or_default()
}

fn deleted_document(call: &Call, object: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": call.name, "group": call.resource.group, "kind": call.resource.plural,
            "uid": object["metadata"]["uid"],
        },
    })
}
