//! One operation: its time limit, and what is tried again within it.
use std::time::Duration;

use redis::{Arg, Cmd, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    connection::Connection,
    errors::{self, Failure, unknown_outcome},
    link::Attempt,
};
use crate::{
    error::{CacheError, CacheErrorKind},
    events,
};

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

    /// An answer of another type than the command has: answers and questions may have got out of step, so that the next
    /// answer would be to somebody else's question.
    pub(super) fn unexpected(&self) -> CacheError {
        self.connection.hang_up();
        errors::unexpected()
    }

    /// Sends `command`, or what `in_full` makes when the server does not know the script, before the deadline.
    pub(super) async fn call(
        &self,
        command: Cmd,
        in_full: Option<&(dyn Fn() -> Cmd + Sync)>,
        effect: Effect,
        deadline: Instant,
    ) -> Result<Answer, CacheError> {
        // In a box: what calls this is moved more often than once, with room for all that it waits for.
        let tries = Box::pin(self.tries(command, in_full, effect, deadline));
        match timeout_at(deadline, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(CacheError::new(CacheErrorKind::Timeout, "Redis did not answer in time")),
        }
    }

    /// Asks for what can be done without: `None` for whatever goes wrong.
    pub(super) async fn ask(&self, command: &Cmd, deadline: Instant) -> Option<Value> {
        timeout_at(deadline, self.connection.send(command, Attempt::First)).await.ok()?.ok()
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
        let mut attempt = Attempt::First;
        let failed = |again: bool, kind, text: &'static str| {
            if again && effect == Effect::Once { unknown_outcome() } else { CacheError::new(kind, text) }
        };
        loop {
            let failure = match self.connection.send(&command, attempt).await {
                Ok(value) => return Ok(Answer { value, again }),
                Err(failure) => failure,
            };
            attempt = Attempt::Next;
            match failure {
                Failure::NoScript => match in_full.take() {
                    Some(in_full) => command = in_full(),
                    None => return Err(failed(again, CacheErrorKind::Refused, "Redis answered NOSCRIPT")),
                },
                Failure::Lost if !again => again = true,
                Failure::Lost => {
                    return Err(failed(again, CacheErrorKind::Unavailable, "the connection to Redis was lost"));
                }
                Failure::Open => {
                    let text = "Redis does not answer: only now and then an operation finds out whether it does again";
                    return Err(failed(again, CacheErrorKind::Unavailable, text));
                }
                Failure::Elsewhere(_) => {
                    let text = "the server is part of a Redis cluster, and the connection is not one to a cluster";
                    return Err(failed(again, CacheErrorKind::Unsupported, text));
                }
                Failure::NotReady(cause) => {
                    // Where time would run out on the way, this answer is the better one: it says that nothing was done.
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left < self.timeout / 4 + pause {
                        return Err(failed(again, CacheErrorKind::Unavailable, cause.text));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Failure::Denied(named) => {
                    events::denied(named.unwrap_or_else(|| name(&command)));
                    return Err(failed(again, CacheErrorKind::Refused, "Redis answered NOPERM"));
                }
                Failure::Final(kind, cause) => return Err(failed(again, kind, cause.text)),
            }
        }
    }
}

/// `GET`, and nothing of what comes behind it.
fn name(command: &Cmd) -> &str {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
        _ => "",
    }
}
