//! The connections to one server, shared by all operations: some for reads, and one for writes.
//!
//! Reads have their own, because a write that Redis holds back (`CLIENT PAUSE WRITE`, as while a failover is prepared) blocks
//! everything that is sent after it on the same connection. All are made together and left together: an address that moved to
//! another server must not leave reads at the former one, where a session that was ended would still be alive.
//!
//! With a near cache, what is read goes over the connection for writes, and one other is there for the time while that is held
//! back: the order of answers and reports on one connection tells whether what was read or written may be kept.
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use redis::{
    Arg, Client, Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionManager, MultiplexedConnection},
};
use tokio::time::timeout;

#[cfg(feature = "redis-sentinel")]
use super::sentinel::{Sentinels, confirm_primary};
use super::{
    clients::address,
    connect::{OperationLimits, connect},
    errors::Failure,
    tracking::Tracking,
};
use crate::{
    cache::{
        circuit::{Admission, CircuitBreaker, Transition},
        near::NearCache,
    },
    events,
};

/// Connections for reads: with one alone, the server waits while this process takes in its answers, and the other way round.
const READS: usize = 3;
/// So many reads after each other go over the same connection. Those that begin at the same moment, as answers to others have
/// just arrived, are sent together then: one call of the operating system at each end.
const CONSECUTIVE: usize = 16;
/// Connections that work are not given up earlier than this, whatever the number of requests that fail.
const YOUNGEST: Duration = Duration::from_millis(200);
/// How long a failure to connect is the answer to others that want a connection.
const REMEMBERED: Duration = Duration::from_millis(50);
/// A connection without an answer for this long is asked whether it lives before an insert, which cannot be repeated.
const IDLE: Duration = Duration::from_secs(1);

/// What to connect to.
pub(super) enum Target {
    Server(Box<Client>),
    /// The application's own connection, which connects again by itself.
    Borrowed(ConnectionManager),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(Sentinels),
}

impl Target {
    /// How errors name the server: by its address, without user and password.
    fn describe(&self) -> String {
        match self {
            Self::Server(client) => address(client),
            Self::Borrowed(_) => "the server of the application's connection".to_owned(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => sentinels.describe(),
        }
    }
}

/// A connection over which commands of many operations travel at the same time.
#[derive(Clone)]
enum SharedConnection {
    Own(MultiplexedConnection),
    Borrowed(ConnectionManager),
}

/// All connections, made together.
struct Connected {
    /// They take turns.
    reads: Vec<SharedConnection>,
    /// How many reads there were.
    count: AtomicUsize,
    writes: SharedConnection,
    number: u64,
    since: Instant,
}

pub(super) struct ReadWriteConnections {
    target: Target,
    limits: OperationLimits,
    current: Mutex<Option<Connected>>,
    /// Held while connecting, so that one operation does it for all. The failure that was the last.
    connecting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    reads: Mutex<CircuitBreaker>,
    writes: Mutex<CircuitBreaker>,
    /// What keeps the answers to reads: with it, each read brings the time that is left, too.
    near: Option<Arc<NearCache>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Reads,
    Writes,
}

impl Purpose {
    fn of(message: &Message) -> Self {
        match message.command().map_or(b"".as_slice(), name) {
            b"GETRANGE" | b"PING" | b"INFO" | b"CLUSTER" => Self::Reads,
            _ => Self::Writes,
        }
    }

    /// As events call it.
    const fn operations(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }
}

/// One of the attempts of an operation. Those after the first one were admitted with it, and their failures do not count
/// again.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    began: Instant,
    is_first: bool,
}

impl Attempt {
    /// The first one, of an operation that began at this time.
    pub(super) const fn first(began: Instant) -> Self {
        Self { began, is_first: true }
    }

    /// Another one, which begins now.
    pub(super) fn next() -> Self {
        Self { began: Instant::now(), is_first: false }
    }
}

/// What the server said.
pub(super) struct Reply {
    pub(super) value: Value,
    /// An earlier attempt of the same operation may have been carried out, too.
    pub(super) repeated: bool,
    /// The number of the connections that it came over; 0 where nothing that it says may be kept.
    pub(super) connection: u64,
}

/// What is sent at a time.
pub(super) enum Message {
    One(Cmd),
    /// Both answers are the answer.
    Both(Pipeline),
    #[cfg(feature = "redis-cluster")]
    Asking(Pipeline),
}

impl Message {
    /// The command, and a question right behind it, if there is one.
    pub(super) fn new(command: Cmd, question: Option<Cmd>) -> Self {
        let Some(question) = question else { return Self::One(command) };
        let mut both = Pipeline::with_capacity(2);
        both.add_command(command).add_command(question);
        Self::Both(both)
    }

