//! The settings of one session, and who it belongs to.
use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use super::{Session, Wish};
use crate::{
    cache::Version,
    clock::{millis, time_of},
    error::SessionError,
    record::{HeadChanges, Owner, Stamp},
};
#[cfg(feature = "device-bound")]
use crate::{
    id::SessionId,
    record::{CHALLENGE_LIFE, Challenge},
};

/// Browsers keep no cookie for longer (RFC 6265bis, section 5.5).
const MAX_COOKIE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

const MAX_OWNER: usize = 256;

impl Session {
    /// This session ends when it goes this long without being written or refreshed, in place of
    /// [`SessionStore::ttl`](crate::SessionStore::ttl). Kept in the record: later requests and renewals honour it.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for zero, [`Closed`](SessionError::Closed) after the response's commit.
    pub fn set_ttl(&self, idle: Duration) -> Result<(), SessionError> {
        check_duration(idle, "set_ttl: must be greater than zero; `destroy` ends a session at once")?;
        self.open()?.changes().head_mut().idle = Some(millis(idle));
        Ok(())
    }

    /// This session ends this long after its login, or after its creation if there was no login, in place of
    /// [`SessionStore::max_lifetime`](crate::SessionStore::max_lifetime). Kept in the record.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for zero and for more than 400 days, which is as long as browsers keep a cookie
    /// (RFC 6265bis, section 5.5); [`Closed`](SessionError::Closed) after the response's commit.
    pub fn set_lifetime(&self, lifetime: Duration) -> Result<(), SessionError> {
        check_duration(lifetime, "set_lifetime: must be greater than zero; `destroy` ends a session at once")?;
        if lifetime > MAX_COOKIE {
            return Err(SessionError::Setting("set_lifetime: browsers keep no cookie for more than 400 days"));
        }
        self.open()?.changes().head_mut().lifetime = Some(lifetime);
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
        self.open()?.changes().head_mut().persistent = Some(persistent);
        Ok(())
    }

    /// Logs a user in: gives the session a new ID as [`renew`](Self::renew) does, sets its owner, starts its lifetime anew
    /// and notes the time of the authentication (OWASP ASVS 5.0, 7.2.4). The data stays, unless the session belonged to
    /// another owner: then it goes first. Idle timeout, lifetime and persistence are those of the store and the layer
    /// again, unless this request sets them, before or after this call.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for an empty owner, [`TooLarge`](SessionError::TooLarge) for one of more than
    /// 256 bytes, [`Closed`](SessionError::Closed) after the response's commit,
    /// [`RenewDetached`](SessionError::RenewDetached) on a detached handle. The commit may find that the user has
    /// [too many sessions](SessionError::TooManySessions).
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{Session, SessionError};
    /// fn after_the_password_was_checked(session: &Session, user: u64) -> Result<(), SessionError> {
    ///     session.log_in(user)
    /// }
    /// # after_the_password_was_checked(&Session::new(), 42).unwrap();
    /// ```
    pub fn log_in(&self, owner: impl Display) -> Result<(), SessionError> {
        let owner = self.owner_of("log_in: the owner must not be empty", &owner)?;
        #[cfg(feature = "device-bound")]
        let offer = self.offer(owner.stamp.at)?;
        let mut state = self.open_or_restricted()?;
        if state.detached && self.inner.engine.is_some() {
            return Err(SessionError::RenewDetached);
        }
        let present = state.owner();
        state.changes().log_in(owner, present.as_deref());
        #[cfg(feature = "device-bound")]
        {
            // Whatever device the visitor's old session is bound to, this one is new.
            state.restricted = false;
            if offer.is_some() {
                state.changes().head_mut().offer = offer;
            }
        }
        state.wish(Wish::Renew);
        Ok(())
    }

    /// What a login offers to a browser that can bind the session to its device.
    #[cfg(feature = "device-bound")]
    fn offer(&self, now: u64) -> Result<Option<Box<Challenge>>, SessionError> {
        let Some(config) = self.config().filter(|_| self.lock().offers) else { return Ok(None) };
        let text = SessionId::generate(config.random)?.as_ref().into();
        Ok(Some(Box::new(Challenge { text, until: now.saturating_add(CHALLENGE_LIFE) })))
    }

