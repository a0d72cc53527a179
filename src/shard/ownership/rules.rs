//! The rules one by one, on one machine that is driven by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, Config, Effect, Event, Exit, Fact, Listing, OpId, Outcome, Ownership};
use crate::shard::lease::{Holder, Identity, Lease, LeaseKey, Member};

const DURATION: Duration = Duration::from_secs(5);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn identity(name: &str, instance: &str) -> Identity {
    let member: Member = name.parse().expect("a member's name");
    Identity::new("ns", member, Some("uid"), instance).expect("an identity")
}

fn me() -> Identity {
    identity("me", "run")
}

fn lease(holder: Holder, version: u64, epoch: u32) -> Lease {
    Lease { uid: "u".to_owned(), version, holder, epoch, duration: DURATION, leaving: false }
}

fn member(name: &str) -> LeaseKey {
    LeaseKey::Member(name.parse().expect("a member's name"))
}

struct Solo {
    machine: Ownership,
    version: u64,
}

impl Solo {
    /// Knows these Leases, may register from now on, and sees this holder of the leader Lease.
    fn new(leases: BTreeMap<LeaseKey, Lease>, leader: Holder) -> (Self, Vec<Effect>) {
        let config = Config { me: me(), shards: 1, duration: DURATION };
        let mut solo = Self { machine: Ownership::new(config), version: 1000 };
        assert_eq!(solo.at(0, Event::Listed(Listing { version: 900, leases })), []);
        assert_eq!(solo.at(0, Event::Synced), [], "not without fresh watches");
        solo.at(0, Event::Leader(Some(lease(leader, 5, 1))));
        let effects = solo.at(0, Event::Fresh(true));
        (solo, effects)
    }

    /// A member that listed these Leases; all of it took no time.
    fn member(leases: &BTreeMap<LeaseKey, Lease>, leader: Holder) -> (Self, Vec<Effect>) {
        let (mut solo, effects) = Self::new(leases.clone(), leader);
        let (look, ..) = request(&effects);
        let effects = solo.at(0, Event::Reply(look, Outcome::NotFound));
        let (create, ..) = request(&effects);
        let effects = solo.done(0, create, Holder::Ours(me()), 1);
        let list = effects.iter().find_map(|effect| match effect {
            Effect::List { id } => Some(*id),
            _ => None,
        });
        let mine = (member("me"), lease(Holder::Ours(me()), solo.version, 1));
        let leases = leases.clone().into_iter().chain([mine]).collect();
        let listing = Listing { version: solo.version, leases };
        let effects = solo.at(0, Event::Reply(list.expect("a list"), Outcome::Listed(listing)));
        (solo, effects)
    }

    /// A member that has the only shard, and has begun to work on it if it may.
    fn owner(leader: Holder) -> (Self, Vec<Effect>) {
        let (mut solo, effects) = Self::member(&BTreeMap::new(), leader);
        let (create, key, call) = request(&effects);
        assert!(matches!((key, call), (LeaseKey::Shard(0), Call::Create(_))));
        let effects = solo.done(0, create, Holder::Ours(me()), 1);
        (solo, effects)
    }

    fn at(&mut self, millis: u64, event: Event) -> Vec<Effect> {
        self.machine.step(event, Duration::from_millis(millis))
    }

    /// A write was done.
    fn done(&mut self, millis: u64, id: OpId, holder: Holder, epoch: u32) -> Vec<Effect> {
        self.version += 1;
        let lease = lease(holder, self.version, epoch);
        self.at(millis, Event::Reply(id, Outcome::Done(lease)))
    }

    /// Renews as often as is due until then.
    fn renew_until(&mut self, end: u64) {
        while let Some(wake) = self.machine.wake_at().filter(|wake| *wake <= millis(end)) {
            let effects = self.machine.step(Event::Tick, wake);
            for effect in effects {
                if let Effect::Request { id, key, call: Call::Put { .. } } = effect
                    && key == member("me")
                {
                    self.version += 1;
                    let lease = lease(Holder::Ours(me()), self.version, 1);
                    assert_eq!(requests(&self.machine.step(Event::Reply(id, Outcome::Done(lease)), wake)).len(), 0);
                }
            }
        }
    }
}

fn requests(effects: &[Effect]) -> Vec<(OpId, LeaseKey, Call)> {
    let of = |effect: &Effect| match effect {
        Effect::Request { id, key, call } => Some((*id, key.clone(), call.clone())),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn request(effects: &[Effect]) -> (OpId, LeaseKey, Call) {
    let requests = requests(effects);
    assert_eq!(requests.len(), 1, "{effects:?}");
    requests[0].clone()
}

fn starts(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Start { shard: 0, .. }))
}

fn stops(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Stop { shard: 0 })
}

