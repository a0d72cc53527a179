//! What an operator sees of the manager at work: traces at a collector, log lines that lead to them, metrics.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, pool};
use e2e::manager::ManagerOptions;
use e2e::otlp::{Collector, Span};
use e2e::scene::Stage;

/// The exporter sends every 5 s.
const EXPORTED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_batch_is_one_trace_with_a_child_for_each_call_and_is_counted() -> Result<()> {
    let (collector, endpoint) = Collector::start()?;
    let mut stage = Stage::own("telemetry").await?;
    let options = ManagerOptions::new("telemetry").environment("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    let manager = stage.manager(options).await?;
    let scene = stage.scene("telemetry").await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).prefix(24)).await?;
    scene.create(claim("a").in_pool("p")).await?;
    let address = scene.allocated("a").await?;
    let key = format!("{}/a", scene.namespace());

    let created = |spans: &[Span]| spans.iter().find(|span| span.name == "create address").cloned();
    let spans = eventually("the spans of the claim arrive", EXPORTED_WITHIN, || async {
        let spans = collector.spans();
        let batch = spans.iter().any(|span| span.name == "batch");
        if batch && created(&spans).is_some() { Ok(spans) } else { Err(NotYet::because(format!("{spans:?}"))) }
    })
    .await?;
    let create = created(&spans).expect("it was waited for");
    ensure!(create.attribute("claim") == Some(&key), "{create:?}");
    ensure!(create.attribute("address") == Some(&address), "{create:?}");
    ensure!(create.attribute("pool").is_some_and(|pool| pool.ends_with("/p")), "{create:?}");
    let Some(batch) = spans.iter().find(|span| span.name == "batch" && span.id == create.parent) else {
        anyhow::bail!("the create is no child of a batch: {spans:?}")
    };
    let family: Vec<&str> =
        spans.iter().filter(|span| span.parent == batch.id).map(|span| span.name.as_str()).collect();
    for call in ["put pool status", "patch claim", "create address", "patch claim status"] {
        ensure!(family.contains(&call), "no {call} in the batch: {family:?}");
    }
    ensure!(spans.iter().filter(|span| span.parent == batch.id).all(|span| span.trace == batch.trace));

    let metrics = manager.metrics().await?;
    let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels).unwrap_or_default();
    ensure!(count("capi_ipam_allocations_total", &[("kind", "InClusterIPPool")]) >= 1.0);
    ensure!(count("capi_ipam_pool_addresses", &[("pool", "p"), ("state", "total")]) > 10.5);
    ensure!(count("capi_ipam_claim_duration_seconds_count", &[]) >= 1.0);
    ensure!(count("capi_ipam_api_requests_total", &[("verb", "create"), ("resource", "ipaddresses")]) >= 1.0);

    let log = std::fs::read_to_string(manager.log())?;
    ensure!(
        log.lines().any(|line| line.contains("allocated") && line.contains(&key) && line.contains(&address)),
        "{log}"
    );
    manager.terminate().await?;
    scene.finish().await
}
