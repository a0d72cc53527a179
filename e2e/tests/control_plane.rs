//! The control plane that all other scenarios stand on.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use e2e::chart::Release;
use e2e::control_plane::{self, ControlPlane, Options};
use e2e::eventually::{NotYet, PATIENCE, eventually};
use e2e::fixtures::{Fixture as _, claim, cluster};
use e2e::kinds;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::OnceCell;

async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(|| ControlPlane::existing_or_start(Options::new("control-plane"))).await
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = Namespace { metadata: named(name), ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// A client of the manager's service account.
async fn manager_client(control_plane: &ControlPlane) -> Result<Client> {
    let release = Release::default();
    let admin = control_plane.admin_client().await?;
    release.install(&admin).await?;
    let file = control_plane.folder().join(format!("service-account-{:?}.kubeconfig", std::thread::current().id()));
    control_plane::kubeconfig_with_token(control_plane.kubeconfig_path(), &file, &release.token(&admin).await?)?;
    control_plane::client(&file).await
}

#[tokio::test]
async fn cluster_apis_kinds_are_served_in_both_versions() -> Result<()> {
    let client = shared().await?.admin_client().await?;
    create_namespace(&client, "served").await?;
    let claims: Api<DynamicObject> = Api::namespaced_with(client.clone(), "served", &kinds::claim());
    claims.create(&PostParams::default(), &claim("a").in_pool("p").of_cluster("c").object()).await?;
    let clusters: Api<DynamicObject> = Api::namespaced_with(client.clone(), "served", &kinds::cluster());
    clusters.create(&PostParams::default(), &cluster("c").spec_paused().object()).await?;

    let mut older = kinds::claim();
    older.version = "v1beta1".to_owned();
    older.api_version = "ipam.cluster.x-k8s.io/v1beta1".to_owned();
    let older: Api<DynamicObject> = Api::namespaced_with(client.clone(), "served", &older);
    let seen = older.get("a").await.context("reading the claim as v1beta1")?;
    assert_eq!(seen.data["spec"]["poolRef"]["name"], "p");
    assert_eq!(seen.data["spec"]["clusterName"], "c");
    assert_eq!(clusters.get("c").await?.data["spec"]["paused"], true);
    Ok(())
}

#[tokio::test]
async fn the_manager_may_do_what_it_must_and_nothing_else() -> Result<()> {
    let client = manager_client(shared().await?).await?;
    let may = |verb: &'static str, group: &'static str, resource: &'static str, namespace: &'static str| {
        allowed(client.clone(), verb, group, resource, namespace)
    };
    let system = Release::default().namespace.leak();
    for (verb, group, resource, namespace, expected) in [
        ("create", "ipam.cluster.x-k8s.io", "ipaddresses", "default", true),
        ("delete", "ipam.cluster.x-k8s.io", "ipaddresses", "default", true),
        ("patch", "ipam.cluster.x-k8s.io", "ipaddressclaims/status", "default", true),
        ("update", "ipam.cluster.x-k8s.io", "inclusterippools/status", "default", true),
        ("update", "ipam.cluster.x-k8s.io", "globalinclusterprefixpools/finalizers", "", true),
        ("watch", "cluster.x-k8s.io", "clusters", "default", true),
        ("create", "events.k8s.io", "events", "default", true),
        ("update", "coordination.k8s.io", "leases", system, true),
        ("get", "", "pods", system, true),
        // Not its business.
        ("create", "ipam.cluster.x-k8s.io", "inclusterippools", "default", false),
        ("delete", "ipam.cluster.x-k8s.io", "inclusterippools", "default", false),
        ("create", "ipam.cluster.x-k8s.io", "ipaddressclaims", "default", false),
        ("delete", "ipam.cluster.x-k8s.io", "ipaddressclaims", "default", false),
        ("deletecollection", "ipam.cluster.x-k8s.io", "ipaddresses", "default", false),
        ("patch", "cluster.x-k8s.io", "clusters", "default", false),
        ("update", "coordination.k8s.io", "leases", "default", false),
        ("get", "", "pods", "default", false),
        ("get", "", "secrets", system, false),
        ("list", "apiextensions.k8s.io", "customresourcedefinitions", "", false),
    ] {
        let answer = may(verb, group, resource, namespace).await?;
        assert_eq!(answer, expected, "{verb} {resource}.{group} in {namespace:?}");
    }
    Ok(())
}

async fn allowed(client: Client, verb: &str, group: &str, resource: &str, namespace: &str) -> Result<bool> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: Some(namespace.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::<SelfSubjectAccessReview>::all(client).create(&PostParams::default(), &review).await?;
    Ok(answer.status.context("a review without an answer")?.allowed)
}

#[tokio::test]
async fn what_rbac_forbids_is_refused_by_the_server() -> Result<()> {
    let client = manager_client(shared().await?).await?;
    match Api::<Secret>::namespaced(client, "kube-system").list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        other => bail!("the manager's account reads secrets: {other:?}"),
    }
}

#[tokio::test]
async fn a_deleted_namespace_is_emptied_and_removed() -> Result<()> {
    let control_plane = shared().await?;
    if !control_plane.has_controllers() {
        // Without kube-controller-manager (KUBEBUILDER_ASSETS and no Go) nobody does it.
        return Ok(());
    }
    let client = control_plane.admin_client().await?;
    create_namespace(&client, "doomed").await?;
    let map = ConfigMap { metadata: named("a"), ..ConfigMap::default() };
    Api::<ConfigMap>::namespaced(client.clone(), "doomed").create(&PostParams::default(), &map).await?;
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete("doomed", &DeleteParams::default()).await?;
    eventually("the namespace is gone", PATIENCE, || async {
        match namespaces.get_opt("doomed").await? {
            None => Ok(()),
            Some(namespace) => Err(NotYet::because(format!("{:?}", namespace.status))),
        }
    })
    .await
}

#[tokio::test]
async fn a_restarted_api_server_serves_the_same_data_at_the_same_address() -> Result<()> {
    let mut control_plane = ControlPlane::start(Options::new("control-plane-restart").without_cluster_api()).await?;
    let client = control_plane.admin_client().await?;
    create_namespace(&client, "kept").await?;
    let namespaces: Api<Namespace> = Api::all(client);

    control_plane.stop_api_server()?;
    assert!(namespaces.get("kept").await.is_err(), "nobody answers now");
    control_plane.start_api_server().await?;
    namespaces.get("kept").await?;
    control_plane.stop();
    Ok(())
}

#[tokio::test]
async fn a_stopped_control_plane_leaves_its_logs_and_no_process_and_no_data() -> Result<()> {
    let control_plane = ControlPlane::start(Options::new("control-plane-stop").without_cluster_api()).await?;
    let ids = control_plane.process_ids();
    assert!(ids.len() >= 2);
    let folder = control_plane.folder().to_path_buf();
    control_plane.stop();
    for id in ids {
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "process {id} still runs");
    }
    assert!(folder.join("kube-apiserver.log").exists());
    assert!(!folder.join("etcd").exists());
    Ok(())
}