fn foreign() -> Holder {
    Holder::Foreign("manager_1b4e28ba".to_owned())
}

#[test]
fn validity_counts_from_before_the_send() {
    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let renewal = solo.machine.wake_at().expect("a renewal");
    assert_eq!(renewal, DURATION / 3);
    let (id, key, _) = request(&solo.machine.step(Event::Tick, renewal));
    assert_eq!(key, member("me"));
    let effects = solo.done(2_500, id, Holder::Ours(me()), 1);
    assert_eq!(effects, [Effect::Valid { until: renewal + millis(4_000) }]);
}

#[test]
fn work_stops_at_the_deadline() {
    let (mut solo, effects) = Solo::owner(Holder::Ours(me()));
    assert!(effects.contains(&Effect::Start { shard: 0, epoch: 1, until: millis(4_000) }));
    solo.at(1_667, Event::Tick);
    assert!(!stops(&solo.at(3_999, Event::Tick)));
    assert_eq!(solo.machine.wake_at(), Some(millis(4_000)));
    assert!(stops(&solo.at(4_000, Event::Tick)));
}

#[test]
fn a_renewal_that_took_longer_than_it_lasts_makes_nothing_valid() {
    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let (id, ..) = request(&solo.at(3_900, Event::Tick));
    let effects = solo.done(7_900, id, Holder::Ours(me()), 1);
    assert!(stops(&effects) && !effects.iter().any(|effect| matches!(effect, Effect::Valid { .. })), "{effects:?}");
}

#[test]
fn after_a_gap_a_shard_is_listed_and_taken_again_before_work_begins() {
    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let (id, ..) = request(&solo.at(1_700, Event::Tick));
    let effects = solo.at(4_500, Event::Reply(id, Outcome::NoAnswer));
    assert!(stops(&effects));
    let (look, ..) = request(&effects);
    let effects = solo.at(4_500, Event::Reply(look, Outcome::Done(lease(Holder::Ours(me()), 1001, 1))));
    let (renewal, ..) = request(&effects);
    let effects = solo.done(4_600, renewal, Holder::Ours(me()), 1);
    let list = effects.iter().find_map(|effect| if let Effect::List { id } = effect { Some(*id) } else { None });
    assert!(requests(&effects).is_empty());
    let shard = (LeaseKey::Shard(0), lease(Holder::Ours(me()), 1002, 1));
    let mine = (member("me"), lease(Holder::Ours(me()), 1003, 1));
    let listing = Listing { version: 1003, leases: BTreeMap::from([shard, mine]) };
    assert_eq!(requests(&solo.at(4_700, Event::Reply(list.expect("a list"), Outcome::Listed(listing)))), []);
    let effects = solo.at(4_700, Event::Stopped(0));
    let (take, _, call) = request(&effects);
    assert!(matches!(call, Call::Put { version: 1002, content, .. } if content.epoch == 2));
    assert!(starts(&solo.done(4_800, take, Holder::Ours(me()), 2)));
}

#[test]
fn a_former_run_is_replaced_with_its_uid_and_version() {
    let former = lease(Holder::Ours(identity("me", "former")), 50, 7);
    let (mut solo, effects) = Solo::new(BTreeMap::from([(member("me"), former.clone())]), Holder::Nobody);
    let (look, _, call) = request(&effects);
    assert_eq!(call, Call::Get);
    let (_, _, call) = request(&solo.at(1, Event::Reply(look, Outcome::Done(former))));
    assert!(matches!(call, Call::Put { uid, version: 50, content } if uid == "u" && content.epoch == 8));
}

#[test]
fn a_lost_reply_to_the_registration_does_not_end_it() {
    let (mut solo, effects) = Solo::new(BTreeMap::new(), Holder::Nobody);
    let (look, ..) = request(&effects);
    let (create, _, call) = request(&solo.at(1, Event::Reply(look, Outcome::NotFound)));
    assert!(matches!(call, Call::Create(_)));
    let (look, _, call) = request(&solo.at(1_000, Event::Reply(create, Outcome::NoAnswer)));
    assert_eq!(call, Call::Get);
    let (_, _, call) = request(&solo.at(1_001, Event::Reply(look, Outcome::Done(lease(Holder::Ours(me()), 60, 1)))));
    assert!(matches!(call, Call::Put { version: 60, .. }));
}

#[test]
fn failures_in_a_row_are_spaced() {
    let (mut solo, effects) = Solo::new(BTreeMap::new(), Holder::Nobody);
    let (look, ..) = request(&effects);
    assert_eq!(requests(&solo.at(1, Event::Reply(look, Outcome::NoAnswer))), []);
    assert_eq!(solo.machine.wake_at(), Some(millis(501)));
}

