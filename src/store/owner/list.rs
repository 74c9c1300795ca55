//! A user's list: its name, what stands on it, what is put on it and taken off.
use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    task::Poll,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{
    cache::Cache,
    clock::time_of,
    error::{CacheErrorKind, SessionError},
    events,
    id::SessionKey,
    store::{Look, SessionStore, destroy::Ended},
};

/// Makes an owner's digest different from every other use of SHA-256 on the same bytes.
const DOMAIN: &[u8] = b"cloakroom owner 1\0";

/// Members of a list that are looked up, or ended, at the same time.
pub(super) const AT_ONCE: usize = 32;

const PAGE: usize = 4096;

/// Members that are taken off a list together.
const HEALED: usize = 512;

impl<C: Cache> SessionStore<C> {
    pub(super) fn list_key(&self, owner: &str) -> String {
        let name = if self.config.owners.readable {
            owner.to_owned()
        } else {
            let mut digest = Sha256::new_with_prefix(DOMAIN);
            digest.update(owner);
            URL_SAFE_NO_PAD.encode(digest.finalize())
        };
        [&*self.config.prefix, "owner:", &name].concat()
    }

    pub(super) async fn members(&self, list: &str) -> Result<Vec<String>, SessionError> {
        let (mut members, mut after) = (Vec::new(), None);
        loop {
            let page = self.cache.list_page(list, after.as_ref(), PAGE).await?;
            after = page.last().cloned();
            let is_last = page.len() < PAGE;
            members.extend(page.into_iter().map(|member| member.name));
            if is_last {
                return Ok(members);
            }
        }
    }

    /// What stands under the members of a list; takes off the list what is gone, part by part, so that a list too long
    /// for one deadline gets shorter.
    pub(super) async fn survey(&self, list: &str, members: &[String]) -> Result<Vec<(SessionKey, Look)>, SessionError> {
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

    pub(super) async fn list(&self, owner: &str, key: &SessionKey, end: u64) -> Result<(), SessionError> {
        let (list, end) = (self.list_key(owner), time_of(end));
        match self.cache.list_add(&list, key.as_str(), end).await {
            Err(error) if error.kind() == CacheErrorKind::Full => {
                // What is gone makes room.
                let members = self.members(&list).await?;
                self.survey(&list, &members).await?;
                Ok(self.cache.list_add(&list, key.as_str(), end).await.map(drop)?)
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Takes an ended session off its owner's list, with the tombstones that led to it and with `before`. Healing does
    /// it where this fails.
    pub(in crate::store) async fn unlist_ended(&self, ended: &Ended, before: Option<SessionKey>) {
        let Some(stored) = &ended.session else { return };
        let Some(owner) = &stored.head.owner else { return };
        let keys: HashSet<_> = ended.tombstones.iter().copied().chain(before).chain([stored.key]).collect();
        self.unlist(owner, keys).await;
    }

    pub(super) async fn unlist(&self, owner: &str, keys: impl IntoIterator<Item = SessionKey>) {
        let members: Vec<_> = keys.into_iter().map(|key| key.to_string()).collect();
        if let Err(error) = self.cache.list_remove(&self.list_key(owner), &members).await {
            events::failed(&error.into());
        }
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
