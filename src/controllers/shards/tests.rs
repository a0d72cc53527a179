//! What the report says of Leases in all states.

use std::time::Duration;

use super::*;
use crate::api::lease::{Frame, object};
use crate::shard::lease::Content;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

fn identity(name: &str, instance: &str) -> Identity {
    Identity::new("ns", name.parse().expect("a member"), None, instance).expect("an identity")
}

fn lease(key: &LeaseKey, holder: Option<Identity>, renewed: Timestamp, leaving: bool) -> Lease {
    let name = LeaseNames::new("r", 4).render(key);
    let frame = Frame {
        namespace: "ns",
        name: &name,
        ring: "r",
        serves: "s",
        shards: 4,
        replaces: None,
        owner: None,
        acquired: time(-100),
        renewed,
    };
    object(&frame, &Content { holder, epoch: 3, duration: Duration::from_secs(5), leaving })
}

fn member_lease(name: &str, renewed: Timestamp, leaving: bool) -> Lease {
    let me = identity(name, "i1");
    lease(&LeaseKey::Member(me.member().clone()), Some(me), renewed, leaving)
}

fn world() -> Report {
    let shard = |number, holder| lease(&LeaseKey::Shard(number), holder, time(-50), false);
    let leases = [
        member_lease("a", time(-2), false),
        member_lease("b", time(-1), true),
        member_lease("c", time(-30), false),
        shard(0, Some(identity("a", "i1"))),
        shard(1, Some(identity("b", "i0"))),
        shard(2, Some(identity("c", "i1"))),
    ];
    let pool = |name| PoolKey::referenced(PoolKind::InClusterIPPool, "ns", name);
    of(&leases, &["p", "q", "x"].map(pool), time(0))
}

#[test]
fn a_shard_has_a_live_owner_if_the_very_run_that_took_it_renews_its_lease() {
    let ring = world().rings.remove(0);
    let states: Vec<State> = ring.members.iter().map(|member| member.state).collect();
    assert_eq!(states, [State::Live, State::Leaving, State::Silent]);
    let owned: Vec<bool> = ring.shards.iter().map(|shard| shard.has_live_owner).collect();
    assert_eq!(owned, [true, false, false, false], "an earlier run of b took shard 1, and nobody shard 3");
    let held: Vec<usize> = ring.members.iter().map(|member| member.shards).collect();
    assert_eq!(held, [1, 0, 1]);
}

#[test]
fn the_table_names_members_orphans_and_pools() {
    let text = world().table();
    assert!(text.starts_with("ring r: 1 of 4 shards have a live owner\n"), "{text}");
    assert!(text.contains("c        silent    1        "), "{text}");
    assert!(text.contains("shards without a live owner: 1 (held by b), 2 (held by c), 3\n"), "{text}");
    for pool in ["p", "q", "x"] {
        let number = shard_of("InClusterIPPool", "ns", pool, 4);
        let owner = if number == 0 { "a" } else { "none" };
        let row = text.lines().find(|line| line.starts_with(&format!("InClusterIPPool ns/{pool} "))).expect("a row");
        assert_eq!(row.split_whitespace().skip(2).take(2).collect::<Vec<_>>(), [&number.to_string(), owner]);
    }
}

#[test]
fn a_pool_that_does_not_exist_has_a_shard_too() {
    let pool = PoolKey::referenced(PoolKind::GlobalInClusterPrefixPool, "", "new");
    let about = world().about(&pool);
    let shards = &about.rings[0].shards;
    assert_eq!(shards.len(), 1);
    assert_eq!(shards[0].number, shard_of("GlobalInClusterPrefixPool", "", "new", 4));
    assert_eq!(shards[0].pools, ["GlobalInClusterPrefixPool new"]);
}

#[test]
fn leases_of_others_are_not_reported() {
    let other = Lease::default();
    assert_eq!(of(&[other], &[], time(0)).rings, []);
    assert!(of(&[], &[], time(0)).table().contains("--leader-elect"));
}
