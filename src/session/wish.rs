//! What a handler asks for beside its changes, which of it a commit takes, and how a session ends.

/// Which of the changes a commit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// The request failed: a destroy, and a renewal whose outcome is open.
    DestroyOnly,
}

/// What the handler asked for beside its changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    #[default]
    Keep,
    Renew,
    Destroy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By this handle.
    Destroyed,
    /// It was found gone: destroyed, expired, or renewed away, and then a destroy still has something to end.
    Gone,
}
