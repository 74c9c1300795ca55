//! What a handle knows, and what is to be done about it.
use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    data::{Changes, Data, Values, snapshot},
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::Settings,
    store::{Action, Draft, Fate, Outcome, Stored},
};

/// The cookie that the browser is owed.
#[derive(Clone, Debug, Default)]
pub(crate) enum CookieDue {
    #[default]
    Nothing,
    /// A new ID, or one whose cookie changed its kind.
    Issue(SessionId),
    /// The end of the session moved: of interest to a persistent cookie.
    Moved(SessionId),
    Remove,
}

/// Which of the changes a commit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// The request failed.
    DestroyOnly,
}

/// Who holds the handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A request: the layer commits.
    Request,
    /// Somebody who commits on their own: `detach`, `SessionStore::load`.
    Detached,
}

/// How a handle's session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By this handle.
    Destroyed,
    /// It was found gone: destroyed, expired, or renewed away, and then a destroy still has something to end.
    Gone,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) holder: Holder,
    /// The ID in the browser's cookie, or on its way there.
    pub(super) id: Option<SessionId>,
    /// The browser sent a cookie of this session, or of one that was renewed.
    pub(super) came_with_cookie: bool,
    pub(super) stored: Option<Stored>,
    pub(super) tombstone: Option<SessionKey>,
    /// When the session, or the tombstone, was found.
    pub(super) seen: u64,
    pub(super) data: Data,
    pub(super) settings: Settings,
    pub(super) touch: bool,
    pub(super) renew: bool,
    pub(super) destroy: bool,
    /// Commits that have begun and not ended.
    pub(super) commits: usize,
    /// The response's commit has begun.
    pub(super) closed: bool,
    pub(super) ended: Option<End>,
    /// The browser's cookie was signed with an old key, and is due again if the session lives.
    pub(super) resign: bool,
    pub(super) cookie: CookieDue,
    /// Tells detached handles where this request's session is; made by the first of them.
    pub(super) fate: Option<watch::Sender<Fate>>,
    pub(super) follow: Option<watch::Receiver<Fate>>,
}

/// What has to be put back if a commit fails.
pub(super) struct Taken {
    base: Arc<Values>,
    renew: bool,
    touch: bool,
}

