//! What a member of a user's list is: a session that counts, one in the making, a stray, or nothing any more.
use crate::{
    cache::{Cache, Version},
    clock::millis,
    engine::{Engine, Lookup, Stored},
    error::SessionError,
    id::SessionKey,
    record::Tombstone,
};

/// Tombstones that are followed from a member.
const MAX_HOPS: usize = 32;

pub(super) enum Standing {
    /// A session of the owner.
    Counts(Stored),
    /// A session that `prev` is just being renewed to. It ends only by way of `prev`.
    Making {
        stored: Stored,
        prev: Stored,
    },
    /// A renewal left it behind, and its ID was told to no browser.
    Stray(Stored),
    /// A session of another owner, which may be about to become this owner's.
    Foreign,
    /// Under its key is an entry that this process cannot read, or whose lifetime is over by this process's clock alone.
    Unreadable {
        key: SessionKey,
        version: Version,
    },
    Gone,
    /// A tombstone that leads to no session any more.
    DeadEnd,
    /// A tombstone that more others follow than are gone along. Each of them leads to a key that is a member itself.
    Far,
}

impl Standing {
    pub(super) fn counted(self) -> Option<Stored> {
        match self {
            Self::Counts(stored) => Some(stored),
            _ => None,
        }
    }
}

impl<C: Cache> Engine<C> {
    pub(super) async fn judge(&self, owner: &str, key: SessionKey) -> Result<Standing, SessionError> {
        let (mut at, mut from) = (key, None);
        let mut stored = None;
        for _ in 0..=MAX_HOPS {
            match self.look_up(at, None).await? {
                Lookup::Live(live) => {
                    stored = Some(live);
                    break;
                }
                Lookup::Tombstone { successor, .. } => (from, at) = (Some(at), successor),
                Lookup::Expired { version } | Lookup::Unreadable { version } => {
                    return Ok(Standing::Unreadable { key: at, version });
                }
                Lookup::Absent if from.is_some() => return Ok(Standing::DeadEnd),
                Lookup::Absent => return Ok(Standing::Gone),
            }
        }
        let Some(stored) = stored else { return Ok(Standing::Far) };
        if stored.record.head.owner() != Some(owner) {
            return Ok(Standing::Foreign);
        }
        let Some(origin) = stored.record.head.origin().filter(|origin| from != Some(origin.prev)) else {
            return Ok(Standing::Counts(stored));
        };
        Ok(match self.look_up(origin.prev, None).await? {
            Lookup::Live(prev) => Standing::Making { stored, prev },
            Lookup::Tombstone { successor, .. } if successor == stored.key => Standing::Counts(stored),
            Lookup::Tombstone { .. } => Standing::Stray(stored),
            // It may be the tombstone, in which case the session is in use.
            Lookup::Unreadable { .. } => Standing::Counts(stored),
            // A tombstone lives twice as long as this: the renewal never came to it, or its session was destroyed.
            _ if self.now().saturating_sub(origin.made) < millis(Tombstone::LIFE) / 2 => Standing::Stray(stored),
            _ => Standing::Counts(stored),
        })
    }

    /// The live session that `key` leads to by way of tombstones.
    pub(in crate::engine) async fn live_end(&self, mut key: SessionKey) -> Result<Option<Stored>, SessionError> {
        for _ in 0..=MAX_HOPS {
            match self.look_up(key, None).await? {
                Lookup::Live(stored) => return Ok(Some(stored)),
                Lookup::Tombstone { successor, .. } => key = successor,
                _ => return Ok(None),
            }
        }
        Err(SessionError::Incomplete { ended: 0 })
    }
}
