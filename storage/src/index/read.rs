//! What is asked of the index without the disk: what a queue holds, and where certain messages of it stand.
//!
//! Comes in: an owner, and ids. Goes out: entries and places, of what is on disk only.

use super::{Found, Index, OwnerState, Place, Slot, slot_ref};
use crate::checkpoint::{QueueEntry, QueuePhase};
use crate::operation::{MessageId, Owner};
use crate::record::{FlightRecord, OwnerNumber};

impl Index {
    /// Every entry of a queue, in its order.
    pub(crate) fn outline(&self, owner: &Owner) -> Vec<QueueEntry> {
        let Some((_, state)) = self.owner_state(owner) else {
            return Vec::new();
        };
        let queue = &state.queue;
        let is_plain = queue.rare.is_none() && self.fresh.is_empty();
        if !is_plain {
            let (_, places) = self.places(owner, 0, usize::MAX);
            return places.iter().map(|place| self.entry_at(place)).collect();
        }
        let listed = queue.entries.iter().filter(|entry| entry.message_id != 0);
        listed
            .map(|entry| QueueEntry {
                message_id: entry.message_id,
                bytes: self.bytes_of(entry.message_id),
                phase: phase(queue.flights.get(&entry.number)),
            })
            .collect()
    }

    /// Where these messages stand in the owner's queue, in the order asked for, up to the first that does not, or has
    /// more than `bytes_max` before it; with the number the owner has on disk.
    pub(crate) fn places_of(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> (OwnerNumber, Vec<Place>) {
        let Some((slot, state)) = self.owner_state(owner) else {
            return (0, Vec::new());
        };
        let mut places = Vec::with_capacity(message_ids.len());
        let mut bytes = 0;
        for message_id in message_ids {
            let is_durable = !self.fresh.contains_key(message_id);
            let Some(found) = self.find(slot, *message_id).filter(|_| is_durable) else {
                break;
            };
            bytes += u64::from(self.bytes_of(*message_id));
            if bytes > bytes_max && !places.is_empty() {
                break;
            }
            let number = found.number();
            places.push(Place {
                number,
                message_id: *message_id,
                flight: state.queue.flights.get(&number).copied(),
                moved: match found {
                    Found::Listed(_) => None,
                    Found::Moved(number) => state.queue.moved(number).cloned(),
                },
            });
        }
        (state.owner.owner, places)
    }

    /// Groups whose queue holds something, in order.
    pub(crate) fn group_owners(&self) -> Vec<Owner> {
        let mut owners: Vec<Owner> = self
            .groups
            .iter()
            .filter(|(_, slot)| {
                slot_ref(&self.slots, **slot).is_some_and(|state| !state.queue.is_empty())
            })
            .map(|(owner, _)| owner.clone())
            .collect();
        owners.sort_unstable();
        owners
    }

    fn owner_state(&self, owner: &Owner) -> Option<(Slot, &OwnerState)> {
        let slot = self.slot_of(owner)?;
        Some((slot, slot_ref(&self.slots, slot)?))
    }

    fn entry_at(&self, place: &Place) -> QueueEntry {
        let phase = phase(place.flight.as_ref());
        QueueEntry {
            message_id: place.message_id,
            bytes: match phase {
                QueuePhase::Released { .. } => 0,
                _ => self.bytes_of(place.message_id),
            },
            phase,
        }
    }

    fn bytes_of(&self, message_id: MessageId) -> u32 {
        self.messages.get(message_id).map_or(0, super::Held::bytes)
    }
}

fn phase(flight: Option<&FlightRecord>) -> QueuePhase {
    match flight {
        None => QueuePhase::Waiting,
        Some(flight) if flight.released => QueuePhase::Released {
            packet_id: flight.packet_id,
        },
        Some(flight) => QueuePhase::Sent {
            packet_id: flight.packet_id,
        },
    }
}
