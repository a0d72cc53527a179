//! The ledger of one pool: which units are free, and who holds the others.

mod fragments;
mod index;
mod slot;
#[cfg(test)]
mod tests;

use super::pool::{Held, Place, Pool};
use super::span::Span;
use super::sweep::{count, intersection, without};
use fragments::Fragments;
use index::{Change, Index, Who};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

/// Somebody who holds an address.
///
/// A ledger keeps several copies of each holder: make it cheap to clone. Equal holders are both objects or both not.
pub trait Holder: Clone + Eq + Hash + Ord {
    /// Whether this is an object, as against a promise: a promise blocks its address but only objects count as used.
    fn is_object(&self) -> bool;
}

/// What a pool's status shows, in units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Allocatable units, held or not; 2^128 shows as `u128::MAX`.
    pub total: u128,
    /// Allocatable units that no object holds. A unit that two objects hold is one unit less, not two.
    pub free: u128,
    /// Objects.
    pub used: u64,
    /// Objects whose address the pool would not allocate as it is.
    pub out_of_range: u64,
}

impl Counts {
    /// What is free when total can be shown up to a limit only: of more units than that, one that is taken is seen to
    /// be missing all the same.
    pub fn free_within(&self, limit: u128) -> u128 {
        let taken = self.total.saturating_sub(self.free);
        self.total.min(limit).saturating_sub(taken)
    }
}

/// The free units of a pool, and who holds what.
///
/// **Guarantees.** Everything that is held blocks every unit that it touches, whether the pool could have allocated it
/// or not, until the last of its holders is gone. What is allocated is the lowest unit that nothing blocks.
///
/// **Cost.** O(log n) for everything that holds one unit, as all objects of IP pools do. Holding or releasing a prefix
/// shorter than the pool allocates takes O(log n) for each fragment and holder inside that prefix; its units are never
/// counted one by one. [`Ledger::rebuild`] and [`Ledger::set_pool`] are bulk operations, O(n log n).
#[derive(Clone)]
pub struct Ledger<H: Holder> {
    pool: Pool,
    held: HashMap<H, Held>,
    index: Index<H>,
    free: Fragments,
    /// Allocatable units that objects hold.
    taken: u128,
    used: u64,
    out_of_range: u64,
}

impl<H: Holder> Ledger<H> {
    /// A ledger in which nothing is held.
    pub fn new(pool: Pool) -> Self {
        Self::rebuild(pool, [])
    }

    /// The ledger of everything that is held, in bulk. Of two entries of one holder the later counts.
    pub fn rebuild(pool: Pool, held: impl IntoIterator<Item = (H, Held)>) -> Self {
        Self::of(pool, held.into_iter().collect())
    }

