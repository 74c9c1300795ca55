//! Sessions in a cache: how they are loaded, committed, renewed and destroyed. Internal, and generic over the cache; the
//! handles see it through [`SessionEngine`], without the cache's type.
use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use crate::{
    cache::{Cache, Entry, Expiry, Version},
    clock::{Clock, time_of},
    deadline::Deadline,
    error::{CacheError, CacheErrorKind, SessionError},
    events,
    id::{SessionId, SessionKey},
    random,
    record::{Head, Identity, Record},
};

#[cfg(feature = "device-bound")]
mod bind;
mod cache_key;
mod commit;
mod destroy;
mod endings;
mod erased;
mod family;
mod layers;
mod load;
mod owners;
mod queue;
mod renew;
mod save;
mod write;

#[cfg(feature = "device-bound")]
pub(crate) use self::bind::{Decide, NEWEST};
pub use self::owners::SessionLimitPolicy;
use self::{cache_key::CacheKey, endings::Endings, layers::Layers, queue::Queues};
pub(crate) use self::{
    commit::{Action, Base, Commit, Committed},
    endings::Ending,
    erased::SessionEngine,
    family::Family,
    load::Found,
    owners::{Owners, Page, Revoked},
    renew::TOMBSTONE_LIFE,
};

pub(crate) struct Engine<C> {
    pub(crate) cache: Arc<C>,
    pub(crate) config: Config,
    queues: Arc<Queues>,
    endings: Arc<Endings>,
    layers: Arc<Layers>,
}

/// What all sessions of a store share.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) ttl: Duration,
    pub(crate) anonymous_ttl: Option<Duration>,
    pub(crate) max_lifetime: Duration,
    pub(crate) prefix: Arc<str>,
    pub(crate) max_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) ended_interval: Duration,
    pub(crate) clock: Clock,
    pub(crate) owners: Owners,
    pub(crate) random: Random,
}

/// Where the bytes of IDs come from.
pub(crate) type Random = fn(&mut [u8]) -> Result<(), SessionError>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Config {
    pub(crate) const DEFAULT_MAX_BYTES: usize = 64 * 1024;
    pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: 14 * DAY,
            anonymous_ttl: None,
            max_lifetime: Self::DEFAULT_LIFETIME,
            prefix: "cloakroom:".into(),
            max_bytes: Self::DEFAULT_MAX_BYTES,
            deadline: Duration::from_secs(1),
            ended_interval: Duration::from_secs(30),
            clock: Clock::system(),
            owners: Owners::default(),
            random: random::fill,
        }
    }
}

/// A session as it was found in the cache or written to it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stored(Arc<StoredSession>);

#[derive(Debug)]
pub(crate) struct StoredSession {
    pub(crate) key: SessionKey,
    pub(crate) version: Version,
    pub(crate) record: Record,
    /// When it was read or written, by the store's clock.
    pub(crate) at: u64,
}

impl Stored {
    pub(crate) fn new(key: SessionKey, version: Version, record: Record, at: u64) -> Self {
        Self(Arc::new(StoredSession { key, version, record, at }))
    }

    pub(crate) fn identity(&self) -> Identity {
        Some(self.version)
    }

    /// The entry that a cache keeps of it.
    fn entry(&self) -> Entry {
        Entry::new(self.record.values.text().clone(), self.version)
    }
}

impl Deref for Stored {
    type Target = StoredSession;

    fn deref(&self) -> &StoredSession {
        &self.0
    }
}

/// The entry under a session key.
pub(crate) enum Lookup {
    Live(Stored),
    Tombstone {
        successor: SessionKey,
        /// When the session was renewed, by the clock of that process.
        at: u64,
        version: Version,
    },
    Absent,
    /// A session whose lifetime is over by this process's clock. For one whose clock is behind it may still live.
    Expired {
        version: Version,
    },
    /// An entry that is no record of this key, or not of this version of the crate: no session, and never written over.
    Unreadable {
        version: Version,
    },
}

impl<C: Cache> Engine<C> {
    pub(crate) fn new(cache: C) -> Self {
        Self {
            cache: Arc::new(cache),
            config: Config::default(),
            queues: Arc::default(),
            endings: Arc::default(),
            layers: Arc::default(),
        }
    }

    /// A layer with this cookie name is built. Returns the other name of an earlier layer on the same sessions.
    pub(crate) fn note_layer(&self, cookie_name: &str) -> Option<Box<str>> {
        self.layers.note(&self.config.prefix, cookie_name)
    }

    fn cache_key(&self, key: &SessionKey) -> CacheKey {
        CacheKey::new(&self.config.prefix, key)
    }

    fn now(&self) -> u64 {
        self.config.clock.now_ms()
    }

    fn expiry(&self, head: &Head) -> Expiry {
        let anonymous = || self.config.anonymous_ttl.filter(|_| head.owner().is_none());
        let idle = head.idle().or_else(anonymous).unwrap_or(self.config.ttl);
        Expiry::new(idle.max(Duration::from_millis(1)), time_of(head.end))
    }

    fn new_id(&self) -> Result<SessionId, SessionError> {
        SessionId::generate(self.config.random)
    }

    /// Runs work of the store's own within the store's deadline.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        within(Deadline::after(self.config.deadline), work).await
    }
}

/// Runs a call of the store or of a handle that is no load and no commit, until the deadline. A failure of the cache is logged
/// here, as the caller may answer with whatever it likes.
pub(crate) async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    let result = deadline.bound(work).await.unwrap_or_else(|_| Err(timed_out()));
    result.inspect_err(|error| events::cache_failed(error, None))
}

pub(crate) fn timed_out() -> SessionError {
    CacheError::new(CacheErrorKind::Timeout, "the deadline of the session's work passed").into()
}

/// Whether the error leaves open whether a write took effect.
fn is_unknown(error: &CacheError) -> bool {
    matches!(error.kind(), CacheErrorKind::Timeout | CacheErrorKind::Other)
}

impl<C> Clone for Engine<C> {
    fn clone(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            config: self.config.clone(),
            queues: Arc::clone(&self.queues),
            endings: Arc::clone(&self.endings),
            layers: Arc::clone(&self.layers),
        }
    }
}
