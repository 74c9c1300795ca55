//! One operation: its time limit, and what is tried again within it.
use std::time::Duration;

use redis::{Arg, Cmd, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    connections::Attempt,
    errors::{Failure, unexpected, unknown_outcome},
    scripts::Script,
    servers::Servers,
};
use crate::error::{CacheError, CacheErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);
/// A deadline that no operation reaches.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// What may be done when the connection was lost before the answer arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The command may be carried out twice without harm.
    Freely,
    /// It may be sent again: its answer, or the version that is found, tells what the first try did.
    ByVersion,
    /// It is never sent again: what the first try wrote may have been deleted since, and would come back.
    Never,
}

pub(super) enum Request<'a> {
    Command(Cmd),
    /// A script, over one key, with these arguments.
    Script(&'a Script, &'a str, &'a [&'a [u8]]),
}

pub(super) struct Answer {
    pub(super) value: Value,
    /// An earlier try of the same command may have been carried out, too.
    pub(super) repeated: bool,
}

#[derive(Clone)]
pub(super) struct CommandExecutor {
    servers: Servers,
    timeout: Duration,
}

impl CommandExecutor {
    pub(super) const fn new(servers: Servers, timeout: Duration) -> Self {
        Self { servers, timeout }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) const fn servers(&self) -> &Servers {
        &self.servers
    }

    /// When an operation that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now + FAR)
    }

    /// An answer of another type than the command has. Answers and questions may be out of step, so that the next answer
    /// would belong to another question: the connections are left.
    pub(super) fn unexpected(&self) -> CacheError {
        self.servers.disconnect();
        unexpected()
    }

    /// Sends the request before the deadline, again where `repeat` allows it.
    pub(super) async fn execute(
        &self,
        request: Request<'_>,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer, CacheError> {
        // In a box: the callers' futures are moved more often than once, with room for all that they wait for.
        let tries = Box::pin(self.tries(request, repeat, deadline));
        match timeout_at(deadline, tries).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!("Redis did not answer within {:?}: {}", self.timeout, self.servers.describe());
                Err(CacheError::new(CacheErrorKind::Timeout, text))
            }
        }
    }

    /// Sends a question once. `None`: no answer in time.
    pub(super) async fn ask(&self, command: &Cmd, deadline: Instant) -> Option<Result<Value, Failure>> {
        timeout_at(deadline, self.servers.send(command, Attempt::First)).await.ok()
    }

    async fn tries(&self, request: Request<'_>, repeat: Repeat, deadline: Instant) -> Result<Answer, CacheError> {
        let (mut command, mut in_full) = match request {
            Request::Command(command) => (command, None),
            Request::Script(script, key, args) => (script.by_hash(key, args), Some((script, key, args))),
        };
        let mut repeated = false;
        let mut pause = FIRST_PAUSE;
        let mut attempt = Attempt::First;
        loop {
            let failure = match self.servers.send(&command, attempt).await {
                Ok(value) => return Ok(Answer { value, repeated }),
                Err(failure) => failure,
            };
            attempt = Attempt::Next;
            match failure {
                Failure::NoScript if in_full.is_some() => {
                    if let Some((script, key, args)) = in_full.take() {
                        command = script.by_text(key, args);
                    }
                }
                Failure::ConnectionLost if !repeated && repeat != Repeat::Never => repeated = true,
                Failure::ConnectionLost if repeat == Repeat::Never => return Err(unknown_outcome()),
                // Where time would run out on the way, this answer is the better one: it says that nothing was done.
                Failure::NotReady(_)
                    if deadline.saturating_duration_since(Instant::now()) >= self.timeout / 4 + pause =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                _ if repeated && repeat == Repeat::ByVersion => return Err(unknown_outcome()),
                failure => return Err(self.error(failure, name(&command))),
            }
        }
    }

    /// The error of an operation that ends with this failure.
    pub(super) fn error(&self, failure: Failure, command: &str) -> CacheError {
        let (kind, text) = failure.describe(command);
        let servers = self.servers.describe();
        // A failure to connect names the server itself.
        let text = if text.contains(&servers) { text.into_owned() } else { format!("{text}: {servers}") };
        CacheError::new(kind, text)
    }
}

/// `GETRANGE`, and none of its arguments.
fn name(command: &Cmd) -> &str {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
        _ => "",
    }
}
