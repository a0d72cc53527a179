//! The three server processes: their flags, their order, and when they are ready.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::Client;

use super::certificates::{Authority, service_account_keys};
use super::kubeconfig::{self, write_private};
use super::programs::Programs;
use crate::process::{Process, Program};
use crate::progress::say;

/// It takes about 4 seconds alone, and several times that when tests and compilers share two cores.
const READY_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// A port that was free may be taken before its server binds it; then all starts again with other ports.
const ATTEMPTS: usize = 4;

/// Only what the tests need. A name that kube-controller-manager does not know ends it at once.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,deployment-controller,replicaset-controller";

/// The servers of one control plane, and how to start each again.
#[derive(Debug)]
pub(super) struct Servers {
    programs: Programs,
    folder: PathBuf,
    ports: Ports,
    api_server_arguments: Vec<String>,
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    api_server: u16,
    controller_manager: u16,
}

impl Ports {
    /// All are held until all are known, so that they differ.
    fn free() -> Result<Self> {
        let held = (0..4).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>();
        let held = held.context("looking for free ports on 127.0.0.1")?;
        let ports = held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        Ok(Self { etcd: ports[0], etcd_peer: ports[1], api_server: ports[2], controller_manager: ports[3] })
    }

    fn server(self) -> String {
        format!("https://127.0.0.1:{}", self.api_server)
    }
}

