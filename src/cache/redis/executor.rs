//! One operation: its time limit, the server that has the key, and what is tried again.
use std::{ops::Deref, sync::Arc, time::Duration};

use redis::{Arg, Cmd, Value};
use tokio::time::{Instant, sleep, timeout_at};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{
    connections::{Attempt, Message, ReadWriteConnections, Reply},
    errors::{Failure, unexpected, unknown_outcome},
    scripts::{LuaScript, ScriptArg},
};
use crate::{
    cache::near::NearCache,
    error::{CacheError, CacheErrorKind},
};

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
    /// A script, over this key, with these arguments.
    LuaScript(&'a LuaScript, &'a str, &'a [ScriptArg<'a>]),
}

/// When an operation began, and when it has to end.
#[derive(Clone, Copy)]
pub(super) struct TimeLimit {
    began: Instant,
    deadline: Instant,
}

/// Clones share the connections.
#[derive(Clone)]
pub(super) enum Servers {
    /// One server with all keys.
    One(Arc<ReadWriteConnections>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Arc<Cluster>),
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

    /// That of an operation that begins now.
    pub(super) fn time_limit(&self) -> TimeLimit {
        let began = Instant::now();
        TimeLimit { began, deadline: began.checked_add(self.timeout).unwrap_or(began + FAR) }
    }

    /// An answer of another type than the command has. Answers and questions may be out of step, so that the next answer
    /// would belong to another question: the connections are left.
    pub(super) fn unexpected(&self) -> CacheError {
        self.disconnect();
        unexpected()
    }

    /// Sends the request within the time limit, again where `repeat` allows it. With a `question` right behind it, on the
    /// connection that reports changes, the answer is an array of both answers; elsewhere the question is left out.
    pub(super) fn execute<'a>(
        &'a self,
        request: Request<'a>,
        question: Option<Cmd>,
        repeat: Repeat,
        limit: TimeLimit,
    ) -> impl Future<Output = Result<Reply, CacheError>> + 'a {
        // In a box: the callers' futures are moved more often than once, with room for all that they wait for.
        let tries = Box::pin(self.tries(request, question, repeat, limit));
        async move {
            timeout_at(limit.deadline, tries).await.unwrap_or_else(|_| {
                let text = format!("Redis did not answer within {:?}: {}", self.timeout, self.describe());
                Err(CacheError::new(CacheErrorKind::Timeout, text))
            })
        }
    }

    /// Sends a question once. `None`: no answer in time.
    pub(super) async fn ask(&self, command: Cmd, limit: TimeLimit) -> Option<Result<Value, Failure>> {
        let (message, attempt) = (Message::One(command), Attempt::first(Instant::now().into_std()));
        let asked = timeout_at(limit.deadline, self.send(&message, attempt));
        Some(asked.await.ok()?.map(|reply| reply.value))
    }

    async fn tries(
        &self,
        request: Request<'_>,
        question: Option<Cmd>,
        repeat: Repeat,
        limit: TimeLimit,
    ) -> Result<Reply, CacheError> {
        let (command, mut in_full) = match request {
            Request::Command(command) => (command, None),
            Request::LuaScript(script, key, args) => {
                (script.by_hash(key, args), Some((script, key, args, question.clone())))
            }
        };
        let mut message = Message::new(command, question);
        let mut repeated = false;
        let mut pause = FIRST_PAUSE;
        let mut attempt = Attempt::first(limit.began.into_std());
        loop {
            let failure = match self.send(&message, attempt).await {
                Ok(reply) => return Ok(Reply { repeated, ..reply }),
                Err(failure) => failure,
            };
            match failure {
                Failure::NoScript if in_full.is_some() => {
                    if let Some((script, key, args, question)) = in_full.take() {
                        message = Message::new(script.by_text(key, args), question);
                    }
                }
                Failure::ConnectionLost if !repeated && repeat != Repeat::Never => repeated = true,
                Failure::ConnectionLost if repeat == Repeat::Never => return Err(unknown_outcome()),
                // Where time would run out on the way, this answer is the better one: it says that nothing was done.
                Failure::NotReady(_)
                    if limit.deadline.saturating_duration_since(Instant::now()) >= self.timeout / 4 + pause =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                _ if repeated && repeat == Repeat::ByVersion => return Err(unknown_outcome()),
                failure => return Err(self.error(failure, message.command().map_or("", name))),
            }
            attempt = Attempt::next();
        }
    }

    /// The error of an operation that ends with this failure.
    pub(super) fn error(&self, failure: Failure, command: &str) -> CacheError {
        let (kind, text) = failure.describe(command);
        let servers = self.describe();
        // A failure to connect names the server itself.
        let text = if text.contains(&servers) { text.into_owned() } else { format!("{text}: {servers}") };
        CacheError::new(kind, text)
    }

    /// Sends the message and waits for the answer, without a limit of its own.
    async fn send(&self, message: &Message, attempt: Attempt) -> Result<Reply, Failure> {
        match &self.servers {
            Servers::One(connections) => connections.send(message, attempt).await,
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => cluster.send(message, attempt).await,
        }
    }

    /// The near cache of the server that has the key, if it is known and if there is one.
    #[cfg_attr(not(feature = "redis-cluster"), allow(unused_variables, reason = "one server has all keys"))]
    pub(super) fn near(&self, key: &str) -> Option<NearCacheRef<'_>> {
        match &self.servers {
            Servers::One(connections) => connections.near().map(|near| NearCacheRef::One(near)),
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => cluster.near(key).map(NearCacheRef::OfNode),
        }
    }

    /// Has the key read from the server again: this process changed it, or may have. `except`: the near cache that has the
    /// new entry.
    pub(super) fn invalidate(&self, key: &str, except: Option<&NearCache>) {
        let invalidate = |near: &NearCache| {
            if !except.is_some_and(|except| std::ptr::eq(near, except)) {
                near.invalidate(key.as_bytes());
            }
        };
        match &self.servers {
            Servers::One(connections) => connections.near().into_iter().for_each(|near| invalidate(near)),
            // At every node, as the slot may have moved meanwhile.
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => cluster.each_near(invalidate),
        }
    }

    /// Has the next operations use new connections.
    fn disconnect(&self) {
        match &self.servers {
            Servers::One(connections) => connections.disconnect(),
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => cluster.disconnect(),
        }
    }

    /// How errors name them: by addresses, without user and password.
    fn describe(&self) -> String {
        match &self.servers {
            Servers::One(connections) => connections.describe(),
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => cluster.describe(),
        }
    }
}

/// The near cache of one server.
pub(super) enum NearCacheRef<'a> {
    One(&'a NearCache),
    /// A node of a cluster may be left at any time.
    #[cfg(feature = "redis-cluster")]
    OfNode(Arc<NearCache>),
}

impl Deref for NearCacheRef<'_> {
    type Target = NearCache;

    fn deref(&self) -> &NearCache {
        match self {
            Self::One(near) => near,
            #[cfg(feature = "redis-cluster")]
            Self::OfNode(near) => near,
        }
    }
}

/// `GETRANGE`, and none of its arguments.
fn name(command: &Cmd) -> &str {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
        _ => "",
    }
}
