//! The engine as the handles see it: sessions in a cache are loaded, committed, renewed and destroyed, whatever the type of the
//! cache is.
use std::{future::Future, pin::Pin, time::Duration};

use crate::{
    cache::{Cache, ListMember},
    deadline::{Deadline, at_once},
    error::SessionError,
    id::{SessionId, SessionKey},
};

#[cfg(feature = "device-bound")]
mod bind;
mod commit;
mod config;
mod destroy;
mod endings;
mod family;
mod layers;
mod load;
mod owners;
mod queue;
mod renew;
mod save;
mod write;

#[cfg(feature = "device-bound")]
pub(crate) use self::bind::{Decide, NEWEST};
pub use self::owners::SessionLimitPolicy;
pub(crate) use self::{
    commit::{Action, Base, Commit, Committed},
    config::Config,
    endings::Ending,
    family::Family,
    load::{Engine, Found, Lookup, Stored},
    owners::{Owners, Page, Revoked},
};

pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionError>> + Send + 'a>>;

pub(crate) trait SessionEngine: Send + Sync {
    fn config(&self) -> &Config;
    fn load<'a>(&'a self, ids: &'a [SessionId], refresh: Option<Duration>) -> Work<'a, Found>;
    /// As [`load`](Self::load), where the cache does not wait; `None` where it does.
    fn load_at_once(&self, ids: &[SessionId], refresh: Option<Duration>) -> Option<Result<Found, SessionError>>;
    fn reload<'a>(&'a self, key: SessionKey, family: &'a Family) -> Work<'a, Option<Stored>>;
    /// Whether the session that lived under `key` lives on under another one.
    fn was_renewed(&self, key: SessionKey) -> Work<'_, bool>;
    fn commit<'a>(&'a self, commit: &'a mut Commit, family: &'a Family, deadline: Deadline) -> Work<'a, Committed>;
    /// A first poll of the same future, where the cache does not wait. `None`: it has to wait for something else, and nothing
    /// was done. Only for a [write](Action::Write), which can be begun again wherever it waits.
    fn commit_at_once(&self, commit: &mut Commit, family: &Family) -> Option<Result<Committed, SessionError>>;
    fn ending(&self, key: &SessionKey) -> Ending;
    /// Has `decide` change the binding of the session under `key` to a device. `false`: there is none.
    #[cfg(feature = "device-bound")]
    fn bind<'a>(&'a self, key: SessionKey, deadline: Deadline, decide: &'a mut Decide<'a>) -> Work<'a, bool>;
    fn owner_page<'a>(&'a self, owner: &'a str, after: Option<&'a ListMember>, limit: usize) -> Work<'a, Page>;
    fn revoke_all<'a>(&'a self, owner: &'a str, deadline: Deadline) -> Work<'a, usize>;
    /// `keep` is the session of a handler: if it has ended itself, it ends no others.
    fn revoke_others<'a>(&'a self, owner: &'a str, keep: Option<SessionKey>, deadline: Deadline) -> Work<'a, usize>;
    /// `own` is the session of the handler.
    fn revoke_one<'a>(
        &'a self,
        owner: &'a str,
        own: Option<SessionKey>,
        key: SessionKey,
        deadline: Deadline,
    ) -> Work<'a, Revoked>;
}

impl<C: Cache> SessionEngine for Engine<C> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn load<'a>(&'a self, ids: &'a [SessionId], refresh: Option<Duration>) -> Work<'a, Found> {
        Box::pin(Self::load(self, ids, refresh))
    }

    fn load_at_once(&self, ids: &[SessionId], refresh: Option<Duration>) -> Option<Result<Found, SessionError>> {
        if C::IMMEDIATE { at_once(Self::load(self, ids, refresh)) } else { None }
    }

    fn reload<'a>(&'a self, key: SessionKey, family: &'a Family) -> Work<'a, Option<Stored>> {
        Box::pin(Self::reload(self, key, family))
    }

    fn was_renewed(&self, key: SessionKey) -> Work<'_, bool> {
        Box::pin(async move { Ok(self.live_end(key).await?.is_some()) })
    }

    fn commit<'a>(&'a self, commit: &'a mut Commit, family: &'a Family, deadline: Deadline) -> Work<'a, Committed> {
        Box::pin(Self::commit(self, commit, family, deadline))
    }

    fn commit_at_once(&self, commit: &mut Commit, family: &Family) -> Option<Result<Committed, SessionError>> {
        if !C::IMMEDIATE || commit.action != Action::Write || commit.tried.is_some() {
            return None;
        }
        // What has to wait is begun again, with a deadline.
        at_once(Self::commit(self, commit, family, Deadline::NEVER))
    }

    fn ending(&self, key: &SessionKey) -> Ending {
        self.endings.wait_for(&self.cache_key(key))
    }

    #[cfg(feature = "device-bound")]
    fn bind<'a>(&'a self, key: SessionKey, deadline: Deadline, decide: &'a mut Decide<'a>) -> Work<'a, bool> {
        Box::pin(Self::bind(self, key, deadline, decide))
    }

    fn owner_page<'a>(&'a self, owner: &'a str, after: Option<&'a ListMember>, limit: usize) -> Work<'a, Page> {
        Box::pin(Self::owner_page(self, owner, after, limit))
    }

    fn revoke_all<'a>(&'a self, owner: &'a str, deadline: Deadline) -> Work<'a, usize> {
        Box::pin(self.end_sessions(owner, None, deadline))
    }

    fn revoke_others<'a>(&'a self, owner: &'a str, keep: Option<SessionKey>, deadline: Deadline) -> Work<'a, usize> {
        Box::pin(self.revoke_all_but_own(owner, keep, deadline))
    }

    fn revoke_one<'a>(
        &'a self,
        owner: &'a str,
        own: Option<SessionKey>,
        key: SessionKey,
        deadline: Deadline,
    ) -> Work<'a, Revoked> {
        Box::pin(Self::revoke_one(self, owner, own, key, deadline))
    }
}

impl<C: Cache> Engine<C> {
    async fn commit(
        &self,
        commit: &mut Commit,
        family: &Family,
        deadline: Deadline,
    ) -> Result<Committed, SessionError> {
        // What is seldom done is in boxes, so that the future of a common write stays small.
        match commit.action {
            Action::Write if commit.is_first() => self.write_new(commit, family, deadline).await,
            Action::Write => self.write(commit, family, deadline).await,
            Action::Renew => Box::pin(self.renew(commit, family, deadline)).await,
            Action::Destroy => Box::pin(self.destroy(commit, family, deadline)).await,
            Action::Touch => Box::pin(self.touch(commit, family, deadline)).await,
            Action::Confirm => Box::pin(self.confirm(commit, family, deadline)).await,
        }
    }
}
