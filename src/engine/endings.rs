//! Tells the handles of this process at once which session this process has ended.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, futures::Notified};

/// By cache key, as stores with different prefixes share them. Holds the keys that something waits for.
#[derive(Default)]
pub(super) struct Endings {
    count: AtomicUsize,
    by_key: Mutex<HashMap<Box<str>, Arc<Notify>>>,
}

/// The end of one session, for which its owner waits.
pub(crate) struct Ending {
    endings: Arc<Endings>,
    key: Box<str>,
    notify: Arc<Notify>,
}

impl Endings {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Notify>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_for(self: &Arc<Self>, key: &str) -> Ending {
        let mut by_key = self.lock();
        let notify = Arc::clone(by_key.entry(key.into()).or_default());
        self.count.store(by_key.len(), Ordering::Release);
        Ending { endings: Arc::clone(self), key: key.into(), notify }
    }

    /// The entry under `key` is not the live session any more.
    pub(super) fn notify(&self, key: &str) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(notify) = self.lock().get(key) {
            notify.notify_waiters();
        }
    }
}

impl Ending {
    /// Resolves when something happened to the session; it has to be looked up to learn what.
    pub(crate) fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut by_key = self.endings.lock();
        // The map and this one: nothing else waits for the same key.
        if Arc::strong_count(&self.notify) <= 2 {
            by_key.remove(&self.key);
            self.endings.count.store(by_key.len(), Ordering::Release);
        }
    }
}
