//! The sessions of a user, seen from one of them.
use std::{fmt, time::SystemTime};

use serde::de::DeserializeOwned;

use super::{IntoKey, Session};
use crate::{
    cache::ListMember,
    clock::time_of,
    deadline::{Deadline, within},
    engine::{Page, Revoked, Stored},
    error::SessionError,
    events,
    id::SessionKey,
    record::json,
    run_to_end::RunToEnd,
};

/// One session of a user, for a page of devices: see [`SessionStore::sessions_of`](crate::SessionStore::sessions_of).
#[derive(Clone)]
pub struct SessionInfo {
    member: ListMember,
    stored: Stored,
}

impl SessionInfo {
    pub(crate) fn of_page(page: Page) -> Vec<Self> {
        page.into_iter().map(|(member, stored)| Self { member, stored }).collect()
    }

    pub(crate) const fn member(&self) -> &ListMember {
        &self.member
    }

    /// The session's public name. It cannot be used as a cookie, so that a page can print it and post it back to
    /// [`Session::revoke`].
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.stored.key
    }

    /// When the session was created; a renewal keeps this.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        time_of(self.stored.record.head.created)
    }

    /// When the user logged in with [`Session::log_in`]; `None` if the owner was set in another way.
    #[must_use]
    pub fn logged_in(&self) -> Option<SystemTime> {
        self.stored.record.head.login().map(time_of)
    }

    /// When the session was written last: at its login, its renewal, or with a change of its data or settings.
    ///
    /// This is the last use as far as it is known without a write of its own. A request that only reads is not noted, also
    /// where [`Refresh`](crate::Refresh) restarts the idle time: that changes the time to live of the entry in the cache, and
    /// not the record. For a page that shows "last seen", [set](Session::set) a value once in a while.
    #[must_use]
    pub fn last_written(&self) -> SystemTime {
        let head = &self.stored.record.head;
        time_of(head.written().unwrap_or(head.created))
    }

    /// The end of the session's lifetime; it ends sooner if it is idle for too long.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        time_of(self.stored.record.head.end)
    }

    /// Whether the session is bound to a device: its cookies are of no use elsewhere. Experimental.
    #[cfg(feature = "device-bound")]
    #[must_use]
    pub fn is_device_bound(&self) -> bool {
        self.stored.record.head.is_bound()
    }

    /// A value of the session: the device or the address, say, where the application put it there. `None` if there is none
    /// or it is of another type: an event then names the key.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: impl IntoKey<T>) -> Option<T> {
        let name = name.name();
        json::decode(name, &self.stored.record.values.get(name)?).unwrap_or_else(|_| {
            events::undecodable(name);
            None
        })
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo")
            .field("key", &self.stored.key)
            .field("created", &self.created())
            .field("last_written", &self.last_written())
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Up to `limit` live sessions of this session's owner, this one included, behind `after` or from the first one on.
    /// Without an owner there are none.
    ///
    /// They come in the order in which their lifetimes end: the oldest login first, where all have the same lifetime. Each
    /// page is read anew, so that a session that is renewed meanwhile may be on two pages. A page with fewer sessions than
    /// `limit` is the last one.
    ///
    /// # Errors
    /// When the cache fails; [`NoStore`](SessionError::NoStore) for a session made with [`Session::new`].
    pub async fn owner_sessions(
        &self,
        after: Option<&SessionInfo>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        let Some(owner) = self.owner() else { return Ok(Vec::new()) };
        let page = engine.owner_page(&owner, after.map(SessionInfo::member), limit);
        Ok(SessionInfo::of_page(within(Deadline::after(engine.config().deadline), page).await?))
    }

    /// Ends one session of this session's owner by its key, at once: for a page of devices, where the key comes from a form.
    /// `false` if it is another user's or no user's session, or had ended already; then nothing happens.
    ///
    /// Follows a renewal, so that a key from a page that was loaded before it still ends the session. With the key of this
    /// session it removes the cookie as well, as [`destroy`](Self::destroy) does. Without an owner it ends none. Runs to its
    /// end, also if this future is dropped. A session whose record this process cannot read is not ended, as its owner is
    /// unknown; [`revoke_all`](Self::revoke_all) ends it.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails: then the other session may still live.
    /// [`Gone`](SessionError::Gone) if this session has ended itself: then it ends no other.
    /// [`Incomplete`](SessionError::Incomplete) if the other one was renewed very often since the page was loaded: repeat it.
    /// [`NoStore`](SessionError::NoStore) for a session made with [`Session::new`].
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{Session, SessionError, SessionKey};
    /// // The key is parsed from the form: it is `Deserialize` and `FromStr`.
    /// async fn end_device(session: Session, key: SessionKey) -> Result<&'static str, SessionError> {
    ///     Ok(if session.revoke(&key).await? { "signed out" } else { "was not signed in any more" })
    /// }
    /// ```
    pub async fn revoke(&self, key: &SessionKey) -> Result<bool, SessionError> {
        let Some(engine) = self.inner.engine.clone() else { return Err(SessionError::NoStore) };
        let Some(owner) = self.owner() else { return Ok(false) };
        let (own, key) = (self.key(), *key);
        let revoked = RunToEnd::new(async move {
            let deadline = Deadline::after(engine.config().deadline);
            within(deadline, engine.revoke_one(&owner, own, key, deadline)).await
        })
        .await?;
        if revoked == Revoked::Caller {
            self.leave();
        }
        Ok(revoked != Revoked::Nothing)
    }

    /// Ends all other sessions of this session's owner, at once, and returns how many: "log out all other devices", and
    /// after a change of password. Without an owner there are none. Runs to its end, also if this future is dropped.
    ///
    /// # Errors
    /// When the cache fails; [`Gone`](SessionError::Gone) if this session has ended itself: then it ends no others;
    /// [`Incomplete`](SessionError::Incomplete) if there were too many for the deadline: some have ended, and the call is to
    /// be repeated; [`NoStore`](SessionError::NoStore) for a session made with [`Session::new`].
    pub async fn revoke_others(&self) -> Result<usize, SessionError> {
        self.revoke_list(true).await
    }

    /// Ends all sessions of this session's owner, at once and this one included, and returns how many: "log out everywhere".
    /// Without an owner there are none. Runs to its end, also if this future is dropped.
    ///
    /// # Errors
    /// As [`revoke_others`](Self::revoke_others), but for `Gone`.
    pub async fn revoke_all(&self) -> Result<usize, SessionError> {
        let revoked = self.revoke_list(false).await?;
        if self.owner().is_some() {
            self.leave();
        }
        Ok(revoked)
    }

    /// The session has ended: the browser's cookie goes with it.
    fn leave(&self) {
        if !self.lock().is_closed() {
            self.destroy();
        }
    }

    async fn revoke_list(&self, keep_own: bool) -> Result<usize, SessionError> {
        let Some(engine) = self.inner.engine.clone() else { return Err(SessionError::NoStore) };
        let Some(owner) = self.owner() else { return Ok(0) };
        let own = self.key();
        RunToEnd::new(async move {
            let deadline = Deadline::after(engine.config().deadline);
            let revoked = if keep_own {
                engine.revoke_others(&owner, own, deadline).await
            } else {
                engine.revoke_all(&owner, deadline).await
            };
            revoked.inspect_err(|error| events::cache_failed(error, own.as_ref()))
        })
        .await
    }
}
