//! The sessions of a user: who they belong to, and ending them.
use std::{collections::HashSet, fmt, num::NonZeroUsize, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{Look, SessionStore, Stored};
use crate::{
    cache::Cache, clock::time_of, data::json, deadline::Deadline, error::SessionError, events, id::SessionKey,
    record::Settings,
};

/// Makes an owner's digest different from every other use of SHA-256 on the same bytes.
const DOMAIN: &[u8] = b"cloakroom owner 1\0";

/// What [`SessionStore::max_sessions_per_owner`] does when a user is given one session more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The user's oldest sessions end. The default.
    #[default]
    EndOldest,
    /// The new session is refused with [`SessionError::TooManySessions`]. Two that come at the same moment may both be.
    Refuse,
}

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

    /// A value of its data: whatever the application put there, the device or the address, say. `None` if there is none or
    /// it is of another type.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        json::decode(&self.stored.values.get(name)?).ok()
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
    /// Checked when a session is given its owner. Zero counts as one.
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
    /// Takes one operation for the list and one for each session on it. Sessions on the list that are gone are taken off
    /// it.
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
        self.bounded(self.end(*key, None, deadline)).await
    }

    /// Ends all sessions of a user: "log out everywhere". Returns how many.
    ///
    /// Requests in flight cannot bring one back. A session that is being created for the user at the same moment is either
    /// ended or listed by [`sessions_of`](Self::sessions_of) afterwards.
    ///
    /// # Errors
    /// When the cache fails; some of the sessions may then still live: repeat it.
    pub async fn revoke_all(&self, owner: &str) -> Result<usize, SessionError> {
        self.bounded(self.revoke_but(owner, None)).await
    }

    /// Ends all sessions of a user but one: "log out all other devices". Returns how many.
    ///
    /// `keep` may be a key that was renewed meanwhile: its successor is kept.
    ///
    /// # Errors
    /// As [`revoke_all`](Self::revoke_all).
    pub async fn revoke_others(&self, owner: &str, keep: &SessionKey) -> Result<usize, SessionError> {
        self.bounded(self.revoke_but(owner, Some(*keep))).await
    }

    fn list_key(&self, owner: &str) -> String {
        let name = if self.config.owners.readable {
            owner.to_owned()
        } else {
            let mut digest = Sha256::new_with_prefix(DOMAIN);
            digest.update(owner);
            URL_SAFE_NO_PAD.encode(digest.finalize())
        };
        [&*self.config.prefix, "owner:", &name].concat()
    }

    /// The sessions on a user's list that live and are the user's; takes off the list what is gone.
    async fn live_of(&self, owner: &str) -> Result<Vec<Stored>, SessionError> {
        let list = self.list_key(owner);
        let mut live = Vec::new();
        let mut dead = Vec::new();
        for member in self.cache.list_members(&list).await? {
            let Ok(key) = member.parse() else {
                dead.push(member);
                continue;
            };
            match self.look(key, None).await? {
                Look::Live(stored) if stored.head.owner.as_deref() == Some(owner) => live.push(stored),
                Look::Absent => dead.push(member),
                Look::Live(_) | Look::Tombstone { .. } | Look::Unreadable => {}
            }
        }
        if !dead.is_empty() {
            self.cache.list_remove(&list, &dead).await?;
        }
        live.sort_by_key(|stored| stored.head.created);
        Ok(live)
    }

    pub(super) async fn revoke_but(&self, owner: &str, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let deadline = Deadline::after(self.config.deadline);
        let keep = match keep {
            Some(key) => self.live_end(key).await?.map(|stored| stored.key).or(Some(key)),
            None => None,
        };
        let list = self.list_key(owner);
        let (mut gone, mut seen, mut ended) = (Vec::new(), HashSet::new(), 0);
        for member in self.cache.list_members(&list).await? {
            let Ok(key) = member.parse::<SessionKey>() else { continue };
            match self.live_end(key).await? {
                Some(stored) if keep == Some(stored.key) || stored.head.owner.as_deref() != Some(owner) => {}
                Some(stored) => {
                    if seen.insert(stored.key) && self.end(key, None, deadline).await? {
                        ended += 1;
                    }
                    gone.push(member);
                }
                None if matches!(self.look(key, None).await?, Look::Absent) => gone.push(member),
                None => {}
            }
        }
        if !gone.is_empty() {
            self.cache.list_remove(&list, &gone).await?;
        }
        Ok(ended)
    }

    /// The live session that `key` leads to by way of tombstones.
    async fn live_end(&self, mut key: SessionKey) -> Result<Option<Stored>, SessionError> {
        loop {
            match self.look(key, None).await? {
                Look::Live(stored) => return Ok(Some(stored)),
                Look::Tombstone { successor, .. } => key = successor,
                Look::Absent | Look::Unreadable => return Ok(None),
            }
        }
    }

    async fn list(&self, owner: &str, stored: &Stored, end: u64) -> Result<(), SessionError> {
        let list = self.list_key(owner);
        Ok(self.cache.list_add(&list, stored.key.as_str(), time_of(end)).await?)
    }

    /// Lists a session that was just inserted.
    pub(super) async fn list_new(&self, stored: &Stored, deadline: Deadline) -> Result<(), SessionError> {
        let Some(owner) = &stored.head.owner else { return Ok(()) };
        self.refuse(owner, &[stored.key]).await?;
        self.list(owner, stored, stored.head.end).await?;
        self.end_oldest(owner, &stored.key, deadline).await
    }

    /// Lists a session whose owner or end is about to be written.
    pub(super) async fn list_before(
        &self,
        newest: &Stored,
        settings: &Settings,
        _: Deadline,
    ) -> Result<(), SessionError> {
        if settings.owner.is_none() && settings.lifetime.is_none() {
            return Ok(());
        }
        let mut head = newest.head.clone();
        settings.apply(&mut head);
        let Some(owner) = &head.owner else { return Ok(()) };
        if newest.head.owner.as_ref() != Some(owner) {
            self.refuse(owner, &[newest.key]).await?;
        }
        self.list(owner, newest, head.end).await
    }

    /// Lists a successor before its session moves there.
    pub(super) async fn list_successor(
        &self,
        successor: &Stored,
        old: &Stored,
        _: Deadline,
    ) -> Result<(), SessionError> {
        let Some(owner) = &successor.head.owner else { return Ok(()) };
        if old.head.owner.as_ref() != Some(owner) {
            self.refuse(owner, &[successor.key, old.key]).await?;
        }
        self.list(owner, successor, successor.head.end).await
    }

    /// What is left to do once the session is written. It cannot fail the commit any more: healing does what this could not.
    pub(super) async fn list_after(
        &self,
        stored: &Stored,
        before: &crate::record::Head,
        settings: &Settings,
        deadline: Deadline,
    ) {
        if settings.owner.is_none() || before.owner == stored.head.owner {
            return;
        }
        if let Some(former) = &before.owner {
            self.unlist(former, &stored.key).await;
        }
        if let Some(owner) = &stored.head.owner
            && let Err(error) = self.end_oldest(owner, &stored.key, deadline).await
        {
            events::failed(&error);
        }
    }

    /// Takes a session off its owner's list. Healing does it where this fails.
    pub(super) async fn unlist(&self, owner: &str, key: &SessionKey) {
        let members = [key.to_string()];
        if let Err(error) = self.cache.list_remove(&self.list_key(owner), &members).await {
            events::failed(&error.into());
        }
    }

    async fn refuse(&self, owner: &str, own: &[SessionKey]) -> Result<(), SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::Refuse, .. } = self.config.owners else { return Ok(()) };
        let others = self.live_of(owner).await?.iter().filter(|stored| !own.contains(&stored.key)).count();
        if others < limit.get() { Ok(()) } else { Err(SessionError::TooManySessions) }
    }

    async fn end_oldest(&self, owner: &str, own: &SessionKey, deadline: Deadline) -> Result<(), SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::EndOldest, .. } = self.config.owners else {
            return Ok(());
        };
        let mut others = self.live_of(owner).await?;
        others.retain(|stored| stored.key != *own);
        let too_many = (others.len() + 1).saturating_sub(limit.get());
        for stored in others.iter().take(too_many) {
            self.end(stored.key, Some(stored.version), deadline).await?;
            self.unlist(owner, &stored.key).await;
        }
        Ok(())
    }
}
