//! All shards: which one has a key, whether there is room, and which call sweeps.
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    iter,
    time::Duration,
};

use super::{
    lists,
    shard::{Contents, Shard},
    slot::Slot,
    table::{self, At, Inserted},
    usage::Usage,
};
use crate::{
    cache::{Deleted, Entry, Expiry, ListMember, Replaced, Version},
    clock::{Clock, millis, millis_since_epoch, time_of},
    error::{CacheError, CacheErrorKind},
};

/// An operation that helps another shard looks at up to so many of its slots.
const HELP: usize = 16;
/// A call that sweeps more than that releases the lock for others after so many slots.
const STEP: usize = 64;
/// A write that needs room looks at up to so many slots before it gives up: two or three milliseconds. It runs out only
/// when that many were touched since they were queued, and those are then out of the next one's way.
const ROOM: usize = 8192;
/// So many entries to a shard when full: three quarters of a table of 4096, which is moved in a fraction of a millisecond.
const ENTRIES_A_SHARD: usize = 3000;
/// Enough that few threads meet at one lock, also where there is room for few entries.
const FEWEST: usize = 64;
const MOST: usize = 8192;

pub(super) struct Shards {
    shards: Box<[Shard]>,
    /// With keys drawn at random: an attacker cannot choose keys that collide.
    hasher: RandomState,
    pub(super) clock: Clock,
    pub(super) usage: Usage,
}

impl Shards {
    pub(super) fn new(max_entries: usize, max_bytes: usize, clock: Clock) -> Self {
        let count = (max_entries / ENTRIES_A_SHARD).clamp(FEWEST, MOST);
        let shards = iter::repeat_with(Shard::new).take(count).collect();
        Self { shards, hasher: RandomState::new(), clock, usage: Usage::new(max_entries, max_bytes) }
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let at = self.at(key);
        self.with(at, |shard| shard.table.get(at, &self.usage))
    }

    pub(super) fn get_and_touch(&self, key: &str, after: Duration) -> Option<Entry> {
        let at = self.at(key);
        self.with(at, |shard| shard.table.get_and_touch(at, millis(after), &self.usage))
    }

    pub(super) fn touch(&self, key: &str) -> bool {
        let at = self.at(key);
        self.with(at, |shard| shard.table.touch(at, &self.usage))
    }

    pub(super) fn insert(&self, key: &str, entry: &Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let at = self.at(key);
        let slot = Slot::new(key, entry, expiry, at.now);
        let insert = |slot, reserved| self.with(at, |shard| shard.table.insert(at, slot, reserved, &self.usage));
        let inserted = match insert(slot, false) {
            Ok(inserted) => inserted,
            Err(slot) => {
                let bytes = slot.cost();
                self.make_room(1, bytes, at.now)?;
                let inserted = insert(slot, true).map_err(|_| full())?;
                if inserted != Inserted::Written {
                    self.usage.release(1, bytes);
                }
                inserted
            }
        };
        Ok(inserted != Inserted::Taken)
    }

