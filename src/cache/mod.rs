//! What a cache has to do, in sentences that the contract suite checks.
use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{clock::Clock, error::CacheError};

mod boxed;
mod index;
mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod version;

pub use self::{
    boxed::BoxedCache,
    memory::{InMemoryCache, InMemoryCacheBuilder},
    version::Version,
};

/// A cache: bytes under string keys, each entry with a version and an expiry of its own.
///
/// Implementers write plain `async fn`s. [`InMemoryCache`] and `RedisCache` implement it, and any
/// other store can: six methods are enough.
///
/// # The contract
///
/// For all methods:
/// 1. An error means that the cache could not find out or could not do it. Absence is never an error.
/// 2. An entry whose time is over is absent, for every method, from the millisecond on at which it ends.
///    It ends when `idle` has passed since its last [`insert`](Self::insert), [`replace`](Self::replace)
///    or touch, or at `end`, whichever is sooner.
/// 3. A live entry is never thrown out to make room: a cache that is full refuses with
///    [`CacheErrorKind::Full`](crate::CacheErrorKind::Full).
/// 4. Each method takes effect as a whole or not at all, also against the others at the same time.
/// 5. Value, version and expiry are written together: no reader sees one without the others.
/// 6. A version is used for one write of a key and never again for that key, even after the entry is gone.
/// 7. Every method ends within a bounded time.
/// 8. Bytes come back as they were given: any bytes, any length, empty ones too.
///
/// Each method states the rest. The conditional ones answer with what is there now, so that the caller
/// needs no second look.
pub trait Cache: Send + Sync + 'static {
    /// Whether every one of the six operations is done at its first poll, because nothing in it ever waits. Default: `false`.
    ///
    /// Then a request needs no allocation, no timer and no other task to wait with. A cache that says so and waits all the
    /// same breaks the contract: its operations are dropped half-way and done again.
    const IMMEDIATE: bool = false;

    /// The live entry under `key`, or `None`.
    ///
    /// # Errors
    /// When the cache cannot find out.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, CacheError>> + Send;

    /// As [`get`](Self::get), and restarts the idle time if its last start is `after` or longer ago.
    ///
    /// The restart is the one that [`touch`](Self::touch) does: never past `end`, data and version unchanged.
    ///
    /// # Errors
    /// When the cache cannot find out.
    fn get_and_touch(
        &self,
        key: &str,
        after: Duration,
    ) -> impl Future<Output = Result<Option<Entry>, CacheError>> + Send;

    /// Writes an entry where there is none, and returns its version.
    ///
    /// `None` if a live entry is there: it stays as it was. An expiry that is over already writes nothing
    /// that anybody could read, and is no error.
    ///
    /// # Errors
    /// [`Full`](crate::CacheErrorKind::Full) when there is no room; others when the cache cannot do it.
    fn insert(
        &self,
        key: &str,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Option<Version>, CacheError>> + Send;

    /// Writes value and expiry over the entry whose version is `expected`, and over no other.
    ///
    /// # Errors
    /// When the cache cannot do it. The entry is then either as it was or as it should become.
    fn replace(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Replaced, CacheError>> + Send;

    /// Restarts the idle time of the entry under `key`, never past `end`. `false` if there is none; none is created.
    ///
    /// Data and version do not change.
    ///
    /// # Errors
    /// When the cache cannot do it.
    fn touch(&self, key: &str) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Removes the entry whose version is `expected`, and no other.
    ///
    /// # Errors
    /// When the cache cannot do it. The entry is then either there or gone.
    fn delete(&self, key: &str, expected: Version) -> impl Future<Output = Result<Deleted, CacheError>> + Send;

    /// Adds `member` to the list under `list`, or moves its end if it is there.
    ///
    /// Lists hold the keys of a user's sessions. A list lives as long as its longest-lived member; a member whose
    /// end has passed is no longer in it. The default keeps the list as an entry like any other, written by
    /// compare-and-set; a cache with sets of its own does better.
    ///
    /// # Errors
    /// When the cache cannot do it.
    fn list_add(
        &self,
        list: &str,
        member: &str,
        end: SystemTime,
    ) -> impl Future<Output = Result<(), CacheError>> + Send {
        index::add(self, &SYSTEM, list, member, end)
    }

    /// Takes `members` off the list under `list`; those that are not on it are no error.
    ///
    /// # Errors
    /// When the cache cannot do it.
    fn list_remove(&self, list: &str, members: &[String]) -> impl Future<Output = Result<(), CacheError>> + Send {
        index::remove(self, &SYSTEM, list, members)
    }

    /// The members of the list under `list`, those that end first in front; empty if there is no such list.
    ///
    /// # Errors
    /// When the cache cannot find out.
    fn list_members(&self, list: &str) -> impl Future<Output = Result<Vec<String>, CacheError>> + Send {
        index::members(self, &SYSTEM, list)
    }

    /// Finds out whether the cache answers, for readiness probes. The default reads a key that nobody writes.
    ///
    /// # Errors
    /// When it does not.
    fn ping(&self) -> impl Future<Output = Result<(), CacheError>> + Send {
        async { self.get("cloakroom:ping").await.map(drop) }
    }
}

/// The lists of a cache that says nothing else end by the system's clock.
static SYSTEM: Clock = Clock::system();

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
    fn insert(
        &self,
        key: &str,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Option<Version>, CacheError>> + Send {
        (**self).insert(key, value, expiry)
    }
    fn replace(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Replaced, CacheError>> + Send {
        (**self).replace(key, expected, value, expiry)
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
    ) -> impl Future<Output = Result<(), CacheError>> + Send {
        (**self).list_add(list, member, end)
    }
    fn list_remove(&self, list: &str, members: &[String]) -> impl Future<Output = Result<(), CacheError>> + Send {
        (**self).list_remove(list, members)
    }
    fn list_members(&self, list: &str) -> impl Future<Output = Result<Vec<String>, CacheError>> + Send {
        (**self).list_members(list)
    }
    fn ping(&self) -> impl Future<Output = Result<(), CacheError>> + Send {
        (**self).ping()
    }
}

/// What a cache holds under a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes, as they were written.
    pub value: Bytes,
    /// Changes with every write.
    pub version: Version,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value holds what visitors entrusted to the application.
        f.debug_struct("Entry").field("bytes", &self.value.len()).field("version", &self.version).finish()
    }
}

/// When an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Gone this long after the last write or touch.
    pub idle: Duration,
    /// Gone at this time, whatever happens.
    pub end: SystemTime,
}

/// What came of a [`Cache::replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only `Done` means that the value was written"]
pub enum Replaced {
    /// Written, under this new version.
    Done(Version),
    /// Another version is there: this one. It stays as it was.
    Conflict(Entry),
    /// Nothing is there, and nothing was written.
    Missing,
}

/// What came of a [`Cache::delete`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only `Done` means that the entry was removed by this call"]
pub enum Deleted {
    /// Removed.
    Done,
    /// Another version is there: this one. It stays as it was.
    Conflict(Entry),
    /// Nothing was there.
    Missing,
}
