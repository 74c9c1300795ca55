//! Sessions without a request: stored and looked up by their ID.
use std::time::Duration;

use super::{
    Engine, Lookup, Stored,
    owners::Listing,
    write::{CasOutcome, back_off},
};
use crate::{
    cache::{Cache, Version},
    deadline::Deadline,
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{Changes, Head, Record},
};

impl<C: Cache> Engine<C> {
    /// Stores a copy of `record` under a fresh ID.
    pub(crate) async fn save_new(&self, record: &Record) -> Result<SessionId, SessionError> {
        let now = self.now();
        let head = record.head.like(now, Version::unique().into(), self.config.max_lifetime);
        let (id, stored) = self.create(&head, &Changes::default(), record, now).await?;
        if !self.list_new(&stored, Deadline::after(self.config.deadline)).await? {
            return Err(SessionError::Gone);
        }
        events::created(&stored.key);
        Ok(id)
    }

    /// Writes `record` over the live session under `key`, or inserts it where there is none. A session that is there keeps
    /// its times.
    pub(crate) async fn save_over(
        &self,
        key: SessionKey,
        record: &Record,
        deadline: Deadline,
    ) -> Result<(), SessionError> {
        let mut listing = Listing::default();
        for round in 0_u32.. {
            match self.look_up(key, None).await? {
                Lookup::Live(newest) => {
                    let like = record.head.like(
                        newest.record.head.created,
                        Version::unique().into(),
                        self.config.max_lifetime,
                    );
                    let own = like.own().cloned().unwrap_or_default();
                    let end = if own.lifetime.is_some() { like.end } else { newest.record.head.end };
                    let head = Head::with(newest.record.head.created, end, own);
                    #[cfg(feature = "device-bound")]
                    let head = head.with_binding(newest.record.head.binding().cloned());
                    if head.owner().is_some() && head != newest.record.head {
                        self.list_before(&newest, &head, &mut listing).await?;
                    }
                    let now = self.now();
                    let over = self.encode(&key, &head, &Changes::default(), record, now)?;
                    if let CasOutcome::Done(stored) = self.attempt(&newest, over, now, &mut None).await? {
                        if stored.record.head.stamp() != newest.record.head.stamp()
                            && !self.settle(&stored, &listing, deadline).await
                        {
                            return Err(SessionError::Gone);
                        }
                        return Ok(());
                    }
                }
                Lookup::Absent => {
                    let now = self.now();
                    let head = record.head.like(now, Version::unique().into(), self.config.max_lifetime);
                    if let Some(stored) = self.insert(key, &head, &Changes::default(), record, now).await? {
                        if !self.list_new(&stored, deadline).await? {
                            return Err(SessionError::Gone);
                        }
                        events::created(&key);
                        return Ok(());
                    }
                }
                Lookup::Tombstone { .. } => return Err(SessionError::Gone),
                // A record that cannot be read is never written over.
                Lookup::Expired { .. } | Lookup::Unreadable { .. } => return Err(SessionError::Conflict),
            }
            if deadline.left() < Duration::from_millis(2) {
                break;
            }
            back_off(round, deadline).await;
        }
        Err(SessionError::Conflict)
    }

    pub(crate) async fn load_stored(&self, key: SessionKey) -> Result<Option<Stored>, SessionError> {
        Ok(match self.look_up(key, None).await? {
            Lookup::Live(stored) => Some(stored),
            _ => None,
        })
    }

    pub(crate) async fn destroy_key(&self, key: SessionKey, deadline: Deadline) -> Result<bool, SessionError> {
        Ok(self.end_by_id(key, None, deadline).await?.any())
    }

    pub(crate) async fn touch_key(&self, key: SessionKey) -> Result<bool, SessionError> {
        Ok(matches!(self.look_up(key, Some(Duration::ZERO)).await?, Lookup::Live(_)))
    }
}