    pub(super) fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: &Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let at = self.at(key);
        let mut slot = Slot::new(key, entry, expiry, at.now);
        let mut replace =
            |reserved| self.with(at, |shard| shard.table.replace(at, expected, &mut slot, reserved, &self.usage));
        match replace(0) {
            Ok(replaced) => Ok(replaced),
            Err(table::Lacking(more)) => {
                self.make_room(0, more, at.now)?;
                // If it is still the version that was too small, it still lacks just as much.
                let replaced = replace(more);
                if !matches!(replaced, Ok(Replaced::Done)) {
                    self.usage.release(0, more);
                }
                replaced.map_err(|_| full())
            }
        }
    }

    pub(super) fn delete(&self, key: &str, expected: Version) -> Deleted {
        let at = self.at(key);
        self.with(at, |shard| shard.table.delete(at, expected, &self.usage))
    }

    pub(super) fn list_add(&self, list: &str, member: &str, end: u64) -> Result<usize, CacheError> {
        let at = self.at(list);
        self.drop_ended(at);
        if end <= at.now {
            return Ok(self.with(at, |shard| shard.lists.len(list)));
        }
        let add = |reserved| self.with(at, |shard| shard.lists.add(list, member, end, reserved, &self.usage));
        match add(0) {
            Ok(count) => Ok(count),
            Err(lists::Lacking(bytes)) => {
                self.make_room(0, bytes, at.now)?;
                add(bytes).map_err(|_| {
                    self.usage.release(0, bytes);
                    full()
                })
            }
        }
    }

    pub(super) fn list_remove(&self, list: &str, members: &[String]) {
        self.with(self.at(list), |shard| shard.lists.remove(list, members, &self.usage));
    }

    pub(super) fn list_page(&self, list: &str, after: Option<&ListMember>, limit: usize) -> Vec<ListMember> {
        let at = self.at(list);
        self.drop_ended(at);
        let after = after.map(|after| (millis_since_epoch(after.end), after.name.as_str()));
        let page = self.with(at, |shard| shard.lists.page(list, after, at.now, limit));
        page.into_iter().map(|(end, name)| ListMember::new(&*name, time_of(end))).collect()
    }

    /// Drops all members of a list that have ended, in steps between which others have the lock.
    fn drop_ended(&self, at: At<'_>) {
        while self.with(at, |shard| shard.lists.drop_ended(at.key, at.now, STEP, &self.usage)) == STEP {}
    }

    /// Drops everything whose time is over.
    pub(super) fn sweep(&self) {
        let now = self.clock.now_ms();
        for shard in &self.shards {
            while shard.is_due(now) && shard.sweep(now, STEP, &self.usage) > 0 {}
        }
    }

    fn at<'a>(&self, key: &'a str) -> At<'a> {
        let mut hasher = self.hasher.build_hasher();
        // In one piece, which takes less than `str` does with a mark at its end.
        hasher.write(key.as_bytes());
        At { key, hash: hasher.finish(), now: self.clock.now_ms() }
    }

    fn with<T>(&self, at: At<'_>, f: impl FnOnce(&mut Contents) -> T) -> T {
        let At { hash, now, .. } = at;
        // By the lower half of the hash, from above: its tables look at the first and the last bits of the whole.
        let index = ((u64::from(hash as u32) * self.shards.len() as u64) >> 32) as usize;
        let (answer, turn) = self.shard(index).with(now, &self.usage, f);
        if let Some(turn) = turn {
            // Shards whose keys no call asks for are swept by calls for other keys.
            let other = self.shard(index.wrapping_add(turn as usize) % self.shards.len());
            if other.is_due(now) {
                other.try_sweep(now, HELP, &self.usage);
            }
        }
        answer
    }

    /// Reserves what did not fit at once, after dropping as many entries whose time is over as that takes: a call that
    /// needs room does not clean up after a whole crowd.
    fn make_room(&self, entries: usize, bytes: usize, now: u64) -> Result<(), CacheError> {
        let mut left = ROOM;
        for shard in &self.shards {
            while left > 0 && shard.is_due(now) {
                left = left.saturating_sub(shard.sweep(now, STEP.min(left), &self.usage).max(1));
                if self.usage.reserve(entries, bytes) {
                    return Ok(());
                }
            }
        }
        // The try that failed may have dropped something itself.
        if self.usage.reserve(entries, bytes) { Ok(()) } else { Err(full()) }
    }

    #[expect(clippy::indexing_slicing, reason = "every index is below the number of shards")]
    fn shard(&self, index: usize) -> &Shard {
        &self.shards[index]
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }
}

fn full() -> CacheError {
    CacheError::new(CacheErrorKind::Full, "the cache in memory is full of live entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cache_hashes_with_a_key_of_its_own() {
        let hash = || Shards::new(1, 1, Clock::system()).at("cloakroom:key").hash;
        let first = hash();
        assert!((0..8).all(|_| hash() != first));
    }
}
