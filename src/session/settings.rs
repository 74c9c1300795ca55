//! What one session decides for itself.
use std::{sync::Arc, time::Duration};

use super::{Session, check_duration};
use crate::{error::SessionError, record::ttl_of};

/// The longest that browsers keep a cookie (RFC 6265bis, section 5.5).
const MAX_COOKIE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

impl Session {
    /// This session ends when it goes this long without being written or refreshed, in place of
    /// [`SessionStore::ttl`](crate::SessionStore::ttl). Kept in the record: later requests and renewals honour it.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for zero, [`Closed`](SessionError::Closed) after the response's commit.
    pub fn set_ttl(&self, idle: Duration) -> Result<(), SessionError> {
        check_duration(idle, "set_ttl: a session that ends at once is none, use `destroy`")?;
        self.open()?.settings.ttl = Some(ttl_of(idle));
        Ok(())
    }

    /// This session ends this long after it was created, in place of
    /// [`SessionStore::max_lifetime`](crate::SessionStore::max_lifetime). Kept in the record.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for zero and for more than 400 days, which is as long as browsers keep a cookie
    /// (RFC 6265bis, section 5.5); [`Closed`](SessionError::Closed) after the response's commit.
    pub fn set_lifetime(&self, lifetime: Duration) -> Result<(), SessionError> {
        check_duration(lifetime, "set_lifetime: a session that ends at once is none, use `destroy`")?;
        if lifetime > MAX_COOKIE {
            return Err(SessionError::Setting("set_lifetime: browsers keep no cookie for more than 400 days"));
        }
        self.open()?.settings.lifetime = Some(lifetime);
        Ok(())
    }

    /// "Remember me": whether this session's cookie outlives the browser, in place of the layer's `persistent`. Kept in
    /// the record.
    ///
    /// # Errors
    /// [`Closed`](SessionError::Closed) after the response's commit.
    ///
    /// # Example
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{Session, SessionError};
    /// fn remember_me(session: &Session) -> Result<(), SessionError> {
    ///     session.set_persistent(true)?;
    ///     session.set_ttl(Duration::from_secs(60 * 24 * 60 * 60))?;
    ///     session.set_lifetime(Duration::from_secs(180 * 24 * 60 * 60))
    /// }
    /// # remember_me(&Session::new()).unwrap();
    /// ```
    pub fn set_persistent(&self, persistent: bool) -> Result<(), SessionError> {
        self.open()?.settings.persistent = Some(persistent);
        Ok(())
    }

    /// Says whose session this is, so that [`SessionStore::sessions_of`](crate::SessionStore::sessions_of) lists it and
    /// [`revoke_all`](crate::SessionStore::revoke_all) ends it: at login, with the user's ID. Kept in the record.
    ///
    /// # Errors
    /// [`TooLarge`](SessionError::TooLarge) for a name over 256 bytes, [`Closed`](SessionError::Closed) after the
    /// response's commit. The commit may find that the user has
    /// [too many sessions](SessionError::TooManySessions).
    pub fn set_owner(&self, owner: impl Into<String>) -> Result<(), SessionError> {
        let owner = owner.into();
        if owner.len() > 256 {
            return Err(SessionError::TooLarge { size: owner.len(), limit: 256 });
        }
        let owner = Some(Arc::from(owner));
        let mut state = self.open()?;
        let stored = state.stored.as_ref().map(|stored| &stored.head.owner);
        state.settings.owner = if stored == Some(&owner) { None } else { Some(owner) };
        Ok(())
    }

    /// Takes the owner away: the session stays, but is nobody's.
    ///
    /// # Errors
    /// [`Closed`](SessionError::Closed) after the response's commit.
    pub fn clear_owner(&self) -> Result<(), SessionError> {
        let mut state = self.open()?;
        let owned = state.stored.as_ref().is_some_and(|stored| stored.head.owner.is_some());
        state.settings.owner = owned.then_some(None);
        Ok(())
    }

    /// Whose session this is.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        let state = self.look();
        let stored = || state.stored.as_ref()?.head.owner.as_ref();
        let owner = state.settings.owner.as_ref().map_or_else(stored, Option::as_ref);
        owner.map(ToString::to_string)
    }

    /// Ends all other sessions of this session's owner, at once, and returns how many: "log out all other devices", and
    /// after a change of password. Without an owner there are none.
    ///
    /// # Errors
    /// When the cache fails; [`Gone`](SessionError::Gone) if this session has ended itself meanwhile: then it ends no others;
    /// [`NoStore`](SessionError::NoStore) for a session made with [`Session::new`].
    pub async fn revoke_others(&self) -> Result<usize, SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        let Some(owner) = self.owner() else { return Ok(0) };
        engine.revoke_others(&owner, self.key()).await
    }
}
