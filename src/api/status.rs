//! The status of a pool, one type for every kind and version, so that conversion can copy it verbatim.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{conditions::Condition, lenient::null_as_default};

/// What was last observed of the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// How many addresses or prefixes the pool has, and how many are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<AddressCounts>,
    /// The state of the pool. Ready says whether it can be allocated from.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation of the pool that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Which addresses are about to be given to which claims. Written by the provider alone: removing it while
    /// entries are pending can give an address twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Fields of a newer version of this program, kept when the status is rewritten.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Map<String, Value>,
}

/// Counts of a pool; whatever is larger than the largest signed 64 bit integer is given as that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["total", "free", "used", "outOfRange"]))]
pub struct AddressCounts {
    /// Addresses or prefixes that can be allocated.
    pub total: i64,
    /// Those of the total that no IPAddress holds.
    pub free: i64,
    /// IPAddress objects of the pool.
    pub used: i64,
    /// IPAddress objects of the pool that could not be allocated any more.
    pub out_of_range: i64,
}

/// The allocation record: every change of it is a compare-and-swap on the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// Grows with every write of the record.
    #[serde(default)]
    pub seq: i64,
    /// The resource version that a view of the addresses must have reached to be allocated from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub settled_resource_version: String,
    /// The instances that the entries refer to by index.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub senders: Vec<String>,
    /// Addresses whose IPAddress may be on its way.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub pending: Vec<PendingIntent>,
    /// Fields of a newer version of this program.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Map<String, Value>,
}

/// An address that is about to be given to a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingIntent {
    /// The address, or the base address of the prefix.
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
    /// The claim, as namespace/name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub claim: String,
    /// The uid of the claim.
    #[serde(rename = "claimUID", default, deserialize_with = "null_as_default")]
    pub claim_uid: String,
    /// The record's seq when this entry was last listed.
    #[serde(default)]
    pub seq: i64,
    /// Who may have sent the IPAddress, as indexes into the record's senders.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub senders: Vec<i64>,
    /// Fields of a newer version of this program.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_comes_back_as_it_was_read_with_what_is_unknown() {
        let stored = json!({
            "ipAddresses": {"total": i64::MAX, "free": 1, "used": 2, "outOfRange": 3},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
                            "reason": "PoolReady", "message": "", "observedGeneration": 7}],
            "observedGeneration": 7,
            "allocation": {
                "seq": 9, "settledResourceVersion": "123", "senders": ["capi-ipam/ns/pod_uid_1"],
                "pending": [{"address": "10.0.0.1", "claim": "ns/a", "claimUID": "u", "seq": 9, "senders": [0],
                             "later": true}],
                "later": {"a": 1},
            },
            "later": [1],
        });
        let status: PoolStatus = serde_json::from_value(stored.clone()).expect("decodes");
        let allocation = status.allocation.as_ref().expect("an allocation");
        assert_eq!(allocation.pending[0].claim_uid, "u");
        assert_eq!(allocation.seq, 9);
        assert_eq!(serde_json::to_value(&status).expect("renders"), stored);
    }

    #[test]
    fn an_empty_status_stays_empty() {
        let status: PoolStatus = serde_json::from_value(json!({})).expect("decodes");
        assert_eq!(status, PoolStatus::default());
        assert_eq!(serde_json::to_value(&status).expect("renders"), json!({}));
    }
}
