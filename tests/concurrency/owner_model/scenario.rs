//! What is checked: who does what at the same time, with which clocks and faults.
use cloakroom::SessionLimitPolicy;

pub(super) const OWNER: &str = "alice";
pub(super) const LIST: &str = "cloakroom:owner:alice";

/// What becomes of one operation on the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OperationOutcome {
    Done,
    /// It fails and does nothing.
    Refused,
    /// It is done, and its caller does not learn that.
    Lost,
    /// The process dies before it.
    Crash,
}

/// What one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// A login of a browser without a session.
    LogIn,
    /// A login with the session of a visitor.
    VisitorLogsIn,
    /// The same without a new ID.
    VisitorIsGivenTheOwner,
    /// A login with the user's first session.
    LogInAgain,
    /// A renewal of the user's first session.
    Renew,
    LogOut,
    RevokeAll,
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) does: Vec<Does>,
    /// The minute that each process's clock shows: all differ, and may go against the order of events.
    pub(super) clocks: Vec<u64>,
    /// Sessions of the user that are there before, by logins at minutes 0, 1 and so on.
    pub(super) before: usize,
    pub(super) limit: usize,
    pub(super) policy: SessionLimitPolicy,
    pub(super) faults: usize,
}
