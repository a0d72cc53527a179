//! A scenario's own namespace on a control plane with a running manager, and what a scenario does and expects there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::chart::is_not_found;
use crate::control_plane::{ControlPlane, Options};
use crate::crds;
use crate::eventually::{NotYet, PATIENCE, eventually};
use crate::evidence;
use crate::fixtures::Fixture;
use crate::kinds::{self, PAUSED, PoolKind};
use crate::manager::{self, Manager, ManagerOptions};

/// Creations in flight at once: enough to keep an API server on two cores busy.
const CREATIONS: usize = 32;

/// A control plane with the product's CRDs.
#[derive(Debug)]
pub struct Stage {
    /// The control plane.
    pub control_plane: ControlPlane,
    logs: Vec<PathBuf>,
    shared_manager: Option<Manager>,
}

impl Stage {
    /// One of its own, without a manager: for scenarios that start and end managers or API servers.
    pub async fn own(name: &str) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::new(name)).await?;
        Self::prepared(control_plane).await
    }

    /// On a control plane that has all that its scenarios need.
    pub fn on(control_plane: ControlPlane) -> Self {
        Self { control_plane, logs: Vec::new(), shared_manager: None }
    }

    /// One of its own with kinds of pools that the scenario says, and without a manager.
    pub async fn with_pools(name: &str, crds: &[Value]) -> Result<Self> {
        let control_plane = ControlPlane::start(Options::new(name)).await?;
        crds::install(&control_plane.admin_client().await?, crds).await?;
        Ok(Self::on(control_plane))
    }

    async fn prepared(control_plane: ControlPlane) -> Result<Self> {
        let crds = tokio::task::spawn_blocking(|| crds::of_manager(&manager::program()?)).await??;
        crds::install_missing(&control_plane.admin_client().await?, &crds).await?;
        Ok(Self::on(control_plane))
    }

    /// The one that all scenarios of a test program share, with one manager that nobody stops.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Stage> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async {
                let control_plane = ControlPlane::existing_or_start(Options::new("shared")).await?;
                let mut stage = Self::prepared(control_plane).await?;
                let manager = stage.manager(ManagerOptions::new("manager")).await?;
                stage.shared_manager = Some(manager);
                Ok(stage)
            })
            .await
    }

    /// Starts a manager and waits until it is ready. Its log is part of the evidence of later scenes.
    pub async fn manager(&mut self, options: ManagerOptions) -> Result<Manager> {
        let manager = Manager::start_ready(&self.control_plane, options).await?;
        if !self.logs.iter().any(|log| log == manager.log()) {
            self.logs.push(manager.log().to_path_buf());
        }
        Ok(manager)
    }

    /// Opens a namespace for the scenario of this name.
    pub async fn scene(&self, scenario: &str) -> Result<Scene> {
        let client = self.control_plane.admin_client().await?;
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": { "generateName": format!("{}-", scenario.replace('_', "-").chars().take(40).collect::<String>()) },
        }))?;
        let created = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(Scene {
            scenario: scenario.to_owned(),
            namespace: created.name_any(),
            client,
            kubeconfig: self.control_plane.kubeconfig_path().to_path_buf(),
            logs: self.logs.clone(),
            finished: false,
        })
    }
}

/// A namespace of the shared stage.
pub async fn scene(scenario: &str) -> Result<Scene> {
    Stage::shared().await?.scene(scenario).await
}

/// A scenario's namespace. Ends with [`Scene::finish`]; dropped before that, the scenario has failed, and what there is to
/// see is written down.
pub struct Scene {
    scenario: String,
    namespace: String,
    client: Client,
    kubeconfig: PathBuf,
    logs: Vec<PathBuf>,
    finished: bool,
}

/// A claim's `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// `True` or `False`.
    pub status: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// `status.ipAddresses` of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Allocatable.
    pub total: i64,
    /// In use.
    pub used: i64,
    /// Left.
    pub free: i64,
    /// In use and not allocatable any more.
    pub out_of_range: i64,
}

impl Scene {
    /// Goes on in another namespace, which must exist; it is deleted at the end instead of the first one.
    pub fn enter(&mut self, namespace: &str) {
        namespace.clone_into(&mut self.namespace);
    }

