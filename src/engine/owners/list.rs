//! A user's list: its name, reading it in parts, putting sessions on it and taking them off.
use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    slice::from_ref,
    task::Poll,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::standing::Standing;
use crate::{
    cache::{Cache, ListMember},
    clock::time_of,
    engine::{Engine, Lookup, Stored, destroy::EndOutcome},
    error::{CacheErrorKind, SessionError},
    events,
    id::SessionKey,
    record::Head,
};

/// Makes an owner's digest different from every other use of SHA-256 on the same bytes.
const DOMAIN: &[u8] = b"cloakroom owner 1\0";

/// Members of a list that are looked up, or ended, at the same time.
pub(super) const AT_ONCE: usize = 64;

/// Members of a list that are read together.
pub(super) const PART: usize = 256;

/// What a commit has put on a list so far.
#[derive(Default)]
pub(in crate::engine) struct Listing {
    /// A session moves to another key where its commit follows a renewal.
    pub(super) key: Option<SessionKey>,
    pub(super) owner: Option<Box<str>>,
    pub(super) end: u64,
    /// How many members the list had then.
    pub(super) members: usize,
}

/// Some of a user's sessions, in the order of the list.
pub(crate) type Page = Vec<(ListMember, Stored)>;

impl<C: Cache> Engine<C> {
    /// The names of an owner's lists, the one that is written to first.
    pub(super) fn lists(&self, owner: &str) -> Vec<String> {
        let owners = &self.config.owners;
        let name = |name: &str| [&*self.config.prefix, "owner:", name].concat();
        if owners.readable {
            return vec![name(owner)];
        }
        if owners.keys.is_empty() {
            let digest = Sha256::new_with_prefix(DOMAIN).chain_update(owner).finalize();
            return vec![name(&URL_SAFE_NO_PAD.encode(digest))];
        }
        let keyed = |key: &super::OwnerKey| {
            // Any length of key is one for HMAC.
            let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            Some(name(&URL_SAFE_NO_PAD.encode(mac.chain_update(DOMAIN).chain_update(owner).finalize().into_bytes())))
        };
        owners.keys.iter().filter_map(keyed).collect()
    }

    pub(super) fn list(&self, owner: &str) -> String {
        self.lists(owner).into_iter().next().unwrap_or_default()
    }

    /// Puts a session on its owner's list, or moves its end there. Returns how many members the list has.
    pub(super) async fn list_add(&self, owner: &str, key: &SessionKey, end: u64) -> Result<usize, SessionError> {
        let (list, end) = (self.list(owner), time_of(end));
        match self.cache.list_add(&list, key.as_str(), end).await {
            Err(error) if error.kind() == CacheErrorKind::Full => {
                // Members that are gone make room.
                let mut after = None;
                while let Some(part) = self.part(&list, &mut after).await? {
                    self.judge_all(owner, from_ref(&list), &part).await?;
                }
                Ok(self.cache.list_add(&list, key.as_str(), end).await?)
            }
            other => Ok(other?),
        }
    }

    /// Lists a session before it is written with `head`, if its owner or its end asks for that and it is not done yet.
    pub(in crate::engine) async fn list_head(
        &self,
        key: &SessionKey,
        before: &Head,
        head: &Head,
        listing: &mut Listing,
    ) -> Result<(), SessionError> {
        let Some(owner) = head.owner() else { return Ok(()) };
        let is_listed = before.owner() == Some(owner) && head.end <= before.end;
        let is_same = listing.key == Some(*key) && listing.owner.as_deref() == Some(owner);
        let is_done = is_same && listing.end >= head.end;
        if is_done || (is_listed && before.stamp() == head.stamp()) {
            return Ok(());
        }
        let members = self.list_add(owner, key, head.end.max(before.end)).await?;
        *listing = Listing { key: Some(*key), owner: Some(owner.into()), end: head.end, members };
        Ok(())
    }

    /// The next part of a list; `None` behind the last one.
    pub(super) async fn part(
        &self,
        list: &str,
        after: &mut Option<ListMember>,
    ) -> Result<Option<Vec<ListMember>>, SessionError> {
        let part = self.cache.list_page(list, after.as_ref(), PART).await?;
        *after = part.last().cloned();
        Ok(after.is_some().then_some(part))
    }

