//! What users meet first: nothing to connect to, kinds or rights that are missing. One line each, never a backtrace.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::Release;
use e2e::control_plane::{ControlPlane, Options, cluster_api_crds, kubeconfig_with_token};
use e2e::crds;
use e2e::eventually::{NotYet, eventually};
use e2e::manager::{Manager, ManagerOptions, program};
use e2e::process::{Process, Program};

const LOGGED_WITHIN: Duration = Duration::from_secs(20);

/// Runs the manager until it ends by itself, within its patience with an API server that does not answer.
fn run(arguments: &[String]) -> Result<Output> {
    Command::new("timeout")
        .arg("60")
        .arg(program()?)
        .args(["--health-probe-bind-address=0", "--diagnostics-address=0", "--webhook-port=0"])
        .args(arguments)
        .env("RUST_BACKTRACE", "1")
        .output()
        .context("running the manager")
}

/// The last line of stderr, which must be the only one that is no log line.
fn complaint(output: &Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!stderr.contains("backtrace"), "a backtrace: {stderr}");
    let plain: Vec<&str> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
    ensure!(plain.len() == 1, "not one line: {stderr}");
    Ok(plain[0].to_owned())
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_named_and_the_exit_code_is_1() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("untrusted").without_cluster_api()).await?;
    let kubeconfig = std::fs::read_to_string(control_plane.kubeconfig_path())?;
    // The same server, of which nobody vouches.
    let mut trusting: serde_json::Value = serde_saphyr::from_str(&kubeconfig)?;
    let cluster = trusting.pointer_mut("/clusters/0/cluster").and_then(serde_json::Value::as_object_mut);
    let authority = cluster.and_then(|cluster| cluster.remove("certificate-authority-data"));
    ensure!(authority.is_some(), "the kubeconfig names no authority: {kubeconfig}");
    let path = control_plane.folder().join("untrusted.kubeconfig");
    std::fs::write(&path, trusting.to_string())?;
    let output = tokio::task::spawn_blocking(move || run(&[format!("--kubeconfig={}", path.display())])).await??;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let line = complaint(&output)?;
    ensure!(line.contains("https://127.0.0.1:") && line.contains("certificate"), "{line}");
    control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn missing_kinds_are_named_and_waited_for() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("missing-kinds").without_cluster_api()).await?;
    let client = control_plane.admin_client().await?;
    let mut manager = Manager::start(&control_plane, ManagerOptions::new("missing-kinds")).await?;
    says(manager.log(), &["ipaddressclaims.ipam.cluster.x-k8s.io", "missing"]).await?;
    ensure!(!manager.is_ready().await, "ready without claims");
    let unready = manager.readiness().await?;
    ensure!(unready.contains("ipaddressclaims.ipam.cluster.x-k8s.io"), "{unready}");

    crds::install_missing(&client, &cluster_api_crds()?).await?;
    says(manager.log(), &["inclusterippools.ipam.cluster.x-k8s.io", "missing"]).await?;
    ensure!(!manager.is_ready().await, "ready without pools");
    let ours = tokio::task::spawn_blocking(|| crds::of_manager(&program()?)).await??;
    crds::install_missing(&client, &ours).await?;
    manager.ready().await?;
    manager.must_run()?;
    manager.terminate().await?;
    control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_named_with_verb_and_resource() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("missing-right")).await?;
    let client = control_plane.admin_client().await?;
    let ours = tokio::task::spawn_blocking(|| crds::of_manager(&program()?)).await??;
    crds::install_missing(&client, &ours).await?;
    let release = Release { name: "without".to_owned(), namespace: "rights".to_owned() };
    release.install(&client).await?;
    release.uninstall_cluster_wide(&client).await?;
    let kubeconfig = control_plane.folder().join("without.kubeconfig");
    kubeconfig_with_token(control_plane.kubeconfig_path(), &kubeconfig, &release.token(&client).await?)?;
    let log = control_plane.folder().join("without.log");
    let mut manager = start(&kubeconfig, &log)?;
    let found = says(&log, &["cannot list resource", "ipaddressclaims", "403"]).await;
    manager.must_run().context("it did not wait for its rights")?;
    manager.kill();
    control_plane.stop();
    found
}

fn start(kubeconfig: &Path, log: &Path) -> Result<Process> {
    Program::new("manager", program()?, log)
        .arguments([
            format!("--kubeconfig={}", kubeconfig.display()),
            "--health-probe-bind-address=0".to_owned(),
            "--diagnostics-address=0".to_owned(),
            "--webhook-port=0".to_owned(),
        ])
        .start()
}

/// Waits for a line of the log that has all of these words.
async fn says(log: &Path, words: &[&str]) -> Result<()> {
    eventually(&format!("the log says {words:?}"), LOGGED_WITHIN, || async {
        let text = tokio::fs::read_to_string(log).await?;
        if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            Ok(())
        } else {
            Err(NotYet::because(text))
        }
    })
    .await
}
