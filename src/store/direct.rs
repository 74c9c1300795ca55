//! The operations of [`SessionStore`](super::SessionStore) on one key, without handles.
use std::{sync::Arc, time::Duration};

use super::{
    Look, SessionStore, Stored,
    commit::back_off,
    engine::{Action, Draft},
};
use crate::{
    cache::{Cache, Entry, Version},
    data::{Changes, Values},
    deadline::Deadline,
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{self, Head, Settings},
};

impl<C: Cache> SessionStore<C> {
    /// A head as of now, with what `like` decided for itself.
    fn head_like(&self, like: Option<&Head>, settings: &Settings) -> Head {
        let mut head = record::new_head(self.now(), self.config.max_lifetime);
        if let Some(like) = like {
            head = Head { created: head.created, end: head.end, prev: None, hold: false, ..like.clone() };
        }
        settings.apply(&mut head);
        head
    }

    pub(crate) async fn save_new(
        &self,
        values: Arc<Values>,
        settings: Settings,
        like: Option<Head>,
    ) -> Result<SessionId, SessionError> {
        let head = self.head_like(like.as_ref(), &settings);
        let (id, stored) = self.create(&head, &Changes::default(), &values).await?;
        if let Err(error) = self.list_new(&stored, Deadline::after(self.config.deadline)).await {
            self.discard(&stored).await;
            return Err(error);
        }
        events::created(&stored.key);
        Ok(id)
    }

    /// Writes over the live session under `key`, or inserts where nothing is.
    pub(crate) async fn save_over(
        &self,
        key: SessionKey,
        values: Arc<Values>,
        settings: Settings,
        like: Option<Head>,
        deadline: Deadline,
    ) -> Result<(), SessionError> {
        for round in 0_u32.. {
            match self.look(key, None).await? {
                Look::Live(found) => {
                    let before = found.head.clone();
                    // The session that is there keeps its time; its data goes.
                    let newest = Stored { values: Arc::clone(&values), ..found };
                    self.list_before(&newest, &settings, round > 0).await?;
                    let draft = plain_draft(&settings);
                    if let super::commit::Attempt::Done(stored) = self.attempt(&newest, &draft).await? {
                        self.list_after(&stored, &before, &settings, deadline).await;
                        return Ok(());
                    }
                }
                Look::Absent => {
                    let head = self.head_like(like.as_ref(), &settings);
                    let written = self.encode(&key, &head, &Changes::default(), &values)?;
                    let bytes = written.text().clone();
                    let version = Version::unique();
                    if self.cache.insert(&self.cache_key(&key), Entry::new(bytes, version), self.expiry(&head)).await? {
                        let seen = head.created;
                        let stored = Stored { key, version, head, values: written, seen };
                        if let Err(error) = self.list_new(&stored, deadline).await {
                            self.discard(&stored).await;
                            return Err(error);
                        }
                        events::created(&key);
                        return Ok(());
                    }
                }
                Look::Tombstone { .. } => return Err(SessionError::Gone),
                // What cannot be read is not ours to overwrite.
                Look::Unreadable => return Err(SessionError::Conflict),
            }
            if deadline.left() < Duration::from_millis(2) {
                break;
            }
            back_off(round, deadline).await;
        }
        events::conflict(&key);
        Err(SessionError::Conflict)
    }

    pub(crate) async fn load_stored(&self, key: SessionKey) -> Result<Option<Stored>, SessionError> {
        Ok(match self.look(key, None).await? {
            Look::Live(stored) => Some(stored),
            _ => None,
        })
    }

    pub(crate) async fn destroy_key(&self, key: SessionKey, deadline: Deadline) -> Result<(), SessionError> {
        self.end_by_id(key, None, deadline).await?;
        Ok(())
    }

    pub(crate) async fn touch_key(&self, key: SessionKey) -> Result<bool, SessionError> {
        Ok(matches!(self.look(key, Some(Duration::ZERO)).await?, Look::Live(_)))
    }
}

fn plain_draft(settings: &Settings) -> Draft {
    Draft {
        action: Action::Write,
        stored: None,
        tombstone: None,
        changes: Changes::default(),
        settings: settings.clone(),
        follow: None,
        sure: false,
        age: Duration::ZERO,
    }
}
