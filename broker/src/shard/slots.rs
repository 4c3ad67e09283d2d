//! A slab whose keys carry a generation, so that an id that outlived its owner finds nothing.

/// Values at stable places.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// Puts in what `make` makes of its slot and generation.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u32, u32) -> T) -> (u32, u32) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                value: None,
            });
            u32::try_from(self.slots.len() - 1).expect("a shard has fewer than 4 billion slots")
        });
        let slot = &mut self.slots[place as usize];
        slot.value = Some(make(place, slot.generation));
        (place, slot.generation)
    }

    pub(crate) fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        let entry = self
            .slots
            .get_mut(slot as usize)
            .filter(|entry| entry.generation == generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        self.slots
            .get(slot as usize)
            .filter(|entry| entry.generation == generation)?
            .value
            .as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        self.slots
            .get_mut(slot as usize)
            .filter(|entry| entry.generation == generation)?
            .value
            .as_mut()
    }

    /// Whatever lives in that slot now.
    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_finds_nothing_in_a_slot_that_is_used_again() {
        let mut slots = Slots::default();
        let (slot, generation) = slots.insert(|_, _| 'a');
        assert_eq!(slots.remove(slot, generation), Some('a'));
        let (again, newer) = slots.insert(|_, _| 'b');
        assert_eq!(again, slot);
        assert_eq!(slots.get(slot, generation), None);
        assert_eq!(slots.remove(slot, generation), None);
        assert_eq!(slots.get(slot, newer), Some(&'b'));
    }
}
