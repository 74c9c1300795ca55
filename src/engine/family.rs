//! What a request's handle shares with the handles that were detached from it.
use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::{
    deadline::{Deadline, timed_out},
    error::SessionError,
    id::SessionKey,
};

#[derive(Default)]
pub(crate) struct Family {
    /// Under which the request's session was stored first, if it came without one.
    first: OnceLock<SessionKey>,
    /// The keys that the request itself moved its session to: the only tombstones that its handles follow.
    successors: Mutex<Vec<SessionKey>>,
    /// The request will not commit any more.
    over: AtomicBool,
    changed: Notify,
}

impl Family {
    pub(super) fn stored_as(&self, key: SessionKey) {
        // A session that was stored has its first key for good.
        let _ = self.first.set(key);
        self.changed.notify_waiters();
    }

    /// The request is done: who waits for its first key need not wait longer.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn moves_to(&self, key: SessionKey) {
        self.successors.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    pub(super) fn has(&self, successor: &SessionKey) -> bool {
        self.successors.lock().unwrap_or_else(PoisonError::into_inner).contains(successor)
    }

    /// The key that the request's session is stored under first. `None`: the request ended without storing it.
    pub(crate) async fn first_key(&self, deadline: Deadline) -> Result<Option<SessionKey>, SessionError> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                // The order matters: a request stores its session before it is over.
                let over = self.over.load(Ordering::Acquire);
                if let Some(key) = self.first.get() {
                    return Some(*key);
                }
                if over {
                    return None;
                }
                changed.await;
            }
        };
        deadline.bound(wait).await.map_err(|_| timed_out())
    }
}
