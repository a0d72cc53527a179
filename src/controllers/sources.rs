//! The watches: one for each kind, pools first.

use std::fmt::Debug;
use std::future::Future;

use kube::api::Api;
use kube::core::{ApiResource, DynamicResourceScope};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::sight::Sight;
use super::view::Change;
use crate::api::capi::CapiVersion;
use crate::api::names::{GROUP, PoolKind};
use crate::k8s::clients::Clients;
use crate::k8s::clock::Clock;
use crate::k8s::watch::{Event, Follower};

/// Changes that may wait for the router; more slow the watches down.
const QUEUE: usize = 4_096;

/// What is followed; the router is ready when all of it has been listed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Pools(PoolKind),
    Claims,
    Addresses,
    Clusters,
}

impl Source {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let pools = PoolKind::ALL.into_iter().map(Self::Pools);
        pools.chain([Self::Claims, Self::Addresses, Self::Clusters])
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Pools(kind) => format!("{}.{GROUP}", kind.plural()),
            Self::Claims => format!("ipaddressclaims.{GROUP}"),
            Self::Addresses => format!("ipaddresses.{GROUP}"),
            Self::Clusters => "clusters.cluster.x-k8s.io".to_owned(),
        }
    }

    /// Whether the product can work without this kind: there may be no clusters (behaviour.md §1), and manifests of
    /// an older release bring no prefix pools.
    pub(super) fn may_be_missing(self) -> bool {
        match self {
            Self::Clusters => true,
            Self::Pools(kind) => kind.is_prefix(),
            Self::Claims | Self::Addresses => false,
        }
    }

    /// Whether the product can work without the right to see this kind: the RBAC of an older release names no prefix
    /// pools, and with rights in one namespace alone there are no Global pools (C16).
    pub(super) fn may_be_forbidden(self, in_one_namespace: bool) -> bool {
        match self {
            Self::Clusters => in_one_namespace,
            Self::Pools(kind) => kind.is_prefix() || (kind.is_global() && in_one_namespace),
            Self::Claims | Self::Addresses => false,
        }
    }
}

/// Where everything that is watched comes out.
pub struct Sources {
    /// For the router.
    pub changes: mpsc::Receiver<Change>,
    /// The watches; none of them ends by itself.
    pub tasks: JoinSet<&'static str>,
}

/// What all watches share.
struct Following<'a> {
    client: Client,
    /// C16: what is namespaced is watched here alone, with rights that need not reach further.
    namespace: Option<&'a str>,
    events: mpsc::Sender<Change>,
    clock: Clock,
    sight: Sight,
}

impl Following<'_> {
    fn follower<K>(
        &self,
        source: Source,
        resource: &ApiResource,
        is_namespaced: bool,
        wrap: impl Fn(Event<K>) -> Change + Send + Sync + 'static,
        name: &'static str,
    ) -> Follower<K, Change>
    where
        K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let all = || Api::all_with(self.client.clone(), resource);
        let here = |namespace: &str| Api::namespaced_with(self.client.clone(), namespace, resource);
        let own = self.namespace.filter(|_| is_namespaced).map(here);
        // Addresses of Global pools are in all namespaces.
        let (api, narrow) = match own {
            Some(own) if source == Source::Addresses => (all(), Some(own)),
            Some(own) => (own, None),
            None => (all(), None),
        };
        Follower {
            api,
            narrow,
            spare: source.may_be_forbidden(self.namespace.is_some()),
            resource: name,
            events: self.events.clone(),
            wrap: Box::new(wrap),
            clock: self.clock.clone(),
            pulse: self.sight.pulse(name),
        }
    }
}

/// Starts to follow all kinds, in one namespace or in all. Addresses are listed once `pools_listed` is true: the first
/// view of them is then newer than the first copies of the pools (F3).
pub fn follow(
    clients: &Clients,
    clock: &Clock,
    api: CapiVersion,
    namespace: Option<&str>,
    sight: &Sight,
    mut pools_listed: watch::Receiver<bool>,
) -> Sources {
    let (events, changes) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    let (clock, sight) = (clock.clone(), sight.clone());
    let following = Following { client: clients.watch.clone(), namespace, events, clock, sight };
    for kind in PoolKind::ALL {
        let (source, resource, name) = (Source::Pools(kind), kind.api_resource(), kind.plural());
        let wrap = move |event| Change::Pools(kind, event);
        let follower = following.follower(source, &resource, !kind.is_global(), wrap, name);
        spawn(&mut tasks, name, follower.run());
    }
    let claims = following.follower(Source::Claims, &api.claims(), true, Change::Claims, "ipaddressclaims");
    spawn(&mut tasks, "ipaddressclaims", claims.run());
    let clusters = following.follower(Source::Clusters, &api.clusters(), true, Change::Clusters, "clusters");
    spawn(&mut tasks, "clusters", clusters.run());
    let addresses = following.follower(Source::Addresses, &api.addresses(), true, Change::Addresses, "ipaddresses");
    spawn(&mut tasks, "ipaddresses", async move {
        if pools_listed.wait_for(|listed| *listed).await.is_ok() {
            addresses.run().await;
        }
    });
    Sources { changes, tasks }
}

fn spawn(tasks: &mut JoinSet<&'static str>, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        run.await;
        name
    });
}
