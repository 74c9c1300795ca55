//! Two connections to one server: a write that Redis holds back, as while a failover is prepared, keeps everything
//! waiting that comes after it on the same connection, so reads have one of their own.
use std::sync::Arc;

use redis::{Arg, Cmd, Value};

use super::{
    errors::Failure,
    link::{Attempt, Limits, Link, Target},
    near::Near,
};

pub(super) struct Pair {
    reads: Link,
    writes: Link,
}

impl Pair {
    /// With `near`, the answers to `GET` have the time that is left beside the value, for the near cache.
    pub(super) fn new(target: Target, limits: Limits, near: Option<Arc<Near>>) -> Self {
        Self {
            reads: Link::new("reads", target.clone(), limits, near),
            writes: Link::new("writes", target, limits, None),
        }
    }

    /// Sends the command and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        self.judged(self.link(command).send(command, attempt).await)
    }

    /// The same for a command that another node of the cluster sent here, while it hands over a slot.
    #[cfg(feature = "redis-cluster")]
    pub(super) async fn send_asking(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        self.judged(self.link(command).send_asking(command, attempt).await)
    }

    /// Whether there is a better one to ask.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn is_suspicious(&self) -> bool {
        self.reads.is_suspicious() || self.writes.is_suspicious()
    }

    /// Has the next commands use new connections.
    pub(super) fn hang_up(&self) {
        self.reads.hang_up();
        self.writes.hang_up();
    }

    fn link(&self, command: &Cmd) -> &Link {
        match command.args_iter().next() {
            Some(Arg::Simple(b"GET" | b"PING" | b"INFO" | b"CLUSTER")) => &self.reads,
            _ => &self.writes,
        }
    }

    /// A server that is no primary any more is none for reads, either: they would see what was before.
    fn judged(&self, outcome: Result<Value, Failure>) -> Result<Value, Failure> {
        if outcome.as_ref().is_err_and(|failure| failure.reached() && failure.renews()) {
            self.reads.leave_grown();
            self.writes.leave_grown();
        }
        outcome
    }
}
