//! The product's own program as a child process: found beside the tests, run as the chart's service account.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::{Client, Config};

use crate::chart::Release;
use crate::control_plane::{ControlPlane, kubeconfig_with_token};
use crate::eventually::{NotYet, eventually};
use crate::folders;
use crate::metrics::Metrics;
use crate::process::{Process, Program, Signal};
use crate::usage::{self, Usage};

/// The variable with the path of the program to test.
pub const PROGRAM_VARIABLE: &str = "MANAGER";

/// The contract: after SIGTERM the manager ends within 10 s. The rest is for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Until `/healthz` answers, and until `/readyz` says yes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
const READY_WITHIN: Duration = Duration::from_mins(1);

/// A port that was free may be taken before the manager binds it.
const ATTEMPTS: usize = 4;

/// How to run it.
#[derive(Clone, Debug)]
pub struct ManagerOptions {
    name: String,
    release: Release,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    leader_elect: bool,
    install: bool,
    through: Option<PathBuf>,
    only: Option<String>,
}

impl ManagerOptions {
    /// One whose files are called `name`: no leader election, no webhooks, all namespaces.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            release: Release::default(),
            arguments: Vec::new(),
            environment: Vec::new(),
            leader_elect: false,
            install: true,
            through: None,
            only: None,
        }
    }

    /// Another installation than the default one.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// As a service account that is there already, with rights that somebody else has given it.
    #[must_use]
    pub fn as_account(mut self, account: Release) -> Self {
        self.release = account;
        self.install = false;
        self
    }

    /// Serving the claims of this namespace, with rights there alone.
    #[must_use]
    pub fn in_one_namespace(mut self, namespace: &str) -> Self {
        self.only = Some(namespace.to_owned());
        self.argument(format!("--namespace={namespace}"))
    }

    /// With Leases, as replicas in a cluster run.
    #[must_use]
    pub fn leader_elect(mut self) -> Self {
        self.leader_elect = true;
        self
    }

    /// Reaching the API server as this kubeconfig says, such as that of a proxy.
    #[must_use]
    pub fn through(mut self, kubeconfig: &Path) -> Self {
        self.through = Some(kubeconfig.to_path_buf());
        self
    }

    /// One more flag.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// A running manager. Dropping it kills it.
#[derive(Debug)]
pub struct Manager {
    process: Process,
    health: Endpoint,
    diagnostics: Endpoint,
}

/// A plain HTTP address on loopback.
#[derive(Clone, Copy, Debug)]
struct Endpoint(u16);

impl Endpoint {
    async fn get(self, path: &str) -> Result<String> {
        let uri = format!("http://127.0.0.1:{}", self.0).parse().context("naming a loopback address")?;
        let mut config = Config::new(uri);
        config.default_retry = false;
        config.read_timeout = Some(Duration::from_secs(5));
        let client = Client::try_from(config)?;
        Ok(client.request_text(Request::get(path).body(Vec::new())?).await?)
    }
}

/// The program to test: the one that [`PROGRAM_VARIABLE`] names, else the one that was built beside this program.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(PROGRAM_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let path = folders::profile()?.join("manager");
    if !path.is_file() {
        bail!("{} is missing: build it (cargo build --bin manager), or use make test", path.display());
    }
    Ok(path)
}

impl Manager {
    /// Installs the chart's service account and RBAC, and starts the manager with a token of that account. Returns when
    /// its health endpoint answers; see [`Manager::ready`].
    pub async fn start(control_plane: &ControlPlane, options: ManagerOptions) -> Result<Self> {
        let client = control_plane.admin_client().await?;
        if options.install {
            options.release.install_in(&client, options.only.as_deref()).await?;
        }
        let token = options.release.token(&client).await?;
        let kubeconfig = control_plane.folder().join(format!("{}.kubeconfig", options.name));
        let server = options.through.as_deref().unwrap_or(control_plane.kubeconfig_path());
        kubeconfig_with_token(server, &kubeconfig, &token)?;
        let program = program()?;
        for _ in 0..ATTEMPTS {
            let mut manager = Self::spawn(control_plane.folder(), &program, &kubeconfig, &options)?;
            match manager.answers().await {
                Err(_) if manager.process.tail(20).to_lowercase().contains("address already in use") => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(manager),
            }
        }
        bail!("the manager found its ports taken {ATTEMPTS} times")
    }

