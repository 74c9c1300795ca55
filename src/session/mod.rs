//! The handles: what a handler reads and changes a session through.
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Mutex as AsyncMutex;

use crate::{
    deadline::{Deadline, timed_out},
    engine::{Base, Config, Family, Found, SessionEngine, Stored},
    error::SessionError,
    events::{self, LoggedError},
    id::{SessionId, SessionKey},
    record::{Head, Record, Replay, Values},
    run_to_end::RunToEnd,
};

#[cfg(feature = "device-bound")]
mod admission;
mod at_once;
mod browser;
mod failure;
mod lazy;
mod settings;
mod state;
mod users;
mod values;
mod wish;

#[cfg(feature = "device-bound")]
pub(crate) use self::admission::DeviceAdmission;
pub use self::{
    at_once::EndReason,
    lazy::LazySession,
    users::SessionInfo,
    values::{IntoKey, Key},
};
pub(crate) use self::{browser::CookieDue, wish::CommitReason};
use self::{
    state::{Next, State},
    wish::Wish,
};

/// A visitor's session: named values that outlive the request.
///
/// Cheap to clone; clones are the same session. All methods take `&self`; no method holds a lock while it waits.
///
/// In a handler, changes are gathered here and committed once, after the handler: see
/// [`SessionLayer`](crate::SessionLayer). [`commit`](Self::commit) does it sooner, and [`detach`](Self::detach) makes a
/// handle for work that goes on after the response.
///
/// # Concurrency
///
/// Two requests of one session that change different value keys both take effect. [`set`](Self::set) of the same key: the
/// last commit counts. [`update`](Self::update) is atomic: what two requests add to a number, both add.
///
/// # The order of calls
///
/// It never matters between these: [`destroy`](Self::destroy) wins over everything else in the request, whatever was called
/// before or after it; [`renew`](Self::renew) keeps the data that is there at the end of the request, so it can be called
/// before or after `set` and `clear`, and twice is once.
///
/// # Example
/// ```
/// use cloakroom::Session;
///
/// let session = Session::new();
/// session.set("user", "alice")?;
/// let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
/// assert_eq!(visits, 1);
/// assert_eq!(session.get::<String>("user").as_deref(), Some("alice"));
/// assert_eq!(session.take::<String>("user")?.as_deref(), Some("alice"));
/// assert_eq!(session.keys(), ["visits"]);
/// # Ok::<(), cloakroom::SessionError>(())
/// ```
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Option<Arc<dyn SessionEngine>>,
    /// Whether anything was asked for: then the response depends on the cookie.
    accessed: AtomicBool,
    state: Mutex<State>,
    /// One commit at a time.
    committing: AsyncMutex<()>,
    /// Shared with detached handles, by way of their `root`.
    family: Family,
    /// The handle that this one was detached from.
    root: Option<Session>,
}

/// The state of a handle while it is locked. Closures that were discarded meanwhile are dropped after it is unlocked, as they
/// are the user's and may hold a handle of this session: fields are dropped in their order.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    discarded: Option<Box<Replay>>,
}

impl Session {
    /// A session of no store, empty: for tests of handlers, and to be saved by
    /// [`SessionStore::save`](crate::SessionStore::save).
    #[must_use]
    pub fn new() -> Self {
        Self::with(None, State::new(Base::New(None), 0, true), None)
    }

    fn with(engine: Option<Arc<dyn SessionEngine>>, state: State, root: Option<Self>) -> Self {
        let inner = Inner {
            engine,
            accessed: AtomicBool::new(false),
            state: Mutex::new(state),
            committing: AsyncMutex::new(()),
            family: Family::default(),
            root,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The session of a request that came with these cookies; `resign` says which ID was signed with an old key.
    pub(crate) fn of_request(
        engine: Arc<dyn SessionEngine>,
        found: Found,
        resign: impl FnOnce(&SessionId) -> bool,
    ) -> Self {
        let state = State::of_request(found, &engine.config().clock, resign);
        Self::with(Some(engine), state, None)
    }

    /// Logins of this request offer to bind the session.
    #[cfg(feature = "device-bound")]
    pub(crate) fn offering_binding(self) -> Self {
        self.lock().offers = true;
        self
    }

    /// Nothing of the session is read or written, but it can be left.
    #[cfg(feature = "device-bound")]
    pub(crate) fn restricted(self) -> Self {
        self.lock().restricted = true;
        self
    }

    /// The challenge of a login that this request has committed, for the browser to register with.
    #[cfg(feature = "device-bound")]
    pub(crate) fn offer_due(&self) -> Option<Box<str>> {
        self.lock().offer_due()
    }

    /// A session that was loaded without a request.
    pub(crate) fn standalone(engine: Arc<dyn SessionEngine>, stored: Stored) -> Self {
        let at = stored.at;
        Self::with(Some(engine), State::new(Base::Stored(stored), at, true), None)
    }

    fn lock(&self) -> Locked<'_> {
        Locked { state: self.inner.state.lock().unwrap_or_else(PoisonError::into_inner), discarded: None }
    }

    /// The state, for a call that depends on the cookie.
    fn access(&self) -> Locked<'_> {
        self.inner.accessed.store(true, Ordering::Relaxed);
        self.lock()
    }

