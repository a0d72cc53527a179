//! Carrying out the requests of the machines: each is sent at most once, and how it ended is told without guessing.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use kube::Client;
use kube::core::Status;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{Instrument, Span, field, info_span};

use super::clients::{Clients, why};
use super::clock::{Clock, Deadline};
use super::lists::Lists;
use super::observe::{self, PoolReader};
use crate::api::address::NewAddress as AddressBody;
use crate::api::capi::{CapiVersion, CopyOf, IPAddress, IPAddressClaim, claim_status_patch};
use crate::api::names::{CLAIM_UID_ANNOTATION, CLUSTER_NAME_LABEL, GROUP, POOL_API_VERSION, POOL_UID_ANNOTATION};
use crate::api::pools::{self, PoolObject};
use crate::api::status;
use crate::pool::key::{ObjectKey, PoolKey, Uid, Version};
use crate::pool::machine::{Action, NewAddress, Outcome};
use crate::pool::object::{ClusterState, PoolStatus};

/// Requests that all pools together have under way: what one API server answers well in parallel.
pub const MAX_PARALLEL: usize = 64;
/// O2: a request that could not be sent by then is not sent any more.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// The PUT of a status may wait longer: everything else waits for it.
const SEND_STATUS_WITHIN: Duration = Duration::from_secs(15);
/// Whatever the API server and the connection do, a request ends; the client's read timeout comes first.
const END_WITHIN: Duration = Duration::from_secs(90);

