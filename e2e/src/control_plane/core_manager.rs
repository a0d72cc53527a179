//! Cluster API's core provider as `clusterctl init` installs it, but as a process: all of its kinds, converted and
//! admitted by its own webhooks, which the API server reaches on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::ByteString;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::certificates::Authority;
use super::kubeconfig::write_private;
use super::{ControlPlane, cluster_api, go, versions};
use crate::chart::api_of;
use crate::crds;
use crate::eventually::{NotYet, eventually};
use crate::process::{Process, Program};

/// It starts in a few seconds alone.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// A port that was free may be taken before the manager binds it.
const ATTEMPTS: usize = 4;

/// The running manager. Dropping it kills it.
#[derive(Debug)]
pub struct CoreManager {
    process: Process,
}

impl CoreManager {
    /// Installs all kinds of Cluster API, starts `program` and points the API server to its webhooks. Returns when they
    /// answer. The control plane has to be one without Cluster API's CRDs.
    pub async fn start(control_plane: &ControlPlane, program: &Path) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let ports = free_ports()?;
            let authority = Authority::new()?;
            let certificates = write_certificate(control_plane.folder(), &authority)?;
            let module = tokio::task::spawn_blocking(source).await.context("reading Cluster API's module")??;
            let there = Webhooks { port: ports.webhooks, authority: encode(&authority.certificate)? };
            install(control_plane, &module, &there).await?;
            let process = spawn(control_plane, program, &certificates, ports)?;
            let mut manager = Self { process };
            match manager.until_ready(control_plane).await {
                Err(_) if manager.process.tail(20).contains("address already in use") => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(manager),
            }
        }
        bail!("Cluster API's manager found its ports taken {ATTEMPTS} times")
    }

    /// The file of its log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// A dry run of a create says whether its webhooks answer.
    async fn until_ready(&mut self, control_plane: &ControlPlane) -> Result<()> {
        let client = control_plane.admin_client().await?;
        let reference = json!({ "apiGroup": "infrastructure.example.org", "kind": "ExampleCluster", "name": "probe" });
        let cluster = json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
            "metadata": { "name": "probe", "namespace": "default" },
            "spec": {
                "clusterNetwork": { "pods": { "cidrBlocks": ["192.168.0.0/16"] } }, "infrastructureRef": reference,
            },
        });
        let (api, _) = api_of(&client, &cluster)?;
        let object = serde_json::from_value(cluster)?;
        let only_ask = PostParams { dry_run: true, ..PostParams::default() };
        let process = std::cell::RefCell::new(&mut self.process);
        eventually("Cluster API's webhooks answer", READY_WITHIN, || async {
            // A manager that has ended is not waited for.
            if let Err(error) = process.borrow_mut().must_run() {
                return Ok::<_, NotYet>(Err(error));
            }
            api.create(&only_ask, &object).await?;
            Ok(Ok(()))
        })
        .await?
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    webhooks: u16,
    health: u16,
}

fn free_ports() -> Result<Ports> {
    let held = [TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?];
    Ok(Ports { webhooks: held[0].local_addr()?.port(), health: held[1].local_addr()?.port() })
}

/// Where the webhooks are, and who signed their certificate.
struct Webhooks {
    port: u16,
    authority: Value,
}

impl Webhooks {
    fn client_config(&self, path: &str) -> Value {
        json!({ "url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.authority })
    }
}

fn encode(text: &str) -> Result<Value> {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).context("encoding as base64")
}

fn write_certificate(folder: &Path, authority: &Authority) -> Result<PathBuf> {
    let folder = folder.join("core-manager");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let server = authority.server(&["127.0.0.1"])?;
    write_private(&folder.join("tls.crt"), &server.certificate)?;
    write_private(&folder.join("tls.key"), &server.key)?;
    Ok(folder)
}

fn source() -> Result<PathBuf> {
    Ok(go::source(&format!("sigs.k8s.io/cluster-api@v{}", versions::CLUSTER_API))?.join("config"))
}

fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", path.display()))
}

async fn install(control_plane: &ControlPlane, module: &Path, webhooks: &Webhooks) -> Result<()> {
    let mut kinds = Vec::new();
    let folder = module.join("crd/bases");
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        for mut crd in read(&entry?.path())? {
            cluster_api::label(&mut crd);
            crd["spec"]["conversion"] = json!({
                "strategy": "Webhook",
                "webhook": { "conversionReviewVersions": ["v1"], "clientConfig": webhooks.client_config("/convert") },
            });
            kinds.push(crd);
        }
    }
    let client = control_plane.admin_client().await?;
    crds::install(&client, &kinds).await?;
    for mut configuration in read(&module.join("webhook/manifests.yaml"))? {
        for webhook in configuration["webhooks"].as_array_mut().context("a webhook configuration without webhooks")? {
            let path = webhook["clientConfig"]["service"]["path"].as_str().context("a webhook without a path")?;
            webhook["clientConfig"] = webhooks.client_config(path);
        }
        let (api, name) = api_of(&client, &configuration)?;
        api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&configuration))
            .await
            .with_context(|| format!("installing {name}"))?;
    }
    Ok(())
}

fn spawn(control_plane: &ControlPlane, program: &Path, certificates: &Path, ports: Ports) -> Result<Process> {
    Program::new("Cluster API's manager", program, control_plane.folder().join("core-manager.log"))
        .arguments([
            format!("--kubeconfig={}", control_plane.kubeconfig_path().display()),
            format!("--webhook-port={}", ports.webhooks),
            format!("--webhook-cert-dir={}", certificates.display()),
            format!("--health-addr=127.0.0.1:{}", ports.health),
            "--diagnostics-address=0".to_owned(),
            // There is nothing of older versions to migrate.
            "--skip-crd-migration-phases=StorageVersionMigration,CleanupManagedFields".to_owned(),
        ])
        .environment(&["POD_NAMESPACE", "POD_NAME", "POD_UID"].map(|name| (name.to_owned(), "e2e".to_owned())))
        .start()
}
