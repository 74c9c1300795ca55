//! Destroying: the session, and what came of it by renewal.
use std::collections::HashSet;

use super::{Base, Commit, Committed, Engine, Family, Lookup, Stored, commit::Tried};
use crate::{
    cache::{Cache, Deleted, Entry, Expiry, Replaced, Version},
    clock::{later, millis, time_of},
    deadline::{Deadline, timed_out},
    error::SessionError,
    events,
    id::SessionKey,
    record::{self, Tombstone},
};

/// The tombstones that one call follows. A longer chain is made shorter, so that the next call gets further.
const MAX_HOPS: usize = 32;

/// What an end found.
#[derive(Default)]
pub(super) struct EndOutcome {
    /// The session that this call ended.
    pub(super) session: Option<Stored>,
    /// An entry was removed that is no record that this process can read.
    pub(super) unreadable: bool,
    /// An entry was found that was not to be ended.
    pub(super) spared: bool,
    /// The tombstones on the way there.
    pub(super) tombstones: Vec<SessionKey>,
}

impl EndOutcome {
    pub(super) fn any(&self) -> bool {
        self.session.is_some() || self.unreadable
    }

    /// What a list may have of the session that ended: its key, those of the tombstones, and the one that it came from.
    pub(super) fn keys(&self) -> HashSet<SessionKey> {
        let Some(stored) = &self.session else { return HashSet::new() };
        let origin = stored.record.head.origin().map(|origin| origin.prev);
        self.tombstones.iter().copied().chain(origin).chain([stored.key]).collect()
    }
}

impl<C: Cache> Engine<C> {
    pub(super) async fn destroy(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        let ended = match &commit.base {
            Base::Stored(stored) => self.end_by_id(stored.key, Some(stored.clone()), deadline).await?,
            Base::Renewed { key, .. } => self.end_by_id(*key, None, deadline).await?,
            Base::New(_) if commit.detached => match family.first_key(deadline).await? {
                Some(key) => self.end_by_id(key, None, deadline).await?,
                None => return Ok(Committed::Gone),
            },
            Base::New(_) => return Ok(Committed::Destroyed),
        };
        // A renewal whose tombstone may have been written, or may still be.
        if let Some(Tried::Renewal(renewal)) = &commit.tried {
            let successor = renewal.successor.clone();
            self.end_by_id(successor.key, Some(successor), deadline).await?;
            commit.tried = None;
            return Ok(Committed::Destroyed);
        }
        // Where even the tombstone is gone, it cannot be found out whether the session lives on under another key.
        let is_known = ended.any() || !ended.tombstones.is_empty();
        if !is_known && self.now().saturating_sub(commit.found_at) >= millis(Tombstone::LIFE) {
            return Err(SessionError::Gone);
        }
        Ok(Committed::Destroyed)
    }

    /// Ends a session for a caller who has its ID, and takes it off its owner's list.
    pub(super) async fn end_by_id(
        &self,
        key: SessionKey,
        known: Option<Stored>,
        deadline: Deadline,
    ) -> Result<EndOutcome, SessionError> {
        let ended = self.end(key, known, deadline, &|_| true).await?;
        self.unlist_ended(&ended).await;
        Ok(ended)
    }

    /// Ends the session that lives under `key`, if it is `doomed`, following tombstones; `known` is the entry as far as the
    /// caller knows. `doomed` is asked with `None` about an entry that this process cannot read.
    ///
    /// The successor ends first and the tombstones go last, so that an attempt that broke off can be repeated.
    pub(super) async fn end(
        &self,
        mut key: SessionKey,
        known: Option<Stored>,
        deadline: Deadline,
        doomed: &(dyn Fn(Option<&Stored>) -> bool + Sync),
    ) -> Result<EndOutcome, SessionError> {
        let mut ended = EndOutcome::default();
        let mut tombstones = Vec::new();
        let mut found = match known {
            Some(stored) => Lookup::Live(stored),
            None => self.look_up(key, None).await?,
        };
        loop {
            let version = match &found {
                Lookup::Live(stored) if doomed(Some(stored)) => stored.version,
                Lookup::Unreadable { version } | Lookup::Expired { version } if doomed(None) => *version,
                Lookup::Live(_) | Lookup::Unreadable { .. } | Lookup::Expired { .. } => {
                    return Ok(EndOutcome { spared: true, ..EndOutcome::default() });
                }
                Lookup::Absent => break,
                Lookup::Tombstone { successor, version, .. } => {
                    tombstones.push((key, *version));
                    if tombstones.len() > MAX_HOPS {
                        self.shorten(&tombstones, *successor).await?;
                        return Err(SessionError::Incomplete { ended: 0 });
                    }
                    key = *successor;
                    found = self.look_up(key, None).await?;
                    continue;
                }
            };
            match self.cache.delete(&self.cache_key(&key), version).await? {
                Deleted::Done => {
                    self.endings.notify(&self.cache_key(&key));
                    events::destroyed(&key);
                    match found {
                        Lookup::Live(stored) => ended.session = Some(stored),
                        _ => ended.unreadable = true,
                    }
                    break;
                }
                Deleted::Missing => break,
                Deleted::Conflict(entry) => found = self.read(key, entry),
            }
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
        for (key, version) in tombstones.iter().rev() {
            // Only another destroy follows a tombstone, and it would find nothing more to end.
            match self.cache.delete(&self.cache_key(key), *version).await? {
                Deleted::Done | Deleted::Missing | Deleted::Conflict(_) => {}
            }
        }
        ended.tombstones = tombstones.into_iter().map(|(key, _)| key).collect();
        Ok(ended)
    }

    /// Has the first tombstone of a long chain name what the last one does.
    async fn shorten(&self, chain: &[(SessionKey, Version)], successor: SessionKey) -> Result<(), SessionError> {
        let Some((key, version)) = chain.first() else { return Ok(()) };
        let now = self.now();
        let entry = Entry::new(record::encode_tombstone(key, &Tombstone { successor, at: now }), Version::unique());
        let expiry = Expiry::new(Tombstone::LIFE, time_of(later(now, Tombstone::LIFE)));
        // A conflict means that another destroy has been here.
        match self.cache.replace(&self.cache_key(key), *version, entry, expiry).await? {
            Replaced::Done | Replaced::Conflict(_) | Replaced::Missing => Ok(()),
        }
    }
}
