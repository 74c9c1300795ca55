//! The sessions of a user: who they belong to, and ending them.
use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::{Future, poll_fn},
    num::NonZeroUsize,
    task::Poll,
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{Look, SessionStore, Stored, timed_out};
use crate::{
    cache::Cache,
    clock::time_of,
    data::json,
    deadline::Deadline,
    error::{CacheErrorKind, SessionError},
    events,
    finish::RunToEnd,
    id::SessionKey,
    key::IntoKey,
    record::{Head, Settings},
};

/// Makes an owner's digest different from every other use of SHA-256 on the same bytes.
const DOMAIN: &[u8] = b"cloakroom owner 1\0";

/// Members of a list that are looked up, or ended, at the same time.
const AT_ONCE: usize = 32;

/// Members that are taken off a list together.
const HEALED: usize = 512;

/// Sessions that were created this close to each other, in milliseconds, may be listing themselves at the same time.
const MOMENT: u64 = 10_000;

/// What [`SessionStore::max_sessions_per_owner`] does when a user is given one session more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The user's oldest sessions end, by [`SessionInfo::created`]. The default.
    #[default]
    EndOldest,
    /// The new session is refused with [`SessionError::TooManySessions`]. Two that come at the same moment may both be
    /// refused; two sessions that exist already and get their owner without a renewal may both be let in.
    Refuse,
}

/// How a store deals with owners.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owners {
    limit: Option<NonZeroUsize>,
    when_full: WhenFull,
    readable: bool,
}

/// One session of a user, for a page of devices: see [`SessionStore::sessions_of`].
#[derive(Clone)]
pub struct SessionInfo {
    stored: Stored,
}

impl SessionInfo {
    /// What the session is known by. It is no ticket: a page can print it and post it back to
    /// [`SessionStore::revoke`].
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.stored.key
    }

    /// When the session was created; renewal keeps this.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        time_of(self.stored.head.created)
    }

    /// The end of the session's lifetime; it ends sooner if it is idle for too long.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        time_of(self.stored.head.end)
    }

    /// A value of its data: whatever the application put there, the device or the address, say. `None` if there is none
    /// or it is of another type.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: impl IntoKey<T>) -> Option<T> {
        json::decode(&self.stored.values.get(name.name())?).ok()
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo")
            .field("key", &self.stored.key)
            .field("created", &self.created())
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}

impl<C: Cache> SessionStore<C> {
    /// A user has at most this many sessions. Default: no limit.
    ///
    /// Checked when a session is given its owner, and only then: it takes one operation for the list and, where that is
    /// as long as the limit, one for each session on it. Zero counts as one.
    #[must_use]
    pub fn max_sessions_per_owner(mut self, sessions: usize) -> Self {
        self.config.owners.limit = NonZeroUsize::new(sessions.max(1));
        self
    }

