//! A real control plane on loopback, and what the end-to-end tests need around it.
//!
//! [`control_plane`] starts etcd, kube-apiserver and kube-controller-manager; [`manager`] runs the product's own program
//! against it, as the service account of the chart; [`scene`] gives each test a namespace, fixtures and waits;
//! [`address_checker`] watches from outside that no address is ever held twice.

pub mod address_checker;
pub mod chance;
pub mod chart;
pub mod control_plane;
pub mod crd_cases;
pub mod crds;
pub mod eventually;
pub mod evidence;
pub mod faults;
pub mod fixtures;
pub mod folders;
pub mod holdings;
pub mod kinds;
pub mod load;
pub mod management;
pub mod manager;
pub mod metrics;
pub mod original;
pub mod otlp;
pub mod process;
pub mod progress;
pub mod proxy;
pub mod replicas;
pub mod scene;
pub mod sight;
pub mod usage;
pub mod webhooks;
