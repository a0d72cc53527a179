//! The machine in worlds of replicas, undisturbed and disturbed.

use proptest::prelude::*;

use super::world::{CALM, Faults, SECOND, World};
use super::{Event, Exit, Fact};
use crate::shard::lease::LeaseKey;

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().expect("somebody") - counts.iter().min().expect("somebody")
}

fn moved(world: &World) -> u32 {
    world.moves.values().sum()
}

#[test]
fn the_first_replica_takes_everything_at_once() {
    let mut world = World::new(1, 64);
    world.start("manager-0", SECOND);
    world.run(SECOND);
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
    assert_eq!(moved(&world), 64);
}

#[test]
fn replicas_that_come_one_by_one_share_evenly() {
    let world = World::settled(2, 64, 3);
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
    assert!(spread(&world.working()) <= 1, "{:?}", world.working());
    assert_eq!(world.conflicts(), [""; 0]);
}

#[test]
fn undisturbed_replicas_write_nothing_but_renewals() {
    let mut world = World::settled(3, 64, 3);
    world.run(100 * SECOND);
    // 100 s, three replicas, each every 5/3 s.
    assert!((170..=190).contains(&world.writes), "{}", world.writes);
    assert_eq!(moved(&world), 0);
}

#[test]
fn a_join_moves_its_share_and_no_more_in_steps_of_four() {
    let mut world = World::settled(4, 64, 3);
    world.faults.drain = SECOND;
    world.start("manager-3", SECOND);
    world.run(30 * SECOND);
    assert_eq!(world.most_at_once, 4);
    assert_eq!((moved(&world), world.working()), (16, vec![16; 4]));
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
}

#[test]
fn nothing_is_handed_to_a_member_in_its_first_ten_seconds() {
    let mut world = World::settled(5, 64, 2);
    world.start("manager-2", SECOND);
    world.run(9 * SECOND);
    assert_eq!(moved(&world), 0);
    world.run(6 * SECOND);
    assert!(moved(&world) > 0);
}

#[test]
fn a_stop_hands_everything_over_within_a_second() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 64, 3);
        let held = world.replicas[1].claims.len();
        world.tell(1, Event::Stop);
        world.run(2 * SECOND);
        assert_eq!(world.replicas[1].exit, Some(Exit::Left));
        assert_eq!(world.badly_owned(), Vec::<u16>::new());
        assert_eq!(usize::try_from(moved(&world)).expect("few"), held, "nobody else's shards move");
        assert!(world.longest_gap < SECOND / 2, "{}", world.longest_gap);
        assert!(!world.store.contains_key(&LeaseKey::Member(world.replicas[1].me.member().clone())));
        assert_eq!(world.conflicts(), [""; 0]);
    }
}

#[test]
fn a_stop_of_the_last_one_frees_everything() {
    let mut world = World::settled(6, 16, 1);
    world.tell(0, Event::Stop);
    world.run(2 * SECOND);
    assert_eq!(world.replicas[0].exit, Some(Exit::Left));
    assert!(world.store.values().all(|lease| lease.holder == crate::shard::lease::Holder::Nobody));
    assert_eq!(world.store.len(), 16);
}

#[test]
fn a_crash_is_mended_in_little_more_than_the_time_of_a_lease() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 64, 3);
        let held = world.replicas[0].claims.len();
        world.kill(0);
        world.run(7 * SECOND);
        assert_eq!(world.badly_owned(), Vec::<u16>::new());
        assert_eq!(usize::try_from(moved(&world)).expect("few"), held);
        assert!(world.longest_gap < 7 * SECOND, "{}", world.longest_gap);
        assert!(spread(&world.working()) <= 1);
    }
}

#[test]
fn a_lost_pod_is_replaced_at_once() {
    let mut world = World::settled(7, 64, 3);
    let gone = world.replicas[0].me.clone();
    world.kill(0);
    let evidence = Event::PodGone(gone.member().clone(), gone.pod_uid().expect("a uid").to_owned());
    world.tell(1, evidence.clone());
    world.tell(2, evidence);
    world.run(SECOND / 2);
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
}

#[test]
fn another_pod_of_that_name_is_not_lost() {
    let mut world = World::settled(8, 64, 2);
    world.tell(1, Event::PodGone(world.replicas[0].me.member().clone(), "uid-of-another".to_owned()));
    world.run(5 * SECOND);
    assert_eq!(moved(&world), 0);
}