impl State {
    pub(super) fn new(holder: Holder, stored: Option<Stored>) -> Self {
        let seen = stored.as_ref().map_or(0, |stored| stored.seen);
        let data = stored.as_ref().map_or_else(Data::default, |stored| Data::new(Arc::clone(&stored.values)));
        Self {
            holder,
            id: None,
            came_with_cookie: false,
            stored,
            tombstone: None,
            seen,
            data,
            settings: Settings::default(),
            touch: false,
            renew: false,
            destroy: false,
            commits: 0,
            closed: false,
            ended: None,
            resign: false,
            cookie: CookieDue::Nothing,
            fate: None,
            follow: None,
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.data.is_dirty() || !self.settings.is_empty()
    }

    fn owner_is_set(&self) -> bool {
        matches!(self.settings.owner, Some(Some(_)))
    }

    /// What a commit has to do, the first that applies: destroy, renew, write, touch.
    pub(super) fn action(&self, scope: Scope) -> Option<Action> {
        let known = self.stored.is_some() || self.follow.is_some();
        if self.destroy && self.ended != Some(End::Destroyed) {
            return (known || self.tombstone.is_some()).then_some(Action::Destroy);
        }
        if scope == Scope::DestroyOnly || (self.ended.is_some() && !self.is_dirty()) {
            return None;
        }
        if self.renew && self.stored.is_some() {
            return Some(Action::Renew);
        }
        if self.is_dirty() {
            // An empty new session is not stored.
            let worth_it = known || self.ended.is_some() || !self.data.is_empty() || self.owner_is_set();
            return worth_it.then_some(Action::Write);
        }
        if self.touch && known {
            return Some(Action::Touch);
        }
        (self.resign && self.closed && self.stored.is_some()).then_some(Action::Confirm)
    }

    /// Whether what it was made from is gone for good.
    pub(super) fn is_lost(&self) -> bool {
        self.ended.is_some() || (self.holder == Holder::Detached && self.stored.is_none() && self.follow.is_none())
    }

    /// Takes the changes out to commit them, while others go on reading and changing.
    pub(super) fn draft(&mut self, action: Action, now: u64) -> (Draft, Taken) {
        let view =
            if self.data.is_dirty() { Arc::new(snapshot(self.data.merged())) } else { Arc::clone(self.data.base()) };
        self.draft_behind(action, now, view)
    }

    /// Takes the changes out to write them before anybody else gets at the state.
    pub(super) fn draft_at_once(&mut self) -> (Draft, Taken) {
        let view = Arc::clone(self.data.base());
        self.draft_behind(Action::Write, self.seen, view)
    }

    fn draft_behind(&mut self, action: Action, now: u64, view: Arc<Values>) -> (Draft, Taken) {
        let (base, changes) = self.data.take_changes(view);
        // Taken as well: what is asked for while this commit is under way is for the next one.
        let taken = Taken { base, renew: std::mem::take(&mut self.renew), touch: std::mem::take(&mut self.touch) };
        let draft = Draft {
            action,
            stored: self.stored.clone(),
            tombstone: self.tombstone,
            changes,
            settings: std::mem::take(&mut self.settings),
            follow: self.follow.clone(),
            sure: self.follow.is_some() || self.resign,
            age: Duration::from_millis(now.saturating_sub(self.seen)),
        };
        (draft, taken)
    }

    /// Takes in what came of a commit.
    pub(super) fn settle(
        &mut self,
        draft: Draft,
        taken: Taken,
        result: Result<Outcome, SessionError>,
    ) -> Result<(), SessionError> {
        let Draft { action, stored: before, changes, settings, .. } = draft;
        match result {
            Ok(Outcome::Stored { stored, id }) => {
                self.note_cookie(before.as_ref(), &stored, id);
                self.data.settle(Arc::clone(&stored.values));
                if let Some(fate) = &self.fate {
                    fate.send_replace(Some(stored.key));
                }
                self.stored = Some(stored);
                self.note_live();
                Ok(())
            }
            Ok(Outcome::Live) => {
                self.data.restore(taken.base, changes);
                self.note_live();
                Ok(())
            }
            Ok(Outcome::Destroyed) => {
                self.end(taken, End::Destroyed);
                self.cookie = if self.came_with_cookie { CookieDue::Remove } else { CookieDue::Nothing };
                Ok(())
            }
            Ok(Outcome::Gone) => {
                if let (Some(stored), false) = (&before, matches!(action, Action::Touch | Action::Confirm)) {
                    events::gone(&stored.key);
                }
                self.end(taken, End::Gone);
                self.cookie = CookieDue::Nothing;
                Err(SessionError::Gone)
            }
            Err(error) => {
                self.put_back(changes, settings, taken);
                Err(error)
            }
        }
    }

    /// Nothing came of a draft.
    pub(super) fn put_back(&mut self, changes: Changes, mut settings: Settings, taken: Taken) {
        self.data.restore(taken.base, changes);
        self.renew |= taken.renew;
        self.touch |= taken.touch;
        settings.then(std::mem::take(&mut self.settings));
        self.settings = settings;
    }

    fn end(&mut self, taken: Taken, how: End) {
        self.data.restore(taken.base, Changes::default());
        self.data.drop_changes();
        self.settings = Settings::default();
        (self.renew, self.touch) = (false, false);
        self.ended = Some(how);
        self.fate = None;
    }

    /// The session lives as the response goes out.
    fn note_live(&mut self) {
        if self.closed
            && std::mem::take(&mut self.resign)
            && let Some(id) = &self.id
        {
            self.cookie = CookieDue::Issue(id.clone());
        }
    }

    fn note_cookie(&mut self, before: Option<&Stored>, stored: &Stored, new: Option<SessionId>) {
        if let Some(id) = new {
            self.id = Some(id.clone());
            self.cookie = CookieDue::Issue(id);
        } else if let (Some(before), Some(id)) = (before, &self.id) {
            if before.head.persistent != stored.head.persistent {
                self.cookie = CookieDue::Issue(id.clone());
            } else if before.head.end != stored.head.end && !matches!(self.cookie, CookieDue::Issue(_)) {
                self.cookie = CookieDue::Moved(id.clone());
            }
        }
    }

    /// A handle with a list of changes of its own.
    pub(super) fn detach(&mut self) -> Self {
        let mut detached = Self::new(Holder::Detached, self.stored.clone());
        detached.ended = self.ended;
        detached.follow = match (&self.follow, self.closed || self.holder == Holder::Detached) {
            (follow, true) => follow.clone(),
            (_, false) => {
                let known = self.stored.as_ref().map(|stored| stored.key);
                let fate = self.fate.get_or_insert_with(|| watch::Sender::new(known));
                Some(fate.subscribe())
            }
        };
        let view = Arc::new(snapshot(self.data.merged()));
        detached.data = Data::tentative(view);
        detached
    }
}
