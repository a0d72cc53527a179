//! The versions of what the tests run against: each is written in one place, the `go.mod` that builds it.

const KUBERNETES_MODULE: &str = include_str!("../../control-plane/kubernetes/go.mod");
const ETCD_MODULE: &str = include_str!("../../control-plane/etcd/go.mod");

/// The release of Cluster API whose CRDs are served.
pub const CLUSTER_API: &str = "1.13.5";

/// The release of Kubernetes, without `v`.
pub fn kubernetes() -> &'static str {
    required(KUBERNETES_MODULE, "k8s.io/kubernetes")
}

/// The release of etcd, without `v`.
pub fn etcd() -> &'static str {
    required(ETCD_MODULE, "go.etcd.io/etcd/server/v3")
}

fn required(go_mod: &'static str, module: &str) -> &'static str {
    go_mod
        .lines()
        .filter_map(|line| line.trim().strip_prefix("require ").unwrap_or(line.trim()).strip_prefix(module))
        .find_map(|rest| rest.trim().strip_prefix('v'))
        .unwrap_or_else(|| panic!("go.mod requires no {module}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_modules() {
        for version in [kubernetes(), etcd()] {
            assert_eq!(version.split('.').count(), 3, "{version}");
            assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
        }
    }
}
