//! What a LIST through the other version costs: 5,000 pools each way.

use capi_ipam::api::conversion::convert;
use divan::{Bencher, black_box};
use serde_json::{Value, json};

const POOLS: usize = 5_000;
const OLD: &str = "ipam.cluster.x-k8s.io/v1alpha1";
const NEW: &str = "ipam.cluster.x-k8s.io/v1alpha2";

fn main() {
    divan::main();
}

fn pools(version: &str, spec: &Value) -> Vec<Value> {
    let pool = |number| {
        json!({
            "apiVersion": version, "kind": "InClusterIPPool", "spec": spec,
            "metadata": { "name": format!("pool-{number}"), "namespace": "default", "labels": { "a": "b" } },
            "status": { "ipAddresses": { "total": 254, "used": 9, "free": 245, "outOfRange": 0 } },
        })
    };
    (0..POOLS).map(pool).collect()
}

fn all(bencher: Bencher, pools: &[Value], wanted: &str) {
    bencher.with_inputs(|| pools.to_vec()).bench_values(|pools| {
        for pool in pools {
            black_box(convert(pool, wanted).expect("converts"));
        }
    });
}

#[divan::bench]
fn written_as_v1alpha1(bencher: Bencher) {
    all(bencher, &pools(OLD, &json!({ "subnet": "10.0.0.0/24", "gateway": "10.0.0.1" })), NEW);
}

#[divan::bench]
fn read_as_v1alpha1_with_an_annotation(bencher: Bencher) {
    let written = pools(OLD, &json!({ "subnet": "10.0.0.0/24", "gateway": "10.0.0.1" }));
    let stored: Vec<Value> = written.into_iter().map(|pool| convert(pool, NEW).expect("converts")).collect();
    all(bencher, &stored, OLD);
}

#[divan::bench]
fn read_as_v1alpha1_with_exclusions(bencher: Bencher) {
    let spec = json!({ "addresses": ["10.0.0.0/24"], "prefix": 24, "excludedAddresses": ["10.0.0.9"] });
    all(bencher, &pools(NEW, &spec), OLD);
}
