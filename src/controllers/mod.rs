//! Where observations become decisions and decisions become writes.

mod clusters;
pub mod coordination;
pub mod drained;
pub mod events;
mod grouped;
pub mod identity;
pub mod lifecycle;
pub mod mailbox;
mod overlaps;
pub mod ownership;
pub mod router;
pub mod shards;
pub mod shared_view;
pub mod sight;
pub mod sources;
pub mod unclaimed;
pub mod view;
pub mod worker;
