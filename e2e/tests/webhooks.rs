//! Webhooks and conversion, called by a real API server.

#[path = "webhooks/admission.rs"]
mod admission;
#[path = "webhooks/continuity.rs"]
mod continuity;
#[path = "webhooks/conversion.rs"]
mod conversion;
#[path = "webhooks/one_namespace.rs"]
mod one_namespace;
#[path = "webhooks/storage.rs"]
mod storage;

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use e2e::chart::Release;
use e2e::control_plane::ControlPlane;
use e2e::manager::{Manager, ManagerOptions};
use e2e::scene::{Scene, Stage};
use e2e::webhooks::{Certificate, Door, serving};
use tokio::sync::OnceCell;

/// A control plane whose API server calls the webhooks of one manager.
struct Hooked {
    stage: Stage,
    _manager: Manager,
    _door: Door,
}

/// The one that the scenarios share which leave the manager alone.
async fn hooked() -> Result<&'static Hooked> {
    static SHARED: OnceCell<Hooked> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| async {
            let mut stage = Stage::own("webhooks").await?;
            let certificate = Certificate::new(&stage.control_plane, "shared")?;
            let door = Door::open()?;
            let (options, port) = serving(ManagerOptions::new("manager"), &certificate)?;
            let manager = stage.manager(options).await?;
            door.leads_to(&[port]);
            let client = stage.control_plane.admin_client().await?;
            door.install(&client, &Release::default(), Some(certificate.authority())).await?;
            door.is_used(&client).await?;
            Ok(Hooked { stage, _manager: manager, _door: door })
        })
        .await
}

async fn scene(scenario: &str) -> Result<Scene> {
    hooked().await?.stage.scene(scenario).await
}

/// Runs kubectl as the administrator; what it prints, or what it complains about.
fn kubectl(control_plane: &ControlPlane, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("kubectl")
        .arg(format!("--kubeconfig={}", control_plane.kubeconfig_path().display()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl is needed by this scenario")?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
