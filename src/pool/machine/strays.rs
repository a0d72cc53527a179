//! IPAddresses that others wrote and that cannot be right: an address that two of them hold, and one that is not of the
//! pool or no address at all (B2, B4). They are reported and counted, and never changed.

use std::collections::BTreeSet;

use super::{Fact, Hold, Machine};
use crate::ipam::pool::Held;
use crate::pool::key::ObjectKey;
use crate::pool::object::Address;

/// Reports of one step: with more of them, one look at the pool tells more than a thousand lines.
const MAX_TOLD: usize = 20;

/// Objects that are named as holders of one address; more would make no report clearer, and cost their square.
const MAX_NAMED: usize = 10;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Strays {
    /// IPAddresses that hold what another one holds.
    doubled: BTreeSet<ObjectKey>,
    /// Those that the pool does not allow, or that hold no address.
    outside: BTreeSet<ObjectKey>,
    /// Reports of this step.
    told: usize,
}

impl Strays {
    /// A new step begins.
    pub(super) fn begin_step(&mut self) {
        self.told = 0;
    }
}

impl Machine {
    /// How many IPAddresses hold what another one holds.
    pub fn doubled(&self) -> usize {
        self.strays.doubled.len()
    }

    /// A copy of an IPAddress of the pool was taken in.
    pub(super) fn note_stray(&mut self, address: &Address) {
        let Some(ledger) = &self.ledger else { return };
        let key = &address.key;
        let held = match &address.held {
            Ok(held) if ledger.pool().allows(*held) => {
                self.strays.outside.remove(key);
                *held
            }
            other => {
                if self.strays.outside.insert(key.clone()) {
                    let held = other.as_ref().map_or_else(Clone::clone, |held| held.address.to_string());
                    self.report_stray(Fact::OutOfRange { address: key.clone(), held });
                }
                let Ok(held) = other else { return };
                *held
            }
        };
        let holders = self.objects_with(held);
        if holders.len() > 1 && self.strays.doubled.insert(key.clone()) {
            self.strays.doubled.extend(holders.iter().cloned());
            self.report_stray(Fact::Duplicate { held, addresses: holders });
        }
    }

    /// An IPAddress is gone, or holds something else: what it held may be in one hand again.
    pub(super) fn forget_stray(&mut self, key: &ObjectKey, held: Option<Held>) {
        self.strays.outside.remove(key);
        if self.strays.doubled.remove(key)
            && let Some(held) = held
        {
            for other in self.objects_with(held) {
                let alone = self.addresses.get(&other).and_then(|it| it.held.clone().ok());
                if alone.is_none_or(|held| self.objects_with(held).len() < 2) {
                    self.strays.doubled.remove(&other);
                }
            }
        }
    }

    /// The spec is another one: looks at all of them. What is known already is not reported again.
    pub(super) fn review_strays(&mut self) {
        let Strays { mut doubled, mut outside, told } = std::mem::take(&mut self.strays);
        let all: Vec<_> = self.pool_addresses().cloned().collect();
        if self.ledger.is_some() {
            outside.retain(|key| self.addresses.contains_key(key));
            doubled.retain(|key| {
                let held = self.addresses.get(key).and_then(|address| address.held.clone().ok());
                held.is_some_and(|held| self.objects_with(held).len() > 1)
            });
            self.strays = Strays { doubled, outside, told };
        }
        for address in all {
            self.note_stray(&address);
        }
    }

    /// Who holds this, as far as it takes to tell one from several.
    fn objects_with(&self, held: Held) -> Vec<ObjectKey> {
        let holders = self.ledger.iter().flat_map(|ledger| ledger.holders_of(held.address));
        holders
            .filter_map(|holder| if let Hold::Object(key) = holder { Some(key.clone()) } else { None })
            .take(MAX_NAMED)
            .collect()
    }

    fn report_stray(&mut self, fact: Fact) {
        self.strays.told += 1;
        if self.strays.told <= MAX_TOLD {
            self.facts.push(fact);
        }
    }
}
