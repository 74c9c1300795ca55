//! Commits of one entry that collided inside this process go one after the other.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{deadline::Deadline, id::CacheKey};

/// What the commit before this one wrote, so that the next one need not collide to learn it.
type Queue<T> = Arc<AsyncMutex<Option<T>>>;

/// By cache key, as stores with different prefixes share the queues. Holds the keys that commits contend for at the moment.
pub(super) struct Queues<T> {
    count: AtomicUsize,
    by_key: Mutex<HashMap<Box<str>, Queue<T>>>,
}

/// A place in a queue; once it is granted, no other commit of this process writes the entry.
pub(super) struct Turn<T> {
    queues: Arc<Queues<T>>,
    key: Box<str>,
    /// Always there until `drop`.
    latest: Option<OwnedMutexGuard<Option<T>>>,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), by_key: Mutex::default() }
    }
}

impl<T> Queues<T> {
    /// Whether commits of this key are queueing: then a newcomer would only collide with them.
    pub(super) fn is_busy(&self, key: impl FnOnce() -> CacheKey) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.lock().contains_key(&*key())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Queue<T>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of this commit; `None` if the deadline comes first.
    pub(super) async fn turn(self: &Arc<Self>, key: &str, deadline: Deadline) -> Option<Turn<T>> {
        let queue = {
            let mut by_key = self.lock();
            let queue = Arc::clone(by_key.entry(key.into()).or_default());
            self.count.store(by_key.len(), Ordering::Relaxed);
            queue
        };
        // Made before waiting, so that a commit that gives up leaves the queue.
        let mut turn = Turn { queues: Arc::clone(self), key: key.into(), latest: None };
        let latest = deadline.bound(queue.lock_owned()).await.ok()?;
        turn.latest = Some(latest);
        Some(turn)
    }
}

impl<T: Clone> Turn<T> {
    pub(super) fn latest(&self) -> Option<T> {
        self.latest.as_ref()?.as_ref().cloned()
    }

    pub(super) fn leave_behind(&mut self, stored: &T) {
        if let Some(latest) = &mut self.latest {
            **latest = Some(stored.clone());
        }
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        let mut by_key = self.queues.lock();
        self.latest = None;
        // The map's own reference is the last one: no commit waits. New ones come through the map, which is locked.
        if by_key.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            by_key.remove(&self.key);
            self.queues.count.store(by_key.len(), Ordering::Relaxed);
        }
    }
}
