//! Changes of a session's binding to a device: decided on the newest record, written by compare-and-set.
use std::time::Duration;

use super::{
    Engine, Lookup, Stored,
    queue::Turn,
    write::{CasOutcome, back_off},
};
use crate::{
    cache::Cache,
    deadline::Deadline,
    error::SessionError,
    id::SessionKey,
    record::{Binding, Changes, Head},
};

/// From the newest head to the binding that is to be written, if one is. It runs again after a lost compare-and-set: what it
/// decided last counts.
pub(crate) type Decide<'a> = dyn FnMut(&Head) -> Option<Binding> + Send + 'a;

/// The renewals of a session that are followed.
const MAX_HOPS: usize = 32;

/// With less than this left, another round would be cut off half-way.
const LAST_ROUND: Duration = Duration::from_millis(2);

/// What a process keeps of Redis may be a little older, and a browser that is told that its session has ended forgets its key.
pub(crate) const NEWEST: Option<Duration> = Some(Duration::ZERO);

impl<C: Cache> Engine<C> {
    /// Has `decide` change the binding of the session that lives under `key`, or moved from there. `false`: there is none.
    pub(super) async fn bind(
        &self,
        key: SessionKey,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<bool, SessionError> {
        let mut found = self.look_up(key, NEWEST).await?;
        let (mut turn, mut hops, mut waited): (Option<Turn<Stored>>, _, _) = (None, 0, false);
        for round in 0_u32.. {
            let newest = match found {
                Lookup::Live(stored) => stored,
                Lookup::Tombstone { successor, .. } if hops < MAX_HOPS => {
                    (turn, hops) = (None, hops + 1);
                    found = self.look_up(successor, NEWEST).await?;
                    continue;
                }
                _ => return Ok(false),
            };
            if newest.record.head.is_renewing() && !std::mem::replace(&mut waited, true) {
                found = self.wait_for_renewal(&newest, deadline).await?;
                continue;
            }
            let Some(binding) = decide(&newest.record.head) else { return Ok(true) };
            let head = newest.record.head.with_binding(Some(binding)).renewing(false);
            let now = self.now();
            let record = self.encode(&newest.key, &head, &Changes::default(), &newest.record, now)?;
            found = match self.attempt(&newest, record, now, &mut None).await? {
                CasOutcome::Done(stored) => {
                    if let Some(turn) = &mut turn {
                        turn.leave_behind(&stored);
                    }
                    return Ok(true);
                }
                CasOutcome::Lost(found) => found,
            };
            if turn.is_some() {
                back_off(round, deadline).await;
            } else if let Lookup::Live(newer) = &mut found {
                turn = self.take_turn(newer, deadline).await;
            }
            if deadline.left() < LAST_ROUND {
                break;
            }
        }
        Err(SessionError::Conflict)
    }
}
