//! A cache in the memory of one process.
use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

mod builder;
mod shard;
#[cfg(test)]
mod tests;

pub use self::builder::InMemoryCacheBuilder;
use self::shard::{Freed, Shard, Time, cost};
use super::{Cache, Deleted, Entry, Expiry, Replaced, Version, index};
use crate::{
    clock::{Clock, millis, millis_since_epoch},
    error::{CacheError, CacheErrorKind},
};

/// Entries that a call takes out of its own shard, and of another's, if they have ended.
const SWEEP: usize = 2;
const SWEEP_AROUND: usize = 16;

/// A cache in the memory of one process: for one instance of an application, for development and for tests.
///
/// Bounded in entries and in bytes. Live sessions are never thrown out to make room: when the cache is full of them, new
/// ones are refused with [`CacheErrorKind::Full`], because a cache that evicts lets anybody log users out by opening
/// sessions. Entries that have ended are found by whatever call comes next, also for other keys, a few at a time: there is
/// no background task, and no call waits for a great clean-up.
///
/// Clones share the entries. All is gone when the process ends.
///
/// # Defaults
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`max_entries`](InMemoryCacheBuilder::max_entries) | 100,000 | a busy site of one process |
/// | [`max_bytes`](InMemoryCacheBuilder::max_bytes) | 268,435,456 (256 MiB) | what a small server can spare |
///
/// # Example
/// ```
/// use cloakroom::InMemoryCache;
///
/// let cache = InMemoryCache::builder().max_entries(1_000_000).max_bytes(1 << 30).build();
/// assert!(cache.is_empty());
/// ```
#[derive(Clone)]
pub struct InMemoryCache {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    clock: Clock,
    max_entries: usize,
    max_bytes: usize,
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// The shard that is swept next.
    around: AtomicUsize,
}

impl InMemoryCache {
    /// A cache with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A cache whose bounds can be chosen.
    pub fn builder() -> InMemoryCacheBuilder {
        InMemoryCacheBuilder::default()
    }

