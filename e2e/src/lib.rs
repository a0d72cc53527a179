//! A real control plane on loopback, and what the end-to-end tests need around it.

pub mod crd_cases;
