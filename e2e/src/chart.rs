//! The chart's service account and RBAC, rendered without helm: the manager under test has the rights that users give it.
//! [`Helm`] renders and installs all of the chart, where helm is there.

mod helm;
mod template;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

pub use helm::{Helm, ValueSet};
use template::Templates;

const CHART: &str = include_str!("../../helm/capi-ipam-in-cluster/Chart.yaml");
const VALUES: &str = include_str!("../../helm/capi-ipam-in-cluster/values.yaml");
const NAMED_TEMPLATES: &str = include_str!("../../helm/capi-ipam-in-cluster/templates/_helpers.tpl");
const WEBHOOK_TEMPLATES: &str = include_str!("../../helm/capi-ipam-in-cluster/templates/_webhooks.tpl");
const SERVICE_ACCOUNT: &str = include_str!("../../helm/capi-ipam-in-cluster/templates/serviceaccount.yaml");
const RBAC: &str = include_str!("../../helm/capi-ipam-in-cluster/templates/rbac.yaml");

/// A token this long outlives every test and bench.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// An installation of the chart: what `helm install NAME --namespace NAMESPACE` names so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name, and that of its service account.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl Default for Release {
    fn default() -> Self {
        Self { name: "capi-ipam-in-cluster".to_owned(), namespace: "capi-ipam-system".to_owned() }
    }
}

impl Release {
    /// The objects of the two templates, with the chart's default values.
    pub fn manifests(&self) -> Result<Vec<Value>> {
        self.manifests_with(&Value::Null)
    }

    /// The same, or with rights in one namespace alone: `rbac.clusterWide=false`, `watch.namespace`, no webhooks.
    pub fn manifests_in(&self, namespace: Option<&str>) -> Result<Vec<Value>> {
        self.manifests_with(&rights(namespace))
    }

    /// The same, with these values over the chart's defaults.
    pub fn manifests_with(&self, values: &Value) -> Result<Vec<Value>> {
        let templates = self.templates(values)?;
        let mut manifests = Vec::new();
        for (file, template) in [("serviceaccount.yaml", SERVICE_ACCOUNT), ("rbac.yaml", RBAC)] {
            let text = templates.render(template).with_context(|| format!("rendering {file}"))?;
            manifests.extend(serde_saphyr::from_multiple::<Value>(&text).with_context(|| format!("parsing {file}"))?);
        }
        Ok(manifests)
    }

    /// One of the chart's named templates, such as `mutatingWebhooks`.
    pub fn named(&self, name: &str) -> Result<Value> {
        self.named_with(&Value::Null, name)
    }

    /// The same, with these values over the chart's defaults.
    pub fn named_with(&self, values: &Value, name: &str) -> Result<Value> {
        let template = format!("{{{{ include \"capi-ipam-in-cluster.{name}\" . }}}}");
        let text = self.templates(values)?.render(&template).with_context(|| format!("rendering {name}"))?;
        serde_saphyr::from_str(&text).with_context(|| format!("parsing {name}"))
    }

