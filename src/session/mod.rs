//! The handles: what a handler reads and changes a session through.
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    data::{Step, Values, check_key, json, snapshot},
    deadline::Deadline,
    error::SessionError,
    events,
    finish::RunToEnd,
    id::{SessionId, SessionKey},
    key::IntoKey,
    record::{Head, Settings},
    store::{Action, Engine, Found, Stored, timed_out},
};

mod direct;
mod lazy;
mod settings;
mod state;

pub use self::lazy::LazySession;
use self::state::State;
pub(crate) use self::state::{CookieDue, Holder, Scope};

/// The limit of a value in a session that belongs to no store.
const DEFAULT_MAX_BYTES: usize = 64 * 1024;

/// A visitor's session: named values that outlive the request.
///
/// Cheap to clone; clones are the same session. All methods take `&self`; none of them holds a lock while anything waits.
///
/// In a handler, changes are gathered here and committed once, after the handler: see
/// [`SessionLayer`](crate::SessionLayer). [`commit`](Self::commit) does it sooner, and [`detach`](Self::detach) makes a
/// handle for work that goes on after the response.
///
/// # Concurrency
///
/// Two requests of one session that change different keys both take effect. [`set`](Self::set) of the same key: the last
/// commit counts. [`update`](Self::update) is atomic: what two requests add to a number, both add.
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
    engine: Option<Arc<dyn Engine>>,
    max_bytes: usize,
    /// Whether anybody asked for anything: then the response depends on the cookie.
    looked: AtomicBool,
    state: Mutex<State>,
    /// One commit at a time.
    committing: AsyncMutex<()>,
}

impl Session {
    /// A session of no store, empty: for tests of handlers, and to be saved by
    /// [`SessionStore::save`](crate::SessionStore::save).
    #[must_use]
    pub fn new() -> Self {
        Self::of(None, State::new(Holder::Detached, None))
    }

