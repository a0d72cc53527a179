//! IPAddresses of others that cannot be right (B2, B4).

use std::time::Duration;

use super::fixtures::{address, key, spec};
use super::world::World;
use crate::pool::machine::Fact;
use crate::pool::object::Address;

const LITTLE: Duration = Duration::from_secs(3);

fn doubled(world: &World) -> usize {
    world.actors[0].machine.as_ref().expect("it runs").doubled()
}

fn reports(world: &World) -> (usize, usize) {
    let count = |like: fn(&Fact) -> bool| world.facts.iter().filter(|fact| like(fact)).count();
    (count(|fact| matches!(fact, Fact::Duplicate { .. })), count(|fact| matches!(fact, Fact::OutOfRange { .. })))
}

#[test]
fn rule_b2_an_address_in_two_objects_is_reported_once_and_shown_until_one_goes() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    for name in ["x", "y", "z"] {
        world.server.put_address(address(name, if name == "z" { 3 } else { 2 }));
    }
    world.pass(LITTLE);
    assert_eq!((doubled(&world), reports(&world)), (2, (1, 0)));
    let (reason, message) = world.pool_ready();
    assert_eq!((reason.as_str(), message.contains("hold what another one holds: 2")), ("PoolReady", true));
    // A change of one of them, and another spec, are no news.
    let known = Address::clone(&world.server.addresses[&key("x")]);
    world.server.put_address(Address { cluster_label: Some("c".into()), ..known });
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.1-10.0.0.8")), 2));
    world.pass(LITTLE);
    assert_eq!((doubled(&world), reports(&world)), (2, (1, 0)));
    world.server.strip_address(&key("y"));
    world.pass(LITTLE);
    assert_eq!(doubled(&world), 0);
    assert_eq!(world.pool_ready().1, "addresses can be allocated");
    assert!(world.server.addresses.contains_key(&key("x")), "and nobody touched it");
}

#[test]
fn rule_b4_an_address_that_is_not_of_the_pool_is_reported_once() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.server.put_address(address("far", 200));
    world.server.put_address(Address { held: Err("10.0.0.x".into()), ..address("none", 1) });
    world.pass(LITTLE);
    assert_eq!(reports(&world), (0, 2));
    assert!(world.has_fact(|fact| matches!(fact, Fact::OutOfRange { held, .. } if held == "10.0.0.x")));
    let known = Address::clone(&world.server.addresses[&key("far")]);
    world.server.put_address(Address { cluster_label: Some("c".into()), ..known });
    world.pass(LITTLE);
    assert_eq!(reports(&world), (0, 2));
    // Another spec makes another one stray, and the first one right.
    world.server.put_address(address("near", 2));
    world.server.edit_pool(|pool| (pool.spec, pool.generation) = (Ok(spec("10.0.0.100-10.0.0.200")), 2));
    world.pass(LITTLE);
    assert_eq!(reports(&world), (0, 3));
    assert!(world.pool_ready().1.contains("hold what the pool does not give out: 2"));
}

#[test]
fn thousands_of_strays_are_counted_and_a_few_are_reported() {
    let mut world = World::empty();
    world.server.unchecked = true;
    world.server.put_pool(super::fixtures::pool("10.0.0.1-10.0.0.9"));
    for n in 0..2_000 {
        world.server.put_address(address(&format!("s{n:04}"), 200));
    }
    world.start_another();
    assert_eq!(doubled(&world), 2_000);
    let (duplicates, outside) = reports(&world);
    assert!((1..=20).contains(&(duplicates + outside)), "{duplicates} and {outside}");
}
