//! One operation: its time limit, and what is tried again within it.
use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};

use super::{
    breaker::Breaker,
    connections::{ConnectionGuard, Connections},
    dialect::Dialect,
    failure::{Failure, too_late, unknown_outcome},
};
use crate::{
    cache::circuit::Admission,
    error::{CacheError, CacheErrorKind},
};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// Whether a statement may be carried out twice without harm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementKind {
    /// Writes nothing.
    Read,
    /// A write that comes to the same twice.
    Repeatable,
    /// A write whose outcome has to be known, and which recognises what an earlier try wrote.
    Known,
    /// A write that must not be sent again where it may have been carried out.
    Once,
}

pub(super) struct Executed<T> {
    pub(super) value: T,
    /// An earlier try of the same statement may have been carried out, too.
    pub(super) again: bool,
}

pub(super) struct StatementExecutor<D: Dialect> {
    connections: Connections<D::Database>,
    timeout: Duration,
    breaker: Breaker,
}

impl<D: Dialect> StatementExecutor<D> {
    pub(super) fn new(connections: Connections<D::Database>, timeout: Duration, fail_fast: bool) -> Self {
        Self { connections, timeout, breaker: Breaker::new(fail_fast, D::NAME) }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When an operation that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        deadline(self.timeout)
    }

    pub(super) fn tries(&self, kind: StatementKind, deadline: Instant) -> Tries<'_, D> {
        Tries {
            executor: self,
            kind,
            deadline,
            began: Instant::now(),
            admitted: false,
            noted: false,
            again: false,
            renewed: false,
            pause: FIRST_PAUSE,
        }
    }

    /// For what may wait for the database to come up.
    pub(super) const fn patient(&self) -> Patient<'_, D> {
        Patient(self)
    }

    /// Finds out for all others whether the database answers.
    async fn probe(&self) -> bool {
        let mut probe = self.breaker.probe();
        // No longer than half of what the operation has.
        let answered = match timeout_at(deadline(self.timeout / 2), self.connections.acquire(false, true)).await {
            Ok(Ok(guard)) => {
                guard.end();
                true
            }
            Ok(Err(error)) => Failure::while_connecting(&error, D::answer).reached(),
            Err(_) => false,
        };
        probe.answered = Some(answered);
        if !answered {
            // Any of them may be one on which nothing will ever arrive.
            self.connections.leave_kept();
        }
        answered
    }
}

/// A caller whose operations the circuit breaker does not refuse.
pub(super) struct Patient<'a, D: Dialect>(&'a StatementExecutor<D>);

impl<'a, D: Dialect> Patient<'a, D> {
    pub(super) fn tries(&self, kind: StatementKind, deadline: Instant) -> Tries<'a, D> {
        let mut tries = self.0.tries(kind, deadline);
        tries.admitted = true;
        tries
    }
}

/// Thirty years are as good as for ever.
pub(super) fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now + Duration::from_secs(946_080_000))
}