    /// An administrator's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A name for an object that belongs to no namespace.
    pub fn global_name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// The claims here.
    pub fn claims(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kinds::claim())
    }

    /// The addresses here.
    pub fn addresses(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kinds::address())
    }

    /// The clusters here.
    pub fn clusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kinds::cluster())
    }

    /// The pools of a kind; those of a global kind are everybody's.
    pub fn pools(&self, kind: PoolKind) -> Api<DynamicObject> {
        kind.api(&self.client, &self.namespace)
    }

    /// Creates an object here.
    pub async fn create(&self, fixture: impl Fixture) -> Result<DynamicObject> {
        let (resource, global) = fixture.resource();
        let object = fixture.object();
        let api: Api<DynamicObject> = if global {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("creating {} {}", resource.kind, object.name_any()))
    }

    /// Creates many, some at a time.
    pub async fn create_all<F: Fixture>(&self, fixtures: impl IntoIterator<Item = F>) -> Result<()> {
        futures::stream::iter(fixtures)
            .map(|fixture| self.create(fixture))
            .buffer_unordered(CREATIONS)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// Deletes an object, without waiting for its end.
    pub async fn delete(&self, api: &Api<DynamicObject>, name: &str) -> Result<()> {
        api.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting {name}"))?;
        Ok(())
    }

    /// Deletes a claim and waits until it is gone.
    pub async fn release(&self, claim: &str) -> Result<()> {
        self.delete(&self.claims(), claim).await?;
        self.gone(&self.claims(), claim).await
    }

    /// Merges into an object.
    pub async fn patch(&self, api: &Api<DynamicObject>, name: &str, patch: Value) -> Result<DynamicObject> {
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.with_context(|| format!("patching {name}"))
    }

    /// Sets or removes the annotation that pauses an object.
    pub async fn pause(&self, api: &Api<DynamicObject>, name: &str, paused: bool) -> Result<()> {
        let value = if paused { json!("") } else { Value::Null };
        self.patch(api, name, json!({ "metadata": { "annotations": { PAUSED: value } } })).await?;
        Ok(())
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, api: &Api<DynamicObject>, name: &str) -> Result<()> {
        eventually(&format!("{name} is gone"), PATIENCE, || async {
            match api.get_opt(name).await? {
                None => Ok(()),
                Some(object) => Err(NotYet::because(format!("its finalizers are {:?}", object.finalizers()))),
            }
        })
        .await
    }

    /// Waits until an object is as wanted.
    pub async fn becomes(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        what: &str,
        wanted: impl Fn(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        eventually(&format!("{name} {what}"), PATIENCE, || async {
            let object = api.get_opt(name).await?;
            match object {
                None => Err(NotYet::because("it does not exist")),
                Some(object) if wanted(&object) => Ok(object),
                Some(object) => Err(NotYet::because(format!("{:?} {}", object.finalizers(), object.data))),
            }
        })
        .await
    }

    /// Waits until a claim has its address, checks that its condition says so, and returns the address.
    pub async fn allocated(&self, claim: &str) -> Result<String> {
        let found = self.becomes(&self.claims(), claim, "has an address", |claim| address_ref(claim).is_some()).await?;
        let reference = address_ref(&found).unwrap_or_default().to_owned();
        if reference != claim {
            bail!("{claim} refers to the address {reference}, not to one of its own name");
        }
        let ready = ready(&found).with_context(|| format!("{claim} has an address but no Ready condition"))?;
        if (ready.status.as_str(), ready.reason.as_str()) != ("True", "AddressAllocated") {
            bail!("{claim} has an address, and its condition is {ready:?}");
        }
        let address = self.addresses().get(&reference).await.with_context(|| format!("reading {claim}'s address"))?;
        Ok(address.data["spec"]["address"].as_str().context("an IPAddress without spec.address")?.to_owned())
    }

    /// Waits until a claim says why it waits; returns the message.
    pub async fn waits_for(&self, claim: &str, reason: &str) -> Result<String> {
        let found = self
            .becomes(&self.claims(), claim, &format!("waits: {reason}"), |claim| {
                ready(claim).is_some_and(|ready| ready.status == "False" && ready.reason == reason)
            })
            .await?;
        if found.data["status"].get("addressRef").is_some() {
            bail!("{claim} waits and has an addressRef: {}", found.data["status"]);
        }
        Ok(ready(&found).map(|ready| ready.message).unwrap_or_default())
    }

    /// Waits until `count` claims of this namespace have their addresses; returns the addresses by claim.
    pub async fn all_allocated(&self, count: usize, timeout: Duration) -> Result<Vec<(String, String)>> {
        eventually(&format!("{count} claims have addresses"), timeout, || async {
            let served = self.claims().list(&ListParams::default()).await?;
            let served = served.items.iter().filter(|claim| address_ref(claim).is_some()).count();
            if served >= count { Ok(()) } else { Err(NotYet::because(format!("{served} have"))) }
        })
        .await?;
        let addresses = self.addresses().list(&ListParams::default()).await?;
        Ok(addresses
            .items
            .iter()
            .map(|object| (object.name_any(), object.data["spec"]["address"].as_str().unwrap_or_default().to_owned()))
            .collect())
    }

    /// Waits until a pool shows these counts.
    pub async fn counts(&self, kind: PoolKind, pool: &str, total: i64, used: i64, free: i64) -> Result<()> {
        let wanted = Counts { total, used, free, out_of_range: 0 };
        self.counts_are(kind, pool, wanted).await
    }

    /// Waits until a pool shows these counts.
    pub async fn counts_are(&self, kind: PoolKind, pool: &str, wanted: Counts) -> Result<()> {
        self.becomes(&self.pools(kind), pool, &format!("shows {wanted:?}"), |pool| counts(pool) == Some(wanted))
            .await?;
        Ok(())
    }

    /// Waits until a pool's `Ready` condition is this; returns its message.
    pub async fn pool_is(&self, kind: PoolKind, pool: &str, status: &str, reason: &str) -> Result<String> {
        let found = self
            .becomes(&self.pools(kind), pool, &format!("is Ready {status}/{reason}"), |pool| {
                ready(pool).is_some_and(|ready| ready.status == status && ready.reason == reason)
            })
            .await?;
        Ok(ready(&found).map(|ready| ready.message).unwrap_or_default())
    }

    /// Waits until the manager has worked on `pool` after everything that was done before: a claim made now has been served
    /// and released. What has not happened by then was not about to happen.
    pub async fn settled(&self, pool: &str) -> Result<()> {
        let marker = "settled-marker";
        self.create(crate::fixtures::claim(marker).in_pool(pool)).await?;
        self.allocated(marker).await?;
        self.release(marker).await
    }

    /// What the API server's clock says, in whole seconds: the creation time of an object that is not kept.
    pub async fn server_time(&self) -> Result<Timestamp> {
        let probe = ConfigMap {
            metadata: ObjectMeta { name: Some("clock".to_owned()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        };
        let only_ask = PostParams { dry_run: true, ..PostParams::default() };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let answer = api.create(&only_ask, &probe).await.context("asking for the API server's time")?;
        Ok(answer.metadata.creation_timestamp.context("an object without a creation time")?.0)
    }

    /// Waits until the API server's clock shows another second: what is created from then on is younger.
    pub async fn next_second(&self) -> Result<()> {
        let now = self.server_time().await?;
        eventually("the API server's clock shows another second", PATIENCE, || async {
            let time = self.server_time().await.map_err(|error| NotYet::because(error.to_string()))?;
            if time > now { Ok(()) } else { Err(NotYet::because(time.to_string())) }
        })
        .await
    }

    /// Lets go of it without a word: its control plane ends, too.
    pub fn abandon(mut self) {
        self.finished = true;
    }

    /// The scenario has succeeded: everything of it is deleted, without waiting for the end.
    pub async fn finish(mut self) -> Result<()> {
        self.finished = true;
        for kind in PoolKind::ALL.into_iter().filter(|kind| kind.is_global()) {
            let api = self.pools(kind);
            for pool in api.list(&ListParams::default()).await?.items {
                if pool.name_any().starts_with(&format!("{}-", self.namespace)) {
                    self.delete(&api, &pool.name_any()).await?;
                }
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        match namespaces.delete(&self.namespace, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error).context("deleting the scenario's namespace"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene")
            .field("scenario", &self.scenario)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !self.finished {
            let found = evidence::collect(&self.scenario, &self.kubeconfig, &self.namespace, self.logs.clone());
            #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure, and only then")]
            {
                eprintln!("{found}");
            }
        }
    }
}

/// The name in a claim's `status.addressRef`. An empty one counts: it is a defect that must not look like absence.
pub fn address_ref(claim: &DynamicObject) -> Option<&str> {
    claim.data["status"]["addressRef"]["name"].as_str()
}

/// The `Ready` condition of a claim or a pool.
pub fn ready(object: &DynamicObject) -> Option<Ready> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    Some(Ready { status: text("status"), reason: text("reason"), message: text("message") })
}

/// The counts of a pool.
pub fn counts(pool: &DynamicObject) -> Option<Counts> {
    let counts = &pool.data["status"]["ipAddresses"];
    Some(Counts {
        total: counts["total"].as_i64()?,
        used: counts["used"].as_i64()?,
        free: counts["free"].as_i64()?,
        out_of_range: counts["outOfRange"].as_i64()?,
    })
}
