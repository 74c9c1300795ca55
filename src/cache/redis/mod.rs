//! Sessions in Redis or Valkey: one command or one script for each operation.
use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use self::{executor::CommandExecutor, scripts::LuaScripts};

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
    scripts: &'static LuaScripts,
    /// Whether the server has been asked for its version and its settings: once is enough.
    inspected: Arc<AtomicBool>,
    /// Whether answers are kept in a near cache.
    near: bool,
    /// Of the longest entry that is written or read.
    max_entry_bytes: usize,
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The executor knows the address and the password.
        f.debug_struct("RedisCache").field("timeout", &self.executor.timeout()).finish_non_exhaustive()
    }
}
