//! Loading: the engine with its cache and settings, and how it finds the session that the IDs of a request lead to.
use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use super::{Config, Family, endings::Endings, layers::Layers, queue::Queues};
use crate::{
    cache::{Cache, Entry, Expiry, Version},
    clock::time_of,
    deadline::{Deadline, within},
    error::SessionError,
    events,
    id::{CacheKey, SessionId, SessionKey},
    record::{self, Decoded, Head, Identity, Record},
};

pub(crate) struct Engine<C> {
    pub(crate) cache: Arc<C>,
    pub(crate) config: Config,
    pub(super) queues: Arc<Queues<Stored>>,
    pub(super) endings: Arc<Endings>,
    layers: Arc<Layers>,
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
    pub(super) fn entry(&self) -> Entry {
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

/// What the IDs of a request led to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) session: Option<(SessionId, Stored)>,
    /// A key that leads to no session but may be destroyed: of a tombstone, with its time, or of an entry that this process
    /// cannot read.
    pub(crate) former: Option<(SessionKey, u64)>,
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

    pub(super) fn cache_key(&self, key: &SessionKey) -> CacheKey {
        CacheKey::new(&self.config.prefix, key)
    }

    pub(super) fn now(&self) -> u64 {
        self.config.clock.now_ms()
    }

    pub(super) fn expiry(&self, head: &Head) -> Expiry {
        let anonymous = || self.config.anonymous_ttl.filter(|_| head.owner().is_none());
        let idle = head.idle().or_else(anonymous).unwrap_or(self.config.ttl);
        Expiry::new(idle.max(Duration::from_millis(1)), time_of(head.end))
    }

    pub(super) fn new_id(&self) -> Result<SessionId, SessionError> {
        SessionId::generate(self.config.random)
    }

    /// Runs work of the store's own within the store's deadline.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        within(Deadline::after(self.config.deadline), work).await
    }

    /// The one live session among `ids`. Two of them are none: the second cookie was planted (RFC 6265bis, section 8.6).
    pub(super) async fn load(&self, ids: &[SessionId], refresh: Option<Duration>) -> Result<Found, SessionError> {
        let mut found = Found::default();
        // Which of several to refresh is known only after the last of them.
        let at_once = if ids.len() > 1 { None } else { refresh };
        for id in ids {
            match self.look_up(id.key(), at_once).await? {
                Lookup::Live(_) if found.session.is_some() => {
                    events::several_sessions();
                    return Ok(Found::default());
                }
                Lookup::Live(stored) => found.session = Some((id.clone(), stored)),
                Lookup::Tombstone { at, .. } => found.former = found.former.or(Some((id.key(), at))),
                Lookup::Expired { .. } | Lookup::Unreadable { .. } => {
                    found.former = found.former.or(Some((id.key(), 0)));
                }
                Lookup::Absent => {}
            }
        }
        if let (Some(after), Some((_, stored)), true) = (refresh, &found.session, ids.len() > 1) {
            self.cache.get_and_touch(&self.cache_key(&stored.key), after).await?;
        }
        if found.session.is_some() {
            found.former = None;
        }
        Ok(found)
    }

    /// What an entry under `key` is.
    pub(super) fn read(&self, key: SessionKey, entry: Entry) -> Lookup {
        match record::decode(&entry.value, &key, self.config.max_bytes) {
            Ok(Decoded::Live(record)) => {
                let at = self.now();
                if record.head.end <= at {
                    return Lookup::Expired { version: entry.version };
                }
                Lookup::Live(Stored::new(key, entry.version, record, at))
            }
            Ok(Decoded::Tombstone(tombstone)) => {
                Lookup::Tombstone { successor: tombstone.successor, at: tombstone.at, version: entry.version }
            }
            Err(why) => {
                events::unreadable(&key, why.reason());
                Lookup::Unreadable { version: entry.version }
            }
        }
    }

    /// Looks `key` up, restarting its idle time if `refresh` has passed since the last start.
    pub(super) async fn look_up(&self, key: SessionKey, refresh: Option<Duration>) -> Result<Lookup, SessionError> {
        let cache_key = self.cache_key(&key);
        let entry = match refresh {
            None => self.cache.get(&cache_key).await?,
            Some(after) => self.cache.get_and_touch(&cache_key, after).await?,
        };
        Ok(entry.map_or(Lookup::Absent, |entry| self.read(key, entry)))
    }

    /// The live session under `key`, by way of tombstones of `family` alone.
    pub(super) async fn reload(&self, key: SessionKey, family: &Family) -> Result<Option<Stored>, SessionError> {
        let found = self.look_up(key, None).await?;
        self.follow(found, family).await
    }
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
