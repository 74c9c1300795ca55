//! The entries of one shard, and the order in which they end. Every caller holds the shard's lock.
use std::{
    collections::{HashMap, hash_map::Entry as Place},
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    deadlines::{Deadlines, Due},
    slot::Slot,
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
    /// By the hash of the key, so that a table that grows reads no keys. Two keys of one hash, for which the chance of each
    /// pair is 2⁻⁶⁴, are never there at the same time: the second is refused like one that is taken.
    slots: HashMap<u64, Slot, BuildHasherDefault<Hashed>>,
    deadlines: Deadlines,
}

/// The hasher of what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "{bytes:?} are no hash");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What came of an insert.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    Written,
    /// Nothing was written: an earlier try of the same write is there, or its time is over already.
    Unneeded,
    Taken,
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

    pub(super) fn get(&mut self, at: At<'_>, usage: &Usage) -> Option<Entry> {
        self.live(at, usage, |slot| slot.entry())
    }

    /// The entry, with its idle time restarted if that started `after` milliseconds ago or earlier.
    pub(super) fn get_and_touch(&mut self, at: At<'_>, after: u64, usage: &Usage) -> Option<Entry> {
        self.live(at, usage, |slot| {
            slot.touch(at.now, after);
            slot.entry()
        })
    }

    pub(super) fn touch(&mut self, at: At<'_>, usage: &Usage) -> bool {
        self.live(at, usage, |slot| slot.touch(at.now, 0)).is_some()
    }

    /// `Err` gives the slot back: there is no room. `reserved`: the room is taken already.
    pub(super) fn insert(&mut self, at: At<'_>, new: Slot, reserved: bool, usage: &Usage) -> Result<Inserted, Slot> {
        let place = match self.slots.entry(at.hash) {
            Place::Vacant(place) => place,
            Place::Occupied(slot) if slot.get().deadline() > at.now => {
                let is_same = slot.get().version == new.version;
                return Ok(if is_same { Inserted::Unneeded } else { Inserted::Taken });
            }
            Place::Occupied(_) => {
                self.remove(at.hash, usage);
                return self.insert(at, new, reserved, usage);
            }
        };
        if new.queued <= at.now {
            return Ok(Inserted::Unneeded);
        }
        if !reserved && !usage.reserve(1, new.cost()) {
            return Err(new);
        }
        self.deadlines.push(Due { at: new.queued, hash: at.hash });
        place.insert(new);
        self.tidy();
        Ok(Inserted::Written)
    }

    /// Up to `reserved` bytes are taken already. The bytes that were there are left in `new`, to be freed outside of the lock.
    pub(super) fn replace(
        &mut self,
        at: At<'_>,
        expected: Version,
        new: &mut Slot,
        reserved: usize,
        usage: &Usage,
    ) -> Result<Replaced, Lacking> {
        let ended = new.queued <= at.now;
        let replaced = self.live(at, usage, |slot| {
            if slot.version == new.version {
                return Ok(Replaced::Done);
            }
            if slot.version != expected {
                return Ok(Replaced::Conflict(slot.entry()));
            }
            if ended {
                return Ok(Replaced::Done);
            }
            let (old, bytes) = (slot.cost(), new.cost());
            let more = bytes.saturating_sub(old);
            if more > reserved && !usage.reserve(0, more) {
                return Err(Lacking(more));
            }
            slot.swap(new);
            usage.release(0, old.saturating_sub(bytes));
            Ok(Replaced::Done)
        });
        let replaced = replaced.unwrap_or(Ok(Replaced::Missing))?;
        if ended && replaced == Replaced::Done {
            self.remove(at.hash, usage);
        }
        Ok(replaced)
    }

    pub(super) fn delete(&mut self, at: At<'_>, expected: Version, usage: &Usage) -> Deleted {
        match self.live(at, usage, |slot| (slot.version != expected).then(|| slot.entry())) {
            None => Deleted::Missing,
            Some(Some(other)) => Deleted::Conflict(other),
            Some(None) => {
                self.remove(at.hash, usage);
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
            let Some(slot) = self.slots.get_mut(&due.hash).filter(|slot| slot.queued == due.at) else { continue };
            let deadline = slot.deadline();
            if deadline <= now {
                self.remove(due.hash, usage);
            } else {
                slot.queued = deadline;
                self.deadlines.push(Due { at: deadline, ..due });
            }
        }
        self.tidy();
        seen
    }

    /// Calls `f` with the live slot. One whose time is over is removed as it is seen: no change of the clock revives it.
    fn live<T>(&mut self, at: At<'_>, usage: &Usage, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(&at.hash).filter(|slot| slot.is_of(at.key))?;
        if slot.deadline() <= at.now {
            self.remove(at.hash, usage);
            return None;
        }
        let answer = f(slot);
        // The slot is looked at no later than at its deadline, which may be sooner now.
        let deadline = slot.deadline();
        if deadline < slot.queued {
            slot.queued = deadline;
            self.deadlines.push(Due { at: deadline, hash: at.hash });
            self.tidy();
        }
        Some(answer)
    }

    fn remove(&mut self, hash: u64, usage: &Usage) {
        if let Some(slot) = self.slots.remove(&hash) {
            let bytes = slot.cost();
            drop(slot);
            usage.release(1, bytes);
            self.tidy();
        }
    }

    /// Keeps what is left over among the deadlines, and empty memory, in proportion to the slots.
    fn tidy(&mut self) {
        let slots = self.slots.len();
        if self.deadlines.len() > 2 * slots + 64 {
            self.deadlines.refill(self.slots.iter().map(|(hash, slot)| Due { at: slot.queued, hash: *hash }));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cache::Expiry, clock::time_of};

    #[test]
    fn of_two_keys_with_one_hash_the_second_is_taken_and_finds_nothing() {
        let (mut table, usage) = (Table::new(), Usage::new(10, usize::MAX));
        let [first, second] = ["first", "second"].map(|key| At { key, hash: 7, now: 1000 });
        let slot = |at: At<'_>| {
            let expiry = Expiry::new(Duration::from_secs(1), time_of(5000));
            Slot::new(at.key, &Entry::new("value".into(), Version::unique()), expiry, at.now)
        };
        assert!(matches!(table.insert(first, slot(first), false, &usage), Ok(Inserted::Written)));
        assert!(matches!(table.insert(second, slot(second), false, &usage), Ok(Inserted::Taken)));
        let version = table.get(first, &usage).unwrap().version;
        assert_eq!(table.get(second, &usage), None);
        assert_eq!(table.replace(second, version, &mut slot(second), 0, &usage).ok(), Some(Replaced::Missing));
        assert_eq!(table.delete(second, version, &usage), Deleted::Missing);
        let second = At { now: 2000, ..second };
        assert!(matches!(table.insert(second, slot(second), false, &usage), Ok(Inserted::Written)));
        assert_eq!(table.get(At { now: 2000, ..first }, &usage), None);
        assert_eq!(usage.entries(), 1);
    }
}