    fn of(engine: Option<Arc<dyn Engine>>, state: State) -> Self {
        let max_bytes = engine.as_ref().map_or(DEFAULT_MAX_BYTES, |engine| engine.config().max_bytes);
        let inner = Inner {
            engine,
            max_bytes,
            looked: AtomicBool::new(false),
            state: Mutex::new(state),
            committing: AsyncMutex::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The session of a request that came with these cookies; `resign` says which ID was signed with an old key.
    pub(crate) fn of_request(engine: Arc<dyn Engine>, found: Found, resign: impl FnOnce(&SessionId) -> bool) -> Self {
        let came_with_cookie = found.session.is_some() || found.tombstone.is_some();
        let (id, stored) = found.session.unzip();
        let mut state = State::new(Holder::Request, stored);
        state.resign = id.as_ref().is_some_and(resign);
        (state.id, state.tombstone, state.came_with_cookie) = (id, found.tombstone, came_with_cookie);
        state.seen = state.seen.max(found.seen);
        Self::of(Some(engine), state)
    }

    /// A session for somebody who commits on their own.
    pub(crate) fn standalone(engine: Arc<dyn Engine>, stored: Stored) -> Self {
        Self::of(Some(engine), State::new(Holder::Detached, Some(stored)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a call that depends on the cookie.
    fn look(&self) -> MutexGuard<'_, State> {
        self.inner.looked.store(true, Ordering::Relaxed);
        self.lock()
    }

    /// The state, for a call that changes it.
    fn open(&self) -> Result<MutexGuard<'_, State>, SessionError> {
        let state = self.look();
        if state.closed { Err(SessionError::Closed) } else { Ok(state) }
    }

    /// The state, for a change that cannot return an error.
    fn open_or_report(&self, call: &'static str) -> Option<MutexGuard<'_, State>> {
        let state = self.open();
        if state.is_err() {
            events::closed(call);
        }
        state.ok()
    }

    fn raw(&self, key: &str) -> Option<Bytes> {
        self.look().data.get(key)
    }

    /// The value under `key`; `None` if there is none, or one of another type: then an event says so, and
    /// [`try_get`](Self::try_get) returns the error.
    ///
    /// # Example
    /// ```
    /// # let session = cloakroom::Session::new();
    /// session.set("n", 1)?;
    /// let n: u64 = session.get("n").unwrap_or(0);
    /// assert_eq!(n, 1);
    /// assert_eq!(session.get::<bool>("n"), None);
    /// # Ok::<(), cloakroom::SessionError>(())
    /// ```
    pub fn get<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Option<T> {
        let key = key.name();
        self.decode(key).unwrap_or_else(|_| {
            events::undecodable(key);
            None
        })
    }

    /// The value under `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`Decode`](SessionError::Decode) if the value is of another type. It stays as it is.
    pub fn try_get<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Result<Option<T>, SessionError> {
        self.decode(key.name())
    }

    fn decode<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        self.raw(key).map(|value| json::decode(&value)).transpose()
    }

    /// Puts a value under `key`. A value equal to the one that is there changes nothing.
    ///
    /// # Errors
    /// [`Encode`](SessionError::Encode) for what would not come back as it is: nested deeper than 64 levels, floats that
    /// are not finite, whole numbers of more than 64 bits, maps without string keys.
    /// [`TooLarge`](SessionError::TooLarge) and [`KeyTooLong`](SessionError::KeyTooLong) over the limits;
    /// [`Closed`](SessionError::Closed) after the response's commit. What was there stays in each case.
    pub fn set<T: Serialize>(&self, key: impl IntoKey<T>, value: T) -> Result<(), SessionError> {
        let key = key.name();
        check_key(key)?;
        let value = json::encode(&value, self.inner.max_bytes)?;
        self.open()?.data.set(key, value);
        Ok(())
    }

    /// Replaces the value under `key` by what `f` makes of it, atomically, and returns that.
    ///
    /// If another request commits first, `f` runs again on the value that it left: N requests that add one add N. The
    /// value that this call returned may then be older than the one that is stored. So `f` should do nothing but compute.
    ///
    /// # Errors
    /// As [`try_get`](Self::try_get) and [`set`](Self::set).
    ///
    /// # Example
    /// ```
    /// # let session = cloakroom::Session::new();
    /// let item = "umbrella".to_owned();
    /// let cart = session.update("cart", move |cart: Option<Vec<String>>| {
    ///     let mut cart = cart.unwrap_or_default();
    ///     cart.push(item.clone());
    ///     cart
    /// })?;
    /// assert_eq!(cart, ["umbrella"]);
    /// # Ok::<(), cloakroom::SessionError>(())
    /// ```
    pub fn update<T, F>(&self, key: impl IntoKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: FnMut(Option<T>) -> T + Send + 'static,
    {
        let key = key.name();
        check_key(key)?;
        let limit = self.inner.max_bytes;
        let mut f = Some(f);
        loop {
            let seen = self.open()?.data.get(key);
            let Some(run) = &mut f else { return Err(SessionError::Closed) };
            // The closure is the user's: no lock is held while it runs.
            let new = run(seen.as_deref().map(json::decode).transpose()?);
            let value = json::encode(&new, limit)?;
            let step = || Step::new(step_of(f.take(), limit));
            if self.open()?.data.update(key, seen.as_ref(), value, step) {
                return Ok(new);
            }
        }
    }

    /// Takes the value under `key` away, and returns it.
    pub fn remove(&self, key: impl AsRef<str>) -> Option<Value> {
        let value = self.open_or_report("remove")?.data.remove(key.as_ref())?;
        json::decode(&value).ok()
    }

    /// Takes the value under `key` away, and returns it: a message that is shown once, say.
    ///
    /// # Errors
    /// [`Decode`](SessionError::Decode) if it is of another type: then it stays.
    /// [`Closed`](SessionError::Closed) after the response's commit.
    pub fn take<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Result<Option<T>, SessionError> {
        let key = key.name();
        loop {
            let seen = self.open()?.data.get(key);
            let Some(value) = &seen else { return Ok(None) };
            let taken = json::decode(value)?;
            let mut state = self.open()?;
            if state.data.get(key) == seen {
                state.data.remove(key);
                return Ok(Some(taken));
            }
        }
    }

    /// Takes all values away. The session itself stays, empty, until it is [destroyed](Self::destroy).
    pub fn clear(&self) {
        if let Some(mut state) = self.open_or_report("clear") {
            state.data.clear();
        }
    }

    /// Whether there is a value under `key`.
    #[must_use]
    pub fn contains_key(&self, key: impl AsRef<str>) -> bool {
        self.look().data.contains(key.as_ref())
    }

    /// The keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.look().data.merged().map(|pair| String::from_utf8_lossy(pair.key).into_owned()).collect()
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.look().data.len()
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.look().data.is_empty()
    }

    /// Whether there are changes to data or settings that are not committed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.look().is_dirty()
    }

    /// Whether the session is in no cache: the visitor came without one, and it has not been committed.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.look().stored.is_none()
    }

    /// What the session is known by in logs and lists; `None` for one that is in no cache yet. A renewal changes it.
    #[must_use]
    pub fn key(&self) -> Option<SessionKey> {
        self.look().stored.as_ref().map(|stored| stored.key)
    }

    /// Restarts the idle time, once, at the commit. A commit that writes does so anyway.
    pub fn touch(&self) {
        if let Some(mut state) = self.open_or_report("touch") {
            state.touch = true;
        }
    }

    /// Gives the session a new ID, at the commit, and ends the old one: at every login and change of privilege, so that an
    /// ID that somebody planted or saw before is worth nothing afterwards (OWASP Session Management Cheat Sheet, "Renew
    /// the Session ID After Any Privilege Level Change").
    ///
    /// Data, idle time and lifetime stay. A request in flight that came with the old ID cannot write into the session any
    /// more. If the commit fails the old session stays as it was.
    pub fn renew(&self) {
        if let Some(mut state) = self.open_or_report("renew") {
            state.renew = true;
        }
    }

    /// Ends the session, everywhere and for good, and removes the cookie: at logout.
    ///
    /// It wins over everything else that the request does to the session, and takes effect also if the handler then fails.
    pub fn destroy(&self) {
        if let Some(mut state) = self.open_or_report("destroy") {
            state.destroy = true;
        }
    }

    /// A handle that outlives the response: for a spawned task, the body of an SSE response or a WebSocket.
    ///
    /// It sees what this handle sees now, gathers changes of its own and writes them with its own
    /// [`commit`](Self::commit), under the same promises. It knows the session that this request creates or renews: its
    /// commit waits for that, at most for the store's deadline.
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
        let state = self.look().detach();
        Self::of(self.inner.engine.clone(), state)
    }

