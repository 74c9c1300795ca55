//! How many sessions a user may have.
use std::num::NonZeroUsize;

use super::Owners;
use crate::{
    cache::Cache,
    deadline::Deadline,
    error::SessionError,
    store::{SessionStore, Stored},
};

/// Sessions that were created this close to each other, in milliseconds, may be listing themselves at the same time.
const MOMENT: u64 = 10_000;

/// What [`SessionStore::max_sessions_per_owner`] does when a user is given one session more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The user's oldest sessions end, by [`SessionInfo::created`](crate::SessionInfo::created). The default.
    #[default]
    EndOldest,
    /// The new session is refused with [`SessionError::TooManySessions`]. Two that come at the same moment may both be
    /// refused; two sessions that exist already and get their owner without a renewal may both be let in.
    Refuse,
}

impl<C: Cache> SessionStore<C> {
    /// The user's live sessions beside this one, the oldest first; not looked for where the list is too short to
    /// matter.
    async fn others(&self, owner: &str, own: &Stored, limit: NonZeroUsize) -> Result<Vec<Stored>, SessionError> {
        let members = self.members(&self.list_key(owner)).await?;
        if members.iter().filter(|member| *member != own.key.as_str()).count() < limit.get() {
            return Ok(Vec::new());
        }
        let mut others = self.live_of(owner).await?;
        others.retain(|other| {
            // The one that moves here, and what other requests were about to move it to.
            let is_same = own.head.prev().is_some_and(|prev| other.key == prev || other.head.prev() == Some(prev));
            other.key != own.key && !is_same
        });
        Ok(others)
    }

    pub(super) async fn is_refused(&self, owner: &str, own: &Stored) -> Result<bool, SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::Refuse, .. } = self.config.owners else {
            return Ok(false);
        };
        Ok(self.others(owner, own, limit).await?.len() >= limit.get())
    }

    /// Listed first, looked for others then: of two at the same moment at least one sees the other.
    pub(super) async fn refuse_listed(&self, owner: &str, own: &Stored) -> Result<(), SessionError> {
        if !self.is_refused(owner, own).await? {
            return Ok(());
        }
        self.discard(own).await;
        self.unlist(owner, [own.key]).await;
        Err(SessionError::TooManySessions)
    }

    pub(super) async fn end_oldest(
        &self,
        owner: &str,
        own: &Stored,
        is_fresh: bool,
        deadline: Deadline,
    ) -> Result<(), SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::EndOldest, .. } = self.config.owners else {
            return Ok(());
        };
        let others = self.others(owner, own, limit).await?;
        let too_many = (others.len() + 1).saturating_sub(limit.get());
        let age = |stored: &Stored| (stored.head.created, stored.key);
        for other in others.into_iter().take(too_many) {
            // Two new ones must not end each other: the newer one ends the older.
            let is_newer = age(&other) > age(own) && other.head.created <= own.head.created.saturating_add(MOMENT);
            if is_fresh && is_newer {
                break;
            }
            let ended = self.end(other.key, Some(other), deadline).await?;
            self.unlist_ended(&ended, None).await;
        }
        Ok(())
    }
}