/// Writes for all pools. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    clock: Clock,
    api: CapiVersion,
    slots: Arc<Semaphore>,
    lists: Lists,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("api", &self.api)
            .field("free", &self.slots.available_permits())
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer for the kinds in this version.
    pub fn new(clients: &Clients, clock: Clock, api: CapiVersion) -> Self {
        let lists = Lists::new(clients.request.clone(), api);
        Self { client: clients.request.clone(), clock, api, slots: Arc::new(Semaphore::new(MAX_PARALLEL)), lists }
    }

    /// Sends a request when there is a free slot, and waits for its end; nothing is sent after the deadline (O2).
    /// `reader` reads copies of the pool.
    pub async fn carry_out(
        &self,
        pool: &PoolKey,
        action: Action,
        reader: &std::sync::Mutex<PoolReader>,
        deadline: &Deadline,
    ) -> Outcome {
        let (within, not_after) = match &action {
            Action::PutPoolStatus { .. } => (SEND_STATUS_WITHIN, None),
            Action::CreateAddress(new) => (SEND_WITHIN, Some(new.not_after)),
            _ => (SEND_WITHIN, None),
        };
        let span = span_of(pool, &action);
        let permit = tokio::time::timeout(within, self.slots.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Outcome::NotSent("no free slot in time".to_owned()) };
        // As late as possible.
        let now = self.clock.boot();
        if not_after.is_some_and(|end| now >= end) {
            return Outcome::NotSent("the promise is too old to be carried out (F1)".to_owned());
        }
        if deadline.has_passed(now) {
            return Outcome::NotSent("this replica's Lease has run out".to_owned());
        }
        let outcome =
            match tokio::time::timeout(END_WITHIN, self.send(pool, action, reader)).instrument(span.clone()).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Unknown("no answer in time".to_owned()),
            };
        note(&span, &outcome);
        outcome
    }

    async fn send(&self, pool: &PoolKey, action: Action, reader: &std::sync::Mutex<PoolReader>) -> Outcome {
        let read = |object: PoolObject| {
            let mut reader = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Outcome::Pool(Box::new(reader.read(pool.kind, &object)))
        };
        match action {
            Action::PutPoolStatus { uid, version, status, .. } => {
                let body = status_body(pool, &uid, version, *status);
                self.exchange(Method::PUT, &format!("{}/status", pool_path(pool)), Some(&body)).await.map(read)
            }
            Action::PatchPool { uid, version, finalizers } => {
                let mut body = metadata_patch(&uid, version, &finalizers);
                body["metadata"]["annotations"] = json!({ POOL_UID_ANNOTATION: &*uid });
                self.exchange(Method::PATCH, &pool_path(pool), Some(&body)).await.map(read)
            }
            Action::GetPool => self.exchange(Method::GET, &pool_path(pool), None).await.map(read),
            Action::ListAddresses(copy) => match self.lists.of_pool(pool).await {
                Ok((version, items)) => Ok(Outcome::Addresses { version, items, copy }),
                Err(error) => Err(outcome_of(&error)),
            },
            Action::PatchClaim { key, uid, version, finalizers, note_uid } => {
                let mut body = metadata_patch(&uid, version, &finalizers);
                if note_uid {
                    body["metadata"]["annotations"] = json!({ CLAIM_UID_ANNOTATION: &*uid });
                }
                self.claim_exchange(Method::PATCH, &self.claim_path(&key, ""), Some(&body)).await
            }
            Action::PatchClaimStatus { key, uid, version, bound, conditions } => {
                let copy = CopyOf { uid: &uid, resource_version: &version.to_string() };
                let body = claim_status_patch(self.api, copy, bound.then_some(&*key.name), &conditions);
                self.claim_exchange(Method::PATCH, &self.claim_path(&key, "/status"), Some(&body)).await
            }
            Action::GetClaim(key) => self.claim_exchange(Method::GET, &self.claim_path(&key, ""), None).await,
            Action::CreateAddress(new) => self.create(pool, &new).await,
            Action::PatchAddress { key, uid, version, finalizers, owners, label } => {
                let mut body = metadata_patch(&uid, version, &finalizers);
                if let Some(owners) = owners {
                    body["metadata"]["ownerReferences"] = json!(owners);
                }
                if let Some(label) = label {
                    body["metadata"]["labels"] = json!({ CLUSTER_NAME_LABEL: label });
                }
                self.address_exchange(Method::PATCH, &self.address_path(&key), Some(&body)).await
            }
            Action::DeleteAddress { key, uid, version } => self.delete(&key, &uid, version).await,
            Action::GetAddress(key) => self.address_exchange(Method::GET, &self.address_path(&key), None).await,
        }
        .unwrap_or_else(|outcome| outcome)
    }

    async fn create(&self, pool: &PoolKey, new: &NewAddress) -> Result<Outcome, Outcome> {
        let NewAddress { key, held, gateway, owners, label, not_after: _ } = new;
        let (address, gateway) = (held.address.to_string(), gateway.map(|gateway| gateway.to_string()));
        let body = AddressBody {
            version: self.api,
            namespace: &key.namespace,
            name: &key.name,
            pool_kind: pool.kind,
            pool_name: &pool.name,
            owners,
            address: &address,
            prefix: i64::from(held.prefix),
            gateway: gateway.as_deref(),
            cluster: label.as_deref(),
        }
        .body();
        let path = format!("/apis/{}/namespaces/{}/ipaddresses", self.api.api_version(), key.namespace);
        match self.address_exchange(Method::POST, &path, Some(&body)).await {
            // The namespace is gone: nothing was made, and the same again would fail again.
            Err(Outcome::Gone) => Err(Outcome::Refused(format!("the namespace {} does not exist", key.namespace))),
            other => other,
        }
    }

    async fn delete(&self, key: &ObjectKey, uid: &Uid, version: Version) -> Result<Outcome, Outcome> {
        let body = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": { "uid": &**uid, "resourceVersion": version.to_string() },
        });
        let reply: Value = self.exchange(Method::DELETE, &self.address_path(key), Some(&body)).await?;
        // The server answers with the object while finalizers hold it, and with a Status when it is gone.
        if reply["kind"] == "Status" {
            return Ok(Outcome::Gone);
        }
        let object = serde_json::from_value(reply).map_err(|error| Outcome::Unknown(error.to_string()))?;
        read_address(&object)
    }

    async fn claim_exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Outcome, Outcome> {
        let object: IPAddressClaim = self.exchange(method, path, body).await?;
        // The cluster's state is not in the reply; the caller keeps what it knew.
        observe::claim(&object, self.api, ClusterState::None)
            .map(|claim| Outcome::Claim(Arc::new(claim)))
            .ok_or_else(|| Outcome::Refused("the claim does not name a pool of ours any more".to_owned()))
    }

    async fn address_exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Outcome, Outcome> {
        let object: IPAddress = self.exchange(method, path, body).await?;
        read_address(&object)
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Outcome> {
        exchange(&self.client, method, path, body).await
    }

    fn claim_path(&self, key: &ObjectKey, subresource: &str) -> String {
        let ObjectKey { namespace, name } = key;
        format!("/apis/{}/namespaces/{namespace}/ipaddressclaims/{name}{subresource}", self.api.api_version())
    }

    fn address_path(&self, key: &ObjectKey) -> String {
        let ObjectKey { namespace, name } = key;
        format!("/apis/{}/namespaces/{namespace}/ipaddresses/{name}", self.api.api_version())
    }
}

async fn exchange<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<T, Outcome> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let bytes = body.map_or_else(|| Ok(Vec::new()), serde_json::to_vec);
    let request = bytes.map_err(|error| Outcome::Refused(error.to_string())).and_then(|bytes| {
        Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, kind)
            .body(bytes)
            .map_err(|error| Outcome::Refused(error.to_string()))
    })?;
    client.request::<T>(request).await.map_err(|error| outcome_of(&error))
}

/// F5(a): only 201, 409 and other 4xx but 408 and 429 are definitive answers.
fn outcome_of(error: &kube::Error) -> Outcome {
    match error {
        kube::Error::Api(status) => outcome_of_status(status),
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => Outcome::Refused(why(error)),
        kube::Error::Service(source) => {
            let never_connected = source
                .downcast_ref::<hyper_util::client::legacy::Error>()
                .is_some_and(hyper_util::client::legacy::Error::is_connect);
            if never_connected { Outcome::NotSent(why(error)) } else { Outcome::Unknown(why(error)) }
        }
        _ => Outcome::Unknown(why(error)),
    }
}