    /// Whether the session is bound to a device, whose browser has proven within the last minutes that this request comes
    /// from it. See the chapter [`device_bound`](crate::guide::device_bound). Experimental.
    #[cfg(feature = "device-bound")]
    #[must_use]
    pub fn is_device_bound(&self) -> bool {
        self.access().stored().is_some_and(|stored| stored.record.head.is_bound())
    }

    /// Notes that the user has just proved again who they are, and gives the session a new ID (OWASP ASVS 5.0, 7.2.4):
    /// before a sensitive action, for [`authenticated_within`](Self::authenticated_within). The lifetime stays.
    ///
    /// # Errors
    /// [`Closed`](SessionError::Closed) after the response's commit, [`RenewDetached`](SessionError::RenewDetached) on a
    /// handle that was detached or loaded by ID.
    pub fn reauthenticated(&self) -> Result<(), SessionError> {
        let now = self.now();
        let mut state = self.open()?;
        if state.detached && self.inner.engine.is_some() {
            return Err(SessionError::RenewDetached);
        }
        state.changes().head_mut().authenticated = Some(now);
        state.wish(Wish::Renew);
        Ok(())
    }

    /// When the user proved last who they are: by [`log_in`](Self::log_in) or [`reauthenticated`](Self::reauthenticated).
    #[must_use]
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        let changed = |head: &HeadChanges| head.authenticated.map(Some);
        let at = self.access().setting(changed, |record| record.head.authenticated()).flatten()?;
        Some(time_of(at))
    }

    /// Whether the user proved who they are within this time: what a sensitive action asks for (OWASP ASVS 5.0, 7.5).
    #[must_use]
    pub fn authenticated_within(&self, time: Duration) -> bool {
        let at = self.authenticated_at().map(crate::clock::millis_since_epoch);
        at.is_some_and(|at| self.now().saturating_sub(at) <= millis(time))
    }

    /// When the session was created; `None` for one that is not stored yet. A renewal keeps it.
    #[must_use]
    pub fn created_at(&self) -> Option<SystemTime> {
        self.access().stored().map(|stored| time_of(stored.record.head.created))
    }

    /// When the session's lifetime is over; `None` for one that is not stored yet. It ends sooner if it is idle for too
    /// long.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        let state = self.access();
        let head = &state.stored()?.record.head;
        Some(time_of(state.effect().head_on(head, self.lifetime()).end))
    }

    /// Gives the session to a user, so that [`SessionStore::sessions_of`](crate::SessionStore::sessions_of) lists it and
    /// [`revoke_all`](crate::SessionStore::revoke_all) ends it. Kept in the record. At a login, [`log_in`](Self::log_in)
    /// does this and more.
    ///
    /// # Errors
    /// [`Setting`](SessionError::Setting) for an empty owner, [`TooLarge`](SessionError::TooLarge) for one of more than
    /// 256 bytes, [`Closed`](SessionError::Closed) after the response's commit. The commit may find that the user has
    /// [too many sessions](SessionError::TooManySessions).
    pub fn set_owner(&self, owner: impl Display) -> Result<(), SessionError> {
        let owner = self.owner_of("set_owner: the owner must not be empty; `clear_owner` takes it away", &owner)?;
        self.open()?.changes().head_mut().owner = Some(Some(owner));
        Ok(())
    }

    fn owner_of(&self, empty: &'static str, owner: &impl Display) -> Result<Owner, SessionError> {
        let name = owner.to_string();
        if name.is_empty() {
            return Err(SessionError::Setting(empty));
        }
        if name.len() > MAX_OWNER {
            return Err(SessionError::TooLarge { size: name.len(), limit: MAX_OWNER });
        }
        let stamp = Stamp { at: self.now(), nonce: Version::unique().into() };
        Ok(Owner { name: name.into(), stamp })
    }

    /// Takes the owner away: the session stays, and belongs to no user.
    ///
    /// # Errors
    /// [`Closed`](SessionError::Closed) after the response's commit.
    pub fn clear_owner(&self) -> Result<(), SessionError> {
        self.open()?.changes().head_mut().owner = Some(None);
        Ok(())
    }

    /// The user that the session belongs to.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        self.access().owner()
    }
}

fn check_duration(duration: Duration, zero: &'static str) -> Result<(), SessionError> {
    if duration.is_zero() { Err(SessionError::Setting(zero)) } else { Ok(()) }
}
