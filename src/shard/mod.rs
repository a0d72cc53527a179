//! Which shard a pool belongs to, and who owns a shard.

pub mod key;
pub mod lease;
pub mod ownership;
pub mod plan;
pub mod ring;
