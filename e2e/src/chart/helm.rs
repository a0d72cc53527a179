//! The real helm, where it has been built: `make helm` does that. It is no part of what the other tests need.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Release;
use crate::folders;
use crate::progress::say;

/// The variable with the path of helm. When it is set, helm has to be there.
const PROGRAM_VARIABLE: &str = "HELM";

const MAKEFILE: &str = include_str!("../../../Makefile");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/capi-ipam-in-cluster");

/// A helm that can be run.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    /// Its cache and configuration: not those of the person who runs the tests.
    home: tempfile::TempDir,
}

impl Helm {
    /// The helm that the variable `HELM` names, else the one in the cache. Without any, says that `test` is skipped.
    pub fn for_test(test: &str) -> Result<Option<Self>> {
        let program = if let Some(path) = std::env::var_os(PROGRAM_VARIABLE).filter(|value| !value.is_empty()) {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{PROGRAM_VARIABLE}: {} is no file", path.display());
            path
        } else {
            let path = folders::cache()?.join(format!("tools/helm-{}/bin/helm", version()));
            if !path.is_file() {
                say(format!("SKIPPED {test}: helm {} is missing; make chart builds it", version()));
                return Ok(None);
            }
            path
        };
        Ok(Some(Self { program, home: tempfile::tempdir().context("making a folder for helm")? }))
    }

    /// Runs it with the chart's folder wherever an argument is `CHART`; fails with what it says.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let arguments = arguments.into_iter().map(|argument| match argument.as_ref() {
            chart if chart == "CHART" => FOLDER.into(),
            other => other.to_owned(),
        });
        let mut command = Command::new(&self.program);
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.home.path());
        }
        let output = command.args(arguments).env_remove("KUBECONFIG").output().context("starting helm")?;
        if !output.status.success() {
            bail!("{command:?} ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("reading what helm prints")
    }

    /// The program, for a shell.
    pub fn command(&self) -> String {
        self.program.display().to_string()
    }

    /// The objects of a release.
    pub fn manifests(&self, release: &Release, values: &ValueSet) -> Result<Vec<Value>> {
        let text = self.run(
            ["template", &release.name, "CHART", "--namespace", &release.namespace]
                .map(Into::into)
                .into_iter()
                .chain(values.arguments()),
        )?;
        serde_saphyr::from_multiple(&text).with_context(|| format!("parsing what helm renders with {}", values.name))
    }
}

/// Values to render the chart with.
#[derive(Clone, Debug)]
pub struct ValueSet {
    /// What it is called in messages.
    pub name: String,
    file: Option<PathBuf>,
}

impl ValueSet {
    /// The defaults.
    pub fn defaults() -> Self {
        Self { name: "defaults".to_owned(), file: None }
    }

    /// The one of this name in the chart's folder `ci`.
    pub fn named(name: &str) -> Self {
        let file = Path::new(FOLDER).join(format!("ci/{name}-values.yaml"));
        Self { name: name.to_owned(), file: Some(file) }
    }

    /// The defaults, and all in the chart's folder `ci`.
    pub fn all() -> Result<Vec<Self>> {
        let mut sets = vec![Self::defaults()];
        for entry in Path::new(FOLDER).join("ci").read_dir().context("reading the chart's value sets")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            sets.push(Self::named(name.strip_suffix("-values.yaml").with_context(|| format!("a stray file {name}"))?));
        }
        Ok(sets)
    }

    /// The values themselves.
    pub fn values(&self) -> Result<Value> {
        let Some(file) = &self.file else { return Ok(Value::Null) };
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", file.display()))
    }

    /// As helm takes it.
    pub fn arguments(&self) -> impl Iterator<Item = std::ffi::OsString> + use<> {
        self.file.clone().into_iter().flat_map(|file| ["--values".into(), file.into_os_string()])
    }
}

/// Which helm: the Makefile says it.
fn version() -> &'static str {
    MAKEFILE
        .lines()
        .find_map(|line| line.strip_prefix("HELM_VERSION := "))
        .unwrap_or_else(|| panic!("the Makefile has no HELM_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_makefiles() {
        assert_eq!(version().split('.').count(), 3, "{}", version());
    }
}