fn outcome_of_status(status: &Status) -> Outcome {
    let message = || format!("{} ({})", status.message, status.code);
    match StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR) {
        StatusCode::NOT_FOUND => Outcome::Gone,
        StatusCode::CONFLICT if status.reason == "AlreadyExists" => Outcome::Exists,
        StatusCode::CONFLICT => Outcome::Conflict,
        StatusCode::UNPROCESSABLE_ENTITY if is_about_another_copy(status) => Outcome::Conflict,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Outcome::Unknown(message()),
        code if code.is_client_error() => Outcome::Refused(message()),
        _ => Outcome::Unknown(message()),
    }
}

/// F7: another uid is refused as an invalid change of `metadata.uid`; a finalizer on an object that is being deleted
/// meanwhile, as one of `metadata.finalizers`.
fn is_about_another_copy(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.field == "metadata.uid" || cause.field == "metadata.finalizers")
}

fn read_address(object: &IPAddress) -> Result<Outcome, Outcome> {
    let unnamed = || Outcome::Unknown("the reply is no IPAddress".to_owned());
    observe::address(object).map(Outcome::Address).ok_or_else(unnamed)
}

fn pool_path(pool: &PoolKey) -> String {
    let (plural, name) = (pool.kind.plural(), &pool.name);
    if pool.namespace.is_empty() {
        format!("/apis/{POOL_API_VERSION}/{plural}/{name}")
    } else {
        format!("/apis/{POOL_API_VERSION}/namespaces/{}/{plural}/{name}", pool.namespace)
    }
}

fn status_body(pool: &PoolKey, uid: &Uid, version: Version, status: PoolStatus) -> Value {
    let PoolStatus { counts, conditions, observed_generation, record, other } = status;
    let status = status::PoolStatus {
        ip_addresses: counts,
        conditions,
        observed_generation,
        allocation: record.map(|record| record.render()),
        other,
    };
    let namespace = (!pool.kind.is_global()).then_some(&*pool.namespace);
    let copy = CopyOf { uid, resource_version: &version.to_string() };
    pools::status_body(pool.kind, namespace, &pool.name, copy, &status)
}

fn metadata_patch(uid: &Uid, version: Version, finalizers: &[String]) -> Value {
    json!({ "metadata": { "uid": &**uid, "resourceVersion": version.to_string(), "finalizers": finalizers } })
}

/// A span per API call, with what an operator looks for; a child of the batch's span where there is one.
fn span_of(pool: &PoolKey, action: &Action) -> Span {
    let (name, object) = match action {
        Action::PutPoolStatus { .. } => ("put pool status", None),
        Action::PatchPool { .. } => ("patch pool", None),
        Action::GetPool => ("get pool", None),
        Action::ListAddresses(_) => ("list addresses", None),
        Action::PatchClaim { key, .. } => ("patch claim", Some(key)),
        Action::PatchClaimStatus { key, .. } => ("patch claim status", Some(key)),
        Action::GetClaim(key) => ("get claim", Some(key)),
        Action::CreateAddress(new) => ("create address", Some(&new.key)),
        Action::PatchAddress { key, .. } => ("patch address", Some(key)),
        Action::DeleteAddress { key, .. } => ("delete address", Some(key)),
        Action::GetAddress(key) => ("get address", Some(key)),
    };
    let address = match action {
        Action::CreateAddress(new) => Some(new.held.address.to_string()),
        _ => None,
    };
    info_span!(
        "api call",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = field::Empty,
        pool = %pool,
        claim = object.map(field::display),
        address,
        outcome = field::Empty,
        group = GROUP,
    )
}

fn note(span: &Span, outcome: &Outcome) {
    let (word, failed) = match outcome {
        Outcome::Pool(_) | Outcome::Claim(_) | Outcome::Address(_) | Outcome::Addresses { .. } => ("done", false),
        Outcome::Gone => ("gone", false),
        Outcome::Exists => ("exists", false),
        Outcome::Conflict => ("conflict", false),
        Outcome::Refused(_) => ("refused", true),
        Outcome::Unknown(_) => ("no answer", true),
        Outcome::NotSent(_) => ("not sent", true),
    };
    span.record("outcome", word);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::clients;

    #[tokio::test]
    async fn f5_what_no_connection_was_made_for_counts_as_not_sent() {
        // Taken, so that nobody else is given it, and never listened on.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let mut config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().expect("a url"));
        config.default_retry = false;
        let observer: crate::k8s::exchange::Observer = Arc::new(|_| {});
        let clients = clients::clients(&config, &Clock::boottime(), &observer).expect("clients");
        let outcome = exchange::<Value>(&clients.request, Method::GET, "/apis", None).await;
        assert!(matches!(outcome, Err(Outcome::NotSent(_))), "{outcome:?}");
    }
}
