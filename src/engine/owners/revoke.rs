//! Ending a user's sessions, in parts: each call makes progress, and can be repeated.
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    list::{AT_ONCE, together, yield_after_full_part},
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

/// What one call of a handler has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    Nothing,
    Other,
    /// The session that it was called on.
    Caller,
}

/// What became of a member of a list.
#[derive(Default)]
struct MemberOutcome {
    ended: Option<Option<Stamp>>,
    /// To be taken off the list.
    gone: Vec<SessionKey>,
    /// It was renewed more often than was followed: what lives there may not be ended.
    is_far: bool,
}

/// The sessions that a call has ended so far. Each counts as soon as it ended: the rest of its part may take too long.
#[derive(Default)]
struct EndedSessions(Mutex<HashSet<(Option<Stamp>, Option<SessionKey>)>>);

impl EndedSessions {
    fn set(&self) -> MutexGuard<'_, HashSet<(Option<Stamp>, Option<SessionKey>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that was being renewed counts once, by its stamp; one without, by its key.
    fn note(&self, key: SessionKey, verdict: &MemberOutcome) {
        if let Some(stamp) = verdict.ended {
            self.set().insert((stamp, stamp.is_none().then_some(key)));
        }
    }

    fn count(&self) -> usize {
        self.set().len()
    }
}

/// A renewal changes the key, and keeps the stamp.
fn is_same(one: &Stored, other: &Stored) -> bool {
    one.key == other.key || one.record.head.stamp() == other.record.head.stamp()
}

fn is_successor_of(kept: Option<&Stored>, key: SessionKey) -> bool {
    kept.and_then(|kept| kept.record.head.origin()).is_some_and(|origin| origin.prev == key)
}

impl<C: Cache> Engine<C> {
    /// For a handler: the session that it is called on, which ends no others if it has ended itself.
    async fn caller(&self, own: Option<SessionKey>) -> Result<Option<Stored>, SessionError> {
        let Some(key) = own else { return Ok(None) };
        self.live_end(key).await?.map(Some).ok_or(SessionError::Gone)
    }

