//! clusterctl and Cluster API's own manager: what `clusterctl move` is tried with. No other test needs them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::{go, programs, versions};
use crate::folders;
use crate::progress::say;

/// When this variable is set, the tools have to be there: `make move` sets it.
const REQUIRED_VARIABLE: &str = "CLUSTER_API_TOOLS_REQUIRED";

#[derive(Clone, Copy, Debug)]
enum Tool {
    Clusterctl,
    CoreManager,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Clusterctl => "clusterctl",
            Self::CoreManager => "cluster-api-manager",
        }
    }

    fn path(self) -> Result<PathBuf> {
        Ok(folders::cache()?.join("tools").join(format!("{}-{}", self.name(), versions::CLUSTER_API)))
    }

    fn find_or_build(self) -> Result<PathBuf> {
        let path = self.path()?;
        let folder = path.parent().context("a path without a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        if !path.is_file() {
            let _lock = programs::lock(folder)?;
            // Another process may have built it while this one waited for the lock.
            if !path.is_file() {
                let (package, expected) = match self {
                    Self::Clusterctl => ("sigs.k8s.io/cluster-api/cmd/clusterctl", "3 minutes"),
                    // Its main package is the module's root.
                    Self::CoreManager => ("sigs.k8s.io/cluster-api", "2 minutes"),
                };
                let package = format!("{package}@v{}", versions::CLUSTER_API);
                let name = format!("{} {}", self.name(), versions::CLUSTER_API);
                go::Install { name: &name, package: &package, expected }.write(&path)?;
            }
        }
        Ok(path)
    }
}

/// Both programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// clusterctl.
    pub clusterctl: PathBuf,
    /// The manager of Cluster API's core provider.
    pub core_manager: PathBuf,
}

impl Tools {
    /// Each from the cache, else built into it. Blocks for minutes when it builds.
    pub fn find_or_build() -> Result<Self> {
        Ok(Self { clusterctl: Tool::Clusterctl.find_or_build()?, core_manager: Tool::CoreManager.find_or_build()? })
    }

    /// Those in the cache. Without them, says that `test` is skipped.
    pub fn for_test(test: &str) -> Result<Option<Self>> {
        let found = Self { clusterctl: Tool::Clusterctl.path()?, core_manager: Tool::CoreManager.path()? };
        let missing: Vec<_> = [&found.clusterctl, &found.core_manager].into_iter().filter(|p| !p.is_file()).collect();
        if missing.is_empty() {
            return Ok(Some(found));
        }
        if std::env::var_os(REQUIRED_VARIABLE).is_some_and(|value| !value.is_empty()) {
            bail!("{REQUIRED_VARIABLE} is set, and there is no {missing:?}");
        }
        say(format!("SKIPPED {test}: there is no {missing:?}; make move builds it"));
        Ok(None)
    }
}
