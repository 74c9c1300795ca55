//! Destroying: the session, and what came of it.
use super::{
    Look, SessionStore, Stored,
    engine::{Draft, Outcome},
    renew::TOMBSTONE,
    timed_out,
};
use crate::{
    cache::{Cache, Deleted},
    deadline::Deadline,
    error::SessionError,
    events,
    id::SessionKey,
};

/// What an end found.
#[derive(Default)]
pub(super) struct Ended {
    /// The session that this ended.
    pub(super) session: Option<Stored>,
    /// The tombstones on the way there.
    pub(super) tombstones: Vec<SessionKey>,
}

impl<C: Cache> SessionStore<C> {
    pub(super) async fn destroy_draft(&self, draft: &mut Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        let ended = match (draft.stored.clone(), draft.tombstone) {
            (Some(stored), _) => self.end_by_id(stored.key, Some(stored), deadline).await?,
            (None, Some(tombstone)) => self.end_by_id(tombstone, None, deadline).await?,
            (None, None) => match &mut draft.follow {
                // Detached from a request whose session is not stored yet.
                Some(fate) => {
                    let fate = deadline.bound(fate.wait_for(Option::is_some)).await.map_err(|_| timed_out())?;
                    let key = fate.ok().and_then(|key| *key);
                    match key {
                        Some(key) => self.end_by_id(key, None, deadline).await?,
                        None => return Ok(Outcome::Gone),
                    }
                }
                None => return Ok(Outcome::Destroyed),
            },
        };
        // Where even the tombstone is gone, nobody can tell whether the session lives on under another key.
        let knows = ended.session.is_some() || !ended.tombstones.is_empty();
        if !knows && draft.age >= TOMBSTONE {
            return Err(SessionError::Gone);
        }
        Ok(Outcome::Destroyed)
    }

    /// Ends a session for somebody who has its ID, and takes it off its owner's list.
    pub(super) async fn end_by_id(
        &self,
        key: SessionKey,
        known: Option<Stored>,
        deadline: Deadline,
    ) -> Result<Ended, SessionError> {
        let ended = self.end(key, known, deadline).await?;
        // An ID is told after the predecessor was buried, so that the list can do without that as well.
        let before = ended.session.as_ref().and_then(|stored| stored.head.prev());
        self.unlist_ended(&ended, before).await;
        Ok(ended)
    }

    /// Ends what lives under `key`, following tombstones; `known` is what was there.
    ///
    /// The successor ends first and the tombstones go last, so that an attempt that broke off can be repeated.
    pub(super) async fn end(
        &self,
        mut key: SessionKey,
        mut known: Option<Stored>,
        deadline: Deadline,
    ) -> Result<Ended, SessionError> {
        let mut tombstones = Vec::new();
        let mut session = None;
        loop {
            let found = match known.take() {
                None => self.look(key, None).await?,
                Some(stored) => match self.cache.delete(&self.cache_key(&key), stored.version).await? {
                    Deleted::Done => {
                        session = Some(stored);
                        break;
                    }
                    Deleted::Missing => break,
                    Deleted::Conflict(entry) => self.read(key, entry),
                },
            };
            match found {
                Look::Live(stored) => known = Some(stored),
                Look::Tombstone { successor, version } => {
                    tombstones.push((key, version));
                    key = successor;
                }
                Look::Absent => break,
                // Not ours to end, and so the way there stays.
                Look::Unreadable => return Ok(Ended::default()),
            }
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
        for (key, version) in tombstones.iter().rev() {
            // Nothing but another destroy follows a tombstone.
            match self.cache.delete(&self.cache_key(key), *version).await? {
                Deleted::Done | Deleted::Missing | Deleted::Conflict(_) => {}
            }
        }
        if session.is_some() {
            events::destroyed(&key);
        }
        Ok(Ended { session, tombstones: tombstones.into_iter().map(|(key, _)| key).collect() })
    }
}
