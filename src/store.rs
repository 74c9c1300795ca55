//! The store: the settings that all sessions share, sessions by their ID, and the sessions of a user.
use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    cache::Cache,
    clock::Clock,
    deadline::Deadline,
    engine::{Config, Engine, SessionEngine, SessionLimitPolicy},
    error::{ConfigError, SessionError},
    events,
    id::{SessionId, SessionKey},
    run_to_end::RunToEnd,
    session::{Session, SessionInfo},
};

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
/// | [`anonymous_ttl`](Self::anonymous_ttl) | as `ttl` | sessions without an owner are not told apart |
/// | [`max_lifetime`](Self::max_lifetime) | 30 days | NIST SP 800-63B-4 asks for a new login after 30 days at the latest |
/// | [`key_prefix`](Self::key_prefix) | `cloakroom:` | keeps sessions apart from other entries in the cache |
/// | [`max_bytes`](Self::max_bytes) | 65,536 | a session is not a database |
/// | [`deadline`](Self::deadline) | 1 second | a request must not hang on its session |
/// | [`max_sessions_per_owner`](Self::max_sessions_per_owner) | 100 | more than a person has devices; "log out everywhere" stays quick |
/// | [`ended_interval`](Self::ended_interval) | 30 seconds | one cheap read for each waiting WebSocket |
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
    engine: Engine<C>,
}

impl<C: Cache> SessionStore<C> {
    /// A store with the default settings.
    pub fn new(cache: C) -> Self {
        Self { engine: Engine::new(cache) }
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(&mut self.engine.config);
        self
    }

    /// The idle timeout: a session ends when it goes this long without being written or refreshed. Default: 14 days.
    ///
    /// Override it per session with [`Session::set_ttl`]. A change of this setting holds for a session from its next write
    /// on.
    #[must_use]
    pub fn ttl(self, idle: Duration) -> Self {
        self.with(|config| config.ttl = idle)
    }

    /// The idle timeout of sessions without an owner, in place of [`ttl`](Self::ttl). Default: as `ttl`.
    ///
    /// A short one bounds what a flood of anonymous visitors takes of the cache.
    #[must_use]
    pub fn anonymous_ttl(self, idle: Duration) -> Self {
        self.with(|config| config.anonymous_ttl = Some(idle))
    }

    /// The lifetime: a session ends this long after its login, or after its creation if there was no login, whatever
    /// happens. Default: 30 days.
    ///
    /// The end is kept in the record and checked at every load, so it holds even where a cache forgot to expire an entry.
    /// Longer idle timeouts are no contradiction: the sooner end counts.
    #[must_use]
    pub fn max_lifetime(self, lifetime: Duration) -> Self {
        self.with(|config| config.max_lifetime = lifetime)
    }

    /// The beginning of all keys in the cache. Default: `cloakroom:`.
    ///
    /// Two stores with different prefixes on one cache do not see each other's sessions. Two applications, or two layers, that
    /// share a cache need different prefixes: with the same one, each accepts the other's session IDs, whatever the names of
    /// their cookies are. Layers with different cookie names on clones of one store are logged as `two_cookie_names` when they are
    /// built; two stores on one cache are not recognised, nor are two processes.
    #[must_use]
    pub fn key_prefix(self, prefix: impl Into<String>) -> Self {
        self.with(|config| config.prefix = prefix.into().into())
    }

