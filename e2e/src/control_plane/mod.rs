//! A real control plane, without a node, on free ports of loopback.
//!
//! etcd, kube-apiserver with RBAC, and kube-controller-manager for garbage collection, namespaces and service accounts.
//! Nothing outlives the process that started it ([`crate::process`]), unless [`ControlPlane::leave_running`] says so.

pub(crate) mod certificates;
mod cluster_api;
mod core_manager;
mod go;
mod kubeconfig;
mod programs;
mod servers;
mod tools;
pub mod versions;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub use cluster_api::crds as cluster_api_crds;
pub use core_manager::CoreManager;
pub use kubeconfig::with_token as kubeconfig_with_token;
pub use programs::Programs;
use servers::Servers;
pub use tools::Tools;

use crate::crds;
use crate::folders;

/// The variable with the kubeconfig of a cluster to use instead of starting one. Not `KUBECONFIG`: the cluster that a
/// person works with is not for tests.
pub const KUBECONFIG_VARIABLE: &str = "E2E_KUBECONFIG";

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    name: String,
    api_server_arguments: Vec<String>,
    cluster_api: bool,
}

impl Options {
    /// A control plane whose folder of logs is called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), api_server_arguments: Vec::new(), cluster_api: true }
    }

    /// More flags of kube-apiserver.
    #[must_use]
    pub fn api_server_argument(mut self, argument: impl Into<String>) -> Self {
        self.api_server_arguments.push(argument.into());
        self
    }

    /// Without Cluster API's CRDs, for tests of what happens before they appear.
    #[must_use]
    pub fn without_cluster_api(mut self) -> Self {
        self.cluster_api = false;
        self
    }
}

/// A running control plane, ours or somebody else's.
#[derive(Debug)]
pub struct ControlPlane {
    kubeconfig: PathBuf,
    folder: PathBuf,
    servers: Option<Servers>,
}

impl ControlPlane {
    /// Builds what is missing, starts it, waits until it serves and installs Cluster API's CRDs.
    pub async fn start(options: Options) -> Result<Self> {
        // Building takes minutes and reading blocks; on a thread of its own the runtime stays alive meanwhile.
        let (programs, cluster_api) = tokio::task::spawn_blocking(move || -> Result<_> {
            let programs = Programs::find_or_build()?;
            let crds = if options.cluster_api { cluster_api::crds()? } else { Vec::new() };
            Ok(((programs, options), crds))
        })
        .await
        .context("preparing the control plane")??;
        let (programs, options) = programs;
        let folder = folder_of_run(&options.name)?;
        let servers = Servers::start(programs, &folder, options.api_server_arguments).await?;
        let control_plane = Self { kubeconfig: servers.kubeconfig(), folder, servers: Some(servers) };
        crds::install_missing(&control_plane.admin_client().await?, &cluster_api).await?;
        Ok(control_plane)
    }

    /// A cluster that is there already; nothing is installed in it.
    pub fn existing(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = std::path::absolute(kubeconfig)
            .with_context(|| format!("finding the kubeconfig {}", kubeconfig.display()))?;
        Ok(Self { kubeconfig, folder: folder_of_run("existing")?, servers: None })
    }

    /// The cluster that [`KUBECONFIG_VARIABLE`] names, else a new one.
    pub async fn existing_or_start(options: Options) -> Result<Self> {
        match std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty()) {
            None => Self::start(options).await,
            Some(path) => {
                let control_plane = Self::existing(Path::new(&path))?;
                crds::install_missing(&control_plane.admin_client().await?, &cluster_api::crds()?).await?;
                Ok(control_plane)
            }
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The processes that were started.
    pub fn process_ids(&self) -> Vec<u32> {
        self.servers.as_ref().map(Servers::process_ids).unwrap_or_default()
    }

    /// Whether something collects garbage and empties deleted namespaces.
    pub fn has_controllers(&self) -> bool {
        self.servers.as_ref().is_none_or(Servers::has_controllers)
    }

    /// A client with all rights. It belongs to the runtime that it is made on: make one per test.
    pub async fn admin_client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }

    /// Kills kube-apiserver, as a crash of its node does.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.own()?.stop_api_server();
        Ok(())
    }

    /// Starts kube-apiserver again at its old address and waits until it serves.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.own()?.start_api_server().await
    }

    /// Kills kube-apiserver and starts it again.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.stop_api_server()?;
        self.start_api_server().await
    }

    /// Kills etcd; what was written stays.
    pub fn stop_etcd(&mut self) -> Result<()> {
        self.own()?.stop_etcd();
        Ok(())
    }

    /// Starts etcd again with what it had, and waits until the API server serves again.
    pub async fn start_etcd(&mut self) -> Result<()> {
        let servers = self.own()?;
        servers.start_etcd()?;
        servers.wait_until_ready().await
    }

    /// Keeps what etcd has, for [`ControlPlane::restore`]; etcd is away meanwhile.
    pub fn back_up(&mut self) -> Result<()> {
        self.own()?.back_up()
    }

    /// Puts back what was kept, as an operator does who restores a snapshot of etcd: resourceVersions go back.
    pub async fn restore(&mut self) -> Result<()> {
        self.own()?.restore().await
    }

    /// Ends all that was started, and removes its data; logs stay.
    pub fn stop(mut self) {
        self.servers.take();
    }

    /// Lets it outlive this process. Returns the process ids: to end it is the caller's task then.
    pub fn leave_running(mut self) -> Result<Vec<u32>> {
        std::fs::write(self.folder.join(KEPT), "left running on request\n").context("marking the folder as kept")?;
        Ok(self.servers.take().map(Servers::leave_running).unwrap_or_default())
    }

    fn own(&mut self) -> Result<&mut Servers> {
        match &mut self.servers {
            Some(servers) => Ok(servers),
            None => bail!("this cluster was not started by the tests, so they do not stop its API server"),
        }
    }
}

/// Builds and downloads whatever [`ControlPlane::start`] would: the paths of the programs. Blocks for minutes the first time.
pub fn prepare() -> Result<Vec<PathBuf>> {
    let Programs { etcd, api_server, controller_manager } = Programs::find_or_build()?;
    cluster_api::crds()?;
    Ok([Some(etcd), Some(api_server), controller_manager].into_iter().flatten().collect())
}

/// A client for a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// The client configuration of a kubeconfig.
pub async fn config(kubeconfig: &Path) -> Result<Config> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("using {}", kubeconfig.display()))
}

/// Marks a folder whose control plane was left running.
const KEPT: &str = "kept";

/// A new folder `target/e2e/<name>-<pid>`; the folders of earlier runs of that name go.
fn folder_of_run(name: &str) -> Result<PathBuf> {
    let runs = folders::runs()?;
    for entry in std::fs::read_dir(&runs).with_context(|| format!("reading {}", runs.display()))?.flatten() {
        let file_name = entry.file_name();
        let Some(rest) = file_name.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-')) else {
            continue;
        };
        let Ok(id) = rest.split('-').next().unwrap_or_default().parse::<u32>() else { continue };
        let alive = Path::new("/proc").exists() && Path::new(&format!("/proc/{id}")).exists();
        if !alive && !entry.path().join(KEPT).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    // More than one of a name in a process: tests of one program that each start their own.
    for attempt in 0u32.. {
        let folder = runs.join(format!("{name}-{}-{attempt}", std::process::id()));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("creating {}", folder.display())),
        }
    }
    bail!("no free folder for {name}")
}
