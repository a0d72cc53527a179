//! Replicas under load while something breaks, and what is measured meanwhile.
//!
//! Each scenario begins with a [`Trial`]: a control plane, replicas, a [`Load`] and an
//! [`AddressChecker`]. It ends with [`Trial::finish`], which fails if an
//! address was ever held twice, a claim's address changed, or a claim still waits 10 s after the last fault.

pub mod backlog;
pub mod edits;
pub mod network;
pub mod scaling;
pub mod servers;
pub mod signals;
pub mod skew;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::address_checker::{AddressChecker, Report};
use crate::chance::Chance;
use crate::eventually::{NotYet, eventually};
use crate::holdings::{Holdings, LeaseBook};
use crate::kinds::PoolKind;
use crate::load::{Load, LoadOptions, Service, allowed};
use crate::progress::say;
use crate::replicas::{ReplicaOptions, Replicas};
use crate::scene::{Scene, Stage};

/// The contract: so long after the last fault nobody waits any more.
pub const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Until shards are shared evenly: a new member gets none in its first 10 s, and then four at a time.
const EVEN_WITHIN: Duration = Duration::from_secs(90);

/// What a scenario begins with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name, and that of its folder of logs.
    pub name: String,
    /// Replicas, started together.
    pub replicas: usize,
    /// What they have in common.
    pub options: ReplicaOptions,
    /// Users.
    pub load: LoadOptions,
    /// What random choices follow from.
    pub seed: u64,
}

impl Plan {
    /// So many replicas without Pods, under the usual load.
    pub fn new(name: &str, replicas: usize, seed: u64) -> Self {
        Self { name: name.to_owned(), replicas, options: ReplicaOptions::default(), load: LoadOptions::default(), seed }
    }

    /// With a proxy for each replica.
    #[must_use]
    pub fn with_proxies(mut self) -> Self {
        self.options.proxies = true;
        self
    }

    /// With a Pod object for each replica.
    #[must_use]
    pub fn with_pods(mut self) -> Self {
        self.options.pods = true;
        self
    }
}

/// Replicas at work.
#[derive(Debug)]
pub struct Trial {
    /// The namespace of pools and claims. Before the control plane: its evidence is collected from that.
    pub scene: Scene,
    /// The managers.
    pub replicas: Replicas,
    /// The control plane.
    pub stage: Stage,
    /// Who owns what.
    pub leases: LeaseBook,
    /// The users.
    pub load: Load,
    /// What watches from outside.
    pub checker: AddressChecker,
    /// Random moments.
    pub chance: Chance,
}

impl Trial {
    /// Returns when the shards are shared evenly and every pool has served a claim.
    pub async fn start(plan: Plan) -> Result<Self> {
        let stage = Stage::own(&plan.name).await?;
        Self::start_on(stage, plan).await
    }

    /// On a control plane that is there already.
    pub async fn start_on(stage: Stage, plan: Plan) -> Result<Self> {
        say(format!("{}: seed {}, logs in {}", plan.name, plan.seed, stage.control_plane.folder().display()));
        let mut chance = Chance::of(plan.seed);
        let scene = stage.scene(&plan.name).await?;
        let checker = AddressChecker::start(scene.client()).await?;
        let namespace = plan.options.release.namespace.clone();
        let mut replicas = Replicas::none(plan.options);
        replicas.start(&stage.control_plane, plan.replicas).await?;
        let leases = LeaseBook::open(scene.client(), &namespace).await?;
        leases.shared_by(&replicas.names(), EVEN_WITHIN).await?;
        let load = Load::start(&stage.control_plane, &scene, plan.load, &mut chance).await?;
        for (kind, pool, range) in allowed(&load) {
            checker.allow(kind, scene.namespace(), pool, [range.as_str()])?;
        }
        Ok(Self { scene, replicas, stage, leases, load, checker, chance })
    }

    /// Who owns each pool now.
    pub fn owners(&self) -> Vec<Option<String>> {
        let holdings = self.leases.holdings();
        let owner = |pool: &String| holdings.owner_of(PoolKind::InCluster, self.scene.namespace(), pool);
        self.load.pools().iter().map(|pool| owner(pool).map(str::to_owned)).collect()
    }

