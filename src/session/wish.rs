//! What a handler asks for beside its changes, why a commit runs, and how a session ends.

/// Why a commit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitReason {
    /// The handler called for it.
    Handler { look_up_first: bool },
    /// The response is about to go out.
    Response,
    /// The request failed: a commit takes a destroy, and a renewal whose outcome is open.
    FailedResponse,
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
