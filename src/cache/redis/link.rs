//! One connection to whoever is in charge: it is made when it is needed, and left when it is of no use any more.
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionManager, MultiplexedConnection},
};
use tokio::time::timeout;

#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinels;
use super::{
    breaker::{Admission, Breaker, Change},
    errors::Failure,
    near::Near,
    tracking::Tracking,
};
use crate::events;

/// A connection that works is not given up earlier than this, whatever the number of requests that fail.
const YOUNGEST: Duration = Duration::from_millis(200);
/// How long a failure to connect is the answer to others that want a connection.
const REMEMBERED: Duration = Duration::from_millis(50);

/// Whom to connect to.
#[derive(Clone)]
pub(super) enum Target {
    Server(Box<Client>),
    /// The application's own connection, which connects again by itself.
    Borrowed(ConnectionManager),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(std::sync::Arc<Sentinels>),
}

#[derive(Clone)]
enum Wire {
    Own(MultiplexedConnection),
    Borrowed(ConnectionManager),
}

#[derive(Clone)]
struct Current {
    wire: Wire,
    number: u64,
    since: Instant,
}

/// A connection that is shared by all operations, and what is known about the server at its other end.
pub(super) struct Link {
    /// What it is for, as events call it.
    operations: &'static str,
    target: Target,
    limits: Limits,
    current: Mutex<Option<Current>>,
    /// Held while connecting, so that one does it for all. The failure that was the last.
    connecting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    breaker: Mutex<Breaker>,
    /// What keeps the answers to reads: with it, each read brings the time that is left, too.
    near: Option<Arc<Near>>,
}

#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of one operation.
    pub(super) timeout: Duration,
    /// Whether operations are refused while the server does not answer.
    pub(super) fail_fast: bool,
}

impl Limits {
    /// How long to wait for something that comes before the operation itself.
    pub(super) fn part(&self) -> Duration {
        self.timeout / 2
    }

    pub(super) fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            // A little less than an operation has, so that one that waited for it can say that nothing was sent.
            .set_connection_timeout(Some(self.timeout / 10 * 9))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1000)
    }
}

impl Link {
    pub(super) fn new(operations: &'static str, target: Target, limits: Limits, near: Option<Arc<Near>>) -> Self {
        Self {
            operations,
            target,
            limits,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            breaker: Mutex::default(),
            near,
        }
    }

