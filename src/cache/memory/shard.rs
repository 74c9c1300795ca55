//! One shard: a table of entries, and the order in which they end.
use std::{cmp::Reverse, collections::BinaryHeap};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry as Place};

use crate::cache::{Entry, Version};

/// What an entry costs beside its key and its value: the slot, its place in the queue, and what the table keeps free.
pub(super) const OVERHEAD: usize = 192;

#[derive(Default)]
pub(super) struct Shard {
    table: HashTable<Slot>,
    /// When each entry ends, as far as was known when it was queued. A touch does not move it: it is moved when it is due.
    queue: BinaryHeap<Reverse<Due>>,
    writes: u64,
    calls: u32,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    hash: u64,
    birth: u64,
}

pub(super) struct Slot {
    key: Box<str>,
    hash: u64,
    value: Bytes,
    version: u64,
    /// Tells it from a later entry of the same key.
    birth: u64,
    queued: u64,
    start: u64,
    time: Time,
}

/// An expiry in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) idle: u64,
    pub(super) end: u64,
}

impl Time {
    pub(super) fn deadline(self, start: u64) -> u64 {
        start.saturating_add(self.idle).min(self.end)
    }
}

impl Slot {
    pub(super) fn deadline(&self) -> u64 {
        self.time.deadline(self.start)
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { value: self.value.clone(), version: Version::from(self.version) }
    }

    pub(super) fn version(&self) -> Version {
        Version::from(self.version)
    }

    pub(super) fn restart(&mut self, now: u64, after: u64) {
        if now.saturating_sub(self.start) >= after {
            self.start = now;
        }
    }

    pub(super) fn cost(&self) -> usize {
        cost(&self.key, &self.value)
    }
}

pub(super) fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD
}

/// What a call took out, for the accounts of the whole cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Freed {
    fn add(&mut self, slot: &Slot) {
        self.entries += 1;
        self.bytes += slot.cost();
    }
}

impl Shard {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Every now and then it is another shard's turn to be swept.
    pub(super) fn is_time_to_look_around(&mut self) -> bool {
        self.calls = self.calls.wrapping_add(1);
        self.calls.is_multiple_of(8)
    }

    /// The live entry of `key`. One that has ended leaves at once, so that turning the clock back does not bring it back.
    pub(super) fn live(&mut self, hash: u64, key: &str, now: u64, freed: &mut Freed) -> Option<&mut Slot> {
        let ended = self.find(hash, key).is_some_and(|slot| slot.deadline() <= now);
        if ended {
            self.remove(hash, key, freed);
            return None;
        }
        self.table.find_mut(hash, |slot| slot.hash == hash && *slot.key == *key)
    }

    fn find(&self, hash: u64, key: &str) -> Option<&Slot> {
        self.table.find(hash, |slot| slot.hash == hash && *slot.key == *key)
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    /// Adds an entry whose key is not there.
    pub(super) fn add(&mut self, hash: u64, key: &str, value: Bytes, time: Time, now: u64) -> Version {
        let version = self.next_version();
        let at = time.deadline(now);
        let slot = Slot { key: key.into(), hash, value, version, birth: version, queued: at, start: now, time };
        self.table.insert_unique(hash, slot, |slot| slot.hash);
        self.queue.push(Reverse(Due { at, hash, birth: version }));
        Version::from(version)
    }

    /// Writes over the entry of `key`, which is there.
    pub(super) fn overwrite(&mut self, hash: u64, key: &str, value: Bytes, time: Time, now: u64) -> Version {
        let version = self.next_version();
        let at = time.deadline(now);
        if let Some(slot) = self.table.find_mut(hash, |slot| slot.hash == hash && *slot.key == *key) {
            (slot.value, slot.version, slot.time, slot.start) = (value, version, time, now);
            if at < slot.queued {
                slot.queued = at;
                let birth = slot.birth;
                self.queue.push(Reverse(Due { at, hash, birth }));
            }
        }
        self.tidy();
        Version::from(version)
    }

    pub(super) fn remove(&mut self, hash: u64, key: &str, freed: &mut Freed) {
        if let Ok(place) = self.table.find_entry(hash, |slot| slot.hash == hash && *slot.key == *key) {
            freed.add(&place.remove().0);
        }
        self.tidy();
    }

    /// Takes out up to `most` of what has ended.
    pub(super) fn sweep(&mut self, now: u64, most: usize, freed: &mut Freed) {
        for _ in 0..most {
            if self.queue.peek().is_none_or(|Reverse(due)| due.at > now) {
                return;
            }
            let Some(Reverse(due)) = self.queue.pop() else { return };
            let is_meant = |slot: &Slot| slot.birth == due.birth && slot.hash == due.hash && slot.queued == due.at;
            let Place::Occupied(mut place) = self.table.entry(due.hash, is_meant, |slot| slot.hash) else { continue };
            let slot = place.get_mut();
            if slot.deadline() > now {
                // It was touched since it was queued.
                slot.queued = slot.deadline();
                let due = Due { at: slot.queued, ..due };
                self.queue.push(Reverse(due));
            } else {
                freed.add(&place.remove().0);
            }
        }
        self.shrink();
    }

    /// Entries that were removed early leave their places in the queue: they may not outnumber the others.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.table.len() + 64 {
            let due = |slot: &Slot| Reverse(Due { at: slot.queued, hash: slot.hash, birth: slot.birth });
            self.queue = self.table.iter().map(due).collect();
        }
    }

    /// Gives back what a crowd that has left took.
    fn shrink(&mut self) {
        if self.table.capacity() > 1024 && self.table.len() < self.table.capacity() / 8 {
            let room = self.table.len() * 2;
            self.table.shrink_to(room, |slot| slot.hash);
            self.queue.shrink_to(room);
        }
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }
}
