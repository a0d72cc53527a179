//! What people are told (behaviour.md, C18): changes, once.

use std::time::Duration;

use super::fixtures::{claim, key, pool, spec};
use super::world::{Fate, World, is_write};
use crate::pool::machine::{Action, Fact};
use crate::pool::object::InvalidSpec;

const LITTLE: Duration = Duration::from_secs(3);

/// What claims and the pool were told since the last look: who, and the reason, sorted.
fn told(world: &mut World) -> Vec<(String, String)> {
    let news = world.facts.drain(..).filter_map(|fact| match fact {
        Fact::Allocated { claim, .. } => Some((claim.key.name.to_string(), "Allocated".to_owned())),
        Fact::Released { claim, held } => {
            let what = held.map_or_else(|| "nothing".to_owned(), |held| held.address.to_string());
            Some((claim.key.name.to_string(), format!("Released {what}")))
        }
        Fact::Waiting { claim, reason, .. } => Some((claim.key.name.to_string(), reason)),
        Fact::Exhausted(_) => Some(("the pool".to_owned(), "Exhausted".to_owned())),
        Fact::Unready { reason, .. } => Some(("the pool".to_owned(), reason)),
        _ => None,
    });
    let mut told: Vec<_> = news.collect();
    told.sort_unstable();
    told
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(who, what)| ((*who).to_owned(), (*what).to_owned())).collect()
}

#[test]
fn rule_c18_a_claim_is_told_of_another_reason_not_of_another_sentence() {
    let mut world = World::with_pool("10.0.0.1");
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("a", "Allocated"), ("b", "PoolExhausted"), ("the pool", "Exhausted")]));
    // As many addresses as before, but for the one that is in use by somebody else.
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.1-10.0.0.2")), 2));
    world.server.edit_pool(|pool| pool.paused = true);
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("b", "PoolNotReady")]));
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Err(InvalidSpec("spec: no".into())), 3));
    world.pass(Duration::from_mins(10));
    assert_eq!(told(&mut world), [], "paused, so that it is not looked at");
}

#[test]
fn rule_c18_a_pool_is_exhausted_once_while_claims_wait_for_what_comes_back() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.2");
    world.claim_all(&["a", "b", "c", "d"]);
    world.pass(LITTLE);
    let exhausted = |world: &mut World| told(world).iter().filter(|(who, _)| who == "the pool").count();
    assert_eq!(exhausted(&mut world), 1);
    for name in ["a", "b"] {
        world.server.delete_claim(&key(name));
        world.pass(LITTLE);
        world.server.put_claim(claim(&format!("{name}-again")).created_after(60));
        world.pass(LITTLE);
    }
    assert_eq!(exhausted(&mut world), 0, "somebody waited all the time");
    for name in ["a-again", "b-again", "c"] {
        world.server.delete_claim(&key(name));
    }
    world.pass(LITTLE);
    world.server.put_claim(claim("e").created_after(90));
    world.server.put_claim(claim("f").created_after(91));
    world.pass(LITTLE);
    assert_eq!(exhausted(&mut world), 1);
}

#[test]
fn rule_c18_a_release_tells_what_is_given_back() {
    let mut world = World::with_pool("10.0.0.1");
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    told(&mut world);
    world.server.delete_claim(&key("b"));
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("a", "Released 10.0.0.1"), ("b", "Released nothing")]));
}

#[test]
fn rule_c18_a_pool_that_turns_invalid_is_told_of_and_a_new_owner_does_not_tell_it_again() {
    let mut world = World::empty();
    let mut broken = pool("10.0.0.1");
    broken.spec = Err(InvalidSpec("spec.prefix: 99 is too long".into()));
    world.server.put_pool(broken);
    world.start_another();
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("the pool", "InvalidSpec")]));
    world.crash(0);
    world.start_another();
    world.server.put_claim(claim("a"));
    world.pass(Duration::from_mins(10));
    assert_eq!(told(&mut world), pairs(&[("a", "PoolNotReady")]));
    world.server.edit_pool(|pool| {
        (pool.spec, pool.generation) = (Err(InvalidSpec("spec.prefix: 98 is too long".into())), 2);
    });
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("the pool", "InvalidSpec")]));
    world.server.edit_pool(|pool| pool.deleting = true);
    world.pass(LITTLE);
}

#[test]
fn rule_c10_a_condition_that_the_server_does_not_store_is_written_once() {
    let mut world = World::with_pool("10.0.0.1");
    world.server.drops_conditions = true;
    world.claim_all(&["a", "b"]);
    world.pass(LITTLE);
    assert_eq!(world.address_of("a"), Some(1));
    assert_eq!(world.server.claims[&key("a")].address_ref.as_deref(), Some("a"));
    let unstored = |world: &World| world.facts.iter().filter(|it| matches!(it, Fact::ConditionNotStored)).count();
    assert_eq!(unstored(&world), 1);
    world.forget_sent();
    world.server.edit_claim(&key("b"), |claim| claim.cluster_label = Some("c".into()));
    world.pass(Duration::from_mins(10));
    assert_eq!(world.count(is_write), 0, "{:?}", world.sent);

    // Something else to say, and a server that stores it by now.
    world.server.drops_conditions = false;
    world.server.edit_pool(|pool| pool.paused = true);
    world.pass(LITTLE);
    assert_eq!(world.ready("b").expect("a condition").0, "PoolNotReady");
    world.server.edit_pool(|pool| pool.paused = false);
    world.pass(LITTLE);
    assert_eq!(world.ready("b").expect("a condition").0, "PoolExhausted");
    assert_eq!(unstored(&world), 1);
}

#[test]
fn a_release_that_the_watch_shows_before_its_reply_is_told_all_the_same_and_once() {
    let mut world = World::with_pool("10.0.0.1");
    world.claim_all(&["a"]);
    world.pass(LITTLE);
    told(&mut world);
    world.fate(|action| match action {
        Action::PatchClaim { note_uid: false, .. } => Fate::Hold,
        _ => Fate::Serve,
    });
    world.server.delete_claim(&key("a"));
    world.pass(LITTLE);
    assert_eq!((told(&mut world), world.flights.len()), (Vec::new(), 1), "only the claim's finalizer is left");
    world.send(0);
    world.execute(0);
    while world.deliver(0, 1) {}
    world.answer(0);
    world.pass(LITTLE);
    assert_eq!(told(&mut world), pairs(&[("a", "Released 10.0.0.1")]));
}
