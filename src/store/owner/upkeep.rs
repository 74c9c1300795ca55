//! What a commit does to the list of its session's owner.
use crate::{
    cache::Cache,
    deadline::Deadline,
    error::SessionError,
    events,
    record::{Head, Settings},
    store::{SessionStore, Stored, timed_out},
};

impl<C: Cache> SessionStore<C> {
    /// Lists a session that was just inserted.
    pub(in crate::store) async fn list_new(&self, stored: &Stored, deadline: Deadline) -> Result<(), SessionError> {
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
    pub(in crate::store) async fn list_before(
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
    pub(in crate::store) async fn list_successor(&self, successor: &Stored, old: &Stored) -> Result<(), SessionError> {
        let Some(owner) = &successor.head.owner else { return Ok(()) };
        self.list(owner, &successor.key, successor.head.end).await?;
        if old.head.owner.as_ref() == Some(owner) { Ok(()) } else { self.refuse_listed(owner, successor).await }
    }

    /// Lists a listed successor again if what is about to be written to it asks for that.
    pub(in crate::store) async fn list_carried(&self, successor: &Stored, head: &Head) -> Result<(), SessionError> {
        let Some(owner) = &head.owner else { return Ok(()) };
        let is_listed = successor.head.owner.as_ref() == Some(owner) && head.end <= successor.head.end;
        if is_listed { Ok(()) } else { self.list(owner, &successor.key, head.end).await }
    }

    /// What is left to do once the session is written. It cannot fail the commit any more.
    ///
    /// A former owner's list keeps the session, unseen: taking it off could hide it from a request that gives it back.
    pub(in crate::store) async fn list_after(
        &self,
        stored: &Stored,
        before: &Head,
        settings: &Settings,
        deadline: Deadline,
    ) {
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
}
