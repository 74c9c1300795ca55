//! Ending a user's sessions, in parts: each call makes progress, and can be repeated.
use std::collections::HashSet;

use super::{
    list::{AT_ONCE, together},
    standing::Standing,
};
use crate::{
    cache::Cache,
    deadline::Deadline,
    engine::{Engine, Stored},
    error::SessionError,
    id::SessionKey,
    record::Stamp,
};

/// What became of a member of a list.
#[derive(Default)]
struct Verdict {
    ended: Option<Option<Stamp>>,
    /// To be taken off the list.
    gone: Vec<SessionKey>,
}

fn is_successor_of(kept: Option<&Stored>, key: SessionKey) -> bool {
    kept.and_then(|kept| kept.record.head.origin()).is_some_and(|origin| origin.prev == key)
}

impl<C: Cache> Engine<C> {
    /// For a handler: a session that has ended itself ends no others.
    pub(in crate::engine) async fn revoke_all_but_own(
        &self,
        owner: &str,
        own: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<usize, SessionError> {
        match own {
            Some(key) if self.live_end(key).await?.is_none() => Err(SessionError::Gone),
            own => self.end_sessions(owner, own, deadline).await,
        }
    }

    /// Ends all sessions of a user, but for the one that `keep` leads to. Returns how many it ended.
    ///
    /// # Errors
    /// [`Incomplete`](SessionError::Incomplete) when the deadline comes before the end of the list.
    pub(crate) async fn end_sessions(
        &self,
        owner: &str,
        keep: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<usize, SessionError> {
        let kept = match keep {
            Some(key) => self.live_end(key).await?,
            None => None,
        };
        let mut ended = HashSet::new();
        for list in self.lists(owner) {
            let mut after = None;
            while let Some(part) = self.part(&list, &mut after).await? {
                for members in part.chunks(AT_ONCE) {
                    let keys: Vec<SessionKey> = members.iter().filter_map(|member| member.name.parse().ok()).collect();
                    let ending = together(keys.iter().map(|key| self.end_member(owner, *key, kept.as_ref(), deadline)));
                    let Ok(verdicts) = deadline.bound(ending).await else {
                        return Err(SessionError::Incomplete { ended: ended.len() });
                    };
                    let mut gone = Vec::new();
                    for (key, verdict) in keys.iter().zip(verdicts) {
                        let verdict = verdict?;
                        if let Some(stamp) = verdict.ended {
                            // A session that was being renewed counts once, by its stamp; one without, by its key.
                            ended.insert((stamp, stamp.is_none().then_some(*key)));
                        }
                        gone.extend(verdict.gone.iter().map(SessionKey::to_string));
                    }
                    if !gone.is_empty() {
                        self.cache.list_remove(&list, &gone).await?;
                    }
                }
            }
        }
        Ok(ended.len())
    }

    async fn end_member(
        &self,
        owner: &str,
        key: SessionKey,
        kept: Option<&Stored>,
        deadline: Deadline,
    ) -> Result<Verdict, SessionError> {
        let is_kept = |stored: &Stored| {
            kept.is_some_and(|kept| stored.key == kept.key || stored.record.head.stamp() == kept.record.head.stamp())
        };
        let (stored, prev) = match self.judge(owner, key).await? {
            Standing::Foreign => return Ok(Verdict::default()),
            Standing::Gone => return Ok(Verdict { ended: None, gone: vec![key] }),
            Standing::DeadEnd => {
                self.end(key, None, deadline, &|_| false).await?;
                return Ok(Verdict { ended: None, gone: vec![key] });
            }
            Standing::Stray(stray) => {
                self.discard(&stray).await;
                return Ok(Verdict { ended: None, gone: vec![key] });
            }
            // The tombstone that the kept session came from: without it, that would pass for one that was never told.
            Standing::Unreadable { key: at, .. } if is_successor_of(kept, at) => return Ok(Verdict::default()),
            Standing::Unreadable { key: at, version } => {
                let deleted = self.cache.delete(&self.cache_key(&at), version).await?;
                let is_done = deleted == crate::cache::Deleted::Done;
                return Ok(Verdict { ended: is_done.then_some(None), gone: vec![key] });
            }
            Standing::Making { stored, prev } => {
                if prev.record.head.owner() != Some(owner) || is_kept(&prev) {
                    return Ok(Verdict::default());
                }
                (stored, Some(prev))
            }
            Standing::Counts(stored) => (stored, None),
        };
        if is_kept(&stored) || self.is_kept_by_now(&stored, kept).await? {
            return Ok(Verdict::default());
        }
        let is_doomed = |found: &Stored| found.record.head.owner() == Some(owner) && !is_kept(found);
        let mut gone = vec![key, stored.key];
        let mut stamp = None;
        for session in prev.into_iter().chain([stored]) {
            // From the member itself where a tombstone leads from there, so that the tombstone goes, too.
            let (from, known) = if session.record.head.origin().is_some() && session.key != key {
                (key, None)
            } else {
                (session.key, Some(session))
            };
            let ended = self.end(from, known, deadline, &is_doomed).await?;
            gone.extend(ended.tombstones);
            if let Some(session) = ended.session {
                gone.push(session.key);
                stamp = Some(session.record.head.stamp());
            }
        }
        Ok(Verdict { ended: stamp, gone })
    }

    /// Whether a session with a later login is the one that is kept: it may have logged in while this goes on.
    async fn is_kept_by_now(&self, stored: &Stored, kept: Option<&Stored>) -> Result<bool, SessionError> {
        let Some(kept) = kept.filter(|kept| stored.record.head.stamp() > kept.record.head.stamp()) else {
            return Ok(false);
        };
        let now = self.live_end(kept.key).await?;
        Ok(now.is_some_and(|now| now.key == stored.key || now.record.head.stamp() == stored.record.head.stamp()))
    }
}
