//! A session that is loaded when it is asked for.
use std::{
    borrow::Cow,
    fmt, slice,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use tokio::sync::Mutex as AsyncMutex;

use super::Session;
#[cfg(feature = "device-bound")]
use super::admission::{DeviceAdmission, Verdict};
#[cfg(feature = "device-bound")]
use crate::engine::NEWEST;
use crate::{
    cookie::Candidates,
    deadline::{Deadline, timed_out},
    engine::{Found, SessionEngine},
    error::SessionError,
    events,
    id::SessionId,
};

/// A request's session before it is loaded: in the extensions of every request that went through the layer.
///
/// # Example
/// ```
/// # use cloakroom::{LazySession, SessionError};
/// async fn greet<B>(request: http::Request<B>) -> Result<String, SessionError> {
///     let Some(lazy) = request.extensions().get::<LazySession>() else { return Err(SessionError::MissingLayer) };
///     let session = lazy.load().await?;
///     Ok(session.get("name").unwrap_or_else(|| "stranger".into()))
/// }
/// ```
#[derive(Clone)]
pub struct LazySession {
    inner: Arc<LazyInner>,
}

struct LazyInner {
    engine: Arc<dyn SessionEngine>,
    /// The IDs that the browser sent.
    candidates: Candidates,
    refresh: Option<Duration>,
    #[cfg(feature = "device-bound")]
    admission: Option<Box<DeviceAdmission>>,
    /// The session is bound, and the request has not proven to come from its device.
    #[cfg(feature = "device-bound")]
    unproven: AtomicBool,
    loaded: OnceLock<Result<Session, SessionError>>,
    /// One look at the cache, however many calls there are.
    loading: AsyncMutex<()>,
    asked: AtomicBool,
    /// The response's commit has begun: a session that is loaded now is closed from the start.
    closed: AtomicBool,
    /// Of the store's deadline, in microseconds.
    spent: AtomicU64,
}

impl LazySession {
    pub(crate) fn new(
        engine: Arc<dyn SessionEngine>,
        candidates: Candidates,
        refresh: Option<Duration>,
        #[cfg(feature = "device-bound")] admission: Option<Box<DeviceAdmission>>,
    ) -> Self {
        let inner = LazyInner {
            engine,
            candidates,
            refresh,
            #[cfg(feature = "device-bound")]
            admission,
            #[cfg(feature = "device-bound")]
            unproven: AtomicBool::new(false),
            loaded: OnceLock::new(),
            loading: AsyncMutex::new(()),
            asked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            spent: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The session, loaded once per request: the second call gives the same session, or the same error, at once.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails. That is no empty session: answer 503.
    pub async fn load(&self) -> Result<Session, SessionError> {
        self.inner.asked.store(true, Ordering::Relaxed);
        self.load_unasked().await
    }

    /// The session, when it is the layer that wants it.
    pub(crate) async fn load_unasked(&self) -> Result<Session, SessionError> {
        if let Some(loaded) = self.load_at_once() {
            return loaded;
        }
        let _alone = self.inner.loading.lock().await;
        if let Some(loaded) = self.inner.loaded.get() {
            return loaded.clone();
        }
        let found = self.inner.find().await;
        self.inner.keep(found)
    }

    /// The session, where nothing has to be waited for: it is loaded already, there is no ID to look up, or the cache answers
    /// at once.
    pub(crate) fn load_at_once(&self) -> Option<Result<Session, SessionError>> {
        if let Some(loaded) = self.inner.loaded.get() {
            return Some(loaded.clone());
        }
        let found = self.inner.find_at_once()?;
        Some(self.inner.keep(found))
    }

    /// The session, if it was loaded.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        self.inner.loaded.get()?.as_ref().ok()
    }

    /// Whether the session is bound, and the request came with a bound cookie that does not count.
    #[cfg(feature = "device-bound")]
    pub(crate) fn has_spoilt_cookie(&self) -> bool {
        self.inner.unproven.load(Ordering::Relaxed) && self.has_bound_cookie()
    }

    #[cfg(feature = "device-bound")]
    pub(crate) fn has_bound_cookie(&self) -> bool {
        self.inner.admission.as_ref().is_some_and(|admission| !admission.cookies.is_empty())
    }

    /// The response's commit begins. The session, if it was loaded before.
    pub(crate) fn close(&self) -> Option<&Session> {
        self.inner.closed.store(true, Ordering::SeqCst);
        self.loaded()
    }

    /// The request is over: it will not commit any more.
    pub(crate) fn finish(&self) {
        if let Some(session) = self.close() {
            session.abandon();
        }
    }

    /// Whether the response depends on the session: it was asked for, or a handle is left that may still be read.
    pub(crate) fn was_accessed(&self) -> bool {
        self.is_shared() || self.inner.asked.load(Ordering::Relaxed) || self.loaded().is_some_and(Session::was_accessed)
    }

    /// Whether there is a handle beside the layer's own.
    pub(crate) fn is_shared(&self) -> bool {
        if Arc::strong_count(&self.inner) > 1 {
            return true;
        }
        // A handle that another thread got from a handle of this visit, and then dropped that one, is counted.
        fence(Ordering::Acquire);
        self.loaded().is_some_and(Session::is_shared)
    }

    /// When the commit has to be done: what loading left of the store's deadline.
    pub(crate) fn deadline(&self) -> Deadline {
        let spent = Duration::from_micros(self.inner.spent.load(Ordering::Relaxed));
        Deadline::after(self.inner.engine.config().deadline.saturating_sub(spent))
    }
}

impl LazyInner {
    fn ids(&self) -> Cow<'_, [SessionId]> {
        let mut ids = self.candidates.iter().map(|candidate| &candidate.id);
        match (ids.next(), ids.next()) {
            (None, _) => Cow::default(),
            (Some(id), None) => slice::from_ref(id).into(),
            (Some(_), Some(_)) => self.candidates.iter().map(|candidate| candidate.id.clone()).collect(),
        }
    }

    fn find_at_once(&self) -> Option<Result<Found, SessionError>> {
        if self.candidates.is_empty() {
            return Some(Ok(Found::default()));
        }
        self.engine.load_at_once(&self.ids(), self.refresh)
    }

    async fn find(&self) -> Result<Found, SessionError> {
        let limit = self.engine.config().deadline;
        let deadline = Deadline::after(limit);
        let found = deadline.bound(self.load(&self.ids())).await;
        let spent = u64::try_from(limit.saturating_sub(deadline.left()).as_micros()).unwrap_or(u64::MAX);
        self.spent.store(spent, Ordering::Relaxed);
        found.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn load(&self, ids: &[SessionId]) -> Result<Found, SessionError> {
        let found = self.engine.load(ids, self.refresh).await?;
        #[cfg(feature = "device-bound")]
        if self.may_be_old(&found) {
            return self.engine.load(ids, NEWEST).await;
        }
        Ok(found)
    }

    /// Makes the session of what was found. A caller that was faster has made the same.
    fn keep(&self, found: Result<Found, SessionError>) -> Result<Session, SessionError> {
        let resign = |id: &SessionId| self.candidates.iter().any(|candidate| candidate.resign && candidate.id == *id);
        let session = found.and_then(|found| self.session(found, resign));
        let loaded = self.loaded.get_or_init(|| session);
        if let Err(error) = loaded {
            let key = self.candidates.iter().next().map(|candidate| candidate.id.key());
            events::cache_failed(error, key.as_ref());
        }
        // Either this sees that the response's commit has begun, or that commit sees the session.
        if let (Ok(session), true) = (loaded, self.closed.load(Ordering::SeqCst)) {
            session.abandon();
        }
        loaded.clone()
    }

    fn session(&self, found: Found, resign: impl Fn(&SessionId) -> bool) -> Result<Session, SessionError> {
        #[cfg(feature = "device-bound")]
        if let Some(admission) = &self.admission {
            return self.admit(admission, found, resign);
        }
        Ok(Session::of_request(Arc::clone(&self.engine), found, resign))
    }
}

#[cfg(feature = "device-bound")]
impl LazyInner {
    /// Whether the request has a bound cookie that is not in the record: another process may have issued it a moment ago.
    fn may_be_old(&self, found: &Found) -> bool {
        let Some(admission) = self.admission.as_ref().filter(|admission| !admission.cookies.is_empty()) else {
            return false;
        };
        let now = self.engine.config().clock.now_ms();
        found.session.as_ref().is_some_and(|(_, stored)| admission.judge(stored, now) != Verdict::Admitted)
    }

    /// The session as this request may use it.
    fn admit(
        &self,
        admission: &DeviceAdmission,
        mut found: Found,
        resign: impl Fn(&SessionId) -> bool,
    ) -> Result<Session, SessionError> {
        let verdict = match &found.session {
            Some((_, stored)) => admission.judge(stored, self.engine.config().clock.now_ms()),
            None => Verdict::Admitted,
        };
        if verdict != Verdict::Admitted {
            self.unproven.store(true, Ordering::Relaxed);
            if let Some((_, stored)) = found.session.take() {
                events::device_unproven(&stored.key);
                // It can be left, and nothing else.
                found.former = Some((stored.key, 0));
            }
        }
        let session = |found| Session::of_request(Arc::clone(&self.engine), found, resign).offering_binding();
        match verdict {
            Verdict::Admitted | Verdict::Stranger => Ok(session(found)),
            Verdict::Restricted => Ok(session(found).restricted()),
            Verdict::Unrefreshed => Err(SessionError::Unrefreshed),
        }
    }
}

impl fmt::Debug for LazySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazySession").field("loaded", &self.loaded()).finish_non_exhaustive()
    }
}
