//! What a user would look at: `kubectl get`, or the same table from the API server where kubectl is not installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use e2e::kinds;
use e2e::scene::{address_ref, ready};
use http::Request;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::console::{Console, table};

/// Lines of a listing that are shown.
const LINES: usize = 9;

/// Where to look.
pub(crate) struct Views<'a> {
    pub(crate) console: Console,
    pub(crate) client: &'a Client,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) namespace: &'a str,
}

impl Views<'_> {
    /// `kubectl get` of a kind. With the group where the short name means another one.
    pub(crate) async fn list(&self, resource: &ApiResource, name: &str) -> Result<()> {
        self.console.command(&format!("kubectl get {name} -n {}", self.namespace));
        let text = match self.kubectl(name) {
            Some(text) => text?,
            None => self.server_table(resource).await?,
        };
        self.console.block(&text, LINES);
        Ok(())
    }

    /// None: there is no kubectl.
    fn kubectl(&self, name: &str) -> Option<Result<String>> {
        let output = Command::new("kubectl")
            .args(["get", name, "-n", self.namespace, "--kubeconfig"])
            .arg(self.kubeconfig)
            .output()
            .ok()?;
        Some(if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(anyhow::anyhow!("kubectl get {name}: {}", String::from_utf8_lossy(&output.stderr)))
        })
    }

    /// The API server fills the columns in; kubectl only prints them.
    async fn server_table(&self, resource: &ApiResource) -> Result<String> {
        let path = format!("/apis/{}/namespaces/{}/{}", resource.api_version, self.namespace, resource.plural);
        let request = Request::get(path)
            .header(http::header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let answer: Value =
            self.client.request(request).await.with_context(|| format!("listing {}", resource.plural))?;
        let Some(columns) = answer["columnDefinitions"].as_array() else { bail!("the API server sent no table") };
        let shown: Vec<usize> = (0..columns.len()).filter(|column| columns[*column]["priority"] == 0).collect();
        let head = shown.iter().map(|column| text(&columns[*column]["name"]).to_uppercase()).collect();
        let body = answer["rows"].as_array().into_iter().flatten();
        let body = body.map(|row| shown.iter().map(|column| text(&row["cells"][*column])).collect());
        Ok(table(&std::iter::once(head).chain(body).collect::<Vec<Vec<String>>>()))
    }

    /// The claims that wait, and why.
    pub(crate) async fn waiting(&self) -> Result<()> {
        let claims = self.claims().list(&ListParams::default()).await.context("listing the claims")?.items;
        let mut rows = vec![vec!["NAME".to_owned(), "REASON".to_owned(), "MESSAGE".to_owned()]];
        for claim in claims.iter().filter(|claim| address_ref(claim).is_none()) {
            let why = ready(claim);
            let (reason, message) = why.map(|why| (why.reason, why.message)).unwrap_or_default();
            rows.push(vec![claim.name_any(), reason, message]);
        }
        self.console.say("");
        self.console.say(&format!("{} claims wait. Each says why, in its condition Ready:", rows.len() - 1));
        self.console.block(&table(&rows), LINES);
        Ok(())
    }

    fn claims(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &kinds::claim())
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
