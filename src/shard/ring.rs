//! The ring that members and shards are hashed onto, and the name of an installation's ring.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use xxhash_rust::xxh3::xxh3_64;

use super::lease::Member;

/// Virtual nodes per member: enough that the first choices of 64 shards spread well, and few enough that a ring of a
/// hundred members is built in a few milliseconds.
const VIRTUAL_NODES: usize = 256;

/// Collects the bytes that a key feeds, so that they can be hashed at once.
///
/// Integers are little endian and `usize` is eight bytes wide whatever the machine has, so the bytes are the same on
/// every platform. What the standard library feeds for its own types is not promised: only types of this file whose
/// `Hash` is written out, and integers, may go in.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_u16(&mut self, number: u16) {
        self.write(&number.to_le_bytes());
    }

    fn write_u32(&mut self, number: u32) {
        self.write(&number.to_le_bytes());
    }

    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    fn write_u128(&mut self, number: u128) {
        self.write(&number.to_le_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        xxh3_64(&self.0)
    }
}

/// `xxh3` over explicit bytes, the same in every build (the crate's own hash takes integers as the machine has them).
#[derive(Clone, Copy, Debug)]
struct PortableHash;

impl RingHash for PortableHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut bytes = Bytes::default();
        item.hash(&mut bytes);
        bytes.finish()
    }

    fn hash_vnode<K: Hash>(&self, key: &K, number: usize) -> u64 {
        let mut bytes = Bytes::default();
        key.hash(&mut bytes);
        bytes.write_usize(number);
        bytes.finish()
    }
}

/// A member as the ring hashes it: `m`, its name, a zero byte (no name has one). Then comes the virtual node's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot(Member);

impl Hash for Spot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"m");
        state.write(self.0.as_str().as_bytes());
        state.write(&[0]);
    }
}

/// A shard as the ring hashes it: `s`, its number in two bytes.
struct Item(u16);

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"s");
        state.write_u16(self.0);
    }
}

/// The members in the order in which each shard prefers them.
pub struct Ring {
    ring: StaticHashRing<'static, Spot, (), PortableHash>,
}

impl Ring {
    /// A ring of these members; it depends on the set of them alone.
    pub fn new<'a>(members: impl IntoIterator<Item = &'a Member>) -> Self {
        let nodes = members.into_iter().map(|member| Node::new(Spot(member.clone())).quantity(VIRTUAL_NODES));
        Self { ring: StaticHashRing::new(PortableHash, nodes) }
    }

    /// Every member once, the one that the shard prefers first.
    pub fn candidates(&self, shard: u16) -> Vec<&Member> {
        self.ring.calc_candidates(&Item(shard)).map(|node| &node.key.0).collect()
    }
}

/// The name of the ring of installations that share their work: eight hexadecimal digits that say how many shards there
/// are and which claims are served. Installations that differ in one of them do not share shards.
pub fn ring_name(shards: u16, namespace: &str, watch_filter: &str) -> String {
    let mut bytes = Bytes::default();
    bytes.write_u16(shards);
    short_hash(bytes, namespace, watch_filter)
}

/// Eight hexadecimal digits for the claims that are served alone: rings of one such name with different numbers of
/// shards replace each other.
pub fn filter_name(namespace: &str, watch_filter: &str) -> String {
    short_hash(Bytes::default(), namespace, watch_filter)
}

/// Lengths go before texts, so that no two pairs have the same bytes.
fn short_hash(mut bytes: Bytes, namespace: &str, watch_filter: &str) -> String {
    for text in [namespace, watch_filter] {
        bytes.write_usize(text.len());
        bytes.write(text.as_bytes());
    }
    format!("{:08x}", bytes.finish() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> Vec<Member> {
        names.iter().map(|name| name.parse().expect("a member's name")).collect()
    }

    #[test]
    fn the_hashes_of_known_keys_never_change() {
        let member: Member = "manager-7d9f-abcde".parse().expect("a member's name");
        assert_eq!(PortableHash.hash_item(&Item(7)), 12_819_422_376_208_234_464);
        assert_eq!(PortableHash.hash_item(&Item(0x0102)), 176_178_126_643_754_333);
        assert_eq!(PortableHash.hash_vnode(&Spot(member.clone()), 0), 17_985_361_510_667_837_681);
        assert_eq!(PortableHash.hash_vnode(&Spot(member), 255), 2_179_233_266_552_645_146);
    }

    #[test]
    fn the_hashed_bytes_are_the_same_on_every_platform() {
        let mut bytes = Bytes::default();
        Spot("a".parse().expect("a member's name")).hash(&mut bytes);
        Item(0x0102).hash(&mut bytes);
        bytes.write_usize(3);
        assert_eq!(bytes.0, [b'm', b'a', 0, b's', 2, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_candidates_of_known_shards_never_change() {
        let members = members(&["a", "b", "c", "d"]);
        let ring = Ring::new(&members);
        let first: String = (0..64).map(|shard| ring.candidates(shard)[0].as_str()).collect();
        assert_eq!(first, "abdbbdccababadadbacccbcadabdacaaacbacbbaddbacdddadbacadadbbabdbb");
    }

    #[test]
    fn every_member_is_a_candidate_once_in_whatever_order_members_come() {
        let mut members = members(&["a", "b", "c", "d", "e"]);
        let ring = Ring::new(&members);
        members.reverse();
        let reversed = Ring::new(&members);
        for shard in 0..64 {
            let mut candidates = ring.candidates(shard);
            assert_eq!(candidates, reversed.candidates(shard));
            candidates.sort();
            candidates.dedup();
            assert_eq!(candidates.len(), 5);
        }
    }

    #[test]
    fn a_ring_without_members_has_no_candidates() {
        assert!(Ring::new(&[]).candidates(3).is_empty());
    }

    #[test]
    fn the_names_of_known_rings_never_change() {
        let golden = [
            (64, "", "", "431a76d8"),
            (64, "default", "", "6c1e78b3"),
            (64, "", "default", "f187609c"),
            (64, "ab", "c", "28b14443"),
            (64, "a", "bc", "2ca00ff9"),
            (128, "", "", "e2257b4d"),
        ];
        for (shards, namespace, filter, name) in golden {
            assert_eq!(ring_name(shards, namespace, filter), name, "{shards} {namespace:?} {filter:?}");
        }
        assert_eq!(filter_name("", ""), "d0a66a65");
        assert_eq!(filter_name("ab", "c"), "642d4deb");
    }
}
