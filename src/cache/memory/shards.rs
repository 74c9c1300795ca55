//! All shards: which one has a key, whether there is room, and which call sweeps.
use std::{iter, time::Duration};

use super::{
    lists,
    shard::{Contents, Shard},
    table::{self, Inserted, Write, cost},
    usage::Usage,
};
use crate::{
    cache::{Deleted, Entry, Expiry, ListMember, Replaced, Version, version::mix},
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
    pub(super) clock: Clock,
    pub(super) usage: Usage,
}

impl Shards {
    pub(super) fn new(max_entries: usize, max_bytes: usize, clock: Clock) -> Self {
        let count = (max_entries / ENTRIES_A_SHARD).clamp(FEWEST, MOST);
        let shards = iter::repeat_with(Shard::new).take(count).collect();
        Self { shards, clock, usage: Usage::new(max_entries, max_bytes) }
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let now = self.clock.now_ms();
        self.with(key, now, |shard| shard.table.get(key, now, &self.usage))
    }

    pub(super) fn get_and_touch(&self, key: &str, after: Duration) -> Option<Entry> {
        let now = self.clock.now_ms();
        self.with(key, now, |shard| shard.table.get_and_touch(key, now, millis(after), &self.usage))
    }

    pub(super) fn touch(&self, key: &str) -> bool {
        let now = self.clock.now_ms();
        self.with(key, now, |shard| shard.table.touch(key, now, &self.usage))
    }

    pub(super) fn insert(&self, key: &str, entry: &Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let now = self.clock.now_ms();
        let mut write = Write::new(entry, expiry);
        let bytes = cost(key, &write.value);
        let mut insert =
            |reserved| self.with(key, now, |shard| shard.table.insert(key, now, &mut write, reserved, &self.usage));
        let mut inserted = insert(false);
        if inserted == Inserted::Full {
            self.make_room(1, bytes, now)?;
            inserted = insert(true);
            if inserted != Inserted::Written {
                self.usage.release(1, bytes);
            }
        }
        match inserted {
            Inserted::Written | Inserted::Unneeded => Ok(true),
            Inserted::Taken => Ok(false),
            Inserted::Full => Err(full()),
        }
    }

    pub(super) fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: &Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let now = self.clock.now_ms();
        let mut write = Write::new(entry, expiry);
        let mut replace = |reserved| {
            self.with(key, now, |shard| shard.table.replace(key, now, expected, &mut write, reserved, &self.usage))
        };
        match replace(0) {
            Ok(replaced) => Ok(replaced),
            Err(table::Lacking(more)) => {
                self.make_room(0, more, now)?;
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
        let now = self.clock.now_ms();
        self.with(key, now, |shard| shard.table.delete(key, now, expected, &self.usage))
    }

    pub(super) fn list_add(&self, list: &str, member: &str, end: u64) -> Result<usize, CacheError> {
        let now = self.clock.now_ms();
        self.drop_ended(list, now);
        if end <= now {
            return Ok(self.with(list, now, |shard| shard.lists.len(list)));
        }
        let add = |reserved| self.with(list, now, |shard| shard.lists.add(list, member, end, reserved, &self.usage));
        match add(0) {
            Ok(count) => Ok(count),
            Err(lists::Lacking(bytes)) => {
                self.make_room(0, bytes, now)?;
                add(bytes).map_err(|_| {
                    self.usage.release(0, bytes);
                    full()
                })
            }
        }
    }

    pub(super) fn list_remove(&self, list: &str, members: &[String]) {
        let now = self.clock.now_ms();
        self.with(list, now, |shard| shard.lists.remove(list, members, &self.usage));
    }

    pub(super) fn list_page(&self, list: &str, after: Option<&ListMember>, limit: usize) -> Vec<ListMember> {
        let now = self.clock.now_ms();
        self.drop_ended(list, now);
        let after = after.map(|after| (millis_since_epoch(after.end), after.name.as_str()));
        let page = self.with(list, now, |shard| shard.lists.page(list, after, now, limit));
        page.into_iter().map(|(end, name)| ListMember::new(&*name, time_of(end))).collect()
    }

    /// Drops all members that have ended, in steps between which others have the lock.
    fn drop_ended(&self, list: &str, now: u64) {
        while self.with(list, now, |shard| shard.lists.drop_ended(list, now, STEP, &self.usage)) == STEP {}
    }

    /// Drops everything whose time is over.
    pub(super) fn sweep(&self) {
        let now = self.clock.now_ms();
        for shard in &self.shards {
            while shard.is_due(now) && shard.sweep(now, STEP, &self.usage) > 0 {}
        }
    }

    fn with<T>(&self, key: &str, now: u64, f: impl FnOnce(&mut Contents) -> T) -> T {
        let index = self.index(key);
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

    /// By the end of the key alone, which is the end of a digest in a session's key, and cheap. Keys that are chosen to
    /// end alike meet at one lock, and nothing else: the tables hash with keys drawn at random.
    fn index(&self, key: &str) -> usize {
        let mut end = [0; 8];
        for (to, from) in end.iter_mut().zip(key.bytes().rev()) {
            *to = from;
        }
        let high = mix(u64::from_le_bytes(end)) >> 32;
        ((high * self.shards.len() as u64) >> 32) as usize
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
