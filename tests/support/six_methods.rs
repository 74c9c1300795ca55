//! A cache with the six required methods of the trait and no more, around another cache.
use std::{
    future::{Future, ready},
    time::Duration,
};

use cloakroom::{Cache, CacheError, Deleted, Entry, Expiry, Replaced, Version};

/// What a test has to say to each operation.
pub trait Twist: Send + Sync + 'static {
    fn before(&self, _key: &str) -> impl Future<Output = ()> + Send {
        ready(())
    }
    fn after(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
    /// What the cache is told in place of `asked`.
    fn expiry(&self, asked: Expiry) -> Expiry {
        asked
    }
}

impl Twist for () {}

#[derive(Clone, Debug)]
pub struct SixMethods<C, T = ()> {
    pub inner: C,
    pub twist: T,
}

impl<C> SixMethods<C> {
    pub fn new(inner: C) -> Self {
        Self { inner, twist: () }
    }
}

impl<C: Cache, T: Twist> SixMethods<C, T> {
    async fn run<R>(&self, key: &str, operation: impl Future<Output = R> + Send) -> R {
        self.twist.before(key).await;
        let result = operation.await;
        self.twist.after().await;
        result
    }
}

impl<C: Cache, T: Twist> Cache for SixMethods<C, T> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.run(key, self.inner.get(key)).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.run(key, self.inner.get_and_touch(key, after)).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.run(key, self.inner.insert(key, entry, self.twist.expiry(expiry))).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.run(key, self.inner.replace(key, expected, entry, self.twist.expiry(expiry))).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.run(key, self.inner.touch(key)).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.run(key, self.inner.delete(key, expected)).await
    }
}