#[test]
fn a_replica_that_is_started_again_goes_on_at_once_with_what_it_had() {
    let mut world = World::settled(9, 64, 3);
    let held: Vec<u16> = world.replicas[0].claims.keys().copied().collect();
    world.kill(0);
    world.run(SECOND);
    let again = world.start("manager-0", SECOND);
    world.run(SECOND);
    assert_eq!(world.replicas[again].claims.keys().copied().collect::<Vec<_>>(), held);
}

#[test]
fn the_older_of_two_processes_of_one_name_goes() {
    let mut world = World::settled(10, 16, 2);
    world.start("manager-0", SECOND);
    world.run(5 * SECOND);
    assert_eq!(world.replicas[0].exit, Some(Exit::Replaced));
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
}

#[test]
fn a_replica_whose_member_lease_is_deleted_goes() {
    let mut world = World::settled(11, 16, 2);
    let key = LeaseKey::Member(world.replicas[0].me.member().clone());
    world.delete(&key);
    world.run(SECOND);
    assert_eq!(world.replicas[0].exit, Some(Exit::LeaseGone));
    assert!(!world.store.contains_key(&key), "it is not created again");
    world.run(3 * SECOND);
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
}

#[test]
fn a_replica_goes_when_history_went_back() {
    let mut world = World::settled(12, 16, 2);
    for lease in world.store.values_mut() {
        lease.version -= 90;
    }
    world.run(3 * SECOND);
    assert_eq!(world.replicas[0].exit, Some(Exit::HistoryWentBack));
    assert_eq!(world.replicas[1].exit, Some(Exit::HistoryWentBack));
}

#[test]
fn a_deleted_shard_lease_is_created_again_with_a_later_epoch() {
    let mut world = World::settled(13, 16, 2);
    let key = LeaseKey::Shard(3);
    let epoch = world.store[&key].epoch;
    world.delete(&key);
    world.run(2 * SECOND);
    assert_eq!(world.store[&key].epoch, epoch + 1);
    assert_eq!(world.badly_owned(), Vec::<u16>::new());
}

#[test]
fn an_outage_of_the_server_moves_nothing() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 64, 3);
        let outage = 3 * SECOND + world.dice.below(60 * SECOND);
        world.faults.outage_until = world.now + outage;
        world.run(outage + 3 * SECOND);
        assert_eq!(world.facts(|fact| matches!(fact, Fact::MemberDead(_))), 0);
        assert_eq!(world.badly_owned(), Vec::<u16>::new());
        world.run(20 * SECOND);
        assert_eq!(world.facts(|fact| matches!(fact, Fact::MemberDead(_) | Fact::Lost(_))), 0);
        assert_eq!(world.conflicts(), [""; 0]);
    }
}

#[test]
fn a_slow_server_moves_nothing() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 64, 3);
        world.faults.latency = 480_000;
        world.run(120 * SECOND);
        assert_eq!(moved(&world), 0);
        assert_eq!(world.badly_owned(), Vec::<u16>::new());
    }
}

#[test]
fn a_replica_that_sees_nothing_lets_its_shards_go() {
    let mut world = World::settled(14, 16, 2);
    world.tell(0, Event::Fresh(false));
    world.run(8 * SECOND);
    assert_eq!(world.replicas[1].claims.len(), 16);
    assert_eq!(world.replicas[0].claims.len(), 0);
    assert_eq!(world.conflicts(), [""; 0]);
    world.tell(0, Event::Fresh(true));
    world.run(20 * SECOND);
    assert_eq!(world.working(), [8, 8]);
}

#[test]
fn a_replica_that_was_stopped_and_continued_works_on_nothing_of_others() {
    for seed in 0..40 {
        let mut world = World::settled(seed, 32, 3);
        let pause = world.dice.below(12 * SECOND);
        world.pause(0, pause);
        world.run(pause + 30 * SECOND);
        assert_eq!(world.badly_owned(), Vec::<u16>::new());
        assert!(spread(&world.working()) <= 1);
        assert_eq!(world.conflicts(), [""; 0]);
    }
}

#[test]
fn a_ring_that_has_to_wait_owns_nothing() {
    let mut world = World::settled(15, 16, 2);
    world.tell(0, Event::OtherRing(true));
    world.tell(1, Event::OtherRing(true));
    world.run(2 * SECOND);
    assert_eq!(world.working(), [0, 0]);
    world.tell(0, Event::OtherRing(false));
    world.tell(1, Event::OtherRing(false));
    world.run(20 * SECOND);
    assert_eq!(world.working(), [8, 8]);
}

