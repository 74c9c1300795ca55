//! What a handle knows, what it wants, and what becomes of both. Pure: no cache, no waiting, no closure of the user.
use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use super::{
    browser::{Browser, CookieDue},
    failure::CommitFailure,
    wish::{CommitReason, Ended, Wish},
};
use crate::{
    cache::Version,
    clock::Clock,
    engine::{Action, Base, Commit, Committed, Config, Found, Stored},
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{Changes, Effect, EncodedValue, HeadChanges, Record, Replay, Tag, Values, unknown},
};

/// A request that comes with the old ID this soon after a renewal was sent before the browser had the new one.
const YOUNG_TOMBSTONE: u64 = 60_000;

/// What was read longer ago than this is read again before a commit decides that there is nothing to write.
const LONG_AGO: u64 = 10_000;

/// A commit that has begun.
enum UnderWay {
    /// What it is going to write, where there are other handles that may read meanwhile.
    Running(Option<Box<Effect>>),
    /// It ended with a write of unknown outcome.
    Unknown(Box<Commit>),
}

pub(super) struct State {
    base: Base,
    /// When the base was found, by the store's clock.
    found_at: u64,
    under_way: Option<UnderWay>,
    pending: Changes,
    wish: Wish,
    touch: bool,
    /// The response's commit has begun.
    closed: bool,
    ended: Option<Ended>,
    pub(super) failure: CommitFailure,
    /// A copy of the pending changes was stored, or the caller was told why not.
    pub(super) copied: bool,
    browser: Browser,
    /// The handle commits by itself; a request's handle is committed by the layer.
    pub(super) detached: bool,
    /// A login offers to bind the session to the device.
    #[cfg(feature = "device-bound")]
    pub(super) offers: bool,
    /// The request has not proven to come from the session's device.
    #[cfg(feature = "device-bound")]
    pub(super) restricted: bool,
}

/// What a commit has to do next.
pub(super) enum Next {
    Commit(Commit),
    Done(Result<(), SessionError>),
}

impl State {
    pub(super) fn new(base: Base, found_at: u64, detached: bool) -> Self {
        Self {
            base,
            found_at,
            under_way: None,
            pending: Changes::default(),
            wish: Wish::Keep,
            touch: false,
            closed: false,
            ended: None,
            failure: CommitFailure::default(),
            copied: false,
            browser: Browser::default(),
            detached,
            #[cfg(feature = "device-bound")]
            offers: false,
            #[cfg(feature = "device-bound")]
            restricted: false,
        }
    }

    /// The state of a request's handle.
    pub(super) fn of_request(found: Found, clock: &Clock, resign: impl FnOnce(&SessionId) -> bool) -> Self {
        let has_cookie = found.session.is_some() || found.former.is_some();
        let (id, base, found_at) = match (found.session, found.former) {
            (Some((id, stored)), _) => {
                let at = stored.at;
                (Some(id), Base::Stored(stored), at)
            }
            (None, Some((key, at))) => (None, Base::Renewed { key, at }, clock.now_ms()),
            (None, None) => (None, Base::New(None), clock.now_ms()),
        };
        let resign = id.as_ref().is_some_and(resign);
        let browser = Browser { id, has_cookie, resign, ..Browser::default() };
        Self { browser, ..Self::new(base, found_at, false) }
    }

    // What a handler sees: the record, then the changes under way, then the pending ones.

    fn under_way(&self) -> Option<&Effect> {
        match &self.under_way {
            Some(UnderWay::Running(effect)) => effect.as_deref(),
            Some(UnderWay::Unknown(commit)) => Some(commit.changes.effect()),
            None => None,
        }
    }

    fn record(&self) -> Option<&Record> {
        match &self.base {
            Base::Stored(stored) => Some(&stored.record),
            Base::New(view) => view.as_deref(),
            Base::Renewed { .. } => None,
        }
    }

