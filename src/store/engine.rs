//! The store as the handles see it: without its type of cache.
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Config, Look, SessionStore};
use crate::{
    cache::{Cache, Version},
    data::{Changes, Values},
    deadline::{Deadline, at_once},
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{Head, Settings},
};

/// A session as it was found in or written to the cache.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) key: SessionKey,
    pub(crate) version: Version,
    pub(crate) head: Head,
    pub(crate) values: Arc<Values>,
    /// When it was read or written, by the store's clock.
    pub(crate) seen: u64,
}

/// What a visitor's cookies led to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) session: Option<(SessionId, Stored)>,
    /// A tombstone: no session, but a destroy follows it.
    pub(crate) tombstone: Option<SessionKey>,
    /// When the tombstone was found.
    pub(crate) seen: u64,
}

/// What a commit is to do; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Destroy,
    Renew,
    Write,
    Touch,
    /// Only find out whether the session lives.
    Confirm,
}

/// The key under which a request's session is stored, once it is.
pub(crate) type Fate = Option<SessionKey>;

/// What a handle did, on its way into the cache.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) action: Action,
    /// What the changes were made to; `None` for a new session.
    pub(crate) stored: Option<Stored>,
    pub(crate) tombstone: Option<SessionKey>,
    pub(crate) changes: Changes,
    pub(crate) settings: Settings,
    /// A detached handle follows the session that its request creates or renews.
    pub(crate) follow: Option<watch::Receiver<Fate>>,
    /// Whether a touch has to tell a live session from a tombstone.
    pub(crate) sure: bool,
    /// How long ago the session was loaded.
    pub(crate) age: Duration,
}

/// What came of a commit.
#[derive(Debug)]
#[must_use = "only `Stored` means that the changes were written"]
pub(crate) enum Outcome {
    /// Written; with an ID if it is a new one.
    Stored {
        stored: Stored,
        id: Option<SessionId>,
    },
    /// Not written, and live.
    Live,
    Destroyed,
    /// The session had ended: the changes were dropped.
    Gone,
}

pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionError>> + Send + 'a>>;

/// A store, whatever its cache.
pub(crate) trait Engine: Send + Sync {
    fn config(&self) -> &Config;
    fn load<'a>(&'a self, ids: &'a [SessionId], refresh: Option<Duration>) -> Work<'a, Found>;
    fn commit<'a>(&'a self, draft: &'a mut Draft, deadline: Deadline) -> Work<'a, Outcome>;
    /// As [`load`](Self::load), where the cache does not wait; `None` where it does.
    fn load_at_once(&self, ids: &[SessionId], refresh: Option<Duration>) -> Option<Result<Found, SessionError>>;
    /// As [`commit`](Self::commit), for the common case and where the cache does not wait. `None`: nothing was done.
    fn commit_at_once(&self, draft: &Draft) -> Option<Result<Outcome, SessionError>>;
    fn revoke_others<'a>(&'a self, owner: &'a str, keep: Option<SessionKey>) -> Work<'a, usize>;
}

impl<C: Cache> Engine for SessionStore<C> {
    fn config(&self) -> &Config {
        Self::config(self)
    }

    fn load<'a>(&'a self, ids: &'a [SessionId], refresh: Option<Duration>) -> Work<'a, Found> {
        Box::pin(self.find(ids, refresh))
    }

    fn commit<'a>(&'a self, draft: &'a mut Draft, deadline: Deadline) -> Work<'a, Outcome> {
        Box::pin(self.commit_draft(draft, deadline))
    }

    fn load_at_once(&self, ids: &[SessionId], refresh: Option<Duration>) -> Option<Result<Found, SessionError>> {
        if C::IMMEDIATE { at_once(self.find(ids, refresh)) } else { None }
    }

    fn commit_at_once(&self, draft: &Draft) -> Option<Result<Outcome, SessionError>> {
        if C::IMMEDIATE { self.write_at_once(draft) } else { None }
    }

    fn revoke_others<'a>(&'a self, owner: &'a str, keep: Option<SessionKey>) -> Work<'a, usize> {
        Box::pin(self.bounded(self.revoke_but(owner, keep)))
    }
}

impl<C: Cache> SessionStore<C> {
    /// The one live session among `ids`. Two of them are none: somebody planted a cookie (RFC 6265bis, section 8.6).
    async fn find(&self, ids: &[SessionId], refresh: Option<Duration>) -> Result<Found, SessionError> {
        let mut found = Found::default();
        // Which of several to refresh is known only after the last of them.
        let at_once = if ids.len() > 1 { None } else { refresh };
        for id in ids {
            match self.look(id.key(), at_once).await? {
                Look::Live(_) if found.session.is_some() => {
                    events::several_sessions();
                    return Ok(Found::default());
                }
                Look::Live(stored) => found.session = Some((id.clone(), stored)),
                Look::Tombstone { .. } => {
                    found.tombstone = found.tombstone.or(Some(id.key()));
                    found.seen = self.now();
                }
                Look::Absent | Look::Unreadable => {}
            }
        }
        if let (Some(after), Some((_, stored)), true) = (refresh, &found.session, ids.len() > 1) {
            self.cache.get_and_touch(&self.cache_key(&stored.key), after).await?;
        }
        if found.session.is_some() {
            found.tombstone = None;
        }
        Ok(found)
    }

    async fn commit_draft(&self, draft: &mut Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        // What is seldom done is in boxes, here and in `write`, so that the future of a common write stays small.
        match draft.action {
            Action::Destroy => Box::pin(self.destroy_draft(draft, deadline)).await,
            Action::Renew => Box::pin(self.renew(draft, deadline)).await,
            Action::Write => self.write(draft, deadline).await,
            Action::Touch if !draft.sure => {
                let Some(stored) = &draft.stored else { return Ok(Outcome::Gone) };
                let live = self.cache.touch(&self.cache_key(&stored.key)).await?;
                Ok(if live { Outcome::Live } else { Outcome::Gone })
            }
            Action::Touch => Box::pin(self.find_live(draft, Some(Duration::ZERO), deadline)).await,
            Action::Confirm => Box::pin(self.find_live(draft, None, deadline)).await,
        }
    }

    /// Looks whether the session lives, there or where its request moved it to.
    async fn find_live(
        &self,
        draft: &mut Draft,
        refresh: Option<Duration>,
        deadline: Deadline,
    ) -> Result<Outcome, SessionError> {
        let known = draft.stored.as_ref().map(|stored| stored.key);
        let moved = match known {
            None => true,
            Some(key) => match self.look(key, refresh).await? {
                Look::Live(_) => return Ok(Outcome::Live),
                look => matches!(look, Look::Tombstone { .. }),
            },
        };
        let Some(fate) = draft.follow.as_mut().filter(|_| moved) else { return Ok(Outcome::Gone) };
        let Some(stored) = self.follow(fate, known, deadline).await? else { return Ok(Outcome::Gone) };
        let look = self.look(stored.key, refresh).await?;
        Ok(if matches!(look, Look::Live(_)) { Outcome::Live } else { Outcome::Gone })
    }
}
