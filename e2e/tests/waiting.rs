//! Claims that wait for an address cost nothing while nothing changes (C11).

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{claim, pool};
use e2e::kinds::PoolKind;
use e2e::manager::{Manager, ManagerOptions};
use e2e::progress::say;
use e2e::scene::{Scene, Stage, ready};
use kube::ResourceExt;
use kube::api::ListParams;

/// Enough to see that they cost nothing. `WAITING_CLAIMS=10000` makes it the number that the machine's own test has.
const CLAIMS: usize = 2_000;
const CLAIMS_VARIABLE: &str = "WAITING_CLAIMS";

/// Three requests for each, on a machine that does other things meanwhile.
const TOLD_WITHIN: Duration = Duration::from_mins(10);

/// How long nothing must happen.
const REST: Duration = Duration::from_secs(5);

/// Of a second of it: what a process may use that answers probes and keeps seven watches.
const CPU_AT_REST: f64 = 0.05;

/// Requests so far, watches aside: those are opened again every minute.
async fn requests(manager: &Manager) -> Result<f64> {
    let metrics = manager.metrics().await?;
    let by_verb = metrics.sum_by("capi_ipam_api_requests_total", &["verb"]);
    ensure!(!by_verb.is_empty(), "the manager does not count its requests");
    Ok(by_verb.iter().filter(|(verb, _)| *verb != "watch").map(|(_, count)| count).sum())
}

async fn all_are_told(scene: &Scene, count: usize) -> Result<()> {
    let mut next = 0;
    // Not a list of all each time: that would be the work to be waited for.
    while next < count {
        eventually("every claim says why it waits", TOLD_WITHIN, || async {
            match ready(&scene.claims().get(&name(next)).await?) {
                Some(ready) if ready.reason == "PoolExhausted" => Ok(()),
                other => Err(NotYet::because(format!("{} says {other:?}", name(next)))),
            }
        })
        .await?;
        next += (count / 10).max(1);
    }
    // The last one of all is not the last one to be told.
    eventually("all claims say why they wait", TOLD_WITHIN, || async {
        let claims = scene.claims().list(&ListParams::default()).await?;
        let told = claims.items.iter().filter_map(ready).filter(|ready| ready.reason == "PoolExhausted").count();
        if told == count { Ok(()) } else { Err(NotYet::because(format!("{told} do"))) }
    })
    .await
}

fn name(number: usize) -> String {
    format!("waits-{number:05}")
}

#[tokio::test]
async fn rule_c11_claims_of_a_full_pool_cause_no_request_while_they_wait() -> Result<()> {
    let mut stage = Stage::own("waiting").await?;
    let scene = stage.scene("waiting").await?;
    let manager = stage.manager(ManagerOptions::new("manager")).await?;
    scene.create(pool("p").addresses(["10.0.0.10"])).await?;
    scene.create(claim("holder").in_pool("p")).await?;
    scene.allocated("holder").await?;
    let count = match std::env::var(CLAIMS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{CLAIMS_VARIABLE}: {text:?} is no number"))?,
        Err(_) => CLAIMS,
    };
    let started = Instant::now();
    scene.create_all((0..count).map(|number| claim(&name(number)).in_pool("p"))).await?;
    let created = started.elapsed();
    all_are_told(&scene, count).await?;
    say(format!("{count} claims: created in {created:?}, told why they wait after {:?}", started.elapsed()));

    let last = Cell::new(requests(&manager).await?);
    eventually("the manager has nothing more to say", TOLD_WITHIN, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = requests(&manager).await?;
        let more = now - last.replace(now);
        if more > 0.0 { Err(NotYet::because(format!("{more} requests in a second"))) } else { Ok(()) }
    })
    .await?;
    let (before, cpu) = (requests(&manager).await?, manager.usage()?.cpu);
    tokio::time::sleep(REST).await;
    let (after, cpu) = (requests(&manager).await?, manager.usage()?.cpu.saturating_sub(cpu));
    say(format!("at rest for {REST:?}: {} requests, {cpu:?} of CPU time", after - before));
    ensure!(after.total_cmp(&before).is_eq(), "{} requests while nothing changed", after - before);
    ensure!(cpu.as_secs_f64() < CPU_AT_REST * REST.as_secs_f64(), "{cpu:?} of CPU time while nothing changed");

    // And they are not forgotten.
    scene.release("holder").await?;
    eventually("one of them has the address", TOLD_WITHIN, || async {
        let held = scene.addresses().list(&ListParams::default()).await?.items;
        let held: Vec<String> = held.iter().map(ResourceExt::name_any).collect();
        match held.as_slice() {
            [name] if name.starts_with("waits-") => Ok(()),
            other => Err(NotYet::because(format!("{other:?}"))),
        }
    })
    .await?;
    scene.counts(PoolKind::InCluster, "p", 1, 1, 0).await?;
    scene.abandon();
    manager.terminate().await?;
    stage.control_plane.stop();
    Ok(())
}
