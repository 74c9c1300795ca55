//! Destroying: the session, and what came of it.
use super::{
    Look, SessionStore,
    engine::{Draft, Outcome},
    renew::TOMBSTONE,
    timed_out,
};
use crate::{
    cache::{Cache, Deleted, Version},
    deadline::Deadline,
    error::SessionError,
    events,
    id::SessionKey,
};

impl<C: Cache> SessionStore<C> {
    pub(super) async fn destroy_draft(&self, draft: &mut Draft, deadline: Deadline) -> Result<Outcome, SessionError> {
        let ended = match (&draft.stored, draft.tombstone) {
            (Some(stored), _) => {
                let ended = self.end(stored.key, Some(stored.version), deadline).await?;
                if let Some(owner) = &stored.head.owner {
                    self.unlist(owner, &stored.key).await;
                }
                ended
            }
            (None, Some(tombstone)) => self.end(tombstone, None, deadline).await?,
            (None, None) => match &mut draft.follow {
                // Detached from a request whose session is not stored yet.
                Some(fate) => {
                    let fate = deadline.bound(fate.wait_for(Option::is_some)).await.map_err(|_| timed_out())?;
                    let key = fate.ok().and_then(|key| *key);
                    match key {
                        Some(key) => self.end(key, None, deadline).await?,
                        None => return Ok(Outcome::Gone),
                    }
                }
                None => return Ok(Outcome::Destroyed),
            },
        };
        // Where even the tombstone is gone, nobody can tell whether the session lives on under another key.
        if !ended && draft.age >= TOMBSTONE {
            return Err(SessionError::Gone);
        }
        Ok(Outcome::Destroyed)
    }

    /// Ends what lives under `key`, following tombstones; `known` is the version that it had. `false`: nothing was there.
    ///
    /// The successor ends first and the tombstones go last, so that an attempt that broke off can be repeated.
    pub(super) async fn end(
        &self,
        key: SessionKey,
        known: Option<Version>,
        deadline: Deadline,
    ) -> Result<bool, SessionError> {
        let mut tombstones = Vec::new();
        let (mut key, mut known) = (key, known);
        let mut ended = false;
        loop {
            let found = match known.take() {
                None => self.look(key, None).await?,
                Some(version) => match self.cache.delete(&self.cache_key(&key), version).await? {
                    Deleted::Done => {
                        ended = true;
                        break;
                    }
                    Deleted::Missing => break,
                    Deleted::Conflict(entry) => self.read(key, entry),
                },
            };
            match found {
                Look::Live(stored) => known = Some(stored.version),
                Look::Tombstone { successor, version } => {
                    tombstones.push((key, version));
                    key = successor;
                }
                Look::Absent | Look::Unreadable => break,
            }
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
        ended |= !tombstones.is_empty();
        for (key, version) in tombstones.into_iter().rev() {
            // Nothing but another destroy follows a tombstone.
            match self.cache.delete(&self.cache_key(&key), version).await? {
                Deleted::Done | Deleted::Missing | Deleted::Conflict(_) => {}
            }
        }
        if ended {
            events::destroyed(&key);
        }
        Ok(ended)
    }
}