    /// Sends the command and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        self.admit(attempt).await?;
        let both = self.near.as_ref().and_then(|_| with_time_left(command));
        let message = both.as_ref().map_or(Message::One(command), Message::Both);
        self.watched(message, attempt, self.limits.timeout / 4 * 3).await
    }

    /// The same for a command that another node of the cluster sent here, while it hands over a slot.
    #[cfg(feature = "redis-cluster")]
    pub(super) async fn send_asking(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        let mut both = Pipeline::with_capacity(2);
        both.cmd("ASKING").ignore().add_command(command.clone());
        self.admit(attempt).await?;
        self.watched(Message::Asking(&both), attempt, self.limits.timeout / 4 * 3).await
    }

    /// Whether operations are refused now.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn is_suspicious(&self) -> bool {
        lock(&self.breaker).is_suspicious()
    }

    /// Refuses the operation if the server is known not to answer, and finds out whether that is still so.
    async fn admit(&self, attempt: Attempt) -> Result<(), Failure> {
        if !self.limits.fail_fast || attempt == Attempt::Next {
            return Ok(());
        }
        let admission = lock(&self.breaker).admit(Instant::now());
        match admission {
            Admission::Pass => Ok(()),
            Admission::Refused => Err(Failure::Open),
            // In a box, as all here that is rare: every operation would have to carry room for it.
            Admission::Probe => Box::pin(self.probe()).await,
        }
    }

    async fn probe(&self) -> Result<(), Failure> {
        let mut probe = Probe { link: self, answered: None };
        let part = self.limits.part();
        let (ping, patience) = (redis::cmd("PING"), part / 4 * 3);
        let answered = match timeout(part, self.watched(Message::One(&ping), Attempt::First, patience)).await {
            Ok(Ok(_)) => true,
            Ok(Err(failure)) => failure.reached(),
            Err(_) => false,
        };
        probe.answered = Some(answered);
        if answered { Ok(()) } else { Err(Failure::Open) }
    }

    /// Sends, and draws the conclusions: about the connection and about the server.
    async fn watched(&self, message: Message<'_>, attempt: Attempt, patience: Duration) -> Result<Value, Failure> {
        let mut watch = Watch { link: self, began: Instant::now(), patience, number: None };
        let current = match self.current() {
            Some(current) => Ok(current),
            None => Box::pin(self.connection()).await,
        };
        let outcome = match current {
            Ok(current) => {
                watch.number = Some(current.number);
                let outcome = current.wire.send(message).await.and_then(Value::extract_error);
                outcome.map_err(|error| Failure::from(&error))
            }
            Err(failure) => Err(failure),
        };
        let number = watch.number;
        std::mem::forget(watch);
        match &outcome {
            Err(failure) if !failure.reached() => {
                if attempt == Attempt::First {
                    lock(&self.breaker).failed();
                }
            }
            _ => {
                let change = lock(&self.breaker).answered();
                self.report(change);
            }
        }
        if let (Err(failure), Some(number)) = (&outcome, number) {
            match failure {
                Failure::Lost => self.leave(number, Duration::ZERO),
                failure if failure.renews() => self.leave(number, YOUNGEST),
                _ => {}
            }
        }
        outcome
    }

    fn report(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Opened => events::refusing(self.operations),
            Change::Closed => events::answering(self.operations),
        }
    }

    fn current(&self) -> Option<Current> {
        lock(&self.current).clone()
    }

    /// Has the next operation use a new connection. What is under way on the old one may still end.
    fn leave(&self, number: u64, youngest: Duration) {
        let is = |current: &mut Current| current.number == number && current.since.elapsed() >= youngest;
        let left = lock(&self.current).take_if(is);
        self.forget(left);
    }

    /// The same whatever the connection is, if it is not a new one.
    pub(super) fn leave_grown(&self) {
        let left = lock(&self.current).take_if(|current| current.since.elapsed() >= YOUNGEST);
        self.forget(left);
    }

    /// Has the next operation use a new connection, whatever this one is.
    pub(super) fn hang_up(&self) {
        let left = lock(&self.current).take();
        self.forget(left);
    }

    /// What was read over this connection is not served any more.
    fn forget(&self, left: Option<Current>) {
        if let (Some(near), Some(left)) = (&self.near, left) {
            near.end(left.number);
        }
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<Current, Failure> {
        let mut last = self.connecting.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        if let Some((_, failure)) = last.as_ref().filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Err(failure.clone());
        }
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        match self.connect(number).await {
            Ok(wire) => {
                let current = Current { wire, number, since: Instant::now() };
                *lock(&self.current) = Some(current.clone());
                *last = None;
                Ok(current)
            }
            Err(failure) => {
                *last = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self, number: u64) -> Result<Wire, Failure> {
        let tracking = self.near.clone().map(|near| Tracking { near, number });
        match &self.target {
            Target::Borrowed(manager) => Ok(Wire::Borrowed(manager.clone())),
            Target::Server(client) => connect(client, self.limits, tracking).await.map(Wire::Own),
            #[cfg(feature = "redis-sentinel")]
            Target::Sentinels(sentinels) => sentinels.connect(self.limits, tracking).await.map(Wire::Own),
        }
    }
}

pub(super) async fn connect(
    client: &Client,
    limits: Limits,
    tracking: Option<Tracking>,
) -> Result<MultiplexedConnection, Failure> {
    #[cfg(feature = "redis-tls")]
    super::tls::prepare();
    let connection = match tracking {
        None => client.get_multiplexed_async_connection_with_config(&limits.config()).await,
        Some(tracking) => tracking.connect(client, limits.config()).await,
    };
    connection.map_err(|error| Failure::while_connecting(&error))
}

/// A `GET`, and how long the value will be there.
fn with_time_left(command: &Cmd) -> Option<Pipeline> {
    let mut args = command.args_iter();
    let (Some(Arg::Simple(b"GET")), Some(Arg::Simple(key))) = (args.next(), args.next()) else { return None };
    let mut both = Pipeline::with_capacity(2);
    both.add_command(command.clone()).cmd("PTTL").arg(key);
    Some(both)
}

/// Of one operation: the attempts after the first one were admitted with it, and their failures do not count again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Next,
}

#[derive(Clone, Copy)]
enum Message<'a> {
    One(&'a Cmd),
    /// Both answers are the answer.
    Both(&'a Pipeline),
    #[cfg(feature = "redis-cluster")]
    Asking(&'a Pipeline),
}

impl Wire {
    async fn send(self, message: Message<'_>) -> RedisResult<Value> {
        match (self, message) {
            (Self::Own(mut wire), Message::One(command)) => wire.send_packed_command(command).await,
            (wire, message) => Box::pin(wire.send_seldom(message)).await,
        }
    }

    async fn send_seldom(self, message: Message<'_>) -> RedisResult<Value> {
        let (commands, skip, count) = match message {
            Message::One(command) => {
                return match self {
                    Self::Own(mut wire) => wire.send_packed_command(command).await,
                    Self::Borrowed(mut wire) => wire.send_packed_command(command).await,
                };
            }
            Message::Both(both) => (both, 0, 2),
            #[cfg(feature = "redis-cluster")]
            Message::Asking(both) => (both, 1, 1),
        };
        let answers = match self {
            Self::Own(mut wire) => wire.send_packed_commands(commands, skip, count).await,
            Self::Borrowed(mut wire) => wire.send_packed_commands(commands, skip, count).await,
        };
        answers.map(|mut answers| if skip > 0 { answers.pop().unwrap_or(Value::Nil) } else { Value::Array(answers) })
    }
}

/// Notices when an operation is dropped that waited for long: its deadline has passed.
struct Watch<'a> {
    link: &'a Link,
    began: Instant,
    patience: Duration,
    number: Option<u64>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.began.elapsed() < self.patience {
            return;
        }
        lock(&self.link.breaker).failed();
        if let Some(number) = self.number {
            // It may be one on which nothing will ever arrive.
            self.link.leave(number, YOUNGEST);
        }
    }
}

/// Ends a probe, broken off or not.
struct Probe<'a> {
    link: &'a Link,
    answered: Option<bool>,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let change = lock(&self.link.breaker).probed(self.answered, Instant::now());
        self.link.report(change);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
