//! Models, checked by stateright: the protocols hold, and every rule of theirs that is broken on purpose is noticed.
//!
//! | module | what runs | searched |
//! |---|---|---|
//! | [`pool`] | `pool::machine::Machine` as in production, several at once on one pool, nobody owns it | random walks, and the first states breadth first |
//! | [`ownership`] | `shard::ownership::Ownership` as in production, on clocks of different speed | the same |
//! | [`record`] | the rules F1–F7 and F9 by themselves, without the machine around them | every state |
//! | [`fences`] | what is simpler than the record and does not suffice | every state |
//!
//! **In the pool's world:** an API server with versions, finalizers and preconditions; commits and creates that are
//! carried out late, after their sender gave up, or never, and answers that are lost; watches of the pool, of claims
//! and of addresses that lag each by itself; processes that die and start anew; claims that are deleted and created
//! again under their name; releases; IPAddresses that an operator takes away; a record that is pruned or put back to
//! an older copy while somebody remembers it; a pool that is deleted and created again; the lock delay, on one clock
//! for all. Reads and writes of claims are answered at once, LISTs, looks at addresses and their removal in some runs.
//! A rule of the machine is broken by `pool::rule::set_broken`, which only builds with debug assertions have; what the
//! driver or the server has to do is broken in the model's own server ([`pool::Flaw`]).
//!
//! **In the ring's world:** Leases with versions, late and lost writes, watches that lag, replicas that stand still,
//! die, start again or are asked to leave, and one clock that goes up to 30 % faster or slower than the other.
//!
//! **Not modelled:** specs that change, prefixes, grace periods, pauses, more than one pool, the original beside us
//! (O7), other writers of IPAddresses; replicas that keep their memory of a record while they own nothing (F9: each
//! machine of the model lives as long as its memory). The simulations beside the machines have some of these.
//!
//! **Bounds.** A world has two replicas, two claim names and one or two addresses, and a budget of what may still
//! happen; a walk ends after some eighty steps. Two states are the same if the hash of all that is in them is, with
//! times and counters as they are, so a breadth-first search of the machines does not get far: it is the walks that
//! find things, in most cases in less than a second.
//!
//! `cargo test --test model` takes a minute or two. `make model` builds with optimisation, and walks and searches far
//! longer: `MODEL_LARGE=1`, with `MODEL_SECONDS` for each walk and `MODEL_SEED` for other ones.
#![expect(clippy::print_stdout, reason = "how much was searched is worth knowing")]

mod fences;
mod ownership;
mod pool;
mod print;
mod record;
mod search;

mod tests {
    //! Which models hold, and which do not.

    use capi_ipam::pool::rule::Rule;

    use crate::fences::{Fence, Fenced};
    use crate::ownership::{self, Ring};
    use crate::pool::{Budget, Flaw, Pool, Slow};
    use crate::record::{Fault, Recorded};
    use crate::search::{breaks_on_walks, breaks_somewhere, holds_everywhere, holds_on_walks, is_large};

    /// Steps of a walk.
    const DEPTH: usize = 80;

    fn pool() -> Pool {
        Pool {
            replicas: 2,
            addresses: 1,
            names: 2,
            budget: Budget {
                claims: 4,
                deletes: 2,
                faults: 2,
                crashes: 0,
                strips: 0,
                losses: 0,
                pools: 0,
                wakes: 8,
                passes: 0,
            },
            slow: Slow::default(),
            broken: None,
            flaw: None,
        }
    }

    fn slow() -> Slow {
        Slow { lists: true, looks: true, deletes: true }
    }

    /// The pool with all that can go wrong but the loss of its record.
    fn rough_pool() -> Pool {
        let calm = pool();
        Pool { budget: Budget { crashes: 1, strips: 1, ..calm.budget }, ..calm }
    }

    #[test]
    fn no_walk_of_the_machines_gives_an_address_twice() {
        holds_on_walks("machines", &rough_pool(), DEPTH, 100_000);
    }

