//! Users: claims that come and go in several pools all the time, and how long each of them waits for its address.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::control_plane::{self, ControlPlane};
use crate::eventually::{NotYet, eventually};
use crate::fixtures::{Fixture as _, claim, pool};
use crate::kinds::{self, PoolKind};
use crate::scene::{Scene, address_ref};
use crate::sight::follow;

/// A request of a user that takes longer than this has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Until each pool has served its first claim.
const BEGINS_WITHIN: Duration = Duration::from_mins(1);

/// How much comes and goes.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How many pools.
    pub pools: usize,
    /// Between two new claims of one pool, on average.
    pub every: Duration,
    /// How many claims of a pool live at a time; then the oldest goes for each that comes.
    pub alive: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { pools: 9, every: Duration::from_millis(500), alive: 12 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    pool: usize,
    since: Instant,
    served: Option<Instant>,
    /// The API server said that it was created; if not, it may exist nevertheless.
    created: bool,
}

#[derive(Debug, Default)]
struct Book {
    waits: BTreeMap<String, Wait>,
    failed_requests: usize,
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    namespace: String,
    pools: Vec<String>,
    book: Arc<Mutex<Book>>,
    stop: CancellationToken,
    users: JoinSet<()>,
    /// Ends with it.
    _watch: JoinSet<()>,
}

/// How claims of some pools were served in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Claims that waited in that time.
    pub claims: usize,
    /// Those of them that wait still.
    pub waiting: usize,
    /// The longest that one of them waited; so far, if it waits still.
    pub longest: Duration,
}

impl Load {
    /// Makes pools in the namespace of a scene, `pool-00` and so on, and goes on with claims in all of them. Returns
    /// when each pool has served one.
    pub async fn start(
        control_plane: &ControlPlane,
        scene: &Scene,
        options: LoadOptions,
        chance: &mut Chance,
    ) -> Result<Self> {
        let client = impatient_client(control_plane).await?;
        let names: Vec<String> = (0..options.pools).map(|number| format!("pool-{number:02}")).collect();
        for (number, name) in names.iter().enumerate() {
            scene.create(pool(name).addresses([range_of(number).as_str()]).prefix(16)).await?;
        }
        let book = Arc::new(Mutex::new(Book::default()));
        let stop = CancellationToken::new();
        let claims: Api<DynamicObject> = Api::namespaced_with(client, scene.namespace(), &kinds::claim());
        let mut watch = JoinSet::new();
        let noted = Arc::clone(&book);
        watch.spawn(follow(scene.claims(), move |event| note(&noted, event)));
        let mut users = JoinSet::new();
        for (number, name) in names.iter().enumerate() {
            let user = User {
                pool: number,
                name: name.clone(),
                claims: claims.clone(),
                book: Arc::clone(&book),
                options,
                chance: chance.branch(),
                alive: VecDeque::new(),
            };
            users.spawn(user.run(stop.clone()));
        }
        let load = Self { namespace: scene.namespace().to_owned(), pools: names, book, stop, users, _watch: watch };
        eventually("every pool has served a claim", BEGINS_WITHIN, || async {
            let book = load.lock();
            let served = |pool: usize| book.waits.values().any(|wait| wait.pool == pool && wait.served.is_some());
            let not_yet: Vec<usize> = (0..options.pools).filter(|pool| !served(*pool)).collect();
            if not_yet.is_empty() { Ok(()) } else { Err(NotYet::because(format!("not pools {not_yet:?}"))) }
        })
        .await?;
        Ok(load)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the pools; everywhere else a pool is the index in this list.
    pub fn pools(&self) -> &[String] {
        &self.pools
    }

    /// How claims of these pools were served that waited at some time from `from` to `to`.
    pub fn service(&self, pools: &[usize], from: Instant, to: Instant) -> Service {
        let mut service = Service::default();
        for wait in self.lock().waits.values() {
            let concerned = pools.contains(&wait.pool) && wait.since < to && wait.served.is_none_or(|at| at > from);
            if !concerned || !(wait.created || wait.served.is_some()) {
                continue;
            }
            service.claims += 1;
            service.waiting += usize::from(wait.served.is_none());
            let until = wait.served.unwrap_or_else(Instant::now);
            service.longest = service.longest.max(until.saturating_duration_since(wait.since));
        }
        service
    }

    /// When the first claim of a pool that `counts` (a name `namespace/name`) was served after `since`.
    pub fn first_served(&self, pool: usize, since: Instant, counts: impl Fn(&str) -> bool) -> Option<Instant> {
        let book = self.lock();
        let of_pool = book.waits.iter().filter(|(_, wait)| wait.pool == pool);
        let served = of_pool.filter_map(|(name, wait)| Some((name, wait.served.filter(|at| *at >= since)?)));
        served.filter(|(name, _)| counts(&format!("{}/{name}", self.namespace))).map(|(_, at)| at).min()
    }

    /// How many claims were served so far.
    pub fn served(&self) -> usize {
        self.lock().waits.values().filter(|wait| wait.served.is_some()).count()
    }

    /// How many requests of users failed so far: without a fault of the API server, none should.
    pub fn failed_requests(&self) -> usize {
        self.lock().failed_requests
    }

    /// No claims come or go any more.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        while self.users.join_next().await.is_some() {}
    }
}

/// What the pool of a number holds: 1,022 addresses of a network of its own.
pub fn range_of(pool: usize) -> String {
    let network = pool + 1;
    format!("10.{network}.0.1-10.{network}.3.254")
}

