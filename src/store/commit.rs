//! Writing: insert what is new, and what is stored by compare-and-set and replay.
use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    Look, SessionStore, Stored,
    engine::{Action, Draft, Fate, Outcome},
    queue::Turn,
    timed_out,
};
use crate::{
    cache::{Cache, Entry, Replaced, Version},
    data::{Changes, Values},
    deadline::{Deadline, at_once},
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{self, Head},
};

/// Fresh IDs that may be taken before randomness is called broken.
const ID_TRIES: usize = 3;

/// With less than this left, another round would be cut off in the middle.
const LAST_ROUND: Duration = Duration::from_millis(2);

impl<C: Cache> SessionStore<C> {
    /// The values of a record, refused if it is over the limit.
    pub(super) fn encode(
        &self,
        key: &SessionKey,
        head: &Head,
        changes: &Changes,
        base: &Values,
    ) -> Result<Arc<Values>, SessionError> {
        let values = record::encode(key, head, changes.merged(base));
        let (size, limit) = (values.text().len(), self.config.max_bytes);
        if size > limit { Err(SessionError::TooLarge { size, limit }) } else { Ok(values) }
    }

    /// Stores a session under a fresh ID.
    pub(super) async fn create(
        &self,
        head: &Head,
        changes: &Changes,
        base: &Values,
    ) -> Result<(SessionId, Stored), SessionError> {
        for _ in 0..ID_TRIES {
            let id = self.new_id()?;
            let key = id.key();
            let values = self.encode(&key, head, changes, base)?;
            let version = Version::unique();
            let entry = Entry::new(values.text().clone(), version);
            if self.cache.insert(&self.cache_key(&key), entry, self.expiry(head)).await? {
                let seen = head.created;
                let stored = Stored { key, version, head: head.clone(), values, seen };
                return Ok((id, stored));
            }
        }
        Err(SessionError::Random)
    }

    /// Writes changes over `newest`.
    pub(super) async fn attempt(&self, newest: &Stored, draft: &Draft) -> Result<Attempt, SessionError> {
        let mut head = Head { hold: false, ..newest.head.clone() };
        draft.settings.apply(&mut head);
        self.put(newest, head, &draft.changes).await
    }

    /// Writes `newest` with another head, and with changes.
    pub(super) async fn put(&self, newest: &Stored, head: Head, changes: &Changes) -> Result<Attempt, SessionError> {
        let values = self.encode(&newest.key, &head, changes, &newest.values)?;
        let cache_key = self.cache_key(&newest.key);
        let version = Version::unique();
        let entry = Entry::new(values.text().clone(), version);
        Ok(match self.cache.replace(&cache_key, newest.version, entry, self.expiry(&head)).await? {
            Replaced::Done => {
                let seen = newest.seen;
                Attempt::Done(Stored { key: newest.key, version, head, values, seen })
            }
            Replaced::Conflict(entry) => Attempt::Lost(self.read(newest.key, entry)),
            Replaced::Missing => Attempt::Lost(Look::Absent),
        })
    }

    async fn write_new(&self, draft: &Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        let mut head = record::new_head(self.now(), self.config.max_lifetime);
        draft.settings.apply(&mut head);
        let (id, stored) = self.create(&head, &draft.changes, &Values::default()).await?;
        // Nobody knows the ID yet: a session that cannot be listed is taken back as if it had never been.
        if let Err(error) = self.list_new(&stored, deadline).await {
            Box::pin(self.discard(&stored)).await;
            return Err(error);
        }
        events::created(&stored.key);
        Ok(Outcome::Stored { stored, id: Some(id) })
    }

