//! The store without HTTP: sessions by their ID.
use std::sync::Arc;

use super::Session;
use crate::{
    cache::Cache,
    deadline::Deadline,
    error::SessionError,
    finish::RunToEnd,
    id::SessionId,
    store::{Engine, SessionStore, Stored},
};

impl<C: Cache> SessionStore<C> {
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.clone())
    }

    /// Stores what is in the session under a fresh ID, and returns that. The handle itself stays as it is: saved twice, it
    /// makes two sessions.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails or is full, [`TooLarge`](SessionError::TooLarge) over the
    /// limit, [`Random`](SessionError::Random) without randomness.
    pub async fn save(&self, session: &Session) -> Result<SessionId, SessionError> {
        let (values, settings, like) = session.contents();
        self.bounded(self.save_new(values, settings, like)).await
    }

    /// Stores the session under an ID that exists already.
    ///
    /// For the ID that the session was loaded with this is [`Session::commit`]. Any other well-formed ID is taken at its
    /// word, as when sessions are brought over from elsewhere: what is in the session is written over the live session
    /// that is there, or inserted.
    ///
    /// # Errors
    /// As [`save`](Self::save); [`InvalidId`](SessionError::InvalidId) for a text that is no ID;
    /// [`Gone`](SessionError::Gone) if the session ended meanwhile, or was renewed;
    /// [`Conflict`](SessionError::Conflict) if others kept changing it until the deadline.
    pub async fn save_with_id(&self, id: impl AsRef<str>, session: &Session) -> Result<(), SessionError> {
        let id = SessionId::parse(id.as_ref().as_bytes()).ok_or(SessionError::InvalidId)?;
        let key = id.key();
        if session.key() == Some(key) {
            return session.commit().await;
        }
        let (values, settings, like) = session.contents();
        let deadline = Deadline::after(self.config().deadline);
        self.bounded(self.save_over(key, values, settings, like, deadline)).await
    }

    /// The session with this ID. `None` for what is malformed, absent, expired, renewed away, unreadable or foreign.
    ///
    /// Its own [`commit`](Session::commit) writes changes back.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache cannot find out.
    pub async fn load(&self, id: impl AsRef<str>) -> Result<Option<Session>, SessionError> {
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(None) };
        let stored: Option<Stored> = self.bounded(self.load_stored(id.key())).await?;
        Ok(stored.map(|stored| Session::standalone(self.engine(), stored)))
    }

    /// Ends the session with this ID, everywhere and for good; follows a renewal. An ID that leads nowhere is no error.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails: then the session may still live.
    pub async fn destroy(&self, id: impl AsRef<str>) -> Result<(), SessionError> {
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(()) };
        let (store, deadline) = (self.clone(), Deadline::after(self.config().deadline));
        RunToEnd::new(async move { store.bounded(store.destroy_key(id.key(), deadline)).await }).await
    }

    /// Restarts the idle time of the session with this ID. `false` if there is none.
    ///
    /// # Errors
    /// [`Cache`](SessionError::Cache) when the cache fails.
    pub async fn touch(&self, id: impl AsRef<str>) -> Result<bool, SessionError> {
        let Some(id) = SessionId::parse(id.as_ref().as_bytes()) else { return Ok(false) };
        self.bounded(self.touch_key(id.key())).await
    }
}
