//! From a pool's name to its shard.

use xxhash_rust::xxh3::xxh3_64;

/// How many shards there are unless told otherwise.
pub const DEFAULT_SHARDS: u16 = 64;

/// The shard of a pool, of `shards` many. It depends on the name alone, so that it is known before the pool exists, and
/// on explicit bytes, so that every build on every platform agrees: `<kind>/<namespace>/<name>`, the namespace empty
/// for Global kinds. No part of a Kubernetes name contains a slash.
pub fn shard_of(kind: &str, namespace: &str, name: &str, shards: u16) -> u16 {
    let hash = xxh3_64(format!("{kind}/{namespace}/{name}").as_bytes());
    u16::try_from(hash % u64::from(shards.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_of_known_names_never_change() {
        let golden = [
            ("InClusterIPPool", "default", "rack-a", 18),
            ("InClusterIPPool", "default", "rack-b", 45),
            ("GlobalInClusterIPPool", "", "rack-a", 55),
            ("InClusterPrefixPool", "a", "b", 1),
        ];
        for (kind, namespace, name, shard) in golden {
            assert_eq!(shard_of(kind, namespace, name, 64), shard, "{kind}/{namespace}/{name}");
        }
    }

    #[test]
    fn one_shard_takes_everything() {
        assert_eq!(shard_of("InClusterIPPool", "default", "rack-a", 1), 0);
        assert_eq!(shard_of("InClusterIPPool", "default", "rack-a", 0), 0);
    }
}