/// Replicas that come, go, hang, crash and are cut off, in some order.
fn disturb(world: &mut World, rounds: u64, clocks: (u64, u64), deletions: bool) {
    let rate = |world: &mut World| clocks.0 + world.dice.below(clocks.1 - clocks.0);
    for number in 0..3 {
        let rate = rate(world);
        world.start(&format!("manager-{number}"), rate);
    }
    let mut names = 3;
    for _ in 0..rounds {
        let living = world.living();
        let one = living.get(usize::try_from(world.dice.below(living.len() as u64)).expect("small")).copied();
        match (world.dice.below(10), one) {
            (0..=2, Some(one)) => {
                let time = world.dice.below(15 * SECOND);
                world.pause(one, time);
            }
            (3, Some(one)) => world.kill(one),
            (4, Some(one)) => world.tell(one, Event::Stop),
            (5, _) => world.faults.outage_until = world.now + world.dice.below(12 * SECOND),
            (6, _) => {
                let (lost, late) = (world.dice.below(30), world.dice.below(20));
                let (latency, drain) = (1 + world.dice.below(SECOND), 1 + world.dice.below(10 * SECOND));
                world.faults = Faults { latency, lost, late, drain, ..world.faults };
            }
            (7, _) if living.len() < 6 => {
                let rate = rate(world);
                world.start(&format!("manager-{names}"), rate);
                names += 1;
            }
            (8, _) if deletions => {
                let shard = world.dice.below(world.shards.into());
                world.delete(&LeaseKey::Shard(u16::try_from(shard).expect("small")));
            }
            (9, Some(one)) => {
                // A container that is started again has its Pod's name and uid.
                let name = world.replicas[one].me.member().to_string();
                world.kill(one);
                let rate = rate(world);
                world.start(&name, rate);
            }
            _ => {}
        }
        let time = world.dice.below(6 * SECOND);
        world.run(time);
    }
    world.faults = CALM;
    // Those who live may be leaving.
    world.start("manager-at-last", SECOND);
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Clocks differ in speed by less than a third, and nobody deletes Leases: then nothing overlaps, not even in
    /// different epochs.
    #[test]
    fn nobody_works_on_what_another_works_on_whatever_happens(seed in any::<u64>(), rounds in 1..30_u64) {
        let mut world = World::new(seed, 8);
        disturb(&mut world, rounds, (880_000, 1_120_000), false);
        world.run(15 * SECOND);
        prop_assert_eq!(world.conflicts(), Vec::<&str>::new());
    }

    #[test]
    fn nobody_works_in_anothers_epoch_whatever_clocks_do(seed in any::<u64>(), rounds in 1..30_u64) {
        let mut world = World::new(seed, 8);
        disturb(&mut world, rounds, (300_000, 3_000_000), false);
        world.run(15 * SECOND);
        prop_assert_eq!(&world.broken, &Vec::<String>::new());
    }

    #[test]
    fn every_shard_is_worked_on_evenly_and_in_peace_after_the_last_fault(seed in any::<u64>(), rounds in 1..30_u64) {
        let mut world = World::new(seed, 8);
        disturb(&mut world, rounds, (950_000, 1_050_000), true);
        // What was paused or cut off has to come back, what was late to arrive; then a Lease's time, and handovers.
        world.run(40 * SECOND);
        prop_assert_eq!(world.badly_owned(), Vec::<u16>::new());
        // Whoever left a shard to others is spared for a minute.
        world.run(80 * SECOND);
        prop_assert!(spread(&world.working()) <= 1, "{:?}", world.working());
        world.moves.clear();
        world.run(30 * SECOND);
        prop_assert_eq!(moved(&world), 0);
        prop_assert_eq!(world.badly_owned(), Vec::<u16>::new());
    }

    #[test]
    fn members_that_come_and_go_gracefully_move_only_their_share(seed in any::<u64>(), count in 2..6_usize) {
        let mut world = World::settled(seed, 64, count);
        world.start("manager-new", SECOND);
        world.run(40 * SECOND);
        prop_assert!(moved(&world) <= 64_u32.div_ceil(u32::try_from(count).expect("few") + 1));
        prop_assert!(spread(&world.working()) <= 1);
        let held = world.replicas[count].claims.len();
        world.moves.clear();
        world.tell(count, Event::Stop);
        world.run(30 * SECOND);
        prop_assert_eq!(moved(&world) as usize, held);
        prop_assert!(spread(&world.working()) <= 1);
    }
}