    /// The command that it is about.
    pub(super) fn command(&self) -> Option<&Cmd> {
        match self {
            Self::One(command) => Some(command),
            Self::Both(both) => both.cmd_iter().next(),
            #[cfg(feature = "redis-cluster")]
            Self::Asking(both) => both.cmd_iter().nth(1),
        }
    }
}

impl ReadWriteConnections {
    pub(super) fn new(target: Target, limits: OperationLimits, near: Option<Arc<NearCache>>) -> Self {
        let (reads, writes) = Default::default();
        Self { target, limits, current: Mutex::default(), connecting: Default::default(), reads, writes, near }
    }

    /// How errors name the server.
    pub(super) fn describe(&self) -> String {
        self.target.describe()
    }

    /// Sends the message and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, message: &Message, attempt: Attempt) -> Result<Reply, Failure> {
        let purpose = Purpose::of(message);
        self.admit(purpose, attempt).await?;
        match (message, purpose) {
            (Message::Both(_), Purpose::Reads) => return self.send_tracked(message, attempt).await,
            (Message::One(command), _)
                if name(command) == b"SET" && lock(&self.writes).is_idle(attempt.began, IDLE) =>
            {
                Box::pin(self.confirm_connection()).await?;
            }
            _ => {}
        }
        self.send_message(purpose, message, attempt, self.patience()).await
    }

    /// Reads over the connection that reports changes, which is that for writes. A write that the server holds back would
    /// hold back the read, too: after a while the other connection is asked. Where that one answers, all are left, as the
    /// first one may be dead; the answer is one that is not kept.
    async fn send_tracked(&self, both: &Message, attempt: Attempt) -> Result<Reply, Failure> {
        let tracked = self.send_message(Purpose::Reads, both, attempt, self.patience());
        let Some((_, number)) = self.current(Purpose::Reads, both) else { return tracked.await };
        if let Ok(outcome) = timeout(self.limits.timeout / 4, tracked).await {
            return outcome;
        }
        let read = Message::One(both.command().map_or_else(Cmd::new, Cmd::clone));
        let reply = Box::pin(self.send_message(Purpose::Reads, &read, attempt, self.patience())).await?;
        self.leave(number, YOUNGEST);
        Ok(Reply { connection: 0, ..reply })
    }

    /// The same for a command that another node of the cluster sent here, while it hands over a slot. The answer is one that
    /// a near cache does not keep.
    #[cfg(feature = "redis-cluster")]
    pub(super) async fn send_asking(&self, message: &Message, attempt: Attempt) -> Result<Reply, Failure> {
        let mut both = Pipeline::with_capacity(2);
        both.cmd("ASKING").ignore().add_command(message.command().map_or_else(Cmd::new, Cmd::clone));
        let purpose = Purpose::of(message);
        self.admit(purpose, attempt).await?;
        let reply = self.send_message(purpose, &Message::Asking(both), attempt, self.patience()).await?;
        Ok(Reply { connection: 0, ..reply })
    }

    /// After so long an operation that is dropped has waited for its deadline.
    fn patience(&self) -> Duration {
        self.limits.timeout / 4 * 3
    }

    /// Whether another node is the better one to ask.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn is_suspicious(&self) -> bool {
        lock(&self.reads).is_suspicious() || lock(&self.writes).is_suspicious()
    }

    /// What was read over these connections.
    pub(super) const fn near(&self) -> Option<&Arc<NearCache>> {
        self.near.as_ref()
    }

    /// Has the next operations use new connections.
    pub(super) fn disconnect(&self) {
        let left = lock(&self.current).take();
        self.forget(left);
    }

    /// Refuses the operation if the server is known not to answer, and finds out whether that is still so.
    async fn admit(&self, purpose: Purpose, attempt: Attempt) -> Result<(), Failure> {
        if !self.limits.fail_fast || !attempt.is_first {
            return Ok(());
        }
        let admission = lock(self.breaker(purpose)).admit(attempt.began);
        match admission {
            Admission::Pass => Ok(()),
            Admission::Refused => Err(Failure::CircuitOpen),
            // In a box, as all here that is rare: every operation would have to carry room for it.
            Admission::Probe => Box::pin(self.probe(purpose)).await,
        }
    }

    async fn probe(&self, purpose: Purpose) -> Result<(), Failure> {
        let mut probe = ProbeGuard { connections: self, purpose, answered: None };
        let part = self.limits.part();
        let ping = Message::One(redis::cmd("PING"));
        let sent = self.send_message(purpose, &ping, Attempt::first(Instant::now()), part / 4 * 3);
        let answered = match timeout(part, sent).await {
            Ok(Ok(_)) => true,
            Ok(Err(failure)) => failure.reached(),
            Err(_) => false,
        };
        probe.answered = Some(answered);
        if answered { Ok(()) } else { Err(Failure::CircuitOpen) }
    }

    /// Finds out whether the connection for writes lives. A lost one is replaced by the operation that follows.
    async fn confirm_connection(&self) -> Result<(), Failure> {
        if lock(&self.current).is_none() {
            return Ok(());
        }
        let ping = Message::One(redis::cmd("PING"));
        match self.send_message(Purpose::Writes, &ping, Attempt::next(), self.patience()).await {
            Ok(_) | Err(Failure::ConnectionLost) => Ok(()),
            Err(failure) if failure.reached() => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Sends, and draws the conclusions: about the connections and about the server.
    async fn send_message(
        &self,
        purpose: Purpose,
        message: &Message,
        attempt: Attempt,
        patience: Duration,
    ) -> Result<Reply, Failure> {
        let mut guard = AbandonGuard { connections: self, purpose, began: attempt.began, patience, number: None };
        let connection = match self.current(purpose, message) {
            Some(current) => Ok(current),
            None => Box::pin(self.connection(purpose, message)).await,
        };
        let outcome = match connection {
            Ok((connection, number)) => {
                guard.number = Some(number);
                let answer = connection.send(message).await.and_then(Value::extract_error);
                answer
                    .map(|value| Reply { value, repeated: false, connection: number })
                    .map_err(|error| Failure::from(&error))
            }
            Err(failure) => Err(failure),
        };
        let number = guard.number;
        std::mem::forget(guard);
        match &outcome {
            Err(failure) if !failure.reached() => {
                if attempt.is_first {
                    lock(self.breaker(purpose)).failed();
                }
            }
            _ => {
                let change = lock(self.breaker(purpose)).answered(attempt.began);
                report(purpose, change);
            }
        }
        if let (Err(failure), Some(number)) = (&outcome, number) {
            match failure {
                Failure::ConnectionLost => self.leave(number, Duration::ZERO),
                failure if failure.renews() => self.leave(number, YOUNGEST),
                _ => {}
            }
        }
        outcome
    }

    const fn breaker(&self, purpose: Purpose) -> &Mutex<CircuitBreaker> {
        match purpose {
            Purpose::Reads => &self.reads,
            Purpose::Writes => &self.writes,
        }
    }

    fn current(&self, purpose: Purpose, message: &Message) -> Option<(SharedConnection, u64)> {
        lock(&self.current).as_ref().map(|connected| (connected.get(purpose, message), connected.number))
    }

    /// Has the next operations use new connections. Operations under way on the old ones may still end.
    fn leave(&self, number: u64, youngest: Duration) {
        let is = |current: &mut Connected| current.number == number && current.since.elapsed() >= youngest;
        let left = lock(&self.current).take_if(is);
        self.forget(left);
    }

    /// What was read over these connections is not served any more.
    fn forget(&self, left: Option<Connected>) {
        if let (Some(near), Some(left)) = (&self.near, left) {
            near.end(left.number);
        }
    }

    /// The connection, made together with the others if there is none.
    async fn connection(&self, purpose: Purpose, message: &Message) -> Result<(SharedConnection, u64), Failure> {
        let mut last = self.connecting.lock().await;
        if let Some(current) = self.current(purpose, message) {
            return Ok(current);
        }
        if let Some((_, failure)) = last.as_ref().filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Err(failure.clone());
        }
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        match self.connect(number).await {
            Ok(connected) => {
                let connection = connected.get(purpose, message);
                *lock(&self.current) = Some(connected);
                *last = None;
                Ok((connection, number))
            }
            Err(failure) => {
                *last = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self, number: u64) -> Result<Connected, Failure> {
        let (count, tracking) = match &self.near {
            None => (READS, None),
            Some(near) => (1, Some(Tracking { near: near.clone(), number })),
        };
        // One first: where it fails, the others would fail as well.
        let (writes, reads) = match &self.target {
            Target::Borrowed(manager) => {
                let connection = SharedConnection::Borrowed(manager.clone());
                return Ok(Connected::new(vec![connection.clone()], connection, number));
            }
            Target::Server(client) => {
                let writes = connect(client, self.limits, tracking).await?;
                (writes, try_join_all((0..count).map(|_| connect(client, self.limits, None))).await?)
            }
            #[cfg(feature = "redis-sentinel")]
            Target::Sentinels(sentinels) => {
                let client = sentinels.primary(self.limits).await?;
                let primary = async |tracking| {
                    let connection = connect(&client, self.limits, tracking).await?;
                    confirm_primary(connection, &client).await
                };
                (primary(tracking).await?, try_join_all((0..count).map(|_| primary(None))).await?)
            }
        };
        let reads = reads.into_iter().map(SharedConnection::Own).collect();
        Ok(Connected::new(reads, SharedConnection::Own(writes), number))
    }
}

impl Connected {
    fn new(reads: Vec<SharedConnection>, writes: SharedConnection, number: u64) -> Self {
        Self { reads, count: AtomicUsize::new(0), writes, number, since: Instant::now() }
    }

    fn get(&self, purpose: Purpose, message: &Message) -> SharedConnection {
        let next = || self.reads.get(self.count.fetch_add(1, Ordering::Relaxed) / CONSECUTIVE % self.reads.len());
        match (purpose, message) {
            (_, Message::Both(_)) | (Purpose::Writes, _) => self.writes.clone(),
            (Purpose::Reads, _) => next().unwrap_or(&self.writes).clone(),
        }
    }
}

fn report(purpose: Purpose, change: Transition) {
    match change {
        Transition::None => {}
        Transition::Opened => events::refusing(purpose.operations()),
        Transition::Closed => events::answering(purpose.operations()),
    }
}

/// `GETRANGE`, and none of its arguments.
fn name(command: &Cmd) -> &[u8] {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => name,
        _ => b"",
    }
}

impl SharedConnection {
    async fn send(self, message: &Message) -> RedisResult<Value> {
        match (self, message) {
            (Self::Own(mut connection), Message::One(command)) => connection.send_packed_command(command).await,
            (connection, message) => Box::pin(connection.send_rare(message)).await,
        }
    }

    async fn send_rare(self, message: &Message) -> RedisResult<Value> {
        let (commands, skip, count) = match message {
            Message::One(command) => {
                return match self {
                    Self::Own(mut connection) => connection.send_packed_command(command).await,
                    Self::Borrowed(mut connection) => connection.send_packed_command(command).await,
                };
            }
            Message::Both(both) => (both, 0, 2),
            #[cfg(feature = "redis-cluster")]
            Message::Asking(both) => (both, 1, 1),
        };
        let answers = match self {
            Self::Own(mut connection) => connection.send_packed_commands(commands, skip, count).await,
            Self::Borrowed(mut connection) => connection.send_packed_commands(commands, skip, count).await,
        };
        let mut answers = answers?;
        if skip > 0 { answers.pop().unwrap_or(Value::Nil).extract_error() } else { both(answers) }
    }
}

/// What became of the command counts: where the question alone failed, its answer is missing.
fn both(answers: Vec<Value>) -> RedisResult<Value> {
    let mut answers = answers.into_iter().map(Value::extract_error);
    let command = answers.next().unwrap_or(Ok(Value::Nil))?;
    let question = answers.next().and_then(Result::ok).unwrap_or(Value::Nil);
    Ok(Value::Array(vec![command, question]))
}

/// Notices when an operation is dropped that waited for long: its deadline has passed.
struct AbandonGuard<'a> {
    connections: &'a ReadWriteConnections,
    purpose: Purpose,
    began: Instant,
    patience: Duration,
    number: Option<u64>,
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        if self.began.elapsed() < self.patience {
            return;
        }
        lock(self.connections.breaker(self.purpose)).failed();
        if let Some(number) = self.number {
            // It may be one on which nothing will ever arrive.
            self.connections.leave(number, YOUNGEST);
        }
    }
}

/// Ends a probe, broken off or not.
struct ProbeGuard<'a> {
    connections: &'a ReadWriteConnections,
    purpose: Purpose,
    answered: Option<bool>,
}

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        let change = lock(self.connections.breaker(self.purpose)).probed(self.answered, Instant::now());
        report(self.purpose, change);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_fails_does_not_hide_what_became_of_the_command() {
        let error = || redis::parse_redis_value(b"-MOVED 1 127.0.0.1:1\r\n").unwrap();
        assert!(matches!(error(), Value::ServerError(_)));
        let done = Value::Array(vec![Value::Int(1), Value::Nil]);
        assert_eq!(both(vec![Value::Int(1), error()]).unwrap(), done);
        assert_eq!(both(vec![Value::Int(1), Value::Nil]).unwrap(), done);
        assert!(both(vec![error(), Value::Int(1)]).is_err());
    }
}
