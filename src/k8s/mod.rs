//! Clients, watches and writes: the only way to the API server.

pub mod clients;
pub mod clock;
pub mod discover;
pub mod events;
pub mod exchange;
pub mod leases;
mod lists;
pub mod observe;
pub mod pods;
pub mod watch;
pub mod write;