    /// Starts it and waits until it is ready.
    pub async fn start_ready(control_plane: &ControlPlane, options: ManagerOptions) -> Result<Self> {
        let mut manager = Self::start(control_plane, options).await?;
        manager.ready().await?;
        Ok(manager)
    }

    fn spawn(folder: &Path, program: &Path, kubeconfig: &Path, options: &ManagerOptions) -> Result<Self> {
        let held = [TcpListener::bind(("127.0.0.1", 0)), TcpListener::bind(("127.0.0.1", 0))];
        let [health, diagnostics] =
            held.map(|listener| -> Result<Endpoint> { Ok(Endpoint(listener?.local_addr()?.port())) });
        let (health, diagnostics) = (health?, diagnostics?);
        let process = Program::new("manager", program, folder.join(format!("{}.log", options.name)))
            .arguments([
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--health-probe-bind-address=127.0.0.1:{}", health.0),
                "--insecure-diagnostics".to_owned(),
                format!("--diagnostics-address=127.0.0.1:{}", diagnostics.0),
                "--webhook-port=0".to_owned(),
                format!("--leader-elect={}", options.leader_elect),
                format!("--leader-election-namespace={}", options.release.namespace),
            ])
            .arguments(&options.arguments)
            .environment(&options.environment)
            .start()?;
        Ok(Self { process, health, diagnostics })
    }

    async fn answers(&mut self) -> Result<()> {
        let health = self.health;
        let process = std::cell::RefCell::new(&mut self.process);
        eventually("the manager answers on /healthz", ANSWERS_WITHIN, || async {
            // A manager that has ended is not waited for.
            if let Err(error) = process.borrow_mut().must_run() {
                return Ok(Err(error));
            }
            health.get("/healthz").await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&mut self) -> Result<()> {
        let health = self.health;
        let process = std::cell::RefCell::new(&mut self.process);
        eventually("the manager is ready", READY_WITHIN, || async {
            if let Err(error) = process.borrow_mut().must_run() {
                return Ok::<_, NotYet>(Err(error));
            }
            health.get("/readyz").await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// Whether `/readyz` says yes now.
    pub async fn is_ready(&self) -> bool {
        self.health.get("/readyz").await.is_ok()
    }

    /// What `/readyz` answers, ready or not.
    pub async fn readiness(&self) -> Result<String> {
        match self.health.get("/readyz?verbose").await {
            Ok(text) => Ok(text),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Fails when it has ended by itself.
    pub fn must_run(&mut self) -> Result<()> {
        self.process.must_run()
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::Term)?;
        match self.process.end(ENDS_WITHIN).await {
            Some(status) => Ok(status),
            None => bail!("the manager still runs {ENDS_WITHIN:?} after SIGTERM:\n{}", self.process.tail(15)),
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Stops it for a while, as a paused machine does.
    pub async fn stop_cont(&mut self, pause: Duration) -> Result<()> {
        self.process.signal(Signal::Stop)?;
        tokio::time::sleep(pause).await;
        self.process.signal(Signal::Cont)
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.diagnostics.get("/metrics").await.context("scraping the manager")?))
    }

    /// What it answers at this path of its diagnostics address.
    pub async fn diagnostics(&self, path: &str) -> Result<String> {
        self.diagnostics.get(path).await
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        usage::of_process(self.process.id())
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Lets it outlive this process; returns its id.
    pub fn leave_running(self) -> u32 {
        self.process.leave_running()
    }
}
