//! Searches: for all states within bounds, or along random walks for some time.
#![expect(clippy::disallowed_methods, reason = "how long a search took is for people to read")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, UniformChooser};

/// Any number will do; `MODEL_SEED` has others walk.
const SEED: u64 = 1;
/// States that a search for what a broken rule does may look at: most are found among the first ten thousand.
const PATIENCE: usize = 10_000_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Whether `make model` asks for more than a test should take.
pub(crate) fn is_large() -> bool {
    number("MODEL_LARGE").is_some_and(|number| number > 0)
}

/// How long each walk of the large runs takes.
fn walking_time() -> Duration {
    Duration::from_secs(number("MODEL_SECONDS").unwrap_or(120))
}

fn threads() -> usize {
    if is_large() { 2 } else { 1 }
}

/// A model with all that the checkers ask of one.
pub(crate) trait Searched:
    Model<
        State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
        Action: Clone + Debug + PartialEq + Send + Sync,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<M> Searched for M
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
}

/// What was found, by property; the paths end at the state in question.
struct Found {
    always: Vec<(&'static str, String)>,
    reached: BTreeSet<&'static str>,
}

fn found<M: Searched>(model: &M, checker: &impl Checker<M>, title: &str, start: Instant) -> Found {
    println!(
        "{title}: {} states ({} unique), depth {}, {:.1?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    let mut found = Found { always: Vec::new(), reached: BTreeSet::new() };
    for (name, path) in checker.discoveries() {
        let is_bad = model.properties().iter().any(|it| it.name == name && it.expectation != Expectation::Sometimes);
        if is_bad {
            let steps: Vec<String> = path.clone().into_actions().iter().map(|it| format!("    {it:?}")).collect();
            found.always.push((name, format!("{name}:\n{}\n    {:?}", steps.join("\n"), path.last_state())));
        } else {
            found.reached.insert(name);
        }
    }
    for (name, trace) in &found.always {
        println!("  violated: {name} ({} steps)", trace.lines().count().saturating_sub(2));
    }
    found
}

fn expect_sound<M: Searched>(model: &M, found: &Found, title: &str) {
    let traces: Vec<&str> = found.always.iter().map(|(_, trace)| trace.as_str()).collect();
    assert!(traces.is_empty(), "{title}:\n{}", traces.join("\n"));
    for property in model.properties().iter().filter(|it| it.expectation == Expectation::Sometimes) {
        assert!(found.reached.contains(property.name), "{title}: never reached: {}", property.name);
    }
}

/// Walks at random through so many states, or in the large runs for some time: nothing may be violated, and all that is to be possible must be reached.
pub(crate) fn holds_on_walks<M: Searched>(title: &str, model: &M, depth: usize, states: usize) {
    let start = Instant::now();
    let builder = model.clone().checker().threads(threads()).target_max_depth(depth);
    let builder = if is_large() { builder.timeout(walking_time()) } else { builder.target_state_count(states) };
    let builder = builder.finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_simulation(number("MODEL_SEED").unwrap_or(SEED), UniformChooser).join();
    let found = found(model, &checker, title, start);
    expect_sound(model, &found, title);
}

/// Looks at every state, or at the first so many of them.
pub(crate) fn holds_everywhere<M: Searched>(title: &str, model: &M, states: Option<usize>) {
    let start = Instant::now();
    let mut builder = model.clone().checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures);
    if let Some(states) = states {
        builder = builder.target_state_count(states);
    }
    let checker = builder.spawn_bfs().join();
    let found = found(model, &checker, title, start);
    let traces: Vec<&str> = found.always.iter().map(|(_, trace)| trace.as_str()).collect();
    assert!(traces.is_empty(), "{title}:\n{}", traces.join("\n"));
    if states.is_none() {
        expect_sound(model, &found, title);
    }
}

/// Walks until a property is violated, as it has to be.
pub(crate) fn breaks_on_walks<M: Searched>(title: &str, model: &M, depth: usize) {
    let start = Instant::now();
    let builder = model.clone().checker().threads(threads()).target_max_depth(depth).target_state_count(PATIENCE);
    let builder = builder.finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_simulation(number("MODEL_SEED").unwrap_or(SEED), UniformChooser).join();
    let found = found(model, &checker, title, start);
    assert!(!found.always.is_empty(), "{title}: nobody noticed");
}

/// Finds the shortest way to a violation, as there has to be one.
pub(crate) fn breaks_somewhere<M: Searched>(title: &str, model: &M) {
    let start = Instant::now();
    let builder = model.clone().checker().threads(threads()).target_state_count(PATIENCE);
    let checker = builder.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = found(model, &checker, title, start);
    assert!(!found.always.is_empty(), "{title}: nobody noticed");
}
