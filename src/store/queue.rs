//! Commits of one key that collided inside this process go one after the other.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::Stored;
use crate::{deadline::Deadline, id::SessionKey};

/// What the commit before this one wrote, so that the next one need not collide to learn it.
type Latest = Option<Stored>;

/// The queues that somebody stands in; as many entries as there are contended keys at the moment.
#[derive(Default)]
pub(crate) struct Queues {
    count: AtomicUsize,
    keys: Mutex<HashMap<SessionKey, Arc<AsyncMutex<Latest>>>>,
}

/// A place in a queue; while it is `Turn`, nobody else of this process is at it.
pub(super) struct Turn {
    queues: Arc<Queues>,
    key: SessionKey,
    /// Always there until `drop`.
    latest: Option<OwnedMutexGuard<Latest>>,
}

impl Queues {
    /// Whether commits of `key` are queueing: then a newcomer would only collide with them.
    pub(super) fn is_busy(&self, key: &SessionKey) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.lock().contains_key(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionKey, Arc<AsyncMutex<Latest>>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of this commit; `None` if the deadline comes first.
    pub(super) async fn turn(self: &Arc<Self>, key: SessionKey, deadline: Deadline) -> Option<Turn> {
        let queue = {
            let mut keys = self.lock();
            let queue = Arc::clone(keys.entry(key).or_default());
            self.count.store(keys.len(), Ordering::Relaxed);
            queue
        };
        // Made before waiting, so that whoever gives up leaves as well.
        let mut turn = Turn { queues: Arc::clone(self), key, latest: None };
        let latest = deadline.bound(queue.lock_owned()).await.ok()?;
        turn.latest = Some(latest);
        Some(turn)
    }
}

impl Turn {
    pub(super) fn latest(&self) -> Option<Stored> {
        self.latest.as_ref()?.as_ref().cloned()
    }

    pub(super) fn leave_behind(&mut self, stored: &Stored) {
        if let Some(latest) = &mut self.latest {
            **latest = Some(stored.clone());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut keys = self.queues.lock();
        self.latest = None;
        // The map's own reference is the last one: nobody waits. New ones come only through the map, which is locked.
        if keys.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            keys.remove(&self.key);
            self.queues.count.store(keys.len(), Ordering::Relaxed);
        }
    }
}
