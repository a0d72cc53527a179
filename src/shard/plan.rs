//! Who should hold which shard: a pure function that every replica computes alike.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::lease::Member;
use super::ring::Ring;

/// Gives every shard of `shards` many to one of `members`, and none to anybody if there are no members.
///
/// `holders` are those who hold shards now; whoever is not a member does not count. Guarantees:
/// - nobody gets more than ⌈S/N⌉, nobody less than ⌊S/N⌋;
/// - a holder keeps what it holds up to its share, and of more than its share what the ring gives it first;
/// - what is free or above a share goes to the first candidate along the ring whose share is not full;
/// - the plan of a plan is that plan, and a plan that is carried out in part leads to the same plan.
pub fn plan(members: &BTreeSet<Member>, holders: &BTreeMap<u16, Member>, shards: u16) -> BTreeMap<u16, Member> {
    Preferences::new(members, shards).plan(holders)
}

/// What the ring says for a set of members: the costly part of a plan, which holders do not change.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    members: BTreeSet<Member>,
    /// By shard, the members in its order.
    candidates: Vec<Vec<Member>>,
}

impl Preferences {
    /// For these members, and so many shards.
    pub fn new(members: &BTreeSet<Member>, shards: u16) -> Self {
        let ring = Ring::new(members);
        let candidates = (0..shards).map(|shard| ring.candidates(shard).into_iter().cloned().collect()).collect();
        Self { members: members.clone(), candidates }
    }

    /// The members.
    pub fn members(&self) -> &BTreeSet<Member> {
        &self.members
    }

    /// The plan of these members, see [`plan`].
    pub fn plan(&self, holders: &BTreeMap<u16, Member>) -> BTreeMap<u16, Member> {
        if self.members.is_empty() {
            return BTreeMap::new();
        }
        let mut shares = Shares::new(self.members.len(), self.candidates.len());
        let mut planned = self.keep(&mut shares, holders);
        for (shard, candidates) in (0..).zip(&self.candidates) {
            if planned.contains_key(&shard) {
                continue;
            }
            if let Some(member) = candidates.iter().find(|member| shares.take(member)) {
                planned.insert(shard, member.clone());
            }
        }
        planned
    }

    /// What holders keep.
    fn keep(&self, shares: &mut Shares, holders: &BTreeMap<u16, Member>) -> BTreeMap<u16, Member> {
        let mut held: BTreeMap<&Member, Vec<u16>> = BTreeMap::new();
        for (&shard, holder) in holders {
            if usize::from(shard) < self.candidates.len() && self.members.contains(holder) {
                held.entry(holder).or_default().push(shard);
            }
        }
        // Whoever has the larger share already keeps it. Who has how much more does not matter: the order must not
        // change while shards are handed over one by one.
        let mut order: Vec<(&Member, Vec<u16>)> = held.into_iter().collect();
        order.sort_by_key(|(member, held)| (Reverse(held.len().min(shares.larger())), *member));

        let mut kept = BTreeMap::new();
        for (member, mut held) in order {
            if held.len() > shares.smaller {
                held.sort_by_cached_key(|&shard| (self.rank(shard, member), shard));
            }
            for shard in held {
                if !shares.take(member) {
                    break;
                }
                kept.insert(shard, member.clone());
            }
        }
        kept
    }

    /// The place of a member in a shard's order.
    fn rank(&self, shard: u16, member: &Member) -> Option<usize> {
        self.candidates.get(usize::from(shard))?.iter().position(|candidate| candidate == member)
    }
}

/// How much everybody has, and may have.
struct Shares {
    /// ⌊S/N⌋: what everybody may have.
    smaller: usize,
    /// How many members may still have one more: S mod N in all.
    extras: usize,
    taken: BTreeMap<Member, usize>,
}

impl Shares {
    fn new(members: usize, shards: usize) -> Self {
        Self { smaller: shards / members, extras: shards % members, taken: BTreeMap::new() }
    }

    /// The larger share, of those who may have it.
    fn larger(&self) -> usize {
        self.smaller + 1
    }