impl Servers {
    pub(super) async fn start(programs: Programs, folder: &Path, api_server_arguments: Vec<String>) -> Result<Self> {
        let authority = write_identities(folder)?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::attempt(programs.clone(), folder, &authority, api_server_arguments.clone()).await {
                Ok(servers) => return Ok(servers),
                Err(error) => {
                    say(format!("the control plane did not start: {error:#}"));
                    last = Some(error);
                }
            }
        }
        Err(last.context("no attempt was made")?)
    }

    async fn attempt(
        programs: Programs,
        folder: &Path,
        authority: &Authority,
        api_server_arguments: Vec<String>,
    ) -> Result<Self> {
        let ports = Ports::free()?;
        let admin = authority.client("admin", "system:masters")?;
        kubeconfig::write(&folder.join("kubeconfig"), &ports.server(), &authority.certificate, &admin)?;
        // What an attempt with other ports left behind.
        let _ = std::fs::remove_dir_all(folder.join("etcd"));
        let etcd = start_etcd(&programs, folder, ports)?;
        let mut servers = Self {
            programs,
            folder: folder.to_path_buf(),
            ports,
            api_server_arguments,
            controller_manager: None,
            api_server: None,
            etcd: Some(etcd),
        };
        servers.start_api_server().await?;
        servers.start_controller_manager()?;
        Ok(servers)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(super) fn process_ids(&self) -> Vec<u32> {
        [&self.etcd, &self.api_server, &self.controller_manager].into_iter().flatten().map(Process::id).collect()
    }

    pub(super) fn has_controllers(&self) -> bool {
        self.controller_manager.is_some()
    }

    pub(super) fn stop_api_server(&mut self) {
        // SIGKILL: with open watches an orderly end takes up to a minute.
        self.api_server = None;
    }

    /// Kills etcd, as a crash of its node does; what was written stays.
    pub(super) fn stop_etcd(&mut self) {
        self.etcd = None;
    }

    pub(super) fn start_etcd(&mut self) -> Result<()> {
        self.etcd = Some(start_etcd(&self.programs, &self.folder, self.ports)?);
        Ok(())
    }

    /// Keeps what etcd has in a folder of its own; etcd is away meanwhile.
    pub(super) fn back_up(&mut self) -> Result<()> {
        self.stop_etcd();
        copy_folder(&self.folder.join("etcd"), &self.folder.join("backup"))?;
        self.start_etcd()
    }

    /// Puts back what was kept: the cluster is as it was then, resourceVersions included.
    pub(super) async fn restore(&mut self) -> Result<()> {
        self.controller_manager = None;
        self.stop_api_server();
        self.stop_etcd();
        let data = self.folder.join("etcd");
        std::fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        copy_folder(&self.folder.join("backup"), &data)?;
        self.start_etcd()?;
        self.start_api_server().await?;
        self.start_controller_manager()
    }

    pub(super) async fn start_api_server(&mut self) -> Result<()> {
        let program = Program::new("kube-apiserver", &self.programs.api_server, self.folder.join("kube-apiserver.log"));
        self.api_server = Some(program.arguments(self.api_server_flags()).start()?);
        self.wait_until_ready().await
    }

    fn api_server_flags(&self) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
            format!("--secure-port={}", self.ports.api_server),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            // There is one server, and no endpoint may be a loopback address.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", self.folder.display()),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!("--service-account-signing-key-file={}", file("service-account.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--profiling=false".to_owned(),
        ];
        flags.extend_from_slice(&self.api_server_arguments);
        flags
    }

    /// Until the API server serves, which takes etcd.
    pub(super) async fn wait_until_ready(&mut self) -> Result<()> {
        let mut config = super::config(&self.kubeconfig()).await?;
        // This loop asks again by itself, and sooner.
        config.default_retry = false;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(config)?;
        let started = Instant::now();
        loop {
            self.must_run()?;
            let answer = client.request_text(Request::get("/readyz").body(Vec::new())?).await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > READY_WITHIN => {
                    let log = self.api_server.as_ref().map_or_else(String::new, |process| process.tail(15));
                    bail!("kube-apiserver is not ready after {READY_WITHIN:?}: {error}\n{log}");
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn start_controller_manager(&mut self) -> Result<()> {
        let Some(program) = &self.programs.controller_manager else { return Ok(()) };
        let process = Program::new("kube-controller-manager", program, self.folder.join("kube-controller-manager.log"))
            .arguments([
                format!("--kubeconfig={}", self.kubeconfig().display()),
                format!("--secure-port={}", self.ports.controller_manager),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", self.folder.display()),
                format!("--root-ca-file={}", self.folder.join("ca.crt").display()),
                "--leader-elect=false".to_owned(),
                format!("--controllers={CONTROLLERS}"),
                // Tests delete thousands of objects at once.
                "--kube-api-qps=200".to_owned(),
                "--kube-api-burst=400".to_owned(),
            ]);
        self.controller_manager = Some(process.start()?);
        Ok(())
    }

    /// Fails when one of them has ended by itself.
    pub(super) fn must_run(&mut self) -> Result<()> {
        for process in [&mut self.etcd, &mut self.api_server, &mut self.controller_manager].into_iter().flatten() {
            process.must_run()?;
        }
        Ok(())
    }

    pub(super) fn leave_running(mut self) -> Vec<u32> {
        [self.controller_manager.take(), self.api_server.take(), self.etcd.take()]
            .into_iter()
            .flatten()
            .map(Process::leave_running)
            .collect()
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn start_etcd(programs: &Programs, folder: &Path, ports: Ports) -> Result<Process> {
    let data = folder.join("etcd");
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    Program::new("etcd", &programs.etcd, folder.join("etcd.log"))
        .arguments([
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Nobody needs the data after a power cut, and the disk is what a test machine has least of.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ])
        .scratch(data)
        .start()
}

fn write_identities(folder: &Path) -> Result<Authority> {
    let authority = Authority::new()?;
    let server = authority.server(&["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc", "10.0.0.1"])?;
    let (private, public) = service_account_keys()?;
    for (name, text) in [
        ("ca.crt", &authority.certificate),
        ("apiserver.crt", &server.certificate),
        ("apiserver.key", &server.key),
        ("service-account.key", &private),
        ("service-account.pub", &public),
    ] {
        write_private(&folder.join(name), text)?;
    }
    Ok(authority)
}

impl Drop for Servers {
    fn drop(&mut self) {
        // In this order, so that nobody complains about who is gone.
        self.controller_manager = None;
        self.api_server = None;
        // None: it was left running, and needs its data.
        if self.etcd.take().is_some() {
            let _ = std::fs::remove_dir_all(self.folder.join("etcd"));
            let _ = std::fs::remove_dir_all(self.folder.join("backup"));
        }
    }
}