    /// For a handler.
    pub(in crate::engine) async fn revoke_all_but_own(
        &self,
        owner: &str,
        own: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<usize, SessionError> {
        let caller = deadline.bound(self.caller(own)).await;
        caller.unwrap_or(Err(SessionError::Incomplete { ended: 0 }))?;
        self.end_sessions(owner, own, deadline).await
    }

    /// For a handler: ends the session that `key` leads to, if it is this owner's by its record.
    pub(in crate::engine) async fn revoke_one(
        &self,
        owner: &str,
        own: Option<SessionKey>,
        key: SessionKey,
        deadline: Deadline,
    ) -> Result<Revoked, SessionError> {
        let caller = self.caller(own).await?;
        // An entry that cannot be read may be another user's.
        let is_theirs = |found: Option<&Stored>| found.is_some_and(|found| found.record.head.owner() == Some(owner));
        let ended = self.end(key, None, deadline, &is_theirs).await?;
        self.unlist_ended(&ended).await;
        Ok(match (ended.session, caller) {
            (None, _) => Revoked::Nothing,
            (Some(session), Some(caller)) if is_same(&session, &caller) => Revoked::Caller,
            (Some(_), _) => Revoked::Other,
        })
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
        let ended = EndedSessions::default();
        match deadline.bound(self.end_parts(owner, keep, deadline, &ended)).await {
            Ok(Err(SessionError::Incomplete { .. })) | Err(_) => Err(SessionError::Incomplete { ended: ended.count() }),
            Ok(done) => done.map(|()| ended.count()),
        }
    }

    /// Part by part: looked up, ended, taken off the list.
    async fn end_parts(
        &self,
        owner: &str,
        keep: Option<SessionKey>,
        deadline: Deadline,
        ended: &EndedSessions,
    ) -> Result<(), SessionError> {
        let kept = match keep {
            Some(key) => self.live_end(key).await?,
            None => None,
        };
        let mut is_far = false;
        for list in self.lists(owner) {
            let mut after = None;
            while let Some(part) = self.part(&list, &mut after).await? {
                for members in part.chunks(AT_ONCE) {
                    let keys = members.iter().filter_map(|member| member.name.parse().ok());
                    let ending = together(keys.map(|key| {
                        let kept = kept.as_ref();
                        async move {
                            let verdict = self.end_member(owner, key, kept, deadline).await?;
                            ended.note(key, &verdict);
                            Ok::<_, SessionError>(verdict)
                        }
                    }));
                    let mut gone = Vec::new();
                    for verdict in ending.await {
                        let verdict = verdict?;
                        is_far |= verdict.is_far;
                        gone.extend(verdict.gone.iter().map(SessionKey::to_string));
                    }
                    if !gone.is_empty() {
                        self.cache.list_remove(&list, &gone).await?;
                    }
                }
                yield_after_full_part(part.len()).await;
            }
        }
        if is_far { Err(SessionError::Incomplete { ended: 0 }) } else { Ok(()) }
    }

    async fn end_member(
        &self,
        owner: &str,
        key: SessionKey,
        kept: Option<&Stored>,
        deadline: Deadline,
    ) -> Result<MemberOutcome, SessionError> {
        let is_kept = |stored: &Stored| kept.is_some_and(|kept| is_same(stored, kept));
        let (stored, prev) = match self.judge(owner, key).await? {
            Standing::Foreign => return Ok(MemberOutcome::default()),
            Standing::Gone => return Ok(MemberOutcome { gone: vec![key], ..MemberOutcome::default() }),
            Standing::Far => return Ok(MemberOutcome { gone: vec![key], is_far: true, ..MemberOutcome::default() }),
            Standing::DeadEnd => {
                self.end(key, None, deadline, &|found| found.is_none()).await?;
                return Ok(MemberOutcome { gone: vec![key], ..MemberOutcome::default() });
            }
            Standing::Stray(stray) => {
                self.discard(&stray).await;
                return Ok(MemberOutcome { gone: vec![key], ..MemberOutcome::default() });
            }
            // The tombstone that the kept session came from: without it, that would pass for one that was never told.
            Standing::Unreadable { key: at, .. } if is_successor_of(kept, at) => return Ok(MemberOutcome::default()),
            Standing::Unreadable { key: at, version } => {
                let deleted = self.cache.delete(&self.cache_key(&at), version).await?;
                let is_done = deleted == crate::cache::Deleted::Done;
                return Ok(MemberOutcome { ended: is_done.then_some(None), gone: vec![key], is_far: false });
            }
            Standing::Making { stored, prev } => {
                if prev.record.head.owner() != Some(owner) || is_kept(&prev) {
                    return Ok(MemberOutcome::default());
                }
                (stored, Some(prev))
            }
            Standing::Counts(stored) => (stored, None),
        };
        if is_kept(&stored) || self.is_kept_by_now(&stored, kept).await? {
            return Ok(MemberOutcome::default());
        }
        let is_doomed = |found: Option<&Stored>| {
            found.is_none_or(|found| found.record.head.owner() == Some(owner) && !is_kept(found))
        };
        let mut gone = vec![key, stored.key];
        // A session that logs in again just now has two stamps, and is one session.
        let stamp = prev.as_ref().unwrap_or(&stored).record.head.stamp();
        let mut is_ended = false;
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
                is_ended = true;
            }
        }
        Ok(MemberOutcome { ended: is_ended.then_some(stamp), gone, is_far: false })
    }

    /// Whether a session with a later login is the one that is kept: it may have logged in while this goes on.
    async fn is_kept_by_now(&self, stored: &Stored, kept: Option<&Stored>) -> Result<bool, SessionError> {
        let Some(kept) = kept.filter(|kept| stored.record.head.stamp() > kept.record.head.stamp()) else {
            return Ok(false);
        };
        let now = self.live_end(kept.key).await?;
        Ok(now.is_some_and(|now| is_same(stored, &now)))
    }
}
