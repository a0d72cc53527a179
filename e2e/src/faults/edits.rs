//! Others write to pools under load: labels through the old version of the API, and the status with the record in it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::Trial;
use crate::kinds::{GROUP, PoolKind};
use crate::progress::say;

const EVERY: Duration = Duration::from_millis(150);

/// How often each kind of edit was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits {
    /// Labels patched through v1alpha1.
    pub labels: usize,
    /// Whole objects read and written back through v1alpha1; a conflict is no edit.
    pub replaced: usize,
    /// Records removed from the status.
    pub records: usize,
    /// Statuses replaced by an empty one.
    pub statuses: usize,
}

/// Edits pools at random for a while.
pub async fn edit(trial: &mut Trial, during: Duration) -> Result<Edits> {
    let old = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1alpha1", PoolKind::InCluster.name()),
        &PoolKind::InCluster.resource().plural,
    );
    let old: Api<DynamicObject> = Api::namespaced_with(trial.scene.client().clone(), trial.scene.namespace(), &old);
    let now = trial.scene.pools(PoolKind::InCluster);
    let since = Instant::now();
    let mut edits = Edits::default();
    let params = PatchParams::default();
    while since.elapsed() < during {
        tokio::time::sleep(EVERY).await;
        let pool = trial.load.pools()[trial.chance.below(trial.load.pools().len())].clone();
        match trial.chance.below(4) {
            0 => {
                let label = json!({ "metadata": { "labels": { "edited": edits.labels.to_string() } } });
                old.patch(&pool, &params, &Patch::Merge(label)).await.context("patching a label")?;
                edits.labels += 1;
            }
            1 => {
                let object = old.get(&pool).await?;
                match old.replace(&pool, &PostParams::default(), &object).await {
                    Ok(_) => edits.replaced += 1,
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(error).context("writing a pool back"),
                }
            }
            2 => {
                let patch = json!({ "status": { "allocation": null } });
                now.patch_status(&pool, &params, &Patch::Merge(patch)).await.context("removing a record")?;
                edits.records += 1;
            }
            _ => {
                let patch = json!([{ "op": "replace", "path": "/status", "value": {} }]);
                let patch: Patch<()> = Patch::Json(serde_json::from_value(patch)?);
                now.patch_status(&pool, &params, &patch).await.context("emptying a status")?;
                edits.statuses += 1;
            }
        }
    }
    say(format!("{edits:?}"));
    let all = [edits.labels, edits.replaced, edits.records, edits.statuses];
    ensure!(all.iter().all(|count| *count > 0), "not every kind of edit was made: {edits:?}");
    trial.replicas.must_run()?;
    Ok(edits)
}