    #[test]
    fn no_walk_with_slow_reads_and_releases_gives_an_address_twice() {
        let pool = Pool { addresses: 2, slow: slow(), ..rough_pool() };
        holds_on_walks("machines, slow reads", &pool, DEPTH, 60_000);
    }

    #[test]
    fn no_walk_in_which_much_time_passes_gives_an_address_twice() {
        let calm = rough_pool();
        let pool = Pool { budget: Budget { passes: 2, ..calm.budget }, ..calm };
        holds_on_walks("machines, much time", &pool, DEPTH, 60_000);
    }

    #[test]
    fn no_walk_with_a_lost_record_gives_an_address_twice() {
        let calm = rough_pool();
        let pool = Pool { budget: Budget { losses: 1, pools: 1, ..calm.budget }, ..calm };
        holds_on_walks("machines, record lost", &pool, DEPTH, 60_000);
    }

    #[test]
    fn three_machines_give_no_address_twice() {
        let calm = rough_pool();
        let pool = Pool { replicas: 3, names: 3, addresses: 2, ..calm };
        holds_on_walks("three machines", &pool, DEPTH + 40, 60_000);
    }

    #[test]
    fn no_state_near_the_start_has_an_address_twice() {
        let calm = pool();
        let pool = Pool { budget: Budget { claims: 3, deletes: 1, faults: 1, wakes: 3, ..calm.budget }, ..calm };
        let states = if is_large() { 400_000 } else { 40_000 };
        holds_everywhere("machines, breadth first", &pool, Some(states));
    }

    fn expect_noticed(rules: &[Rule], pool: &Pool) {
        for rule in rules {
            let broken = Pool { broken: Some(*rule), ..pool.clone() };
            breaks_on_walks(&format!("{rule:?} broken"), &broken, DEPTH);
        }
    }

    #[test]
    fn broken_rules_about_sending_and_choosing_are_noticed() {
        use Rule::{CoveringList, FreshStore, IntentsHold, ListedFirst, SentInTime};
        expect_noticed(&[ListedFirst, SentInTime, FreshStore, CoveringList, IntentsHold], &pool());
        expect_noticed(&[Rule::OnePromise], &Pool { addresses: 2, ..pool() });
    }

    #[test]
    fn broken_rules_about_answers_are_noticed() {
        use Rule::{EveryCreateAnswered, NothingAfterDrop, RaisedWatermark, SettledByAnswers, SoleSender};
        expect_noticed(&[SettledByAnswers, EveryCreateAnswered, SoleSender, RaisedWatermark], &pool());
        let calm = pool();
        let stripped = Pool { budget: Budget { strips: 1, ..calm.budget }, ..calm };
        expect_noticed(&[NothingAfterDrop], &stripped);
    }

    #[test]
    fn a_forgotten_create_of_an_earlier_listing_is_noticed() {
        let calm = pool();
        let budget = Budget { claims: 1, deletes: 1, faults: 1, wakes: 4, passes: 1, ..calm.budget };
        let broken = Some(Rule::EarlierCreatesCount);
        breaks_somewhere("EarlierCreatesCount broken", &Pool { replicas: 1, names: 1, budget, broken, ..calm });
    }

    #[test]
    fn broken_rules_about_drained_senders_are_noticed() {
        use Rule::{DelayStartsAgain, EverySenderDrained, LookAfterDrain, VoidLook};
        expect_noticed(&[LookAfterDrain, DelayStartsAgain, EverySenderDrained], &rough_pool());
        expect_noticed(&[VoidLook], &Pool { slow: Slow { looks: true, ..Slow::default() }, ..rough_pool() });
    }

    #[test]
    fn broken_rules_about_releases_pools_and_losses_are_noticed() {
        expect_noticed(&[Rule::ReleaseKeepsIntent, Rule::ReleaseOwn], &rough_pool());
        let calm = rough_pool();
        expect_noticed(&[Rule::PoolStays], &Pool { budget: Budget { pools: 1, ..calm.budget }, ..calm.clone() });
        let lossy = Pool { budget: Budget { losses: 1, crashes: 0, ..calm.budget }, ..calm };
        expect_noticed(&[Rule::LossNoticed, Rule::LossRestored], &lossy);
    }

