//! What sends one command: to one server, or to the node of a cluster that has the key.
use std::{ops::Deref, sync::Arc};

use redis::{Cmd, Value};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{
    connections::{Attempt, ReadWriteConnections},
    errors::Failure,
};
use crate::cache::near::NearCache;

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

    /// The near cache of the server that has the key, if it is known and if there is one.
    #[cfg_attr(not(feature = "redis-cluster"), allow(unused_variables, reason = "one server has all keys"))]
    pub(super) fn near(&self, key: &str) -> Option<Near<'_>> {
        match self {
            Self::One(connections) => connections.near().map(|near| Near::One(near)),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.near(key).map(Near::OfNode),
        }
    }

    /// Has the key read from the server again: this process changed it, or may have.
    pub(super) fn invalidate(&self, key: &str) {
        match self {
            Self::One(connections) => connections.near().into_iter().for_each(|near| near.invalidate(key.as_bytes())),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.invalidate(key),
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

/// The near cache of one server.
pub(super) enum Near<'a> {
    One(&'a NearCache),
    /// A node of a cluster may be left at any time.
    #[cfg(feature = "redis-cluster")]
    OfNode(Arc<NearCache>),
}

impl Deref for Near<'_> {
    type Target = NearCache;

    fn deref(&self) -> &NearCache {
        match self {
            Self::One(near) => near,
            #[cfg(feature = "redis-cluster")]
            Self::OfNode(near) => near,
        }
    }
}
