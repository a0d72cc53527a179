//! The whole life of a certificate on values: made, renewed, rotated, damaged and lost, and never shown to somebody who
//! does not trust it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;

use super::make::{trusting, with_authority, with_certificate};
use super::plan::{Lives, SETTLED, Step, next};
use super::stored::{AUTHORITY_KEY, BUNDLE, CERTIFICATE, Data, KEY, Stored, ours};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn lives() -> Lives {
    Lives::of(90 * DAY)
}

fn names() -> Vec<String> {
    vec!["hooks.system.svc".to_owned(), "localhost".to_owned()]
}

/// A Secret, who trusts what, and a clock.
struct World {
    data: Data,
    /// What the API servers trust, and since when.
    trusted: (String, Timestamp),
    now: Timestamp,
    steps: Vec<&'static str>,
}

impl World {
    fn new() -> Self {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().expect("a time");
        Self { data: Data::new(), trusted: (String::new(), now), now, steps: Vec::new() }
    }

    fn stored(&self) -> Stored {
        Stored::read(&self.data)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).expect("a time");
    }

    /// As the keeper: publishes first, then takes the step.
    fn step(&mut self) -> Step {
        let elsewhere = ours(self.trusted.0.as_bytes());
        let stored = self.stored();
        let mut published = None;
        if !stored.trusted.is_empty() {
            if self.trusted.0 != stored.bundle() {
                self.trusted = (stored.bundle(), self.now);
            }
            published = self.now.duration_since(self.trusted.1).try_into().ok();
        }
        let step = next(&stored, &names(), &elsewhere, published, self.now, lives());
        let data = self.data.clone();
        self.data = match &step {
            Step::Nothing => data,
            Step::NewAuthority(others) => with_authority(data, others, self.now, lives()).expect("an authority"),
            Step::NewCertificate => {
                with_certificate(data, &stored.trusted[0], &names(), self.now, lives()).expect("a certificate")
            }
            Step::Trust(trusted) => trusting(data, trusted),
        };
        self.steps.push(match step {
            Step::Nothing => "nothing",
            Step::NewAuthority(_) => "authority",
            Step::NewCertificate => "certificate",
            Step::Trust(_) => "trust",
        });
        step
    }

    /// Steps until nothing is left to do for now.
    fn settle(&mut self) -> Vec<&'static str> {
        self.steps.clear();
        for _ in 0..10 {
            let is_trusted = self.shown_is_trusted();
            self.step();
            assert!(!is_trusted || self.shown_is_trusted(), "somebody sees a certificate that he does not trust");
            self.pass(SETTLED);
        }
        assert_eq!(self.steps.pop(), Some("nothing"), "it comes to rest");
        self.steps.retain(|step| *step != "nothing");
        std::mem::take(&mut self.steps)
    }

    /// Whether the API servers trust whoever signed what is shown.
    fn shown_is_trusted(&self) -> bool {
        let mut data = self.data.clone();
        data.insert(BUNDLE.to_owned(), ByteString(self.trusted.0.clone().into_bytes()));
        Stored::read(&data).leaf.is_some_and(|leaf| leaf.signer.is_some())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.data.insert(name.to_owned(), ByteString(value.as_bytes().to_vec()));
    }

    fn get(&self, name: &str) -> Vec<u8> {
        self.data[name].0.clone()
    }
}

fn settled() -> World {
    let mut world = World::new();
    assert_eq!(world.settle(), ["authority", "certificate"]);
    world
}