    /// The most bytes that the values of a session take, as JSON. Default: 65,536.
    ///
    /// One value over it is refused by [`Session::set`], more at the commit; a larger record in the cache is not read. The
    /// fields that this crate adds to a record do not count.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_bytes = bytes.min(u32::MAX as usize / 2))
    }

    /// How long all of a request's work on its session may take, loading and committing together; the time in the handler
    /// does not count. Default: 1 second.
    ///
    /// The operations of the store itself have this long each.
    #[must_use]
    pub fn deadline(self, limit: Duration) -> Self {
        self.with(|config| config.deadline = limit)
    }

    /// How often [`Session::ended`] looks whether a session ended in another process. Default: 30 seconds.
    ///
    /// Each look is one read of the cache for each handle that waits; one that a near cache of Redis answers is no command.
    /// For WebSockets that have to close within a second of a logout on another machine: 250 ms, with a near cache.
    #[must_use]
    pub fn ended_interval(self, interval: Duration) -> Self {
        self.with(|config| config.ended_interval = interval)
    }

    /// The most sessions of a user. Default: 100.
    ///
    /// Counted when a session is given its owner: that takes nothing as long as the user's list is no longer than the limit,
    /// and else one or two reads for each session on it. Zero counts as one.
    #[must_use]
    pub fn max_sessions_per_owner(self, sessions: usize) -> Self {
        self.with(|config| config.owners.limit = NonZeroUsize::new(sessions.max(1)))
    }

    /// What happens to one session more than [`max_sessions_per_owner`](Self::max_sessions_per_owner). Default:
    /// [`SessionLimitPolicy::EndOldest`].
    #[must_use]
    pub fn session_limit_policy(self, policy: SessionLimitPolicy) -> Self {
        self.with(|config| config.owners.policy = policy)
    }

    /// Keeps the names of owners readable in the names of the cache's lists. Default: `false`, a list is named by a digest
    /// of its owner.
    ///
    /// The record of a session has its owner in either case.
    #[must_use]
    pub fn readable_owners(self, readable: bool) -> Self {
        self.with(|config| config.owners.readable = readable)
    }

    /// Secret keys that the names of owners are hashed with (HMAC-SHA-256) in the names of the cache's lists. Default: none,
    /// a plain SHA-256.
    ///
    /// Without a key the owner of a list can be found by trying: a number of a few digits takes a second. A list is written
    /// under the first key; lists under all of them are read, revoked and unlisted, so that a key is changed by putting the
    /// new one in front and keeping the old one for the longest lifetime. Keys of 32 random bytes do.
    #[must_use]
    pub fn owner_keys(self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.with(|config| config.owners.keys = keys.into_iter().map(|key| key.as_ref().into()).collect())
    }

    /// Where the time comes from: for tests. Default: the system's clock.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        self.with(|config| config.clock = clock)
    }

    /// Where the bytes of IDs come from: for tests of what happens when randomness fails or repeats itself.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    #[must_use]
    pub fn random(self, random: fn(&mut [u8]) -> Result<(), SessionError>) -> Self {
        self.with(|config| config.random = random)
    }

    /// The cache underneath.
    pub fn cache(&self) -> &C {
        &self.engine.cache
    }

    /// Finds out whether the cache answers, within [`deadline`](Self::deadline): for readiness probes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), SessionError> {
        self.engine.bounded(async { self.engine.cache.ping().await.map_err(SessionError::from) }).await
    }

    pub(crate) fn engine(&self) -> Arc<dyn SessionEngine> {
        Arc::new(self.engine.clone())
    }

    /// Reports a second cookie name on the same sessions.
    pub(crate) fn note_layer(&self, cookie_name: &str) {
        if let Some(first) = self.engine.note_layer(cookie_name) {
            events::two_cookie_names(cookie_name, &first);
        }
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.engine.config
    }

    /// Reports settings that cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check(&self.engine.config)
    }

    /// For operations without a layer, whose settings no `build` has checked.
    fn checked(&self) -> Result<&Engine<C>, SessionError> {
        check(&self.engine.config).map_err(|error| {
            events::setting(&error);
            SessionError::Setting(SessionError::UNUSABLE)
        })?;
        Ok(&self.engine)
    }

    /// Stores a copy of the session under a fresh ID, and returns that. The handle itself stays as it is: saved twice, it
    /// makes two sessions.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails or is full, [`TooLarge`](SessionError::TooLarge) over the
    /// limit, [`Random`](SessionError::Random) without randomness, [`Setting`](SessionError::Setting) for settings of the
    /// store that cannot work. For a session with an owner, [`TooManySessions`](SessionError::TooManySessions), or
    /// [`Gone`](SessionError::Gone) if newer logins have ended it, by
    /// [`session_limit_policy`](Self::session_limit_policy).
    pub async fn save(&self, session: &Session) -> Result<SessionId, SessionError> {
        let engine = self.checked()?;
        let record = session.view();
        let saved = engine.bounded(engine.save_new(&record)).await;
        session.note_copied();
        saved
    }

    /// Stores the session under an ID that exists already.
    ///
    /// For the ID that the session was loaded with this is [`Session::commit`]. Any other well-formed ID is taken at its
    /// word, as when sessions are brought over from elsewhere: the session is written over the live session under that ID,
    /// or inserted.
    ///
    /// # Errors
    /// As [`save`](Self::save); [`InvalidId`](SessionError::InvalidId) for a text that is no ID;
    /// [`Gone`](SessionError::Gone) if the session ended meanwhile, or was renewed;
    /// [`Conflict`](SessionError::Conflict) if others kept changing it until the deadline.
    pub async fn save_with_id(&self, id: impl AsRef<str>, session: &Session) -> Result<(), SessionError> {
        let engine = self.checked()?;
        let id = SessionId::parse(id.as_ref().as_bytes()).ok_or(SessionError::InvalidId)?;
        let key = id.key();
        if session.key() == Some(key) {
            return session.commit().await;
        }
        let (record, deadline) = (session.view(), Deadline::after(self.config().deadline));
        let saved = engine.bounded(engine.save_over(key, &record, deadline)).await;
        session.note_copied();
        saved
    }

    /// The session with this ID. `None` for what is malformed, absent, expired, renewed away, unreadable or foreign.
    ///
    /// Its own [`commit`](Session::commit) writes changes back.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache cannot find out, [`Setting`](SessionError::Setting) for settings of the
    /// store that cannot work.
    pub async fn load(&self, id: impl AsRef<str>) -> Result<Option<Session>, SessionError> {
        let engine = self.checked()?;
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(None) };
        let stored = engine.bounded(engine.load_stored(id.key())).await?;
        Ok(stored.map(|stored| Session::standalone(self.engine(), stored)))
    }

    /// Ends the session with this ID, everywhere and for good; follows a renewal. An ID that leads nowhere is no error.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails: then the session may still live.
    /// [`Incomplete`](SessionError::Incomplete) if the session was renewed very often since the ID was issued: repeat it.
    pub async fn destroy(&self, id: impl AsRef<str>) -> Result<(), SessionError> {
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(()) };
        self.end(id.key()).await.map(drop)
    }

    /// Restarts the idle timeout of the session with this ID. `false` if there is none.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails.
    pub async fn touch(&self, id: impl AsRef<str>) -> Result<bool, SessionError> {
        let engine = self.checked()?;
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(false) };
        engine.bounded(engine.touch_key(id.key())).await
    }

    /// The live sessions of a user, in the order of [`owner_sessions`](Self::owner_sessions).
    ///
    /// Takes one operation for each 256 sessions, one for each session, and one more for each of them that was renewed; a few
    /// are under way at a time. Sessions that ended are taken off the list.
    ///
    /// # Errors
    /// When the cache fails, or when there are more than can be looked at within the deadline: `owner_sessions` gives them in
    /// pages.
    pub async fn sessions_of(&self, owner: &str) -> Result<Vec<SessionInfo>, SessionError> {
        let engine = self.checked()?;
        let sessions = engine.bounded(engine.owner_page(owner, None, usize::MAX)).await?;
        Ok(SessionInfo::of_page(sessions))
    }

    /// Up to `limit` live sessions of a user, behind `after` or from the first one on: those of
    /// [`sessions_of`](Self::sessions_of) in pages, however many there are.
    ///
    /// They come in the order in which their lifetimes end: the oldest login first, where all have the same lifetime. Each
    /// page is read anew, so that a session that is renewed meanwhile may be on two pages. A page with fewer sessions than
    /// `limit` is the last one.
    ///
    /// # Errors
    /// When the cache fails, or when `limit` is more than can be looked at within the deadline.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{Cache, SessionError, SessionStore};
    /// async fn count<C: Cache>(store: &SessionStore<C>, user: &str) -> Result<usize, SessionError> {
    ///     let (mut count, mut last) = (0, None);
    ///     loop {
    ///         let page = store.owner_sessions(user, last.as_ref(), 100).await?;
    ///         count += page.len();
    ///         last = page.last().cloned();
    ///         if page.len() < 100 {
    ///             return Ok(count);
    ///         }
    ///     }
    /// }
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let store = SessionStore::new(cloakroom::InMemoryCache::new());
    /// # assert_eq!(count(&store, "alice").await.unwrap(), 0);
    /// # });
    /// ```
    pub async fn owner_sessions(
        &self,
        owner: &str,
        after: Option<&SessionInfo>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, SessionError> {
        let engine = self.checked()?;
        let sessions = engine.bounded(engine.owner_page(owner, after.map(SessionInfo::member), limit)).await?;
        Ok(SessionInfo::of_page(sessions))
    }

    /// Ends a session by its key, whatever is in flight; follows a renewal, so that a key from a page that was loaded before
    /// it still ends the session. `false` if it had ended already.
    ///
    /// It ends the session of any user: where the key comes from a form, use [`Session::revoke`].
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    pub async fn revoke(&self, key: &SessionKey) -> Result<bool, SessionError> {
        self.end(*key).await
    }

    /// Once begun, an end runs to its end, whether its caller waits for it or not.
    async fn end(&self, key: SessionKey) -> Result<bool, SessionError> {
        let (engine, deadline) = (self.checked()?.clone(), Deadline::after(self.config().deadline));
        RunToEnd::new(async move { engine.bounded(engine.destroy_key(key, deadline)).await }).await
    }

    /// Ends all sessions of a user: "log out everywhere". Returns how many.
    ///
    /// Requests in flight cannot bring one back, and a renewal under way ends with its session. A session that is being
    /// created for the user at the same moment is either ended or listed by [`sessions_of`](Self::sessions_of)
    /// afterwards. Works through the list in parts, and runs to its end also if this future is dropped.
    ///
    /// # Errors
    /// When the cache fails; some of the sessions may then still live: repeat it.
    /// [`Incomplete`](SessionError::Incomplete) if there were too many for the deadline: some have ended, and the call is to
    /// be repeated.
    pub async fn revoke_all(&self, owner: &str) -> Result<usize, SessionError> {
        self.end_sessions(owner.to_owned(), None).await
    }

    /// Ends all sessions of a user but one: "log out all other devices". Returns how many.
    ///
    /// `keep` may be a key that was renewed meanwhile, or is being renewed: its successor is kept. If nothing lives
    /// there any more all sessions end.
    ///
    /// # Errors
    /// As [`revoke_all`](Self::revoke_all).
    pub async fn revoke_others(&self, owner: &str, keep: &SessionKey) -> Result<usize, SessionError> {
        self.end_sessions(owner.to_owned(), Some(*keep)).await
    }

    async fn end_sessions(&self, owner: String, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let (engine, deadline) = (self.checked()?.clone(), Deadline::after(self.config().deadline));
        RunToEnd::new(async move {
            engine.end_sessions(&owner, keep, deadline).await.inspect_err(|error| events::cache_failed(error, None))
        })
        .await
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    for (setting, duration) in [
        ("ttl", config.ttl),
        ("anonymous_ttl", config.anonymous_ttl.unwrap_or(Duration::MAX)),
        ("max_lifetime", config.max_lifetime),
        ("deadline", config.deadline),
        ("ended_interval", config.ended_interval),
    ] {
        if duration.is_zero() {
            return Err(ConfigError::new(setting, "must be greater than zero"));
        }
    }
    if config.prefix.is_empty() {
        return Err(ConfigError::new("key_prefix", "must not be empty: sessions need a name space of their own"));
    }
    if config.max_bytes < 256 {
        return Err(ConfigError::new("max_bytes", "must be at least 256"));
    }
    if config.owners.keys.iter().any(|key| key.len() < 16 || key.iter().all(|byte| *byte == 0)) {
        return Err(ConfigError::new("owner_keys", "must be at least 16 bytes each, and not all zero"));
    }
    Ok(())
}

impl<C> Clone for SessionStore<C> {
    fn clone(&self) -> Self {
        Self { engine: self.engine.clone() }
    }
}

impl<C> fmt::Debug for SessionStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.engine.config;
        f.debug_struct("SessionStore")
            .field("ttl", &config.ttl)
            .field("max_lifetime", &config.max_lifetime)
            .field("max_bytes", &config.max_bytes)
            .field("deadline", &config.deadline)
            .finish_non_exhaustive()
    }
}
