//! In-cluster IPAM provider for Cluster API.
//!
//! Observe, decide, apply: [`k8s`] watches and writes, [`pool`] decides without a client or a clock, and
//! [`controllers`] carry the decisions out. `docs/architecture.md` has the map; `tests/architecture.rs` keeps the
//! dependency rule between these modules.

pub mod api;
pub mod app;
pub mod cli;
pub mod controllers;
pub mod ipam;
pub mod k8s;
pub mod pool;
pub mod shard;
pub mod telemetry;
pub mod webhooks;
