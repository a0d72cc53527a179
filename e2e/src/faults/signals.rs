//! An owner that ends in order, is killed, loses its Pod, or is stopped and wakes up: how long its pools wait.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Trial;
use crate::eventually::{NotYet, eventually};
use crate::load::Service;
use crate::process::Signal;
use crate::progress::say;
use crate::replicas::delete_pod;

/// The longest that a successor may take before the scenario fails, whatever the goal is.
const TAKEN_WITHIN: Duration = Duration::from_mins(1);
/// How long a stopped owner sleeps at least: longer than its Lease lasts for anybody.
const SLEEPS: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(12));
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// What happens to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGTERM.
    Terminate,
    /// SIGKILL; its Pod, if it has one, stays.
    Kill,
    /// SIGKILL, and its Pod is deleted.
    KillAndDeletePod,
    /// SIGSTOP for longer than its Lease lasts, then SIGCONT.
    Stop,
}

impl Blow {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::KillAndDeletePod => "SIGKILL, Pod deleted",
            Self::Stop => "SIGSTOP",
        }
    }
}

/// What one blow has led to.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// From the blow to the first claim that a successor served.
    pub first: Duration,
    /// Until each pool of the victim had served one.
    pub all: Duration,
    /// Shards that the victim held.
    pub held: usize,
    /// Shards that changed hands until all its pools were served.
    pub moved: usize,
    /// Claims in pools of others meanwhile.
    pub untouched: Service,
}

/// Strikes an owner at a random moment, measures, and brings the number of replicas back to what it was.
pub async fn strike(trial: &mut Trial, blow: Blow) -> Result<Takeover> {
    trial.random_moment().await;
    let (victim, pools) = trial.random_owner()?;
    let (owners, before) = (trial.owners(), trial.leases.holdings());
    let since = Instant::now();
    match blow {
        Blow::Terminate => trial.replicas.signal(&victim, Signal::Term)?,
        Blow::Kill => trial.replicas.kill(&victim)?,
        Blow::KillAndDeletePod => {
            trial.replicas.kill(&victim)?;
            delete_pod(trial.scene.client(), &crate::chart::Release::default(), &victim).await?;
        }
        Blow::Stop => trial.replicas.signal(&victim, Signal::Stop)?,
    }
    let (first, all) = trial.served_by_others(&victim, &pools, since, TAKEN_WITHIN).await?;
    let victims = BTreeSet::from([victim.clone()]);
    let takeover = Takeover {
        first,
        all,
        held: before.counts().get(victim.as_str()).copied().unwrap_or(0),
        moved: trial.leases.holdings().moved_since(&before),
        untouched: trial.untouched(&owners, &victims, since),
    };
    say(format!("{} of {victim}: {takeover:.2?}", blow.name()));
    recover(trial, blow, &victim, since).await?;
    Ok(takeover)
}

async fn recover(trial: &mut Trial, blow: Blow, victim: &str, since: Instant) -> Result<()> {
    match blow {
        Blow::Stop => {
            let sleep = trial.chance.between(SLEEPS.0, SLEEPS.1);
            tokio::time::sleep(sleep.saturating_sub(since.elapsed())).await;
            trial.replicas.signal(victim, Signal::Cont)?;
            // It may find that it was replaced, and end (O9): then somebody starts it again.
            tokio::time::sleep(Duration::from_secs(2)).await;
            for ended in trial.replicas.ended() {
                ensure!(ended == victim, "{ended} ended by itself");
                trial.replicas.start(&trial.stage.control_plane, 1).await?;
            }
        }
        Blow::Terminate => {
            // It hands over before it ends; a second SIGTERM would cut that short.
            let replicas = std::cell::RefCell::new(&mut trial.replicas);
            eventually(&format!("{victim} ends"), ENDS_WITHIN, || async {
                let running = replicas.borrow_mut().get(victim)?.must_run().is_ok();
                if running { Err(NotYet::because("it runs")) } else { Ok(()) }
            })
            .await?;
            let status = trial.replicas.terminate(victim).await?;
            ensure!(status.success(), "after SIGTERM {victim} ended with {status}");
            trial.replicas.start(&trial.stage.control_plane, 1).await?;
        }
        Blow::Kill | Blow::KillAndDeletePod => {
            trial.replicas.start(&trial.stage.control_plane, 1).await?;
        }
    }
    trial.even().await?;
    Ok(())
}
