//! The settings of the cache in memory.
use std::sync::Arc;

use super::{InMemoryCache, Shards};
use crate::clock::Clock;

/// Builds an [`InMemoryCache`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct InMemoryCacheBuilder {
    max_entries: usize,
    max_bytes: usize,
    clock: Clock,
}

impl Default for InMemoryCacheBuilder {
    fn default() -> Self {
        Self { max_entries: 1_000_000, max_bytes: 256 << 20, clock: Clock::system() }
    }
}

impl InMemoryCacheBuilder {
    /// The most entries that are live at the same time. Default: 1,000,000.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries;
        self
    }

    /// The most memory that entries and lists take, in bytes. Default: 268,435,456 (256 MiB).
    ///
    /// An entry counts with its key, its value and 192 bytes; a list and each of its members with its name and 224 bytes.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Where the time comes from: for tests. Default: the system's clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The cache.
    #[must_use]
    pub fn build(self) -> InMemoryCache {
        InMemoryCache { shards: Arc::new(Shards::new(self.max_entries, self.max_bytes, self.clock)) }
    }
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
}

impl Default for InMemoryCache {
    fn default() -> Self {
        Self::new()
    }
}
