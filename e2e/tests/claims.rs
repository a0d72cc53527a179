//! What a claim goes through, rule by rule (allocation B, claims C).

#[path = "claims/allocation.rs"]
mod allocation;
#[path = "claims/conditions.rs"]
mod conditions;
#[path = "claims/objects.rs"]
mod objects;
#[path = "claims/release.rs"]
mod release;
