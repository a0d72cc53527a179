//! The demo itself: a pool, more claims than it holds, and what happens.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::eventually::{NotYet, eventually};
use e2e::fixtures::{Fixture as _, claim, pool};
use e2e::kinds::{self, PoolKind};
use e2e::scene::{address_ref, counts, ready};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};

use crate::console::Console;
use crate::stage::{NAMESPACE, Stage};
use crate::views::Views;

const POOL: &str = "rack-a";
const CLAIMS: usize = 40;
/// 10.0.0.10, 10.0.0.24 to 32, and the sixteen of 10.0.0.128/28.
const CAPACITY: usize = 26;
const RELEASED: [&str; 3] = ["node-03", "node-11", "node-19"];
const RELEASED_LATER: [&str; 2] = ["node-07", "node-23"];
const TIMEOUT: Duration = Duration::from_mins(1);

/// From nothing to the end, cleaning up excepted.
pub(crate) async fn all(console: Console, stage: &mut Stage) -> Result<()> {
    console.heading("A control plane");
    stage.set_up_cluster().await?;
    console.heading("The kinds");
    stage.install_crds().await?;
    console.heading("The provider");
    stage.start_managers().await?;
    stage.runs();

    let client = stage.client()?.clone();
    let kubeconfig = stage.kubeconfig_path()?;
    let views = Views { console, client: &client, kubeconfig: &kubeconfig, namespace: NAMESPACE };
    console.heading(&format!("A pool of {CAPACITY} addresses, and {CLAIMS} claims"));
    let elapsed = create(console, &client).await?;
    console.say("");
    console.say(&format!(
        "{CAPACITY} claims have addresses, {:.2} s after the last claim was made.",
        elapsed.as_secs_f32()
    ));
    views.list(&PoolKind::InCluster.resource(), "inclusterippools").await?;
    views.list(&kinds::claim(), "ipaddressclaims").await?;
    // The short name is taken: networking.k8s.io has a kind IPAddress, too.
    views.list(&kinds::address(), &format!("ipaddresses.{}", kinds::GROUP)).await?;
    views.waiting().await?;

    console.heading("Deleting claims makes room");
    release(console, &client, &RELEASED).await?;
    views.list(&PoolKind::InCluster.resource(), "inclusterippools").await?;
    views.waiting().await?;

    console.heading("The replica that works on the pool is killed");
    lose_owner(console, &client, stage).await
}

/// Kills the owner of the pool; claims keep their addresses, and another replica goes on.
async fn lose_owner(console: Console, client: &Client, stage: &mut Stage) -> Result<()> {
    let pool = format!("InClusterIPPool/{NAMESPACE}/{POOL}");
    let owner = stage.owner_of(POOL).await?;
    console.command(&format!("manager shards -n {NAMESPACE} {pool}"));
    console.block(&stage.shards(&[&pool]).await?, 20);
    let before = addresses(client).await?;
    stage.kill(&owner)?;
    console.say(&format!("{owner} is killed (SIGKILL). At once, claims are deleted on which others wait:"));
    release(console, client, &RELEASED_LATER).await?;
    let after = addresses(client).await?;
    let kept = before.iter().filter(|held| after.contains(held)).count();
    let lost = before.len() - kept - RELEASED_LATER.len();
    anyhow::ensure!(lost == 0, "{lost} claims lost their address");
    let successor = stage.owner_of(POOL).await?;
    console
        .say(&format!("{successor} has taken over; all of the other {kept} claims have the addresses that they had."));
    console.command(&format!("manager shards -n {NAMESPACE}"));
    console.block(&stage.shards(&[]).await?, 20);
    Ok(())
}

/// Creates the pool and the claims, and waits until as many as possible are served and the others say that they wait.
async fn create(console: Console, client: &Client) -> Result<Duration> {
    let rack =
        pool(POOL).addresses(["10.0.0.10", "10.0.0.24-10.0.0.32", "10.0.0.128/28"]).prefix(24).gateway("10.0.0.1");
    console.block(&serde_saphyr::to_string(&rack.object()).context("writing the pool as YAML")?, 20);
    let pools = PoolKind::InCluster.api(client, NAMESPACE);
    pools.create(&PostParams::default(), &rack.object()).await.context("creating the pool")?;
    let claims = claims(client);
    for number in 1..=CLAIMS {
        let claim = claim(&format!("node-{number:02}")).in_pool(POOL);
        claims.create(&PostParams::default(), &claim.object()).await.context("creating a claim")?;
    }
    let started = Instant::now();
    let served = Cell::new(None);
    eventually("the pool is used up and the other claims say that they wait", TIMEOUT, || async {
        let all = claims.list(&ListParams::default()).await?.items;
        let with_address = all.iter().filter(|claim| address_ref(claim).is_some()).count();
        if with_address == CAPACITY && served.get().is_none() {
            served.set(Some(started.elapsed()));
        }
        let waiting = all.iter().filter(|claim| ready(claim).is_some_and(|ready| ready.status == "False")).count();
        // The pool counts a moment later, once for many claims.
        let counted = counts(&pools.get(POOL).await?).map_or(0, |counts| counts.used);
        if with_address == CAPACITY && waiting == CLAIMS - CAPACITY && usize::try_from(counted) == Ok(CAPACITY) {
            Ok(())
        } else {
            Err(NotYet::because(format!(
                "{with_address} claims have an address, {waiting} say that they wait, the pool counts {counted}"
            )))
        }
    })
    .await?;
    Ok(served.get().unwrap_or_else(|| started.elapsed()))
}

/// Deletes some claims, and says who gets their addresses.
async fn release(console: Console, client: &Client, released: &[&str]) -> Result<()> {
    let before = addresses(client).await?;
    let claims = claims(client);
    console.command(&format!("kubectl delete ipaddressclaims {} -n {NAMESPACE}", released.join(" ")));
    let started = Instant::now();
    for name in released {
        claims.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting the claim {name}"))?;
    }
    let after = eventually("the released addresses are given on", TIMEOUT, || async {
        let held = addresses(client).await?;
        let new = held.iter().filter(|(_, holder)| !before.iter().any(|(_, old)| old == holder)).count();
        if new == released.len() { Ok(held) } else { Err(NotYet::because(format!("{new} are"))) }
    })
    .await?;
    let elapsed = started.elapsed();
    let pools = PoolKind::InCluster.api(client, NAMESPACE);
    eventually("the pool has counted again", TIMEOUT, || async {
        let counted = counts(&pools.get(POOL).await?).map_or(0, |counts| counts.used);
        if usize::try_from(counted) == Ok(CAPACITY) { Ok(()) } else { Err(NotYet::because(counted.to_string())) }
    })
    .await?;
    for (address, holder) in &before {
        if let Some((_, next)) = after.iter().find(|(other, next)| other == address && next != holder) {
            console.say(&format!("{address:<12} was {holder}'s and is {next}'s now"));
        }
    }
    console.say(&format!(
        "That took {:.2} s. First fit: the lowest free address goes to the claim that waits longest.",
        elapsed.as_secs_f32()
    ));
    Ok(())
}

/// Address and holder.
async fn addresses(client: &Client) -> Result<Vec<(String, String)>, kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kinds::address());
    let all = api.list(&ListParams::default()).await?.items;
    let address = |object: &DynamicObject| object.data["spec"]["address"].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|object| (address(object), object.name_any())).collect())
}

fn claims(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), NAMESPACE, &kinds::claim())
}
