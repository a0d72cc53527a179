//! A real control plane on loopback, and what the end-to-end tests need around it.

pub mod control_plane;
pub mod crd_cases;
pub mod crds;
pub mod folders;
pub mod process;
pub mod progress;
