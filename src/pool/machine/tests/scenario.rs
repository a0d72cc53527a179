//! What scenarios do in their world, and ask of it.

use super::fixtures::{claim, key, pool};
use super::world::{Fate, World};
use crate::api::{conditions, names};
use crate::pool::machine::{Action, Fact};
use crate::pool::record::{Memory, Record};

impl World {
    /// A world with a pool of this range and one machine at work.
    pub(super) fn with_pool(range: &str) -> Self {
        let mut world = Self::empty();
        world.server.put_pool(pool(range));
        world.sent = Some(Vec::new());
        world.start_another();
        world.run();
        world
    }

    /// One more replica that acts on the pool, or the first.
    pub(super) fn start_another(&mut self) -> usize {
        let actor = self.add_actor();
        self.read_pool(actor);
        self.start(actor, Memory::default());
        actor
    }

    pub(super) fn fate(&mut self, fate: impl FnMut(&Action) -> Fate + 'static) {
        self.fate = Box::new(fate);
    }

    pub(super) fn serve_all(&mut self) {
        self.fate(|_| Fate::Serve);
    }

    /// Claims of these names, one second apart.
    pub(super) fn claim_all(&mut self, names: &[&str]) {
        for (name, after) in names.iter().zip(0..) {
            self.server.put_claim(claim(name).created_after(after));
        }
    }

    /// The last byte of the address of a claim's IPAddress.
    pub(super) fn address_of(&self, name: &str) -> Option<u8> {
        match self.server.addresses.get(&key(name))?.held.as_ref().ok()?.address {
            std::net::IpAddr::V4(address) => Some(address.octets()[3]),
            std::net::IpAddr::V6(_) => None,
        }
    }

    /// Those of all claims, where there are any.
    pub(super) fn addresses(&self) -> Vec<(String, u8)> {
        let names = self.server.addresses.keys().map(|key| key.name.to_string());
        names.filter_map(|name| self.address_of(&name).map(|last| (name, last))).collect()
    }

    /// Reason and message of a claim's Ready condition.
    pub(super) fn ready(&self, name: &str) -> Option<(String, String)> {
        let ready = conditions::find(&self.server.claims.get(&key(name))?.conditions, names::READY)?;
        Some((ready.reason.clone(), ready.message.clone()))
    }

    pub(super) fn pool_ready(&self) -> (String, String) {
        let status = &self.server.pool.as_ref().expect("a pool").status;
        let ready = conditions::find(&status.conditions, names::READY).expect("a condition");
        (ready.reason.clone(), ready.message.clone())
    }

    pub(super) fn record(&self) -> Record {
        self.server.pool.as_ref().and_then(|pool| pool.status.record.clone()).unwrap_or_default()
    }

    /// How many requests like this were sent since the last [`Self::forget_sent`].
    pub(super) fn count(&self, like: impl Fn(&Action) -> bool) -> usize {
        self.sent.iter().flatten().filter(|action| like(action)).count()
    }

    pub(super) fn forget_sent(&mut self) {
        self.sent = Some(Vec::new());
    }

    pub(super) fn has_fact(&self, like: impl Fn(&Fact) -> bool) -> bool {
        self.facts.iter().any(like)
    }

    pub(super) fn expect_sound(&self) {
        assert_eq!(self.server.broken, Vec::<String>::new());
    }
}
