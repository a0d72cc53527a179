//! The chart's admission policies: what the API server refuses by itself, without a webhook or a manager.

use anyhow::{Context as _, Result, bail, ensure};
use e2e::chart::api_of;
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Pool, global_pool, global_prefix_pool, pool, prefix_pool};
use e2e::kinds::PoolKind;
use e2e::scene::{Scene, Stage};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/capi-ipam-in-cluster/files/policies");

/// Puts a policy of the chart in force.
async fn enforce(scene: &Scene, name: &str) -> Result<()> {
    let text = std::fs::read_to_string(format!("{FOLDER}/{name}.yaml")).with_context(|| format!("reading {name}"))?;
    let spec: Value = serde_saphyr::from_str(&text).with_context(|| format!("reading {name}"))?;
    let version = "admissionregistration.k8s.io/v1";
    let policy = json!({
        "apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": { "name": name }, "spec": spec,
    });
    let binding = json!({
        "apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    });
    for manifest in [policy, binding] {
        let (api, name) = api_of(scene.client(), &manifest)?;
        let object: DynamicObject = serde_json::from_value(manifest)?;
        api.create(&PostParams::default(), &object).await.with_context(|| format!("creating {name}"))?;
    }
    Ok(())
}

/// What the server answers to a pool: nothing, or the refusal.
async fn answer(scene: &Scene, pool: Pool) -> Result<Option<String>> {
    match scene.create(pool).await {
        Ok(_) => Ok(None),
        Err(error) => match error.downcast::<kube::Error>()? {
            kube::Error::Api(status) => Ok(Some(status.message)),
            other => bail!("no answer: {other}"),
        },
    }
}

async fn is_in_force(scene: &Scene, wrong: impl Fn() -> Pool) -> Result<()> {
    eventually("the policy is in force", PATIENCE, || async {
        let answer = answer(scene, wrong()).await.map_err(|error| NotYet::because(format!("{error:#}")))?;
        if answer.is_some() {
            return Ok(());
        }
        // Stored before the policy was known.
        for kind in [PoolKind::InCluster, PoolKind::Prefix] {
            let _ = scene.pools(kind).delete("probe", &DeleteParams::default()).await;
        }
        Err(NotYet::because("it was accepted"))
    })
    .await
}

fn good() -> Vec<Pool> {
    vec![
        pool("single").addresses(["10.0.0.10"]).gateway("10.0.0.1"),
        pool("mixed").addresses(["10.0.0.10", "10.0.0.20-10.0.0.30", "10.0.0.128/25", "10.0.0.1/24"]),
        pool("six").addresses(["fd00::10-fd00::20"]).prefix(64).gateway("fd00::1").excluding(["fd00::12"]),
        pool("all").addresses(["0.0.0.0/0"]).prefix(0),
        global_pool("global").addresses(["10.0.0.10"]),
        prefix_pool("prefixes").prefixes(["fd00::/48"], 64).field("excludedPrefixes", json!(["fd00::1", "fd00::/50"])),
        global_prefix_pool("blocks").prefixes(["fd00::/48"], 64),
    ]
}

fn wrong() -> Vec<(Pool, &'static str)> {
    let valid = || pool("wrong").addresses(["10.0.0.10-10.0.0.20"]);
    let prefixes = |entry: &'static str| prefix_pool("wrong").prefixes([entry], 64);
    vec![
        (pool("wrong").addresses([]), "spec.addresses"),
        (pool("wrong").addresses(["10.0.0"]), "spec.addresses"),
        (pool("wrong").addresses(["10.0.0.1-"]), "spec.addresses"),
        (pool("wrong").addresses(["10.0.0.0/33"]), "spec.addresses"),
        (pool("wrong").addresses([" 10.0.0.1"]), "spec.addresses"),
        (pool("wrong").addresses(["10.0.0.10", "fd00::1"]), "spec.addresses"),
        (valid().excluding(["nothing"]), "spec.excludedAddresses"),
        (valid().excluding(["fd00::1"]), "spec.excludedAddresses"),
        (valid().gateway("10.0.0.256"), "spec.gateway"),
        (valid().gateway("fd00::1"), "spec.gateway"),
        (valid().prefix(33), "spec.prefix"),
        (global_pool("wrong").addresses([]), "spec.addresses"),
        (prefix_pool("wrong").prefixes([], 64), "spec.prefixes"),
        (prefixes("fd00::"), "spec.prefixes"),
        (prefixes("10.0.0.0/24"), "spec.prefixes"),
        (prefixes("fd00::1/48"), "spec.prefixes"),
        (prefixes("fd00::/65"), "spec.prefixes"),
        (prefixes("fd00::/48").gateway("10.0.0.1"), "spec.gateway"),
        (prefixes("fd00::/48").field("excludedPrefixes", json!(["10.0.0.1"])), "spec.excludedPrefixes"),
        (global_prefix_pool("wrong").prefixes(["fd00::/65"], 64), "spec.prefixes"),
    ]
}

#[tokio::test]
async fn the_policies_refuse_what_is_plainly_wrong_and_nothing_else() -> Result<()> {
    let stage = Stage::own("policy").await?;
    let scene = stage.scene("policy").await?;
    // What is stored wrong before they are in force stays patchable, and goes.
    scene.create(pool("stored").addresses(["oops"])).await?;
    enforce(&scene, "addresses").await?;
    enforce(&scene, "prefixes").await?;
    is_in_force(&scene, || pool("probe").addresses([])).await?;
    is_in_force(&scene, || prefix_pool("probe").prefixes([], 64)).await?;
    for pool in good() {
        let said = format!("{pool:?}");
        let answer = answer(&scene, pool).await?;
        ensure!(answer.is_none(), "{said}: {answer:?}");
    }
    for (pool, field) in wrong() {
        let said = format!("{pool:?}");
        let answer = answer(&scene, pool).await?.with_context(|| format!("{said} was accepted"))?;
        ensure!(answer.contains(&format!("{field}: ")), "{said}: {answer}");
    }
    let pools = scene.pools(PoolKind::InCluster);
    scene.patch(&pools, "stored", json!({ "metadata": { "labels": { "a": "b" } } })).await?;
    let still_wrong = json!({ "spec": { "addresses": ["oops", "10.0.0.1"] } });
    ensure!(scene.patch(&pools, "stored", still_wrong).await.is_err(), "a new wrong spec is refused");
    scene.delete(&pools, "stored").await?;
    let longer = json!({ "spec": { "allocationPrefixLength": 80 } });
    let refused = scene.patch(&scene.pools(PoolKind::Prefix), "prefixes", longer).await;
    let refused = refused.err().context("another length was accepted")?;
    ensure!(format!("{refused:#}").contains("spec.allocationPrefixLength: cannot be changed"), "{refused:#}");
    scene.finish().await
}
