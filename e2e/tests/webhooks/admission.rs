//! Every rule of admission once, through the API server, as its users see it.

use anyhow::{Result, bail, ensure};
use e2e::chart::Release;
use e2e::fixtures::{Pool, claim, global_pool, global_prefix_pool, pool, prefix_pool};
use e2e::kinds::PoolKind;
use e2e::manager::ManagerOptions;
use e2e::scene::{Scene, Stage};
use e2e::webhooks::{Certificate, Door, serving};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject};
use kube::core::Status;
use serde_json::{Value, json};

use crate::{hooked, kubectl, scene};

fn refused<T: std::fmt::Debug>(result: Result<T>) -> Result<Box<Status>> {
    match result {
        Ok(accepted) => bail!("it was accepted: {accepted:?}"),
        Err(error) => match error.downcast::<kube::Error>()? {
            kube::Error::Api(status) => Ok(status),
            other => bail!("no answer: {other}"),
        },
    }
}

fn causes(status: &Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.map(|cause| cause.field.clone()).collect()
}

/// Specs that are refused, with the fields that are named.
fn wrong() -> Vec<(Pool, Vec<&'static str>)> {
    let valid = || pool("wrong").addresses(["10.0.0.10-10.0.0.20"]);
    let prefixes = |entry: &'static str| prefix_pool("wrong").prefixes([entry], 64);
    vec![
        (pool("wrong").addresses([]), vec!["spec.addresses"]),
        (pool("wrong").addresses(["10.0.0"]), vec!["spec.addresses[0]"]),
        (pool("wrong").addresses(["10.0.0.20-10.0.0.10"]), vec!["spec.addresses[0]"]),
        (pool("wrong").addresses(["10.0.0.0/33"]), vec!["spec.addresses[0]"]),
        (pool("wrong").addresses(["10.0.0.10", "fd00::1"]), vec!["spec.addresses[1]"]),
        (pool("wrong").addresses(["10.0.0.10", "10.0.9.1"]), vec!["spec.addresses[1]"]),
        (valid().excluding(["nothing"]), vec!["spec.excludedAddresses[0]"]),
        (valid().excluding(["fd00::1"]), vec!["spec.excludedAddresses[0]"]),
        (valid().gateway("10.0.0.256"), vec!["spec.gateway"]),
        (valid().gateway("fd00::1"), vec!["spec.gateway"]),
        (valid().prefix(33), vec!["spec.prefix"]),
        (prefix_pool("wrong").prefixes([], 64), vec!["spec.prefixes"]),
        (prefixes("fd00::"), vec!["spec.prefixes[0]"]),
        (prefixes("10.0.0.0/24"), vec!["spec.prefixes[0]"]),
        (prefixes("fd00::1/48"), vec!["spec.prefixes[0]"]),
        (prefixes("fd00::/65"), vec!["spec.prefixes[0]"]),
        (prefixes("fd00::/48").gateway("10.0.0.1"), vec!["spec.gateway"]),
        (prefixes("fd00::/48").field("excludedPrefixes", json!(["10.0.0.1"])), vec!["spec.excludedPrefixes[0]"]),
        (
            pool("wrong").addresses(["x", "y"]).gateway("z"),
            vec!["spec.addresses[0]", "spec.addresses[1]", "spec.gateway"],
        ),
        (global_pool("wrong").addresses([]), vec!["spec.addresses"]),
        (global_prefix_pool("wrong").prefixes(["fd00::/65"], 64), vec!["spec.prefixes[0]"]),
    ]
}

#[tokio::test]
async fn wrong_specs_are_refused_with_their_fields() -> Result<()> {
    let scene = scene("wrong_specs").await?;
    for (pool, fields) in wrong() {
        let said = format!("{pool:?}");
        let status = refused(scene.create(pool).await)?;
        ensure!((status.code, status.reason.as_str()) == (422, "Invalid"), "{said}: {status:?}");
        assert_eq!(causes(&status), fields, "{said}: {}", status.message);
    }
    scene.finish().await
}

#[tokio::test]
async fn a_negative_grace_period_is_refused_by_whoever_sees_it_first() -> Result<()> {
    let scene = scene("negative").await?;
    let negative = pool("wrong").addresses(["10.0.0.10"]).field("addressReuseGracePeriodSeconds", json!(-1));
    let status = refused(scene.create(negative).await)?;
    ensure!(status.code == 422 && status.message.contains("addressReuseGracePeriodSeconds"), "{status:?}");
    scene.finish().await
}

