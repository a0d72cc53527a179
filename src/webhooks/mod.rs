//! What the API server asks us while it serves somebody: whether a pool may be written or deleted, and how it reads in
//! the other version.
//!
//! [`admission`] and [`review`] decide on values; [`server`] and [`routes`] carry them, and [`folder`] and [`tls`] have
//! the certificate for it.

pub mod admission;
pub mod certificates;
pub mod folder;
pub mod review;
pub mod routes;
pub mod server;
pub mod service;
pub mod tls;
