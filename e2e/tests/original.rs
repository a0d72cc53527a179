//! The Go original beside us: whoever holds its leader Lease works, the other one stands by (O7).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::chart::Release;
use e2e::fixtures::{address, claim, pool};
use e2e::manager::ManagerOptions;
use e2e::scene::{Scene, Stage, address_ref};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The original's Lease, and who holds it as the original writes it.
const LEASE: &str = "7bb7acb4.ipam.cluster.x-k8s.io";
const ORIGINAL: &str = "caip-in-cluster-controller-manager-6c8_6d5d0a3a-1f6e-4d7e-9a43-0d6b2f0a3c11";
/// How long it says that the Lease lasts: the original's 15 s, shortened.
const LASTS: i32 = 3;
/// Long enough for a claim to be served, if anybody did.
const NOTHING_FOR: Duration = Duration::from_secs(3);
/// The pause of 70 s after an original led, and what comes around it.
const PAUSE_IS_OVER_WITHIN: Duration = Duration::from_secs(100);

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), &Release::default().namespace)
}

/// Writes the Lease as the original does, and renews it until it is stopped.
async fn original_leads(client: &Client) -> Result<JoinHandle<()>> {
    let leases = leases(client);
    let held = move |leases: Api<Lease>| async move {
        let now = jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE},
            "spec": {
                "holderIdentity": ORIGINAL, "leaseDurationSeconds": LASTS, "leaseTransitions": 4,
                "acquireTime": format!("{now:.6}"), "renewTime": format!("{now:.6}"),
            },
        });
        leases.patch(LEASE, &PatchParams::apply("original").force(), &Patch::Apply(&lease)).await
    };
    held(leases.clone()).await.context("writing the original's Lease")?;
    Ok(tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(500)).await;
            // A scenario that ends takes the API server away.
            let _ = held(leases.clone()).await;
        }
    }))
}

async fn prepared(name: &str) -> Result<(Stage, Scene)> {
    let stage = Stage::own(name).await?;
    let scene = stage.scene(name).await?;
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(Release::default().namespace), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(scene.client().clone());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other.context("creating the namespace of the release")?),
    }
    Ok((stage, scene))
}

async fn is_untouched(scene: &Scene, name: &str) -> Result<()> {
    sleep(NOTHING_FOR).await;
    let claim = scene.claims().get(name).await?;
    ensure!(address_ref(&claim).is_none(), "{name} was served while the original leads");
    ensure!(claim.metadata.finalizers.unwrap_or_default().is_empty(), "{name} was touched while the original leads");
    Ok(())
}

#[tokio::test]
async fn rule_o7_nothing_is_worked_on_while_an_original_leads_and_new_addresses_wait_after_it() -> Result<()> {
    let (mut stage, scene) = prepared("original-first").await?;
    let original = original_leads(scene.client()).await?;
    let _manager = stage.manager(ManagerOptions::new("ours").leader_elect()).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).prefix(24)).await?;
    scene.create(claim("new").in_pool("p")).await?;
    is_untouched(&scene, "new").await?;

    // It ends without a word. Its last address may arrive for a while.
    original.abort();
    scene.create(claim("old").in_pool("p")).await?;
    scene.create(address("old", "p", "10.0.0.15")).await?;
    ensure!(scene.allocated("old").await? == "10.0.0.15", "an address of the original is adopted at once");
    let why = scene.waits_for("new", "AllocationFailed").await?;
    ensure!(why.contains("another provider"), "{why}");
    scene.release("old").await?;
    let lease = leases(scene.client()).get(LEASE).await?;
    let noted = lease.metadata.annotations.unwrap_or_default();
    let noted = noted.get("ipam.cluster.x-k8s.io/taken-from-original-at").context("a note on the Lease")?;
    let noted: Timestamp = noted.parse()?;
    // A replica that starts meanwhile knows of the pause, too.
    let _second = stage.manager(ManagerOptions::new("second").leader_elect()).await?;
    scene.create(address("late", "p", "10.0.0.10")).await?;
    let held = scene.all_allocated(1, PAUSE_IS_OVER_WITHIN).await?;
    let made = scene.addresses().get("new").await?.metadata.creation_timestamp.context("a time")?.0;
    // Both times are the server's, one of them in whole seconds.
    let pause = made.duration_since(noted).as_secs();
    ensure!(pause >= 69, "a new address {pause} s after the original led");
    ensure!(held.contains(&("new".to_owned(), "10.0.0.11".to_owned())), "{held:?}");
    scene.finish().await
}

#[tokio::test]
async fn rule_o7_an_original_that_takes_the_lease_stops_us_at_once() -> Result<()> {
    let (mut stage, scene) = prepared("original-later").await?;
    let _manager = stage.manager(ManagerOptions::new("ours").leader_elect()).await?;
    scene.create(pool("p").addresses(["10.0.0.10-10.0.0.20"]).prefix(24)).await?;
    scene.create(claim("before").in_pool("p")).await?;
    scene.allocated("before").await?;
    let original = original_leads(scene.client()).await?;
    sleep(Duration::from_secs(1)).await;
    scene.create(claim("after").in_pool("p")).await?;
    is_untouched(&scene, "after").await?;
    original.abort();
    scene.waits_for("after", "AllocationFailed").await?;
    scene.all_allocated(2, PAUSE_IS_OVER_WITHIN).await?;
    scene.finish().await
}
