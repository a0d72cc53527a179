//! Models of the allocation protocol and of ownership, on the code that runs in production.

mod fences;
mod ownership;
mod pool;
mod print;
mod record;

use std::time::Instant;

use capi_ipam::pool::rule::Rule;
use pool::{Budget, Pool, Slow};
use stateright::{Checker, HasDiscoveries, Model};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn probe() {
    let b = |n: &str, d: usize| u8::try_from(number(n, d)).expect("small");
    let rule = std::env::var("RULE").ok();
    let broken = ALL.into_iter().find(|r| Some(format!("{r:?}")) == rule);
    let model = Pool {
        replicas: number("REPLICAS", 2),
        addresses: b("ADDRESSES", 1),
        names: number("NAMES", 2),
        budget: Budget {
            claims: b("CLAIMS", 2),
            deletes: b("DELETES", 1),
            faults: b("FAULTS", 0),
            crashes: b("CRASHES", 0),
            strips: b("STRIPS", 0),
            losses: b("LOSSES", 0),
            pools: b("POOLS", 0),
            wakes: b("WAKES", 3),
        },
        slow: Slow { lists: number("LISTS", 0) > 0, looks: number("LOOKS", 0) > 0, deletes: number("SLOWDEL", 0) > 0 },
        broken,
        flaw: match std::env::var("FLAW").as_deref() {
            Ok("cas") => Some(pool::Flaw::NoComparison),
            Ok("pre") => Some(pool::Flaw::NoPreconditions),
            _ => None,
        },
    };
    let start = Instant::now();
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(number("STATES", 200_000))
        .target_max_depth(number("DEPTH", 100))
        .timeout(std::time::Duration::from_secs(number("SECS", 60) as u64))
        .finish_when(HasDiscoveries::AnyFailures);
    if std::env::var("SIM").is_ok() {
        let c = checker.spawn_simulation(number("SEED", 1) as u64, stateright::UniformChooser).join();
        report(&c, start);
    } else if std::env::var("DFS").is_ok() {
        let c = checker.spawn_dfs().join();
        report(&c, start);
    } else {
        let c = checker.spawn_bfs().join();
        report(&c, start);
    }
}

fn report(c: &impl Checker<Pool>, start: Instant) {
    println!(
        "states {} unique {} depth {} in {:?} done {}",
        c.state_count(),
        c.unique_state_count(),
        c.max_depth(),
        start.elapsed(),
        c.is_done()
    );
    for (name, path) in c.discoveries() {
        let acts = path.clone().into_actions();
        println!("{name}: {} steps", acts.len());
        if name.starts_with("no ") {
            for a in acts {
                println!("    {a:?}");
            }
            println!("{:?}", path.last_state());
        }
    }
}

const ALL: [Rule; 21] = [
    Rule::ListedFirst,
    Rule::SentInTime,
    Rule::CommitSeen,
    Rule::FreshStore,
    Rule::CoveringList,
    Rule::IntentsHold,
    Rule::OnePromise,
    Rule::SettledByAnswers,
    Rule::EveryCreateAnswered,
    Rule::SoleSender,
    Rule::RaisedWatermark,
    Rule::LookAfterDrain,
    Rule::VoidLook,
    Rule::EverySenderDrained,
    Rule::DelayStartsAgain,
    Rule::EarlierCreatesCount,
    Rule::NothingAfterDrop,
    Rule::ReleaseKeepsIntent,
    Rule::PoolStays,
    Rule::LossNoticed,
    Rule::LossRestored,
];
