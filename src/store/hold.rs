//! A renewal takes two operations between which nobody may write. Against writers who never pause it asks for a rest.
use std::time::Duration;

use super::{Look, SessionStore, Stored, commit::Attempt};
use crate::{cache::Cache, data::Changes, deadline::Deadline, error::SessionError, record::Head};

/// Rounds that a renewal loses before it asks.
pub(super) const LOST: u32 = 2;

/// Whoever asked for a rest and has not used it by then has given up. No clock is compared: each writer counts for itself.
const REST: Duration = Duration::from_millis(250);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl<C: Cache> SessionStore<C> {
    /// Marks the session, so that writers wait. The next write, or the tombstone, takes the mark away.
    pub(super) async fn hold(&self, newest: &Stored) -> Result<Attempt, SessionError> {
        let head = Head { hold: true, ..newest.head.clone() };
        self.put(newest, head, &Changes::default()).await
    }

    /// Waits until what is `held` moved on, and returns what is there then.
    pub(super) async fn rest(&self, held: &Stored, deadline: Deadline) -> Result<Look, SessionError> {
        let end = Deadline::after(REST.min(deadline.left() / 2));
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            match self.look(held.key, None).await? {
                Look::Live(stored) if stored.version == held.version => {
                    if end.left().is_zero() {
                        let head = Head { hold: false, ..stored.head };
                        return Ok(Look::Live(Stored { head, ..stored }));
                    }
                }
                other => return Ok(other),
            }
        }
    }
}
