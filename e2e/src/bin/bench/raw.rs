//! The raw limit: the three writes that each claim needs, and nothing else.

use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::kinds::{ADDRESS_FINALIZER, CLAIM_FINALIZER, CLUSTER_NAME, GROUP, PoolKind};
use futures::TryStreamExt as _;
use http::{Method, Request, header};
use kube::api::ListParams;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::arena::{Arena, POOL, Served, address_of, claim_name};

/// Claims in flight, as many as the manager has.
const IN_FLIGHT: usize = 64;

/// Serves a backlog of `claims`.
pub(crate) async fn round(claims: usize) -> Result<Served> {
    let arena = Arena::new("bench-raw").await?;
    let client = arena.service_account_client().await?;
    arena.backlog(claims, None).await?;
    // Known before it starts: looking up a uid is no part of the limit.
    let uids: Vec<String> = {
        let mut all = arena.scene.claims().list(&ListParams::default()).await?.items;
        all.sort_by_key(ResourceExt::name_any);
        all.iter().map(|claim| claim.uid().unwrap_or_default()).collect()
    };
    let namespace = arena.scene.namespace().to_owned();
    let mut announcements = arena.announcements().await?;

    let started = Instant::now();
    let writes =
        futures::stream::iter(uids.iter().enumerate().map(Ok)).try_for_each_concurrent(IN_FLIGHT, |(number, uid)| {
            let (client, namespace) = (client.clone(), namespace.as_str());
            async move { serve(&client, namespace, number, uid).await }
        });
    let (served, ()) = tokio::try_join!(announcements.all(claims, started), writes)?;
    arena.end();
    Ok(served)
}

async fn serve(client: &Client, namespace: &str, number: usize, uid: &str) -> Result<()> {
    let name = claim_name(number);
    let base = format!("/apis/{GROUP}/v1beta2/namespaces/{namespace}");
    let claim = format!("{base}/ipaddressclaims/{name}");
    let finalizer = json!({ "metadata": {
        "uid": uid,
        "finalizers": [CLAIM_FINALIZER],
        "annotations": { "ipam.cluster.x-k8s.io/claim-uid": uid },
    } });
    send(client, Method::PATCH, &claim, &finalizer).await?;
    send(client, Method::POST, &format!("{base}/ipaddresses"), &address(&name, number, uid)?).await?;
    let status = json!({ "metadata": { "uid": uid }, "status": {
        "addressRef": { "name": name },
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "AddressAllocated", "message": "an address is allocated",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }],
    } });
    send(client, Method::PATCH, &format!("{claim}/status"), &status).await
}

/// What the manager writes, byte for byte nearly.
fn address(name: &str, number: usize, uid: &str) -> Result<Value> {
    Ok(json!({
        "apiVersion": format!("{GROUP}/v1beta2"),
        "kind": "IPAddress",
        "metadata": {
            "name": name,
            "finalizers": [ADDRESS_FINALIZER],
            "labels": { CLUSTER_NAME: "c" },
            "ownerReferences": [
                { "apiVersion": format!("{GROUP}/v1beta2"), "kind": "IPAddressClaim", "name": name, "uid": uid,
                  "controller": true, "blockOwnerDeletion": true },
                { "apiVersion": format!("{GROUP}/v1alpha2"), "kind": PoolKind::InCluster.name(), "name": POOL, "uid": uid,
                  "controller": false, "blockOwnerDeletion": true },
            ],
        },
        "spec": {
            "claimRef": { "name": name },
            "poolRef": { "apiGroup": GROUP, "kind": PoolKind::InCluster.name(), "name": POOL },
            "address": address_of(number)?.to_string(),
            "prefix": 16,
            "gateway": "10.1.0.1",
        },
    }))
}

/// The answer is read and not looked into: decoding it is no part of the limit.
async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<()> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::CONTENT_TYPE, kind)
        .body(serde_json::to_vec(body)?)?;
    client.request_text(request).await.with_context(|| format!("{method} {path}"))?;
    Ok(())
}
