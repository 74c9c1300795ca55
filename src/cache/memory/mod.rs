//! A cache in the memory of one process.
//!
//! Hand-written, because the caches of the ecosystem evict: when they are full, they drop live entries to make room for
//! new ones. Here a live entry is a user who is logged in, so a full cache refuses new entries instead. Nothing in it
//! waits, no task runs for it, and no call cleans up after a whole crowd.
use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

mod builder;
mod deadlines;
mod lists;
mod shard;
#[cfg(test)]
mod tests;
mod usage;

pub use self::builder::InMemoryCacheBuilder;
use self::{
    shard::{Contents, Inserted, Query, Shard, Slot},
    usage::{Lacking, Usage},
};
use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
use crate::{
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

/// A cache in the memory of one process: for one instance of an application, for development and for tests.
///
/// Bounded in entries and in bytes. Live sessions are never removed to make room: a cache that is full of them refuses
/// new ones with [`CacheErrorKind::Full`](crate::CacheErrorKind::Full), because in a cache that evicts, an attacker logs
/// users out by opening sessions. Entries that have ended are removed by the calls that follow, also by those for other
/// keys, a few at a time: there is no background task, and no call waits for a long clean-up.
///
/// Lists of a user's sessions have a structure of their own: adding, removing and the next page take a time that grows
/// with the logarithm of the members. They count against the bound on bytes, and have no other limit.
///
/// Clones share the entries. All is gone when the process ends.
///
/// # Defaults
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`max_entries`](InMemoryCacheBuilder::max_entries) | 1,000,000 | more than the bytes have room for, unless sessions are small |
/// | [`max_bytes`](InMemoryCacheBuilder::max_bytes) | 268,435,456 (256 MiB) | what a small server can spare |
///
/// # Example
/// ```
/// use cloakroom::InMemoryCache;
///
/// let cache = InMemoryCache::builder().max_entries(5_000_000).max_bytes(2 << 30).build();
/// assert!(cache.is_empty());
/// ```
#[derive(Clone)]
pub struct InMemoryCache {
    shards: Arc<Shards>,
}

impl InMemoryCache {
    /// How many live entries there are. Takes out all that have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.sweep();
        self.shards.usage.entries()
    }

    /// Whether there are no live entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the entries take, in bytes, as [`max_bytes`](InMemoryCacheBuilder::max_bytes) counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.usage.bytes()
    }
}

