//! Writing: a new session is inserted, a stored one is written by compare-and-set and replay, or has its idle time restarted.
use std::time::Duration;

use super::{
    Base, Commit, Committed, Engine, Family, Lookup, Stored,
    commit::{Tried, Write},
    owners::Listing,
    queue::Turn,
};
use crate::{
    cache::{Cache, Replaced, Version},
    deadline::Deadline,
    error::{CacheError, CacheErrorKind, SessionError},
    events,
    id::{SessionId, SessionKey},
    record::{self, Changes, Head, Record, Values},
};

/// Fresh IDs that may be taken before randomness is called broken.
const ID_TRIES: usize = 3;

/// With less than this left, another round would be cut off half-way.
const LAST_ROUND: Duration = Duration::from_millis(2);

/// What came of one compare-and-set.
#[must_use = "only `Done` means that it was written"]
pub(super) enum CasOutcome {
    Done(Stored),
    Lost(Lookup),
}

impl<C: Cache> Engine<C> {
    pub(super) async fn write(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        if commit.tried.is_some() {
            return Box::pin(self.write_again(commit)).await;
        }
        let Some(mut newest) = self.newest(commit, family, deadline).await? else { return Ok(Committed::Gone) };
        let is_busy = self.queues.is_busy(|| self.cache_key(&newest.key));
        let mut turn = if is_busy { Box::pin(self.take_turn(&mut newest, deadline)).await } else { None };
        let (mut listing, mut waited) = (Listing::default(), false);
        for round in 0_u32.. {
            // On its own base the list was found to alter something before it came here.
            let is_known = round == 0 && !commit.look_up_first && commit.changes.is_on(newest.identity());
            commit.changes.replay(newest.identity(), &newest.record)?;
            if !is_known && !commit.changes.effect().alters(&newest.record, self.config.max_lifetime) {
                return Ok(Committed::Stored { stored: newest, id: None });
            }
            let head = commit.changes.effect().head_on(&newest.record.head, self.config.max_lifetime).renewing(false);
            if head.owner().is_some() && head != newest.record.head {
                Box::pin(self.list_before(&newest, &head, &mut listing)).await?;
            }
            let record = self.encode(&newest.key, &head, &commit.changes, &newest.record, commit.begun_at)?;
            let attempt = if newest.record.head.is_renewing() && !waited {
                waited = true;
                CasOutcome::Lost(Box::pin(self.wait_for_renewal(&newest, deadline)).await?)
            } else {
                self.attempt(&newest, record, commit.begun_at, &mut commit.tried).await?
            };
            let found = match attempt {
                CasOutcome::Done(stored) => {
                    if let Some(turn) = &mut turn {
                        turn.leave_behind(&stored);
                    }
                    drop(turn);
                    if stored.record.head.stamp() != newest.record.head.stamp()
                        && !Box::pin(self.settle(&stored, &listing, deadline)).await
                    {
                        return Ok(Committed::Gone);
                    }
                    return Ok(Committed::Stored { stored, id: None });
                }
                CasOutcome::Lost(found) => found,
            };
            let moved = matches!(found, Lookup::Tombstone { .. });
            let Some(newer) = Box::pin(self.follow(found, family)).await? else { return Ok(Committed::Gone) };
            newest = newer;
            if moved {
                turn = None;
            }
            if turn.is_none() {
                turn = Box::pin(self.take_turn(&mut newest, deadline)).await;
            } else {
                Box::pin(back_off(round, deadline)).await;
            }
            if turn.is_none() || deadline.left() < LAST_ROUND {
                break;
            }
        }
        Err(SessionError::Conflict)
    }

