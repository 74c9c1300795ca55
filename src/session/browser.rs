//! The visitor's side of a session: what the browser has, and what the response owes it.
use crate::{engine::Stored, id::SessionId};

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

/// The visitor's side: what the browser has, and what it is owed.
#[derive(Default)]
pub(super) struct Browser {
    pub(super) id: Option<SessionId>,
    /// It sent a cookie of this session, or of one that was renewed.
    pub(super) has_cookie: bool,
    /// Its cookie was signed with an old key, and is due again if the session lives.
    pub(super) resign: bool,
    pub(super) due: CookieDue,
    /// The challenge of a login that was committed.
    #[cfg(feature = "device-bound")]
    pub(super) offer: Option<Box<str>>,
}

impl Browser {
    /// The session lives as the response goes out.
    pub(super) fn note_live(&mut self) {
        if std::mem::take(&mut self.resign)
            && let Some(id) = &self.id
        {
            self.due = CookieDue::Issue(id.clone());
        }
    }

    pub(super) fn note_stored(&mut self, before: Option<&Stored>, stored: &Stored, new: Option<SessionId>) {
        #[cfg(feature = "device-bound")]
        {
            let offer = |stored: &Stored| {
                let offer = stored.record.head.binding()?.offer()?;
                Some(offer.text.clone())
            };
            let (known, offered) = (before.and_then(offer), offer(stored));
            if offered != known {
                self.offer = offered;
            }
        }
        if let Some(id) = new {
            self.id = Some(id.clone());
            self.due = CookieDue::Issue(id);
        } else if let (Some(before), Some(id)) = (before, &self.id) {
            if before.record.head.persistent() != stored.record.head.persistent() {
                self.due = CookieDue::Issue(id.clone());
            } else if before.record.head.end != stored.record.head.end && !matches!(self.due, CookieDue::Issue(_)) {
                self.due = CookieDue::Moved(id.clone());
            }
        }
    }
}
