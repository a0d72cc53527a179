//! Programs and manifests that come as Go modules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::Program;
use crate::progress::say;

/// A sign of life this often while a build runs.
const REPORT_EVERY: Duration = Duration::from_secs(20);

/// What to do when it is not installed.
pub(super) const WAYS_OUT: &str = "Go is not installed, and it builds the control plane: install Go 1.26 or newer (https://go.dev/dl), \
     or set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd, \
     or set E2E_KUBECONFIG to the kubeconfig of a cluster that may be used for tests";

/// Whether there is a `go` to run.
pub(super) fn is_installed() -> bool {
    Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// One `go build`.
#[derive(Debug)]
pub(super) struct Build<'a> {
    /// The program, for messages.
    pub name: &'a str,
    /// The folder with the wrapper module's `go.mod`.
    pub module: &'a Path,
    /// The package with its `main`.
    pub package: &'a str,
    /// Flags of the linker.
    pub linker_flags: &'a str,
    /// How long it takes on two cores, for the person who waits.
    pub expected: &'a str,
}

impl Build<'_> {
    /// Builds into `target`, which appears complete or not at all.
    pub(super) fn write(&self, target: &Path) -> Result<()> {
        if !is_installed() {
            bail!(WAYS_OUT);
        }
        let partial = target.with_extension(format!("partial-{}", std::process::id()));
        let log = target.with_extension("build.log");
        let _ = std::fs::remove_file(&log);
        let build = Program::new("go build", "go", &log)
            .arguments(["build", "-ldflags", self.linker_flags, "-o"])
            .arguments([partial.as_os_str(), self.package.as_ref()])
            .folder(self.module)
            .environment(&[("CGO_ENABLED".to_owned(), "0".to_owned())]);
        if let Err(error) = finish(build, self.name, self.expected, &log) {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
        std::fs::rename(&partial, target).with_context(|| format!("moving {} into place", target.display()))
    }
}

/// One `go install` of a program whose module has no `replace`.
#[derive(Debug)]
pub(super) struct Install<'a> {
    /// The program, for messages.
    pub name: &'a str,
    /// The package with its `main`, and its version: `example.org/program@v1.2.3`.
    pub package: &'a str,
    /// How long it takes on two cores, for the person who waits.
    pub expected: &'a str,
}

impl Install<'_> {
    /// Builds into `target`, which appears complete or not at all.
    pub(super) fn write(&self, target: &Path) -> Result<()> {
        if !is_installed() {
            bail!("Go is not installed, and it builds {}: install Go 1.26 or newer (https://go.dev/dl)", self.name);
        }
        let log = target.with_extension("build.log");
        let _ = std::fs::remove_file(&log);
        let folder = tempfile::tempdir_in(target.parent().context("a program without a folder")?)
            .context("making a folder for what go installs")?;
        let variables = [
            ("CGO_ENABLED", "0".to_owned()),
            ("GOBIN", folder.path().display().to_string()),
            // The caller's may be for a module of his own.
            ("GOFLAGS", String::new()),
        ];
        let install = Program::new("go install", "go", &log)
            // One package at a time: beside a control plane at work there is no memory for more.
            .arguments(["install", "-p", "1", "-ldflags", "-s -w", self.package])
            .folder(std::env::temp_dir())
            .environment(&variables.map(|(name, value)| (name.to_owned(), value)));
        finish(install, self.name, self.expected, &log)?;
        let mut installed = folder.path().read_dir().context("looking for what go installed")?;
        let program = installed.next().with_context(|| format!("go installed nothing for {}", self.name))??.path();
        std::fs::rename(&program, target).with_context(|| format!("moving {} into place", target.display()))
    }
}

/// Runs go to its end, with a sign of life now and then. The log stays only where it failed.
fn finish(go: Program, name: &str, expected: &str, log: &Path) -> Result<()> {
    say(format!("building {name} (once; about {expected} on two cores)"));
    let started = Instant::now();
    let mut build = go.start()?;
    let mut reported = Instant::now();
    let status = loop {
        if let Some(status) = build.ended() {
            break status;
        }
        if reported.elapsed() > REPORT_EVERY {
            reported = Instant::now();
            say(format!("building {name}: {} s so far", started.elapsed().as_secs()));
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        bail!("building {name} failed ({status}):\n{}", crate::process::tail(log, 20));
    }
    let _ = std::fs::remove_file(log);
    say(format!("built {name} in {} s", started.elapsed().as_secs()));
    Ok(())
}

/// The folder with the source of `module` (such as `sigs.k8s.io/cluster-api@v1.13.5`), downloaded if need be.
pub(super) fn source(module: &str) -> Result<PathBuf> {
    if !is_installed() {
        bail!(WAYS_OUT);
    }
    say(format!("downloading the Go module {module} (once)"));
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        // Outside of any module: no go.mod of ours takes part.
        .current_dir(std::env::temp_dir())
        .output()
        .context("starting go mod download")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match answer["Dir"].as_str() {
        Some(folder) if output.status.success() => Ok(PathBuf::from(folder)),
        _ => bail!(
            "go mod download {module}: {}{}",
            answer["Error"].as_str().unwrap_or_default(),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}
