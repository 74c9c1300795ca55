//! A part of the keys under a lock of its own: their entries, and which of them are to be looked at next.
use std::{
    collections::{HashMap, hash_map::Entry as Place},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use super::{
    deadlines::{Deadlines, Due, NEVER},
    lists::Lists,
    usage::{Lacking, Usage},
};
use crate::{
    cache::{Deleted, Entry, Expiry, Replaced, Version},
    clock::{millis, millis_since_epoch},
};

/// What an entry takes beside its key and its value: its slot and its share of the empty ones, its item among the
/// deadlines, the count of its readers and the allocator's share.
pub(super) const OVERHEAD: usize = 192;
/// Every operation looks at up to so many due slots and members of its own shard first.
const OWN: usize = 4;
/// One operation in so many also helps another shard.
const HELP_EVERY: u32 = 8;

/// Aligned so that two shards share no cache line, nor the pair of lines that processors fetch together.
#[repr(align(128))]
pub(super) struct Shard {
    /// The first time at which something is due, readable without the lock.
    next_due: AtomicU64,
    contents: Mutex<Contents>,
}

pub(super) struct Contents {
    pub(super) table: Table,
    pub(super) lists: Lists,
    operations: u32,
}

impl Contents {
    fn next_due(&self) -> u64 {
        self.table.next_due().min(self.lists.next_due())
    }

    fn sweep(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let seen = self.table.sweep(now, most, usage);
        seen + self.lists.sweep(now, most - seen, usage)
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        let contents = Contents { table: Table::new(), lists: Lists::new(), operations: 0 };
        Self { next_due: AtomicU64::new(NEVER), contents: Mutex::new(contents) }
    }

    /// Calls `f` under the lock. The second answer counts up when it is this operation's turn to help another shard.
    pub(super) fn with<T>(&self, now: u64, usage: &Usage, f: impl FnOnce(&mut Contents) -> T) -> (T, Option<u32>) {
        let mut contents = self.lock();
        if self.is_due(now) {
            contents.sweep(now, OWN, usage);
        }
        let answer = f(&mut contents);
        contents.operations = contents.operations.wrapping_add(1);
        let operations = contents.operations;
        self.publish(&contents);
        (answer, operations.is_multiple_of(HELP_EVERY).then_some(operations / HELP_EVERY))
    }

    /// Whether there is something to look at.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.next_due.load(Relaxed) <= now
    }

    /// Looks at up to `most` due slots and members, drops those whose time is over, and returns at how many it looked.
    pub(super) fn sweep(&self, now: u64, most: usize, usage: &Usage) -> usize {
        self.sweep_locked(self.lock(), now, most, usage)
    }

    /// As [`sweep`](Self::sweep), unless another thread is at work here.
    pub(super) fn try_sweep(&self, now: u64, most: usize, usage: &Usage) {
        let contents = match self.contents.try_lock() {
            Ok(contents) => contents,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.sweep_locked(contents, now, most, usage);
    }

    fn sweep_locked(&self, mut contents: MutexGuard<'_, Contents>, now: u64, most: usize, usage: &Usage) -> usize {
        let seen = contents.sweep(now, most, usage);
        self.publish(&contents);
        seen
    }

    /// Nothing panics while a shard is locked; if it did, the shard would still be whole.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, contents: &Contents) {
        let next = contents.next_due();
        if self.next_due.load(Relaxed) != next {
            self.next_due.store(next, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        self.lock().table.sizes()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.lock().table.capacity()
    }

    #[cfg(test)]
    pub(super) fn poison(&self) {
        let panics = || {
            let _contents = self.contents.lock();
            panic!("on purpose");
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
    }
}

/// Where an operation looks, and when.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) key: &'a str,
    pub(super) hash: u64,
    pub(super) now: u64,
}

/// The entries of one shard, and the order in which they end. Every caller holds the shard's lock.
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
    Occupied,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { slots: HashMap::default(), deadlines: Deadlines::new() }
    }

    /// When the next slot is to be looked at.
    pub(super) const fn next_due(&self) -> u64 {
        self.deadlines.first()
    }

    pub(super) fn get(&mut self, query: Query<'_>, usage: &Usage) -> Option<Entry> {
        self.live(query, usage, |slot| slot.entry())
    }

    /// The entry, with its idle time restarted if that started `after` milliseconds ago or earlier.
    pub(super) fn get_and_touch(&mut self, query: Query<'_>, after: u64, usage: &Usage) -> Option<Entry> {
        self.live(query, usage, |slot| {
            slot.touch(query.now, after);
            slot.entry()
        })
    }

    pub(super) fn touch(&mut self, query: Query<'_>, usage: &Usage) -> bool {
        self.live(query, usage, |slot| slot.touch(query.now, 0)).is_some()
    }

    /// `Err` gives the slot back: there is no room. `reserved`: the room is taken already.
    pub(super) fn insert(
        &mut self,
        query: Query<'_>,
        new: Slot,
        reserved: bool,
        usage: &Usage,
    ) -> Result<Inserted, Slot> {
        let place = match self.slots.entry(query.hash) {
            Place::Vacant(place) => place,
            Place::Occupied(slot) if slot.get().deadline() > query.now => {
                let is_same = slot.get().version == new.version;
                return Ok(if is_same { Inserted::Unneeded } else { Inserted::Occupied });
            }
            Place::Occupied(_) => {
                self.remove(query.hash, usage);
                return self.insert(query, new, reserved, usage);
            }
        };
        if new.queued <= query.now {
            return Ok(Inserted::Unneeded);
        }
        if !reserved && !usage.reserve(1, new.cost()) {
            return Err(new);
        }
        self.deadlines.push(Due { at: new.queued, hash: query.hash });
        place.insert(new);
        self.tidy();
        Ok(Inserted::Written)
    }

    /// Up to `reserved` bytes are taken already. The bytes that were there are left in `new`, to be freed outside of the lock.
    pub(super) fn replace(
        &mut self,
        query: Query<'_>,
        expected: Version,
        new: &mut Slot,
        reserved: usize,
        usage: &Usage,
    ) -> Result<Replaced, Lacking> {
        let ended = new.queued <= query.now;
        let replaced = self.live(query, usage, |slot| {
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
            self.remove(query.hash, usage);
        }
        Ok(replaced)
    }

    pub(super) fn delete(&mut self, query: Query<'_>, expected: Version, usage: &Usage) -> Deleted {
        match self.live(query, usage, |slot| (slot.version != expected).then(|| slot.entry())) {
            None => Deleted::Missing,
            Some(Some(other)) => Deleted::Conflict(other),
            Some(None) => {
                self.remove(query.hash, usage);
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
    fn live<T>(&mut self, query: Query<'_>, usage: &Usage, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(&query.hash).filter(|slot| slot.is_of(query.key))?;
        if slot.deadline() <= query.now {
            self.remove(query.hash, usage);
            return None;
        }
        let answer = f(slot);
        // The slot is looked at no later than at its deadline, which may be sooner now.
        let deadline = slot.deadline();
        if deadline < slot.queued {
            slot.queued = deadline;
            self.deadlines.push(Due { at: deadline, hash: query.hash });
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

/// An entry in its place in a table.
pub(super) struct Slot {
    /// Key and value in one allocation. A copy: the bytes that came in may be a small part of a large buffer, which nothing
    /// here could account for.
    text: Bytes,
    key_length: usize,
    pub(super) version: Version,
    /// The idle time and the end of the lifetime, in milliseconds.
    idle: u64,
    end: u64,
    /// When its idle time started last.
    started: u64,
    /// When the item among the deadlines comes up that stands for it: no later than its deadline.
    pub(super) queued: u64,
}

impl Slot {
    pub(super) fn new(key: &str, entry: &Entry, expiry: Expiry, now: u64) -> Self {
        let mut slot = Self {
            text: [key.as_bytes(), &entry.value].concat().into(),
            key_length: key.len(),
            version: entry.version,
            idle: millis(expiry.idle),
            end: millis_since_epoch(expiry.end),
            started: now,
            queued: 0,
        };
        slot.queued = slot.deadline();
        slot
    }

    pub(super) fn is_of(&self, key: &str) -> bool {
        self.text.get(..self.key_length) == Some(key.as_bytes())
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { value: self.text.slice(self.key_length..), version: self.version }
    }

    /// When it ends unless it is touched.
    pub(super) fn deadline(&self) -> u64 {
        self.started.saturating_add(self.idle).min(self.end)
    }

    /// Restarts the idle time if it started `after` milliseconds ago or earlier.
    pub(super) fn touch(&mut self, now: u64, after: u64) {
        if now.saturating_sub(self.started) >= after {
            self.started = now;
        }
    }

    /// Becomes `other`, and the other way round, but for the time at which the deadlines look at it.
    pub(super) fn swap(&mut self, other: &mut Self) {
        std::mem::swap(self, other);
        std::mem::swap(&mut self.queued, &mut other.queued);
    }

    /// What it counts for against the bound on bytes.
    pub(super) fn cost(&self) -> usize {
        self.text.len().saturating_add(OVERHEAD)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::time_of;

    #[test]
    fn of_two_keys_with_one_hash_the_second_is_taken_and_finds_nothing() {
        let (mut table, usage) = (Table::new(), Usage::new(10, usize::MAX));
        let [first, second] = ["first", "second"].map(|key| Query { key, hash: 7, now: 1000 });
        let slot = |query: Query<'_>| {
            let expiry = Expiry::new(Duration::from_secs(1), time_of(5000));
            Slot::new(query.key, &Entry::new("value".into(), Version::unique()), expiry, query.now)
        };
        assert!(matches!(table.insert(first, slot(first), false, &usage), Ok(Inserted::Written)));
        assert!(matches!(table.insert(second, slot(second), false, &usage), Ok(Inserted::Occupied)));
        let version = table.get(first, &usage).unwrap().version;
        assert_eq!(table.get(second, &usage), None);
        assert_eq!(table.replace(second, version, &mut slot(second), 0, &usage).ok(), Some(Replaced::Missing));
        assert_eq!(table.delete(second, version, &usage), Deleted::Missing);
        let second = Query { now: 2000, ..second };
        assert!(matches!(table.insert(second, slot(second), false, &usage), Ok(Inserted::Written)));
        assert_eq!(table.get(Query { now: 2000, ..first }, &usage), None);
        assert_eq!(usage.entries(), 1);
    }
}
