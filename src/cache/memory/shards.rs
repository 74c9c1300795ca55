//! The shards together: which one, whether there is room, and who sweeps.
use std::{
    hash::{BuildHasher, Hasher},
    iter,
    time::Duration,
};

use rapidhash::quality::RandomState;

use super::{
    payload::Payload,
    shard::Shard,
    slot::{Slot, cost},
    table::{At, Inserted, Table},
    usage::Usage,
};
use crate::{
    cache::{Deleted, Entry, Expiry, Replaced, Version},
    clock::{Clock, millis},
    error::{CacheError, CacheErrorKind},
};

/// An operation that helps another shard looks at up to so many of its slots.
const HELP: usize = 16;
/// Whoever sweeps more than that lets others at the lock after so many slots.
const STEP: usize = 64;
/// A write that needs room looks at up to so many slots before it gives up: two or three milliseconds. It runs out only
/// when that many were touched since they were queued, and those are then out of the next one's way.
const ROOM: usize = 8192;
/// So many entries to a shard when full: three quarters of a table of 4096, which is moved in a fraction of a millisecond.
const ENTRIES_A_SHARD: usize = 3000;
/// Enough that few meet at one lock, also where there is room for few entries.
const FEWEST: usize = 64;
const MOST: usize = 8192;

pub(super) struct Shards {
    shards: Box<[Shard]>,
    /// Keyed at random: nobody can choose keys that collide.
    hasher: RandomState,
    pub(super) clock: Clock,
    pub(super) usage: Usage,
}

impl Shards {
    pub(super) fn new(max_entries: usize, max_bytes: usize, clock: Clock) -> Self {
        let count = (max_entries / ENTRIES_A_SHARD).clamp(FEWEST, MOST);
        Self {
            shards: iter::repeat_with(Shard::new).take(count).collect(),
            hasher: RandomState::new(),
            clock,
            usage: Usage::new(max_entries, max_bytes),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let at = self.at(key);
        self.with(at, |table| table.get(at, &self.usage))
    }

    pub(super) fn get_and_touch(&self, key: &str, after: Duration) -> Option<Entry> {
        let at = self.at(key);
        self.with(at, |table| table.touch(at, millis(after), &self.usage, Slot::entry))
    }

    pub(super) fn touch(&self, key: &str) -> bool {
        let at = self.at(key);
        self.with(at, |table| table.touch(at, 0, &self.usage, |_| ())).is_some()
    }

    pub(super) fn insert(&self, key: &str, entry: &Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let at = self.at(key);
        let payload = Payload::new(key, &entry.value, expiry.into()).ok_or_else(full)?;
        let bytes = cost(&payload);
        match self.with(at, |table| table.insert(at, entry.version, payload, false, &self.usage)) {
            Ok(done) => Ok(done.is_there()),
            Err(payload) => {
                self.make_room(1, bytes, at.now)?;
                let inserted = self.with(at, |table| table.insert(at, entry.version, payload, true, &self.usage));
                if !matches!(inserted, Ok(Inserted::Written)) {
                    self.usage.release(1, bytes);
                }
                inserted.map(Inserted::is_there).map_err(|_| full())
            }
        }
    }

    pub(super) fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: &Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let at = self.at(key);
        let mut payload = Payload::new(key, &entry.value, expiry.into()).ok_or_else(full)?;
        match self.with(at, |table| table.replace(at, expected, entry.version, &mut payload, 0, &self.usage)) {
            Ok(done) => Ok(done),
            Err(more) => {
                self.make_room(0, more, at.now)?;
                // If it is still the version that was too small, it still lacks just as much.
                let replaced =
                    self.with(at, |table| table.replace(at, expected, entry.version, &mut payload, more, &self.usage));
                if !matches!(replaced, Ok(Replaced::Done)) {
                    self.usage.release(0, more);
                }
                replaced.map_err(|_| full())
            }
        }
    }

    pub(super) fn delete(&self, key: &str, expected: Version) -> Deleted {
        let at = self.at(key);
        self.with(at, |table| table.delete(at, expected, &self.usage))
    }

    /// Drops every entry whose time is over.
    pub(super) fn sweep(&self) {
        let now = self.clock.now_ms();
        for shard in &self.shards {
            while shard.is_due(now) && shard.sweep(now, STEP, &self.usage) > 0 {}
        }
    }

    fn at<'a>(&self, key: &'a str) -> At<'a> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.as_bytes());
        At { key, hash: hasher.finish(), now: self.clock.now_ms() }
    }

    fn with<T>(&self, at: At<'_>, f: impl FnOnce(&mut Table) -> T) -> T {
        let index = self.index(at.hash);
        let (answer, turn) = self.shard(index).with(at.now, &self.usage, f);
        if let Some(turn) = turn {
            // Shards that nobody comes to are swept by those who work elsewhere.
            let other = self.shard(index.wrapping_add(turn as usize) % self.shards.len());
            if other.is_due(at.now) {
                other.try_sweep(at.now, HELP, &self.usage);
            }
        }
        answer
    }

    /// Reserves what did not fit at once, after dropping as many entries whose time is over as that takes: whoever needs
    /// room does not clean up after a whole crowd.
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

    fn index(&self, hash: u64) -> usize {
        // By bits that the table uses neither for its buckets nor for its tags.
        let between = (hash >> 16) & 0xffff_ffff;
        ((between * self.shards.len() as u64) >> 32) as usize
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
