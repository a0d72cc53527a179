//! What a real API server does with pools under our CRDs; the cases are [`e2e::crd_cases`].

use anyhow::{Context as _, Result};
use capi_ipam::api::names::GROUP;
use e2e::control_plane::{ControlPlane, Options};
use e2e::crd_cases::{Case, Expect, Then, cases};
use e2e::{crds, manager};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

#[tokio::test]
async fn the_server_accepts_refuses_and_prunes_as_the_cases_say() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("crds").without_cluster_api()).await?;
    let client = control_plane.admin_client().await?;
    crds::install_missing(&client, &crds::of_manager(&manager::program()?)?).await?;

    let cases = cases();
    assert!(!cases.is_empty());
    let mut complaints = Vec::new();
    for case in &cases {
        match outcome(&client, case).await.with_context(|| case.name)? {
            Ok(stored) => complaints.extend(case.complaints(&stored)),
            Err(message) => complaints.extend(complaint_about_refusal(case, &message)),
        }
    }
    control_plane.stop();
    assert!(complaints.is_empty(), "{} of {} cases:\n{}", complaints.len(), cases.len(), complaints.join("\n"));
    Ok(())
}

fn complaint_about_refusal(case: &Case, message: &str) -> Option<String> {
    match &case.expect {
        Expect::Refused(part) if message.contains(part) => None,
        Expect::Refused(part) => Some(format!("{}: refused without {part:?}: {message}", case.name)),
        Expect::Accepted(_) => Some(format!("{}: was refused: {message}", case.name)),
    }
}

/// The object as stored after the last request, or why that was refused with 422. Fails when anything before the last
/// request does, or when the server answers anything else.
async fn outcome(client: &Client, case: &Case) -> Result<Result<Value, String>> {
    let name = case.object_name();
    let api = api(client, case, case.version);
    let object: DynamicObject = serde_json::from_value(case.object.clone())?;
    let created = api.create(&PostParams::default(), &object).await;
    let last = match &case.then {
        Then::Nothing => created,
        Then::Patch(patch) => {
            created.context("creating the object")?;
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        Then::PutStatus(status) => put_status(&api, created.context("creating the object")?, status).await,
        Then::PutStatusAndPatch { status, version, patch } => {
            put_status(&api, created.context("creating the object")?, status).await.context("putting the status")?;
            self::api(client, case, version).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
    };
    match last {
        // Read again: what the answer says and what is stored are to be the same.
        Ok(_) => Ok(Ok(serde_json::to_value(api.get(&name).await?)?)),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
        Err(error) => Err(error.into()),
    }
}

async fn put_status(
    api: &Api<DynamicObject>,
    mut object: DynamicObject,
    status: &Value,
) -> kube::Result<DynamicObject> {
    object.data["status"] = status.clone();
    let name = object.metadata.name.clone().unwrap_or_default();
    api.replace_status(&name, &PostParams::default(), &object).await
}

fn api(client: &Client, case: &Case, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, version, case.kind.kind());
    let resource = ApiResource::from_gvk_with_plural(&kind, case.kind.plural());
    if case.kind.is_global() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), "default", &resource)
    }
}