    /// The stored session that a commit writes over. `None` if there is none, or not any more.
    pub(super) async fn newest(
        &self,
        commit: &Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Option<Stored>, SessionError> {
        let key = match &commit.base {
            Base::Stored(stored) if !commit.look_up_first => return Ok(Some(stored.clone())),
            Base::Stored(stored) => stored.key,
            Base::New(_) if commit.detached => match Box::pin(family.first_key(deadline)).await? {
                Some(key) => key,
                None => return Ok(None),
            },
            Base::New(_) | Base::Renewed { .. } => return Ok(None),
        };
        let found = Box::pin(self.look_up(key, None)).await?;
        Box::pin(self.follow(found, family)).await
    }

    /// The live session, by way of tombstones that this request left itself.
    pub(super) async fn follow(&self, mut found: Lookup, family: &Family) -> Result<Option<Stored>, SessionError> {
        loop {
            match found {
                Lookup::Live(stored) => return Ok(Some(stored)),
                // The set of successors only grows by renewals of the request, so that this ends.
                Lookup::Tombstone { successor, .. } if family.has(&successor) => {
                    found = self.look_up(successor, None).await?;
                }
                _ => return Ok(None),
            }
        }
    }

    /// Waits for the commits of this process that collided with this one, and learns what the last of them wrote.
    pub(super) async fn take_turn(&self, newest: &mut Stored, deadline: Deadline) -> Option<Turn<Stored>> {
        let turn = self.queues.turn(&self.cache_key(&newest.key), deadline).await?;
        if let Some(latest) = turn.latest() {
            *newest = latest;
        }
        Some(turn)
    }

    /// Sends the write of unknown outcome again. The cache recognises it by its version.
    async fn write_again(&self, commit: &mut Commit) -> Result<Committed, SessionError> {
        let Some(Tried::Write(Write { expected, becomes })) = &commit.tried else {
            return Ok(Committed::Dropped);
        };
        let (stored, expiry) = (becomes.clone(), self.expiry(&becomes.record.head));
        let replaced = self.cache.replace(&self.cache_key(&stored.key), *expected, stored.entry(), expiry).await?;
        commit.tried = None;
        let is_done = replaced == Replaced::Done;
        Ok(if is_done { Committed::Stored { stored, id: None } } else { Committed::Dropped })
    }

    /// Writes `record` over `newest`, at the time `now`. While the outcome is open, the write stands in `tried`.
    pub(super) async fn attempt(
        &self,
        newest: &Stored,
        record: Record,
        now: u64,
        tried: &mut Option<Tried>,
    ) -> Result<CasOutcome, SessionError> {
        let becomes = Stored::new(newest.key, Version::unique(), record, now);
        let (expected, expiry) = (newest.version, self.expiry(&becomes.record.head));
        *tried = Some(Tried::Write(Write { expected, becomes: becomes.clone() }));
        let outcome = self.cache.replace(&self.cache_key(&newest.key), expected, becomes.entry(), expiry).await;
        if !outcome.as_ref().is_err_and(is_unknown) {
            *tried = None;
        }
        Ok(match outcome? {
            Replaced::Done => CasOutcome::Done(becomes),
            Replaced::Conflict(entry) => CasOutcome::Lost(self.read(newest.key, entry)),
            Replaced::Missing => CasOutcome::Lost(Lookup::Absent),
        })
    }

    pub(super) async fn write_new(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        let (now, lifetime) = (commit.begun_at, self.config.max_lifetime);
        let empty = Record { head: Head::new(now, lifetime), values: Values::default() };
        commit.changes.replay(None, &empty)?;
        if !commit.changes.effect().stores_something() {
            return Ok(Committed::Live);
        }
        let head = commit.changes.effect().head_on(&empty.head, lifetime);
        let (id, stored) = self.create(&head, &commit.changes, &empty, now).await?;
        if stored.record.head.owner().is_some() && !Box::pin(self.list_new(&stored, deadline)).await? {
            return Ok(Committed::Gone);
        }
        family.stored_as(stored.key);
        events::created(&stored.key);
        Ok(Committed::Stored { stored, id: Some(id) })
    }

    /// Stores a session under a fresh ID. An ID whose insert failed is never used again.
    pub(super) async fn create(
        &self,
        head: &Head,
        changes: &Changes,
        base: &Record,
        now: u64,
    ) -> Result<(SessionId, Stored), SessionError> {
        for _ in 0..ID_TRIES {
            let id = self.new_id()?;
            if let Some(stored) = self.insert(id.key(), head, changes, base, now).await? {
                return Ok((id, stored));
            }
        }
        Err(SessionError::Random)
    }

    /// Stores a session under `key`. `None`: there is another entry.
    pub(super) async fn insert(
        &self,
        key: SessionKey,
        head: &Head,
        changes: &Changes,
        base: &Record,
        now: u64,
    ) -> Result<Option<Stored>, SessionError> {
        let record = self.encode(&key, head, changes, base, now)?;
        let stored = Stored::new(key, Version::unique(), record, now);
        let inserted = self.cache.insert(&self.cache_key(&key), stored.entry(), self.expiry(head)).await?;
        Ok(inserted.then_some(stored))
    }

    pub(super) fn encode(
        &self,
        key: &SessionKey,
        head: &Head,
        changes: &Changes,
        base: &Record,
        now: u64,
    ) -> Result<Record, SessionError> {
        let pairs = changes.effect().merged(&base.values);
        record::encode(key, &head.written_at(now), Some(base), pairs, self.config.max_bytes)
    }

    pub(super) async fn touch(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        let Some(stored) = self.newest(commit, family, deadline).await? else { return Ok(Committed::Gone) };
        let live = self.cache.touch(&self.cache_key(&stored.key)).await?;
        Ok(if live { Committed::Live } else { Committed::Gone })
    }

    pub(super) async fn confirm(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        let found = self.newest(commit, family, deadline).await?;
        Ok(if found.is_some() { Committed::Live } else { Committed::Gone })
    }
}

/// Whether the error leaves open whether a write took effect.
pub(super) fn is_unknown(error: &CacheError) -> bool {
    matches!(error.kind(), CacheErrorKind::Timeout | CacheErrorKind::Other)
}

/// The others are of another process; each lost round is a round that one of them won.
pub(super) async fn back_off(round: u32, deadline: Deadline) {
    if round < 3 {
        tokio::task::yield_now().await;
        return;
    }
    let most = Duration::from_millis(1) * (1 << round.min(4));
    let share = u32::try_from(u64::from(Version::unique()) % 1000).unwrap_or_default();
    tokio::time::sleep((most * share / 1000).min(deadline.left())).await;
}