#[test]
fn a_first_certificate_is_made_once_it_is_trusted() {
    let mut world = World::new();
    assert_eq!(world.step(), Step::NewAuthority(Vec::new()));
    assert_eq!(world.step(), Step::Nothing, "the API servers do not know the authority yet");
    world.pass(SETTLED);
    assert_eq!(world.step(), Step::NewCertificate);
    assert_eq!(world.step(), Step::Nothing);
    let stored = world.stored();
    assert!(stored.can_sign);
    let leaf = stored.leaf.expect("a certificate");
    assert_eq!((leaf.names, leaf.signer), (names(), Some(0)));
    assert_eq!(leaf.life.ends.duration_since(leaf.life.begins).unsigned_abs(), 90 * DAY);
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_by_the_same_authority() {
    let mut world = settled();
    let (bundle, shown) = (world.get(BUNDLE), world.get(CERTIFICATE));
    world.pass(59 * DAY + 23 * HOUR);
    assert_eq!(world.settle(), Vec::<&str>::new());
    world.pass(HOUR);
    assert_eq!(world.settle(), ["certificate"]);
    assert_eq!(world.get(BUNDLE), bundle);
    assert_ne!(world.get(CERTIFICATE), shown);
}

#[test]
fn an_authority_is_succeeded_without_a_moment_of_distrust_and_goes_after_an_overlap() {
    let mut world = settled();
    world.pass(60 * DAY);
    assert_eq!(world.settle(), ["certificate"]);
    world.pass(60 * DAY);
    assert_eq!(world.settle(), ["certificate"]);
    world.pass(60 * DAY);
    assert_eq!(world.settle(), ["certificate"]);
    let old = world.stored().trusted;
    world.pass(60 * DAY);
    assert_eq!(world.settle(), ["authority", "certificate"]);
    let both = world.stored().trusted;
    assert_eq!((both.len(), &both[1]), (2, &old[0]));
    world.pass(HOUR);
    assert_eq!(world.settle(), ["trust"]);
    assert_eq!(world.stored().trusted, both[..1]);
    assert_eq!(world.stored().leaf.expect("a certificate").signer, Some(0));
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let mut world = settled();
    for _ in 0..30 {
        world.pass(20 * DAY);
        world.settle();
        let stored = world.stored();
        assert!(stored.leaf.expect("a certificate").life.ends <= stored.trusted[0].life.ends);
    }
}

#[test]
fn damage_to_one_part_is_mended_with_the_others() {
    for (part, damage, steps, trusted) in [
        (CERTIFICATE, "nothing", vec!["certificate"], 1),
        (KEY, "", vec!["certificate"], 1),
        (AUTHORITY_KEY, "nothing", vec!["authority", "certificate"], 2),
        (BUNDLE, "nothing", vec!["authority", "certificate"], 2),
    ] {
        let mut world = settled();
        world.set(part, damage);
        assert_eq!(world.settle(), steps, "{part}");
        assert_eq!(world.stored().trusted.len(), trusted, "{part}");
        assert!(world.shown_is_trusted(), "{part}");
        let mut world = settled();
        world.data.remove(part);
        assert_eq!(world.settle(), steps, "{part}");
    }
}

#[test]
fn a_key_or_certificate_of_another_pair_is_seen() {
    let (mut world, other) = (settled(), settled());
    world.data.insert(AUTHORITY_KEY.to_owned(), other.data[AUTHORITY_KEY].clone());
    assert!(!world.stored().can_sign);
    let mut world = settled();
    for part in [CERTIFICATE, KEY] {
        world.data.insert(part.to_owned(), other.data[part].clone());
    }
    assert_eq!(world.stored().leaf.expect("it holds together").signer, None);
    assert_eq!(world.settle(), ["certificate"], "nobody trusts it");
}

#[test]
fn another_name_needs_another_certificate() {
    let world = settled();
    let mut more = names();
    more.push("other.system.svc".to_owned());
    let step = next(&world.stored(), &more, &[], Some(SETTLED), world.now, lives());
    assert_eq!(step, Step::NewCertificate);
}

#[test]
fn a_lost_secret_keeps_the_authorities_that_somebody_still_trusts() {
    let mut world = settled();
    let shown = (world.data[CERTIFICATE].clone(), world.data[KEY].clone());
    let known = ours(world.trusted.0.as_bytes());
    world.data = Data::new();
    assert_eq!(world.step(), Step::NewAuthority(known));
    world.step();
    // Replicas still show the old one.
    let mut old = world.data.clone();
    old.insert(CERTIFICATE.to_owned(), shown.0);
    old.insert(KEY.to_owned(), shown.1);
    old.insert(BUNDLE.to_owned(), ByteString(world.trusted.0.clone().into_bytes()));
    assert_eq!(Stored::read(&old).leaf.expect("a certificate").signer, Some(1));
    assert_eq!(world.settle(), ["certificate"]);
}

#[test]
fn expired_authorities_and_those_of_others_are_not_kept() {
    let world = settled();
    let old = world.stored().trusted;
    let later = world.now.checked_add(400 * DAY).expect("a time");
    assert_eq!(next(&world.stored(), &names(), &old, None, later, lives()), Step::NewAuthority(Vec::new()));
    let foreign = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate").cert.pem();
    let mixed = [foreign.as_bytes(), &world.get(BUNDLE)].concat();
    assert_eq!(ours(&mixed), old);
    assert!(ours(b"nothing").is_empty());
}

#[test]
fn without_anybody_who_trusts_it_nothing_is_shown() {
    let mut world = World::new();
    world.step();
    for published in [None, Some(Duration::ZERO), Some(SETTLED / 2)] {
        assert_eq!(next(&world.stored(), &names(), &[], published, world.now, lives()), Step::Nothing);
    }
}
