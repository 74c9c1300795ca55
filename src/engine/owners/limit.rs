//! How many sessions a user may have.
//!
//! A login is written and listed first, and counted then, so that of simultaneous logins each sees the others. The order of
//! the stamps is the order of the sessions, the same in every process.
use std::{cmp::Reverse, num::NonZeroUsize, slice::from_ref};

use super::{
    SessionLimitPolicy,
    list::{AT_ONCE, Listing, together},
    standing::Standing,
};
use crate::{
    cache::Cache,
    deadline::{Deadline, timed_out},
    engine::{Engine, Stored},
    error::SessionError,
    events,
    record::Head,
};

/// Rounds in which others change the list before a count gives up.
const MAX_ROUNDS: usize = 16;

impl<C: Cache> Engine<C> {
    /// Lists a session that was just inserted. If it may not stay, it is removed as if it had never been. `false`: newer ones
    /// have ended it.
    pub(in crate::engine) async fn list_new(&self, stored: &Stored, deadline: Deadline) -> Result<bool, SessionError> {
        let Some(owner) = stored.record.head.owner() else { return Ok(true) };
        let members = match self.list_add(owner, &stored.key, stored.record.head.end).await {
            Ok(members) => members,
            Err(error) => {
                self.discard(stored).await;
                return Err(error);
            }
        };
        let listing = Listing { members, ..Listing::default() };
        if let Err(error) = self.refuse(owner, &stored.record.head, &listing).await {
            self.discard(stored).await;
            self.unlist(owner, [stored.key]).await;
            return Err(error);
        }
        Ok(self.settle(stored, &listing, deadline).await)
    }

    /// Lists a session whose owner or end is about to be written over `newest`.
    pub(in crate::engine) async fn list_before(
        &self,
        newest: &Stored,
        head: &Head,
        listing: &mut Listing,
    ) -> Result<(), SessionError> {
        self.list_head(&newest.key, &newest.record.head, head, listing).await?;
        let Some(owner) = head.owner().filter(|owner| newest.record.head.owner() != Some(*owner)) else {
            return Ok(());
        };
        if let Err(error) = self.refuse(owner, head, listing).await {
            self.unlist(owner, [newest.key]).await;
            return Err(error);
        }
        Ok(())
    }

    /// Lists a successor before its session moves there.
    pub(in crate::engine) async fn list_successor(
        &self,
        successor: &Stored,
        old: &Stored,
        listing: &mut Listing,
    ) -> Result<(), SessionError> {
        let head = &successor.record.head;
        let Some(owner) = head.owner() else { return Ok(()) };
        let members = self.list_add(owner, &successor.key, head.end).await?;
        *listing = Listing { members, ..Listing::default() };
        if old.record.head.owner() == Some(owner) {
            return Ok(());
        }
        let refused = self.refuse(owner, head, listing).await;
        if refused.is_err() {
            self.unlist(owner, [successor.key]).await;
        }
        refused
    }

    /// With [`SessionLimitPolicy::Refuse`]: whether there are as many other sessions as the limit allows. The new one is listed
    /// by now, so that of simultaneous ones at least one sees the others.
    async fn refuse(&self, owner: &str, own: &Head, listing: &Listing) -> Result<(), SessionError> {
        let Some(limit) = self.limit(SessionLimitPolicy::Refuse).filter(|limit| listing.members > limit.get()) else {
            return Ok(());
        };
        let stamp = own.stamp();
        let mut others = 0;
        for list in self.lists(owner) {
            let mut after = None;
            while let Some(part) = self.part(&list, &mut after).await? {
                let standings = self.judge_all(owner, from_ref(&list), &part).await?;
                let counted = standings.into_iter().filter_map(Standing::counted);
                let mut stamps: Vec<_> = counted.map(|other| other.record.head.stamp()).collect();
                stamps.sort_unstable();
                stamps.dedup();
                others += stamps.into_iter().filter(|other| *other != stamp).count();
                if others >= limit.get() {
                    return Err(SessionError::TooManySessions);
                }
            }
        }
        Ok(())
    }

    fn limit(&self, policy: SessionLimitPolicy) -> Option<NonZeroUsize> {
        let owners = &self.config.owners;
        owners.limit.filter(|_| owners.policy == policy)
    }

