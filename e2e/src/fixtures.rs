//! Objects as a user writes them: `pool("rack-a").addresses(["10.0.0.10-10.0.0.20"])`, `claim("a").in_pool("rack-a")`.

use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde_json::{Map, Value, json};

use crate::kinds::{self, CLUSTER_NAME, GROUP, PAUSED, PoolKind};

/// Something that can be created in a namespace.
pub trait Fixture {
    /// Its kind, and whether it belongs to no namespace.
    fn resource(&self) -> (ApiResource, bool);
    /// The whole object, without a namespace.
    fn object(&self) -> DynamicObject;
}

/// Name, labels and annotations, and spec; an empty spec is none.
#[derive(Clone, Debug)]
struct Parts {
    metadata: Value,
    spec: Map<String, Value>,
}

impl Parts {
    fn named(name: &str) -> Self {
        Self { metadata: json!({ "name": name }), spec: Map::new() }
    }

    fn object(&self, resource: &ApiResource) -> DynamicObject {
        let mut value = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": self.metadata,
        });
        if !self.spec.is_empty() {
            value["spec"] = self.spec.clone().into();
        }
        serde_json::from_value(value).expect("metadata is written by this file alone")
    }
}

/// Methods that all fixtures have.
macro_rules! metadata {
    ($fixture:ident) => {
        impl $fixture {
            /// With a label.
            #[must_use]
            pub fn label(mut self, key: &str, value: &str) -> Self {
                self.parts.metadata["labels"][key] = json!(value);
                self
            }

            /// With an annotation.
            #[must_use]
            pub fn annotation(mut self, key: &str, value: &str) -> Self {
                self.parts.metadata["annotations"][key] = json!(value);
                self
            }

            /// With a finalizer.
            #[must_use]
            pub fn finalizer(mut self, finalizer: &str) -> Self {
                match self.parts.metadata["finalizers"].as_array_mut() {
                    Some(list) => list.push(json!(finalizer)),
                    None => self.parts.metadata["finalizers"] = json!([finalizer]),
                }
                self
            }

            /// With the annotation that pauses it.
            #[must_use]
            pub fn paused(self) -> Self {
                self.annotation(PAUSED, "")
            }

            /// With any field of spec.
            #[must_use]
            pub fn field(mut self, name: &str, value: Value) -> Self {
                self.parts.spec.insert(name.to_owned(), value);
                self
            }
        }
    };
}

/// A pool of any of the four kinds.
#[derive(Clone, Debug)]
pub struct Pool {
    kind: PoolKind,
    parts: Parts,
}

/// An `InClusterIPPool`, with prefix 24.
pub fn pool(name: &str) -> Pool {
    pool_of(PoolKind::InCluster, name).prefix(24)
}

/// A `GlobalInClusterIPPool`, with prefix 24.
pub fn global_pool(name: &str) -> Pool {
    pool_of(PoolKind::GlobalInCluster, name).prefix(24)
}

/// An `InClusterPrefixPool`.
pub fn prefix_pool(name: &str) -> Pool {
    pool_of(PoolKind::Prefix, name)
}

/// A `GlobalInClusterPrefixPool`.
pub fn global_prefix_pool(name: &str) -> Pool {
    pool_of(PoolKind::GlobalPrefix, name)
}

/// A pool of any kind, without spec.
pub fn pool_of(kind: PoolKind, name: &str) -> Pool {
    Pool { kind, parts: Parts::named(name) }
}

metadata!(Pool);

impl Pool {
    /// `spec.addresses`.
    #[must_use]
    pub fn addresses<'a>(self, entries: impl IntoIterator<Item = &'a str>) -> Self {
        let entries: Vec<&str> = entries.into_iter().collect();
        self.field("addresses", json!(entries))
    }

    /// `spec.excludedAddresses`.
    #[must_use]
    pub fn excluding<'a>(self, entries: impl IntoIterator<Item = &'a str>) -> Self {
        let entries: Vec<&str> = entries.into_iter().collect();
        self.field("excludedAddresses", json!(entries))
    }

    /// `spec.prefix`.
    #[must_use]
    pub fn prefix(self, length: i64) -> Self {
        self.field("prefix", json!(length))
    }

    /// `spec.gateway`.
    #[must_use]
    pub fn gateway(self, address: &str) -> Self {
        self.field("gateway", json!(address))
    }

    /// `spec.addressReuseGracePeriodSeconds`.
    #[must_use]
    pub fn grace_period(self, seconds: i64) -> Self {
        self.field("addressReuseGracePeriodSeconds", json!(seconds))
    }

    /// `spec.prefixes`, and the length of what is allocated from them.
    #[must_use]
    pub fn prefixes<'a>(self, entries: impl IntoIterator<Item = &'a str>, allocated: i64) -> Self {
        let entries: Vec<&str> = entries.into_iter().collect();
        self.field("prefixes", json!(entries)).field("allocationPrefixLength", json!(allocated))
    }

    /// Its kind.
    pub fn kind(&self) -> PoolKind {
        self.kind
    }
}

