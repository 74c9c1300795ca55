//! The entries of one shard, and the order in which they end. Whoever is here holds the shard's lock.
use hashbrown::{HashTable, hash_table::OccupiedEntry};

use super::{
    payload::Payload,
    queue::{Due, Queue},
    slot::{Slot, cost},
    usage::Usage,
};
use crate::cache::{Deleted, Entry, Replaced, Version};

/// Where an operation looks, and when.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) key: &'a str,
    pub(super) hash: u64,
    pub(super) now: u64,
}

pub(super) struct Table {
    slots: HashTable<Slot>,
    queue: Queue,
}

/// What came of an insert.
#[derive(Clone, Copy)]
pub(super) enum Inserted {
    Written,
    /// Nothing was written: an earlier try of the same write is there, or its time is over already.
    Done,
    Taken,
}

impl Inserted {
    pub(super) fn is_there(self) -> bool {
        !matches!(self, Self::Taken)
    }
}

impl Table {
    pub(super) const fn new() -> Self {
        Self { slots: HashTable::new(), queue: Queue::new() }
    }

    /// When the next slot is to be looked at.
    pub(super) const fn next_due(&self) -> u64 {
        self.queue.first()
    }

    pub(super) fn get(&mut self, at: At<'_>, usage: &Usage) -> Option<Entry> {
        Some(self.live(at, usage)?.get().entry())
    }

    /// Restarts the idle time if it started `after` milliseconds ago or earlier, and answers with `view` of the slot.
    pub(super) fn touch<T>(&mut self, at: At<'_>, after: u64, usage: &Usage, view: fn(&Slot) -> T) -> Option<T> {
        let slot = live(&mut self.slots, at, usage)?.into_mut();
        if at.now.saturating_sub(slot.start) >= after {
            slot.start = at.now;
            cover(slot, &mut self.queue);
        }
        let answer = view(slot);
        self.tidy();
        Some(answer)
    }

    /// `Err` gives the payload back: there is no room. `reserved`: the room is taken already.
    pub(super) fn insert(
        &mut self,
        at: At<'_>,
        version: Version,
        payload: Payload,
        reserved: bool,
        usage: &Usage,
    ) -> Result<Inserted, Payload> {
        if let Some(found) = self.live(at, usage) {
            return Ok(if found.get().version == version { Inserted::Done } else { Inserted::Taken });
        }
        let queued = payload.lease().deadline(at.now);
        if queued <= at.now {
            return Ok(Inserted::Done);
        }
        if !reserved && !usage.reserve(1, cost(&payload)) {
            return Err(payload);
        }
        let slot = Slot { payload, version, hash: at.hash, start: at.now, queued };
        self.queue.push(Due { at: queued, hash: at.hash });
        self.slots.insert_unique(at.hash, slot, |slot| slot.hash);
        self.tidy();
        Ok(Inserted::Written)
    }

    /// `Err` is how many bytes are lacking. What was there is left in `payload`, to be freed outside of the lock.
    pub(super) fn replace(
        &mut self,
        at: At<'_>,
        expected: Version,
        version: Version,
        payload: &mut Payload,
        reserved: usize,
        usage: &Usage,
    ) -> Result<Replaced, usize> {
        let Some(found) = live(&mut self.slots, at, usage) else { return Ok(Replaced::Missing) };
        if found.get().version == version {
            return Ok(Replaced::Done);
        }
        if found.get().version != expected {
            return Ok(Replaced::Conflict(found.get().entry()));
        }
        if payload.lease().deadline(at.now) <= at.now {
            release(found, usage);
            self.tidy();
            return Ok(Replaced::Done);
        }
        let slot = found.into_mut();
        let (old, new) = (cost(&slot.payload), cost(payload));
        let more = new.saturating_sub(old);
        if more > reserved && !usage.reserve(0, more) {
            return Err(more);
        }
        std::mem::swap(&mut slot.payload, payload);
        (slot.version, slot.start) = (version, at.now);
        cover(slot, &mut self.queue);
        usage.release(0, old.saturating_sub(new));
        self.tidy();
        Ok(Replaced::Done)
    }

    pub(super) fn delete(&mut self, at: At<'_>, expected: Version, usage: &Usage) -> Deleted {
        let Some(found) = live(&mut self.slots, at, usage) else { return Deleted::Missing };
        if found.get().version != expected {
            return Deleted::Conflict(found.get().entry());
        }
        release(found, usage);
        self.tidy();
        Deleted::Done
    }

    /// Looks at up to `most` slots that are due, drops those whose time is over, and returns at how many it looked.
    pub(super) fn sweep(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let mut seen = 0;
        while seen < most
            && let Some(due) = self.queue.pop(now)
        {
            seen += 1;
            let is_it = |slot: &Slot| slot.hash == due.hash && slot.queued == due.at;
            let Ok(found) = self.slots.find_entry(due.hash, is_it) else { continue };
            let deadline = found.get().deadline();
            if deadline <= now {
                release(found, usage);
            } else {
                found.into_mut().queued = deadline;
                self.queue.push(Due { at: deadline, ..due });
            }
        }
        self.tidy();
        seen
    }

    fn live(&mut self, at: At<'_>, usage: &Usage) -> Option<OccupiedEntry<'_, Slot>> {
        live(&mut self.slots, at, usage)
    }

    /// Keeps what is left over in the queue, and empty memory, in proportion to the slots.
    fn tidy(&mut self) {
        let slots = self.slots.len();
        if self.queue.len() > 2 * slots + 64 {
            self.queue.refill(self.slots.iter().map(|slot| Due { at: slot.queued, hash: slot.hash }));
        }
        // Late, and then by much: each time asks for memory, while the allocator still sorts what it got back.
        if self.slots.capacity() > 32 * slots + 64 {
            self.slots.shrink_to(slots * 2, |slot| slot.hash);
        }
        self.queue.shrink();
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.slots.len(), self.queue.len())
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.slots.capacity()
    }
}

/// The live slot. One whose time is over is removed as it is seen: no turn of the clock brings it back.
fn live<'t>(slots: &'t mut HashTable<Slot>, at: At<'_>, usage: &Usage) -> Option<OccupiedEntry<'t, Slot>> {
    let found = slots.find_entry(at.hash, |slot| slot.is(at.hash, at.key)).ok()?;
    if found.get().deadline() <= at.now {
        release(found, usage);
        return None;
    }
    Some(found)
}

#[cold]
fn release(found: OccupiedEntry<'_, Slot>, usage: &Usage) {
    let (slot, _) = found.remove();
    let bytes = cost(&slot.payload);
    drop(slot);
    usage.release(1, bytes);
}

/// Sees to it that the queue looks at the slot no later than at its deadline.
fn cover(slot: &mut Slot, queue: &mut Queue) {
    let deadline = slot.deadline();
    if deadline < slot.queued {
        slot.queued = deadline;
        queue.push(Due { at: deadline, hash: slot.hash });
    }
}