    /// How many live entries there are. Takes out all that have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        let now = self.shared.clock.now_ms();
        let mut live = 0;
        for shard in &self.shared.shards {
            let mut shard = lock(shard);
            self.sweep(&mut shard, now, usize::MAX);
            live += shard.len();
        }
        live
    }

    /// Whether there are no live entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the entries take, in bytes, as [`max_bytes`](InMemoryCacheBuilder::max_bytes) counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Does `work` on the shard of `key`, and sweeps a little.
    fn with<T>(&self, key: &str, work: impl FnOnce(&mut Shard, u64, u64, &mut Freed) -> T) -> T {
        let shared = &*self.shared;
        let hash = shared.hasher.hash_one(key);
        let now = shared.clock.now_ms();
        let mut freed = Freed::default();
        let (done, look_around) = {
            let mut shard = lock(shared.shard(hash));
            shard.sweep(now, SWEEP, &mut freed);
            // Given back first, so that `work` can have the room.
            self.give_back(std::mem::take(&mut freed));
            (work(&mut shard, hash, now, &mut freed), shard.is_time_to_look_around())
        };
        self.give_back(freed);
        if look_around {
            let next = shared.around.fetch_add(1, Ordering::Relaxed);
            // Shards that nobody asks for have to be swept as well, but nobody waits for one.
            if let Some(Ok(mut shard)) = shared.shards.get(next % shared.shards.len()).map(Mutex::try_lock) {
                self.sweep(&mut shard, now, SWEEP_AROUND);
            }
        }
        done
    }

    fn sweep(&self, shard: &mut Shard, now: u64, most: usize) -> bool {
        let mut freed = Freed::default();
        shard.sweep(now, most, &mut freed);
        self.give_back(freed);
        freed.entries > 0
    }

    fn give_back(&self, freed: Freed) {
        if freed != Freed::default() {
            self.shared.entries.fetch_sub(freed.entries, Ordering::Relaxed);
            self.shared.bytes.fetch_sub(freed.bytes, Ordering::Relaxed);
        }
    }

    /// Takes room for an entry, or for the growth of one.
    fn reserve(&self, entries: usize, bytes: usize) -> bool {
        let shared = &*self.shared;
        let take = |counter: &AtomicUsize, more: usize, most: usize| {
            let taken = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
            more == 0 || counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
        };
        if !take(&shared.entries, entries, shared.max_entries) {
            return false;
        }
        if !take(&shared.bytes, bytes, shared.max_bytes) {
            shared.entries.fetch_sub(entries, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Looks for something that has ended, in one shard after the other, and stops at the first find: whoever needs room
    /// does not clean up after a whole crowd.
    fn make_room(&self) -> bool {
        let now = self.shared.clock.now_ms();
        let count = self.shared.shards.len();
        let start = self.shared.around.load(Ordering::Relaxed) % count;
        let in_turn = self.shared.shards.iter().cycle().skip(start).take(count);
        for shard in in_turn {
            let mut shard = lock(shard);
            // What is due may only have been touched since it was queued; then the next may be the one.
            if (0..16).any(|_| self.sweep(&mut shard, now, 64)) {
                return true;
            }
        }
        false
    }

    fn try_insert(&self, key: &str, value: &Bytes, expiry: Expiry) -> Inserted {
        self.with(key, |shard, hash, now, freed| {
            if shard.live(hash, key, now, freed).is_some() {
                return Inserted::Taken;
            }
            let time = time_of(expiry);
            if time.deadline(now) <= now {
                return Inserted::Done(Version::from(shard.next_version()));
            }
            self.give_back(std::mem::take(freed));
            if !self.reserve(1, cost(key, value)) {
                return Inserted::Full;
            }
            Inserted::Done(shard.add(hash, key, value.clone(), time, now))
        })
    }

    /// `None`: there is no room for it to grow.
    fn try_replace(&self, key: &str, expected: Version, value: &Bytes, expiry: Expiry) -> Option<Replaced> {
        self.with(key, |shard, hash, now, freed| {
            let Some(slot) = shard.live(hash, key, now, freed) else { return Some(Replaced::Missing) };
            if slot.version() != expected {
                return Some(Replaced::Conflict(slot.entry()));
            }
            let (before, after) = (slot.cost(), cost(key, value));
            let time = time_of(expiry);
            if time.deadline(now) <= now {
                shard.remove(hash, key, freed);
                return Some(Replaced::Done(Version::from(shard.next_version())));
            }
            if !self.reserve(0, after.saturating_sub(before)) {
                return None;
            }
            freed.bytes += before.saturating_sub(after);
            Some(Replaced::Done(shard.overwrite(hash, key, value.clone(), time, now)))
        })
    }

    fn look(&self, key: &str, after: Option<u64>) -> Option<Entry> {
        self.with(key, |shard, hash, now, freed| {
            let slot = shard.live(hash, key, now, freed)?;
            if let Some(after) = after {
                slot.restart(now, after);
            }
            Some(slot.entry())
        })
    }
}

enum Inserted {
    Done(Version),
    Taken,
    Full,
}

impl Shared {
    #[expect(clippy::indexing_slicing, reason = "a remainder of the length, which is never zero")]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The table takes the low bits and the top seven; these are between.
        let between = usize::try_from((hash >> 32) & 0xff_ffff).unwrap_or_default();
        &self.shards[between % self.shards.len()]
    }
}

/// Nothing panics while a shard is locked; if it did, the shard would still be whole.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn time_of(expiry: Expiry) -> Time {
    Time { idle: millis(expiry.idle), end: millis_since_epoch(expiry.end) }
}

fn full() -> CacheError {
    CacheError::new(CacheErrorKind::Full, "the cache in memory is full of live entries")
}

impl Cache for InMemoryCache {
    const IMMEDIATE: bool = true;

    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        Ok(self.look(key, None))
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        Ok(self.look(key, Some(millis(after))))
    }

    async fn insert(&self, key: &str, value: Bytes, expiry: Expiry) -> Result<Option<Version>, CacheError> {
        let mut last = false;
        loop {
            match self.try_insert(key, &value, expiry) {
                Inserted::Done(version) => return Ok(Some(version)),
                Inserted::Taken => return Ok(None),
                Inserted::Full if self.make_room() => last = false,
                // Room may have been made by the try itself, after it had failed.
                Inserted::Full if !last => last = true,
                Inserted::Full => return Err(full()),
            }
        }
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let mut last = false;
        loop {
            match self.try_replace(key, expected, &value, expiry) {
                Some(replaced) => return Ok(replaced),
                None if self.make_room() => last = false,
                None if !last => last = true,
                None => return Err(full()),
            }
        }
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        Ok(self.look(key, Some(0)).is_some())
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        Ok(self.with(key, |shard, hash, now, freed| match shard.live(hash, key, now, freed) {
            None => Deleted::Missing,
            Some(slot) if slot.version() != expected => Deleted::Conflict(slot.entry()),
            Some(_) => {
                shard.remove(hash, key, freed);
                Deleted::Done
            }
        }))
    }

    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<(), CacheError> {
        index::add(self, &self.shared.clock, list, member, end).await
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        index::remove(self, &self.shared.clock, list, members).await
    }

    async fn list_members(&self, list: &str) -> Result<Vec<String>, CacheError> {
        index::members(self, &self.shared.clock, list).await
    }
}

impl Default for InMemoryCache {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InMemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryCache")
            .field("entries", &self.shared.entries.load(Ordering::Relaxed))
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