    fn of(pool: Pool, held: HashMap<H, Held>) -> Self {
        let index = Index::of(held.iter().map(|(holder, &held)| (pool.place(held), holder.clone())));
        let free = Fragments::of(without(pool.units().spans(), index.inside(Span::ALL, Who::Anyone)));
        let mut ledger = Self { pool, held, index, free, taken: 0, used: 0, out_of_range: 0 };
        ledger.taken = ledger.count_taken();
        for (holder, &held) in &ledger.held {
            if holder.is_object() {
                ledger.used = ledger.used.saturating_add(1);
                let stray = !ledger.pool.allows(held);
                ledger.out_of_range = ledger.out_of_range.saturating_add(u64::from(stray));
            }
        }
        ledger
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Puts another spec in place. All holders keep what they hold, allocatable or not.
    pub fn set_pool(&mut self, pool: Pool) {
        if self.pool != pool {
            *self = Self::of(pool, std::mem::take(&mut self.held));
        }
    }

    /// Notes what a holder holds: any address, allocatable or not, also one that others hold. A holder holds one thing;
    /// what it held before is released and returned.
    pub fn hold(&mut self, holder: H, held: Held) -> Option<Held> {
        let before = self.held_by(&holder);
        if before != Some(held) {
            self.release(&holder);
            self.insert(holder, held);
        }
        before
    }

    fn insert(&mut self, holder: H, held: Held) {
        if holder.is_object() {
            self.used = self.used.saturating_add(1);
            self.out_of_range = self.out_of_range.saturating_add(u64::from(!self.pool.allows(held)));
        }
        let place = self.pool.place(held);
        self.held.insert(holder.clone(), held);
        let Change { anyone, objects } = self.index.add(place, holder);
        let Some(span) = span(place) else { return };
        if anyone {
            self.free.remove(span);
        }
        if objects && !self.index.is_inside_block(span, Who::Objects) {
            self.taken = self.taken.saturating_add(self.taken_by(place));
        }
    }

    /// Forgets a holder, and returns what it held.
    pub fn release(&mut self, holder: &H) -> Option<Held> {
        let held = self.held.remove(holder)?;
        if holder.is_object() {
            self.used = self.used.saturating_sub(1);
            self.out_of_range = self.out_of_range.saturating_sub(u64::from(!self.pool.allows(held)));
        }
        let place = self.pool.place(held);
        let Change { anyone, objects } = self.index.remove(place, holder);
        if let Some(span) = span(place) {
            if anyone && !self.index.is_inside_block(span, Who::Anyone) {
                self.reopen(place);
            }
            if objects && !self.index.is_inside_block(span, Who::Objects) {
                // Only where one pool has all of IPv6 and all of it is held does the number saturate.
                self.taken = match self.taken {
                    u128::MAX => self.count_taken(),
                    taken => taken.saturating_sub(self.taken_by(place)),
                };
            }
        }
        Some(held)
    }

    /// Frees the allocatable units of a place that has lost its last holder, but for those that are held inside it.
    fn reopen(&mut self, place: Place) {
        match place {
            Place::Unit(unit) if self.pool.units().contains(unit) => self.free.add(Span::one(unit)),
            Place::Unit(_) | Place::Foreign(_) => {}
            Place::Block(block) => {
                let blocked = self.index.inside(block, Who::Anyone);
                for span in without(self.pool.units().within(block), blocked) {
                    self.free.add(span);
                }
            }
        }
    }

    /// The allocatable units of a place that become taken, or not, with the place's own first or last object: all but
    /// those that objects inside it hold.
    fn taken_by(&self, place: Place) -> u128 {
        match place {
            Place::Unit(unit) => u128::from(self.pool.units().contains(unit)),
            Place::Foreign(_) => 0,
            Place::Block(block) => {
                let inside = self.index.inside(block, Who::Objects).filter(|&span| span != block);
                count(without(self.pool.units().within(block), inside))
            }
        }
    }

    /// The allocatable units that objects hold, from scratch.
    fn count_taken(&self) -> u128 {
        count(intersection(self.pool.units().spans(), self.index.inside(Span::ALL, Who::Objects)))
    }

    /// What a holder holds.
    pub fn held_by(&self, holder: &H) -> Option<Held> {
        self.held.get(holder).copied()
    }

    /// What [`Self::allocate`] would allocate.
    pub fn lowest_free(&self) -> Option<Held> {
        self.free.lowest().map(|unit| self.pool.unit(unit))
    }

    /// First fit (rule B1): the lowest free unit is now the holder's. `None` if the pool is full. A holder that holds
    /// something keeps that, and gets it as the answer.
    pub fn allocate(&mut self, holder: H) -> Option<Held> {
        if let Some(held) = self.held_by(&holder) {
            return Some(held);
        }
        let held = self.lowest_free()?;
        self.insert(holder, held);
        Some(held)
    }

    /// Whether this could be allocated: the pool allows it and nothing blocks it.
    pub fn is_free(&self, held: Held) -> bool {
        match self.pool.place(held) {
            Place::Unit(unit) => self.pool.allows(held) && self.free.contains(unit),
            Place::Block(_) | Place::Foreign(_) => false,
        }
    }

    /// Who holds an address. In a prefix pool that is everybody whose prefix includes it.
    pub fn holders_of(&self, address: IpAddr) -> impl Iterator<Item = &H> {
        let slots = self.index.slots_around(self.pool.place_of(address));
        let holders = slots.flat_map(slot::Slot::iter);
        holders.filter(move |holder| self.held_by(holder).is_some_and(|held| self.pool.includes(held, address)))
    }

    /// All holders and what they hold, in an order that depends on nothing else: by address, with prefixes that are
    /// shorter than the pool allocates, and then addresses of the other family, after the rest.
    pub fn holders(&self) -> impl Iterator<Item = (&H, Held)> {
        self.index.holders().filter_map(|holder| Some((holder, self.held_by(holder)?)))
    }

    /// How many holders there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The counts of the pool's status. O(1).
    pub fn counts(&self) -> Counts {
        let total = self.pool.total();
        let free = total.saturating_sub(self.taken);
        Counts { total, free, used: self.used, out_of_range: self.out_of_range }
    }
}

impl<H: Holder + fmt::Debug> fmt::Debug for Ledger<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.holders()).finish()
    }
}

fn span(place: Place) -> Option<Span> {
    match place {
        Place::Unit(unit) => Some(Span::one(unit)),
        Place::Block(block) => Some(block),
        Place::Foreign(_) => None,
    }
}
