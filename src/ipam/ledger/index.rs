//! Where the holders of a ledger stand.

use super::super::pool::Place;
use super::super::span::Span;
use super::super::sweep::merged;
use super::Holder;
use super::slot::Slot;
use std::collections::{BTreeMap, btree_map};
use std::net::IpAddr;

/// Whose holds count in a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// Objects and promises.
    Anyone,
    /// Objects alone.
    Objects,
}

/// What adding or removing a holder did to the place itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    /// The place got its first holder, or lost its last.
    pub(super) anyone: bool,
    /// The place got its first object, or lost its last.
    pub(super) objects: bool,
}

/// Holders by place.
///
/// Blocks are aligned, so two of them are nested or disjoint: whether something lies in a block is answered by one
/// look-up for each block size that occurs, and there are at most 128 sizes, mostly none or one.
#[derive(Clone)]
pub(super) struct Index<H> {
    units: BTreeMap<u128, Slot<H>>,
    blocks: BTreeMap<Span, Slot<H>>,
    /// How many places of each block size there are, by the block's mask.
    sizes: BTreeMap<u128, usize>,
    foreign: BTreeMap<IpAddr, Slot<H>>,
}

impl<H: Holder> Index<H> {
    /// All at once, which is much faster than one by one.
    pub(super) fn of(places: impl Iterator<Item = (Place, H)>) -> Self {
        let (mut units, mut others) = (Vec::with_capacity(places.size_hint().0), Vec::new());
        for (place, holder) in places {
            match place {
                Place::Unit(unit) => units.push((unit, holder)),
                other => others.push((other, holder)),
            }
        }
        units.sort_unstable_by_key(|&(unit, _)| unit);
        let mut slots: Vec<(u128, Slot<H>)> = Vec::with_capacity(units.len());
        for (unit, holder) in units {
            match slots.last_mut().filter(|(last, _)| *last == unit) {
                Some((_, slot)) => slot.add(holder),
                None => slots.push((unit, Slot::One(holder))),
            }
        }
        let mut index = Self {
            units: slots.into_iter().collect(),
            blocks: BTreeMap::new(),
            sizes: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        for (place, holder) in others {
            index.add(place, holder);
        }
        index
    }

    pub(super) fn add(&mut self, place: Place, holder: H) -> Change {
        match place {
            Place::Unit(unit) => add(self.units.entry(unit), holder),
            Place::Foreign(address) => add(self.foreign.entry(address), holder),
            Place::Block(block) => {
                let change = add(self.blocks.entry(block), holder);
                if change.anyone {
                    let places = self.sizes.entry(block.mask()).or_default();
                    *places = places.saturating_add(1);
                }
                change
            }
        }
    }

    pub(super) fn remove(&mut self, place: Place, holder: &H) -> Change {
        match place {
            Place::Unit(unit) => remove(self.units.entry(unit), holder),
            Place::Foreign(address) => remove(self.foreign.entry(address), holder),
            Place::Block(block) => {
                let change = remove(self.blocks.entry(block), holder);
                if change.anyone {
                    self.forget_size(block.mask());
                }
                change
            }
        }
    }

    fn forget_size(&mut self, mask: u128) {
        if let btree_map::Entry::Occupied(mut places) = self.sizes.entry(mask) {
            *places.get_mut() = places.get().saturating_sub(1);
            if *places.get() == 0 {
                places.remove();
            }
        }
    }

    /// Whether a held block includes the span, which is a unit or a block, and is larger.
    pub(super) fn is_inside_block(&self, span: Span, who: Who) -> bool {
        let larger = self.sizes.keys().rev().take_while(|&&mask| mask > span.mask());
        larger.into_iter().any(|&mask| {
            let block = self.blocks.get(&Span::block(span.first(), mask));
            block.is_some_and(|slot| who == Who::Anyone || slot.objects() > 0)
        })
    }

    /// The held units and blocks inside a span, in order. They overlap where blocks are nested.
    pub(super) fn inside(&self, span: Span, who: Who) -> impl Iterator<Item = Span> {
        let counts = move |slot: &Slot<H>| who == Who::Anyone || slot.objects() > 0;
        let units = self.units.range(span.first()..=span.last()).filter(move |(_, slot)| counts(slot));
        // In the order of spans, a block comes before those inside it.
        let blocks = self.blocks.range(span..).take_while(move |(block, _)| block.first() <= span.last());
        let blocks = blocks.filter(move |(_, slot)| counts(slot)).map(|(&block, _)| block);
        merged(units.map(|(&unit, _)| Span::one(unit)), blocks)
    }

    /// The slots that an address may be in: its unit's, those of the blocks around it, or the foreign address' own.
    pub(super) fn slots_around(&self, place: Place) -> impl Iterator<Item = &Slot<H>> {
        let (unit, foreign) = match place {
            Place::Unit(unit) => (Some(unit), None),
            Place::Block(block) => (Some(block.first()), None),
            Place::Foreign(address) => (None, self.foreign.get(&address)),
        };
        let blocks = unit
            .into_iter()
            .flat_map(move |unit| self.sizes.keys().filter_map(move |&mask| self.blocks.get(&Span::block(unit, mask))));
        unit.and_then(|unit| self.units.get(&unit)).into_iter().chain(blocks).chain(foreign)
    }

    /// All holders: those of units, of blocks and of foreign addresses, each in order.
    pub(super) fn holders(&self) -> impl Iterator<Item = &H> {
        let units = self.units.values().flat_map(Slot::iter);
        units.chain(self.blocks.values().flat_map(Slot::iter)).chain(self.foreign.values().flat_map(Slot::iter))
    }
}

fn add<K: Ord, H: Holder>(entry: btree_map::Entry<'_, K, Slot<H>>, holder: H) -> Change {
    let object = holder.is_object();
    match entry {
        btree_map::Entry::Vacant(vacant) => {
            vacant.insert(Slot::One(holder));
            Change { anyone: true, objects: object }
        }
        btree_map::Entry::Occupied(mut occupied) => {
            let objects = object && occupied.get().objects() == 0;
            occupied.get_mut().add(holder);
            Change { anyone: false, objects }
        }
    }
}

fn remove<K: Ord, H: Holder>(entry: btree_map::Entry<'_, K, Slot<H>>, holder: &H) -> Change {
    let btree_map::Entry::Occupied(mut occupied) = entry else {
        return Change { anyone: false, objects: false };
    };
    let before = occupied.get().objects();
    if occupied.get_mut().remove(holder) {
        Change { anyone: false, objects: before > 0 && occupied.get().objects() == 0 }
    } else {
        occupied.remove();
        Change { anyone: true, objects: before > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Object(u8);

    impl Holder for Object {
        fn is_object(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_block_size_is_looked_for_as_long_as_there_is_a_block_of_it() {
        let mut index = Index::of(std::iter::empty());
        let [low, high] = [0_u128, 8].map(|unit| Place::Block(Span::block(unit, 7)));
        for (holder, place) in [low, high, high].into_iter().enumerate() {
            index.add(place, Object(u8::try_from(holder).expect("three holders")));
        }
        assert_eq!(index.sizes, BTreeMap::from([(7, 2)]));
        index.remove(high, &Object(1));
        index.remove(low, &Object(0));
        assert_eq!(index.sizes, BTreeMap::from([(7, 1)]));
        index.remove(high, &Object(2));
        assert_eq!(index.sizes, BTreeMap::new());
    }
}
