//! Where observations become decisions and decisions become writes.

pub mod lifecycle;
pub mod mailbox;
pub mod ownership;
pub mod router;
pub mod sources;
pub mod view;
pub mod worker;