    /// A replica that owns a pool, by chance, and its pools.
    pub fn random_owner(&mut self) -> Result<(String, Vec<usize>)> {
        let owners = self.owners();
        let owned: Vec<&String> = owners.iter().flatten().collect();
        ensure!(!owned.is_empty(), "no pool has an owner");
        let victim = owned[self.chance.below(owned.len())].clone();
        let pools = self.pools_of(&victim);
        Ok((victim, pools))
    }

    /// The pools that a replica owns now.
    pub fn pools_of(&self, name: &str) -> Vec<usize> {
        let owners = self.owners();
        (0..owners.len()).filter(|pool| owners[*pool].as_deref() == Some(name)).collect()
    }

    /// A random moment within the next two seconds.
    pub async fn random_moment(&mut self) {
        let pause = self.chance.between(Duration::ZERO, Duration::from_secs(2));
        tokio::time::sleep(pause).await;
    }

    /// How claims in all pools were served since `since`.
    pub fn service(&self, since: Instant) -> Service {
        let all: Vec<usize> = (0..self.load.pools().len()).collect();
        self.load.service(&all, since, Instant::now())
    }

    /// How long claims waited since `since` in pools that a fault should not have touched: those that were owned by others
    /// than `victims` and have not changed hands.
    pub fn untouched(&self, owners: &[Option<String>], victims: &BTreeSet<String>, since: Instant) -> Service {
        let changed: BTreeSet<u16> = self.leases.changes_since(since).iter().map(|change| change.shard).collect();
        let shard = |pool: &String| {
            capi_ipam::shard::key::shard_of(
                PoolKind::InCluster.name(),
                self.scene.namespace(),
                pool,
                capi_ipam::shard::key::DEFAULT_SHARDS,
            )
        };
        let is_untouched = |(pool, owner): (&String, &Option<String>)| {
            owner.as_ref().is_some_and(|owner| !victims.contains(owner)) && !changed.contains(&shard(pool))
        };
        let pools: Vec<usize> = (self.load.pools().iter().zip(owners).enumerate())
            .filter_map(|(number, pool)| is_untouched(pool).then_some(number))
            .collect();
        self.load.service(&pools, since, Instant::now())
    }

    /// Waits until those that run share the shards evenly.
    pub async fn even(&self) -> Result<Holdings> {
        self.leases.shared_by(&self.replicas.names(), EVEN_WITHIN).await
    }

    /// Waits until each of these pools has served a claim through somebody other than `victim`; returns how long after
    /// `since` the first and the last of them did.
    pub async fn served_by_others(
        &mut self,
        victim: &str,
        pools: &[usize],
        since: Instant,
        within: Duration,
    ) -> Result<(Duration, Duration)> {
        let (load, replicas) = (&self.load, std::cell::RefCell::new(&mut self.replicas));
        let firsts = eventually(&format!("others serve the pools of {victim}"), within, || async {
            let mut replicas = replicas.borrow_mut();
            let served = replicas.served_by_others(victim)?;
            let first = |pool: &usize| load.first_served(*pool, since, |claim| served.contains(claim));
            let firsts: Vec<Instant> = pools.iter().filter_map(first).collect();
            if firsts.len() == pools.len() {
                Ok(firsts)
            } else {
                Err(NotYet::because(format!("{} of {} pools", firsts.len(), pools.len())))
            }
        })
        .await?;
        let after = |at: Option<&Instant>| at.map_or(Duration::ZERO, |at| at.saturating_duration_since(since));
        Ok((after(firsts.iter().min()), after(firsts.iter().max())))
    }

    /// The end: nobody waits any more 10 s after the last fault, nothing happened that must not, and all replicas end well.
    pub async fn finish(mut self, last_fault: Instant) -> Result<Report> {
        self.checker.all_served(last_fault, SERVED_WITHIN).await?;
        self.load.stop().await;
        self.checker.all_served(last_fault, SERVED_WITHIN).await?;
        ensure!(self.load.served() > 0, "no claim was served: the scenario shows nothing");
        let report = self.checker.finish().await?;
        self.replicas.terminate_all().await?;
        say(format!("{report:?}"));
        self.scene.abandon();
        self.stage.control_plane.stop();
        Ok(report)
    }
}
