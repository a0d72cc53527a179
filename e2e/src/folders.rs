//! Where things are kept: the cache that outlives `cargo clean`, and the folder of this build's runs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// `${XDG_CACHE_HOME:-$HOME/.cache}/capi-ipam-in-cluster`: programs and manifests that take minutes to make, each keyed
/// by its version.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    let folder = base.join("capi-ipam-in-cluster");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// The folder of the running build profile, such as `target/debug`: programs that were built together with this one are
/// in it.
pub fn profile() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("finding the path of the running program")?;
    let folder = executable.parent().context("the running program has no folder")?;
    // Test executables are in `deps`, programs one level above.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_path_buf())
}

/// `target/e2e`: logs, and what was found when a test failed.
pub fn runs() -> Result<PathBuf> {
    let profile = profile()?;
    let folder = profile.parent().unwrap_or(&profile).join("e2e");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}
