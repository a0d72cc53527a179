//! What the demo starts and creates, kept in one place so that exactly that goes away again.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::chart::{Release, is_not_found};
use e2e::control_plane::{ControlPlane, Options, cluster_api_crds, versions};
use e2e::crds;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::kinds::{self, PoolKind};
use e2e::manager::{self, Manager, ManagerOptions};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::console::Console;

/// The demo's own namespace: of its pool and claims, and of the manager's service account.
pub(crate) const NAMESPACE: &str = "capi-ipam-demo";

/// How the replicas are called.
const REPLICAS: [&str; 3] = ["provider-a", "provider-b", "provider-c"];

/// What runs and what was created so far.
pub(crate) struct Stage {
    console: Console,
    kubeconfig: Option<PathBuf>,
    control_plane: Option<ControlPlane>,
    managers: Vec<(String, Manager)>,
    client: Option<Client>,
    crds: Vec<String>,
    namespace_created: bool,
    running: bool,
}

impl Stage {
    pub(crate) fn new(console: Console, kubeconfig: Option<PathBuf>) -> Self {
        Self {
            console,
            kubeconfig,
            control_plane: None,
            managers: Vec::new(),
            client: None,
            crds: Vec::new(),
            namespace_created: false,
            running: false,
        }
    }

    fn release() -> Release {
        Release { name: "demo".to_owned(), namespace: NAMESPACE.to_owned() }
    }

    /// Starts a control plane, or finds the cluster that was named.
    pub(crate) async fn set_up_cluster(&mut self) -> Result<()> {
        let started = Instant::now();
        let control_plane = match &self.kubeconfig {
            Some(path) => ControlPlane::existing(path)?,
            None => ControlPlane::start(Options::new("demo")).await?,
        };
        let client = control_plane.admin_client().await?;
        let version = client.apiserver_version().await.context("asking the API server for its version")?.git_version;
        if self.kubeconfig.is_some() {
            self.console.say(&format!("Using your cluster, Kubernetes {version}."));
        } else {
            self.console.say(&format!(
                "etcd {}, kube-apiserver and kube-controller-manager {version} run on loopback, after {:.1} s.",
                versions::etcd(),
                started.elapsed().as_secs_f32()
            ));
        }
        self.control_plane = Some(control_plane);
        self.client = Some(client);
        Ok(())
    }

    /// Installs what is missing of Cluster API's CRDs and ours.
    pub(crate) async fn install_crds(&mut self) -> Result<()> {
        let client = self.client()?.clone();
        let (theirs, ours) = tokio::task::spawn_blocking(|| -> Result<_> {
            Ok((cluster_api_crds()?, crds::of_manager(&manager::program()?)?))
        })
        .await??;
        if self.kubeconfig.is_some() {
            self.refuse_what_is_taken(&client).await?;
        }
        // One at a time, so that whatever interrupts this, it is known what was installed.
        for crd in theirs.into_iter().chain(ours) {
            self.crds.extend(crds::install_missing(&client, &[crd]).await?);
        }
        self.console.say(&format!(
            "Cluster API {} brings claims and addresses, the provider brings pools:",
            versions::CLUSTER_API
        ));
        self.console.say("clusters, ipaddressclaims, ipaddresses; inclusterippools, inclusterprefixpools, and a global kind of each.");
        Ok(())
    }

    /// In a cluster of somebody's, nothing of that somebody may be used or removed.
    async fn refuse_what_is_taken(&mut self, client: &Client) -> Result<()> {
        if Api::<Namespace>::all(client.clone()).get_opt(NAMESPACE).await?.is_some() {
            anyhow::bail!(
                "the namespace {NAMESPACE} is there already; if it is left over from a demo: kubectl delete namespace {NAMESPACE}"
            );
        }
        let pools = format!("{}.{}", PoolKind::InCluster.resource().plural, kinds::GROUP);
        if Api::<CustomResourceDefinition>::all(client.clone()).get_metadata_opt(&pools).await?.is_some() {
            self.console.say(
                "The pool CRDs are there already, so a provider may be running here, and serve the demo's claims, too.",
            );
        }
        Ok(())
    }

    /// Starts the managers with the rights that the chart gives them, and waits until each pool has an owner.
    pub(crate) async fn start_managers(&mut self) -> Result<()> {
        let control_plane = self.control_plane.as_ref().context("there is no control plane yet")?;
        let started = Instant::now();
        self.namespace_created = true;
        for name in REPLICAS {
            let mut options =
                ManagerOptions::new(name).release(Self::release()).leader_elect().environment("POD_NAME", name);
            if self.kubeconfig.is_some() {
                // Somebody else's claims are not the demo's business.
                options = options.argument(format!("--namespace={NAMESPACE}"));
            }
            self.managers.push((name.to_owned(), Manager::start_ready(control_plane, options).await?));
        }
        self.console.say(&format!(
            "Three replicas are ready after {:.1} s. They run as a service account with the chart's RBAC.",
            started.elapsed().as_secs_f32()
        ));
        Ok(())
    }