    /// Gives one more to a member, if its share is not full.
    fn take(&mut self, member: &Member) -> bool {
        let taken = self.taken.get(member).copied().unwrap_or(0);
        if taken > self.smaller || (taken == self.smaller && self.extras == 0) {
            return false;
        }
        if taken == self.smaller {
            self.extras -= 1;
        }
        self.taken.insert(member.clone(), taken + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(number: u8) -> Member {
        format!("manager-{number:03}").parse().expect("a member's name")
    }

    fn members(count: u8) -> BTreeSet<Member> {
        (0..count).map(member).collect()
    }

    fn moved(before: &BTreeMap<u16, Member>, after: &BTreeMap<u16, Member>) -> Vec<u16> {
        before.iter().filter(|(shard, member)| after.get(shard) != Some(member)).map(|(shard, _)| *shard).collect()
    }

    /// Shards, members, and holders of whom some may not be members.
    fn situations() -> impl Strategy<Value = (u16, BTreeSet<Member>, BTreeMap<u16, Member>)> {
        (1..130_u16, prop::collection::btree_set(0..12_u8, 1..10)).prop_flat_map(|(shards, numbers)| {
            let holders = prop::collection::btree_map(0..shards + 5, 0..14_u8, 0..usize::from(shards) + 5);
            holders.prop_map(move |holders| {
                let members = numbers.iter().map(|number| member(*number)).collect();
                (shards, members, holders.into_iter().map(|(shard, number)| (shard, member(number))).collect())
            })
        })
    }

    #[test]
    fn a_known_plan_never_changes() {
        let planned = plan(&members(3), &BTreeMap::new(), 16);
        let line: String = planned.values().map(|member| member.as_str().chars().last().expect("a digit")).collect();
        assert_eq!(line, "0111201012220220");
    }

    #[test]
    fn without_members_nobody_gets_anything() {
        assert!(plan(&BTreeSet::new(), &BTreeMap::from([(0, member(1))]), 64).is_empty());
    }

    #[test]
    fn of_more_than_its_share_a_holder_keeps_what_the_ring_gives_it_first() {
        let two = members(2);
        let ring = Ring::new(&two);
        let before: BTreeMap<u16, Member> = (0..64).map(|shard| (shard, member(0))).collect();
        let after = plan(&two, &before, 64);
        let first = |shard: u16| *ring.candidates(shard)[0] == member(0);
        let kept_second = (0..64).any(|shard| after[&shard] == member(0) && !first(shard));
        let moved_first = (0..64).any(|shard| after[&shard] == member(1) && first(shard));
        assert!(!(kept_second && moved_first), "one of each could have been swapped");
    }

    proptest! {
        #[test]
        fn every_shard_has_exactly_one_member_and_shares_differ_by_one((shards, members, holders) in situations()) {
            let planned = plan(&members, &holders, shards);
            prop_assert!(planned.keys().copied().eq(0..shards));
            let count = |member| planned.values().filter(|other| *other == member).count();
            let counts: Vec<usize> = members.iter().map(count).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(shards));
            let smaller = usize::from(shards) / members.len();
            prop_assert!(counts.iter().all(|count| (smaller..=smaller + 1).contains(count)), "{:?}", counts);
            prop_assert_eq!(counts.iter().filter(|c| **c > smaller).count(), usize::from(shards) % members.len());
        }

        #[test]
        fn the_plan_of_a_plan_is_that_plan((shards, members, holders) in situations()) {
            let planned = plan(&members, &holders, shards);
            prop_assert_eq!(plan(&members, &planned, shards), planned);
        }

        /// Each holder carries out its own part in its own time.
        #[test]
        fn a_plan_that_is_carried_out_in_part_stays(
            (shards, members, holders) in situations(),
            done in any::<u128>(),
        ) {
            let planned = plan(&members, &holders, shards);
            let mut halfway = holders.clone();
            for (shard, member) in &planned {
                if holders.get(shard) != Some(member) && done & (1 << (shard % 128)) != 0 {
                    halfway.insert(*shard, member.clone());
                }
            }
            let again = plan(&members, &halfway, shards);
            for (shard, member) in &halfway {
                if planned.get(shard) == Some(member) {
                    prop_assert_eq!(again.get(shard), Some(member), "shard {} moves again", shard);
                }
            }
        }

        #[test]
        fn a_live_holder_loses_nothing_up_to_the_smaller_share((shards, members, holders) in situations()) {
            let planned = plan(&members, &holders, shards);
            let smaller = usize::from(shards) / members.len();
            for member in &members {
                let held: Vec<u16> =
                    holders.range(..shards).filter(|(_, holder)| *holder == member).map(|(shard, _)| *shard).collect();
                let kept = held.iter().filter(|shard| planned[*shard] == *member).count();
                prop_assert!(kept >= held.len().min(smaller));
            }
        }

        #[test]
        fn a_join_moves_only_the_share_of_the_new_member(count in 1..12_u8, shards in 1..130_u16, seed in 0..14_u8) {
            let settled = settled(count, shards, seed);
            let joined = plan(&members(count + 1), &settled, shards);
            let moved = moved(&settled, &joined);
            prop_assert!(moved.len() <= usize::from(shards).div_ceil(usize::from(count) + 1));
            prop_assert!(moved.iter().all(|shard| joined[shard] == member(count)), "only to the new member");
        }

        #[test]
        fn a_leave_moves_only_what_the_member_held(count in 2..12_u8, shards in 1..130_u16, seed in 0..14_u8) {
            let settled = settled(count, shards, seed);
            let mut rest = members(count);
            let leaver = member(seed % count);
            rest.remove(&leaver);
            let left = plan(&rest, &settled, shards);
            prop_assert!(moved(&settled, &left).iter().all(|shard| settled[shard] == leaver));
        }
    }

    /// A plan that has a history: members came one by one, from some number on.
    fn settled(count: u8, shards: u16, seed: u8) -> BTreeMap<u16, Member> {
        let first = 1 + seed % count;
        (first..=count).fold(BTreeMap::new(), |before, count| plan(&members(count), &before, shards))
    }
}