    /// The state, for a call that changes it.
    fn open(&self) -> Result<Locked<'_>, SessionError> {
        let state = self.open_or_restricted()?;
        #[cfg(feature = "device-bound")]
        if state.restricted {
            return Err(SessionError::Unproven);
        }
        Ok(state)
    }

    /// As [`open`](Self::open), for what a request may do to a session whose device it has not proven to be: leave it.
    fn open_or_restricted(&self) -> Result<Locked<'_>, SessionError> {
        let state = self.access();
        if state.is_closed() { Err(SessionError::Closed) } else { Ok(state) }
    }

    /// The state, for a change that cannot return an error.
    fn open_or_report(&self, call: &'static str) -> Option<Locked<'_>> {
        let state = self.open();
        match &state {
            Ok(_) => {}
            #[cfg(feature = "device-bound")]
            Err(SessionError::Unproven) => {}
            Err(_) => events::closed(call),
        }
        state.ok()
    }

    fn config(&self) -> Option<&Config> {
        self.inner.engine.as_ref().map(|engine| engine.config())
    }

    fn max_bytes(&self) -> usize {
        self.config().map_or(Config::DEFAULT_MAX_BYTES, |config| config.max_bytes)
    }

    fn lifetime(&self) -> std::time::Duration {
        self.config().map_or(Config::DEFAULT_LIFETIME, |config| config.max_lifetime)
    }

    fn now(&self) -> u64 {
        self.config().map_or_else(|| crate::Clock::system().now_ms(), |config| config.clock.now_ms())
    }

    /// The record of a session that is not stored.
    fn fresh(&self) -> Record {
        Record { head: Head::new(self.now(), self.lifetime()), values: Values::default() }
    }

    fn family(&self) -> &Family {
        self.inner.root.as_ref().map_or(&self.inner.family, |root| root.family())
    }

    /// Whether there are changes to data or settings that are not committed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.access().is_dirty(self.lifetime())
    }

    /// Whether the session is in no cache: the visitor came without one, and it has not been committed.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.access().stored().is_none()
    }

    /// The public name of the session in logs and lists; `None` for one that is in no cache yet. A renewal changes it.
    #[must_use]
    pub fn key(&self) -> Option<SessionKey> {
        self.access().key()
    }

    /// Restarts the idle timeout, once, at the commit. A commit that writes does so anyway.
    ///
    /// After the response's commit it does nothing, and an event at error level reports that.
    pub fn touch(&self) {
        if let Some(mut state) = self.open_or_report("touch") {
            state.touch();
        }
    }

    /// Gives the session a new ID, at the commit, and ends the old one: at every change of privilege, so that an ID that was
    /// planted or seen before is worth nothing afterwards (OWASP Session Management Cheat Sheet, "Renew the Session ID After
    /// Any Privilege Level Change"). At a login, [`log_in`](Self::log_in) does it.
    ///
    /// Data, idle timeout and lifetime stay. A request in flight that came with the old ID cannot write into the session any
    /// more. If the commit fails the old session stays as it was.
    ///
    /// After the response's commit it does nothing, and an event at error level reports that.
    pub fn renew(&self) {
        if let Some(mut state) = self.open_or_report("renew") {
            state.wish(Wish::Renew);
        }
    }

    /// Ends the session, everywhere and for good, and removes the cookie: at logout.
    ///
    /// It wins over everything else that the request does to the session, and takes effect also if the handler then fails. On
    /// a handle that was detached, or loaded by ID, it takes effect with that handle's [`commit`](Self::commit).
    ///
    /// After the response's commit it does nothing, and an event at error level reports that: a logout that did not happen.
    pub fn destroy(&self) {
        match self.open_or_restricted() {
            Ok(mut state) => state.wish(Wish::Destroy),
            Err(_) => events::closed("destroy"),
        }
    }

    /// A handle that outlives the response: for a spawned task, the body of an SSE response or a WebSocket.
    ///
    /// It sees what this handle sees now, gathers changes of its own and writes them with its own
    /// [`commit`](Self::commit), under the same promises. It knows the session that this request creates or renews: its
    /// commit waits for the first, at most for the store's deadline, and follows the second. Where the request stores no
    /// session, its commit returns [`Gone`](SessionError::Gone): the browser has no cookie. So a handler for a first-time
    /// visitor sets a value before it detaches.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::Session;
    /// async fn start(session: Session) -> &'static str {
    ///     let later = session.detach();
    ///     tokio::spawn(async move {
    ///         // … minutes later:
    ///         later.set("report", "ready")?;
    ///         later.commit().await
    ///     });
    ///     "on its way"
    /// }
    /// ```
    #[must_use = "changes to this handle leave the session it was detached from as it is"]
    pub fn detach(&self) -> Self {
        let state = self.access().detach(self.fresh(), self.lifetime());
        let root = self.inner.root.as_ref().unwrap_or(self).clone();
        Self::with(self.inner.engine.clone(), state, Some(root))
    }

    /// Writes the changes now instead of after the handler. The cookie that this may call for goes out with whatever
    /// response follows.
    ///
    /// A commit that has begun runs to its end, also if this future is dropped. Changes stay in the handle if it fails, and
    /// the next commit tries them again. After an unknown outcome the next commit finds out first whether the changes were
    /// written, so that they are never applied twice.
    ///
    /// # Errors
    /// [`Gone`](SessionError::Gone) if the session ended: the changes were dropped.
    /// [`Conflict`](SessionError::Conflict) if other requests kept changing it until the deadline, and
    /// [`Cache`](SessionError::Cache) if the cache failed; the kind [`Timeout`](crate::CacheErrorKind::Timeout) means that
    /// the changes may be written all the same, as a whole.
    /// [`TooLarge`](SessionError::TooLarge) if all values together are over the limit.
    /// [`Panicked`](SessionError::Panicked) if the closure of an [`update`](Self::update) panicked when it ran again.
    /// [`Closed`](SessionError::Closed) after the response's commit, [`NoStore`](SessionError::NoStore) for a session made
    /// with [`Session::new`], [`RenewDetached`](SessionError::RenewDetached) after `renew` on a detached handle.
    pub async fn commit(&self) -> Result<(), SessionError> {
        self.commit_now(false).await
    }

    async fn commit_now(&self, look_up_first: bool) -> Result<(), SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        {
            let state = self.open()?;
            if state.detached && state.wants_renewal() {
                return Err(SessionError::RenewDetached);
            }
        }
        let deadline = Deadline::after(engine.config().deadline);
        RunToEnd::new(self.clone().run_handler_commit(look_up_first, deadline)).await
    }

    /// The response's commit. Its failure is logged here, as the client may be gone by then.
    pub(crate) async fn run_response_commit(self, reason: CommitReason, deadline: Deadline) -> Result<(), LoggedError> {
        let committed = self.clone().run_commit(reason, deadline).await;
        self.answered(committed)
    }

    fn answered(&self, committed: Result<(), SessionError>) -> Result<(), LoggedError> {
        match committed {
            // An event has said so: the handler's answer stands.
            Err(SessionError::Gone) if self.lock().has_ended() => Ok(()),
            committed => committed.map_err(|error| {
                let key = self.lock().key();
                events::response_error(error, key.as_ref())
            }),
        }
    }

    /// As [`run_commit`](Self::run_commit), for a caller who learns of the failure and may answer with it.
    async fn run_handler_commit(self, look_up_first: bool, deadline: Deadline) -> Result<(), SessionError> {
        let committed = self.clone().run_commit(CommitReason::Handler { look_up_first }, deadline).await;
        if let Err(error) = &committed {
            let mut state = self.lock();
            events::cache_failed(error, state.key().as_ref());
            state.failure.note(error);
            self.log_in_background(&state);
        }
        committed
    }

    /// Where the request of a handle is over, no response can tell of its failure.
    fn log_in_background(&self, state: &State) {
        if let Some(root) = &self.inner.root {
            let mut root = root.lock();
            if !root.is_closed() && !root.detached && root.failure.take_in(&state.failure) {
                return;
            }
        } else if !state.is_closed() {
            return;
        }
        state.failure.log(state.known_key().as_ref());
    }

    /// Commits what there is to commit.
    async fn run_commit(self, reason: CommitReason, deadline: Deadline) -> Result<(), SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        let Ok(_alone) = deadline.bound(self.inner.committing.lock()).await else { return Err(timed_out()) };
        // The response's commit has taken the changes of a commit that waited for it.
        if matches!(reason, CommitReason::Handler { .. }) && self.lock().is_closed() {
            return Err(SessionError::Closed);
        }
        loop {
            let mut commit = match self.lock().begin(reason, true, engine.config()) {
                Next::Commit(commit) => commit,
                Next::Done(result) => return result,
            };
            let was_unknown = commit.tried.is_some();
            let done = deadline.bound(engine.commit(&mut commit, self.family(), deadline)).await;
            let result = done.unwrap_or_else(|_| Err(timed_out()));
            let settled = self.lock().settle(commit, was_unknown, result);
            if let Some(result) = settled {
                if self.lock().is_closed() {
                    self.end_family();
                }
                return result;
            }
        }
    }

    /// Closes the handle for the response's commit. `false`: there is nothing to commit. `answer`: the error that the response
    /// is made of, which was logged.
    pub(crate) fn close<'a>(&self, reason: CommitReason, answer: impl FnOnce() -> Option<&'a SessionError>) -> bool {
        self.lock().close(reason, answer)
    }

    /// The response's commit, where nothing has to be waited for. `None`: it takes [`run_commit`](Self::run_commit).
    /// `shared`: there are other handles, of which one may be committing.
    pub(crate) fn commit_at_once(&self, reason: CommitReason, shared: bool) -> Option<Result<(), LoggedError>> {
        let engine = self.inner.engine.as_ref()?;
        let _alone = if shared { Some(self.inner.committing.try_lock().ok()?) } else { None };
        let next = self.lock().begin(reason, shared, engine.config());
        let mut commit = match next {
            Next::Commit(commit) => commit,
            Next::Done(result) => return Some(self.answered(result)),
        };
        let Some(result) = engine.commit_at_once(&mut commit, self.family()) else {
            self.lock().put_back(commit);
            return None;
        };
        let settled = self.lock().settle(commit, false, result)?;
        Some(self.answered(settled))
    }

    /// Nothing more will be committed: detached handles need not wait.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.abandon();
        // A commit that is still under way tells them itself.
        if !state.is_committing() {
            drop(state);
            self.end_family();
        }
    }

    fn end_family(&self) {
        if self.inner.root.is_none() {
            self.inner.family.end();
        }
    }

    pub(crate) fn was_accessed(&self) -> bool {
        self.inner.accessed.load(Ordering::Relaxed)
    }

    /// Whether there are other handles of this session.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// The cookie that is owed, and what decides its lifetime: the session's end and whether it is persistent.
    pub(crate) fn cookie_due(&self) -> (CookieDue, Option<(u64, Option<bool>)>) {
        self.lock().cookie_due()
    }

    /// The session as a record, to be stored elsewhere.
    pub(crate) fn view(&self) -> Record {
        self.access().view(self.fresh(), self.lifetime())
    }

    /// The caller knows what became of that record.
    pub(crate) fn note_copied(&self) {
        self.lock().copied = true;
    }
}

impl Drop for Inner {
    /// A request's handle is closed by then, by the layer.
    fn drop(&mut self) {
        if self.engine.is_some() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            if state.is_forgotten() {
                events::dropped_uncommitted(state.key().as_ref());
            }
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(discarded) = self.state.take_discarded() {
            self.discarded = Some(discarded);
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Session")
            .field("key", &state.key())
            .field("len", &state.with_values(|values| values.count()))
            .field("dirty", &state.is_dirty(self.lifetime()))
            .finish_non_exhaustive()
    }
}
