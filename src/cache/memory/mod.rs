//! A cache in the memory of one process.
//!
//! Hand-written, because the caches of the ecosystem evict: when they are full, they drop live entries to make room for
//! new ones. Here a live entry is a user who is logged in, so a full cache refuses new entries instead. Nothing in it
//! waits, no task runs for it, and no call cleans up after a whole crowd.
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

mod builder;
mod deadlines;
mod lists;
mod shard;
mod shards;
mod slot;
mod table;
#[cfg(test)]
mod tests;
mod usage;

pub use self::builder::InMemoryCacheBuilder;
use self::shards::Shards;
use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
use crate::{clock::millis_since_epoch, error::CacheError};

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
        Ok(self.shards.get(key))
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        Ok(self.shards.get_and_touch(key, after))
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.shards.insert(key, &entry, expiry)
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.shards.replace(key, expected, &entry, expiry)
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        Ok(self.shards.touch(key))
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        Ok(self.shards.delete(key, expected))
    }

    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        self.shards.list_add(list, member, millis_since_epoch(end))
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        self.shards.list_remove(list, members);
        Ok(())
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        Ok(self.shards.list_page(list, after, limit))
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
            .field("entries", &self.shards.usage.entries())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
