//! Looking at Pods: whether a replica's Pod can still run.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

use super::clients::why;

/// What a consistent GET says of a Pod with a certain uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is there.
    There,
    /// It is there, with this deletionTimestamp: when it is to be gone.
    Deleting(Timestamp),
    /// It is there, and all its processes have ended for good: phase Succeeded or Failed.
    Ended,
    /// There is no Pod of that name, or another one.
    Gone,
    /// Whoever asks may not.
    Forbidden(String),
    /// No answer that tells.
    Unknown(String),
}

/// Looks at the Pod.
pub async fn look(client: &Client, namespace: &str, name: &str, uid: &str) -> Look {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match api.get(name).await {
        Ok(pod) => of(&pod, uid),
        Err(kube::Error::Api(status)) if status.code == 404 => Look::Gone,
        Err(kube::Error::Api(status)) if status.code == 403 => Look::Forbidden(status.message.clone()),
        Err(error) => Look::Unknown(why(&error)),
    }
}

fn of(pod: &Pod, uid: &str) -> Look {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.uid.as_deref() != Some(uid) {
        Look::Gone
    } else if matches!(phase, Some("Succeeded" | "Failed")) {
        Look::Ended
    } else if let Some(time) = &pod.metadata.deletion_timestamp {
        Look::Deleting(time.0)
    } else {
        Look::There
    }
}

/// The reference by which the garbage collector removes what a Pod leaves behind.
pub fn owner_reference(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_pod_of_that_uid_counts() {
        let pod = |metadata, phase: &str| -> Pod {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": phase}});
            serde_json::from_value(pod).expect("a Pod")
        };
        let deleting = json!({"name": "m", "uid": "u", "deletionTimestamp": "2026-11-22T10:00:00Z"});
        assert_eq!(of(&pod(json!({"name": "m", "uid": "u"}), "Running"), "u"), Look::There);
        assert_eq!(of(&pod(json!({"name": "m", "uid": "v"}), "Running"), "u"), Look::Gone);
        assert_eq!(of(&pod(json!({"name": "m", "uid": "u"}), "Failed"), "u"), Look::Ended);
        let at = "2026-11-22T10:00:00Z".parse().expect("a time");
        assert_eq!(of(&pod(deleting.clone(), "Running"), "u"), Look::Deleting(at));
        assert_eq!(of(&pod(deleting, "Succeeded"), "u"), Look::Ended);
    }
}