    /// What each member of these lists is; unlists those that are gone or were renewed away, and deletes strays.
    pub(super) async fn judge_all(
        &self,
        owner: &str,
        lists: &[String],
        members: &[ListMember],
    ) -> Result<Vec<Standing>, SessionError> {
        let mut standings = Vec::with_capacity(members.len());
        for part in members.chunks(AT_ONCE) {
            let (mut gone, mut moved) = (Vec::new(), Vec::new());
            let judged = together(part.iter().map(|member| async move {
                match member.name.parse::<SessionKey>() {
                    Ok(key) => self.judge(owner, key).await,
                    Err(_) => Ok(Standing::Gone),
                }
            }));
            for (member, standing) in part.iter().zip(judged.await) {
                let standing = standing?;
                match &standing {
                    Standing::Gone | Standing::DeadEnd => gone.push(member.name.clone()),
                    Standing::Stray(stray) => {
                        self.discard(stray).await;
                        gone.push(member.name.clone());
                    }
                    // The successor was listed before the tombstone was written.
                    Standing::Counts(stored) if stored.key.as_str() != member.name => moved.push(member.name.clone()),
                    Standing::Far => moved.push(member.name.clone()),
                    _ => {}
                }
                standings.push(standing);
            }
            if !moved.is_empty() {
                for list in lists {
                    self.cache.list_remove(list, &moved).await?;
                }
            }
            self.unlist_gone(owner, lists, &gone).await?;
        }
        Ok(standings)
    }

    /// Takes members off that were found absent. One that was saved again at the same moment is put back.
    async fn unlist_gone(&self, owner: &str, lists: &[String], gone: &[String]) -> Result<(), SessionError> {
        if gone.is_empty() {
            return Ok(());
        }
        for list in lists {
            self.cache.list_remove(list, gone).await?;
        }
        for part in gone.chunks(AT_ONCE) {
            let keys = part.iter().filter_map(|name| name.parse::<SessionKey>().ok());
            for found in together(keys.map(|key| self.look_up(key, None))).await {
                if let Lookup::Live(stored) = found?
                    && stored.record.head.owner() == Some(owner)
                {
                    let end = time_of(stored.record.head.end);
                    self.cache.list_add(&self.list(owner), stored.key.as_str(), end).await?;
                }
            }
        }
        Ok(())
    }

    /// A page of the live sessions of a user, each once, in the order of ends and names.
    pub(crate) async fn owner_page(
        &self,
        owner: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Page, SessionError> {
        let lists = self.lists(owner);
        let (mut after, mut sessions, mut seen) = (after.cloned(), Vec::new(), HashSet::new());
        while sessions.len() < limit {
            let most = (limit - sessions.len()).min(PART);
            let mut members = Vec::new();
            for list in &lists {
                members.extend(self.cache.list_page(list, after.as_ref(), most).await?);
            }
            // All lists are in one order, so that a place in it is the same one in each of them.
            members.sort_unstable();
            members.dedup();
            members.truncate(most);
            let Some(last) = members.last().cloned() else { break };
            let standings = self.judge_all(owner, &lists, &members).await?;
            yield_after_full_part(standings.len()).await;
            for (member, standing) in members.into_iter().zip(standings) {
                // A session that is being renewed stands on the list under two keys.
                if let Standing::Counts(stored) = standing
                    && seen.insert(stored.record.head.stamp())
                {
                    sessions.push((member, stored));
                }
            }
            after = Some(last);
        }
        Ok(sessions)
    }

    /// Takes an ended session off its owner's list, with the tombstones that led to it and the key that it came from. Where
    /// this fails, the next look at the list does it.
    pub(in crate::engine) async fn unlist_ended(&self, ended: &EndOutcome) {
        let Some(stored) = &ended.session else { return };
        let Some(owner) = stored.record.head.owner() else { return };
        self.unlist(owner, ended.keys()).await;
    }

    pub(super) async fn unlist(&self, owner: &str, keys: impl IntoIterator<Item = SessionKey>) {
        let members: Vec<_> = keys.into_iter().map(|key| key.to_string()).collect();
        if members.is_empty() {
            return;
        }
        for list in self.lists(owner) {
            if let Err(error) = self.cache.list_remove(&list, &members).await {
                events::cleanup_failed(&error.into());
            }
        }
    }
}

/// After a full part of a long list: a cache in memory never waits, and other tasks are to run, and the deadline to count.
///
/// Not within a commit, whose first poll on such a cache has to go through.
pub(super) async fn yield_after_full_part(part: usize) {
    if part >= PART {
        tokio::task::yield_now().await;
    }
}

/// Runs futures at the same time; outputs in their order.
pub(super) async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
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
