//! Several managers of one release, each with a name of its own, and which claims each of them has served.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::chart::Release;
use crate::control_plane::ControlPlane;
use crate::eventually::{NotYet, PATIENCE, eventually};
use crate::manager::{Manager, ManagerOptions};
use crate::process::Signal;
use crate::proxy::{Proxy, Way};

/// What all replicas of a set have in common.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// The installation.
    pub release: Release,
    /// Whether each has a Pod object, so that others can see that it is gone.
    pub pods: bool,
    /// Whether each reaches the API server through a proxy of its own.
    pub proxies: bool,
    /// More flags.
    pub arguments: Vec<String>,
}

/// The running replicas, by name. Dropping it kills them.
#[derive(Debug)]
pub struct Replicas {
    options: ReplicaOptions,
    running: BTreeMap<String, Manager>,
    proxies: BTreeMap<String, Proxy>,
    journals: BTreeMap<String, Journal>,
    started: usize,
}

struct Replica {
    name: String,
    manager: Manager,
    proxy: Option<Proxy>,
}

impl Replicas {
    /// None yet.
    pub fn none(options: ReplicaOptions) -> Self {
        Self { options, running: BTreeMap::new(), proxies: BTreeMap::new(), journals: BTreeMap::new(), started: 0 }
    }

    /// Starts so many at the same time; returns their names when all are ready.
    pub async fn start(&mut self, control_plane: &ControlPlane, count: usize) -> Result<Vec<String>> {
        let plans = (0..count).map(|_| self.plan()).collect::<Vec<_>>();
        let starting = plans.into_iter().map(|options| self.start_one(control_plane, options));
        let started = futures::future::try_join_all(starting).await?;
        Ok(started.into_iter().map(|replica| self.take_in(replica)).collect())
    }

    /// Starts one that differs from the others.
    pub async fn start_with(
        &mut self,
        control_plane: &ControlPlane,
        change: impl FnOnce(ManagerOptions) -> ManagerOptions,
    ) -> Result<String> {
        let (name, options) = self.plan();
        let replica = self.start_one(control_plane, (name, change(options))).await?;
        Ok(self.take_in(replica))
    }

    fn plan(&mut self) -> (String, ManagerOptions) {
        self.started += 1;
        let name = format!("replica-{}", self.started);
        let mut options = ManagerOptions::new(&name)
            .release(self.options.release.clone())
            .leader_elect()
            .environment("POD_NAME", &name)
            .environment("POD_NAMESPACE", &self.options.release.namespace);
        for argument in &self.options.arguments {
            options = options.argument(argument);
        }
        (name, options)
    }

    async fn start_one(
        &self,
        control_plane: &ControlPlane,
        (name, mut options): (String, ManagerOptions),
    ) -> Result<Replica> {
        if self.options.pods {
            let client = control_plane.admin_client().await?;
            options = options.environment("POD_UID", create_pod(&client, &self.options.release, &name).await?);
        }
        let mut proxy = None;
        if self.options.proxies {
            let started = Proxy::start(control_plane, &name).await?;
            options = options.through(started.kubeconfig());
            proxy = Some(started);
        }
        let manager = Manager::start_ready(control_plane, options).await.with_context(|| format!("starting {name}"))?;
        Ok(Replica { name, manager, proxy })
    }

    fn take_in(&mut self, Replica { name, manager, proxy }: Replica) -> String {
        self.proxies.extend(proxy.map(|proxy| (name.clone(), proxy)));
        self.journals.insert(name.clone(), Journal::of(manager.log()));
        self.running.insert(name.clone(), manager);
        name
    }

    /// The names of those that run.
    pub fn names(&self) -> BTreeSet<String> {
        self.running.keys().cloned().collect()
    }

    /// One of them.
    pub fn get(&mut self, name: &str) -> Result<&mut Manager> {
        self.running.get_mut(name).with_context(|| format!("there is no replica {name}"))
    }

    /// Changes the way between one of them and the API server.
    pub fn set_way(&self, name: &str, way: Way) -> Result<()> {
        self.proxies.get(name).with_context(|| format!("{name} has no proxy"))?.set(way);
        Ok(())
    }