    pub(super) fn stored(&self) -> Option<&Stored> {
        self.base.stored()
    }

    pub(super) fn key(&self) -> Option<SessionKey> {
        self.stored().map(|stored| stored.key)
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        let changed = self.pending.effect().get(key).or_else(|| self.under_way()?.get(key));
        match changed {
            Some(json) => json.cloned(),
            None => self.record()?.values.get(key),
        }
    }

    pub(super) fn effect(&self) -> Cow<'_, Effect> {
        match self.under_way() {
            Some(effect) if self.pending.is_empty() => Cow::Borrowed(effect),
            Some(effect) => Cow::Owned(effect.followed_by(self.pending.effect())),
            None => Cow::Borrowed(self.pending.effect()),
        }
    }

    /// Runs `f` on the values in the order of their keys.
    pub(super) fn with_values<T>(&self, f: impl FnOnce(&mut dyn Iterator<Item = EncodedValue<'_>>) -> T) -> T {
        let effect = self.effect();
        match self.record() {
            Some(record) => f(&mut effect.merged(&record.values)),
            None => f(&mut effect.merged(&Values::default())),
        }
    }

    /// A setting as the handler sees it.
    pub(super) fn setting<T>(
        &self,
        changed: impl Fn(&HeadChanges) -> Option<T>,
        stored: impl Fn(&Record) -> T,
    ) -> Option<T> {
        let changed = |effect: &Effect| effect.head().and_then(&changed);
        let under_way = || self.under_way().and_then(changed);
        changed(self.pending.effect()).or_else(under_way).or_else(|| self.record().map(stored))
    }

    pub(super) fn owner(&self) -> Option<String> {
        let changed =
            |head: &HeadChanges| head.owner.as_ref().map(|owner| owner.as_ref().map(|owner| owner.name.to_string()));
        self.setting(changed, |record| record.head.owner().map(str::to_owned)).flatten()
    }

    /// The record as the handler sees it; `fresh` is the head of a session that is not stored.
    pub(super) fn view(&self, fresh: Record, lifetime: Duration) -> Record {
        let effect = self.effect();
        let base = self.record().cloned().unwrap_or(fresh);
        let head = effect.head_on(&base.head, lifetime);
        let values = if effect.is_empty() { base.values } else { Values::of_values(effect.merged(&base.values)) };
        Record { head, values }
    }

    pub(super) fn is_dirty(&self, lifetime: Duration) -> bool {
        if self.under_way.is_some() {
            return true;
        }
        match self.record() {
            Some(record) => self.pending.effect().alters(record, lifetime),
            None => self.stores_something(),
        }
    }

    /// Whether a session that is not stored has anything worth it.
    fn stores_something(&self) -> bool {
        self.pending.depends_on_record() || self.effect().stores_something()
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub(super) fn wants_renewal(&self) -> bool {
        self.wish == Wish::Renew
    }

    // Changes.

    /// The list of pending changes, for one more, which is computed on what the handler sees.
    pub(super) fn changes(&mut self) -> &mut Changes {
        self.copied = false;
        let seen = match self.under_way {
            None => self.stored().and_then(Stored::identity),
            Some(_) => unknown(),
        };
        // What a failed commit put back was computed on a record that the handler does not see.
        if self.pending.is_empty() {
            self.pending.on = seen;
        } else if !self.pending.is_on(seen) {
            self.pending.on = unknown();
        }
        &mut self.pending
    }

    pub(super) fn wish(&mut self, wish: Wish) {
        self.wish = self.wish.max(wish);
    }

    pub(super) const fn touch(&mut self) {
        self.touch = true;
    }

    /// Closures to be dropped once the state is unlocked.
    pub(super) fn take_discarded(&mut self) -> Option<Box<Replay>> {
        self.pending.take_discarded()
    }

    // Commits.

    /// Closes the handle for the response's commit. `false`: there is surely nothing to commit, nor a commit under way.
    /// `answer`: the error that the response is made of, which was logged.
    pub(super) fn close<'a>(
        &mut self,
        reason: CommitReason,
        answer: impl FnOnce() -> Option<&'a SessionError>,
    ) -> bool {
        self.closed = true;
        let failed = reason == CommitReason::FailedResponse;
        let is_dropped = failed && (!self.pending.is_empty() || self.wish == Wish::Renew);
        if is_dropped || !self.failure.is_empty() {
            let is_final = is_dropped || self.failure.is_final(failed);
            self.failure.log_end(self.known_key().as_ref(), answer(), is_final, events::dropped_by_status);
        }
        if is_dropped {
            self.drop_pending();
        }
        let has_wishes = self.wish != Wish::Keep || self.touch || self.browser.resign;
        self.under_way.is_some() || has_wishes || !self.pending.is_empty()
    }

    /// The handle takes no more changes, and its closures go: they may hold the handle.
    pub(super) fn abandon(&mut self) {
        if !self.closed {
            let has_wish = self.wish != Wish::Keep && self.ended.is_none() && !matches!(self.base, Base::New(_));
            let is_dropped = has_wish || !self.pending.is_empty() || !self.failure.is_none();
            self.failure.log_end(self.known_key().as_ref(), None, is_dropped, events::dropped_by_abort);
        }
        self.closed = true;
        self.drop_pending();
        if let Some(UnderWay::Unknown(commit)) = self.under_way.take_if(|begun| matches!(begun, UnderWay::Unknown(_))) {
            self.pending.discard(commit.changes);
        }
    }

    /// Whether the handle goes with changes, or a logout, that no commit was called for.
    pub(super) fn is_forgotten(&self) -> bool {
        let has_changes = !self.pending.is_empty() && !self.copied;
        let is_logout = self.wish == Wish::Destroy && self.ended.is_none();
        !self.closed && self.failure.is_none() && (has_changes || is_logout)
    }

    /// The changes of a commit were dropped, as the session had ended.
    fn note_loss(&mut self) {
        self.failure.note_gone();
        if self.closed {
            self.failure.log(self.known_key().as_ref());
        }
    }

    /// The session was found to have ended, so that the browser is owed no cookie of it.
    fn note_gone(&mut self) {
        if self.ended.is_none() {
            self.ended = Some(Ended::Gone);
            self.browser.due = CookieDue::Nothing;
        }
    }

    /// The session's key, or that of the tombstone that the request came to.
    pub(super) fn known_key(&self) -> Option<SessionKey> {
        match &self.base {
            Base::Renewed { key, .. } => Some(*key),
            _ => self.key(),
        }
    }

    pub(super) const fn is_committing(&self) -> bool {
        matches!(self.under_way, Some(UnderWay::Running(_)))
    }

    fn drop_pending(&mut self) {
        if !self.pending.is_empty() {
            let dropped = std::mem::take(&mut self.pending);
            self.pending.discard(dropped);
        }
        if self.wish == Wish::Renew {
            self.wish = Wish::Keep;
        }
        self.touch = false;
    }

    /// What there is to commit: the first that applies.
    fn action(&self, look_up_first: bool, config: &Config) -> Option<Action> {
        let is_known = self.stored().is_some() || self.detached;
        if self.wish == Wish::Destroy {
            let is_known = is_known || matches!(self.base, Base::Renewed { .. });
            return (is_known && self.ended != Some(Ended::Destroyed)).then_some(Action::Destroy);
        }
        if self.wish == Wish::Renew && self.stored().is_some() {
            return Some(Action::Renew);
        }
        let has_changes = !self.pending.is_empty()
            && match &self.base {
                Base::Stored(stored) => {
                    look_up_first
                        || self.pending.on != stored.identity()
                        || self.pending.effect().alters(&stored.record, config.max_lifetime)
                }
                _ => self.detached || self.stores_something(),
            };
        if has_changes {
            return Some(Action::Write);
        }
        if self.touch && is_known {
            return Some(Action::Touch);
        }
        (self.browser.resign && self.closed && self.stored().is_some()).then_some(Action::Confirm)
    }

    /// Takes the next thing to do out of the state.
    /// `shared`: there are other handles.
    pub(super) fn begin(&mut self, reason: CommitReason, shared: bool, config: &Config) -> Next {
        let now = config.clock.now_ms();
        let failed = reason == CommitReason::FailedResponse;
        if let Some(UnderWay::Unknown(commit)) = self.under_way.take() {
            if self.wish == Wish::Destroy {
                self.pending.discard(commit.changes);
                let destroy = self.commit(Action::Destroy, Changes::default(), false, now);
                return Next::Commit(Commit { tried: commit.tried, ..destroy });
            }
            if !failed || commit.action == Action::Renew {
                self.run(&commit.changes, shared);
                return Next::Commit(*commit);
            }
            self.pending.discard(commit.changes);
        }
        if failed && self.wish != Wish::Destroy {
            return Next::Done(Ok(()));
        }
        let is_old = |stored: &Stored| now.saturating_sub(stored.at) > LONG_AGO;
        let is_asked = reason == CommitReason::Handler { look_up_first: true };
        let look_up_first = self.stored().is_some_and(|stored| is_asked || is_old(stored));
        let action = self.action(look_up_first, config);
        if action != Some(Action::Destroy) && self.is_lost() {
            return Next::Done(self.lose(action.is_some()));
        }
        let Some(action) = action else {
            // The list changes nothing of the record.
            if !self.pending.is_empty() {
                self.drop_pending();
            }
            return Next::Done(Ok(()));
        };
        let look_up_first = match action {
            Action::Write => look_up_first,
            // Neither can tell a live session from a tombstone, which matters where the session may have moved.
            Action::Touch => self.detached,
            Action::Confirm => true,
            Action::Renew | Action::Destroy => false,
        };
        let commit = if matches!(action, Action::Write | Action::Renew) {
            self.pending.stamp(now);
            let changes = std::mem::take(&mut self.pending);
            self.run(&changes, shared);
            self.commit(action, changes, look_up_first, now)
        } else {
            self.commit(action, Changes::default(), look_up_first, now)
        };
        self.touch = false;
        if action == Action::Renew {
            self.wish = Wish::Keep;
        }
        Next::Commit(commit)
    }

    fn run(&mut self, changes: &Changes, shared: bool) {
        self.under_way = Some(UnderWay::Running(shared.then(|| Box::new(changes.effect().clone()))));
    }

    fn commit(&self, action: Action, changes: Changes, look_up_first: bool, begun_at: u64) -> Commit {
        let (base, found_at, detached) = (self.base.clone(), self.found_at, self.detached);
        Commit { action, base, changes, look_up_first, detached, found_at, begun_at, tried: None }
    }

    /// Whether nothing can be written any more.
    fn is_lost(&self) -> bool {
        if self.ended.is_some() {
            return true;
        }
        match self.base {
            // The request was sent before the browser had the new ID; a login starts a session of its own there.
            Base::Renewed { at, .. } if self.found_at.saturating_sub(at) < YOUNG_TOMBSTONE => {
                !self.pending.is_empty() && self.pending.effect().head().is_none_or(|head| head.login.is_none())
            }
            _ => false,
        }
    }

    fn lose(&mut self, has_changes: bool) -> Result<(), SessionError> {
        let has_changes = has_changes || !self.pending.is_empty();
        if has_changes {
            self.note_loss();
            self.note_gone();
        }
        self.drop_pending();
        if has_changes || self.ended == Some(Ended::Gone) { Err(SessionError::Gone) } else { Ok(()) }
    }

    /// Takes in what came of a commit. `None`: there may be more to do.
    pub(super) fn settle(
        &mut self,
        commit: Commit,
        was_unknown: bool,
        result: Result<Committed, SessionError>,
    ) -> Option<Result<(), SessionError>> {
        let action = commit.action;
        let committed = match result {
            Ok(committed) => committed,
            Err(error) => {
                self.put_back(commit);
                return Some(if action == Action::Confirm { Ok(()) } else { Err(error) });
            }
        };
        self.under_way = None;
        self.pending.discard(commit.changes);
        if self.closed && matches!(committed, Committed::Stored { .. } | Committed::Live) {
            self.browser.note_live();
        }
        match committed {
            Committed::Stored { stored, id } => {
                self.browser.note_stored(self.base.stored(), &stored, id);
                self.failure.clear();
                self.found_at = stored.at;
                self.base = Base::Stored(stored);
                (!was_unknown).then_some(Ok(()))
            }
            Committed::Live => Some(Ok(())),
            Committed::Destroyed => {
                self.drop_pending();
                self.ended = Some(Ended::Destroyed);
                self.browser.due = if self.browser.has_cookie { CookieDue::Remove } else { CookieDue::Nothing };
                Some(Ok(()))
            }
            Committed::Gone => {
                if matches!(action, Action::Write | Action::Renew) {
                    self.note_loss();
                }
                self.drop_pending();
                self.note_gone();
                // The handler's answer does not depend on whether a cookie could be signed anew.
                Some(if action == Action::Confirm { Ok(()) } else { Err(SessionError::Gone) })
            }
            Committed::Dropped => {
                events::dropped_by_error(self.key().as_ref());
                None
            }
        }
    }

    /// Nothing came of a commit, as far as that is known.
    pub(super) fn put_back(&mut self, mut commit: Commit) {
        self.under_way = None;
        match commit.action {
            _ if commit.tried.is_some() => self.under_way = Some(UnderWay::Unknown(Box::new(commit))),
            Action::Touch => self.touch = true,
            Action::Write | Action::Renew => {
                commit.changes.then(std::mem::take(&mut self.pending));
                self.pending = commit.changes;
                if commit.action == Action::Renew {
                    self.wish(Wish::Renew);
                }
            }
            Action::Destroy | Action::Confirm => {}
        }
    }

    /// One `update` of a list that was put back is not to be tried again.
    pub(super) fn withdraw(&mut self, key: &str, tag: Tag, present: Option<Bytes>) {
        self.pending.withdraw(key, tag, present);
    }

    /// The session was looked up again.
    pub(super) fn reloaded(&mut self, found: Option<Stored>) -> Result<(), SessionError> {
        match found {
            Some(stored) => {
                self.found_at = stored.at;
                self.base = Base::Stored(stored);
                Ok(())
            }
            None => {
                self.note_gone();
                self.lose(false)
            }
        }
    }

    /// A handle with a list of changes of its own. What it sees may never be stored, so that its first commit replays its
    /// list on the record that is.
    pub(super) fn detach(&self, fresh: Record, lifetime: Duration) -> Self {
        let view = self.view(fresh, lifetime);
        let base = match &self.base {
            Base::Stored(stored) => Base::Stored(Stored::new(stored.key, Version::unique(), view, 0)),
            Base::New(_) | Base::Renewed { .. } => Base::New(Some(Box::new(view))),
        };
        let mut detached = Self::new(base, self.found_at, true);
        detached.ended = self.ended;
        #[cfg(feature = "device-bound")]
        (detached.restricted = self.restricted);
        detached
    }

    #[cfg(feature = "device-bound")]
    pub(super) fn offer_due(&self) -> Option<Box<str>> {
        self.browser.offer.clone()
    }

    /// The cookie that is owed, and what decides its lifetime: the session's end and whether it is persistent.
    pub(super) fn cookie_due(&self) -> (CookieDue, Option<(u64, Option<bool>)>) {
        let head = self.stored().map(|stored| (stored.record.head.end, stored.record.head.persistent()));
        (self.browser.due.clone(), head)
    }
}
