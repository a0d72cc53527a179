//! The product's webhooks on a control plane without pods: reached by URL, through a door that leads to the replicas that
//! are ready, as a Service does.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::chart::{Release, api_of};
use crate::control_plane::ControlPlane;
use crate::control_plane::certificates::Authority;
use crate::eventually::{NotYet, PATIENCE, eventually};
use crate::kinds::{GROUP, PoolKind};
use crate::manager::ManagerOptions;

/// The name that certificates are for, the manager's own too. The door is reached by it.
const HOST: &str = "localhost";

/// A folder with a certificate as kubelet mounts a Secret, signed by an authority of the test.
pub struct Certificate {
    authority: Authority,
    folder: PathBuf,
    generation: u32,
}

impl Certificate {
    /// A first one, in a folder of this name.
    pub fn new(control_plane: &ControlPlane, name: &str) -> Result<Self> {
        let folder = control_plane.folder().join(format!("{name}-certificate"));
        let mut certificate = Self { authority: Authority::new()?, folder, generation: 0 };
        certificate.replace()?;
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), certificate.folder.join(file)).context("linking a certificate")?;
        }
        Ok(certificate)
    }

    /// Another one of the same authority takes its place: files are links through a link, and that one is replaced.
    pub fn replace(&mut self) -> Result<()> {
        let identity = self.authority.server(&[HOST])?;
        self.generation += 1;
        let name = format!("..{}", self.generation);
        let data = self.folder.join(&name);
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("tls.crt"), identity.certificate)?;
        std::fs::write(data.join("tls.key"), identity.key)?;
        let link = self.folder.join("..data_tmp");
        symlink(&name, &link)?;
        std::fs::rename(&link, self.folder.join("..data")).context("replacing a certificate")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority's certificate, as PEM.
    pub fn authority(&self) -> &str {
        &self.authority.certificate
    }
}

/// A manager with webhooks at a port of its own, which is returned.
pub fn serving(options: ManagerOptions, certificate: &Certificate) -> Result<(ManagerOptions, u16)> {
    let port = Door::free_port()?;
    let options = options
        .argument("--webhook-host=127.0.0.1")
        .argument(format!("--webhook-port={port}"))
        .argument(format!("--webhook-cert-dir={}", certificate.folder().display()));
    Ok((options, port))
}

/// What stands between the API server and the replicas. It ends when it is dropped.
///
/// It has a thread of its own: the scenarios that share it have a runtime each, which ends with the scenario.
#[derive(Debug)]
pub struct Door {
    port: u16,
    behind: Arc<RwLock<Vec<u16>>>,
    /// The one version of `AdmissionReview` that is asked for, if not those of the chart.
    review: Option<&'static str>,
    _open: DropGuard,
}

