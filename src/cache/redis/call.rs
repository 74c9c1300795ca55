//! One operation: its time limit, and what is tried again within it.
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    connection::Connection,
    errors::{Failure, unknown_outcome},
};
use crate::error::{CacheError, CacheErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// Whether a command may be carried out twice without harm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Repeatable,
    /// A write whose outcome has to be known.
    Once,
}

pub(super) struct Answer {
    pub(super) value: Value,
    /// An earlier try of the same command may have been carried out, too.
    pub(super) again: bool,
}

#[derive(Clone)]
pub(super) struct Caller {
    connection: Connection,
    timeout: Duration,
}

impl Caller {
    pub(super) const fn new(connection: Connection, timeout: Duration) -> Self {
        Self { connection, timeout }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When an operation that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Sends `command`, or what `in_full` makes when the server does not know the script, before the deadline.
    pub(super) async fn call(
        &self,
        command: Cmd,
        in_full: Option<&(dyn Fn() -> Cmd + Sync)>,
        effect: Effect,
        deadline: Instant,
    ) -> Result<Answer, CacheError> {
        match timeout_at(deadline, self.tries(command, in_full, effect, deadline)).await {
            Ok(answer) => answer,
            Err(_) => {
                // The connection may be one on which nothing will ever arrive.
                self.connection.renew();
                Err(CacheError::new(CacheErrorKind::Timeout, "Redis did not answer in time"))
            }
        }
    }

    async fn tries(
        &self,
        mut command: Cmd,
        mut in_full: Option<&(dyn Fn() -> Cmd + Sync)>,
        effect: Effect,
        deadline: Instant,
    ) -> Result<Answer, CacheError> {
        let mut again = false;
        let mut pause = FIRST_PAUSE;
        let failed = |again: bool, kind, text: &'static str| {
            if again && effect == Effect::Once { unknown_outcome() } else { CacheError::new(kind, text) }
        };
        loop {
            let error = match self.connection.send(&command).await {
                Ok(value) => return Ok(Answer { value, again }),
                Err(error) => error,
            };
            match Failure::from(&error) {
                Failure::NoScript => match in_full.take() {
                    Some(in_full) => command = in_full(),
                    None => return Err(failed(again, CacheErrorKind::Refused, "Redis answered NOSCRIPT")),
                },
                Failure::Lost if !again => again = true,
                Failure::Lost => {
                    return Err(failed(again, CacheErrorKind::Unavailable, "the connection to Redis was lost"));
                }
                Failure::NotReady { renew, text } => {
                    if renew {
                        self.connection.renew();
                    }
                    // Where time would run out on the way, this answer is the better one: it says that nothing was done.
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left < self.timeout / 4 + pause {
                        return Err(failed(again, CacheErrorKind::Unavailable, text));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Failure::Final { kind, renew, text } => {
                    if renew {
                        self.connection.renew();
                    }
                    return Err(failed(again, kind, text));
                }
            }
        }
    }
}
