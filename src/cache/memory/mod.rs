//! A cache in the memory of one process.
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

mod builder;
mod payload;
mod queue;
mod shard;
mod shards;
mod slot;
mod table;
#[cfg(test)]
mod tests;
mod usage;

pub use self::builder::InMemoryCacheBuilder;
use self::shards::Shards;
use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version, index};
use crate::error::CacheError;

/// A cache in the memory of one process: for one instance of an application, for development and for tests.
///
/// Bounded in entries and in bytes. Live sessions are never thrown out to make room: when the cache is full of them, new
/// ones are refused with [`CacheErrorKind::Full`](crate::CacheErrorKind::Full), because a cache that evicts lets anybody
/// log users out by opening sessions. Entries that have ended are found by whatever call comes next, also for other keys,
/// a few at a time: there is no background task, and no call waits for a great clean-up.
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
        index::add(self, &self.shards.clock, list, member, end).await
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        index::remove(self, &self.shards.clock, list, members).await
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        index::page(self, &self.shards.clock, list, after, limit).await
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