impl Cache for InMemoryCache {
    const IMMEDIATE: bool = true;

    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        let query = self.shards.query(key);
        Ok(self.shards.with(query, |shard, usage| shard.table.get(query, usage)))
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        let query = self.shards.query(key);
        Ok(self.shards.with(query, |shard, usage| shard.table.get_and_touch(query, millis(after), usage)))
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let (shards, query) = (&self.shards, self.shards.query(key));
        let slot = Slot::new(key, &entry, expiry, query.now);
        let insert =
            |slot, reserved| shards.with(query, |shard, usage| shard.table.insert(query, slot, reserved, usage));
        let inserted = match insert(slot, false) {
            Ok(inserted) => inserted,
            Err(slot) => {
                let bytes = slot.cost();
                shards.make_room(1, bytes, query.now)?;
                let inserted = insert(slot, true).map_err(|_| full())?;
                if inserted != Inserted::Written {
                    shards.usage.release(1, bytes);
                }
                inserted
            }
        };
        Ok(inserted != Inserted::Occupied)
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let (shards, query) = (&self.shards, self.shards.query(key));
        let mut slot = Slot::new(key, &entry, expiry, query.now);
        let mut replace = |reserved| {
            shards.with(query, |shard, usage| shard.table.replace(query, expected, &mut slot, reserved, usage))
        };
        match replace(0) {
            Ok(replaced) => Ok(replaced),
            Err(Lacking(more)) => {
                shards.make_room(0, more, query.now)?;
                // If it is still the version that was too small, it still lacks just as much.
                let replaced = replace(more);
                if !matches!(replaced, Ok(Replaced::Done)) {
                    shards.usage.release(0, more);
                }
                replaced.map_err(|_| full())
            }
        }
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        let query = self.shards.query(key);
        Ok(self.shards.with(query, |shard, usage| shard.table.touch(query, usage)))
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let query = self.shards.query(key);
        Ok(self.shards.with(query, |shard, usage| shard.table.delete(query, expected, usage)))
    }

    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let (shards, query, end) = (&self.shards, self.shards.query(list), millis_since_epoch(end));
        shards.drop_ended(query);
        if end <= query.now {
            return Ok(shards.with(query, |shard, _| shard.lists.len(list)));
        }
        let add = |reserved| shards.with(query, |shard, usage| shard.lists.add(list, member, end, reserved, usage));
        match add(0) {
            Ok(count) => Ok(count),
            Err(Lacking(bytes)) => {
                shards.make_room(0, bytes, query.now)?;
                add(bytes).map_err(|_| {
                    shards.usage.release(0, bytes);
                    full()
                })
            }
        }
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        self.shards.with(self.shards.query(list), |shard, usage| shard.lists.remove(list, members, usage));
        Ok(())
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        let query = self.shards.query(list);
        self.shards.drop_ended(query);
        let after = after.map(|after| (millis_since_epoch(after.end), after.name.as_str()));
        let page = self.shards.with(query, |shard, _| shard.lists.page(list, after, query.now, limit));
        Ok(page.into_iter().map(|(end, name)| ListMember::new(&*name, time_of(end))).collect())
    }
}

/// All shards: which one has a key, whether there is room, and which call sweeps.
struct Shards {
    shards: Box<[Shard]>,
    /// With keys drawn at random: an attacker cannot choose keys that collide.
    hasher: RandomState,
    clock: Clock,
    usage: Usage,
}

impl Shards {
    fn new(max_entries: usize, max_bytes: usize, clock: Clock) -> Self {
        let count = (max_entries / ENTRIES_A_SHARD).clamp(FEWEST, MOST);
        let shards = iter::repeat_with(Shard::new).take(count).collect();
        Self { shards, hasher: RandomState::new(), clock, usage: Usage::new(max_entries, max_bytes) }
    }

    /// Drops all members of a list that have ended, in steps between which others have the lock.
    fn drop_ended(&self, query: Query<'_>) {
        while self.with(query, |shard, usage| shard.lists.drop_ended(query.key, query.now, STEP, usage)) == STEP {}
    }

    /// Drops everything whose time is over.
    fn sweep(&self) {
        let now = self.clock.now_ms();
        for shard in &self.shards {
            while shard.is_due(now) && shard.sweep(now, STEP, &self.usage) > 0 {}
        }
    }

    fn query<'a>(&self, key: &'a str) -> Query<'a> {
        let mut hasher = self.hasher.build_hasher();
        // In one piece, which takes less than `str` does with a mark at its end.
        hasher.write(key.as_bytes());
        Query { key, hash: hasher.finish(), now: self.clock.now_ms() }
    }

    /// Calls `f` with the shard that has the key.
    fn with<T>(&self, query: Query<'_>, f: impl FnOnce(&mut Contents, &Usage) -> T) -> T {
        let Query { hash, now, .. } = query;
        // By the lower half of the hash, from above: its tables look at the first and the last bits of the whole.
        let index = ((u64::from(hash as u32) * self.shards.len() as u64) >> 32) as usize;
        let (answer, turn) = self.shard(index).with(now, &self.usage, |contents| f(contents, &self.usage));
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
    fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }
}

fn full() -> CacheError {
    CacheError::new(CacheErrorKind::Full, "the cache in memory is full of live entries")
}

impl fmt::Debug for InMemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryCache")
            .field("entries", &self.shards.usage.entries())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
