//! What sends one command: to one server, or to the node of a cluster that has the key.
use std::sync::Arc;

use redis::{Cmd, Value};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{
    errors::Failure,
    link::{Attempt, Limits, Target},
    near::Near,
    pair::Pair,
};

/// Something that sends one command. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    /// To whoever is in charge of all keys.
    Whole(Arc<Pair>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Arc<Cluster>),
}

impl Connection {
    pub(super) fn to(target: Target, limits: Limits, near: Option<Arc<Near>>) -> Self {
        Self::Whole(Arc::new(Pair::new(target, limits, near)))
    }

    /// Sends the command and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        match self {
            Self::Whole(pair) => pair.send(command, attempt).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.send(command, attempt).await,
        }
    }

    /// Has the next commands use new connections.
    pub(super) fn hang_up(&self) {
        match self {
            Self::Whole(pair) => pair.hang_up(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.hang_up(),
        }
    }
}
