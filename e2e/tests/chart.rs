//! The chart, rendered and installed by the real helm, on a real API server. Without helm each test says that it is
//! skipped; `make chart` builds helm first.

#[path = "chart/install.rs"]
mod install;
#[path = "chart/migrate.rs"]
mod migrate;
#[path = "chart/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::{Helm, Release, ValueSet};
use e2e::control_plane::{ControlPlane, Options};
use e2e::{crds, manager};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The kinds that the renderer of the end-to-end tests renders, too.
const RENDERED_HERE: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

fn release() -> Release {
    Release { name: "charted".to_owned(), namespace: "charted-system".to_owned() }
}

/// For tests that keep to a namespace of their own.
async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(|| ControlPlane::start(Options::new("chart").without_cluster_api())).await
}

/// The one object of this kind.
fn only<'a>(manifests: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().with_context(|| format!("no {kind}"))?;
    ensure!(found.next().is_none(), "more than one {kind}");
    Ok(first)
}

fn container(manifests: &[Value]) -> Result<&Value> {
    let containers = &only(manifests, "Deployment")?["spec"]["template"]["spec"]["containers"];
    ensure!(containers[0]["name"] == "manager" && containers[1].is_null(), "{containers}");
    Ok(&containers[0])
}

fn kinds(manifests: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = manifests.iter().filter_map(|manifest| manifest["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn the_rights_of_the_managers_under_test_are_those_that_helm_renders() -> Result<()> {
    let Some(helm) = Helm::for_test("the_rights_of_the_managers_under_test_are_those_that_helm_renders")? else {
        return Ok(());
    };
    for release in [Release::default(), release()] {
        let by_kind = |manifests: Vec<Value>| -> BTreeMap<String, Value> {
            let key = |it: &Value| format!("{} {}", it["kind"], it["metadata"]["name"]);
            manifests.into_iter().map(|manifest| (key(&manifest), manifest)).collect()
        };
        for values in ValueSet::all()? {
            let ours = release.manifests_with(&values.values()?)?;
            let mut theirs = helm.manifests(&release, &values)?;
            theirs.retain(|manifest| RENDERED_HERE.iter().any(|kind| manifest["kind"] == *kind));
            assert_eq!(theirs.len(), ours.len(), "{}", values.name);
            assert_eq!(by_kind(ours), by_kind(theirs), "{}", values.name);
        }
    }
    Ok(())
}

#[test]
fn what_is_switched_off_is_not_there() -> Result<()> {
    let Some(helm) = Helm::for_test("what_is_switched_off_is_not_there")? else { return Ok(()) };
    let mut rest = RENDERED_HERE.to_vec();
    rest.push("Deployment");
    rest.sort_unstable();
    let off = helm.manifests(&release(), &ValueSet::named("everything-off"))?;
    assert_eq!(kinds(&off), rest);

    // The rights to write the caBundle.
    rest.extend(["ClusterRole", "ClusterRoleBinding"]);
    rest.extend(["FlowSchema", "PodDisruptionBudget", "Service", "Service"]);
    rest.extend(["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]);
    rest.extend(["CustomResourceDefinition"; 4]);
    rest.sort_unstable();
    assert_eq!(kinds(&helm.manifests(&release(), &ValueSet::defaults())?), rest);
    rest.extend(["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"].repeat(2));
    rest.sort_unstable();
    assert_eq!(kinds(&helm.manifests(&release(), &ValueSet::named("everything-on"))?), rest);
    Ok(())
}

#[test]
fn a_wrong_value_is_an_error_that_names_it() -> Result<()> {
    let Some(helm) = Helm::for_test("a_wrong_value_is_an_error_that_names_it")? else { return Ok(()) };
    for (values, named) in [
        ("replcias=3", "'replcias'"),
        ("replicas=three", "/replicas"),
        ("replicas=-1", "/replicas"),
        ("image.tga=v1", "/image': additional properties 'tga'"),
        ("image.tag=v1@x", "/image/tag"),
        ("image.digest=0123", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("watch.namespace=Default", "/watch/namespace"),
        ("rbac.clusterWide=false", "name the namespace whose claims are served in watch.namespace"),
        ("rbac.clusterWide=no", "/rbac/clusterWide"),
        ("sharding.shards=0", "/sharding/shards"),
        ("sharding.memberLeaseDuration=5", "/sharding/memberLeaseDuration"),
        ("allocation.lockDelay=twenty", "/allocation/lockDelay"),
        ("log.format=xml", "/log/format"),
        ("extraArgs={webhook}", "/extraArgs/0"),
        ("extraArgs={--overlap=deny,-leader-elect=false}", "extraArgs: -leader-elect=false"),
        ("extraArgs={--health-addr=:1}", "extraArgs: --health-addr=:1"),
        ("extraEnv[0].nmae=X", "/extraEnv/0"),
        ("extraEnv[0].name=POD_UID", "extraEnv: POD_UID"),
        ("crds.kept=true", "'kept'"),
        ("metrics.port=http", "/metrics/port"),
        ("health.port=8080", "health.port and metrics.port are both 8080"),
        ("webhooks.port=8080", "webhooks.port is 8080"),
        ("webhooks.certificateSecret=A", "/webhooks/certificateSecret"),
        ("extraArgs={--webhook-port=1}", "extraArgs: --webhook-port=1"),
        ("flowControl=false", "/flowControl"),
        ("podDisruptionBudget.enabled=1", "/podDisruptionBudget/enabled"),
        ("resources.request.cpu=1", "/resources': additional properties 'request'"),
        ("terminationGracePeriodSeconds=10", "/terminationGracePeriodSeconds"),
        ("runAsUser=0", "/runAsUser"),
        ("podLabels.app\\.kubernetes\\.io/name=x", "podLabels: app.kubernetes.io/name"),
    ] {
        let error = helm
            .run(["template", "r", "CHART", "--set", values])
            .err()
            .with_context(|| format!("{values} is accepted"))?;
        ensure!(format!("{error:#}").contains(named), "{values}: {error:#}");
    }
    Ok(())
}

#[test]
fn the_crds_are_the_programs_with_the_labels_that_cluster_api_reads() -> Result<()> {
    let Some(helm) = Helm::for_test("the_crds_are_the_programs_with_the_labels_that_cluster_api_reads")? else {
        return Ok(());
    };
    let theirs = crds::of_manager(&manager::program()?)?;
    for (values, policy) in [("defaults", json!("keep")), ("crds-go-with-the-release", Value::Null)] {
        let set = if values == "defaults" { ValueSet::defaults() } else { ValueSet::named(values) };
        let manifests = helm.manifests(&release(), &set)?;
        for crd in &theirs {
            let found = manifests.iter().find(|manifest| manifest["metadata"]["name"] == crd["metadata"]["name"]);
            let found = found.with_context(|| format!("{values}: no {}", crd["metadata"]["name"]))?;
            let mut spec = found["spec"].clone();
            let conversion = spec.as_object_mut().and_then(|spec| spec.remove("conversion"));
            assert_eq!(spec, crd["spec"], "{values}");
            let has_two = crd["spec"]["versions"].as_array().is_some_and(|versions| versions.len() > 1);
            let expected = if has_two { Some(release().named("conversion")?) } else { None };
            assert_eq!(conversion, expected, "{values}");
            let (labels, expected) = (&found["metadata"]["labels"], &crd["metadata"]["labels"]);
            for (label, value) in expected.as_object().context("a CRD without labels")? {
                assert_eq!(labels[label], *value, "{label}");
            }
            let version = &labels["cluster.x-k8s.io/v1beta2"];
            assert_eq!(*version, labels["cluster.x-k8s.io/v1beta1"]);
            let mut versions = crd["spec"]["versions"].as_array().into_iter().flatten();
            assert!(versions.any(|known| known["name"] == *version && known["storage"] == true), "{version}");
            assert_eq!(found["metadata"]["annotations"]["helm.sh/resource-policy"], policy, "{values}");
        }
    }
    Ok(())
}

#[test]
fn the_webhooks_of_the_end_to_end_tests_are_those_that_helm_renders_and_nobody_trusts_them_yet() -> Result<()> {
    let test = "the_webhooks_of_the_end_to_end_tests_are_those_that_helm_renders_and_nobody_trusts_them_yet";
    let Some(helm) = Helm::for_test(test)? else { return Ok(()) };
    for values in [ValueSet::defaults(), ValueSet::named("everything-on"), ValueSet::named("one-namespace-webhooks")] {
        let manifests = helm.manifests(&release(), &values)?;
        for (kind, list) in [
            ("MutatingWebhookConfiguration", "mutatingWebhooks"),
            ("ValidatingWebhookConfiguration", "validatingWebhooks"),
        ] {
            let found = only(&manifests, kind)?;
            assert_eq!(found["webhooks"], release().named_with(&values.values()?, list)?, "{}", values.name);
            assert_eq!(found["metadata"]["name"], release().named("webhookConfiguration")?, "{}", values.name);
        }
        // Who writes a bundle later would fight over it with every upgrade.
        ensure!(!serde_json::to_string(&manifests)?.contains("caBundle"), "{}", values.name);
        let service = manifests.iter().find(|manifest| manifest["metadata"]["name"] == "charted-webhooks");
        let service = service.context("no Service for the webhooks")?;
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "webhooks");
        ensure!(
            container(&manifests)?["ports"].as_array().into_iter().flatten().any(|port| port["name"] == "webhooks")
        );
    }
    Ok(())
}

#[test]
fn the_program_understands_every_argument() -> Result<()> {
    let Some(helm) = Helm::for_test("the_program_understands_every_argument")? else { return Ok(()) };
    let nowhere = "--kubeconfig=/nowhere/kubeconfig";
    for values in ValueSet::all()? {
        let manifests = helm.manifests(&release(), &values)?;
        let arguments = container(&manifests)?["args"].as_array().context("no arguments")?.clone();
        let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
        ensure!(arguments.contains(&"--leader-elect"), "{arguments:?}");
        // It reads the whole command line before it looks for a kubeconfig; ports of its own are not opened.
        let ends = ["--health-probe-bind-address=0", "--diagnostics-address=0", "--webhook-port=0", nowhere];
        let output = Command::new(manager::program()?).args(&arguments).args(ends).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains("/nowhere/kubeconfig"), "{}: {said}", values.name);
    }
    Ok(())
}

#[test]
fn the_image_is_named_as_container_runtimes_read_it() -> Result<()> {
    let Some(helm) = Helm::for_test("the_image_is_named_as_container_runtimes_read_it")? else { return Ok(()) };
    let digest = format!("sha256:{}", "0".repeat(64));
    for (values, expected) in [
        ("replicas=3".to_owned(), format!("capi-ipam-in-cluster:{}", env!("CARGO_PKG_VERSION"))),
        ("image.repository=a.b:5000/c,image.tag=v1".to_owned(), "a.b:5000/c:v1".to_owned()),
        (format!("image.digest={digest}"), format!("capi-ipam-in-cluster@{digest}")),
        (format!("image.tag=v1,image.digest={digest}"), format!("capi-ipam-in-cluster:v1@{digest}")),
    ] {
        let text =
            helm.run(["template", "r", "CHART", "--set", &values, "--show-only", "templates/deployment.yaml"])?;
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        assert_eq!(container(&manifests)?["image"], expected, "{values}");
    }
    Ok(())
}
