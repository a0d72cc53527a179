//! Leases on the wire: read into the values that ownership decides on, and written from them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use super::names::{PROVIDER, PROVIDER_LABEL};
use crate::shard::lease::{Content, Holder, LEAVING_ANNOTATION, Lease};

/// Label of a Lease of ours: which ring it belongs to.
pub const RING_LABEL: &str = "ipam.cluster.x-k8s.io/ring";
/// Label of a Lease of ours: which claims its ring serves, whatever the number of shards.
pub const SERVES_LABEL: &str = "ipam.cluster.x-k8s.io/serves";
/// Label of a Lease of ours: how many shards its ring has.
pub const SHARDS_LABEL: &str = "ipam.cluster.x-k8s.io/shards";
/// Annotation of the original's leader Lease: when one of ours took it from an original (RFC 3339, server time). A
/// POST of the original may be under way for a while after that (O7).
pub const TAKEN_OVER_ANNOTATION: &str = "ipam.cluster.x-k8s.io/taken-from-original-at";

/// What ownership has to know of a Lease. Odd numbers read as the nearest that make sense.
pub fn read(object: &Object) -> Lease {
    let (metadata, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
    let version = metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    Lease {
        uid: metadata.uid.clone().unwrap_or_default(),
        version: version.unwrap_or(0),
        holder: Holder::parse(spec.holder_identity.as_deref().unwrap_or_default()),
        epoch: u32::try_from(spec.lease_transitions.unwrap_or(0)).unwrap_or(0),
        duration: Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0)),
        leaving: annotation(object, LEAVING_ANNOTATION).is_some(),
    }
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The value of a label.
pub fn label<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// What is written beside the [`Content`].
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// `metadata.namespace`
    pub namespace: &'a str,
    /// `metadata.name`
    pub name: &'a str,
    /// [`RING_LABEL`]
    pub ring: &'a str,
    /// [`SERVES_LABEL`]
    pub serves: &'a str,
    /// [`SHARDS_LABEL`]
    pub shards: u16,
    /// The copy that is replaced, `metadata.uid` and `metadata.resourceVersion`; without, a new Lease is made.
    pub replaces: Option<(&'a str, u64)>,
    /// The replica's Pod, for its member Lease: the garbage collector then removes it with the Pod.
    pub owner: Option<&'a OwnerReference>,
    /// Since when the holder holds it.
    pub acquired: Timestamp,
    /// Now.
    pub renewed: Timestamp,
}

/// All of a Lease of ours.
pub fn object(frame: &Frame<'_>, content: &Content) -> Object {
    let shards = frame.shards.to_string();
    let labels =
        [(RING_LABEL, frame.ring), (SERVES_LABEL, frame.serves), (SHARDS_LABEL, &shards), (PROVIDER_LABEL, PROVIDER)];
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Object {
        metadata: ObjectMeta {
            namespace: Some(frame.namespace.to_owned()),
            name: Some(frame.name.to_owned()),
            uid: frame.replaces.map(|(uid, _)| uid.to_owned()),
            resource_version: frame.replaces.map(|(_, version)| version.to_string()),
            labels: Some(texts(&labels)),
            annotations: content.leaving.then(|| texts(&[(LEAVING_ANNOTATION, "true")])),
            owner_references: frame.owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(content.holder.as_ref().map(ToString::to_string).unwrap_or_default()),
            lease_duration_seconds: Some(whole_seconds(content.duration)),
            acquire_time: Some(MicroTime(frame.acquired)),
            renew_time: Some(MicroTime(frame.renewed)),
            lease_transitions: Some(i32::try_from(content.epoch).unwrap_or(i32::MAX)),
            ..LeaseSpec::default()
        }),
    }
}