#[tokio::test]
async fn kubectl_shows_all_that_is_wrong_at_once() -> Result<()> {
    let scene = scene("kubectl_shows").await?;
    let manifest = json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
        "metadata": { "name": "wrong", "namespace": scene.namespace() },
        "spec": { "addresses": ["10.0.0.1", "oops"], "prefix": 24, "gateway": "gate" },
    });
    let control_plane = &hooked().await?.stage.control_plane;
    let complaint = kubectl(control_plane, &["apply", "-f", "-"], &manifest.to_string()).expect_err("it is wrong");
    let complaint = complaint.to_string();
    for part in [
        r#"spec.addresses[1]: Invalid value: "oops": is no IP address, range (first-last) or CIDR"#,
        r#"spec.gateway: Invalid value: "gate": is no IP address"#,
    ] {
        ensure!(complaint.contains(part), "{complaint}");
    }
    scene.finish().await
}

#[tokio::test]
async fn a_prefix_pool_without_a_length_is_given_64_and_an_ip_pool_nothing() -> Result<()> {
    let scene = scene("defaults").await?;
    let none = prefix_pool("none").field("prefixes", json!(["fd00::/48"]));
    let zero = prefix_pool("zero").field("prefixes", json!(["fd01::/48"])).field("allocationPrefixLength", json!(0));
    for pool in [none, zero] {
        let created = scene.create(pool).await?;
        assert_eq!(created.data["spec"]["allocationPrefixLength"], 64, "{}", created.name_any());
    }
    let created = scene.create(pool("ip").addresses(["10.0.0.10"])).await?;
    assert_eq!(created.data["spec"], json!({ "addresses": ["10.0.0.10"], "prefix": 24 }));
    scene.finish().await
}

async fn patched(scene: &Scene, kind: PoolKind, name: &str, spec: Value) -> Result<DynamicObject> {
    scene.patch(&scene.pools(kind), name, json!({ "spec": spec })).await
}

#[tokio::test]
async fn a_change_must_leave_what_is_in_use() -> Result<()> {
    let scene = scene("in_use").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.10");
    scene.counts(PoolKind::InCluster, "p", 11, 1, 10).await?;
    for (spec, field) in [
        (json!({ "addresses": ["10.0.0.11-10.0.0.20"] }), "spec.addresses"),
        (json!({ "excludedAddresses": ["10.0.0.8/30"] }), "spec.excludedAddresses[0]"),
        (json!({ "gateway": "10.0.0.10" }), "spec.gateway"),
        (json!({ "addresses": ["10.0.0.10"], "prefix": 31 }), ""),
        (json!({ "addresses": ["10.0.0.10-10.0.0.11"], "prefix": 30 }), ""),
    ] {
        let result = patched(&scene, PoolKind::InCluster, "p", spec.clone()).await;
        if field.is_empty() {
            result?;
            continue;
        }
        let status = refused(result)?;
        ensure!(
            status.code == 422 && status.message.contains("10.0.0.10 (") && status.message.contains("/a)"),
            "{status:?}"
        );
        assert_eq!(causes(&status), [field], "{spec}");
    }
    scene.create(prefix_pool("q").prefixes(["fd00::/48"], 64)).await?;
    let status = refused(patched(&scene, PoolKind::Prefix, "q", json!({ "allocationPrefixLength": 80 })).await)?;
    assert_eq!(causes(&status), ["spec.allocationPrefixLength"]);
    scene.finish().await
}

