//! The entries of one shard, and the order in which they end. Every caller holds the shard's lock.
use std::{
    collections::{
        HashMap,
        hash_map::{Entry as Place, RandomState},
    },
    sync::Arc,
};

use bytes::Bytes;

use super::{
    deadlines::{Deadlines, Due},
    usage::Usage,
};
use crate::{
    cache::{Deleted, Entry, Expiry, Replaced, Version},
    clock::{millis, millis_since_epoch},
};

/// What an entry takes beside its key and its value: its slot and its share of the empty ones, its item among the
/// deadlines, the counts of the two allocations and the allocator's share.
pub(super) const OVERHEAD: usize = 224;

pub(super) struct Table {
    /// Hashed with a key drawn at random: an attacker cannot choose keys that collide.
    slots: HashMap<Arc<str>, Slot, RandomState>,
    deadlines: Deadlines,
}

struct Slot {
    value: Bytes,
    version: Version,
    lifetime: Lifetime,
    /// When its idle time started last.
    started: u64,
    /// When the item among the deadlines comes up that stands for it: no later than its deadline.
    queued: u64,
}

/// How long an entry lives, in milliseconds.
#[derive(Clone, Copy)]
struct Lifetime {
    idle: u64,
    end: u64,
}

impl Lifetime {
    fn deadline(self, started: u64) -> u64 {
        started.saturating_add(self.idle).min(self.end)
    }
}

impl From<Expiry> for Lifetime {
    fn from(expiry: Expiry) -> Self {
        Self { idle: millis(expiry.idle), end: millis_since_epoch(expiry.end) }
    }
}

impl Slot {
    fn deadline(&self) -> u64 {
        self.lifetime.deadline(self.started)
    }

    fn entry(&self) -> Entry {
        Entry { value: self.value.clone(), version: self.version }
    }
}

/// An entry to be written.
pub(super) struct Write {
    /// A copy: the bytes that came in may be a small part of a large buffer, which nothing here could account for.
    pub(super) value: Bytes,
    version: Version,
    lifetime: Lifetime,
}

impl Write {
    pub(super) fn new(entry: &Entry, expiry: Expiry) -> Self {
        let value = Bytes::copy_from_slice(&entry.value);
        Self { value, version: entry.version, lifetime: expiry.into() }
    }
}

/// What came of an insert.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    Written,
    /// Nothing was written: an earlier try of the same write is there, or its time is over already.
    Unneeded,
    Taken,
    /// Nothing was written: there is no room.
    Full,
}

/// What came of a replacement that did not end with an answer: so many more bytes were needed.
pub(super) struct Lacking(pub(super) usize);

impl Table {
    pub(super) fn new() -> Self {
        Self { slots: HashMap::default(), deadlines: Deadlines::new() }
    }

    /// When the next slot is to be looked at.
    pub(super) const fn next_due(&self) -> u64 {
        self.deadlines.first()
    }

    pub(super) fn get(&mut self, key: &str, now: u64, usage: &Usage) -> Option<Entry> {
        self.live(key, now, usage, |slot, _| slot.entry())
    }

    /// The entry, with its idle time restarted if that started `after` milliseconds ago or earlier.
    pub(super) fn get_and_touch(&mut self, key: &str, now: u64, after: u64, usage: &Usage) -> Option<Entry> {
        self.live(key, now, usage, |slot, deadlines| {
            if now.saturating_sub(slot.started) >= after {
                restart(key, slot, now, deadlines);
            }
            slot.entry()
        })
    }

    pub(super) fn touch(&mut self, key: &str, now: u64, usage: &Usage) -> bool {
        self.live(key, now, usage, |slot, deadlines| restart(key, slot, now, deadlines)).is_some()
    }

    /// Takes the bytes out of `write` if they are written. `reserved`: the room is taken already.
    pub(super) fn insert(&mut self, key: &str, now: u64, write: &mut Write, reserved: bool, usage: &Usage) -> Inserted {
        let name: Arc<str> = key.into();
        let place = match self.slots.entry(Arc::clone(&name)) {
            Place::Vacant(place) => place,
            Place::Occupied(slot) if slot.get().deadline() > now => {
                let is_same = slot.get().version == write.version;
                return if is_same { Inserted::Unneeded } else { Inserted::Taken };
            }
            Place::Occupied(_) => {
                self.remove(key, usage);
                return self.insert(key, now, write, reserved, usage);
            }
        };
        let queued = write.lifetime.deadline(now);
        if queued <= now {
            return Inserted::Unneeded;
        }
        if !reserved && !usage.reserve(1, cost(key, &write.value)) {
            return Inserted::Full;
        }
        let (version, lifetime) = (write.version, write.lifetime);
        place.insert(Slot { value: std::mem::take(&mut write.value), version, lifetime, started: now, queued });
        self.deadlines.push(Due { at: queued, key: name });
        self.tidy();
        Inserted::Written
    }

