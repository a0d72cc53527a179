//! The Go original, as far as its objects show it: how it works on claims, one at a time, and what it installs.
//!
//! It is the other side of a takeover: the tests stop it between any two of its requests, put the product in its place,
//! and let it go on afterwards with what it finds. Only facts that others can see are modelled: which requests it sends in
//! which order, and what is in them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::kinds::{self, ADDRESS_FINALIZER, CLAIM_FINALIZER, CLUSTER_NAME, GROUP, POOL_FINALIZER, PoolKind};

pub mod manifests;

/// How far it comes with a claim before it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The claim has its finalizer.
    Protected,
    /// Its `IPAddress` exists.
    Allocated,
    /// The claim refers to it.
    Referred,
}

/// When an object was written: owner references name the API versions of their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// By its last release.
    Current,
    /// By one from before v1alpha2 pools and v1beta1 claims.
    Old,
}

/// It at work in one namespace.
#[derive(Clone)]
pub struct Original {
    client: Client,
    namespace: String,
}

impl Original {
    /// As an administrator: what it may do is not what is tested here.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    fn pools(&self, kind: PoolKind) -> Api<DynamicObject> {
        kind.api(&self.client, &self.namespace)
    }

    /// Works on a claim up to `last`. What is done already is not done again.
    pub async fn serve(&self, claim: &str, era: Era, last: Step) -> Result<()> {
        let claims = self.api(&kinds::claim());
        let found = claims.get(claim).await.with_context(|| format!("reading the claim {claim}"))?;
        let protected = json!({ "metadata": { "finalizers": with(found.finalizers(), CLAIM_FINALIZER) } });
        let found = claims.patch(claim, &PatchParams::default(), &Patch::Merge(&protected)).await?;
        if last >= Step::Allocated {
            self.ensure_address(&found, era).await?;
        }
        if last >= Step::Referred {
            let status = json!({ "status": { "addressRef": { "name": claim } } });
            claims.patch_status(claim, &PatchParams::default(), &Patch::Merge(&status)).await?;
        }
        Ok(())
    }

    async fn ensure_address(&self, claim: &DynamicObject, era: Era) -> Result<()> {
        let (kind, pool) = self.pool_of(claim).await?;
        let addresses = self.api(&kinds::address());
        let owners = owners(claim, &pool, kind, era);
        if let Some(known) = addresses.get_opt(&claim.name_any()).await? {
            let repaired = json!({ "metadata": {
                "ownerReferences": owners, "finalizers": with(known.finalizers(), ADDRESS_FINALIZER),
            } });
            addresses.patch(&known.name_any(), &PatchParams::default(), &Patch::Merge(&repaired)).await?;
            return Ok(());
        }
        let free = self.lowest_free(kind, &pool).await?;
        let mut spec = json!({
            "claimRef": { "name": claim.name_any() },
            "poolRef": { "apiGroup": GROUP, "kind": kind.name(), "name": pool.name_any() },
            "address": free.to_string(), "prefix": pool.data["spec"]["prefix"],
        });
        if let Some(gateway) = pool.data["spec"]["gateway"].as_str() {
            spec["gateway"] = json!(gateway);
        }
        let address = json!({
            "apiVersion": kinds::address().api_version, "kind": "IPAddress",
            "metadata": {
                "name": claim.name_any(), "labels": label(claim), "ownerReferences": owners,
                "finalizers": [ADDRESS_FINALIZER],
            },
            "spec": spec,
        });
        let address = serde_json::from_value(address).context("an IPAddress")?;
        addresses.create(&PostParams::default(), &address).await.context("creating an IPAddress")?;
        Ok(())
    }

    async fn pool_of(&self, claim: &DynamicObject) -> Result<(PoolKind, DynamicObject)> {
        let reference = &claim.data["spec"]["poolRef"];
        let kind = PoolKind::ALL.into_iter().find(|kind| reference["kind"] == kind.name()).context("a kind of pool")?;
        let name = reference["name"].as_str().unwrap_or_default();
        Ok((kind, self.pools(kind).get(name).await.with_context(|| format!("reading the pool {name}"))?))
    }

    /// Every `IPAddress` that names the pool.
    async fn in_use(&self, kind: PoolKind, pool: &str) -> Result<Vec<DynamicObject>> {
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &kinds::address());
        let mut found = all.list(&ListParams::default()).await?.items;
        found.retain(|address| {
            let reference = &address.data["spec"]["poolRef"];
            (reference["apiGroup"] == GROUP && reference["kind"] == kind.name() && reference["name"] == pool)
                && (kind.is_global() || address.namespace().as_ref() == Some(&self.namespace))
        });
        Ok(found)
    }

    async fn lowest_free(&self, kind: PoolKind, pool: &DynamicObject) -> Result<Ipv4Addr> {
        let held: BTreeSet<Ipv4Addr> = self.in_use(kind, &pool.name_any()).await?.iter().filter_map(written).collect();
        match allocatable(pool)?.into_iter().find(|address| !held.contains(address)) {
            Some(free) => Ok(free),
            None => bail!("{} is full", pool.name_any()),
        }
    }

    /// Gives a pool its finalizer and its counts, as after every change of its addresses.
    pub async fn count(&self, kind: PoolKind, name: &str) -> Result<()> {
        let pools = self.pools(kind);
        let pool = pools.get(name).await?;
        let protected = json!({ "metadata": { "finalizers": with(pool.finalizers(), POOL_FINALIZER) } });
        pools.patch(name, &PatchParams::default(), &Patch::Merge(&protected)).await?;
        let (all, used) = (allocatable(&pool)?, self.in_use(kind, name).await?);
        let (total, count) = (i64::try_from(all.len())?, i64::try_from(used.len())?);
        let outside = used.iter().filter(|address| written(address).is_none_or(|held| !all.contains(&held))).count();
        let counts = json!({ "total": total, "used": count, "free": total - count, "outOfRange": outside });
        let status = json!({ "status": { "ipAddresses": counts } });
        pools.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Releases a claim that is being deleted.
    pub async fn release(&self, claim: &str) -> Result<()> {
        let (claims, addresses) = (self.api(&kinds::claim()), self.api(&kinds::address()));
        let found = claims.get(claim).await?;
        ensure!(found.metadata.deletion_timestamp.is_some(), "{claim} is not being deleted");
        if let Some(address) = addresses.get_opt(claim).await? {
            let freed = json!({ "metadata": { "finalizers": without(address.finalizers(), ADDRESS_FINALIZER) } });
            addresses.patch(claim, &PatchParams::default(), &Patch::Merge(&freed)).await?;
            match addresses.delete(claim, &DeleteParams::default()).await {
                Err(error) if !crate::chart::is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        let freed = json!({ "metadata": { "finalizers": without(found.finalizers(), CLAIM_FINALIZER) } });
        claims.patch(claim, &PatchParams::default(), &Patch::Merge(&freed)).await?;
        Ok(())
    }
}

/// The address of an `IPAddress`.
fn written(address: &DynamicObject) -> Option<Ipv4Addr> {
    address.data["spec"]["address"].as_str()?.parse().ok()
}

fn with(finalizers: &[String], ours: &str) -> Vec<String> {
    let others = finalizers.iter().filter(|finalizer| *finalizer != ours).cloned();
    others.chain([ours.to_owned()]).collect()
}

fn without(finalizers: &[String], ours: &str) -> Vec<String> {
    finalizers.iter().filter(|finalizer| *finalizer != ours).cloned().collect()
}

fn label(claim: &DynamicObject) -> Value {
    claim.labels().get(CLUSTER_NAME).map_or_else(|| json!({}), |cluster| json!({ CLUSTER_NAME: cluster }))
}

fn owners(claim: &DynamicObject, pool: &DynamicObject, kind: PoolKind, era: Era) -> Value {
    let (of_claims, of_pools) = match era {
        Era::Current => (kinds::claim().version, "v1alpha2"),
        Era::Old => ("v1alpha1".to_owned(), "v1alpha1"),
    };
    json!([
        {
            "apiVersion": format!("{GROUP}/{of_claims}"), "kind": "IPAddressClaim", "name": claim.name_any(),
            "uid": claim.metadata.uid, "controller": true, "blockOwnerDeletion": true,
        },
        {
            "apiVersion": format!("{GROUP}/{of_pools}"), "kind": kind.name(), "name": pool.name_any(),
            "uid": pool.metadata.uid, "controller": false, "blockOwnerDeletion": true,
        },
    ])
}

/// What can be allocated from a pool of IPv4 ranges, lowest first. The tests need no more than that.
fn allocatable(pool: &DynamicObject) -> Result<BTreeSet<Ipv4Addr>> {
    let spec = &pool.data["spec"];
    let mut all = BTreeSet::new();
    for entry in spec["addresses"].as_array().context("a pool without addresses")? {
        let entry = entry.as_str().unwrap_or_default();
        let (first, last) = entry.split_once('-').with_context(|| format!("{entry} is no range"))?;
        let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse()?, last.parse()?);
        all.extend((u32::from(first)..=u32::from(last)).map(Ipv4Addr::from));
    }
    let lowest = u32::from(*all.first().context("an empty pool")?);
    let prefix = u32::try_from(spec["prefix"].as_u64().context("a pool without a prefix")?)?;
    let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
    for reserved in [lowest & !hosts, lowest | hosts] {
        all.remove(&Ipv4Addr::from(reserved));
    }
    if let Some(gateway) = spec["gateway"].as_str() {
        all.remove(&gateway.parse()?);
    }
    Ok(all)
}
