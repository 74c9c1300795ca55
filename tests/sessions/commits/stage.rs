//! What these tests share: a handler that is given what the test holds, and sessions as they are stored.
use std::{
    future::Future,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use cloakroom::{Cache, CacheErrorKind, Session, SessionError, SessionLayer, SessionStore, testing::TestCache};

use crate::support::web::{Reply, id, layer, send, start};

pub(super) fn add(n: Option<u64>) -> u64 {
    n.unwrap_or_default() + 1
}

pub(super) fn increment(session: &Session) {
    session.update("n", add).unwrap();
}

/// Long enough for a machine that is busy with other tests.
pub(super) fn store<C: Cache>(cache: C) -> SessionStore<C> {
    SessionStore::new(cache).deadline(Duration::from_secs(20))
}

/// One session of "alice" with `n` = 0, and what is needed to reach it.
pub(super) struct Stage<C> {
    pub cache: TestCache<C>,
    pub store: SessionStore<TestCache<C>>,
    pub layer: SessionLayer<TestCache<C>>,
    /// Another process, as far as queues and notices go.
    pub other: SessionLayer<TestCache<C>>,
    pub cookie: String,
}

impl<C: Cache> Stage<C> {
    pub(super) async fn new(cache: C) -> Self {
        Self::with(cache, |store| store).await
    }

    pub(super) async fn with(cache: C, set: impl Fn(SessionStore<TestCache<C>>) -> SessionStore<TestCache<C>>) -> Self {
        let cache = TestCache::new(cache);
        let first = set(store(cache.clone()));
        let other = layer(&set(store(cache.clone())));
        let layer = layer(&first);
        let cookie = start(&layer, "alice").await;
        Self { cache, store: first, layer, other, cookie }
    }

    /// A session beside the first one.
    pub(super) async fn again(&mut self) {
        self.cookie = start(&self.layer, "alice").await;
    }

    pub(super) async fn request<F, Fut>(&self, handler: F) -> Reply
    where
        F: Fn(Session) -> Fut + Clone,
        Fut: Future<Output = u16>,
    {
        send(&self.layer, Some(&self.cookie), handler).await
    }

    /// The session as it is stored, by a cookie.
    pub(super) async fn by(&self, cookie: &str) -> Option<Session> {
        self.store.load(id(cookie)).await.unwrap()
    }

    pub(super) async fn stored(&self) -> Session {
        self.by(&self.cookie).await.unwrap()
    }

    pub(super) async fn n(&self) -> u64 {
        self.stored().await.get("n").unwrap()
    }

    pub(super) async fn live(&self, owner: &str) -> usize {
        self.store.sessions_of(owner).await.unwrap().len()
    }

    /// Another process changes the session.
    pub(super) async fn elsewhere(&self, change: impl Fn(&Session) + Clone) {
        let reply = send(&self.other, Some(&self.cookie), move |session| {
            change(&session);
            async { 200 }
        })
        .await;
        assert_eq!(reply.status, 200);
    }
}

pub(super) fn is_unknown<T>(result: &Result<T, SessionError>) -> bool {
    matches!(result, Err(error) if error.cache_kind() == Some(CacheErrorKind::Timeout))
}

/// Counts what is alive: each clone of it counts as one.
#[derive(Clone, Default)]
pub(super) struct Counted(Arc<()>);

impl Counted {
    /// Beside this one.
    pub(super) fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Ends the whole run with a message if the test is not over in time: a thread that waits for a lock of its own cannot be
/// ended in any other way.
pub(super) struct Watchdog {
    _over: mpsc::Sender<()>,
}

impl Watchdog {
    pub(super) fn start(test: &'static str) -> Self {
        let (over, waits) = mpsc::channel::<()>();
        thread::spawn(move || {
            if waits.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test}: a deadlock");
                std::process::abort();
            }
        });
        Self { _over: over }
    }
}
