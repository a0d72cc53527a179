//! Finds kube-apiserver, etcd and kube-controller-manager, and builds what is missing.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{go, versions};
use crate::folders;
use crate::progress::say;

/// The three programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub api_server: PathBuf,
    /// kube-controller-manager. None: `KUBEBUILDER_ASSETS` has none and Go is not installed; then nothing collects
    /// garbage or empties deleted namespaces.
    pub controller_manager: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum Program {
    Etcd,
    ApiServer,
    ControllerManager,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    fn version(self) -> &'static str {
        match self {
            Self::Etcd => versions::etcd(),
            Self::ApiServer | Self::ControllerManager => versions::kubernetes(),
        }
    }

    fn build(self, target: &Path) -> Result<()> {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane");
        let (module, package, expected) = match self {
            Self::Etcd => ("etcd", ".", "1 minute"),
            Self::ApiServer => ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "6 minutes"),
            Self::ControllerManager => ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "2 minutes"),
        };
        let name = format!("{} {}", self.name(), self.version());
        let linker_flags = match self {
            Self::Etcd => "-s -w".to_owned(),
            Self::ApiServer | Self::ControllerManager => kubernetes_linker_flags(self.version()),
        };
        go::Build { name: &name, module: &modules.join(module), package, linker_flags: &linker_flags, expected }
            .write(target)
    }
}

/// Kubernetes learns its version at link time; without it the server calls itself v0.0.0 and turns features off.
fn kubernetes_linker_flags(version: &str) -> String {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let package = "k8s.io/component-base/version";
    format!("-s -w -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
}

impl Programs {
    /// Each from `KUBEBUILDER_ASSETS`, else from the cache, else built into the cache. Blocks for minutes when it builds.
    pub fn find_or_build() -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()).map(PathBuf::from);
        let assets = assets.as_deref();
        let etcd = find_or_build(Program::Etcd, assets)?;
        let api_server = find_or_build(Program::ApiServer, assets)?;
        let controller_manager = match find_or_build(Program::ControllerManager, assets) {
            Ok(path) => Some(path),
            Err(_) if assets.is_some() && !go::is_installed() => {
                say("no kube-controller-manager: nothing collects garbage or empties deleted namespaces");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { etcd, api_server, controller_manager })
    }
}

fn find_or_build(program: Program, assets: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = assets.map(|folder| folder.join(program.name())).filter(|path| path.is_file()) {
        return Ok(path);
    }
    let folder = folders::cache()?.join("control-plane");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join(format!("{}-{}", program.name(), program.version()));
    if !path.is_file() {
        let _lock = lock(&folder)?;
        // Another process may have built it while this one waited for the lock.
        if !path.is_file() {
            program.build(&path)?;
        }
    }
    Ok(path)
}

/// Held while something is put into the cache, so that test programs that start together do it once. The kernel releases
/// it when its holder ends, however it ends.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file =
        File::options().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        say("another process is building the control plane; waiting for it");
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_exclusive_and_ends_with_its_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path()).expect("a free lock");
        let other = File::open(folder.path().join(".lock")).expect("the lock file");
        assert!(other.try_lock().is_err());
        drop(held);
        assert!(other.try_lock().is_ok());
    }
}