impl Door {
    /// One with nobody behind it.
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a door")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let behind: Arc<RwLock<Vec<u16>>> = Arc::default();
        let closed = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (leads_to, open) = (behind.clone(), closed.clone());
        std::thread::spawn(move || {
            runtime.block_on(async {
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    open.run_until_cancelled(accept(listener, leads_to)).await;
                }
            });
        });
        Ok(Self { port, behind, review: None, _open: closed.drop_guard() })
    }

    /// Has the API server ask in this version of `AdmissionReview`.
    #[must_use]
    pub fn asked_in(mut self, review: &'static str) -> Self {
        self.review = Some(review);
        self
    }

    /// New connections go to these ports, one after the other.
    pub fn leads_to(&self, ports: &[u16]) {
        *self.behind.write().unwrap_or_else(PoisonError::into_inner) = ports.to_vec();
    }

    /// A port that nobody has now.
    pub fn free_port() -> Result<u16> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
    }

    /// Installs the chart's webhooks and conversion, with this door in the place of the chart's Service.
    pub async fn install(&self, client: &Client, release: &Release, authority: Option<&str>) -> Result<()> {
        self.install_with(client, release, &Value::Null, authority).await
    }

    /// The same, with these values over the chart's defaults.
    pub async fn install_with(
        &self,
        client: &Client,
        release: &Release,
        values: &Value,
        authority: Option<&str>,
    ) -> Result<()> {
        for (kind, list) in [
            ("MutatingWebhookConfiguration", "mutatingWebhooks"),
            ("ValidatingWebhookConfiguration", "validatingWebhooks"),
        ] {
            let mut webhooks = release.named_with(values, list)?;
            for webhook in webhooks.as_array_mut().context("no list of webhooks")? {
                webhook["clientConfig"] = self.client_config(&webhook["clientConfig"], authority)?;
                if let Some(version) = self.review {
                    webhook["admissionReviewVersions"] = json!([version]);
                }
            }
            let name = release.named("webhookConfiguration")?;
            let manifest = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": name },
                "webhooks": webhooks,
            });
            apply(client, &manifest).await?;
        }
        for plural in ["inclusterippools", "globalinclusterippools"] {
            let mut conversion = release.named("conversion")?;
            let config = &mut conversion["webhook"]["clientConfig"];
            *config = self.client_config(config, authority)?;
            let manifest = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": { "name": format!("{plural}.ipam.cluster.x-k8s.io") },
                "spec": { "conversion": conversion },
            });
            let (api, name) = api_of(client, &manifest)?;
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&manifest))
                .await
                .context("setting a conversion")?;
        }
        Ok(())
    }

    /// Waits until the API server has heard of it all: configurations reach it by watches.
    pub async fn is_used(&self, client: &Client) -> Result<()> {
        let refusals = [
            ("v1alpha2", json!({ "addresses": ["oops"], "prefix": 24 }), "spec.addresses[0]"),
            ("v1alpha1", json!({ "subnet": "oops" }), "spec.subnet"),
        ];
        for kind in [PoolKind::InCluster, PoolKind::GlobalInCluster] {
            for (version, spec, named) in &refusals {
                let resource = ApiResource { version: (*version).to_owned(), ..kind.resource() };
                let resource = ApiResource { api_version: format!("{GROUP}/{version}"), ..resource };
                let api: Api<DynamicObject> = if kind.is_global() {
                    Api::all_with(client.clone(), &resource)
                } else {
                    Api::namespaced_with(client.clone(), "default", &resource)
                };
                let object = serde_json::from_value(json!({
                    "apiVersion": resource.api_version, "kind": resource.kind, "metadata": { "name": "asked" },
                    "spec": spec,
                }))?;
                let only_ask = PostParams { dry_run: true, ..PostParams::default() };
                let what = format!("a wrong {} of {version} is refused", resource.kind);
                eventually(&what, PATIENCE, || async {
                    match api.create(&only_ask, &object).await {
                        Err(kube::Error::Api(status)) if status.message.contains(named) => Ok(()),
                        other => Err(NotYet::because(format!("{other:?}"))),
                    }
                })
                .await?;
            }
        }
        Ok(())
    }

    fn client_config(&self, of_the_chart: &Value, authority: Option<&str>) -> Result<Value> {
        let path = of_the_chart["service"]["path"].as_str().context("a webhook without a path")?;
        let mut config = json!({ "url": format!("https://{HOST}:{}{path}", self.port) });
        if let Some(authority) = authority {
            config["caBundle"] = serde_json::to_value(ByteString(authority.as_bytes().to_vec()))?;
        }
        Ok(config)
    }
}

async fn apply(client: &Client, manifest: &Value) -> Result<()> {
    let (api, name) = api_of(client, manifest)?;
    let params = PatchParams::apply("e2e").force();
    api.patch(&name, &params, &Patch::Apply(manifest)).await.with_context(|| format!("installing {name}"))?;
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, behind: Arc<RwLock<Vec<u16>>>) {
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        turn = turn.wrapping_add(1);
        let port = {
            let behind = behind.read().unwrap_or_else(PoisonError::into_inner);
            (!behind.is_empty()).then(|| behind[turn % behind.len()])
        };
        connections.spawn(async move {
            let Some(port) = port else { return };
            if let Ok(mut inside) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                // A packet that waits for the acknowledgement of the one before it would be measured as the webhook's.
                let _ = stream.set_nodelay(true).and_then(|()| inside.set_nodelay(true));
                // Whichever side breaks it off.
                let _ = copy_bidirectional(&mut stream, &mut inside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