/// One that fails rather than wait: a user who waits for an answer makes no load.
async fn impatient_client(control_plane: &ControlPlane) -> Result<Client> {
    let mut config = control_plane::config(control_plane.kubeconfig_path()).await?;
    config.default_retry = false;
    config.read_timeout = Some(ANSWER_WITHIN);
    config.connect_timeout = Some(ANSWER_WITHIN);
    Client::try_from(config).context("making the users' client")
}

/// Notes when claims are served.
fn note(book: &Mutex<Book>, event: Event<DynamicObject>) {
    if let Event::Apply(claim) | Event::InitApply(claim) = event
        && address_ref(&claim).is_some()
        && let Some(wait) = book.lock().unwrap_or_else(PoisonError::into_inner).waits.get_mut(&claim.name_any())
    {
        wait.served.get_or_insert_with(Instant::now);
    }
}

/// Whoever makes and deletes the claims of one pool.
struct User {
    pool: usize,
    name: String,
    claims: Api<DynamicObject>,
    book: Arc<Mutex<Book>>,
    options: LoadOptions,
    chance: Chance,
    alive: VecDeque<String>,
}

impl User {
    async fn run(mut self, stop: CancellationToken) {
        for number in 0.. {
            let pause = self.chance.between(self.options.every / 2, self.options.every * 3 / 2);
            // What is under way is finished: a request that is dropped may be carried out nevertheless.
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            self.create(format!("{}-{number:05}", self.name)).await;
            self.delete_oldest().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(&mut self, name: String) {
        let wait = Wait { pool: self.pool, since: Instant::now(), served: None, created: false };
        self.lock().waits.insert(name.clone(), wait);
        let object = claim(&name).in_pool(&self.name).object();
        let created = self.claims.create(&PostParams::default(), &object).await.is_ok();
        let mut book = self.lock();
        book.failed_requests += usize::from(!created);
        if let Some(wait) = book.waits.get_mut(&name) {
            wait.created = created;
        }
        drop(book);
        if created {
            self.alive.push_back(name);
        }
    }

    async fn delete_oldest(&mut self) {
        if self.alive.len() <= self.options.alive {
            return;
        }
        let Some(name) = self.alive.pop_front() else { return };
        let is_served = self.lock().waits.get(&name).is_some_and(|wait| wait.served.is_some());
        if !is_served {
            // Whoever waits is not given up: how long it waits is what is measured.
            self.alive.push_back(name);
        } else if let Err(error) = self.claims.delete(&name, &DeleteParams::default()).await
            && !crate::chart::is_not_found(&error)
        {
            self.lock().failed_requests += 1;
            self.alive.push_back(name);
        }
    }
}

/// The pools of a load as the address checker has to know them.
pub fn allowed(load: &Load) -> impl Iterator<Item = (PoolKind, &str, String)> {
    load.pools.iter().enumerate().map(|(number, name)| (PoolKind::InCluster, name.as_str(), range_of(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(waits: &[(&str, usize, u64, Option<u64>)], start: Instant) -> Load {
        let at = |seconds| start + Duration::from_secs(seconds);
        let wait =
            |pool, since, served: Option<u64>| Wait { pool, since: at(since), served: served.map(at), created: true };
        let waits = waits.iter().map(|(name, pool, since, served)| ((*name).to_owned(), wait(*pool, *since, *served)));
        Load {
            namespace: "ns".to_owned(),
            pools: vec!["a".to_owned(), "b".to_owned()],
            book: Arc::new(Mutex::new(Book { waits: waits.collect(), failed_requests: 0 })),
            stop: CancellationToken::new(),
            users: JoinSet::new(),
            _watch: JoinSet::new(),
        }
    }

    #[test]
    fn the_longest_wait_is_that_of_claims_that_waited_in_the_time_asked_for() {
        let start = Instant::now().checked_sub(Duration::from_secs(100)).expect("the machine runs for longer");
        let at = |seconds| start + Duration::from_secs(seconds);
        let load = load(&[("a1", 0, 0, Some(9)), ("a2", 0, 20, Some(23)), ("b1", 1, 20, None)], start);
        let service = load.service(&[0], at(10), at(30));
        assert_eq!(service, Service { claims: 1, waiting: 0, longest: Duration::from_secs(3) });
        assert_eq!(load.service(&[0], at(8), at(30)).longest, Duration::from_secs(9));
        let service = load.service(&[0, 1], at(10), at(30));
        assert_eq!((service.claims, service.waiting), (2, 1));
        assert!(service.longest >= Duration::from_secs(80), "{service:?}");
    }

    #[test]
    fn the_first_claim_served_is_that_of_the_pool_that_counts() {
        let start = Instant::now().checked_sub(Duration::from_secs(100)).expect("the machine runs for longer");
        let at = |seconds| start + Duration::from_secs(seconds);
        let load = load(&[("a1", 0, 0, Some(5)), ("a2", 0, 1, Some(7)), ("b1", 1, 1, Some(6))], start);
        assert_eq!(load.first_served(0, at(0), |_| true), Some(at(5)));
        assert_eq!(load.first_served(0, at(0), |name| name == "ns/a2"), Some(at(7)));
        assert_eq!(load.first_served(0, at(6), |_| true), Some(at(7)));
        assert_eq!(load.first_served(1, at(7), |_| true), None);
    }
}
