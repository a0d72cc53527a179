//! Webhooks of an installation with rights in one namespace (C16): asked about its pools, and about no others.

use anyhow::{Context as _, Result, bail, ensure};
use e2e::chart::{Release, in_one_namespace};
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Pool, claim, global_pool, pool};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::scene::{Scene, Stage};
use e2e::webhooks::Door;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::kubectl;

/// Whether a pool may be created; the server is only asked.
async fn refused(scene: &Scene, kind: PoolKind, pool: Pool) -> Result<Option<String>> {
    let only_ask = PostParams { dry_run: true, ..PostParams::default() };
    match scene.pools(kind).create(&only_ask, &e2e::fixtures::Fixture::object(&pool)).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message)),
        Err(other) => bail!("no answer: {other}"),
    }
}

#[tokio::test]
async fn rule_c16_rights_in_one_namespace_are_enough_for_webhooks_and_other_namespaces_are_left_alone() -> Result<()> {
    let mut stage = Stage::own("webhooks-narrow").await?;
    let client = stage.control_plane.admin_client().await?;
    let (here, elsewhere) = (stage.scene("here").await?, stage.scene("elsewhere").await?);
    let (release, door, port) = (Release::default(), Door::open()?, Door::free_port()?);
    let values = in_one_namespace(here.namespace(), true);
    release.install_with(&client, &values).await?;
    door.install_with(&client, &release, &values, None).await?;
    let service = release.named("webhookService")?;
    let options = ManagerOptions::new("narrow")
        .as_account(release.clone())
        .leader_elect()
        .environment("POD_NAMESPACE", &release.namespace)
        .argument(format!("--namespace={}", here.namespace()))
        .argument("--webhook-host=127.0.0.1")
        .argument(format!("--webhook-port={port}"))
        .argument("--webhook-cert-dir=/nowhere")
        .argument(format!("--webhook-service-name={}", service.as_str().context("a Service without a name")?));
    let manager = stage.manager(options).await?;
    door.leads_to(&[port]);

    let wrong = || pool("wrong").addresses(["oops"]);
    eventually("the webhooks are asked, and trusted", PATIENCE, || async {
        match refused(&here, PoolKind::InCluster, wrong()).await {
            Ok(Some(message)) if message.contains("spec.addresses[0]") => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await?;
    here.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    here.create(claim("a").in_pool("p")).await?;
    ensure!(here.allocated("a").await? == "10.0.0.10");
    let delete = here.pools(PoolKind::InCluster).delete("p", &DeleteParams::default()).await;
    let Err(kube::Error::Api(status)) = delete else { bail!("a pool in use is deleted: {delete:?}") };
    ensure!(status.message.contains("10.0.0.10"), "{}", status.message);

    // Nobody here could know better.
    ensure!(refused(&elsewhere, PoolKind::InCluster, wrong()).await?.is_none());
    let global = here.global_name("g");
    ensure!(refused(&here, PoolKind::GlobalInCluster, global_pool(&global).addresses(["oops"])).await?.is_none());
    elsewhere.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    elsewhere.delete(&elsewhere.pools(PoolKind::InCluster), "p").await?;

    // Conversion is of objects, not of namespaces.
    let old = json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha1", "kind": "InClusterIPPool",
        "metadata": { "name": "old", "namespace": elsewhere.namespace() }, "spec": { "subnet": "10.0.0.0/24" },
    });
    kubectl(&stage.control_plane, &["apply", "-f", "-"], &old.to_string())?;
    let stored = elsewhere.pools(PoolKind::InCluster).get("old").await?;
    ensure!(stored.data["spec"]["addresses"] == json!(["10.0.0.1-10.0.0.254"]), "{}", stored.data);
    here.release("a").await?;
    ensure!(manager.terminate().await?.success());
    elsewhere.finish().await?;
    here.finish().await
}