    /// Sends a signal to one of them.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        self.get(name)?.signal(signal)
    }

    /// SIGKILL, without a word to anybody.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.running.remove(name).with_context(|| format!("there is no replica {name}"))?.kill();
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self, name: &str) -> Result<ExitStatus> {
        let manager = self.running.remove(name).with_context(|| format!("there is no replica {name}"))?;
        manager.terminate().await.with_context(|| format!("ending {name}"))
    }

    /// SIGTERM for all at once; all have to end well.
    pub async fn terminate_all(&mut self) -> Result<()> {
        let ending = std::mem::take(&mut self.running).into_iter().map(|(name, manager)| async move {
            let status = manager.terminate().await.with_context(|| format!("ending {name}"))?;
            ensure!(status.success(), "after SIGTERM {name} ended with {status}");
            Ok(())
        });
        futures::future::try_join_all(ending).await?;
        Ok(())
    }

    /// Forgets those that have ended by themselves; returns their names.
    pub fn ended(&mut self) -> Vec<String> {
        let names: Vec<String> = self
            .running
            .iter_mut()
            .filter_map(|(name, manager)| manager.must_run().is_err().then(|| name.clone()))
            .collect();
        for name in &names {
            self.running.remove(name);
        }
        names
    }

    /// Fails when one of them has ended by itself.
    pub fn must_run(&mut self) -> Result<()> {
        for (name, manager) in &mut self.running {
            manager.must_run().with_context(|| format!("{name} must run"))?;
        }
        Ok(())
    }

    /// How often something happened in the coordination of all that run, by the names of their metric.
    pub async fn ownership_events(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for manager in self.running.values() {
            for (event, count) in manager.metrics().await?.sum_by("capi_ipam_ownership_events_total", &["event"]) {
                *sums.entry(event).or_default() += count;
            }
        }
        Ok(sums)
    }

    /// The claims, as `namespace/name`, that somebody other than `name` says to have given an address to.
    pub fn served_by_others(&mut self, name: &str) -> Result<HashSet<&str>> {
        for journal in self.journals.values_mut() {
            journal.read_on()?;
        }
        let others = self.journals.iter().filter(|(replica, _)| *replica != name);
        Ok(others.flat_map(|(_, journal)| journal.allocated.iter().map(String::as_str)).collect())
    }

    /// The sum of a metric over all that run.
    pub async fn sum(&self, metric: &str) -> Result<f64> {
        let mut sum = 0.0;
        for manager in self.running.values() {
            sum += manager.metrics().await?.sum(metric, &[]).unwrap_or(0.0);
        }
        Ok(sum)
    }

    /// How many lines of the log of a replica, ended or not, have this text.
    pub fn count_said(&self, name: &str, text: &str) -> Result<usize> {
        let journal = self.journals.get(name).with_context(|| format!("there was no replica {name}"))?;
        let log = std::fs::read_to_string(&journal.path).context("reading the log of a replica")?;
        Ok(log.lines().filter(|line| line.contains(text)).count())
    }
}

/// Creates a Pod that no node runs: it is there until somebody deletes it. Returns its uid.
async fn create_pod(client: &Client, release: &Release, name: &str) -> Result<String> {
    release.install(client).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "serviceAccountName": release.name,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "manager", "image": "manager" }],
        },
    }))?;
    let api: Api<Pod> = Api::namespaced(client.clone(), &release.namespace);
    let created = eventually(&format!("the Pod {name} is created"), PATIENCE, || async {
        api.create(&PostParams::default(), &pod).await.map_err(NotYet::from)
    })
    .await?;
    created.uid().context("a Pod without a uid")
}

/// Deletes a replica's Pod, as the end of its node does.
pub async fn delete_pod(client: &Client, release: &Release, name: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &release.namespace);
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    api.delete(name, &at_once).await.with_context(|| format!("deleting the Pod {name}"))?;
    Ok(())
}

/// A log that is read as it grows.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    read: u64,
    allocated: HashSet<String>,
}

impl Journal {
    fn of(path: &Path) -> Self {
        Self { path: path.to_path_buf(), read: 0, allocated: HashSet::new() }
    }

    fn read_on(&mut self) -> Result<()> {
        let mut file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading {}", self.path.display()))?;
        // What is not a whole line yet is read the next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += u64::try_from(whole)?;
        self.allocated.extend(String::from_utf8_lossy(&bytes[..whole]).lines().filter_map(allocated));
        Ok(())
    }
}

/// The claim that a line of a log says to have been given an address.
fn allocated(line: &str) -> Option<String> {
    if !line.contains("\"allocated\"") {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "allocated").then(|| line["fields"]["claim"].as_str().map(str::to_owned))?
}

/// Fails unless all shards of `counts` are within one of an even share.
pub fn must_be_even(counts: &BTreeMap<&str, usize>) -> Result<()> {
    let (least, most) = (counts.values().min().copied(), counts.values().max().copied());
    let total: usize = counts.values().sum();
    let even = total / counts.len().max(1);
    if least < even.checked_sub(1) || most > Some(even + 1) {
        bail!("the shares differ by more than one from {even}: {counts:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_which_claims_were_served() {
        let line = r#"{"fields":{"address":"10.1.0.4","claim":"ns/c-004","pool":"InClusterIPPool ns/p"},"level":"INFO","message":"allocated"}"#;
        assert_eq!(allocated(line).as_deref(), Some("ns/c-004"));
        assert_eq!(allocated(r#"{"message":"registered as a member"}"#), None);
    }

    #[test]
    fn half_a_line_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let line = "{\"fields\":{\"claim\":\"ns/a\"},\"message\":\"allocated\"}\n";
        std::fs::write(&path, &line[..20]).expect("the log can be written");
        let mut journal = Journal::of(&path);
        journal.read_on().expect("the log can be read");
        assert!(journal.allocated.is_empty());
        std::fs::write(&path, line).expect("the log can be written");
        journal.read_on().expect("the log can be read");
        assert!(journal.allocated.contains("ns/a"));
    }
}
