//! Finding out which version of Cluster API's kinds the server has, and what is missing.

use kube::Client;

use super::clients::why;
use crate::api::capi::CapiVersion;
use crate::api::names::GROUP;

/// What the server has of Cluster API's IPAM kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Claims and addresses in this version.
    Version(CapiVersion),
    /// The names of the CRDs that are not there (yet).
    Missing(Vec<String>),
    /// The server could not be asked, or would not answer.
    Unknown(String),
}

/// Asks the server: v1beta2, else v1beta1 (behaviour.md §1).
pub async fn capi_version(client: &Client) -> Found {
    let mut missing = Vec::new();
    for version in CapiVersion::PREFERENCE {
        match client.list_api_group_resources(&version.api_version()).await {
            Ok(list) => {
                let has = |plural: &str| list.resources.iter().any(|resource| resource.name == plural);
                missing = ["ipaddressclaims", "ipaddresses"]
                    .into_iter()
                    .filter(|plural| !has(plural))
                    .map(|plural| format!("{plural}.{GROUP}"))
                    .collect();
                if missing.is_empty() {
                    return Found::Version(version);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Found::Unknown(why(&error)),
        }
    }
    if missing.is_empty() {
        missing = vec![format!("ipaddressclaims.{GROUP}"), format!("ipaddresses.{GROUP}")];
    }
    Found::Missing(missing)
}
