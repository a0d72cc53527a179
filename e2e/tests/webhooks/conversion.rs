//! Pools written and read as v1alpha1 by kubectl and by clients.

use anyhow::{Context as _, Result, ensure};
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::{hooked, kubectl, scene};

const OLD: &str = "ipam.cluster.x-k8s.io/v1alpha1";
const DATA: &str = "cluster.x-k8s.io/conversion-data";

fn old(kind: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_lowercase());
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("ipam.cluster.x-k8s.io", "v1alpha1", kind), &plural)
}

/// What kubectl prints, to be written back over whatever version there is by then.
fn read(text: &str) -> Result<Value> {
    let mut object: Value = serde_json::from_str(text).with_context(|| format!("reading {text}"))?;
    object["metadata"].as_object_mut().context("an object without metadata")?.remove("resourceVersion");
    Ok(object)
}

#[tokio::test]
async fn a_v1alpha1_pool_is_applied_served_read_changed_and_replaced() -> Result<()> {
    let scene = scene("old_pool").await?;
    let control_plane = &hooked().await?.stage.control_plane;
    let run = |arguments: &[&str], input: &str| {
        kubectl(control_plane, &[arguments, &["-n", scene.namespace()]].concat(), input)
    };
    let manifest = json!({
        "apiVersion": OLD, "kind": "InClusterIPPool", "metadata": { "name": "p" },
        "spec": { "subnet": "10.0.0.0/24", "gateway": "10.0.0.1" },
    });
    run(&["apply", "-f", "-"], &manifest.to_string())?;
    let stored = scene.pools(PoolKind::InCluster).get("p").await?;
    assert_eq!(
        stored.data["spec"],
        json!({ "addresses": ["10.0.0.1-10.0.0.254"], "prefix": 24, "gateway": "10.0.0.1" })
    );
    scene.create(claim("a").in_pool("p")).await?;
    assert_eq!(scene.allocated("a").await?, "10.0.0.2");
    scene.counts(PoolKind::InCluster, "p", 253, 1, 252).await?;

    let get = ["get", "inclusterippools.v1alpha1.ipam.cluster.x-k8s.io", "p"];
    let shown = run(&get, "")?;
    ensure!(shown.contains("SUBNET") && shown.contains("10.0.0.254") && shown.contains("253"), "{shown}");
    let seen = read(&run(&[&get[..], &["-o", "json"]].concat(), "")?)?;
    let full = json!({
        "subnet": "10.0.0.0/24", "start": "10.0.0.1", "end": "10.0.0.254", "prefix": 24, "gateway": "10.0.0.1",
    });
    assert_eq!(seen["spec"], full);
    ensure!(seen["metadata"]["annotations"].get(DATA).is_none(), "nothing needs it: {seen}");
    ensure!(seen["status"]["allocation"]["seq"].is_number(), "the record is shown, too: {seen}");

    // Once more the same: nothing changes.
    let before = scene.pools(PoolKind::InCluster).get("p").await?;
    eventually("it is replaced", PATIENCE, || async {
        run(&["replace", "-f", "-"], &seen.to_string()).map_err(not_yet)
    })
    .await?;
    let after = scene.pools(PoolKind::InCluster).get("p").await?;
    // What kubectl notes of its own is left aside.
    let kept = |pool: &DynamicObject| pool.metadata.annotations.as_ref().and_then(|all| all.get(DATA)).cloned();
    assert_eq!(
        (after.metadata.generation, kept(&after), &after.data["spec"]),
        (before.metadata.generation, kept(&before), &before.data["spec"])
    );

    let patch = json!({ "spec": { "end": "10.0.0.99" } }).to_string();
    run(&["patch", get[1], "p", "--type=merge", "-p", &patch], "")?;
    let stored = scene.pools(PoolKind::InCluster).get("p").await?;
    assert_eq!(stored.data["spec"]["addresses"], json!(["10.0.0.1-10.0.0.99"]));
    let seq = |pool: &DynamicObject| pool.data["status"]["allocation"]["seq"].as_i64();
    ensure!(seq(&before).is_some() && seq(&stored) >= seq(&before), "the record is lost: {:?}", stored.data);
    scene.release("a").await?;
    scene.finish().await
}

/// The manager writes to the pool as well: whoever was slower tries again, as people do.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_yet(error: anyhow::Error) -> NotYet {
    NotYet::because(format!("{error:#}"))
}