/// The same Lease held by nobody, with all fields that kube-leader-election needs in order to acquire it at once: it
/// fails on absent ones, and compares times of other machines with its own clock. `taken_over`: an original held it.
pub fn vacated(leader: &Object, now: Timestamp, taken_over: bool) -> Object {
    let mut vacant = leader.clone();
    let spec = vacant.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
    spec.acquire_time.get_or_insert(MicroTime(now));
    spec.lease_transitions.get_or_insert(0);
    if taken_over {
        let annotations = vacant.metadata.annotations.get_or_insert_default();
        annotations.insert(TAKEN_OVER_ANNOTATION.to_owned(), now.to_string());
    }
    vacant
}

/// The server takes whole seconds above zero.
fn whole_seconds(duration: Duration) -> i32 {
    let rounded_up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(rounded_up.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content() -> Content {
        let me = "capi-ipam/ns/manager-0_1b4e_x7".parse().expect("an identity");
        Content { holder: Some(me), epoch: 3, duration: Duration::from_millis(4_500), leaving: true }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn frame<'a>() -> Frame<'a> {
        Frame {
            namespace: "ns",
            name: "capi-ipam-r-shard-07",
            ring: "r",
            serves: "s",
            shards: 64,
            replaces: Some(("uid-1", 41)),
            owner: None,
            acquired: time("2026-11-22T10:00:00Z"),
            renewed: time("2026-11-22T10:00:01.25Z"),
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let object = object(&frame(), &content());
        let lease = read(&object);
        assert_eq!((lease.uid.as_str(), lease.version, lease.epoch, lease.leaving), ("uid-1", 41, 3, true));
        assert_eq!(lease.holder.ours(), content().holder.as_ref());
        assert_eq!(lease.duration, Duration::from_secs(5), "whole seconds, never shorter");
        assert_eq!((label(&object, RING_LABEL), label(&object, SHARDS_LABEL)), (Some("r"), Some("64")));
        assert_eq!(json!(object)["spec"]["renewTime"], "2026-11-22T10:00:01.250000Z");
    }

    #[test]
    fn a_lease_that_nobody_holds_says_so() {
        let nobody = Content { holder: None, leaving: false, ..content() };
        let object = object(&Frame { replaces: None, ..frame() }, &nobody);
        let wire = json!(object);
        assert_eq!(wire["spec"]["holderIdentity"], "");
        assert_eq!(wire["metadata"].get("resourceVersion"), None);
        assert_eq!(wire["metadata"].get("annotations"), None);
        assert_eq!(read(&object).holder, Holder::Nobody);
    }

    #[test]
    fn odd_leases_can_be_read() {
        for odd in [
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}}),
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "a", "resourceVersion": "x"},
                "spec": {"leaseTransitions": -4, "leaseDurationSeconds": -1, "holderIdentity": null},
            }),
        ] {
            let lease = read(&serde_json::from_value(odd).expect("it decodes"));
            assert_eq!((lease.holder, lease.epoch, lease.version), (Holder::Nobody, 0, 0));
            assert_eq!(lease.duration, Duration::ZERO);
        }
    }

    #[test]
    fn a_vacated_lease_has_all_fields_and_keeps_what_it_had() {
        let bare = Object { metadata: ObjectMeta { uid: Some("u".into()), ..ObjectMeta::default() }, spec: None };
        let now = time("2026-11-22T10:00:00Z");
        let vacant = json!(vacated(&bare, now, true));
        assert_eq!(vacant["metadata"]["uid"], "u");
        assert_eq!(vacant["metadata"]["annotations"][TAKEN_OVER_ANNOTATION], "2026-11-22T10:00:00Z");
        for (field, value) in [("holderIdentity", json!("")), ("leaseTransitions", json!(0))] {
            assert_eq!(vacant["spec"][field], value);
        }
        assert_eq!(vacant["spec"]["renewTime"], "1970-01-01T00:00:00.000000Z");
        let held = object(&frame(), &content());
        let vacant = json!(vacated(&held, now, false));
        assert_eq!(vacant["spec"]["leaseTransitions"], 3);
        assert_eq!(vacant["metadata"]["resourceVersion"], "41");
    }
}
