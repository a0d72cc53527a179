//! Who this process is among the replicas: its name, its Pod if that can be found, and a number of its own.

use std::time::Duration;

use kube::Client;
use tokio::time::sleep;
use tracing::warn;

use crate::k8s::pods::{Look, look};
use crate::shard::lease::{Error, Identity, Member};

/// How long the API server may be out of reach at the start: it may be starting too.
const FIRST_CONTACT: u32 = 20;
/// Between two attempts.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the downward API tells.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// `POD_NAME`
    pub name: Option<String>,
    /// `POD_NAMESPACE`, or the namespace of the Leases.
    pub namespace: String,
    /// `POD_UID`
    pub uid: Option<String>,
}

/// The identity of this start of this process. The Pod's uid is part of it only if that Pod is there: others take what
/// they see of it as evidence.
pub async fn identify(client: &Client, pod: &Pod, host: &str) -> Result<Identity, Error> {
    let instance = format!("{:016x}", rand::random::<u64>());
    let Some(name) = &pod.name else {
        let member = member_of(host, &instance)?;
        return Identity::new(&pod.namespace, member, None, &instance);
    };
    let uid = match &pod.uid {
        Some(uid) if is_there(client, &pod.namespace, name, uid).await => Some(uid.as_str()),
        _ => None,
    };
    Identity::new(&pod.namespace, name.parse()?, uid, &instance)
}

/// A name for a process that is in no Pod.
fn member_of(host: &str, instance: &str) -> Result<Member, Error> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let host: String = host.to_lowercase().chars().map(|c| if is_allowed(c) { c } else { '-' }).take(63).collect();
    let host = host.trim_matches('-');
    format!("{}-{instance}", if host.is_empty() { "manager" } else { host }).parse()
}

async fn is_there(client: &Client, namespace: &str, name: &str, uid: &str) -> bool {
    let unused = "what its Pod shows is not used as evidence when it dies";
    for _ in 0..FIRST_CONTACT {
        match look(client, namespace, name, uid).await {
            Look::There | Look::Deleting(_) => return true,
            Look::Gone | Look::Ended => {
                warn!("there is no Pod {namespace}/{name} with uid {uid} (POD_NAME, POD_NAMESPACE, POD_UID); {unused}");
                return false;
            }
            Look::Forbidden(why) => {
                warn!("cannot look at this replica's own Pod; {unused}: {why}");
                return false;
            }
            Look::Unknown(_) => sleep(LOOK_AGAIN).await,
        }
    }
    warn!("the API server did not tell of this replica's own Pod; {unused}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_pod_is_called_after_its_host() {
        for (host, name) in [
            ("node-1", "node-1-7f"),
            ("Build_Box.local", "build-box-local-7f"),
            ("", "manager-7f"),
            ("-ü-", "manager-7f"),
            (&"x".repeat(300), &format!("{}-7f", "x".repeat(63))),
        ] {
            assert_eq!(member_of(host, "7f").expect("a name").as_str(), name);
        }
    }
}