    /// What happens to one session more than [`max_sessions_per_owner`](Self::max_sessions_per_owner). Default:
    /// [`WhenFull::EndOldest`].
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.config.owners.when_full = policy;
        self
    }

    /// Keeps the names of owners readable in the names of the cache's lists. Default: `false`, a list is named by the
    /// SHA-256 of its owner.
    ///
    /// The record of a session has its owner in either case.
    #[must_use]
    pub fn readable_owners(mut self, readable: bool) -> Self {
        self.config.owners.readable = readable;
        self
    }

    /// The live sessions of a user, the oldest first.
    ///
    /// Takes one operation for the list, one for each session on it, and one more for each of them that was renewed more
    /// than an hour ago, of which a few are under way at a time. What is gone is taken off the list, with one operation
    /// more.
    ///
    /// # Errors
    /// When the cache fails.
    pub async fn sessions_of(&self, owner: &str) -> Result<Vec<SessionInfo>, SessionError> {
        let sessions = self.bounded(self.live_of(owner)).await?;
        Ok(sessions.into_iter().map(|stored| SessionInfo { stored }).collect())
    }

    /// Ends a session by its key, whatever is in flight; follows a renewal. `false` if it had ended already.
    ///
    /// # Errors
    /// When the cache fails; the session may then still live.
    pub async fn revoke(&self, key: &SessionKey) -> Result<bool, SessionError> {
        let deadline = Deadline::after(self.config.deadline);
        self.bounded(async {
            let ended = self.end(*key, None, deadline).await?;
            self.unlist_ended(&ended, None).await;
            Ok(ended.session.is_some())
        })
        .await
    }

    /// Ends all sessions of a user: "log out everywhere". Returns how many.
    ///
    /// Requests in flight cannot bring one back, and a renewal under way ends with its session. A session that is being
    /// created for the user at the same moment is either ended or listed by [`sessions_of`](Self::sessions_of)
    /// afterwards.
    ///
    /// # Errors
    /// When the cache fails; some of the sessions may then still live: repeat it.
    pub async fn revoke_all(&self, owner: &str) -> Result<usize, SessionError> {
        self.run_end_all(owner.to_owned(), None).await
    }

    /// Ends all sessions of a user but one: "log out all other devices". Returns how many.
    ///
    /// `keep` may be a key that was renewed meanwhile, or is being renewed: its successor is kept. If nothing lives
    /// there any more all sessions end.
    ///
    /// # Errors
    /// As [`revoke_all`](Self::revoke_all).
    pub async fn revoke_others(&self, owner: &str, keep: &SessionKey) -> Result<usize, SessionError> {
        self.run_end_all(owner.to_owned(), Some(*keep)).await
    }

    /// What has begun to end sessions goes on to the last, whether its caller waits for it or not.
    async fn run_end_all(&self, owner: String, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let (store, deadline) = (self.clone(), Deadline::after(self.config.deadline));
        RunToEnd::new(async move { store.bounded(store.end_all(&owner, keep, deadline)).await }).await
    }

    /// For a handler: a session that has ended meanwhile ends no others.
    pub(super) async fn revoke_but(&self, owner: &str, keep: Option<SessionKey>) -> Result<usize, SessionError> {
        let deadline = Deadline::after(self.config.deadline);
        if let Some(key) = keep
            && self.live_end(key, deadline).await?.is_none()
        {
            return Err(SessionError::Gone);
        }
        self.end_all(owner, keep, deadline).await
    }

    fn list_key(&self, owner: &str) -> String {
        let name = if self.config.owners.readable {
            owner.to_owned()
        } else {
            let mut digest = Sha256::new_with_prefix(DOMAIN);
            digest.update(owner);
            URL_SAFE_NO_PAD.encode(digest.finalize())
        };
        [&*self.config.prefix, "owner:", &name].concat()
    }

    /// What stands under the members of a list; takes off the list what is gone, part by part, so that a list too long
    /// for one deadline gets shorter.
    async fn survey(&self, list: &str, members: &[String]) -> Result<Vec<(SessionKey, Look)>, SessionError> {
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for part in members.chunks(AT_ONCE) {
            let looks = together(part.iter().map(|member| async move {
                match member.parse::<SessionKey>() {
                    Ok(key) => self.look(key, None).await.map(|look| Some((key, look))),
                    Err(_) => Ok(None),
                }
            }));
            for (member, look) in part.iter().zip(looks.await) {
                match look? {
                    // Nothing comes to life again under a key, so that it can be taken off for good.
                    None | Some((_, Look::Absent)) => gone.push(member.clone()),
                    Some(known) => found.push(known),
                }
            }
            if gone.len() >= HEALED {
                self.cache.list_remove(list, &std::mem::take(&mut gone)).await?;
            }
        }
        if !gone.is_empty() {
            self.cache.list_remove(list, &gone).await?;
        }
        Ok(found)
    }

    /// The sessions on a user's list that live and are the user's, the oldest first.
    ///
    /// Those of other owners stay on it, unseen: they may be about to become this owner's.
    async fn live_of(&self, owner: &str) -> Result<Vec<Stored>, SessionError> {
        let list = self.list_key(owner);
        let members = self.cache.list_members(&list).await?;
        let found = self.survey(&list, &members).await?;
        let (mut live, mut buried) = (Vec::new(), HashMap::new());
        for (key, look) in found {
            match look {
                Look::Live(stored) if stored.head.owner.as_deref() == Some(owner) => live.push(stored),
                Look::Tombstone { successor, .. } => {
                    buried.insert(key, successor);
                }
                _ => {}
            }
        }
        // While a session is being renewed it stands there twice.
        let keys: HashSet<_> = live.iter().map(|stored| stored.key).collect();
        live.retain(|stored| stored.head.prev().is_none_or(|prev| !keys.contains(&prev)));
        let mut live = self.without_strays(&list, live, buried).await?;
        live.sort_by_key(|stored| (stored.head.created, stored.key));
        Ok(live)
    }

    /// Ends what renewals of unknown outcome left behind, and returns the others: the tombstone that a session came from
    /// leads to it, or to one that was made later. Nobody was ever told the ID of a stray.
    async fn without_strays(
        &self,
        list: &str,
        live: Vec<Stored>,
        mut buried: HashMap<SessionKey, SessionKey>,
    ) -> Result<Vec<Stored>, SessionError> {
        let unknown: Vec<_> =
            live.iter().filter_map(|stored| stored.head.prev()).filter(|prev| !buried.contains_key(prev)).collect();
        for part in unknown.chunks(AT_ONCE) {
            let looks = together(part.iter().map(|prev| self.look(*prev, None))).await;
            for (prev, look) in part.iter().zip(looks) {
                if let Look::Tombstone { successor, .. } = look? {
                    buried.insert(*prev, successor);
                }
            }
        }
        let leads_elsewhere = |stored: &Stored| {
            stored.head.prev().and_then(|prev| buried.get(&prev)).is_some_and(|successor| *successor != stored.key)
        };
        let (strays, live): (Vec<_>, Vec<_>) = live.into_iter().partition(leads_elsewhere);
        for stray in &strays {
            self.discard(stray).await;
        }
        if !strays.is_empty() {
            let keys: Vec<_> = strays.iter().map(|stray| stray.key.to_string()).collect();
            self.cache.list_remove(list, &keys).await?;
        }
        Ok(live)
    }

    async fn end_all(&self, owner: &str, keep: Option<SessionKey>, deadline: Deadline) -> Result<usize, SessionError> {
        let list = self.list_key(owner);
        let members = self.cache.list_members(&list).await?;
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
    async fn live_end(&self, key: SessionKey, deadline: Deadline) -> Result<Option<Stored>, SessionError> {
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

    async fn list(&self, owner: &str, key: &SessionKey, end: u64) -> Result<(), SessionError> {
        let (list, end) = (self.list_key(owner), time_of(end));
        match self.cache.list_add(&list, key.as_str(), end).await {
            Err(error) if error.kind() == CacheErrorKind::Full => {
                // What is gone makes room.
                let members = self.cache.list_members(&list).await?;
                self.survey(&list, &members).await?;
                Ok(self.cache.list_add(&list, key.as_str(), end).await?)
            }
            other => Ok(other?),
        }
    }

    /// Lists a session that was just inserted.
    pub(super) async fn list_new(&self, stored: &Stored, deadline: Deadline) -> Result<(), SessionError> {
        let Some(owner) = &stored.head.owner else { return Ok(()) };
        // In a box, as the others here: most sessions have no owner, and their commits carry a pointer in place of all this.
        let listed = async {
            self.list(owner, &stored.key, stored.head.end).await?;
            self.refuse_listed(owner, stored).await?;
            self.end_oldest(owner, stored, true, deadline).await
        };
        Box::pin(listed).await
    }

    /// Lists a session whose owner or end is about to be written over `newest`; `again` if that was tried before.
    ///
    /// No end is moved to an earlier time: the write may fail.
    pub(super) async fn list_before(
        &self,
        newest: &Stored,
        settings: &Settings,
        again: bool,
    ) -> Result<(), SessionError> {
        if settings.owner.is_none() && settings.lifetime.is_none() {
            return Ok(());
        }
        Box::pin(self.list_changed(newest, settings, again)).await
    }

    async fn list_changed(&self, newest: &Stored, settings: &Settings, again: bool) -> Result<(), SessionError> {
        let mut head = newest.head.clone();
        settings.apply(&mut head);
        let Some(owner) = &head.owner else { return Ok(()) };
        let is_new = newest.head.owner.as_ref() != Some(owner);
        if is_new && !again && self.is_refused(owner, newest).await? {
            return Err(SessionError::TooManySessions);
        }
        if is_new || head.end > newest.head.end || again {
            self.list(owner, &newest.key, head.end.max(newest.head.end)).await?;
        }
        Ok(())
    }

    /// Lists a successor before its session moves there.
    pub(super) async fn list_successor(&self, successor: &Stored, old: &Stored) -> Result<(), SessionError> {
        let Some(owner) = &successor.head.owner else { return Ok(()) };
        self.list(owner, &successor.key, successor.head.end).await?;
        if old.head.owner.as_ref() == Some(owner) { Ok(()) } else { self.refuse_listed(owner, successor).await }
    }

    /// Lists a listed successor again if what is about to be written to it asks for that.
    pub(super) async fn list_carried(&self, successor: &Stored, head: &Head) -> Result<(), SessionError> {
        let Some(owner) = &head.owner else { return Ok(()) };
        let is_listed = successor.head.owner.as_ref() == Some(owner) && head.end <= successor.head.end;
        if is_listed { Ok(()) } else { self.list(owner, &successor.key, head.end).await }
    }

    /// What is left to do once the session is written. It cannot fail the commit any more.
    ///
    /// A former owner's list keeps the session, unseen: taking it off could hide it from a request that gives it back.
    pub(super) async fn list_after(&self, stored: &Stored, before: &Head, settings: &Settings, deadline: Deadline) {
        let Some(owner) = &stored.head.owner else { return };
        if settings.owner.is_none() || before.owner.as_ref() == Some(owner) {
            return;
        }
        // Nor may it use up the time that the commit needs to say that it is done.
        let half = Deadline::after(deadline.left() / 2);
        let result = Box::pin(half.bound(self.end_oldest(owner, stored, false, half))).await;
        if let Err(error) = result.unwrap_or_else(|_| Err(timed_out())) {
            events::failed(&error);
        }
    }

    /// Takes an ended session off its owner's list, with the tombstones that led to it and with `before`. Healing does
    /// it where this fails.
    pub(super) async fn unlist_ended(&self, ended: &super::destroy::Ended, before: Option<SessionKey>) {
        let Some(stored) = &ended.session else { return };
        let Some(owner) = &stored.head.owner else { return };
        let keys: HashSet<_> = ended.tombstones.iter().copied().chain(before).chain([stored.key]).collect();
        self.unlist(owner, keys).await;
    }

    async fn unlist(&self, owner: &str, keys: impl IntoIterator<Item = SessionKey>) {
        let members: Vec<_> = keys.into_iter().map(|key| key.to_string()).collect();
        if let Err(error) = self.cache.list_remove(&self.list_key(owner), &members).await {
            events::failed(&error.into());
        }
    }

    /// The user's live sessions beside this one, the oldest first; not looked for where the list is too short to
    /// matter.
    async fn others(&self, owner: &str, own: &Stored, limit: NonZeroUsize) -> Result<Vec<Stored>, SessionError> {
        let members = self.cache.list_members(&self.list_key(owner)).await?;
        if members.iter().filter(|member| *member != own.key.as_str()).count() < limit.get() {
            return Ok(Vec::new());
        }
        let mut others = self.live_of(owner).await?;
        others.retain(|other| {
            // The one that moves here, and what other requests were about to move it to.
            let is_same = own.head.prev().is_some_and(|prev| other.key == prev || other.head.prev() == Some(prev));
            other.key != own.key && !is_same
        });
        Ok(others)
    }

    async fn is_refused(&self, owner: &str, own: &Stored) -> Result<bool, SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::Refuse, .. } = self.config.owners else {
            return Ok(false);
        };
        Ok(self.others(owner, own, limit).await?.len() >= limit.get())
    }

    /// Listed first, looked for others then: of two at the same moment at least one sees the other.
    async fn refuse_listed(&self, owner: &str, own: &Stored) -> Result<(), SessionError> {
        if !self.is_refused(owner, own).await? {
            return Ok(());
        }
        self.discard(own).await;
        self.unlist(owner, [own.key]).await;
        Err(SessionError::TooManySessions)
    }

    async fn end_oldest(
        &self,
        owner: &str,
        own: &Stored,
        is_fresh: bool,
        deadline: Deadline,
    ) -> Result<(), SessionError> {
        let Owners { limit: Some(limit), when_full: WhenFull::EndOldest, .. } = self.config.owners else {
            return Ok(());
        };
        let others = self.others(owner, own, limit).await?;
        let too_many = (others.len() + 1).saturating_sub(limit.get());
        let age = |stored: &Stored| (stored.head.created, stored.key);
        for other in others.into_iter().take(too_many) {
            // Two new ones must not end each other: the newer one ends the older.
            let is_newer = age(&other) > age(own) && other.head.created <= own.head.created.saturating_add(MOMENT);
            if is_fresh && is_newer {
                break;
            }
            let ended = self.end(other.key, Some(other), deadline).await?;
            self.unlist_ended(&ended, None).await;
        }
        Ok(())
    }
}

/// What became of a member of a list.
enum Verdict {
    Stays,
    /// A tombstone that led nowhere.
    Gone(SessionKey),
    Ended(SessionKey, Stored),
}

/// Runs futures at the same time; outputs in their order.
async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut waits = false;
        for (future, output) in running.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(cx) {
                Poll::Ready(done) => *output = Some(done),
                Poll::Pending => waits = true,
            }
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