    #[test]
    fn flaws_of_the_driver_or_the_server_are_noticed() {
        for flaw in [Flaw::NoComparison, Flaw::InventedAnswer] {
            breaks_on_walks(&format!("{flaw:?}"), &Pool { flaw: Some(flaw), ..pool() }, DEPTH);
        }
        let flaw = Flaw::NoPreconditions;
        let slow = Slow { deletes: true, ..Slow::default() };
        breaks_on_walks(&format!("{flaw:?}"), &Pool { flaw: Some(flaw), names: 1, slow, ..pool() }, DEPTH);
    }

    fn ring() -> Ring {
        Ring {
            replicas: 2,
            shards: 1,
            second_clock: 1_000,
            budget: ownership::Budget { wakes: 20, slow: 2, faults: 2, crashes: 1, stops: 1, deletions: 0 },
            flaw: None,
        }
    }

    #[test]
    fn no_shard_has_two_owners_on_clocks_that_differ() {
        for second_clock in [770, 1_000, 1_300] {
            let ring = Ring { second_clock, ..ring() };
            holds_on_walks(&format!("ring, second clock {second_clock}"), &ring, DEPTH, 15_000);
        }
    }

    #[test]
    fn three_replicas_share_two_shards() {
        let ring = Ring { replicas: 3, shards: 2, ..ring() };
        holds_on_walks("ring of three", &ring, DEPTH + 40, 8_000);
    }

    #[test]
    fn no_state_of_the_ring_near_the_start_has_two_owners() {
        let states = if is_large() { 400_000 } else { 30_000 };
        holds_everywhere("ring, breadth first", &ring(), Some(states));
    }

    #[test]
    fn flaws_of_the_ring_are_noticed() {
        for flaw in [ownership::Flaw::NoComparison, ownership::Flaw::WildClock] {
            breaks_on_walks(&format!("{flaw:?}"), &Ring { flaw: Some(flaw), ..ring() }, DEPTH);
        }
    }

    fn record() -> Recorded {
        Recorded { addresses: 2, names: 2, crashes: 1, claims: 1, commits: 3, leaving: false, fault: None }
    }

    #[test]
    fn no_state_of_the_record_alone_has_an_address_twice() {
        let small = Recorded { crashes: 0, commits: 2, claims: 0, ..record() };
        holds_everywhere("record", &small, None);
        if is_large() {
            holds_everywhere("record, crashes", &record(), None);
            let leaving = Recorded { leaving: true, crashes: 0, ..record() };
            holds_everywhere("record, senders leave", &leaving, None);
        }
    }

    #[test]
    fn no_walk_of_the_record_alone_gives_an_address_twice() {
        let large = Recorded { addresses: 3, names: 3, crashes: 2, claims: 4, commits: 8, leaving: true, fault: None };
        holds_on_walks("record, walks", &large, 200, 400_000);
    }

    #[test]
    fn what_is_left_out_of_the_record_is_noticed() {
        use Fault::{IntentsIgnored, Lost, NoLook, NotListed, OldView, OthersIgnored, Seen, SentAfterDrop};
        let large = Recorded { crashes: 1, claims: 3, commits: 6, ..record() };
        for fault in [OldView, IntentsIgnored, Seen, OthersIgnored, NoLook, SentAfterDrop, NotListed, Lost] {
            breaks_on_walks(&format!("{fault:?}"), &Recorded { fault: Some(fault), ..large.clone() }, DEPTH);
        }
        let fault = Some(Fault::OldAnswer);
        breaks_on_walks("OldAnswer", &Recorded { fault, crashes: 0, leaving: true, ..large }, DEPTH);
    }

    #[test]
    fn simpler_fences_do_not_suffice() {
        for fence in [Fence::Lease, Fence::Swap, Fence::Reservation] {
            breaks_somewhere(&format!("{fence:?}"), &Fenced { fence, takeovers: 2, claims: 3 });
        }
    }
}
