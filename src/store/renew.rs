//! Renewal: the successor first, then the old entry becomes a tombstone.
use std::time::Duration;

use super::{
    Look, SessionStore, Stored,
    commit::{Attempt, back_off},
    engine::{Draft, Outcome},
    hold::LOST,
    queue::Turn,
    timed_out,
};
use crate::{
    cache::{Cache, Deleted, Entry, Expiry, Replaced, Version},
    clock::{later, time_of},
    deadline::Deadline,
    error::{CacheErrorKind, SessionError},
    events,
    id::SessionId,
    record::{self, Head},
};

/// How long a destroy can still find out what came of a renewed session.
pub(super) const TOMBSTONE: Duration = Duration::from_secs(60 * 60);

impl<C: Cache> SessionStore<C> {
    /// Moves the session, with the changes of `draft`, to a fresh ID.
    ///
    /// Whatever fails on the way leaves the old session as it was. What is not known to have failed is left alone: the
    /// successor's ID has been told to nobody.
    pub(super) async fn renew(&self, draft: &mut Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        let Some(mut newest) = draft.stored.clone() else { return self.write(draft, deadline).await };
        let mut turn = None;
        if self.queues.is_busy(&newest.key) {
            turn = self.queues.turn(newest.key, deadline).await;
            if let Some(latest) = turn.as_ref().and_then(Turn::latest) {
                newest = latest;
                draft.changes.rebase(&newest.values)?;
            }
        }
        let head = moved(&newest, draft);
        let (id, mut successor) = self.create(&head, &draft.changes, &newest.values).await?;
        if let Err(error) = self.list_successor(&successor, &newest).await {
            self.discard(&successor).await;
            return Err(error);
        }
        for round in 0_u32.. {
            let found = match self.bury(&newest, &successor).await {
                Ok(Replaced::Done) => {
                    self.list_after(&successor, &newest.head, &draft.settings, deadline).await;
                    return Ok(renewed(&newest, successor, id));
                }
                Ok(Replaced::Conflict(entry)) => self.read(newest.key, entry),
                Ok(Replaced::Missing) => Look::Absent,
                Err(error) => {
                    if is_certain(&error) {
                        self.discard(&successor).await;
                    }
                    return Err(error);
                }
            };
            if turn.is_none() {
                turn = self.queues.turn(newest.key, deadline).await;
            }
            let found = if round < LOST { Ok(found) } else { self.hold_newest(found, deadline).await };
            match found {
                Ok(Look::Live(newer)) => newest = newer,
                // It ended, or another request renewed it: one live session is left in either case.
                Ok(_) => {
                    self.discard(&successor).await;
                    return Ok(Outcome::Gone);
                }
                Err(error) => {
                    self.discard(&successor).await;
                    return Err(error);
                }
            }
            match self.carry_over(&newest, &successor, draft).await {
                Ok(Some(carried)) => successor = carried,
                Ok(None) => {
                    // Somebody revoked the successor, and so meant this session.
                    self.end(newest.key, Some(newest), deadline).await?;
                    return Ok(Outcome::Gone);
                }
                Err(error) => {
                    if is_certain(&error) {
                        self.discard(&successor).await;
                    }
                    return Err(error);
                }
            }
            if deadline.left().is_zero() {
                break;
            }
            back_off(round, deadline).await;
        }
        self.discard(&successor).await;
        events::conflict(&newest.key);
        Err(SessionError::Conflict)
    }

    /// What is there, and rests if it is live.
    async fn hold_newest(&self, mut found: Look, deadline: Deadline) -> Result<Look, SessionError> {
        while let Look::Live(newest) = &found {
            match self.hold(newest).await? {
                Attempt::Done(held) => return Ok(Look::Live(held)),
                Attempt::Lost(newer) => found = newer,
            }
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
        Ok(found)
    }

    /// Turns the old entry into the tombstone.
    async fn bury(&self, old: &Stored, successor: &Stored) -> Result<Replaced, SessionError> {
        let now = self.now();
        let expiry = Expiry { idle: TOMBSTONE, end: time_of(later(now, TOMBSTONE).min(successor.head.end)) };
        let tombstone = record::encode_tombstone(&old.key, &successor.key);
        Ok(self.cache.replace(&self.cache_key(&old.key), old.version, Entry::new(tombstone, Version::unique()), expiry).await?)
    }

    /// Takes what others wrote to the old session meanwhile over into the successor. `None`: it is not there any more.
    async fn carry_over(
        &self,
        newest: &Stored,
        successor: &Stored,
        draft: &mut Draft,
    ) -> Result<Option<Stored>, SessionError> {
        draft.changes.rebase(&newest.values)?;
        let head = moved(newest, draft);
        self.list_carried(successor, &head).await?;
        let values = self.encode(&successor.key, &head, &draft.changes, &newest.values)?;
        let cache_key = self.cache_key(&successor.key);
        let version = Version::unique();
        let entry = Entry::new(values.text().clone(), version);
        Ok(match self.cache.replace(&cache_key, successor.version, entry, self.expiry(&head)).await? {
            Replaced::Done => Some(Stored { key: successor.key, version, head, values, seen: newest.seen }),
            Replaced::Conflict(_) | Replaced::Missing => None,
        })
    }

    /// Removes an entry whose ID nobody knows. If that fails, it expires.
    pub(super) async fn discard(&self, stored: &Stored) {
        match self.cache.delete(&self.cache_key(&stored.key), stored.version).await {
            Ok(Deleted::Done | Deleted::Missing | Deleted::Conflict(_)) => {}
            Err(error) => events::failed(&error.into()),
        }
    }
}

/// The head that a successor gets.
fn moved(old: &Stored, draft: &Draft) -> Head {
    let mut head = Head { prev: Some(Box::new(old.key)), hold: false, ..old.head.clone() };
    draft.settings.apply(&mut head);
    head
}

fn renewed(old: &Stored, stored: Stored, id: SessionId) -> Outcome {
    events::renewed(&old.key, &stored.key);
    Outcome::Stored { stored, id: Some(id) }
}

/// Whether the error says that nothing was written.
fn is_certain(error: &SessionError) -> bool {
    !matches!(error.cache_kind(), Some(CacheErrorKind::Timeout | CacheErrorKind::Other))
}