#[tokio::test]
async fn a_pool_in_use_is_not_deleted_unless_it_says_so() -> Result<()> {
    let scene = scene("delete").await?;
    let pools = scene.pools(PoolKind::InCluster);
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.40"])).await?;
    scene.create_all((0..12).map(|number| claim(&format!("c-{number}")).in_pool("p"))).await?;
    scene.all_allocated(12, e2e::eventually::PATIENCE).await?;
    scene.counts(PoolKind::InCluster, "p", 31, 12, 19).await?;
    let status = refused(pools.delete("p", &DeleteParams::default()).await.map_err(Into::into))?;
    ensure!((status.code, status.reason.as_str()) == (400, "BadRequest"), "{status:?}");
    ensure!(status.message.contains("IPAddress objects of it are in use"), "{}", status.message);
    ensure!(status.message.matches("/c-").count() == 10 && status.message.contains("and 2 more"), "{}", status.message);
    let skip = json!({ "ipam.cluster.x-k8s.io/skip-validate-delete-webhook": "" });
    scene.patch(&pools, "p", json!({ "metadata": { "annotations": skip } })).await?;
    scene.delete(&pools, "p").await?;
    // The finalizer keeps it all the same.
    ensure!(pools.get("p").await?.metadata.deletion_timestamp.is_some());
    scene.create(pool("unused").addresses(["10.0.1.10"])).await?;
    scene.delete(&pools, "unused").await?;
    scene.gone(&pools, "unused").await?;
    for number in 0..12 {
        scene.delete(&scene.claims(), &format!("c-{number}")).await?;
    }
    scene.gone(&pools, "p").await?;
    scene.finish().await
}

#[tokio::test]
async fn warnings_reach_whoever_applies() -> Result<()> {
    let scene = scene("warnings").await?;
    let control_plane = &hooked().await?.stage.control_plane;
    let manifest = |name: &str, kind: &str, spec: Value| {
        json!({
            "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": kind,
            "metadata": { "name": name, "namespace": scene.namespace() }, "spec": spec,
        })
        .to_string()
    };
    let complaint = |manifest: &str| {
        // Warnings as errors: what they say is then in the complaint.
        kubectl(control_plane, &["apply", "--warnings-as-errors", "-f", "-"], manifest)
            .err()
            .map(|error| error.to_string())
    };
    let single = json!({ "prefixes": ["fd00::/120"], "allocationPrefixLength": 128, "gateway": "fd00::1" });
    let said = complaint(&manifest("single", "InClusterPrefixPool", single)).unwrap_or_default();
    ensure!(
        said.contains("Warning: spec.allocationPrefixLength: ") && said.contains("Warning: spec.gateway: "),
        "{said}"
    );
    let addresses = |entry: &str| json!({ "addresses": [entry], "prefix": 24 });
    let said = complaint(&manifest("one", "InClusterIPPool", addresses("10.77.0.10-10.77.0.20")));
    ensure!(said.is_none(), "{said:?}");
    let pools = scene.pools(PoolKind::InCluster);
    scene.becomes(&pools, "one", "has a status", |pool| pool.data["status"]["observedGeneration"].is_number()).await?;
    let said = complaint(&manifest("other", "InClusterIPPool", addresses("10.77.0.20-10.77.0.30"))).unwrap_or_default();
    let expected =
        format!("Warning: spec.addresses: InClusterIPPool {}/one can hand out 10.77.0.20 too", scene.namespace());
    ensure!(said.contains(&expected), "{said}");
    scene.finish().await
}

#[tokio::test]
async fn a_server_that_asks_in_v1beta1_is_answered() -> Result<()> {
    let mut stage = Stage::own("webhooks-beta").await?;
    let client = stage.control_plane.admin_client().await?;
    let certificate = Certificate::new(&stage.control_plane, "beta")?;
    let door = Door::open()?.asked_in("v1beta1");
    let (options, port) = serving(ManagerOptions::new("manager"), &certificate)?;
    let manager = stage.manager(options).await?;
    door.leads_to(&[port]);
    door.install(&client, &Release::default(), Some(certificate.authority())).await?;
    door.is_used(&client).await?;
    let scene = stage.scene("beta").await?;
    scene.create(prefix_pool("blocks").prefixes(["fd00::/48"], 0)).await?;
    let stored = scene.pools(PoolKind::Prefix).get("blocks").await?;
    ensure!(stored.data["spec"]["allocationPrefixLength"] == 64, "{}", stored.data["spec"]);
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"])).await?;
    scene.create(claim("a").in_pool("p")).await?;
    scene.allocated("a").await?;
    let refusal = refused(scene.delete(&scene.pools(PoolKind::InCluster), "p").await)?;
    ensure!(refusal.code == 400 && refusal.message.contains("10.0.0.10"), "{refusal:?}");
    scene.release("a").await?;
    ensure!(manager.terminate().await?.success());
    scene.abandon();
    Ok(())
}
