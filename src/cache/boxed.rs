//! Caches that stand for another one: of a type that is chosen at run time, or shared.
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
use crate::error::CacheError;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send + 'a>>;

/// Any cache, chosen at run time.
///
/// Costs one allocation an operation beside the cache's own. Clones share the cache.
///
/// # Example
/// ```
/// use cloakroom::{BoxedCache, InMemoryCache, SessionStore};
///
/// let cache = if std::env::var_os("REDIS_URL").is_some() {
///     // BoxedCache::new(RedisCache::connect(&url).await?)
/// #   BoxedCache::new(InMemoryCache::new())
/// } else {
///     BoxedCache::new(InMemoryCache::new())
/// };
/// let store: SessionStore<BoxedCache> = SessionStore::new(cache);
/// # drop(store);
/// ```
#[derive(Clone)]
pub struct BoxedCache {
    inner: Arc<dyn DynCache>,
}

impl BoxedCache {
    /// Hides which cache it is.
    pub fn new(cache: impl Cache) -> Self {
        Self { inner: Arc::new(cache) }
    }
}

impl fmt::Debug for BoxedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedCache").finish_non_exhaustive()
    }
}

/// The object-safe twin of [`Cache`].
trait DynCache: Send + Sync {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<Entry>>;
    fn get_and_touch<'a>(&'a self, key: &'a str, after: Duration) -> BoxFuture<'a, Option<Entry>>;
    fn insert<'a>(&'a self, key: &'a str, entry: Entry, expiry: Expiry) -> BoxFuture<'a, bool>;
    fn replace<'a>(&'a self, key: &'a str, expected: Version, entry: Entry, expiry: Expiry) -> BoxFuture<'a, Replaced>;
    fn touch<'a>(&'a self, key: &'a str) -> BoxFuture<'a, bool>;
    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Deleted>;
    fn list_add<'a>(&'a self, list: &'a str, member: &'a str, end: SystemTime) -> BoxFuture<'a, usize>;
    fn list_remove<'a>(&'a self, list: &'a str, members: &'a [String]) -> BoxFuture<'a, ()>;
    fn list_page<'a>(
        &'a self,
        list: &'a str,
        after: Option<&'a ListMember>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<ListMember>>;
    fn ping(&self) -> BoxFuture<'_, ()>;
}

impl<C: Cache> DynCache for C {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<Entry>> {
        Box::pin(Cache::get(self, key))
    }
    fn get_and_touch<'a>(&'a self, key: &'a str, after: Duration) -> BoxFuture<'a, Option<Entry>> {
        Box::pin(Cache::get_and_touch(self, key, after))
    }
    fn insert<'a>(&'a self, key: &'a str, entry: Entry, expiry: Expiry) -> BoxFuture<'a, bool> {
        Box::pin(Cache::insert(self, key, entry, expiry))
    }
    fn replace<'a>(&'a self, key: &'a str, expected: Version, entry: Entry, expiry: Expiry) -> BoxFuture<'a, Replaced> {
        Box::pin(Cache::replace(self, key, expected, entry, expiry))
    }
    fn touch<'a>(&'a self, key: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(Cache::touch(self, key))
    }
    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Deleted> {
        Box::pin(Cache::delete(self, key, expected))
    }
    fn list_add<'a>(&'a self, list: &'a str, member: &'a str, end: SystemTime) -> BoxFuture<'a, usize> {
        Box::pin(Cache::list_add(self, list, member, end))
    }
    fn list_remove<'a>(&'a self, list: &'a str, members: &'a [String]) -> BoxFuture<'a, ()> {
        Box::pin(Cache::list_remove(self, list, members))
    }
    fn list_page<'a>(
        &'a self,
        list: &'a str,
        after: Option<&'a ListMember>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<ListMember>> {
        Box::pin(Cache::list_page(self, list, after, limit))
    }
    fn ping(&self) -> BoxFuture<'_, ()> {
        Box::pin(Cache::ping(self))
    }
}

impl Cache for BoxedCache {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.inner.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.inner.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.inner.insert(key, entry, expiry).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.inner.replace(key, expected, entry, expiry).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.inner.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.inner.delete(key, expected).await
    }
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        self.inner.list_add(list, member, end).await
    }
    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        self.inner.list_remove(list, members).await
    }
    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        self.inner.list_page(list, after, limit).await
    }
    async fn ping(&self) -> Result<(), CacheError> {
        self.inner.ping().await
    }
}

/// A cache that is shared is a cache.
impl<C: Cache> Cache for Arc<C> {
    const IMMEDIATE: bool = C::IMMEDIATE;

    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, CacheError>> + Send {
        (**self).get(key)
    }
    fn get_and_touch(
        &self,
        key: &str,
        after: Duration,
    ) -> impl Future<Output = Result<Option<Entry>, CacheError>> + Send {
        (**self).get_and_touch(key, after)
    }
    fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> impl Future<Output = Result<bool, CacheError>> + Send {
        (**self).insert(key, entry, expiry)
    }
    fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Replaced, CacheError>> + Send {
        (**self).replace(key, expected, entry, expiry)
    }
    fn touch(&self, key: &str) -> impl Future<Output = Result<bool, CacheError>> + Send {
        (**self).touch(key)
    }
    fn delete(&self, key: &str, expected: Version) -> impl Future<Output = Result<Deleted, CacheError>> + Send {
        (**self).delete(key, expected)
    }
    fn list_add(
        &self,
        list: &str,
        member: &str,
        end: SystemTime,
    ) -> impl Future<Output = Result<usize, CacheError>> + Send {
        (**self).list_add(list, member, end)
    }
    fn list_remove(&self, list: &str, members: &[String]) -> impl Future<Output = Result<(), CacheError>> + Send {
        (**self).list_remove(list, members)
    }
    fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ListMember>, CacheError>> + Send {
        (**self).list_page(list, after, limit)
    }
    fn ping(&self) -> impl Future<Output = Result<(), CacheError>> + Send {
        (**self).ping()
    }
}
