//! Ending a user's sessions.
use std::collections::HashSet;

use super::list::{AT_ONCE, together};
use crate::{
    cache::Cache,
    deadline::Deadline,
    error::SessionError,
    id::SessionKey,
    store::{Look, SessionStore, Stored, timed_out},
};

impl<C: Cache> SessionStore<C> {
    pub(super) async fn end_all(
        &self,
        owner: &str,
        keep: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<usize, SessionError> {
        let list = self.list_key(owner);
        let members = self.members(&list).await?;
        let mut found = self.survey(&list, &members).await?;
        // Live ones first: what a tombstone leads to is then mostly dead.
        found.sort_by_key(|(_, look)| !matches!(look, Look::Live(_)));
        let (mut ended, mut gone) = (Vec::new(), Vec::new());
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let part = found.by_ref().take(AT_ONCE);
            let verdicts = together(part.map(|(key, look)| self.end_member(key, look, owner, keep, deadline)));
            for verdict in verdicts.await {
                match verdict? {
                    Verdict::Stays => {}
                    Verdict::Gone(key) => gone.push(key.to_string()),
                    Verdict::Ended(key, stored) => {
                        gone.push(key.to_string());
                        ended.push(stored);
                    }
                }
            }
        }
        if !gone.is_empty() {
            self.cache.list_remove(&list, &gone).await?;
        }
        // One that was being renewed counts once, by the key it had before.
        let keys: HashSet<_> = ended.iter().map(|stored| stored.key).collect();
        let mut sessions = HashSet::new();
        for stored in &ended {
            let before = stored.head.prev();
            if before.is_none_or(|before| !keys.contains(&before)) {
                sessions.insert(before.unwrap_or(stored.key));
            }
        }
        Ok(sessions.len())
    }

    async fn end_member(
        &self,
        key: SessionKey,
        look: Look,
        owner: &str,
        keep: Option<SessionKey>,
        deadline: Deadline,
    ) -> Result<Verdict, SessionError> {
        let known = match look {
            Look::Live(stored) => Some(stored),
            Look::Tombstone { .. } => None,
            Look::Absent | Look::Unreadable => return Ok(Verdict::Stays),
        };
        let end = match &known {
            Some(stored) => Some(stored.clone()),
            None => self.live_end(key, deadline).await?,
        };
        if let Some(end) = &end {
            if end.head.owner.as_deref() != Some(owner) {
                return Ok(Verdict::Stays);
            }
            // Looked up each time, and after `end` was: it may be renewed while this goes on, so that `end` is on its
            // way by now, or is what it is about to become.
            if let Some(keep) = keep
                && let (way, Some(kept)) = self.trail(keep, deadline).await?
                && (way.contains(&end.key) || end.head.prev() == Some(kept.key))
            {
                return Ok(Verdict::Stays);
            }
        }
        let ended = self.end(key, known, deadline).await?;
        Ok(match ended.session {
            Some(stored) => Verdict::Ended(key, stored),
            None if ended.tombstones.is_empty() => Verdict::Stays,
            None => Verdict::Gone(key),
        })
    }

    /// The live session that `key` leads to by way of tombstones.
    pub(super) async fn live_end(&self, key: SessionKey, deadline: Deadline) -> Result<Option<Stored>, SessionError> {
        Ok(self.trail(key, deadline).await?.1)
    }

    /// The keys from `key` on, by way of tombstones, and what lives at the end.
    async fn trail(
        &self,
        mut key: SessionKey,
        deadline: Deadline,
    ) -> Result<(Vec<SessionKey>, Option<Stored>), SessionError> {
        let mut way = Vec::with_capacity(2);
        loop {
            way.push(key);
            match self.look(key, None).await? {
                Look::Live(stored) => return Ok((way, Some(stored))),
                Look::Tombstone { successor, .. } => key = successor,
                Look::Absent | Look::Unreadable => return Ok((way, None)),
            }
            if deadline.left().is_zero() {
                return Err(timed_out());
            }
        }
    }
}

/// What became of a member of a list.
enum Verdict {
    Stays,
    /// A tombstone that led nowhere.
    Gone(SessionKey),
    Ended(SessionKey, Stored),
}
