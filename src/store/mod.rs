//! Sessions in a cache: configuration, and the way to load, commit, renew and destroy them.
use std::{fmt, future::Future, sync::Arc, time::Duration};

use crate::{
    cache::{Cache, Entry, Expiry},
    clock::{Clock, time_of},
    error::{CacheError, CacheErrorKind, ConfigError, SessionError},
    events,
    id::{SessionId, SessionKey},
    random,
    record::{self, Head, Record},
};

mod cache_key;
mod commit;
mod destroy;
mod direct;
mod engine;
mod hold;
mod owner;
mod queue;
mod renew;

pub(crate) use self::engine::{Action, Draft, Engine, Fate, Found, Outcome, Stored};
pub use self::owner::{SessionInfo, WhenFull};
use self::{cache_key::CacheKey, queue::Queues};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sessions in a cache: the settings that all of them share, and the operations on one.
///
/// A [`SessionLayer`](crate::SessionLayer) works on a store; a store works without HTTP as well: save a session, hand the
/// ID out, load the session on another machine, destroy it, and it is gone everywhere.
///
/// Clones share the cache, whether it is `Clone` or not. Settings are made before the store is shared: they apply to the
/// value they are called on and to its later clones.
///
/// # Defaults
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`ttl`](Self::ttl) | 14 days | long enough to come back next week, short enough to clean up |
/// | [`max_lifetime`](Self::max_lifetime) | 30 days | NIST SP 800-63B-4 asks for a new login after 30 days at the latest |
/// | [`key_prefix`](Self::key_prefix) | `cloakroom:` | keeps sessions apart from what else is in the cache |
/// | [`max_bytes`](Self::max_bytes) | 65,536 | a session is not a database |
/// | [`deadline`](Self::deadline) | 1 second | a request must not hang on its session |
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), cloakroom::SessionError> {
/// use cloakroom::{InMemoryCache, Session, SessionStore};
///
/// let store = SessionStore::new(InMemoryCache::new());
/// let session = Session::new();
/// session.set("user", 42)?;
/// let id = store.save(&session).await?;
///
/// let found = store.load(&id).await?.expect("just saved");
/// assert_eq!(found.get("user"), Some(42));
///
/// store.destroy(&id).await?;
/// assert!(store.load(&id).await?.is_none());
/// # Ok(()) }
/// ```
pub struct SessionStore<C> {
    cache: Arc<C>,
    config: Config,
    queues: Arc<Queues>,
}

/// What all sessions of a store share.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) ttl: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) prefix: Arc<str>,
    pub(crate) max_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) clock: Clock,
    pub(crate) owners: owner::Owners,
    random: Random,
}

/// Where IDs come from.
type Random = fn(&mut [u8]) -> Result<(), SessionError>;

impl<C: Cache> SessionStore<C> {
    /// A store with the default settings.
    pub fn new(cache: C) -> Self {
        let config = Config {
            ttl: 14 * DAY,
            max_lifetime: 30 * DAY,
            prefix: "cloakroom:".into(),
            max_bytes: 64 * 1024,
            deadline: Duration::from_secs(1),
            clock: Clock::system(),
            owners: owner::Owners::default(),
            random: random::fill,
        };
        Self { cache: Arc::new(cache), config, queues: Arc::default() }
    }

    /// A session ends when it goes this long without being written or refreshed. Default: 14 days.
    ///
    /// A session of its own mind says so with [`Session::set_ttl`](crate::Session::set_ttl). A change of this setting
    /// holds for a session from its next write on.
    #[must_use]
    pub fn ttl(mut self, idle: Duration) -> Self {
        self.config.ttl = idle;
        self
    }

