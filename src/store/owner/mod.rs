//! The sessions of a user: who they belong to, and ending them.
use std::{fmt, num::NonZeroUsize, time::SystemTime};

use serde::de::DeserializeOwned;

use super::{SessionStore, Stored};
use crate::{
    cache::Cache, clock::time_of, data::json, deadline::Deadline, error::SessionError, finish::RunToEnd,
    id::SessionKey, key::IntoKey,
};

mod ending;
mod limit;
mod list;
mod live;
mod upkeep;

pub use self::limit::WhenFull;

/// How a store deals with owners.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owners {
    limit: Option<NonZeroUsize>,
    when_full: WhenFull,
    readable: bool,
}

/// One session of a user, for a page of devices: see [`SessionStore::sessions_of`].
#[derive(Clone)]
pub struct SessionInfo {
    stored: Stored,
}

impl SessionInfo {
    /// What the session is known by. It is no ticket: a page can print it and post it back to
    /// [`SessionStore::revoke`].
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.stored.key
    }

    /// When the session was created; renewal keeps this.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        time_of(self.stored.head.created)
    }

    /// The end of the session's lifetime; it ends sooner if it is idle for too long.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        time_of(self.stored.head.end)
    }

    /// A value of its data: whatever the application put there, the device or the address, say. `None` if there is none
    /// or it is of another type.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: impl IntoKey<T>) -> Option<T> {
        json::decode(&self.stored.values.get(name.name())?).ok()
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo")
            .field("key", &self.stored.key)
            .field("created", &self.created())
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}

impl<C: Cache> SessionStore<C> {
    /// A user has at most this many sessions. Default: no limit.
    ///
    /// Checked when a session is given its owner, and only then: it takes one operation for the list and, where that is
    /// as long as the limit, one for each session on it. Zero counts as one.
    #[must_use]
    pub fn max_sessions_per_owner(mut self, sessions: usize) -> Self {
        self.config.owners.limit = NonZeroUsize::new(sessions.max(1));
        self
    }

    /// What happens to one session more than [`max_sessions_per_owner`](Self::max_sessions_per_owner). Default:
    /// [`WhenFull::EndOldest`].
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.config.owners.when_full = policy;
        self
    }

    /// Keeps the names of owners readable in the names of the cache's lists. Default: `false`, a list is named by the
    /// SHA-256 of its owner.
    ///
    /// The record of a session has its owner in either case.
    #[must_use]
    pub fn readable_owners(mut self, readable: bool) -> Self {
        self.config.owners.readable = readable;
        self
    }

    /// The live sessions of a user, the oldest first.
    ///
    /// Takes one operation for the list, one for each session on it, and one more for each of them that was renewed more
    /// than an hour ago, of which a few are under way at a time. What is gone is taken off the list, with one operation
    /// more.
    ///
    /// # Errors
    /// When the cache fails.
    pub async fn sessions_of(&self, owner: &str) -> Result<Vec<SessionInfo>, SessionError> {
        let sessions = self.bounded(self.live_of(owner)).await?;
        Ok(sessions.into_iter().map(|stored| SessionInfo { stored }).collect())
    }

    /// Ends a session by its key, whatever is in flight; follows a renewal. `false` if it had ended already.
    ///
    /// # Errors
    /// When the cache fails; the session may then still live.
    pub async fn revoke(&self, key: &SessionKey) -> Result<bool, SessionError> {
        let deadline = Deadline::after(self.config.deadline);
        self.bounded(async {
            let ended = self.end(*key, None, deadline).await?;
            self.unlist_ended(&ended, None).await;
            Ok(ended.session.is_some())
        })
        .await
    }

    /// Ends all sessions of a user: "log out everywhere". Returns how many.
    ///
    /// Requests in flight cannot bring one back, and a renewal under way ends with its session. A session that is being
    /// created for the user at the same moment is either ended or listed by [`sessions_of`](Self::sessions_of)
    /// afterwards.
    ///
    /// # Errors
    /// When the cache fails; some of the sessions may then still live: repeat it.
    pub async fn revoke_all(&self, owner: &str) -> Result<usize, SessionError> {
        self.run_end_all(owner.to_owned(), None).await
    }

    /// Ends all sessions of a user but one: "log out all other devices". Returns how many.
    ///
    /// `keep` may be a key that was renewed meanwhile, or is being renewed: its successor is kept. If nothing lives
    /// there any more all sessions end.
    ///
    /// # Errors
    /// As [`revoke_all`](Self::revoke_all).
    pub async fn revoke_others(&self, owner: &str, keep: &SessionKey) -> Result<usize, SessionError> {
        self.run_end_all(owner.to_owned(), Some(*keep)).await
    }

    /// What has begun to end sessions goes on to the last, whether its caller waits for it or not.
    async fn run_end_all(&self, owner: String, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let (store, deadline) = (self.clone(), Deadline::after(self.config.deadline));
        RunToEnd::new(async move { store.bounded(store.end_all(&owner, keep, deadline)).await }).await
    }

    /// For a handler: a session that has ended meanwhile ends no others.
    pub(super) async fn revoke_but(&self, owner: &str, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let deadline = Deadline::after(self.config.deadline);
        if let Some(key) = keep
            && self.live_end(key, deadline).await?.is_none()
        {
            return Err(SessionError::Gone);
        }
        self.end_all(owner, keep, deadline).await
    }
}
