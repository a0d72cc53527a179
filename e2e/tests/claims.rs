//! What a claim goes through, rule by rule (allocation B, claims C).

#[path = "claims/allocation.rs"]
mod allocation;
#[path = "claims/conditions.rs"]
mod conditions;
#[path = "claims/deletion.rs"]
mod deletion;
#[path = "claims/moves.rs"]
mod moves;
#[path = "claims/objects.rs"]
mod objects;
#[path = "claims/pausing.rs"]
mod pausing;
#[path = "claims/prefixes.rs"]
mod prefixes;
#[path = "claims/release.rs"]
mod release;