    /// Writes the changes now instead of after the handler. The cookie that this may call for goes out with whatever
    /// response follows.
    ///
    /// A commit that has begun runs to its end, also if this future is dropped. Changes stay in the handle if it fails.
    ///
    /// # Errors
    /// [`Gone`](SessionError::Gone) if the session ended meanwhile: the changes were dropped.
    /// [`Conflict`](SessionError::Conflict) if other requests kept changing it until the deadline, and
    /// [`Cache`](SessionError::Cache) if the cache failed; the kind [`Timeout`](crate::CacheErrorKind::Timeout) says that
    /// the changes may be written all the same, as a whole.
    /// [`TooLarge`](SessionError::TooLarge) if all of it together is over the limit.
    /// [`Closed`](SessionError::Closed) after the response's commit, [`NoStore`](SessionError::NoStore) for a session made
    /// with [`Session::new`], [`RenewDetached`](SessionError::RenewDetached) after `renew` on a detached handle.
    pub async fn commit(&self) -> Result<(), SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        {
            let state = self.open()?;
            if state.renew && state.holder == Holder::Detached {
                return Err(SessionError::RenewDetached);
            }
        }
        let deadline = Deadline::after(engine.config().deadline);
        RunToEnd::new(self.clone().run_commit(Scope::All, deadline)).await
    }

    /// Commits what there is to commit.
    pub(crate) async fn run_commit(self, scope: Scope, deadline: Deadline) -> Result<(), SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        let _under_way = UnderWay::new(&self);
        let Ok(_alone) = deadline.bound(self.inner.committing.lock()).await else { return Err(timed_out()) };
        let (mut draft, taken) = {
            let mut state = self.lock();
            let Some(action) = state.action(scope) else { return Ok(()) };
            if action != Action::Destroy && state.is_lost() {
                if let Some(stored) = &state.stored {
                    events::gone(&stored.key);
                }
                state.data.drop_changes();
                state.settings = Settings::default();
                return Err(SessionError::Gone);
            }
            state.draft(action, engine.config().clock.now_ms())
        };
        let optional = draft.action == Action::Confirm;
        let result = deadline.bound(engine.commit(&mut draft, deadline)).await;
        let result = result.unwrap_or_else(|_| Err(timed_out()));
        if let Err(error) = &result {
            events::failed(error);
        }
        let mut state = self.lock();
        let settled = state.settle(draft, taken, result);
        if state.closed {
            state.fate = None;
        }
        // The handler's answer does not depend on whether a live cookie could be signed anew.
        if optional { Ok(()) } else { settled }
    }

    /// Commits what a cache that does not wait can take at once. `None`: it takes [`run_commit`](Self::run_commit).
    pub(crate) fn commit_at_once(&self, scope: Scope) -> Option<Result<(), SessionError>> {
        let engine = self.inner.engine.as_ref()?;
        let mut state = self.lock();
        if state.commits > 0 || state.action(scope)? != Action::Write || state.is_lost() {
            return None;
        }
        let (draft, taken) = state.draft_at_once();
        let Some(result) = engine.commit_at_once(&draft) else {
            state.put_back(draft.changes, draft.settings, taken);
            return None;
        };
        if let Err(error) = &result {
            events::failed(error);
        }
        Some(state.settle(draft, taken, result))
    }

    /// What is in the session, to be stored elsewhere.
    fn contents(&self) -> (Arc<Values>, Settings, Option<Head>) {
        let state = self.look();
        let head = state.stored.as_ref().map(|stored| stored.head.clone());
        (Arc::new(snapshot(state.data.merged())), state.settings.clone(), head)
    }

    /// Closes the handle for the response's commit. `false`: there is nothing to commit.
    pub(crate) fn close(&self, scope: Scope) -> bool {
        let mut state = self.lock();
        state.closed = true;
        if scope == Scope::DestroyOnly && (state.is_dirty() || state.renew) {
            events::dropped_by_status(state.stored.as_ref().map(|stored| &stored.key));
        }
        // An explicit commit that is still under way has to be waited for.
        state.action(scope).is_some() || state.commits > 0
    }

    /// Nothing more will be committed: detached handles need not wait.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        // A commit that is still under way tells them itself.
        if state.commits == 0 {
            state.fate = None;
        }
    }

    /// Destroyed, or found gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    pub(crate) fn was_looked_at(&self) -> bool {
        self.inner.looked.load(Ordering::Relaxed)
    }

    /// The cookie that is owed, and what decides its lifetime: the session's end and whether it is persistent.
    pub(crate) fn cookie_due(&self) -> (CookieDue, Option<(u64, Option<bool>)>) {
        let state = self.lock();
        let head = state.stored.as_ref().map(|stored| (stored.head.end, stored.head.persistent));
        (state.cookie.clone(), head)
    }
}

/// A commit under way, of which the state of its session knows.
struct UnderWay<'a> {
    session: &'a Session,
}

impl<'a> UnderWay<'a> {
    fn new(session: &'a Session) -> Self {
        session.lock().commits += 1;
        Self { session }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        state.commits = state.commits.saturating_sub(1);
    }
}

/// What replays an `update`: the closure on JSON.
fn step_of<T, F>(run: Option<F>, limit: usize) -> impl FnMut(Option<&[u8]>) -> Result<Bytes, SessionError>
where
    T: Serialize + DeserializeOwned,
    F: FnMut(Option<T>) -> T,
{
    let mut run = run;
    move |old| {
        let Some(run) = &mut run else { return Err(SessionError::Closed) };
        json::encode(&run(old.map(json::decode).transpose()?), limit)
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
            .field("key", &state.stored.as_ref().map(|stored| stored.key))
            .field("len", &state.data.len())
            .field("dirty", &state.is_dirty())
            .finish_non_exhaustive()
    }
}

/// The text that a setter gives up with.
fn check_duration(what: Duration, zero: &'static str) -> Result<(), SessionError> {
    if what.is_zero() { Err(SessionError::Setting(zero)) } else { Ok(()) }
}
