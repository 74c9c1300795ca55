//! Renewal: the successor first, then the old entry becomes a tombstone.
use std::time::Duration;

use super::{
    Commit, Committed, Engine, Family, Lookup, Stored,
    commit::{Renewal, Tried},
    owners::Listing,
    write::{CasOutcome, back_off, is_unknown},
};
use crate::{
    cache::{Cache, Deleted, Entry, Expiry, Replaced, Version},
    clock::{later, time_of},
    deadline::{Deadline, timed_out},
    error::SessionError,
    events,
    id::SessionId,
    record::{self, Changes, Head, Tombstone},
};

/// Rounds that a renewal loses before it asks the writers of other processes to wait.
const PATIENCE: u32 = 2;

/// How long a writer waits for a renewal that asked for it. Each writer counts for itself, so that no clocks are compared; a
/// renewal that took longer has failed.
const WAIT: Duration = Duration::from_millis(250);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl<C: Cache> Engine<C> {
    /// Moves the session, with the changes of `commit`, to a fresh ID.
    ///
    /// A failure on the way leaves the old session as it was. A tombstone of unknown outcome stands in `commit.tried`, and
    /// the next run looks whether it is there.
    pub(super) async fn renew(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        let mut listing = Listing::default();
        let (renewal, mut turn) = match commit.tried.take() {
            Some(Tried::Renewal(renewal)) => match self.resume(*renewal, commit, deadline).await? {
                Ok(renewal) => (renewal, None),
                Err(committed) => return Ok(committed),
            },
            _ => {
                let Some(mut newest) = self.newest(commit, family, deadline).await? else { return Ok(Committed::Gone) };
                let is_busy = self.queues.is_busy(|| self.cache_key(&newest.key));
                let turn = if is_busy { self.take_turn(&mut newest, deadline).await } else { None };
                commit.changes.replay(newest.identity(), &newest.record)?;
                let head = self.moved(&newest, &commit.changes);
                let (id, successor) = self.create(&head, &commit.changes, &newest.record, self.now()).await?;
                if let Err(error) = self.list_successor(&successor, &newest, &mut listing).await {
                    self.discard(&successor).await;
                    return Err(error);
                }
                family.moves_to(successor.key);
                (Renewal { id, successor, old: newest }, turn)
            }
        };
        let Renewal { id, mut successor, mut old } = renewal;
        for round in 0_u32.. {
            let found = match self.write_tombstone(&old, &successor, &id, &mut commit.tried).await {
                Ok(Replaced::Done) => return Ok(self.renewed(old, successor, id, &listing, deadline).await),
                Ok(Replaced::Conflict(entry)) => self.read(old.key, entry),
                Ok(Replaced::Missing) => Lookup::Absent,
                Err(error) => {
                    if commit.tried.is_none() {
                        self.discard(&successor).await;
                    }
                    return Err(error);
                }
            };
            let found = if round < PATIENCE { Ok(found) } else { self.announce(found, deadline).await };
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    self.discard(&successor).await;
                    return Err(error);
                }
            };
            match found {
                Lookup::Live(newer) => old = newer,
                Lookup::Tombstone { successor: to, .. } if to == successor.key => {
                    return Ok(self.renewed(old, successor, id, &listing, deadline).await);
                }
                // It ended, or another request renewed it: at most one live session is left.
                _ => {
                    self.discard(&successor).await;
                    return Ok(Committed::Gone);
                }
            }
            if turn.is_none() {
                turn = self.take_turn(&mut old, deadline).await;
            }
            successor = match self.carry_over(&old, &successor, &mut commit.changes, &mut listing).await {
                Ok(Some(carried)) => carried,
                Ok(None) => {
                    // The successor was revoked, and with it this session.
                    self.end_by_id(old.key, Some(old), deadline).await?;
                    return Ok(Committed::Gone);
                }
                Err(error) => {
                    self.discard(&successor).await;
                    return Err(error);
                }
            };
            if deadline.left().is_zero() {
                break;
            }
            back_off(round, deadline).await;
        }
        self.discard(&successor).await;
        Err(SessionError::Conflict)
    }

    /// Finds out what came of a tombstone of unknown outcome. `Err`: nothing is left to do.
    async fn resume(
        &self,
        renewal: Renewal,
        commit: &mut Commit,
        deadline: Deadline,
    ) -> Result<Result<Renewal, Committed>, SessionError> {
        let found = match self.look_up(renewal.old.key, None).await {
            Ok(found) => found,
            Err(error) => {
                commit.tried = Some(Tried::Renewal(Box::new(renewal)));
                return Err(error);
            }
        };
        match found {
            Lookup::Tombstone { successor, .. } if successor == renewal.successor.key => {
                let Renewal { id, successor, old } = renewal;
                Ok(Err(self.renewed(old, successor, id, &Listing::default(), deadline).await))
            }
            Lookup::Live(newest) => {
                // The tombstone may still arrive, and must then name a session with all that the old one has by now.
                let mut listing = Listing::default();
                let carried = self.carry_over(&newest, &renewal.successor, &mut commit.changes, &mut listing).await;
                match carried {
                    Ok(Some(successor)) => Ok(Ok(Renewal { successor, old: newest, ..renewal })),
                    Ok(None) => {
                        self.end_by_id(newest.key, Some(newest), deadline).await?;
                        Ok(Err(Committed::Gone))
                    }
                    Err(error) => {
                        commit.tried = Some(Tried::Renewal(Box::new(renewal)));
                        Err(error)
                    }
                }
            }
            _ => {
                self.discard(&renewal.successor).await;
                Ok(Err(Committed::Gone))
            }
        }
    }

    async fn renewed(
        &self,
        old: Stored,
        stored: Stored,
        id: SessionId,
        listing: &Listing,
        deadline: Deadline,
    ) -> Committed {
        events::renewed(&old.key, &stored.key);
        self.endings.notify(&self.cache_key(&old.key));
        if stored.record.head.stamp() != old.record.head.stamp() && !self.settle(&stored, listing, deadline).await {
            return Committed::Gone;
        }
        Committed::Stored { stored, id: Some(id) }
    }

    /// Turns the old entry into the tombstone. While the outcome is open, the renewal stands in `tried`.
    async fn write_tombstone(
        &self,
        old: &Stored,
        successor: &Stored,
        id: &SessionId,
        tried: &mut Option<Tried>,
    ) -> Result<Replaced, SessionError> {
        let now = self.now();
        let life = tombstone_life(&successor.record.head, now);
        let expiry = Expiry::new(life, time_of(later(now, life)));
        let tombstone = record::encode_tombstone(&old.key, &Tombstone { successor: successor.key, at: now });
        let renewal = Renewal { id: id.clone(), successor: successor.clone(), old: old.clone() };
        *tried = Some(Tried::Renewal(Box::new(renewal)));
        let entry = Entry::new(tombstone, Version::unique());
        let outcome = self.cache.replace(&self.cache_key(&old.key), old.version, entry, expiry).await;
        if !outcome.as_ref().is_err_and(is_unknown) {
            *tried = None;
        }
        Ok(outcome?)
    }

    /// Takes what other requests wrote to the old session over into the successor. `None`: it is not there any more.
    async fn carry_over(
        &self,
        newest: &Stored,
        successor: &Stored,
        changes: &mut Changes,
        listing: &mut Listing,
    ) -> Result<Option<Stored>, SessionError> {
        changes.replay(newest.identity(), &newest.record)?;
        let head = self.moved(newest, changes);
        self.list_head(&successor.key, &successor.record.head, &head, listing).await?;
        let now = self.now();
        let record = self.encode(&successor.key, &head, changes, &newest.record, now)?;
        Ok(match self.attempt(successor, record, now, &mut None).await? {
            CasOutcome::Done(stored) => Some(stored),
            // An earlier try of unknown outcome may have written the successor, which only this renewal does.
            CasOutcome::Lost(Lookup::Live(found)) => {
                let record = self.encode(&successor.key, &head, changes, &newest.record, now)?;
                match self.attempt(&found, record, now, &mut None).await? {
                    CasOutcome::Done(stored) => Some(stored),
                    CasOutcome::Lost(_) => None,
                }
            }
            CasOutcome::Lost(_) => None,
        })
    }

    /// Marks the session, so that writers wait: a renewal takes two operations between which no other commit may write. The
    /// next write, or the tombstone, takes the mark away.
    async fn announce(&self, mut found: Lookup, deadline: Deadline) -> Result<Lookup, SessionError> {
        while let Lookup::Live(newest) = found {
            let head = newest.record.head.clone().renewing(true);
            let now = self.now();
            let record = self.encode(&newest.key, &head, &Changes::default(), &newest.record, now)?;
            found = match self.attempt(&newest, record, now, &mut None).await? {
                CasOutcome::Done(marked) => return Ok(Lookup::Live(marked)),
                CasOutcome::Lost(newer) => newer,
            };
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
        Ok(found)
    }

    /// Waits until the session that a renewal has marked is another one, and returns that.
    pub(super) async fn wait_for_renewal(&self, marked: &Stored, deadline: Deadline) -> Result<Lookup, SessionError> {
        let end = Deadline::after(WAIT.min(deadline.left() / 2));
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            match self.look_up(marked.key, None).await? {
                Lookup::Live(stored) if stored.version == marked.version => {
                    if end.left().is_zero() {
                        return Ok(Lookup::Live(stored));
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// Removes an entry whose ID was told to no browser. If that fails, the entry expires.
    pub(super) async fn discard(&self, stored: &Stored) {
        let outcome = self.cache.delete(&self.cache_key(&stored.key), stored.version).await;
        match outcome {
            Ok(Deleted::Done | Deleted::Missing | Deleted::Conflict(_)) => {}
            Err(error) => events::cleanup_failed(&error.into()),
        }
    }

    /// The head that a successor gets.
    fn moved(&self, old: &Stored, changes: &Changes) -> Head {
        let head = changes.effect().head_on(&old.record.head, self.config.max_lifetime);
        head.moved(old.key, self.now())
    }
}

/// A browser asks for its bound session by the first key, and may do so without a cookie as long as the session lives.
#[cfg(feature = "device-bound")]
fn tombstone_life(head: &Head, now: u64) -> Duration {
    let rest = Duration::from_millis(head.end.saturating_sub(now));
    if head.is_bound() { Tombstone::LIFE.max(rest) } else { Tombstone::LIFE }
}

#[cfg(not(feature = "device-bound"))]
const fn tombstone_life(_: &Head, _: u64) -> Duration {
    Tombstone::LIFE
}
