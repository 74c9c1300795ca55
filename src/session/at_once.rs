//! Calls that commit at once, and calls that look at the session as it is stored now.
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{IntoKey, Session};
use crate::{
    deadline::{Deadline, within},
    error::SessionError,
    record::{Run, Tag, check_value_key, json},
};

/// Why [`Session::ended`] resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The session is over: it was destroyed or revoked, or has expired. Also one that its request did not store.
    Ended,
    /// Another request has renewed the session, at a login or after a change of password, and it lives on under its new ID.
    /// The browser has that ID and may connect again. This handle came with the old one, and changes nothing any more.
    ///
    /// An hour after the renewal it is no longer told apart from an end.
    Renewed,
}

impl Session {
    /// As [`update`](Self::update), commits all that is pending at once, and returns the value that was stored: what `f` made
    /// of the value that it replaced. For a decision that depends on the value: the last seat, an attempt that counts.
    ///
    /// Looks the session up first, so that it takes one cache operation more than [`commit`](Self::commit).
    ///
    /// # Errors
    /// As [`update`](Self::update) and [`commit`](Self::commit). After an error this change is not tried again, but for an
    /// unknown outcome ([`Timeout`](crate::CacheErrorKind::Timeout)): then it may be stored.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{Session, SessionError};
    /// async fn book(session: Session) -> Result<bool, SessionError> {
    ///     let left = session.update_now("left", |left: Option<i64>| left.unwrap_or(10) - 1).await?;
    ///     Ok(left >= 0)
    /// }
    /// ```
    pub async fn update_now<T, F>(&self, key: impl IntoKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(Option<T>) -> T + Send + 'static,
    {
        let (limit, name) = (self.max_bytes(), Box::<str>::from(key.name()));
        let (last, mut f) = (LastValue::default(), f);
        let into = last.clone();
        let run: Run = Box::new(move |old| {
            swap(&into, None);
            let new = f(old.map(|json| json::decode(&name, json)).transpose()?);
            let json = json::encode(&new, limit)?;
            swap(&into, Some(new));
            Ok(Some(json))
        });
        self.run_now(key.name(), run).await?;
        swap(&last, None).ok_or(SessionError::Gone)
    }

    /// Takes the value under `key` away, commits all that is pending at once, and returns the value: for what may be used
    /// once, such as the state of an OAuth login. Of all requests, in all processes, at most one gets the value. No request
    /// gets it only after an error, or if the future of this call was dropped.
    ///
    /// Looks the session up first, so that it takes one cache operation more than [`commit`](Self::commit).
    ///
    /// # Errors
    /// As [`take`](Self::take) and [`commit`](Self::commit).
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{Session, SessionError};
    /// async fn callback(session: Session, state: &str) -> Result<bool, SessionError> {
    ///     let expected: Option<String> = session.take_now("oauth_state").await?;
    ///     Ok(expected.as_deref() == Some(state))
    /// }
    /// ```
    pub async fn take_now<T>(&self, key: impl IntoKey<T>) -> Result<Option<T>, SessionError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let (taken, name) = (LastValue::default(), Box::<str>::from(key.name()));
        let into = taken.clone();
        let run: Run = Box::new(move |old| {
            swap(&into, None);
            swap(&into, old.map(|json| json::decode(&name, json)).transpose()?);
            Ok(None)
        });
        self.run_now(key.name(), run).await?;
        Ok(swap(&taken, None))
    }

    async fn run_now(&self, key: &str, run: Run) -> Result<(), SessionError> {
        check_value_key(key)?;
        if self.inner.engine.is_none() {
            return self.run_without_store(key, run);
        }
        let tag = next_tag();
        let present = {
            let mut state = self.open()?;
            let present = state.get(key);
            state.changes().update_at_commit(key, present.clone(), run, tag)?;
            present
        };
        let result = self.commit_now(true).await;
        if result.is_err() {
            // The caller was told that it did not happen.
            self.lock().withdraw(key, tag, present);
        }
        result
    }

    /// For tests of handlers: a session of no store is its own store.
    fn run_without_store(&self, key: &str, mut run: Run) -> Result<(), SessionError> {
        let old = self.open()?.get(key);
        let new = run(old.as_deref())?;
        self.open()?.changes().set(key, new);
        Ok(())
    }

