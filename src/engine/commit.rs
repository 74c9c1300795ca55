//! A commit: what a handle wants done, and what came of it.
use super::Stored;
use crate::{
    cache::Version,
    id::{SessionId, SessionKey},
    record::{Changes, Record},
};

/// Where a session came from.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    /// From nowhere: the visitor came without one. A detached handle sees what its request had set by then.
    New(Option<Box<Record>>),
    /// From an ID that was renewed away at this time.
    Renewed {
        key: SessionKey,
        at: u64,
    },
    Stored(Stored),
}

impl Base {
    pub(crate) fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Stored(stored) => Some(stored),
            _ => None,
        }
    }
}

/// What a commit does; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Destroy,
    Renew,
    Write,
    Touch,
    /// Finds out whether the session lives.
    Confirm,
}

pub(crate) struct Commit {
    pub(crate) action: Action,
    pub(crate) base: Base,
    pub(crate) changes: Changes,
    /// The base may be an old one: the session is looked up before anything is decided.
    pub(crate) look_up_first: bool,
    /// The handle waits for its request to store the session, and never stores a new one.
    pub(crate) detached: bool,
    /// When the base was found.
    pub(crate) found_at: u64,
    /// When the commit began.
    pub(crate) begun_at: u64,
    /// A write whose outcome is unknown. The next run of this commit resolves it first.
    pub(crate) tried: Option<Tried>,
}

impl Commit {
    /// Whether it stores a session for the first time.
    pub(super) fn is_first(&self) -> bool {
        !self.detached && !matches!(self.base, Base::Stored(_))
    }
}

/// What may be written or not.
pub(crate) enum Tried {
    Write(Write),
    Renewal(Box<Renewal>),
}

/// One compare-and-set, so that it can be sent again as it was.
pub(crate) struct Write {
    pub(super) expected: Version,
    /// The session once it is done.
    pub(super) becomes: Stored,
}

/// A renewal, whose tombstone may be written or not.
pub(crate) struct Renewal {
    pub(super) id: SessionId,
    pub(super) successor: Stored,
    pub(super) old: Stored,
}

/// What came of a commit.
#[derive(Debug)]
#[must_use = "only `Stored` means that the changes are stored"]
pub(crate) enum Committed {
    /// The record has the changes; with an ID if it is a new one.
    Stored {
        stored: Stored,
        id: Option<SessionId>,
    },
    /// The session lives; nothing was written.
    Live,
    Destroyed,
    /// The session had ended: the changes were dropped.
    Gone,
    /// The write of unknown outcome did not take effect, and its error stands.
    Dropped,
}
