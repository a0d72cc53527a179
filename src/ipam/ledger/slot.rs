//! Who holds one place: nearly always a single holder.

use super::Holder;
use std::collections::BTreeSet;

/// The holders of one place, never none.
#[derive(Clone)]
pub(super) enum Slot<H> {
    One(H),
    /// An address that is held twice and more, for example by an object and by the intent that it came from.
    Many(Box<Crowd<H>>),
}

/// Any number of holders, adding and removing in O(log holders): nothing keeps people from writing one address into a
/// hundred thousand objects.
#[derive(Clone)]
pub(super) struct Crowd<H> {
    holders: BTreeSet<H>,
    objects: usize,
}

impl<H: Holder> Slot<H> {
    /// How many of the holders are objects.
    pub(super) fn objects(&self) -> usize {
        match self {
            Self::One(holder) => usize::from(holder.is_object()),
            Self::Many(crowd) => crowd.objects,
        }
    }

    pub(super) fn add(&mut self, holder: H) {
        let one = match self {
            Self::Many(crowd) => return crowd.add(holder),
            Self::One(one) => one.clone(),
        };
        let mut crowd = Crowd { holders: BTreeSet::new(), objects: 0 };
        crowd.add(one);
        crowd.add(holder);
        *self = Self::Many(Box::new(crowd));
    }

    /// Takes a holder out; false when the place has no holder left, and the slot is to go.
    pub(super) fn remove(&mut self, holder: &H) -> bool {
        match self {
            Self::One(one) => one != holder,
            Self::Many(crowd) => {
                crowd.remove(holder);
                !crowd.holders.is_empty()
            }
        }
    }

    /// The holders, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &H> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(crowd) => (None, Some(&crowd.holders)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<H: Holder> Crowd<H> {
    fn add(&mut self, holder: H) {
        let object = holder.is_object();
        if self.holders.insert(holder) && object {
            self.objects = self.objects.saturating_add(1);
        }
    }

    fn remove(&mut self, holder: &H) {
        if self.holders.remove(holder) && holder.is_object() {
            self.objects = self.objects.saturating_sub(1);
        }
    }
}
