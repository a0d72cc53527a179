//! What an operator sees of the replicas: `manager shards`, the diagnostics address, and the Leases themselves.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::Release;
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, pool};
use e2e::manager::{ManagerOptions, program};
use e2e::scene::Stage;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(40);

/// `manager shards` with the rights of the manager's own service account.
fn shards(kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(program()?)
        .args(["shards", "--namespace", &Release::default().namespace, "--kubeconfig"])
        .arg(kubeconfig)
        .args(arguments)
        .output()
        .context("running manager shards")
}

fn printed(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "manager shards: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout.clone())?)
}

#[tokio::test]
async fn who_works_on_what_is_seen_in_the_same_words_everywhere() -> Result<()> {
    let mut stage = Stage::own("seen").await?;
    let scene = stage.scene("seen").await?;
    let first = stage.manager(ManagerOptions::new("first").leader_elect().environment("POD_NAME", "first")).await?;
    let second = stage.manager(ManagerOptions::new("second").leader_elect().environment("POD_NAME", "second")).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).prefix(24)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;

    let kubeconfig = stage.control_plane.folder().join("first.kubeconfig");
    let path = kubeconfig.clone();
    let report = eventually("the replicas share the shards evenly", WITHIN, || async {
        let path = path.clone();
        let output = tokio::task::spawn_blocking(move || shards(&path, &["-o", "json"])).await??;
        let report: Value = serde_json::from_str(&printed(&output)?)?;
        let held: Vec<u64> = report["rings"][0]["members"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|member| member["shards"].as_u64().unwrap_or_default())
            .collect();
        if held == [32, 32] { Ok(report) } else { Err(NotYet::because(format!("{held:?}"))) }
    })
    .await?;
    let ring = &report["rings"][0];
    let name = format!("InClusterIPPool {}/p", scene.namespace());
    let all = ring["shards"].as_array().context("shards")?;
    let of_pool: Vec<&Value> = all
        .iter()
        .filter(|shard| shard["pools"].as_array().is_some_and(|pools| pools.contains(&name.clone().into())))
        .collect();
    ensure!(of_pool.len() == 1 && of_pool[0]["hasLiveOwner"] == true, "{of_pool:?}");
    let owner = of_pool[0]["holder"].as_str().context("a holder")?.to_owned();

    let table = printed(&shards(&kubeconfig, &[&format!("InClusterIPPool/{}/p", scene.namespace())])?)?;
    let row = table.lines().find(|line| line.starts_with(&name)).context(table.clone())?;
    ensure!(row.contains(&owner), "{table}");

    let served: Value = serde_json::from_str(&first.diagnostics("/shards").await?)?;
    ensure!(served["rings"][0]["shards"] == ring["shards"], "{served}");

    // kubectl get leases: the names sort, and the holder says which Pod it is.
    let leases: Api<Lease> = Api::namespaced(scene.client().clone(), &Release::default().namespace);
    let leases = leases.list(&ListParams::default()).await?.items;
    let number = of_pool[0]["number"].as_u64().context("a number")?;
    let lease = leases
        .iter()
        .find(|lease| lease.name_any().ends_with(&format!("-shard-{number:02}")))
        .context("the Lease of the shard")?;
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    ensure!(holder.starts_with("capi-ipam/") && holder.contains(&format!("/{owner}_")), "{holder}");

    // An orderly end leaves nothing behind but shards that the other one takes.
    ensure!(second.terminate().await?.success());
    let path = kubeconfig.clone();
    eventually("the one that stays has everything", WITHIN, || async {
        let path = path.clone();
        let output = tokio::task::spawn_blocking(move || shards(&path, &[])).await??;
        let table = printed(&output)?;
        let alone = table.contains("64 of 64 shards have a live owner") && !table.contains("second");
        if alone { Ok(()) } else { Err(NotYet::because(table)) }
    })
    .await?;
    scene.finish().await
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_is_one_line() -> Result<()> {
    let nowhere = shards(Path::new("/nonexistent"), &[])?;
    ensure!(nowhere.status.code() == Some(1));
    let said = String::from_utf8(nowhere.stderr)?;
    ensure!(said.starts_with("manager: cannot use the kubeconfig /nonexistent") && said.lines().count() == 1, "{said}");
    let unnamed = shards(Path::new("/nonexistent"), &["rack-a"])?;
    ensure!(unnamed.status.code() == Some(2));
    Ok(())
}