#[tokio::test]
async fn what_only_v1alpha2_has_survives_a_change_through_v1alpha1() -> Result<()> {
    let scene = scene("survives").await?;
    let control_plane = &hooked().await?.stage.control_plane;
    for (kind, name, plural) in [
        (PoolKind::InCluster, "p".to_owned(), "inclusterippools"),
        (PoolKind::GlobalInCluster, scene.global_name("g"), "globalinclusterippools"),
    ] {
        let fixture = if kind.is_global() { e2e::fixtures::global_pool(&name) } else { pool(&name) };
        let fixture = fixture.addresses(["10.0.0.0/24"]).excluding(["10.0.0.7"]);
        scene.create(fixture.field("addressReuseGracePeriodSeconds", json!(30))).await?;
        let resource = format!("{plural}.v1alpha1.ipam.cluster.x-k8s.io");
        let run = |arguments: &[&str], input: &str| {
            let namespace: &[&str] = if kind.is_global() { &[] } else { &["-n", scene.namespace()] };
            kubectl(control_plane, &[arguments, namespace].concat(), input)
        };
        eventually("it is replaced", PATIENCE, || async {
            let mut seen =
                run(&["get", &resource, &name, "-o", "json"], "").and_then(|text| read(&text)).map_err(not_yet)?;
            assert_eq!(seen["spec"], json!({ "addresses": ["10.0.0.0/24"], "prefix": 24 }));
            seen["spec"] = json!({ "subnet": "10.1.0.0/24" });
            run(&["replace", "-f", "-"], &seen.to_string()).map_err(not_yet)
        })
        .await?;
        run(&["label", &resource, &name, "a=b"], "")?;
        let stored = scene.pools(kind).get(&name).await?;
        assert_eq!(
            stored.data["spec"],
            json!({
                "addresses": ["10.1.0.1-10.1.0.254"], "prefix": 24, "excludedAddresses": ["10.0.0.7"],
                "addressReuseGracePeriodSeconds": 30,
            })
        );
    }
    scene.finish().await
}

#[tokio::test]
async fn admission_sees_v1alpha1_objects_as_v1alpha2() -> Result<()> {
    let scene = scene("old_wrong").await?;
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.client().clone(), scene.namespace(), &old("InClusterIPPool"));
    for (spec, part) in [
        (json!({ "start": "10.0.0.5" }), r#""10.0.0.5-": is no IP address, range (first-last) or CIDR"#),
        (json!({ "addresses": ["x"] }), r#"spec.addresses[0]: Invalid value: "x""#),
        (json!({ "subnet": "10.0.0.0" }), r#"spec.subnet: "10.0.0.0" is no prefix"#),
    ] {
        let object = serde_json::from_value(json!({
            "apiVersion": OLD, "kind": "InClusterIPPool", "metadata": { "name": "wrong" }, "spec": spec,
        }))?;
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.message.contains(part) => {}
            other => anyhow::bail!("{spec} is answered with {other:?}"),
        }
    }
    scene.finish().await
}

#[tokio::test]
async fn a_list_as_v1alpha1_never_fails_whatever_annotations_say() -> Result<()> {
    let scene = scene("old_list").await?;
    let original = json!({ "kind": "InClusterIPPool", "apiVersion": OLD, "status": {},
        "spec": { "subnet": "10.0.0.0/24", "start": "10.0.0.1", "end": "10.0.0.254", "prefix": 24 } });
    let addresses = ["10.0.0.1-10.0.0.254"];
    scene.create(pool("original").addresses(addresses).annotation(DATA, &original.to_string())).await?;
    for (number, data) in ["", "{", "null", r#"{"spec":{"subnet":"x"}}"#, r#"{"spec":[]}"#].into_iter().enumerate() {
        scene.create(pool(&format!("broken-{number}")).addresses(addresses).annotation(DATA, data)).await?;
    }
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.client().clone(), scene.namespace(), &old("InClusterIPPool"));
    let listed = api.list(&ListParams::default()).await?;
    assert_eq!(listed.items.len(), 6);
    for item in listed.items {
        let spec = &item.data["spec"];
        if item.metadata.name.as_deref() == Some("original") {
            assert_eq!(*spec, original["spec"]);
        } else {
            assert_eq!(*spec, json!({ "addresses": addresses, "prefix": 24 }), "{:?}", item.metadata.name);
        }
    }
    scene.finish().await
}
