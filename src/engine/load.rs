//! Loading: which session the cookies of a request lead to.
use std::time::Duration;

use super::{Commit, Committed, Engine, Family, Lookup, Stored};
use crate::{
    cache::{Cache, Entry},
    deadline::Deadline,
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{self, Decoded},
};

/// What the IDs of a request led to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) session: Option<(SessionId, Stored)>,
    /// A key that leads to no session but may be destroyed: of a tombstone, with its time, or of an entry that this process
    /// cannot read.
    pub(crate) former: Option<(SessionKey, u64)>,
}

impl<C: Cache> Engine<C> {
    /// The one live session among `ids`. Two of them are none: the second cookie was planted (RFC 6265bis, section 8.6).
    pub(super) async fn load(&self, ids: &[SessionId], refresh: Option<Duration>) -> Result<Found, SessionError> {
        let mut found = Found::default();
        // Which of several to refresh is known only after the last of them.
        let at_once = if ids.len() > 1 { None } else { refresh };
        for id in ids {
            match self.look_up(id.key(), at_once).await? {
                Lookup::Live(_) if found.session.is_some() => {
                    events::several_sessions();
                    return Ok(Found::default());
                }
                Lookup::Live(stored) => found.session = Some((id.clone(), stored)),
                Lookup::Tombstone { at, .. } => found.former = found.former.or(Some((id.key(), at))),
                Lookup::Expired { .. } | Lookup::Unreadable { .. } => {
                    found.former = found.former.or(Some((id.key(), 0)));
                }
                Lookup::Absent => {}
            }
        }
        if let (Some(after), Some((_, stored)), true) = (refresh, &found.session, ids.len() > 1) {
            self.cache.get_and_touch(&self.cache_key(&stored.key), after).await?;
        }
        if found.session.is_some() {
            found.former = None;
        }
        Ok(found)
    }

    /// What an entry under `key` is.
    pub(super) fn read(&self, key: SessionKey, entry: Entry) -> Lookup {
        match record::decode(&entry.value, &key, self.config.max_bytes) {
            Ok(Decoded::Live(record)) => {
                let at = self.now();
                if record.head.end <= at {
                    return Lookup::Expired { version: entry.version };
                }
                Lookup::Live(Stored::new(key, entry.version, record, at))
            }
            Ok(Decoded::Tombstone(tombstone)) => {
                Lookup::Tombstone { successor: tombstone.successor, at: tombstone.at, version: entry.version }
            }
            Err(why) => {
                events::unreadable(&key, why.reason());
                Lookup::Unreadable { version: entry.version }
            }
        }
    }

    /// Looks `key` up, restarting its idle time if `refresh` has passed since the last start.
    pub(super) async fn look_up(&self, key: SessionKey, refresh: Option<Duration>) -> Result<Lookup, SessionError> {
        let cache_key = self.cache_key(&key);
        let entry = match refresh {
            None => self.cache.get(&cache_key).await?,
            Some(after) => self.cache.get_and_touch(&cache_key, after).await?,
        };
        Ok(entry.map_or(Lookup::Absent, |entry| self.read(key, entry)))
    }

    /// The live session under `key`, by way of tombstones of `family` alone.
    pub(super) async fn reload(&self, key: SessionKey, family: &Family) -> Result<Option<Stored>, SessionError> {
        let found = self.look_up(key, None).await?;
        self.follow(found, family).await
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
