//! The API server or etcd is away for a while, or comes back with an old state.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, ListParams};

use super::{Plan, SERVED_WITHIN, Trial};
use crate::address_checker::AddressChecker;
use crate::fixtures::claim;
use crate::load::{Service, allowed};
use crate::progress::say;

/// How long a server is away: in any case longer than a member Lease lasts.
const AWAY: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(12));
/// After this long without a takeover there is none.
const QUIET: Duration = Duration::from_secs(10);
/// In which replicas that see history go back end by themselves.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// kube-apiserver.
    Api,
    /// etcd, under a running API server.
    Etcd,
}

/// What an outage has led to.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// How long nothing was served: from its end until the API server was ready again.
    pub away: Duration,
    /// From its return to the first claim that was served.
    pub first: Duration,
    /// Claims that waited after its return.
    pub after: Service,
    /// Shards that changed hands.
    pub moved: usize,
}

/// Kills a server, starts it again, and looks whether replicas took each other's shards for that.
pub async fn restart(trial: &mut Trial, server: Server) -> Result<Outage> {
    trial.random_moment().await;
    let before = trial.leases.holdings();
    let since = Instant::now();
    let pause = trial.chance.between(AWAY.0, AWAY.1);
    let control_plane = &mut trial.stage.control_plane;
    match server {
        Server::Api => {
            control_plane.stop_api_server()?;
            tokio::time::sleep(pause).await;
            control_plane.start_api_server().await?;
        }
        Server::Etcd => {
            control_plane.stop_etcd()?;
            tokio::time::sleep(pause).await;
            control_plane.start_etcd().await?;
        }
    }
    let back = Instant::now();
    trial.checker.all_served(back, SERVED_WITHIN).await?;
    tokio::time::sleep(QUIET).await;
    trial.replicas.must_run()?;
    let firsts = (0..trial.load.pools().len()).filter_map(|pool| trial.load.first_served(pool, back, |_| true));
    let outage = Outage {
        away: back.saturating_duration_since(since),
        first: firsts.min().map_or(Duration::ZERO, |first| first.saturating_duration_since(back)),
        after: trial.service(back),
        moved: trial.leases.holdings().moved_since(&before),
    };
    say(format!("{server:?} away: {outage:.2?}"));
    Ok(outage)
}

/// What a restored snapshot has led to.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// Replicas that ended by themselves.
    pub ended: usize,
    /// Replicas that there were.
    pub replicas: usize,
}

/// Restores a snapshot under running replicas, after addresses that are held in it were released and given to others.
/// Then does what the runbook says: ends what still runs, and starts the replicas anew.
pub async fn restore(plan: Plan) -> Result<Restored> {
    let mut trial = Trial::start(plan).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    trial.load.stop().await;
    trial.checker.all_served(Instant::now(), SERVED_WITHIN).await?;
    trial.stage.control_plane.back_up()?;
    reuse_all(&mut trial).await?;
    ensure!(trial.checker.violations().is_empty(), "{:?}", trial.checker.violations());

    let replicas = trial.replicas.names().len();
    trial.stage.control_plane.restore().await?;
    // Another history: the old one's claims had the same addresses.
    trial.checker = AddressChecker::start(trial.scene.client()).await?;
    for (kind, pool, range) in allowed(&trial.load) {
        trial.checker.allow(kind, trial.scene.namespace(), pool, [range.as_str()])?;
    }
    create_in_all(&trial, "restored").await?;
    let since = Instant::now();
    let mut ended = 0;
    while ended < replicas && since.elapsed() < ENDS_WITHIN {
        ended += trial.replicas.ended().len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let restored = Restored { ended, replicas };
    say(format!("{restored:?} after {:.1?}", since.elapsed()));
    trial.replicas.terminate_all().await?;
    trial.replicas.start(&trial.stage.control_plane, replicas).await?;
    create_in_all(&trial, "anew").await?;
    trial.finish(Instant::now()).await?;
    Ok(restored)
}

/// Claims that take the addresses of all that are released.
async fn reuse_all(trial: &mut Trial) -> Result<()> {
    let claims = trial.scene.claims();
    claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    create_in_all(trial, "later").await?;
    trial.checker.all_served(Instant::now(), 2 * SERVED_WITHIN).await
}

async fn create_in_all(trial: &Trial, prefix: &str) -> Result<()> {
    let names = trial.load.pools().iter().flat_map(|pool| (0..10).map(move |number| (pool, number)));
    trial.scene.create_all(names.map(|(pool, number)| claim(&format!("{prefix}-{pool}-{number}")).in_pool(pool))).await
}
