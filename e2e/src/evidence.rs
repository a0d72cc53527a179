//! What is written down when a scenario fails: the objects of its namespace, its global pools, and the manager's last lines.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt as _};

use crate::kinds::{self, PoolKind};
use crate::{control_plane, folders, process};

/// More lines than this of a log help nobody who reads a test's output; the file has them all.
const LOG_LINES: usize = 40;

/// Collects from the cluster of `kubeconfig` into `target/e2e/<scenario>`, and returns a summary for the test's output.
/// Works inside a `Drop`, in a runtime or not: it has a thread and a runtime of its own.
pub fn collect(scenario: &str, kubeconfig: &Path, namespace: &str, logs: Vec<PathBuf>) -> String {
    let (scenario, kubeconfig, namespace) = (scenario.to_owned(), kubeconfig.to_path_buf(), namespace.to_owned());
    let collector = std::thread::spawn(move || -> Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(write(&scenario, &kubeconfig, &namespace, &logs))
    });
    match collector.join() {
        Ok(Ok(summary)) => summary,
        Ok(Err(error)) => format!("no evidence: {error:#}"),
        Err(_) => "no evidence: collecting it failed".to_owned(),
    }
}

async fn write(scenario: &str, kubeconfig: &Path, namespace: &str, logs: &[PathBuf]) -> Result<String> {
    let folder = folders::runs()?.join(scenario);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut summary = format!("--- {scenario}: objects and logs are in {}\n", folder.display());
    match control_plane::client(kubeconfig).await {
        Err(error) => writeln!(summary, "the API server cannot be asked: {error:#}")?,
        Ok(client) => {
            for resource in PoolKind::ALL.map(PoolKind::resource).into_iter().chain([
                kinds::claim(),
                kinds::address(),
                kinds::cluster(),
            ]) {
                let global = resource.kind.starts_with("Global");
                let api: Api<DynamicObject> = if global {
                    Api::all_with(client.clone(), &resource)
                } else {
                    Api::namespaced_with(client.clone(), namespace, &resource)
                };
                let found = api.list(&ListParams::default().limit(1000)).await;
                write_objects(&folder, &resource.plural, found.map(|list| list.items), &mut summary)?;
            }
            write_events(&folder, &client, namespace, &mut summary).await?;
        }
    }
    for log in logs {
        writeln!(summary, "--- the end of {}\n{}", log.display(), process::tail(log, LOG_LINES))?;
        if let Some(name) = log.file_name() {
            let _ = std::fs::copy(log, folder.join(name));
        }
    }
    Ok(summary)
}

fn write_objects(
    folder: &Path,
    plural: &str,
    found: kube::Result<Vec<DynamicObject>>,
    summary: &mut String,
) -> Result<()> {
    let mut objects = match found {
        Err(error) => {
            writeln!(summary, "{plural}: {error}")?;
            return Ok(());
        }
        Ok(objects) => objects,
    };
    if objects.is_empty() {
        return Ok(());
    }
    for object in &mut objects {
        object.metadata.managed_fields = None;
    }
    std::fs::write(folder.join(format!("{plural}.yaml")), serde_saphyr::to_string(&objects)?)?;
    writeln!(summary, "{} {plural}; the first of them:", objects.len())?;
    for object in objects.iter().take(5) {
        let deleting = if object.metadata.deletion_timestamp.is_some() { " (deleting)" } else { "" };
        let finalizers = object.finalizers().join(" ");
        writeln!(summary, "  {}{deleting} [{finalizers}] {}", object.name_any(), brief(object))?;
    }
    Ok(())
}

fn brief(object: &DynamicObject) -> String {
    let mut text = format!("spec {} status {}", object.data["spec"], object.data["status"]);
    if text.chars().count() > 600 {
        text = text.chars().take(600).chain("…".chars()).collect();
    }
    text
}

async fn write_events(folder: &Path, client: &Client, namespace: &str, summary: &mut String) -> Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut text = String::new();
    for event in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
        let regarding = event.regarding.unwrap_or_default();
        writeln!(
            text,
            "{} {} {}: {}",
            regarding.kind.unwrap_or_default(),
            regarding.name.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.note.unwrap_or_default()
        )?;
    }
    if !text.is_empty() {
        writeln!(summary, "--- events\n{}", text.lines().take(20).collect::<Vec<_>>().join("\n"))?;
        std::fs::write(folder.join("events.txt"), text)?;
    }
    Ok(())
}