    fn templates(&self, over_defaults: &Value) -> Result<Templates> {
        let chart: Value = serde_saphyr::from_str(CHART).context("parsing Chart.yaml")?;
        let mut values: Value = serde_saphyr::from_str(VALUES).context("parsing values.yaml")?;
        merge(&mut values, over_defaults);
        let values = json!({
            "Chart": { "Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"] },
            "Release": { "Name": self.name, "Namespace": self.namespace, "Service": "Helm" },
            "Values": values,
        });
        let named = [NAMED_TEMPLATES, WEBHOOK_TEMPLATES].concat();
        Templates::new(&named, values).context("reading _helpers.tpl and _webhooks.tpl")
    }

    /// Creates the namespace if need be, the service account and its rights. May be repeated.
    pub async fn install(&self, client: &Client) -> Result<()> {
        self.install_in(client, None).await
    }

    /// The same, or with rights in one namespace alone.
    pub async fn install_in(&self, client: &Client, only: Option<&str>) -> Result<()> {
        self.install_with(client, &rights(only)).await
    }

    /// The same, with these values over the chart's defaults.
    pub async fn install_with(&self, client: &Client, values: &Value) -> Result<()> {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } });
        for manifest in std::iter::once(namespace).chain(self.manifests_with(values)?) {
            let (api, name) = api_of(client, &manifest)?;
            api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&manifest))
                .await
                .with_context(|| format!("installing {} {name}", manifest["kind"]))?;
        }
        Ok(())
    }

    /// Removes what belongs to no namespace; the rest goes with its namespace.
    pub async fn uninstall_cluster_wide(&self, client: &Client) -> Result<()> {
        for manifest in self.manifests()? {
            if manifest["metadata"]["namespace"].is_null() {
                let (api, name) = api_of(client, &manifest)?;
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(error) if !is_not_found(&error) => {
                        return Err(error).with_context(|| format!("removing {} {name}", manifest["kind"]));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A token of the service account.
    pub async fn token(&self, client: &Client) -> Result<String> {
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = api
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of the service account {}/{}", self.namespace, self.name))?;
        Ok(answer.status.context("the server answered without a token")?.token)
    }
}

/// The values for rights in one namespace alone.
pub fn in_one_namespace(namespace: &str, webhooks: bool) -> Value {
    json!({
        "watch": { "namespace": namespace }, "rbac": { "clusterWide": false }, "webhooks": { "enabled": webhooks },
    })
}

fn rights(only: Option<&str>) -> Value {
    only.map(|namespace| in_one_namespace(namespace, false)).unwrap_or_default()
}

/// As helm puts a file of values over the defaults.
fn merge(values: &mut Value, over: &Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => {
            for (name, value) in over {
                merge(values.entry(name).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (values, over) => values.clone_from(over),
    }
}

/// Whether the server says that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The client for a manifest of a built-in kind, and its name.
pub fn api_of(client: &Client, manifest: &Value) -> Result<(Api<DynamicObject>, String)> {
    let (version, kind) = (manifest["apiVersion"].as_str(), manifest["kind"].as_str());
    let (version, kind) = (version.context("a manifest without apiVersion")?, kind.context("a manifest without kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let name = manifest["metadata"]["name"].as_str().context("a manifest without a name")?.to_owned();
    let api = match manifest["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_in_one_namespace_need_nothing_that_belongs_to_none() {
        let manifests = Release::default().manifests_in(Some("team-a")).expect("the templates render");
        let kind = |manifest: &Value| manifest["kind"].as_str().unwrap_or_default().to_owned();
        let kinds: Vec<String> = manifests.iter().map(kind).collect();
        assert_eq!(kinds, ["ServiceAccount", "Role", "RoleBinding", "Role", "RoleBinding"]);
        let namespaces = manifests.iter().map(|manifest| manifest["metadata"]["namespace"].clone());
        let system = "capi-ipam-system";
        assert_eq!(namespaces.collect::<Vec<_>>(), [system, "team-a", "team-a", system, system]);
        assert_eq!(manifests[2]["roleRef"]["kind"], "Role");
        assert!(!manifests[1].to_string().contains("globalincluster"), "{}", manifests[1]);
    }

    #[test]
    fn the_rendered_rbac_has_no_wildcard_and_no_placeholder() {
        let release = Release { name: "r".to_owned(), namespace: "here".to_owned() };
        let manifests = release.manifests().expect("the templates render");
        let kinds: Vec<&str> = manifests.iter().filter_map(|manifest| manifest["kind"].as_str()).collect();
        let pair = ["ClusterRole", "ClusterRoleBinding"];
        assert_eq!(kinds, [&["ServiceAccount"], &pair[..], &["Role", "RoleBinding"], &pair[..]].concat());
        for rule in manifests.iter().flat_map(|manifest| manifest["rules"].as_array().into_iter().flatten()) {
            for list in ["apiGroups", "resources", "verbs"] {
                let entries = rule[list].as_array().expect("a list");
                assert!(entries.iter().all(|entry| entry != "*"), "{rule}");
            }
        }
        assert_eq!(manifests[2]["subjects"][0]["namespace"], "here");
        assert_eq!(manifests[0]["metadata"]["labels"]["app.kubernetes.io/instance"], "r");
    }
}