    /// The write that meets nobody, with a cache that does not wait. `None`: nothing was done.
    pub(super) fn write_at_once(&self, draft: &Draft) -> Option<Result<Outcome, SessionError>> {
        let is_plain = draft.action == Action::Write && draft.follow.is_none() && draft.settings.is_empty();
        if !is_plain {
            return None;
        }
        let Some(stored) = &draft.stored else {
            return at_once(async {
                let head = record::new_head(self.now(), self.config.max_lifetime);
                let (id, stored) = self.create(&head, &draft.changes, &Values::default()).await?;
                events::created(&stored.key);
                Ok(Outcome::Stored { stored, id: Some(id) })
            });
        };
        if stored.head.hold || self.queues.is_busy(&stored.key) {
            return None;
        }
        match at_once(self.attempt(stored, draft))? {
            Ok(Attempt::Done(stored)) => Some(Ok(Outcome::Stored { stored, id: None })),
            // Somebody was faster: that takes the whole way.
            Ok(Attempt::Lost(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    pub(super) async fn write(&self, draft: &mut Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        let mut newest = match (draft.stored.clone(), &mut draft.follow) {
            (Some(stored), _) => stored,
            (None, None) => return Box::pin(self.write_new(draft, deadline)).await,
            (None, Some(fate)) => match Box::pin(self.follow(fate, None, deadline)).await? {
                Some(stored) => {
                    draft.changes.rebase(&stored.values)?;
                    stored
                }
                None => return Ok(Outcome::Gone),
            },
        };
        let mut turn = None;
        if self.queues.is_busy(&newest.key) {
            turn = Box::pin(self.queues.turn(newest.key, deadline)).await;
            if let Some(latest) = turn.as_ref().and_then(Turn::latest) {
                newest = latest;
                draft.changes.rebase(&newest.values)?;
            }
        }
        self.list_before(&newest, &draft.settings, false).await?;
        for round in 0_u32.. {
            let attempt = if newest.head.hold {
                Attempt::Lost(Box::pin(self.rest(&newest, deadline)).await?)
            } else {
                self.attempt(&newest, draft).await?
            };
            let found = match attempt {
                Attempt::Done(stored) => {
                    if let Some(turn) = &mut turn {
                        turn.leave_behind(&stored);
                    }
                    drop(turn);
                    self.list_after(&stored, &newest.head, &draft.settings, deadline).await;
                    return Ok(Outcome::Stored { stored, id: None });
                }
                Attempt::Lost(found) => found,
            };
            match (found, &mut draft.follow) {
                (Look::Live(newer), _) => newest = newer,
                (Look::Tombstone { .. }, Some(fate)) => {
                    turn = None;
                    match Box::pin(self.follow(fate, Some(newest.key), deadline)).await? {
                        Some(stored) => newest = stored,
                        None => return Ok(Outcome::Gone),
                    }
                }
                _ => return Ok(Outcome::Gone),
            }
            if turn.is_none() {
                turn = Box::pin(self.queues.turn(newest.key, deadline)).await;
                if let Some(latest) = turn.as_ref().and_then(Turn::latest) {
                    newest = latest;
                }
            } else {
                Box::pin(back_off(round, deadline)).await;
            }
            if turn.is_none() || deadline.left() < LAST_ROUND {
                break;
            }
            draft.changes.rebase(&newest.values)?;
            // Its owner or its end may be another one now.
            self.list_before(&newest, &draft.settings, true).await?;
        }
        events::conflict(&newest.key);
        Err(SessionError::Conflict)
    }

    /// Waits until the request that a handle was detached from has stored its session somewhere else than `tried`.
    /// `None`: it ended without.
    pub(super) async fn follow(
        &self,
        fate: &mut watch::Receiver<Fate>,
        tried: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<Option<Stored>, SessionError> {
        let elsewhere = |key: &Fate| key.is_some() && *key != tried;
        let key = match deadline.bound(fate.wait_for(elsewhere)).await {
            Ok(Ok(key)) => *key,
            Ok(Err(_)) => None,
            Err(_) => return Err(timed_out()),
        };
        let Some(key) = key else { return Ok(None) };
        Ok(match self.look(key, None).await? {
            Look::Live(stored) => Some(stored),
            _ => None,
        })
    }
}

/// What came of one try to write.
#[must_use = "only `Done` means that it was written"]
pub(super) enum Attempt {
    Done(Stored),
    /// This is there instead.
    Lost(Look),
}

/// The others are of another process; each lost round is a round that one of them won.
pub(super) async fn back_off(round: u32, deadline: Deadline) {
    if round < 3 {
        tokio::task::yield_now().await;
        return;
    }
    let most = Duration::from_millis(1) * (1 << round.min(4));
    let share = u32::try_from(u64::from(crate::cache::Version::unique()) % 1000).unwrap_or_default();
    tokio::time::sleep((most * share / 1000).min(deadline.left())).await;
}