    /// Looks the session up again: what a WebSocket does before it trusts its handle. Pending changes stay, and take effect
    /// on the newer session.
    ///
    /// One cache operation. A session that was never stored stays as it is.
    ///
    /// # Errors
    /// [`Gone`](SessionError::Gone) if the session ended; [`Cache`](SessionError::Cache) when the cache fails;
    /// [`NoStore`](SessionError::NoStore) for a session made with [`Session::new`].
    pub async fn reload(&self) -> Result<(), SessionError> {
        let Some(engine) = &self.inner.engine else { return Err(SessionError::NoStore) };
        within(Deadline::after(engine.config().deadline), async {
            let _alone = self.inner.committing.lock().await;
            let key = {
                let state = self.access();
                if state.has_ended() {
                    return Err(SessionError::Gone);
                }
                state.key()
            };
            let Some(key) = key else { return Ok(()) };
            let found = engine.reload(key, self.family()).await?;
            let mut state = self.lock();
            let reloaded = state.reloaded(found);
            self.log_in_background(&state);
            reloaded
        })
        .await
    }

    /// Resolves when the session ends, by logout, revocation or expiry, or when another request renews it, and returns which
    /// of the two. For WebSockets and SSE, beside the messages.
    ///
    /// A session that ends in this process is noticed at once. For one that ends in another process the session is looked up
    /// every [`ended_interval`](crate::SessionStore::ended_interval), 30 seconds by default: one cache read each, which a near
    /// cache of Redis answers without a command, and which never restarts the idle timeout. While the cache fails it waits. A
    /// renewal by this handle's own request is followed. A session that is never stored ends with its request.
    ///
    /// Works on a request's own handle and on one from [`detach`](Self::detach), also after the response. A WebSocket or a
    /// stream that changes the session needs a detached one: the request's own handle takes no changes after the response.
    ///
    /// Each call looks once before it waits, so await one future for the whole conversation.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{EndReason, Session};
    /// # async fn next_message() {}
    /// /// `session` comes from `detach`.
    /// async fn talk(session: Session) -> &'static str {
    ///     let mut ended = std::pin::pin!(session.ended());
    ///     loop {
    ///         tokio::select! {
    ///             reason = &mut ended => {
    ///                 // The browser has the new ID: with that it may connect again.
    ///                 return if reason == EndReason::Renewed { "reconnect" } else { "signed out" };
    ///             }
    ///             () = next_message() => { /* … */ }
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn ended(&self) -> EndReason {
        let Some(engine) = &self.inner.engine else { return std::future::pending().await };
        let interval = engine.config().ended_interval;
        loop {
            let (key, has_ended) = {
                let state = self.access();
                (state.key(), state.has_ended())
            };
            let key = match key {
                Some(key) => key,
                None if has_ended => return EndReason::Ended,
                None => match self.family().first_key(Deadline::NEVER).await {
                    Ok(Some(key)) => key,
                    _ => return EndReason::Ended,
                },
            };
            let ending = engine.ending(&key);
            let notified = ending.notified();
            tokio::pin!(notified);
            // Registered before the look, so that an end in between is not missed.
            notified.as_mut().enable();
            let look = async {
                if engine.reload(key, self.family()).await?.is_some() {
                    return Ok(None);
                }
                let renewed = engine.was_renewed(key).await?;
                Ok::<_, SessionError>(Some(if renewed { EndReason::Renewed } else { EndReason::Ended }))
            };
            match Deadline::after(engine.config().deadline).bound(look).await {
                Ok(Ok(Some(reason))) => return reason,
                _ if has_ended => return EndReason::Ended,
                _ => {}
            }
            let _ = tokio::time::timeout(interval, notified).await;
        }
    }
}

/// Where a closure leaves what it saw when it ran last.
type LastValue<T> = Arc<Mutex<Option<T>>>;

/// Puts `value` there, and returns what was there.
fn swap<T>(last: &LastValue<T>, value: Option<T>) -> Option<T> {
    std::mem::replace(&mut *last.lock().unwrap_or_else(PoisonError::into_inner), value)
}

fn next_tag() -> Tag {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
