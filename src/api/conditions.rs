//! Conditions of claims and pools: set ours without touching anybody else's.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lenient::null_as_default;

/// Longest message that we write, in characters. People read it in a terminal; the server's own limit is 32768.
pub const MESSAGE_LIMIT: usize = 1024;

/// One aspect of the state of an object.
///
/// Like the Kubernetes type of this name, but everything reads, and is written back as it was read, because whoever
/// writes a list of conditions writes all of it. So unknown fields are kept, and the time stays text: servers also take
/// times that no calendar has, such as `2026-01-01T00:00:00+99:99`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(description = "One aspect of the state of the pool.")]
#[schemars(extend("required" = ["type", "status", "lastTransitionTime", "reason", "message"]))]
pub struct Condition {
    /// What the condition is about, such as Ready.
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub type_: String,
    /// True, False or Unknown.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// The generation of the object that this was observed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// When the status last changed.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Why the status is what it is, in one word for programs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub reason: String,
    /// Why the status is what it is, in a sentence for people.
    #[serde(default, deserialize_with = "null_as_default")]
    pub message: String,
    /// Fields that this program does not know, such as the severity of a v1beta1 condition.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Map<String, Value>,
}

impl Condition {
    /// A condition that is true or false as of `now`. A message longer than [`MESSAGE_LIMIT`] is cut.
    pub fn new(type_: &str, holds: bool, reason: &str, message: &str, now: Timestamp) -> Self {
        Self {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            observed_generation: None,
            last_transition_time: whole_seconds(now),
            reason: reason.to_owned(),
            message: message.chars().take(MESSAGE_LIMIT).collect(),
            other: Map::new(),
        }
    }

    /// The same condition, observed on this generation of its object.
    #[must_use]
    pub fn observed_on(mut self, generation: Option<i64>) -> Self {
        self.observed_generation = generation;
        self
    }

    /// Whether the status is True.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// The time as Kubernetes writes it, without a fraction.
fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Puts `new` among the conditions and says whether that changed anything, so that an unchanged condition costs no
/// write (contract C10).
///
/// lastTransitionTime moves only with the status. A `new` without an observedGeneration keeps the one that is there.
/// Conditions of other types stay as they are, and where they are.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    let Some(current) = conditions.iter_mut().find(|condition| condition.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    let Condition { type_, status, observed_generation, last_transition_time, reason, message, other: _ } = new;
    let keeps_time = status == current.status && !current.last_transition_time.is_empty();
    let next = Condition {
        type_,
        status,
        observed_generation: observed_generation.or(current.observed_generation),
        last_transition_time: if keeps_time { current.last_transition_time.clone() } else { last_transition_time },
        reason,
        message,
        other: current.other.clone(),
    };
    let changed = next != *current;
    *current = next;
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";

    fn ready(holds: bool, reason: &str, at: &str) -> Condition {
        Condition::new("Ready", holds, reason, "a message", at.parse().expect("a time"))
    }

    #[test]
    fn a_new_condition_is_appended_behind_those_of_others() {
        let other: Condition = serde_json::from_value(json!({"type": "Theirs", "severity": "Info"})).expect("decodes");
        let mut conditions = vec![other.clone()];
        assert!(set(&mut conditions, ready(true, "AddressAllocated", THEN)));
        assert_eq!(conditions[0], other);
        assert_eq!(conditions[1].type_, "Ready");
    }

    #[test]
    fn the_same_condition_again_changes_nothing_however_late() {
        let mut conditions = vec![ready(false, "PoolExhausted", THEN)];
        let before = conditions.clone();
        assert!(!set(&mut conditions, ready(false, "PoolExhausted", "2026-02-02T00:00:00Z")));
        assert_eq!(conditions, before);
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut conditions = vec![ready(false, "PoolExhausted", THEN)];
        assert!(set(&mut conditions, ready(false, "PoolNotReady", "2026-02-02T00:00:00Z")));
        assert_eq!(conditions[0].last_transition_time, THEN);
        assert_eq!(conditions[0].reason, "PoolNotReady");

        assert!(set(&mut conditions, ready(true, "AddressAllocated", "2026-03-03T00:00:00Z")));
        assert_eq!(conditions[0].last_transition_time, "2026-03-03T00:00:00Z");
    }

    #[test]
    fn a_missing_transition_time_is_filled_in() {
        let mut conditions = vec![Condition { last_transition_time: String::new(), ..ready(true, "R", THEN) }];
        assert!(set(&mut conditions, ready(true, "R", "2026-02-02T00:00:00Z")));
        assert_eq!(conditions[0].last_transition_time, "2026-02-02T00:00:00Z");
    }

    #[test]
    fn the_observed_generation_is_kept_unless_a_new_one_is_given() {
        let mut conditions = vec![ready(true, "R", THEN).observed_on(Some(3))];
        assert!(!set(&mut conditions, ready(true, "R", THEN)));
        assert_eq!(conditions[0].observed_generation, Some(3));
        assert!(set(&mut conditions, ready(true, "R", THEN).observed_on(Some(4))));
        assert_eq!(conditions[0].observed_generation, Some(4));
    }

    #[test]
    fn conditions_of_others_come_back_as_they_were_read() {
        let stored = json!([
            {"type": "Old", "status": "False", "severity": "Warning", "lastTransitionTime": "2026-01-01T00:00:00x5+99:99",
             "reason": "R", "message": "m"},
            {"type": "New", "status": "True", "lastTransitionTime": THEN, "reason": "R", "message": "",
             "observedGeneration": 2},
        ]);
        let conditions: Vec<Condition> = serde_json::from_value(stored.clone()).expect("decodes");
        assert_eq!(serde_json::to_value(conditions).expect("renders"), stored);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let condition = Condition::new("Ready", true, "R", &"ü".repeat(5000), THEN.parse().expect("a time"));
        assert_eq!(condition.message.chars().count(), MESSAGE_LIMIT);
    }

    #[test]
    fn times_are_written_in_whole_seconds() {
        assert_eq!(ready(true, "R", "2026-01-01T00:00:00.987Z").last_transition_time, THEN);
    }
}