/// The tries of one operation, until one of them settles it.
pub(super) struct Tries<'a, D: Dialect> {
    executor: &'a StatementExecutor<D>,
    kind: StatementKind,
    deadline: Instant,
    began: Instant,
    /// The circuit breaker let it pass.
    admitted: bool,
    /// The circuit breaker knows whether the database answered it.
    noted: bool,
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
    pub(super) async fn acquire(&mut self) -> Result<ConnectionGuard<'a, D::Database>, CacheError> {
        self.admit().await?;
        loop {
            let connections = &self.executor.connections;
            let guard = connections.acquire(self.kind != StatementKind::Read, self.renewed);
            let failure = match timeout_at(self.deadline, guard).await {
                Ok(Ok(guard)) => return Ok(guard),
                Ok(Err(error)) => Failure::while_connecting(&error, D::answer),
                Err(_) => {
                    self.note(false);
                    return Err(self.failed(CacheErrorKind::Unavailable, self.no_connection().into()));
                }
            };
            self.note(failure.reached());
            self.settle_failure(failure).await?;
        }
    }

    /// The answer, or `None` if the statement is to be sent again.
    pub(super) async fn settle<T>(
        &mut self,
        guard: ConnectionGuard<'a, D::Database>,
        done: Result<sqlx::Result<T>, Elapsed>,
    ) -> Result<Option<Executed<T>>, CacheError> {
        let error = match done {
            Ok(Ok(value)) => {
                self.note(true);
                guard.end();
                return Ok(Some(Executed { value, again: self.again }));
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.note(false);
                return Err(too_late());
            }
        };
        let failure = Failure::of(&error, D::answer);
        self.note(failure != Failure::Lost);
        match &failure {
            Failure::Lost | Failure::NotReady { renew: true, .. } => {
                self.renewed = true;
                drop(guard);
            }
            // The database answered in full: the connection is as good as before.
            _ if error.as_database_error().is_some() => guard.end(),
            _ => drop(guard),
        }
        self.settle_failure(failure).await?;
        Ok(None)
    }

    /// Refuses the operation if the database is known not to answer, and finds out whether that is still so.
    async fn admit(&mut self) -> Result<(), CacheError> {
        if std::mem::replace(&mut self.admitted, true) {
            return Ok(());
        }
        let passes = match self.executor.breaker.admit() {
            Admission::Pass => true,
            Admission::Refused => false,
            Admission::Probe => Box::pin(self.executor.probe()).await,
        };
        if passes {
            return Ok(());
        }
        self.noted = true;
        let text = "the database does not answer, operations are refused but for one every 250 ms that asks again";
        Err(CacheError::new(CacheErrorKind::Unavailable, text))
    }

    /// Failures of one operation count once.
    fn note(&mut self, answered: bool) {
        let noted = std::mem::replace(&mut self.noted, true);
        if answered {
            self.executor.breaker.answered();
        } else if !noted {
            self.executor.breaker.failed();
        }
    }

    /// Returns when it is worth trying again, and after a pause.
    async fn settle_failure(&mut self, failure: Failure) -> Result<(), CacheError> {
        let text = match failure {
            Failure::Rejected(kind, text) => return Err(self.failed(kind, text)),
            Failure::Lost if self.kind == StatementKind::Once => return Err(unknown_outcome()),
            Failure::Lost => {
                self.again = true;
                "the connection to the database was lost".into()
            }
            Failure::NotReady { text, .. } => text,
        };
        // Where time would run out on the way, this answer is the better one: it says what is wrong.
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < self.pause + self.executor.timeout / 8 {
            return Err(self.failed(CacheErrorKind::Unavailable, text));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn failed(&self, kind: CacheErrorKind, text: std::borrow::Cow<'static, str>) -> CacheError {
        if self.again && self.kind == StatementKind::Known { unknown_outcome() } else { CacheError::new(kind, text) }
    }

    fn no_connection(&self) -> &'static str {
        let pool = self.executor.connections.pool();
        if pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections() {
            "no connection to the database became free in time: all those of the pool are in use"
        } else {
            "no connection to the database in time: it cannot be reached, or has as many as it allows"
        }
    }
}

/// An operation may be dropped because whatever waits for it has a shorter time limit.
impl<D: Dialect> Drop for Tries<'_, D> {
    fn drop(&mut self) {
        if !self.noted && self.began.elapsed() >= self.executor.timeout / 4 * 3 {
            self.executor.breaker.failed();
        }
    }
}

/// Runs `$run` on a connection, again where that is worth it and does no harm, until the deadline.
macro_rules! attempt {
    ($executor:expr, $kind:expr, $deadline:expr, |$connection:ident| $run:expr) => {{
        // In a box: what calls this is moved more often than once, with room for all that it waits for.
        Box::pin(async {
            let mut tries = $executor.tries($kind, $deadline);
            loop {
                let mut guard = tries.acquire().await?;
                let Some($connection) = guard.connection() else {
                    break Err($crate::cache::sql::failure::unexpected());
                };
                let done = tokio::time::timeout_at(tries.deadline(), $run).await;
                if let Some(answer) = tries.settle(guard, done).await? {
                    break Ok(answer);
                }
            }
        })
    }};
}

pub(super) use attempt;
