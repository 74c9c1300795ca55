//! What a request's handle shares with the handles that were detached from it.
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{
    deadline::{Deadline, timed_out},
    error::SessionError,
    id::SessionKey,
};

#[derive(Default)]
pub(crate) struct Family {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    /// Under which the request's session was stored first, if it came without one.
    first: Option<SessionKey>,
    /// The keys that the request itself moved its session to: the only tombstones that its handles follow.
    successors: Vec<SessionKey>,
    /// The request will not commit any more.
    over: bool,
    /// A handle waits for the first key.
    awaited: bool,
}

impl Family {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.lock();
        change(&mut known);
        let awaited = known.awaited;
        drop(known);
        if awaited {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn stored_as(&self, key: SessionKey) {
        // A session that was stored has its first key for good.
        self.tell(|known| known.first = known.first.or(Some(key)));
    }

    /// The request is done: who waits for its first key need not wait longer.
    pub(crate) fn end(&self) {
        self.tell(|known| known.over = true);
    }

    pub(super) fn moves_to(&self, key: SessionKey) {
        self.lock().successors.push(key);
    }

    pub(super) fn has(&self, successor: &SessionKey) -> bool {
        self.lock().successors.contains(successor)
    }

    /// The key that the request's session is stored under first. `None`: the request ended without storing it.
    pub(crate) async fn first_key(&self, deadline: Deadline) -> Result<Option<SessionKey>, SessionError> {
        let wait = async {
            loop {
                let changed = {
                    let mut known = self.lock();
                    if known.first.is_some() || known.over {
                        return known.first;
                    }
                    known.awaited = true;
                    // Made while the lock is held, so that it misses no change.
                    self.changed.notified()
                };
                changed.await;
            }
        };
        deadline.bound(wait).await.map_err(|_| timed_out())
    }
}