    /// Up to `reserved` bytes are taken already. The bytes that were there are left in `write`, to be freed outside of the
    /// lock.
    pub(super) fn replace(
        &mut self,
        key: &str,
        now: u64,
        expected: Version,
        write: &mut Write,
        reserved: usize,
        usage: &Usage,
    ) -> Result<Replaced, Lacking> {
        let ended = write.lifetime.deadline(now) <= now;
        let replaced = self.live(key, now, usage, |slot, deadlines| {
            if slot.version == write.version {
                return Ok(Replaced::Done);
            }
            if slot.version != expected {
                return Ok(Replaced::Conflict(slot.entry()));
            }
            if ended {
                return Ok(Replaced::Done);
            }
            let (old, new) = (slot.value.len(), write.value.len());
            let more = new.saturating_sub(old);
            if more > reserved && !usage.reserve(0, more) {
                return Err(Lacking(more));
            }
            std::mem::swap(&mut slot.value, &mut write.value);
            (slot.version, slot.lifetime) = (write.version, write.lifetime);
            restart(key, slot, now, deadlines);
            usage.release(0, old.saturating_sub(new));
            Ok(Replaced::Done)
        });
        let replaced = replaced.unwrap_or(Ok(Replaced::Missing))?;
        if ended && replaced == Replaced::Done {
            self.remove(key, usage);
        }
        self.tidy();
        Ok(replaced)
    }

    pub(super) fn delete(&mut self, key: &str, now: u64, expected: Version, usage: &Usage) -> Deleted {
        let conflict = |slot: &mut Slot, _: &mut Deadlines| (slot.version != expected).then(|| slot.entry());
        match self.live(key, now, usage, conflict) {
            None => Deleted::Missing,
            Some(Some(other)) => Deleted::Conflict(other),
            Some(None) => {
                self.remove(key, usage);
                self.tidy();
                Deleted::Done
            }
        }
    }

    /// Looks at up to `most` slots that are due, drops those whose time is over, and returns at how many it looked.
    pub(super) fn sweep(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let mut seen = 0;
        while seen < most
            && let Some(due) = self.deadlines.pop(now)
        {
            seen += 1;
            let Some(slot) = self.slots.get_mut(&due.key).filter(|slot| slot.queued == due.at) else { continue };
            let deadline = slot.deadline();
            if deadline <= now {
                self.remove(&due.key, usage);
            } else {
                slot.queued = deadline;
                self.deadlines.push(Due { at: deadline, ..due });
            }
        }
        self.tidy();
        seen
    }

    /// Calls `f` with the live slot. One whose time is over is removed as it is seen: no change of the clock revives it.
    fn live<T>(
        &mut self,
        key: &str,
        now: u64,
        usage: &Usage,
        f: impl FnOnce(&mut Slot, &mut Deadlines) -> T,
    ) -> Option<T> {
        match self.slots.get_mut(key) {
            Some(slot) if slot.deadline() > now => {
                let answer = f(slot, &mut self.deadlines);
                if self.deadlines.len() > 2 * self.slots.len() + 64 {
                    self.tidy();
                }
                Some(answer)
            }
            Some(_) => {
                self.remove(key, usage);
                self.tidy();
                None
            }
            None => None,
        }
    }

    fn remove(&mut self, key: &str, usage: &Usage) {
        if let Some(slot) = self.slots.remove(key) {
            let bytes = cost(key, &slot.value);
            drop(slot);
            usage.release(1, bytes);
        }
    }

    /// Keeps what is left over among the deadlines, and empty memory, in proportion to the slots.
    fn tidy(&mut self) {
        let slots = self.slots.len();
        if self.deadlines.len() > 2 * slots + 64 {
            let due = |(key, slot): (&Arc<str>, &Slot)| Due { at: slot.queued, key: Arc::clone(key) };
            self.deadlines.refill(self.slots.iter().map(due));
        }
        // Late, and then by much: each time asks for memory, while the allocator still sorts what it got back.
        if self.slots.capacity() > 32 * slots + 64 {
            self.slots.shrink_to(slots * 2);
        }
        self.deadlines.shrink();
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.slots.len(), self.deadlines.len())
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }
}

/// What an entry counts for against the bound on bytes.
pub(super) fn cost(key: &str, value: &Bytes) -> usize {
    key.len().saturating_add(value.len()).saturating_add(OVERHEAD)
}

/// Restarts the idle time. The slot is looked at no later than at its deadline.
fn restart(key: &str, slot: &mut Slot, now: u64, deadlines: &mut Deadlines) {
    slot.started = now;
    let deadline = slot.deadline();
    if deadline < slot.queued {
        slot.queued = deadline;
        deadlines.push(Due { at: deadline, key: key.into() });
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn every_table_hashes_with_a_key_of_its_own() {
        let hash = |table: &Table| table.slots.hasher().hash_one("cloakroom:key");
        let first = hash(&Table::new());
        assert!((0..8).all(|_| hash(&Table::new()) != first));
    }
}
