//! What sends one command: to one server, or to the node of a cluster that has the key.
use std::sync::Arc;

use redis::{Cmd, Value};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{
    connections::{Attempt, ReadWriteConnections},
    errors::Failure,
};

/// Clones share the connections.
#[derive(Clone)]
pub(super) enum Servers {
    /// One server with all keys.
    One(Arc<ReadWriteConnections>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Arc<Cluster>),
}

impl Servers {
    /// Sends the command and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, command: &Cmd, attempt: Attempt) -> Result<Value, Failure> {
        match self {
            Self::One(connections) => connections.send(command, attempt).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.send(command, attempt).await,
        }
    }

    /// Has the next operations use new connections.
    pub(super) fn disconnect(&self) {
        match self {
            Self::One(connections) => connections.disconnect(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.disconnect(),
        }
    }

    /// How errors name them: by addresses, without user and password.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::One(connections) => connections.describe(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.describe(),
        }
    }
}
