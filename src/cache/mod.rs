//! What a cache has to do, in sentences that the contract suite checks, and the lists of a cache that has none of its own.
use std::{
    fmt,
    future::Future,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::error::CacheError;

mod boxed;
#[cfg(any(feature = "redis", feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod circuit;
#[cfg(feature = "encryption")]
mod encrypted;
mod memory;
#[cfg(any(feature = "redis", feature = "postgres", feature = "mysql", feature = "sqlite"))]
#[cfg_attr(
    not(any(feature = "redis", feature = "postgres")),
    allow(dead_code, reason = "what MySQL and SQLite leave to those two")
)]
mod near;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
#[cfg_attr(
    not(all(feature = "postgres", feature = "mysql", feature = "sqlite")),
    allow(dead_code, reason = "what only one of the databases needs")
)]
pub(crate) mod sql;
mod version;

#[cfg(feature = "encryption")]
pub use self::encrypted::{EncryptedCache, EncryptionKey};
pub use self::{
    boxed::BoxedCache,
    memory::{InMemoryCache, InMemoryCacheBuilder},
    version::Version,
};

/// A cache: bytes under string keys, each entry with a version and an expiry of its own.
///
/// Implementers write plain `async fn`s. [`InMemoryCache`], `RedisCache` and the SQL caches implement it, and
/// any other store can: six methods are enough.
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
/// 6. The writer draws the version ([`Version::unique`]) and hands it in with the bytes, as an [`Entry`]; the cache stores
///    it as it is. A version stands for one write: a later write never has it, so that a write is recognised by it.
/// 7. Every method ends within a bounded time.
/// 8. Bytes come back as they were given: any bytes, any length, empty ones too.
///
/// Each method states the rest. The conditional ones answer with the entry that is there now, so that the caller
/// needs no second read.
pub trait Cache: Send + Sync + 'static {
    /// Whether every one of the six operations is done at its first poll, because nothing in it ever waits. Default: `false`.
    ///
    /// Then a request needs no allocation, no timer and no other task to wait with. A cache that sets it and waits all the
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

    /// Writes an entry where there is none. `false`: another live entry is there, and stays as it was.
    ///
    /// A live entry with the version of `entry` was written by an earlier try of the same call: that is `true`, and
    /// changes nothing. An expiry that is over already writes nothing that can be read, and is no error.
    ///
    /// # Errors
    /// [`Full`](crate::CacheErrorKind::Full) when there is no room; others when the cache cannot do it.
    fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Writes `entry` and its expiry over the entry whose version is `expected`, and over no other.
    ///
    /// If an entry with the version of `entry` is there, an earlier try of the same call wrote it: the answer is
    /// [`Replaced::Done`], and nothing changes. A write whose answer was lost can be repeated for that reason.
    ///
    /// # Errors
    /// When the cache cannot do it. [`Timeout`](crate::CacheErrorKind::Timeout) and
    /// [`Other`](crate::CacheErrorKind::Other) leave open whether the entry was, or will be, written; with every other
    /// kind it was not.
    fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
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

    /// Adds `member` to the list under `list`, or moves its end to a later time if it is there; an end is never moved
    /// to an earlier one. Returns how many members the list then has.
    ///
    /// Lists hold the keys of a user's sessions. A list lives as long as its longest-lived member; a member whose
    /// end has passed is no longer in it. The default keeps the list as an entry like any other, written by
    /// compare-and-set, with room for 4,096 members; a cache with sets of its own has no such limit.
    ///
    /// # Errors
    /// When the cache cannot do it.
    fn list_add(
        &self,
        list: &str,
        member: &str,
        end: SystemTime,
    ) -> impl Future<Output = Result<usize, CacheError>> + Send {
        lists::add(self, list, member, end)
    }

    /// Takes `members` off the list under `list`; those that are not on it are no error.
    ///
    /// # Errors
    /// When the cache cannot do it.
    fn list_remove(&self, list: &str, members: &[String]) -> impl Future<Output = Result<(), CacheError>> + Send {
        lists::remove(self, list, members)
    }

    /// A part of the list under `list`: up to `limit` members behind `after`, or the first ones without it.
    ///
    /// Members are in the order of their ends, and of their names where ends are equal, so that a list is read in parts
    /// while others change it: what is on it all the time is read. `after` need not be on the list any more. Empty if
    /// there is no such list, or none behind `after`.
    ///
    /// # Errors
    /// When the cache cannot find out.
    fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ListMember>, CacheError>> + Send {
        lists::page(self, list, after, limit)
    }

    /// Finds out whether the cache answers, for readiness probes. The default reads a key that is never written.
    ///
    /// # Errors
    /// When it does not.
    fn ping(&self) -> impl Future<Output = Result<(), CacheError>> + Send {
        async { self.get("cloakroom:ping").await.map(drop) }
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

impl Entry {
    /// These bytes, to be written under this version: one of [`Version::unique`].
    #[must_use]
    pub const fn new(value: Bytes, version: Version) -> Self {
        Self { value, version }
    }
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

impl Expiry {
    /// Gone `idle` after the last write or touch, and at `end` at the latest.
    #[must_use]
    pub const fn new(idle: Duration, end: SystemTime) -> Self {
        Self { idle, end }
    }
}

/// A member of a list: see [`Cache::list_page`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListMember {
    /// When it leaves the list by itself.
    pub end: SystemTime,
    /// Its name: the text of a session key.
    pub name: String,
}

impl ListMember {
    /// A member of this name, until `end`.
    #[must_use]
    pub fn new(name: impl Into<String>, end: SystemTime) -> Self {
        Self { end, name: name.into() }
    }
}

/// What came of a [`Cache::replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only `Done` means that the value was written"]
pub enum Replaced {
    /// Written.
    Done,
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

/// The lists of [`Cache`]'s provided methods: an entry like any other, written by compare-and-set.
mod lists {
    use std::{
        collections::{BTreeMap, HashSet},
        time::{Duration, SystemTime},
    };

    use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
    use crate::{
        clock::{Clock, millis_since_epoch, time_of},
        error::{CacheError, CacheErrorKind},
    };

    /// These lists end by the system's clock: a cache with another one keeps lists of its own.
    static CLOCK: Clock = Clock::system();

    /// A writer that loses this often has met a cache that answers every write with a conflict.
    const TRIES: usize = 1000;

    /// The members that a list has room for: 250 KB. More is an error, never a member that is left out in silence.
    const MOST: usize = 4096;

    /// Member → its end, in milliseconds since the epoch.
    type Members = BTreeMap<String, u64>;

    pub(super) async fn add<C: Cache + ?Sized>(
        cache: &C,
        list: &str,
        member: &str,
        end: SystemTime,
    ) -> Result<usize, CacheError> {
        let end = millis_since_epoch(end);
        edit(cache, list, true, |members| {
            let known = members.entry(member.to_owned()).or_insert(end);
            *known = end.max(*known);
        })
        .await
    }

    pub(super) async fn remove<C: Cache + ?Sized>(cache: &C, list: &str, gone: &[String]) -> Result<(), CacheError> {
        if gone.is_empty() {
            return Ok(());
        }
        let gone: HashSet<_> = gone.iter().collect();
        edit(cache, list, false, |members| members.retain(|member, _| !gone.contains(member))).await?;
        Ok(())
    }

    pub(super) async fn page<C: Cache + ?Sized>(
        cache: &C,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        let Some(entry) = cache.get(list).await? else { return Ok(Vec::new()) };
        let members = live(&entry)?.into_iter().map(|(name, end)| ListMember::new(name, time_of(end)));
        let mut members: Vec<_> = members.filter(|member| after.is_none_or(|after| member > after)).collect();
        members.sort();
        members.truncate(limit);
        Ok(members)
    }

    async fn edit<C: Cache + ?Sized>(
        cache: &C,
        list: &str,
        create: bool,
        change: impl Fn(&mut Members) + Send + Sync,
    ) -> Result<usize, CacheError> {
        let mut found = cache.get(list).await?;
        for _ in 0..TRIES {
            match found {
                None if !create => return Ok(0),
                None => {
                    let mut members = Members::new();
                    change(&mut members);
                    if cache.insert(list, encode(&members)?, expiry(&members)).await? {
                        return Ok(members.len());
                    }
                    found = cache.get(list).await?;
                }
                Some(entry) => {
                    let mut members = live(&entry)?;
                    let before = members.len();
                    change(&mut members);
                    if members.len() > before.max(MOST) {
                        return Err(CacheError::new(CacheErrorKind::Full, "a list of sessions has 4096 members"));
                    }
                    if !create && members.len() == before {
                        return Ok(before);
                    }
                    match write(cache, list, entry.version, &members).await? {
                        Replaced::Done => return Ok(members.len()),
                        Replaced::Conflict(newer) => found = Some(newer),
                        Replaced::Missing => found = None,
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        Err(CacheError::new(CacheErrorKind::Timeout, "a list of sessions changed at every try"))
    }

    /// An empty list is removed rather than written.
    async fn write<C: Cache + ?Sized>(
        cache: &C,
        list: &str,
        version: Version,
        members: &Members,
    ) -> Result<Replaced, CacheError> {
        if members.is_empty() {
            return Ok(match cache.delete(list, version).await? {
                Deleted::Done | Deleted::Missing => Replaced::Done,
                Deleted::Conflict(newer) => Replaced::Conflict(newer),
            });
        }
        cache.replace(list, version, encode(members)?, expiry(members)).await
    }

    fn live(entry: &Entry) -> Result<Members, CacheError> {
        let mut members: Members = serde_json::from_slice(&entry.value)
            .map_err(|_| CacheError::new(CacheErrorKind::Other, "a list of sessions is unreadable"))?;
        let now = CLOCK.now_ms();
        members.retain(|_, end| *end > now);
        Ok(members)
    }

    fn encode(members: &Members) -> Result<Entry, CacheError> {
        let text = serde_json::to_vec(members)
            .map_err(|_| CacheError::new(CacheErrorKind::Other, "a list of sessions does not encode"))?;
        Ok(Entry::new(text.into(), Version::unique()))
    }

    /// The list lives as long as its longest-lived member.
    fn expiry(members: &Members) -> Expiry {
        let end = members.values().copied().max().unwrap_or_default();
        let left = end.saturating_sub(CLOCK.now_ms());
        Expiry { idle: Duration::from_millis(left), end: time_of(end) }
    }
}