    /// A session ends this long after it was created, whatever happens. Default: 30 days.
    ///
    /// It is kept in the record and checked at every load, so it holds even where a cache forgot to expire an entry.
    /// Longer idle times are no contradiction: the sooner end counts.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.config.max_lifetime = lifetime;
        self
    }

    /// What the keys in the cache begin with. Default: `cloakroom:`.
    ///
    /// Two stores with different prefixes on one cache do not see each other's sessions.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.prefix = prefix.into().into();
        self
    }

    /// The largest record, in bytes: data as JSON and about 150 bytes around it. Default: 65,536.
    ///
    /// One value over it is refused by [`Session::set`](crate::Session::set), more at the commit; a larger record in the
    /// cache is not read.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.max_bytes = bytes.min(u32::MAX as usize);
        self
    }

    /// How long all of a request's work on its session may take, loading and committing together; the time in the handler
    /// does not count. Default: 1 second.
    ///
    /// The operations of the store itself have this long each.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.config.deadline = limit;
        self
    }

    /// Where the time comes from: for tests. Default: the system's clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Where the bytes of IDs come from: for tests of what happens when randomness fails or repeats itself.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn random(mut self, random: fn(&mut [u8]) -> Result<(), SessionError>) -> Self {
        self.config.random = random;
        self
    }

    /// The cache underneath.
    pub fn cache(&self) -> &C {
        &self.cache
    }

    /// Finds out whether the cache answers, within [`deadline`](Self::deadline): for readiness probes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), SessionError> {
        self.bounded(async { self.cache.ping().await.map_err(SessionError::from) }).await
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Settings that cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let zero = |setting, rule: &'static str| Err(ConfigError::new(setting, rule));
        if config.ttl.is_zero() {
            return zero("ttl", "a session that ends at once is none: longer than zero");
        }
        if config.max_lifetime.is_zero() {
            return zero("max_lifetime", "a session that ends at once is none: longer than zero");
        }
        if config.deadline.is_zero() {
            return zero("deadline", "no cache answers in no time: longer than zero");
        }
        if config.prefix.is_empty() {
            return zero("key_prefix", "sessions need a name space of their own in the cache: not empty");
        }
        if config.max_bytes < 256 {
            return zero("max_bytes", "an empty record needs 150 bytes: at least 256");
        }
        Ok(())
    }

    fn cache_key(&self, key: &SessionKey) -> CacheKey {
        CacheKey::new(&self.config.prefix, key)
    }

    fn now(&self) -> u64 {
        self.config.clock.now_ms()
    }

    fn expiry(&self, head: &Head) -> Expiry {
        Expiry { idle: head.idle(self.config.ttl), end: time_of(head.end) }
    }

    fn new_id(&self) -> Result<SessionId, SessionError> {
        SessionId::generate(self.config.random)
    }

    /// Runs store work of its own within the deadline.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let deadline = crate::deadline::Deadline::after(self.config.deadline);
        deadline.bound(work).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// What an entry under `key` is.
    fn read(&self, key: SessionKey, entry: Entry) -> Look {
        match record::decode(&entry.value, &key, self.config.max_bytes) {
            Ok(Record::Live { head, values }) => {
                let seen = self.now();
                if head.end <= seen {
                    return Look::Absent;
                }
                Look::Live(Stored { key, version: entry.version, head, values, seen })
            }
            Ok(Record::Tombstone { successor }) => Look::Tombstone { successor, version: entry.version },
            Err(why) => {
                events::unreadable(&key, why.reason());
                Look::Unreadable
            }
        }
    }

    /// Looks `key` up, restarting its idle time if `refresh` has passed since the last start.
    async fn look(&self, key: SessionKey, refresh: Option<Duration>) -> Result<Look, SessionError> {
        let cache_key = self.cache_key(&key);
        let entry = match refresh {
            None => self.cache.get(&cache_key).await?,
            Some(after) => self.cache.get_and_touch(&cache_key, after).await?,
        };
        Ok(entry.map_or(Look::Absent, |entry| self.read(key, entry)))
    }
}

/// What stands under a key.
enum Look {
    Live(Stored),
    Tombstone {
        successor: SessionKey,
        version: crate::cache::Version,
    },
    /// Nothing, or a session whose lifetime is over.
    Absent,
    /// Something that is no record of this key: no session, and not ours to touch.
    Unreadable,
}

pub(crate) fn timed_out() -> SessionError {
    CacheError::new(CacheErrorKind::Timeout, "the deadline of the session's work passed").into()
}

impl<C> Clone for SessionStore<C> {
    fn clone(&self) -> Self {
        Self { cache: Arc::clone(&self.cache), config: self.config.clone(), queues: Arc::clone(&self.queues) }
    }
}

impl<C> fmt::Debug for SessionStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore")
            .field("ttl", &self.config.ttl)
            .field("max_lifetime", &self.config.max_lifetime)
            .field("max_bytes", &self.config.max_bytes)
            .field("deadline", &self.config.deadline)
            .finish_non_exhaustive()
    }
}
