//! A cache around another one that writes down what a request asks of it.
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use cloakroom::{
    BoxedCache, Cache, CacheError, Deleted, Entry, Expiry, ListMember, Replaced, Session, SessionKey, Version,
};

tokio::task_local! {
    static TRACE: Trace;
}

/// One operation of the cache.
#[derive(Clone)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) answer: &'static str,
    /// Since the request came in.
    pub(super) begin: Duration,
    pub(super) took: Duration,
}

/// What one request did. Clones are the same trace.
#[derive(Clone)]
pub(super) struct Trace {
    start: Instant,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    operations: Vec<Operation>,
    /// The request's session, and the key that it came with.
    session: Option<(Session, Option<SessionKey>)>,
}

impl Trace {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), notes: Arc::default() }
    }

    /// Whatever `work` does is part of this trace.
    pub(super) async fn follow<T>(&self, work: impl Future<Output = T>) -> T {
        TRACE.scope(self.clone(), work).await
    }

    /// The trace of the request that runs.
    pub(super) fn current() -> Option<Self> {
        TRACE.try_with(Self::clone).ok()
    }

    pub(super) fn note_session(&self, session: Session) {
        let key = session.key();
        self.with(|notes| notes.session = Some((session, key)));
    }

    /// The key that the session came with, and the one that it has now.
    pub(super) fn keys(&self) -> (Option<SessionKey>, Option<SessionKey>) {
        let session = self.with(|notes| notes.session.clone());
        session.map_or((None, None), |(session, before)| (before, session.key()))
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        self.with(|notes| notes.operations.clone())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn with<T>(&self, look: impl FnOnce(&mut Notes) -> T) -> T {
        look(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The cache that the shop's sessions are in.
pub(super) struct Watched(BoxedCache);

impl Watched {
    pub(super) fn new(cache: BoxedCache) -> Self {
        Self(cache)
    }
}

async fn watch<T>(
    name: &'static str,
    answer: fn(&T) -> &'static str,
    work: impl Future<Output = Result<T, CacheError>> + Send,
) -> Result<T, CacheError> {
    let Some(trace) = Trace::current() else { return work.await };
    let begin = trace.elapsed();
    let result = work.await;
    let answer = result.as_ref().map_or("failed", answer);
    let took = trace.elapsed().saturating_sub(begin);
    trace.with(|notes| notes.operations.push(Operation { name, answer, begin, took }));
    result
}

fn found(entry: &Option<Entry>) -> &'static str {
    if entry.is_some() { "found" } else { "not found" }
}

fn done<T>(_: &T) -> &'static str {
    "done"
}

impl Cache for Watched {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        watch("get", found, self.0.get(key)).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        watch("get_and_touch", found, self.0.get_and_touch(key, after)).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let answer = |written: &bool| if *written { "written" } else { "taken" };
        watch("insert", answer, self.0.insert(key, entry, expiry)).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let answer = |replaced: &Replaced| match replaced {
            Replaced::Done => "written",
            Replaced::Conflict(_) => "another request was faster",
            Replaced::Missing => "not found",
        };
        watch("replace", answer, self.0.replace(key, expected, entry, expiry)).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        watch("touch", |there| if *there { "done" } else { "not found" }, self.0.touch(key)).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let answer = |deleted: &Deleted| match deleted {
            Deleted::Done => "deleted",
            Deleted::Conflict(_) => "another request was faster",
            Deleted::Missing => "not found",
        };
        watch("delete", answer, self.0.delete(key, expected)).await
    }
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        watch("list_add", done, self.0.list_add(list, member, end)).await
    }
    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        watch("list_remove", done, self.0.list_remove(list, members)).await
    }
    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        watch("list_page", done, self.0.list_page(list, after, limit)).await
    }
    async fn ping(&self) -> Result<(), CacheError> {
        watch("ping", done, self.0.ping()).await
    }
}
