//! Whom the API server trusts as our webhooks: writes the bundle into webhook configurations and CRDs.

use std::time::Duration;

use k8s_openapi::ByteString;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{info, warn};

use super::stored::{Stored, Trusted, ours};
use crate::api::names::{GROUP, PoolKind};
use crate::k8s::clock::Clock;
use crate::pool::key::Boot;

/// Somebody else fills in the bundle there.
const INJECTED: &str = "cert-manager.io/inject-ca-from";
/// What is as it should be is looked at again after this time: somebody may have written over it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// For one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An object that has a bundle.
struct Place {
    api: Api<DynamicObject>,
    name: String,
    /// What was last said about it.
    told: String,
}

/// Where the bundle is to be, and since when it is.
pub(super) struct Trust {
    places: Vec<Place>,
    clock: Clock,
    /// The bundle that is everywhere, since when, and when that was last seen.
    published: Option<(String, Boot, Boot)>,
    /// Authorities of ours that were found in bundles.
    seen: Vec<Trusted>,
}

/// What came of one place.
enum Done {
    /// It has the bundle, or is none of our business.
    Current,
    /// It has it now.
    Written,
    /// Try again.
    Failed,
}

impl Trust {
    /// Nothing has been looked at yet. Both webhook configurations have that name.
    pub(super) fn new(client: &Client, clock: &Clock, configuration: &str) -> Self {
        let place = |group: &str, kind: &str, name: &str| {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
            Place { api: Api::all_with(client.clone(), &resource), name: name.to_owned(), told: String::new() }
        };
        let mut places: Vec<Place> = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
            .map(|kind| place("admissionregistration.k8s.io", kind, configuration))
            .into();
        let converted = PoolKind::ALL.into_iter().filter(|kind| !kind.is_prefix());
        places.extend(converted.map(|kind| {
            place("apiextensions.k8s.io", "CustomResourceDefinition", &format!("{}.{GROUP}", kind.plural()))
        }));
        Self { places, clock: clock.clone(), published: None, seen: Vec::new() }
    }

    /// Authorities of ours that somebody trusted when it was last looked at.
    pub(super) fn seen(&self) -> &[Trusted] {
        &self.seen
    }

    /// Sees to it that the stored bundle is everywhere; since how long it is.
    pub(super) async fn publish(&mut self, stored: &Stored) -> Option<Duration> {
        let bundle = stored.bundle();
        if let Some((known, since, seen)) = &self.published
            && *known == bundle
            && self.clock.boot() < *seen + LOOK_AGAIN
        {
            return Some(self.clock.boot().saturating_sub(*since));
        }
        let mut seen = Vec::new();
        let mut is_everywhere = true;
        let mut is_new = self.published.as_ref().is_none_or(|(known, ..)| *known != bundle);
        for place in &mut self.places {
            match place.tend(&bundle, &mut seen).await {
                Done::Current => {}
                Done::Written => is_new = true,
                Done::Failed => is_everywhere = false,
            }
        }
        self.seen = seen;
        // Without an authority there is nothing to be written yet.
        if !is_everywhere || bundle.is_empty() {
            self.published = None;
            return None;
        }
        let now = self.clock.boot();
        let since = self.published.as_ref().filter(|_| !is_new).map_or(now, |(_, since, _)| *since);
        self.published = Some((bundle, since, now));
        Some(now.saturating_sub(since))
    }
}

impl Place {
    async fn tend(&mut self, bundle: &str, seen: &mut Vec<Trusted>) -> Done {
        let object = match timeout(ANSWER_WITHIN, self.api.get_opt(&self.name)).await {
            Ok(Ok(Some(object))) => object,
            // There may be no webhooks, or no conversion.
            Ok(Ok(None)) => return Done::Current,
            Ok(Err(error)) => return self.failed(&error),
            Err(_) => return Done::Failed,
        };
        let is_injected = object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(INJECTED));
        if is_injected {
            return Done::Current;
        }
        let wanted = json!(ByteString(bundle.as_bytes().to_vec()));
        let mut patch = Vec::new();
        for (path, config) in configs(&object.data) {
            let current = serde_json::from_value::<ByteString>(config["caBundle"].clone()).unwrap_or_default();
            seen.extend(ours(&current.0));
            if config["caBundle"] != wanted {
                patch.push(json!({ "op": "add", "path": format!("{path}/caBundle"), "value": wanted }));
            }
        }
        if patch.is_empty() || bundle.is_empty() {
            return Done::Current;
        }
        // Exactly this object: paths go by position.
        let version = object.metadata.resource_version.unwrap_or_default();
        patch.insert(0, json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
        let Ok(patch) = serde_json::from_value(Value::Array(patch)) else { return Done::Failed };
        let (params, patch) = (PatchParams::default(), Patch::Json::<()>(patch));
        match timeout(ANSWER_WITHIN, self.api.patch(&self.name, &params, &patch)).await {
            Ok(Ok(_)) => {
                info!(name = self.name, "the API server trusts the webhooks' authority here");
                self.told.clear();
                Done::Written
            }
            Ok(Err(error)) => self.failed(&error),
            Err(_) => Done::Failed,
        }
    }

    /// What is forbidden is said once, and not waited for: whoever forbids it sees to the bundle himself.
    fn failed(&mut self, error: &kube::Error) -> Done {
        let message = error.to_string();
        if message != self.told {
            warn!(name = self.name, "cannot tell the API server whom to trust as our webhooks: {message}");
            self.told = message;
        }
        match error {
            kube::Error::Api(status) if status.code == 403 => Done::Current,
            _ => Done::Failed,
        }
    }
}

/// Every clientConfig of a webhook configuration or a CRD that calls a webhook, with its path.
fn configs(object: &Value) -> Vec<(String, &Value)> {
    let webhooks = object["webhooks"].as_array().into_iter().flatten().enumerate();
    let webhooks =
        webhooks.map(|(index, webhook)| (format!("/webhooks/{index}/clientConfig"), &webhook["clientConfig"]));
    let conversion = &object["spec"]["conversion"]["webhook"]["clientConfig"];
    let conversion = ("/spec/conversion/webhook/clientConfig".to_owned(), conversion);
    webhooks.chain([conversion]).filter(|(_, config)| config.is_object()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_where_somebody_is_called() {
        let paths = |object: &Value| configs(object).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        let webhooks = json!({ "webhooks": [{ "clientConfig": {} }, {}, { "clientConfig": { "url": "u" } }] });
        assert_eq!(paths(&webhooks), ["/webhooks/0/clientConfig", "/webhooks/2/clientConfig"]);
        let crd = json!({ "spec": { "conversion": { "strategy": "Webhook", "webhook": { "clientConfig": {} } } } });
        assert_eq!(paths(&crd), ["/spec/conversion/webhook/clientConfig"]);
        assert!(paths(&json!({ "spec": { "conversion": { "strategy": "None" } } })).is_empty());
    }
}
