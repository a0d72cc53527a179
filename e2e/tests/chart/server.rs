//! What the API server says to what helm renders, without keeping it.

use anyhow::{Context as _, Result, bail, ensure};
use e2e::chart::{Helm, Release, ValueSet, api_of};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{only, shared};

fn asking() -> Release {
    Release { name: "asked".to_owned(), namespace: "asked-system".to_owned() }
}

fn restricted() -> Release {
    Release { name: "restricted".to_owned(), namespace: "restricted-system".to_owned() }
}

/// What the server answers to an object that it is only asked about.
async fn asked(client: &Client, manifest: &Value) -> Result<Result<(), String>> {
    let (api, name) = api_of(client, manifest)?;
    let mut only_ask = PatchParams::apply("helm");
    only_ask.dry_run = true;
    only_ask.field_validation = Some(ValidationDirective::Strict);
    match api.patch(&name, &only_ask, &Patch::Apply(manifest)).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) => Ok(Err(status.message)),
        Err(error) => Err(error.into()),
    }
}

async fn create(client: &Client, manifest: &Value) -> Result<()> {
    let (api, name) = api_of(client, manifest)?;
    let object: DynamicObject = serde_json::from_value(manifest.clone())?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("creating {name}"))?;
    Ok(())
}

/// A namespace for the release in which only pods of the strictest security standard may run.
async fn create_namespace(client: &Client, release: &Release) -> Result<()> {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    create(
        client,
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": release.namespace, "labels": labels } }),
    )
    .await
}

/// The pod that the Deployment would create.
fn pod(manifests: &[Value]) -> Result<Value> {
    let deployment = only(manifests, "Deployment")?;
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("replica");
    pod["metadata"]["namespace"] = deployment["metadata"]["namespace"].clone();
    ensure!(
        pod["metadata"]["labels"].as_object().context("a pod without labels")?.len()
            > deployment["spec"]["selector"]["matchLabels"].as_object().context("an empty selector")?.len(),
        "{pod}"
    );
    Ok(pod)
}

#[tokio::test]
async fn the_server_accepts_every_object_with_every_set_of_values() -> Result<()> {
    let Some(helm) = Helm::for_test("the_server_accepts_every_object_with_every_set_of_values")? else { return Ok(()) };
    let client = shared().await?.admin_client().await?;
    create_namespace(&client, &asking()).await?;
    let mut refusals = Vec::new();
    let mut installed = false;
    for values in ValueSet::all()? {
        let manifests = helm.manifests(&asking(), &values)?;
        if !installed {
            create(&client, only(&manifests, "ServiceAccount")?).await?;
            installed = true;
        }
        for manifest in manifests.iter().chain([&pod(&manifests)?]) {
            let name = format!("{}: {} {}", values.name, manifest["kind"], manifest["metadata"]["name"]);
            if let Err(refusal) = asked(&client, manifest).await.context(name.clone())? {
                refusals.push(format!("{name}: {refusal}"));
            }
            // The same with a field that no kind has: so much for whether the server looks.
            let mut wrong = manifest.clone();
            wrong["metadata"]["nonsense"] = json!("x");
            match asked(&client, &wrong).await.context(name.clone())? {
                Err(refusal) if refusal.contains("nonsense") => {}
                other => bail!("{name}: an unknown field is answered with {other:?}"),
            }
        }
    }
    ensure!(refusals.is_empty(), "{}", refusals.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_pod_of_the_chart_runs_where_only_restricted_pods_may() -> Result<()> {
    let Some(helm) = Helm::for_test("a_pod_of_the_chart_runs_where_only_restricted_pods_may")? else { return Ok(()) };
    let client = shared().await?.admin_client().await?;
    create_namespace(&client, &restricted()).await?;
    create(&client, only(&helm.manifests(&restricted(), &ValueSet::defaults())?, "ServiceAccount")?).await?;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &restricted().namespace);
    for values in ValueSet::all()? {
        let mut pod = pod(&helm.manifests(&restricted(), &values)?)?;
        pod["metadata"]["name"] = json!(values.name);
        let stored = pods.create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?;
        let spec = stored.spec.context("a pod without a spec")?;
        let token = spec.volumes.into_iter().flatten().any(|volume| volume.projected.is_some());
        ensure!(token, "{}: no token", values.name);

        pod["metadata"]["name"] = json!("loose");
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        match pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await {
            Err(kube::Error::Api(status)) if status.message.contains("allowPrivilegeEscalation") => {}
            other => bail!("{}: a pod of a lower standard is answered with {other:?}", values.name),
        }
    }
    Ok(())
}
