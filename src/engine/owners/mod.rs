//! The sessions of a user: which belong to the list, how many there may be, and ending them.
//!
//! Each owner has a list of session keys in the cache. A session is listed before it becomes the owner's, and taken off after
//! it ended, so that no live session is missing. A stamp in the record identifies a session whatever its key is, as a renewal
//! changes the key while others compare.
use std::num::NonZeroUsize;

mod limit;
mod list;
mod revoke;
mod standing;

pub(super) use self::list::Listing;
pub(crate) use self::{list::Page, revoke::Revoked};

/// How a store deals with owners.
#[derive(Clone)]
pub(crate) struct Owners {
    pub(crate) limit: Option<NonZeroUsize>,
    pub(crate) policy: SessionLimitPolicy,
    pub(crate) readable: bool,
    /// The first names new lists, all of them are read.
    pub(crate) keys: std::sync::Arc<[OwnerKey]>,
}

/// A key that names of owners are hashed with.
pub(crate) type OwnerKey = Box<[u8]>;

/// More than a person has devices, and few enough that all of them are looked at within one login.
const DEFAULT_LIMIT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

impl Default for Owners {
    fn default() -> Self {
        let policy = SessionLimitPolicy::default();
        Self { limit: Some(DEFAULT_LIMIT), policy, readable: false, keys: [].into() }
    }
}

/// What [`SessionStore::max_sessions_per_owner`](crate::SessionStore::max_sessions_per_owner) does when a user gets one
/// session more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionLimitPolicy {
    /// The user's oldest sessions end, by the time of their login. The default.
    ///
    /// After simultaneous logins exactly the newest sessions remain, as far as no cache operation failed. A failure leaves
    /// more, never fewer; the next login ends them.
    #[default]
    EndOldest,
    /// The new session is refused with [`SessionError::TooManySessions`](crate::SessionError::TooManySessions).
    ///
    /// Simultaneous logins for the last place may all be refused, and one of them gets in when it is tried again; new sessions
    /// never exceed the limit. Two sessions that exist already and get their owner by
    /// [`Session::set_owner`](crate::Session::set_owner), without a renewal, may both be let in.
    Refuse,
}