    /// With [`SessionLimitPolicy::EndOldest`]: ends the sessions beyond the limit, once the new one is sure to stay. `false`:
    /// the new one is not among the newest, and has ended.
    ///
    /// A failure never fails the login: the next one does what is left.
    pub(in crate::engine) async fn settle(&self, own: &Stored, listing: &Listing, deadline: Deadline) -> bool {
        let Some(owner) = own.record.head.owner() else { return true };
        let Some(limit) = self.limit(SessionLimitPolicy::EndOldest).filter(|limit| listing.members > limit.get())
        else {
            return true;
        };
        // Half of the time that is left: the commit needs the other half to say that it is done.
        let deadline = Deadline::after(deadline.left().min(self.config.deadline) / 2);
        match deadline.bound(self.end_oldest(owner, own, limit, deadline)).await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(()) => true,
            Err(SessionError::Gone) => false,
            Err(error) => {
                events::cleanup_failed(&error);
                true
            }
        }
    }

    /// # Errors
    /// [`Gone`](SessionError::Gone): the new session itself was ended.
    async fn end_oldest(
        &self,
        owner: &str,
        own: &Stored,
        limit: NonZeroUsize,
        deadline: Deadline,
    ) -> Result<(), SessionError> {
        'round: for _ in 0..MAX_ROUNDS {
            let mut newest: Vec<Stored> = Vec::new();
            for list in self.lists(owner) {
                let mut after = None;
                while let Some(part) = self.part(&list, &mut after).await? {
                    if deadline.left().is_zero() {
                        return Err(timed_out());
                    }
                    let standings = self.judge_all(owner, from_ref(&list), &part).await?;
                    newest.extend(standings.into_iter().filter_map(Standing::counted));
                    newest.sort_by_key(|stored| Reverse(stored.record.head.stamp()));
                    newest.dedup_by_key(|stored| stored.record.head.stamp());
                    if newest.len() <= limit.get() {
                        continue;
                    }
                    // Of any part, sessions that are not among its newest are not among the newest of all.
                    let surplus = newest.split_off(limit.get());
                    if !self.all_live(owner, &newest).await? || !self.end_all(owner, surplus, own, deadline).await? {
                        continue 'round;
                    }
                }
            }
            return Ok(());
        }
        Err(SessionError::Conflict)
    }

    /// The second look: whether these sessions still live, wherever renewals moved them to.
    async fn all_live(&self, owner: &str, sessions: &[Stored]) -> Result<bool, SessionError> {
        let judged = together(sessions.iter().map(|stored| async move {
            let found = self.judge(owner, stored.key).await?.counted();
            Ok::<_, SessionError>(found.is_some_and(|found| found.record.head.stamp() == stored.record.head.stamp()))
        }));
        for live in judged.await {
            if !live? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the sessions that were judged, the oldest first and several at a time: beyond all of them as many newer ones live
    /// as the limit allows. `false` if one of them has become another one.
    async fn end_all(
        &self,
        owner: &str,
        surplus: Vec<Stored>,
        own: &Stored,
        deadline: Deadline,
    ) -> Result<bool, SessionError> {
        for part in surplus.rchunks(AT_ONCE) {
            let ending = together(part.iter().map(|stored| async move {
                let stamp = stored.record.head.stamp();
                let is_judged = |found: Option<&Stored>| {
                    found.is_none_or(|found| {
                        found.record.head.owner() == Some(owner) && found.record.head.stamp() == stamp
                    })
                };
                self.end(stored.key, Some(stored.clone()), deadline, &is_judged).await
            }));
            let (mut gone, mut is_own, mut spared, mut failed) = (Vec::new(), false, false, None);
            for (stored, ended) in part.iter().zip(ending.await) {
                match ended {
                    Ok(ended) if ended.spared => spared = true,
                    Ok(ended) => {
                        gone.extend(ended.keys());
                        is_own |= stored.record.head.stamp() == own.record.head.stamp();
                    }
                    Err(error) => failed = Some(error),
                }
            }
            self.unlist(owner, gone).await;
            match failed {
                _ if is_own => return Err(SessionError::Gone),
                Some(error) => return Err(error),
                None if spared => return Ok(false),
                None => {}
            }
        }
        Ok(true)
    }
}
