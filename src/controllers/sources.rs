//! The watches: one for each kind, pools first.

use std::future::Future;

use kube::api::Api;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::sight::Sight;
use super::view::Change;
use crate::api::capi::CapiVersion;
use crate::api::names::PoolKind;
use crate::k8s::clients::Clients;
use crate::k8s::clock::Clock;
use crate::k8s::watch::Follower;

/// Changes that may wait for the router; more slow the watches down.
const QUEUE: usize = 4_096;

/// Where everything that is watched comes out.
pub struct Sources {
    /// For the router.
    pub changes: mpsc::Receiver<Change>,
    /// The watches; none of them ends by itself.
    pub tasks: JoinSet<&'static str>,
}

/// Starts to follow all kinds. Addresses are listed once `pools_listed` is true: the first view of them is then newer
/// than the first copies of the pools (F3).
pub fn follow(
    clients: &Clients,
    clock: &Clock,
    api: CapiVersion,
    sight: &Sight,
    mut pools_listed: watch::Receiver<bool>,
) -> Sources {
    let (events, changes) = mpsc::channel(QUEUE);
    let (client, mut tasks) = (clients.watch.clone(), JoinSet::new());
    for kind in PoolKind::ALL {
        let follower = Follower {
            api: Api::all_with(client.clone(), &kind.api_resource()),
            resource: kind.plural(),
            events: events.clone(),
            wrap: Box::new(move |event| Change::Pools(kind, event)),
            clock: clock.clone(),
            pulse: sight.pulse(kind.plural()),
        };
        spawn(&mut tasks, kind.plural(), follower.run());
    }
    let claims = Follower {
        api: Api::all_with(client.clone(), &api.claims()),
        resource: "ipaddressclaims",
        events: events.clone(),
        wrap: Box::new(Change::Claims),
        clock: clock.clone(),
        pulse: sight.pulse("ipaddressclaims"),
    };
    spawn(&mut tasks, "ipaddressclaims", claims.run());
    let clusters = Follower {
        api: Api::all_with(client.clone(), &api.clusters()),
        resource: "clusters",
        events: events.clone(),
        wrap: Box::new(Change::Clusters),
        clock: clock.clone(),
        pulse: sight.pulse("clusters"),
    };
    spawn(&mut tasks, "clusters", clusters.run());
    let addresses = Follower {
        api: Api::all_with(client, &api.addresses()),
        resource: "ipaddresses",
        events,
        wrap: Box::new(Change::Addresses),
        clock: clock.clone(),
        pulse: sight.pulse("ipaddresses"),
    };
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
