//! The pause after an original led (O7).

use std::time::Duration;

use super::fixtures::{address, key};
use super::world::{World, is_list};
use crate::pool::machine::Input;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn rule_o7_nothing_new_is_promised_until_the_pause_is_over_and_a_list_was_made() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    world.claim_all(&["a"]);
    world.pass(2 * SECOND);
    let until = world.now(0).boot + 70 * SECOND;
    world.step(0, vec![Input::Hold(until)]);
    world.server.delete_claim(&key("a"));
    world.claim_all(&["b"]);
    world.pass(65 * SECOND);
    assert_eq!(world.addresses(), Vec::new(), "a is released, b waits");
    let (reason, message) = world.ready("b").expect("it says why");
    assert_eq!(reason, "AllocationFailed");
    assert!(message.contains("another provider"), "{message}");
    world.forget_sent();
    world.server.put_address(address("late", 1));
    world.pass(10 * SECOND);
    assert_eq!(world.count(is_list), 1);
    assert_eq!(world.address_of("b"), Some(2));
    world.expect_sound();
}

#[test]
fn rule_o7_a_claim_with_an_address_is_adopted_during_the_pause() {
    let mut world = World::with_pool("10.0.0.1-10.0.0.9");
    let until = world.now(0).boot + 70 * SECOND;
    world.step(0, vec![Input::Hold(until)]);
    world.server.put_address(address("a", 7));
    world.claim_all(&["a"]);
    world.pass(2 * SECOND);
    assert_eq!(world.ready("a").expect("a condition").0, "AddressAllocated");
}