    /// What `manager shards` prints with these arguments.
    pub(crate) async fn shards(&self, arguments: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(manager::program()?)
            .args(["shards", "--namespace", NAMESPACE, "--kubeconfig"])
            .arg(self.kubeconfig_path()?)
            .args(arguments)
            .output()
            .await
            .context("running manager shards")?;
        anyhow::ensure!(output.status.success(), "manager shards: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).context("reading what manager shards prints")
    }

    /// The replica that works on a pool, once one does.
    pub(crate) async fn owner_of(&self, pool: &str) -> Result<String> {
        let pool = format!("InClusterIPPool/{NAMESPACE}/{pool}");
        eventually("the pool has an owner", PATIENCE, || async {
            let report: Value = serde_json::from_str(&self.shards(&["-o", "json", &pool]).await?)?;
            let shard = &report["rings"][0]["shards"][0];
            match shard["holder"].as_str() {
                Some(holder) if shard["hasLiveOwner"] == true => Ok(holder.to_owned()),
                _ => Err(NotYet::because(shard.to_string())),
            }
        })
        .await
    }

    /// Kills a replica, as a power cut does.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        let place = self.managers.iter().position(|(known, _)| known == name);
        let (_, manager) = self.managers.remove(place.with_context(|| format!("there is no replica {name}"))?);
        manager.kill();
        Ok(())
    }

    /// All is up: from now on there is something to release at the end.
    pub(crate) fn runs(&mut self) {
        self.running = true;
    }

    pub(crate) fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("there is no cluster yet")
    }

    pub(crate) fn kubeconfig_path(&self) -> Result<PathBuf> {
        Ok(self.control_plane.as_ref().context("there is no cluster yet")?.kubeconfig_path().to_path_buf())
    }

    pub(crate) fn manager_log(&self) -> Option<PathBuf> {
        self.managers.first().map(|(_, manager)| manager.log().to_path_buf())
    }

    /// Stops what was started, and removes what was created in a cluster of somebody else's.
    pub(crate) async fn end(mut self) -> Result<()> {
        if self.kubeconfig.is_some()
            && let Ok(client) = self.client().cloned()
        {
            self.remove_objects(&client).await?;
        }
        for (_, manager) in self.managers.drain(..) {
            manager.terminate().await?;
        }
        if let Some(control_plane) = self.control_plane.take() {
            let folder = control_plane.folder().to_path_buf();
            control_plane.stop();
            self.console.say(&format!("Everything that was started is stopped. Logs: {}", folder.display()));
        }
        Ok(())
    }

    async fn remove_objects(&mut self, client: &Client) -> Result<()> {
        if self.namespace_created {
            // The manager has to release its finalizers, so the namespace goes while it runs.
            if self.running {
                let everything = ListParams::default();
                for api in [
                    Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &kinds::claim()),
                    PoolKind::InCluster.api(client, NAMESPACE),
                ] {
                    api.delete_collection(&DeleteParams::default(), &everything).await?;
                    eventually("the demo's claims and pool are gone", PATIENCE, || async {
                        match api.list(&everything).await?.items.len() {
                            0 => Ok(()),
                            left => Err(NotYet::because(format!("{left} are left"))),
                        }
                    })
                    .await?;
                }
            }
            let namespaces: Api<Namespace> = Api::all(client.clone());
            delete(&namespaces, NAMESPACE).await?;
            eventually("the demo's namespace is gone", PATIENCE * 2, || async {
                match namespaces.get_opt(NAMESPACE).await? {
                    None => Ok(()),
                    Some(_) => Err(NotYet::because("it is being emptied")),
                }
            })
            .await?;
            Self::release().uninstall_cluster_wide(client).await?;
            self.console.say(&format!("The namespace {NAMESPACE} and the demo's RBAC are removed."));
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for name in &self.crds {
            delete(&definitions, name).await?;
            self.console.say(&format!("The CRD {name} is removed; the demo had installed it."));
        }
        Ok(())
    }

    /// Leaves everything running, and says how to use it and how to end it.
    pub(crate) fn keep(mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig_path()?;
        let mut ids: Vec<u32> = self.managers.drain(..).map(|(_, manager)| manager.leave_running()).collect();
        if let Some(control_plane) = self.control_plane.take() {
            ids.extend(control_plane.leave_running()?);
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.console.heading("It is left running");
        self.console.say(&format!("kubeconfig: {}", kubeconfig.display()));
        self.console.say("Try:");
        self.console.command(&format!("export KUBECONFIG={}", kubeconfig.display()));
        self.console.command(&format!("kubectl -n {NAMESPACE} delete ipaddressclaim node-05 node-06"));
        self.console.command(&format!("kubectl -n {NAMESPACE} get ipaddresses.{} --watch", kinds::GROUP));
        self.console.command(&format!(
            "kubectl -n {NAMESPACE} patch inclusterippool rack-a --type=merge -p '{{\"spec\":{{\"addresses\":[\"10.0.0.10-10.0.0.99\"]}}}}'"
        ));
        if let Ok(program) = manager::program() {
            self.console.command(&format!("{} shards -n {NAMESPACE}", program.display()));
        }
        self.console.say("");
        if self.kubeconfig.is_some() {
            self.console.say("End it while the manager runs, so that it can release what it holds:");
            self.console.command(&format!("kubectl -n {NAMESPACE} delete ipaddressclaims,inclusterippools --all"));
            self.console.command(&format!("kubectl delete namespace {NAMESPACE} && kill {}", ids.join(" ")));
        } else {
            self.console.say("End it:");
            self.console.command(&format!("kill -KILL {}", ids.join(" ")));
        }
        Ok(())
    }
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => Err(error).with_context(|| format!("deleting {name}")),
        _ => Ok(()),
    }
}
