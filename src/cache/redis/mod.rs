//! Sessions in Redis or Valkey: one command or one script for each operation.
use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use redis::aio::ConnectionManager;

use self::{
    connections::{ReadWriteConnections, Target},
    executor::{CommandExecutor, Servers},
    scripts::Scripts,
};
use crate::error::CacheError;

mod builder;
mod clients;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod connect;
mod connections;
mod encoding;
mod errors;
mod executor;
mod operations;
mod scripts;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod server_info;
#[cfg(feature = "redis-tls")]
mod tls;
mod tracking;

pub use self::builder::RedisCacheBuilder;

/// Sessions in Redis 6.2 or later, or in Valkey, shared by every process that connects to it. Feature `redis`.
///
/// All operations go over two connections that are shared by all clones, one for plain reads and one for the rest:
/// commands of many requests travel together, and a lost connection is built up again. A clone is cheap.
///
/// A plain read is one `GETRANGE` up to the longest entry, a new entry one `SET`, every other operation one script; none
/// of them names more than one key. Each entry is one string value with a header of 21 bytes in front (version, idle time and end), so that
/// value, version and expiry are always written together. Redis removes what has expired; no entry is without a time
/// to live. Servers and versions that were tested are in [the guide](crate::guide::redis_servers).
///
/// Reads can be served from this process's memory: see [`near_cache`](RedisCacheBuilder::near_cache).
///
/// Expiry is counted in milliseconds: the idle time by Redis's clock, the end by the clock of this machine. A value
/// that this crate did not write is reported by an event, counts as absent, and is left as it is.
///
/// # Time limits and retries
///
/// Each operation ends within [`timeout`](RedisCacheBuilder::timeout), 500 ms by default, with waiting for a connection
/// counted in. Within it, and only there, a command is sent once more when its connection was lost, and for as long as
/// Redis answers that it is not ready (`LOADING`, `TRYAGAIN`, `CLUSTERDOWN`, `MASTERDOWN`, `READONLY`) or refuses
/// connections. No write takes effect twice: a second try recognises what the first one wrote by its version, an insert
/// has no second try, and where the outcome is unknown, the error is a [`Timeout`](crate::CacheErrorKind::Timeout).
///
/// After a few failures in a row a `PING` finds out whether the server answers at all. While it does not, operations
/// are refused at once with [`Unavailable`](crate::CacheErrorKind::Unavailable), but for one every 250 ms that asks again:
/// see [`fail_fast`](RedisCacheBuilder::fail_fast). There is no task behind it, and no queue. In a cluster this is so for
/// each node.
///
/// # Example
/// ```no_run
/// use cloakroom::RedisCache;
///
/// # async fn run() -> Result<(), cloakroom::CacheError> {
/// let cache = RedisCache::connect("redis://127.0.0.1:6379").await?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisCache {
    executor: CommandExecutor,
    scripts: &'static Scripts,
    /// Whether the server has been asked for its version and its settings: once is enough.
    inspected: Arc<AtomicBool>,
    /// Whether answers are kept in a near cache.
    near: bool,
    /// Of the longest entry that is written or read.
    max_entry_bytes: usize,
}

impl RedisCache {
    /// Connects to the server at `url`, with the default settings.
    ///
    /// The URL is `redis://[user][:password@]host[:port][/database]`, the same with `rediss:` for TLS (feature
    /// `redis-tls`), or `unix:///path/to/socket` with `?db=`, `?user=` and `?pass=`.
    ///
    /// # Errors
    /// When the URL cannot be read, or when no server there answers within 500 ms.
    /// [`builder`](Self::builder) can start without one.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, CacheError> {
        Self::builder(url).build().await
    }

    /// Settings, before connecting to the server at `url`.
    pub fn builder(url: impl AsRef<str>) -> RedisCacheBuilder {
        RedisCacheBuilder::one(url.as_ref())
    }

    /// Settings, before connecting to the primary that these sentinels name, and to the next one after a failover.
    ///
    /// The URLs are those of the sentinels, with user and password only where the sentinels themselves ask for them;
    /// for the servers there are [`username`](RedisCacheBuilder::username), [`password`](RedisCacheBuilder::password)
    /// and [`database`](RedisCacheBuilder::database). With `rediss:` all of them are reached through TLS.
    ///
    /// # Example
    /// ```no_run
    /// use cloakroom::RedisCache;
    ///
    /// # async fn run(password: String) -> Result<(), cloakroom::CacheError> {
    /// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379", "redis://10.0.0.3:26379"];
    /// let cache = RedisCache::sentinel(sentinels, "mymaster").password(password).build().await?;
    /// # drop(cache);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "redis-sentinel")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-sentinel")))]
    pub fn sentinel(
        urls: impl IntoIterator<Item = impl Into<String>>,
        primary: impl Into<String>,
    ) -> RedisCacheBuilder {
        RedisCacheBuilder::sentinels(urls.into_iter().map(Into::into).collect(), primary.into())
    }

    /// Settings, before connecting to the cluster that these nodes belong to.
    ///
    /// One node would do; more are there to begin with when that one is down. The first URL says how all nodes are
    /// connected to: user, password, TLS. Keys are followed when slots move and when a replica takes over; replicas
    /// are never read from.
    ///
    /// # Example
    /// ```no_run
    /// use cloakroom::RedisCache;
    ///
    /// # async fn run() -> Result<(), cloakroom::CacheError> {
    /// let cache = RedisCache::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]).build().await?;
    /// # drop(cache);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "redis-cluster")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-cluster")))]
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> RedisCacheBuilder {
        RedisCacheBuilder::cluster(urls.into_iter().map(Into::into).collect())
    }

    /// Uses a connection that the application already holds, with the default time limit of 500 ms.
    ///
    /// Its own settings stay in force beside that limit: the sooner one counts. Reconnecting is left to it, too, and it
    /// does not reconnect when the server's answer, and not the network, says that it should (a primary that became a
    /// replica, a password that changed). Where that matters, prefer [`connect`](Self::connect).
    #[must_use]
    pub fn from_connection(connection: ConnectionManager) -> Self {
        let limits = builder::DEFAULT_LIMITS;
        let servers = Servers::One(ReadWriteConnections::new(Target::Borrowed(connection), limits, None).into());
        Self::over(servers, limits.timeout, false, builder::DEFAULT_MAX_ENTRY_BYTES)
    }

    fn over(servers: Servers, timeout: Duration, near: bool, max_entry_bytes: usize) -> Self {
        Self {
            executor: CommandExecutor::new(servers, timeout),
            scripts: Scripts::all(),
            inspected: Arc::default(),
            near,
            max_entry_bytes,
        }
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The executor knows the address and the password.
        f.debug_struct("RedisCache").field("timeout", &self.executor.timeout()).finish_non_exhaustive()
    }
}