impl Fixture for Pool {
    fn resource(&self) -> (ApiResource, bool) {
        (self.kind.resource(), self.kind.is_global())
    }

    fn object(&self) -> DynamicObject {
        self.parts.object(&self.kind.resource())
    }
}

/// An `IPAddressClaim`.
#[derive(Clone, Debug)]
pub struct Claim {
    parts: Parts,
}

/// A claim that names no pool yet.
pub fn claim(name: &str) -> Claim {
    Claim { parts: Parts::named(name) }
}

metadata!(Claim);

impl Claim {
    /// For an `InClusterIPPool`.
    #[must_use]
    pub fn in_pool(self, name: &str) -> Self {
        self.in_pool_of(PoolKind::InCluster, name)
    }

    /// For a `GlobalInClusterIPPool`.
    #[must_use]
    pub fn in_global_pool(self, name: &str) -> Self {
        self.in_pool_of(PoolKind::GlobalInCluster, name)
    }

    /// For a pool of any of the four kinds.
    #[must_use]
    pub fn in_pool_of(self, kind: PoolKind, name: &str) -> Self {
        self.field("poolRef", pool_ref(kind, name))
    }

    /// `spec.clusterName`.
    #[must_use]
    pub fn of_cluster(self, name: &str) -> Self {
        self.field("clusterName", json!(name))
    }

    /// The label that names the cluster.
    #[must_use]
    pub fn labelled_with_cluster(self, name: &str) -> Self {
        self.label(CLUSTER_NAME, name)
    }
}

impl Fixture for Claim {
    fn resource(&self) -> (ApiResource, bool) {
        (kinds::claim(), false)
    }

    fn object(&self) -> DynamicObject {
        self.parts.object(&kinds::claim())
    }
}

/// An `IPAddress` that somebody else writes.
#[derive(Clone, Debug)]
pub struct Address {
    parts: Parts,
}

/// The address that `claim` of the same name holds in an `InClusterIPPool` with prefix 24.
pub fn address(name: &str, pool: &str, address: &str) -> Address {
    Address { parts: Parts::named(name) }
        .field("claimRef", json!({ "name": name }))
        .field("poolRef", pool_ref(PoolKind::InCluster, pool))
        .field("address", json!(address))
        .field("prefix", json!(24))
}

metadata!(Address);

impl Address {
    /// Held by a claim of another name.
    #[must_use]
    pub fn of_claim(self, name: &str) -> Self {
        self.field("claimRef", json!({ "name": name }))
    }
}

impl Fixture for Address {
    fn resource(&self) -> (ApiResource, bool) {
        (kinds::address(), false)
    }

    fn object(&self) -> DynamicObject {
        self.parts.object(&kinds::address())
    }
}

/// A `Cluster`.
#[derive(Clone, Debug)]
pub struct Cluster {
    parts: Parts,
}

/// A cluster that is not paused.
pub fn cluster(name: &str) -> Cluster {
    // The least that Cluster API's schema accepts.
    Cluster { parts: Parts::named(name) }
        .field("clusterNetwork", json!({ "pods": { "cidrBlocks": ["192.168.0.0/16"] } }))
        .field(
            "infrastructureRef",
            json!({ "apiGroup": "infrastructure.example.org", "kind": "ExampleCluster", "name": name }),
        )
}

metadata!(Cluster);

impl Cluster {
    /// `spec.paused: true`.
    #[must_use]
    pub fn spec_paused(self) -> Self {
        self.field("paused", json!(true))
    }
}

impl Fixture for Cluster {
    fn resource(&self) -> (ApiResource, bool) {
        (kinds::cluster(), false)
    }

    fn object(&self) -> DynamicObject {
        self.parts.object(&kinds::cluster())
    }
}

fn pool_ref(kind: PoolKind, name: &str) -> Value {
    json!({ "apiGroup": GROUP, "kind": kind.name(), "name": name })
}