#[test]
fn a_replica_goes_when_another_holds_its_lease_or_it_is_gone() {
    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let (renewal, ..) = request(&solo.at(1_667, Event::Tick));
    let (look, ..) = request(&solo.at(1_700, Event::Reply(renewal, Outcome::Conflict)));
    let other = lease(Holder::Ours(identity("me", "other")), 2000, 2);
    let effects = solo.at(1_701, Event::Reply(look, Outcome::Done(other)));
    assert!(stops(&effects) && effects.contains(&Effect::Exit(Exit::Replaced)), "{effects:?}");
    assert_eq!((solo.at(9_000, Event::Tick), solo.machine.wake_at()), (vec![], None));

    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let (renewal, ..) = request(&solo.at(1_667, Event::Tick));
    let (look, ..) = request(&solo.at(1_700, Event::Reply(renewal, Outcome::Conflict)));
    let effects = solo.at(1_701, Event::Reply(look, Outcome::NotFound));
    assert!(effects.contains(&Effect::Exit(Exit::LeaseGone)), "a 409 may mean that it is gone: {effects:?}");
}

/// Holds the shard of this member silently, from time 0 on.
fn with_silent_other() -> (Solo, BTreeMap<LeaseKey, Lease>) {
    let other = Holder::Ours(identity("other", "run"));
    let leases =
        BTreeMap::from([(member("other"), lease(other.clone(), 100, 1)), (LeaseKey::Shard(0), lease(other, 101, 4))]);
    let (solo, effects) = Solo::member(&leases, Holder::Ours(me()));
    assert_eq!(requests(&effects), []);
    (solo, leases)
}

#[test]
fn a_takeover_looks_at_the_member_the_shard_the_member_and_writes_with_the_version_seen() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, key, call) = request(&solo.at(5_500, Event::Tick));
    assert_eq!((&key, call), (&member("other"), Call::Get));
    let effects = solo.at(5_510, Event::Reply(confirm, Outcome::Done(leases[&member("other")].clone())));
    assert!(effects.contains(&Effect::Log(Fact::MemberDead(identity("other", "run")))));
    let (look, key, call) = request(&effects);
    assert_eq!((&key, call), (&LeaseKey::Shard(0), Call::Get));
    let effects = solo.at(5_520, Event::Reply(look, Outcome::Done(leases[&LeaseKey::Shard(0)].clone())));
    let (check, key, call) = request(&effects);
    assert_eq!((&key, call), (&member("other"), Call::Get));
    let effects = solo.at(5_530, Event::Reply(check, Outcome::Done(leases[&member("other")].clone())));
    let (take, _, call) = request(&effects);
    assert!(matches!(call, Call::Put { version: 101, content, .. } if content.epoch == 5));
    assert!(starts(&solo.done(5_540, take, Holder::Ours(me()), 5)));
}

#[test]
fn a_sign_of_life_before_the_write_ends_a_takeover() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, ..) = request(&solo.at(5_500, Event::Tick));
    let effects = solo.at(5_510, Event::Reply(confirm, Outcome::Done(leases[&member("other")].clone())));
    let (look, ..) = request(&effects);
    let effects = solo.at(5_520, Event::Reply(look, Outcome::Done(leases[&LeaseKey::Shard(0)].clone())));
    let (check, ..) = request(&effects);
    let renewed = lease(Holder::Ours(identity("other", "run")), 3000, 1);
    assert_eq!(requests(&solo.at(5_530, Event::Reply(check, Outcome::Done(renewed)))), []);
}

#[test]
fn nobody_is_called_dead_while_own_renewals_fail() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, ..) = request(&solo.at(5_500, Event::Tick));
    let (renewal, key, _) = request(&solo.at(6_800, Event::Tick));
    assert_eq!(key, member("me"));
    solo.at(7_800, Event::Reply(renewal, Outcome::NoAnswer));
    let effects = solo.at(7_900, Event::Reply(confirm, Outcome::Done(leases[&member("other")].clone())));
    assert_eq!(effects, []);
}

#[test]
fn whoever_slept_through_its_deadline_writes_nothing_first() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, ..) = request(&solo.at(5_500, Event::Tick));
    let effects = solo.at(5_510, Event::Reply(confirm, Outcome::Done(leases[&member("other")].clone())));
    let (look, ..) = request(&effects);
    let effects = solo.at(5_520, Event::Reply(look, Outcome::Done(leases[&LeaseKey::Shard(0)].clone())));
    let (check, ..) = request(&effects);
    let effects = solo.at(60_000, Event::Reply(check, Outcome::Done(leases[&member("other")].clone())));
    assert_eq!(request(&effects).1, member("me"), "but its renewal");
}

