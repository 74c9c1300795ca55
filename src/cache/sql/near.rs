//! The near cache of a SQL cache: where reads are served from, and what writes leave to be told to other processes.
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::{
    cache::near::NearCache,
    error::{CacheError, CacheErrorKind},
};

/// More keys than this do not wait to be told: what others keep of the rest ends by its age.
const MOST: usize = 10_000;

/// A cache whose changes of keys are told by a task, and that hears of those of others by the same task.
pub struct NotifyingNearCache {
    pub(super) cache: Arc<NearCache>,
    told: Arc<Outbox>,
    /// What came of the task's first try.
    first: Mutex<Option<oneshot::Receiver<Result<(), CacheError>>>>,
    task: JoinHandle<()>,
}

impl NotifyingNearCache {
    /// `run` ends when this is dropped.
    pub(super) fn new(
        cache: Arc<NearCache>,
        told: Arc<Outbox>,
        run: impl FnOnce(oneshot::Sender<Result<(), CacheError>>) -> JoinHandle<()>,
    ) -> Self {
        let (tell_first, first) = oneshot::channel();
        Self { cache, told, first: Mutex::new(Some(first)), task: run(tell_first) }
    }

    /// Waits until changes are heard of for the first time.
    pub(super) async fn ready(&self) -> Result<(), CacheError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(first) => first.await.unwrap_or_else(|_| Err(ended())),
            None => Ok(()),
        }
    }

    /// To be held by a write until it is over; a `telling` one changes what others may keep.
    pub(super) fn guard<'a>(&'a self, key: &'a str, telling: bool) -> ChangeGuard<'a> {
        ChangeGuard { own: &self.cache, told: telling.then_some(&*self.told), key }
    }
}

fn ended() -> CacheError {
    CacheError::new(CacheErrorKind::Other, "the task of the near cache has ended")
}

impl fmt::Debug for NotifyingNearCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyingNearCache").finish_non_exhaustive()
    }
}

impl Drop for NotifyingNearCache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Invalidates a key here and elsewhere, whatever came of the write.
pub(super) struct ChangeGuard<'a> {
    own: &'a NearCache,
    told: Option<&'a Outbox>,
    key: &'a str,
}

impl ChangeGuard<'_> {
    /// The write changed nothing.
    pub(super) fn nothing(&mut self) {
        self.told = None;
    }
}

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        self.own.invalidate(self.key.as_bytes());
        if let Some(told) = self.told {
            told.put(self.key);
        }
    }
}

/// Keys that were changed, until they are told.
#[derive(Default)]
pub(super) struct Outbox {
    keys: Mutex<VecDeque<String>>,
    filled: Notify,
}

impl Outbox {
    fn put(&self, key: &str) {
        let mut keys = self.lock();
        if keys.len() < MOST {
            keys.push_back(key.to_owned());
            self.filled.notify_one();
        }
    }

    /// Waits until there is one.
    pub(super) async fn filled(&self) {
        while self.lock().is_empty() {
            self.filled.notified().await;
        }
    }

    /// Takes keys as long as `fits`.
    pub(super) fn take(&self, mut fits: impl FnMut(&str) -> bool) -> Vec<String> {
        let mut keys = self.lock();
        let count = keys.iter().take_while(|key| fits(key)).count();
        keys.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
