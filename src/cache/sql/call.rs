//! One operation: its time limit, and what is tried again within it.
use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};

use super::{
    connections::{Connections, Lease},
    dialect::Dialect,
    failure::{Failure, too_late, unknown_outcome},
};
use crate::error::{CacheError, CacheErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// Whether a statement may be carried out twice without harm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Writes nothing.
    Read,
    /// A write that comes to the same twice.
    Repeatable,
    /// A write whose outcome has to be known, and which recognises what an earlier try wrote.
    Known,
    /// A write that must not be sent again where it may have been carried out.
    Once,
}

pub(super) struct Answer<T> {
    pub(super) value: T,
    /// An earlier try of the same statement may have been carried out, too.
    pub(super) again: bool,
}

pub(super) struct Caller<D: Dialect> {
    connections: Connections<D::Database>,
    timeout: Duration,
}

impl<D: Dialect> Caller<D> {
    pub(super) const fn new(connections: Connections<D::Database>, timeout: Duration) -> Self {
        Self { connections, timeout }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When an operation that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        deadline(self.timeout)
    }

    pub(super) fn tries(&self, effect: Effect, deadline: Instant) -> Tries<'_, D> {
        Tries { caller: self, effect, deadline, again: false, renewed: false, pause: FIRST_PAUSE }
    }
}

/// Thirty years are as good as for ever.
pub(super) fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now + Duration::from_secs(946_080_000))
}

/// The tries of one operation, until one of them settles it.
pub(super) struct Tries<'a, D: Dialect> {
    caller: &'a Caller<D>,
    effect: Effect,
    deadline: Instant,
    /// An earlier try may have been carried out.
    again: bool,
    /// An earlier connection was lost: the next one is asked first whether it stands.
    renewed: bool,
    pause: Duration,
}

impl<'a, D: Dialect> Tries<'a, D> {
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A connection, waited for until the deadline. Nothing has been sent when that fails.
    pub(super) async fn lease(&mut self) -> Result<Lease<'a, D::Database>, CacheError> {
        loop {
            let connections = &self.caller.connections;
            let lease = connections.lease(self.effect != Effect::Read, self.renewed);
            let failure = match timeout_at(self.deadline, lease).await {
                Ok(Ok(lease)) => return Ok(lease),
                Ok(Err(error)) => Failure::while_connecting(&error, D::answer),
                Err(_) => return Err(self.failed(CacheErrorKind::Unavailable, self.no_connection().into())),
            };
            self.settle_failure(failure).await?;
        }
    }

    /// The answer, or `None` if the statement is to be sent again.
    pub(super) async fn settle<T>(
        &mut self,
        lease: Lease<'a, D::Database>,
        done: Result<sqlx::Result<T>, Elapsed>,
    ) -> Result<Option<Answer<T>>, CacheError> {
        let error = match done {
            Ok(Ok(value)) => {
                lease.end();
                return Ok(Some(Answer { value, again: self.again }));
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(too_late()),
        };
        let failure = Failure::of(&error, D::answer);
        match &failure {
            Failure::Lost | Failure::NotReady { renew: true, .. } => {
                self.renewed = true;
                drop(lease);
            }
            // The database answered in full: the connection is as good as before.
            _ if error.as_database_error().is_some() => lease.end(),
            _ => drop(lease),
        }
        self.settle_failure(failure).await?;
        Ok(None)
    }

    /// Returns when it is worth trying again, and after a pause.
    async fn settle_failure(&mut self, failure: Failure) -> Result<(), CacheError> {
        let text = match failure {
            Failure::Final(kind, text) => return Err(self.failed(kind, text)),
            Failure::Lost if self.effect == Effect::Once => return Err(unknown_outcome()),
            Failure::Lost => {
                self.again = true;
                "the connection to the database was lost".into()
            }
            Failure::NotReady { text, .. } => text,
        };
        // Where time would run out on the way, this answer is the better one: it says what is wrong.
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < self.pause + self.caller.timeout / 8 {
            return Err(self.failed(CacheErrorKind::Unavailable, text));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn failed(&self, kind: CacheErrorKind, text: std::borrow::Cow<'static, str>) -> CacheError {
        if self.again && self.effect == Effect::Known { unknown_outcome() } else { CacheError::new(kind, text) }
    }

    fn no_connection(&self) -> &'static str {
        let pool = self.caller.connections.pool();
        if pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections() {
            "no connection to the database became free in time: all those of the pool are in use"
        } else {
            "no connection to the database in time: it cannot be reached, or has as many as it allows"
        }
    }
}

/// Runs `$run` on a connection, again where that is worth it and does no harm, until the deadline.
macro_rules! attempt {
    ($caller:expr, $effect:expr, $deadline:expr, |$connection:ident| $run:expr) => {{
        // In a box: what calls this is moved more often than once, with room for all that it waits for.
        Box::pin(async {
            let mut tries = $caller.tries($effect, $deadline);
            loop {
                let mut lease = tries.lease().await?;
                let Some($connection) = lease.connection() else {
                    break Err($crate::cache::sql::failure::unexpected());
                };
                let done = tokio::time::timeout_at(tries.deadline(), $run).await;
                if let Some(answer) = tries.settle(lease, done).await? {
                    break Ok(answer);
                }
            }
        })
    }};
}

pub(super) use attempt;