#[test]
fn a_reply_that_a_watch_has_overtaken_is_not_history() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, ..) = request(&solo.at(5_500, Event::Tick));
    let renewed = lease(Holder::Ours(identity("other", "run")), 3000, 1);
    solo.at(5_505, Event::Observed(member("other"), renewed));
    let effects = solo.at(5_510, Event::Reply(confirm, Outcome::Done(leases[&member("other")].clone())));
    assert_eq!(effects, []);
}

#[test]
fn a_reply_older_than_what_was_seen_before_the_request_is_history() {
    let (mut solo, leases) = with_silent_other();
    solo.renew_until(5_499);
    let (confirm, ..) = request(&solo.at(5_500, Event::Tick));
    let older = Lease { version: 99, ..leases[&member("other")].clone() };
    let effects = solo.at(5_510, Event::Reply(confirm, Outcome::Done(older)));
    assert!(effects.contains(&Effect::Exit(Exit::HistoryWentBack)));
}

#[test]
fn beside_an_original_that_leads_shards_are_held_but_not_worked_on() {
    let (mut solo, effects) = Solo::owner(foreign());
    assert!(!starts(&effects));
    let effects = solo.at(100, Event::Leader(Some(lease(Holder::Ours(me()), 6, 2))));
    assert!(starts(&effects));
    assert!(effects.contains(&Effect::HoldAllocations { until: millis(70_100) }));
    let effects = solo.at(200, Event::Leader(Some(lease(foreign(), 7, 3))));
    assert!(stops(&effects));
    assert_eq!(requests(&solo.at(210, Event::Stopped(0))), [], "the Lease stays ours");
}

#[test]
fn a_free_or_deleted_leader_lease_changes_nothing() {
    let (mut solo, effects) = Solo::owner(Holder::Ours(me()));
    assert!(starts(&effects) && !effects.iter().any(|effect| matches!(effect, Effect::HoldAllocations { .. })));
    for leader in [Some(lease(Holder::Nobody, 6, 1)), None] {
        assert_eq!(solo.at(10, Event::Leader(leader)), []);
    }
    let (mut solo, effects) = Solo::owner(Holder::Nobody);
    assert!(!starts(&effects), "at the start nobody knows who led");
    assert!(starts(&solo.at(10, Event::Leader(Some(lease(Holder::Ours(identity("other", "run")), 6, 1))))));
}

#[test]
fn the_lock_of_an_original_is_tried_only_after_it_stood_still() {
    let (mut solo, _) = Solo::owner(foreign());
    solo.renew_until(3_000);
    solo.at(3_000, Event::Leader(Some(lease(foreign(), 6, 1))));
    solo.renew_until(8_400);
    assert_eq!(solo.at(8_499, Event::Tick), []);
    assert!(solo.machine.wake_at() <= Some(millis(8_500)));
    assert_eq!(solo.at(8_500, Event::Tick), [Effect::Contend(true)]);
    assert!(solo.at(8_501, Event::Leader(Some(lease(foreign(), 7, 1)))).contains(&Effect::Contend(false)));
}

#[test]
fn the_leader_lease_is_given_up_last() {
    let (mut solo, _) = Solo::owner(Holder::Ours(me()));
    let effects = solo.at(10, Event::Stop);
    assert!(stops(&effects) && effects.contains(&Effect::Contend(false)));
    let (mark, key, call) = request(&effects);
    assert!(key == member("me") && matches!(call, Call::Put { content, .. } if content.leaving));
    solo.done(20, mark, Holder::Ours(me()), 1);
    let (release, key, call) = request(&solo.at(30, Event::Stopped(0)));
    assert!(key == LeaseKey::Shard(0) && matches!(call, Call::Put { content, .. } if content.holder.is_none()));
    let (delete, key, call) = request(&solo.done(40, release, Holder::Nobody, 1));
    assert!(key == member("me") && matches!(call, Call::Delete { .. }));
    let effects = solo.at(50, Event::Reply(delete, Outcome::Deleted));
    assert_eq!(effects, [Effect::ReleaseLeader, Effect::Exit(Exit::Left)]);
}

#[test]
fn a_refused_write_is_tried_again_after_a_pause() {
    let (mut solo, effects) = Solo::member(&BTreeMap::new(), Holder::Ours(me()));
    let (create, ..) = request(&effects);
    let effects = solo.at(10, Event::Reply(create, Outcome::Refused("403".to_owned())));
    assert!(requests(&effects).is_empty() && effects.iter().any(|e| matches!(e, Effect::Log(Fact::Refused { .. }))));
    for time in [1_700, 3_400] {
        let (renewal, key, _) = request(&solo.at(time, Event::Tick));
        assert_eq!(key, member("me"));
        solo.done(time + 10, renewal, Holder::Ours(me()), 1);
    }
    assert_eq!(solo.machine.wake_at(), Some(millis(5_010)));
    assert_eq!(request(&solo.at(5_010, Event::Tick)).1, LeaseKey::Shard(0));
}
