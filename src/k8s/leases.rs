//! The Leases of one ring: requests of the ownership machine, each sent once and soon or not at all.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::time::timeout;

use super::clients::why;
use super::clock::Clock;
use super::watch::list_all;
use crate::api::lease::{Frame, object, read, vacated};
use crate::pool::key::{Boot, Version};
use crate::shard::lease::{Content, LeaseKey, LeaseNames};
use crate::shard::ownership::{Call, Listing, Outcome};

/// How the Leases of a ring are found and marked.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The namespace of all Leases.
    pub namespace: String,
    /// Their names.
    pub names: LeaseNames,
    /// [`ring_name`](crate::shard::ring::ring_name)
    pub name: String,
    /// [`filter_name`](crate::shard::ring::filter_name)
    pub serves: String,
}

impl Ring {
    /// Those of the Leases that are the ring's, as one state of all of them.
    pub fn listing(&self, items: &[Object], version: Version) -> Listing {
        let leases: BTreeMap<_, _> = items.iter().filter_map(|item| Some((self.key(item)?, read(item)))).collect();
        Listing { version: version.0, leases }
    }

    /// Which Lease of the ring it is, if any.
    pub fn key(&self, object: &Object) -> Option<LeaseKey> {
        self.names.parse(object.metadata.name.as_deref()?)
    }
}

/// How long an answer about a Lease is waited for, where the member Lease lasts `duration`: less than that is valid after
/// it was sent (O1), and more than a server takes that is asked for more than it can do. A renewal that is given up too
/// soon on such a server would stop all replicas.
pub fn answer_within(duration: Duration) -> Duration {
    duration * 3 / 5
}

/// Reads and writes the Leases of a ring. Cheap to clone.
#[derive(Clone)]
pub struct LeaseClient {
    api: Api<Object>,
    clock: Clock,
    ring: Arc<Ring>,
    /// This replica's Pod, if it was found.
    pod: Option<OwnerReference>,
    /// A request that gets no answer by then has none.
    within: Duration,
    /// When this replica registered, for people.
    since: Arc<OnceLock<Timestamp>>,
}

impl LeaseClient {
    /// On a client of its own, so that bulk writes do not starve renewals.
    pub fn new(client: Client, clock: Clock, ring: Arc<Ring>, pod: Option<OwnerReference>, within: Duration) -> Self {
        let api = Api::namespaced(client, &ring.namespace);
        Self { api, clock, ring, pod, within, since: Arc::default() }
    }

    /// Sends a request that was decided on at `decided`. It has no answer if it cannot be sent soon after that: time
    /// counts from the decision, and the process may have slept since.
    pub async fn carry_out(&self, key: &LeaseKey, call: Call, decided: Boot) -> Outcome {
        if self.is_late(decided) {
            return Outcome::NoAnswer;
        }
        let name = self.ring.names.render(key);
        let params = PostParams::default();
        match call {
            Call::Get => self.lease(self.api.get(&name)).await,
            Call::Create(content) => {
                let lease = self.object(key, &name, None, &content);
                self.lease(self.api.create(&params, &lease)).await
            }
            Call::Put { uid, version, content } => {
                let lease = self.object(key, &name, Some((&uid, version)), &content);
                self.lease(self.api.replace(&name, &params, &lease)).await
            }
            Call::Delete { uid, version } => self.delete(&name, uid, version).await,
        }
    }

    /// Lists all Leases of the ring, consistently.
    pub async fn list(&self, decided: Boot) -> Outcome {
        if self.is_late(decided) {
            return Outcome::NoAnswer;
        }
        match timeout(self.within, list_all(&self.api)).await {
            Ok(Ok((items, version))) => Outcome::Listed(self.ring.listing(&items, version)),
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => Outcome::NoAnswer,
        }
    }

    /// Deletes a Lease that was seen in this version, whatever it is of.
    pub async fn delete(&self, name: &str, uid: String, version: u64) -> Outcome {
        let preconditions = Preconditions { uid: Some(uid), resource_version: Some(version.to_string()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match timeout(self.within, self.api.delete(name, &params)).await {
            Ok(Ok(_)) => Outcome::Deleted,
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => Outcome::NoAnswer,
        }
    }

    /// Makes the leader Lease free to be acquired, if it is this copy still: as far as was observed, nobody holds it
    /// any more. `from_original`: an original held it (O7).
    pub async fn vacate(&self, leader: &Object, from_original: bool) -> Outcome {
        let name = leader.metadata.name.as_deref().unwrap_or_default();
        let vacant = vacated(leader, self.clock.now().server, from_original);
        let params = PostParams::default();
        self.lease(self.api.replace(name, &params, &vacant)).await
    }

    /// Whether the process slept, or had no time, between the decision and now.
    fn is_late(&self, decided: Boot) -> bool {
        self.clock.boot().saturating_sub(decided) > self.within / 2
    }

    async fn lease(&self, request: impl Future<Output = Result<Object, kube::Error>>) -> Outcome {
        match timeout(self.within, request).await {
            Ok(Ok(object)) => Outcome::Done(read(&object)),
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => Outcome::NoAnswer,
        }
    }

    fn object(&self, key: &LeaseKey, name: &str, replaces: Option<(&str, u64)>, content: &Content) -> Object {
        let renewed = self.clock.now().server;
        let (owner, acquired) = match key {
            LeaseKey::Member(_) => (self.pod.as_ref(), *self.since.get_or_init(|| renewed)),
            LeaseKey::Shard(_) => (None, renewed),
        };
        let Ring { namespace, name: ring, serves, names } = &*self.ring;
        let shards = names.shards();
        object(&Frame { namespace, name, ring, serves, shards, replaces, owner, acquired, renewed }, content)
    }
}

fn outcome_of(error: &kube::Error) -> Outcome {
    let kube::Error::Api(status) = error else { return Outcome::NoAnswer };
    match StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR) {
        StatusCode::NOT_FOUND => Outcome::NotFound,
        StatusCode::CONFLICT => Outcome::Conflict,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Outcome::NoAnswer,
        code if code.is_client_error() => Outcome::Refused(why(error)),
        _ => Outcome::NoAnswer,
    }
}
