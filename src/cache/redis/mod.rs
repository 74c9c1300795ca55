//! Sessions in Redis or Valkey: one command or one script for each operation.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value, aio::ConnectionManager};
use tokio::time::Instant;

use self::{
    call::{Answer, Caller, Effect},
    connection::Connection,
    layout::Decoded,
    link::Target,
    near::{Changing, Found, Look, Near, Ticket},
    scripts::{Script, Scripts},
};
use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
use crate::{
    clock::{millis, millis_since_epoch, time_of},
    error::{CacheError, CacheErrorKind},
    events,
};

mod breaker;
mod builder;
mod call;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod connection;
mod dial;
mod errors;
mod layout;
mod link;
mod near;
mod pair;
mod scripts;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod server;
#[cfg(feature = "redis-tls")]
mod tls;
mod tracking;

pub use self::builder::RedisCacheBuilder;

/// Sessions in Redis 6.2 or later, or in Valkey, shared by every process that connects to it. Feature `redis`.
///
/// All operations go over two connections that are shared by all clones, one for plain reads and one for the rest:
/// commands of many requests travel together, and a lost connection is built up again. A clone is cheap.
///
/// A plain read is one `GET`, a new entry one `SET`, every other operation one script; none of them names more than
/// one key. Each entry is one string value with a header of 21 bytes in front (version, idle time and end), so that
/// value, version and expiry are always written together. Redis removes what has expired; no entry is without a time
/// to live.
///
/// Reads can be served from this process's memory: see [`near_cache`](RedisCacheBuilder::near_cache).
///
/// Expiry is counted in milliseconds: the idle time by Redis's clock, the end by the clock of this machine. A value
/// under a key of ours that this crate did not write is reported by an event, counts as absent, and is left as it is.
///
/// # Time limits and retries
///
/// Each operation ends within [`timeout`](RedisCacheBuilder::timeout), 500 ms by default, with waiting for a connection
/// counted in. Within it, and only there, a command is sent once more when its connection was lost, and for as long as
/// Redis answers that it is not ready (`LOADING`, `TRYAGAIN`, `CLUSTERDOWN`, `MASTERDOWN`, `READONLY`) or refuses
/// connections. No write takes effect twice: a second try recognises what the first one wrote by its version, and where
/// it cannot tell, the error is a [`Timeout`](crate::CacheErrorKind::Timeout).
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
    caller: Caller,
    scripts: &'static Scripts,
    /// Whether the server has been looked at: once is enough.
    inspected: Arc<AtomicBool>,
    near: Option<Arc<Near>>,
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
        Self::over(Connection::to(Target::Borrowed(connection), limits, None), limits.timeout, None)
    }

    fn over(connection: Connection, timeout: Duration, near: Option<Arc<Near>>) -> Self {
        Self { caller: Caller::new(connection, timeout), scripts: Scripts::all(), inspected: Arc::default(), near }
    }

    /// Looks once whether the server is one to hold sessions. A user who may not ask is not refused for that.
    async fn inspect(&self, deadline: Instant) -> Result<(), CacheError> {
        if self.inspected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let about = self.caller.ask(&server::question("server"), deadline).await;
        if about.is_some_and(|about| server::is_too_old(&about)) {
            return Err(CacheError::new(CacheErrorKind::Unsupported, "the server is older than Redis 6.2"));
        }
        let memory = self.caller.ask(&server::question("memory"), deadline).await;
        if !self.inspected.swap(true, Ordering::Relaxed) && memory.is_some_and(|memory| server::evicts(&memory)) {
            events::evicting();
        }
        Ok(())
    }

    async fn script(&self, script: &Script, effect: Effect, key: &str, args: &[&[u8]]) -> Result<Answer, CacheError> {
        let in_full = || script.by_text(key, args);
        self.caller.call(script.by_hash(key, args), Some(&in_full), effect, self.caller.deadline()).await
    }

    async fn command(&self, command: Cmd, effect: Effect) -> Result<Answer, CacheError> {
        self.caller.call(command, None, effect, self.caller.deadline()).await
    }

    /// What is there, if it has not ended; what has ended is removed.
    async fn look(&self, key: &str, after: u64, deadline: Instant) -> Result<Option<Entry>, CacheError> {
        let (now, after) = (now().to_string(), after.to_string());
        let args = [now.as_bytes(), after.as_bytes()];
        let script = &self.scripts.get_and_touch;
        let in_full = || script.by_text(key, &args);
        let call = self.caller.call(script.by_hash(key, &args), Some(&in_full), Effect::Repeatable, deadline);
        self.entry_in(call.await?.value)
    }

    /// Asks the server, and keeps what it says near.
    async fn fetch(
        &self,
        near: &Near,
        ticket: Ticket,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<Found>, CacheError> {
        let mut command = Cmd::with_capacity(2, 3 + key.len());
        command.arg("GET").arg(key);
        let answer = self.caller.call(command, None, Effect::Repeatable, deadline).await?.value;
        let (raw, left) = match answer {
            Value::Array(both) => match <[Value; 2]>::try_from(both) {
                Ok([raw, Value::Int(left)]) => (raw, left),
                _ => return Err(self.caller.unexpected()),
            },
            _ => return Err(self.caller.unexpected()),
        };
        near.answered(&ticket);
        let Some(Decoded { entry, idle, end }) = self.live_in(raw)? else { return Ok(None) };
        let found = Found { entry, idle, end, left };
        near.keep(&ticket, key, &found);
        Ok(Some(found))
    }

    /// To be held by a write until it is over: then the key is read from the server again.
    fn changing<'a>(&'a self, key: &'a str) -> Option<Changing<'a>> {
        self.near.as_ref().map(|near| near.changing(key))
    }

    fn entry_in(&self, answer: Value) -> Result<Option<Entry>, CacheError> {
        Ok(self.live_in(answer)?.map(|decoded| decoded.entry))
    }

    /// The live entry in an answer, if there is one.
    fn live_in(&self, answer: Value) -> Result<Option<Decoded>, CacheError> {
        let raw = match answer {
            Value::Nil => return Ok(None),
            Value::BulkString(raw) => raw,
            _ => return Err(self.caller.unexpected()),
        };
        match layout::decode(raw.into()) {
            Some(decoded) => Ok((decoded.end > now()).then_some(decoded)),
            None => {
                tracing::warn!("a value in Redis is not a cache entry: it counts as absent and is left as it is");
                Ok(None)
            }
        }
    }

    async fn try_insert(&self, key: &str, raw: &[u8], ttl: u64, deadline: Instant) -> Result<Tried, CacheError> {
        let mut command = Cmd::with_capacity(6, 32 + key.len() + raw.len());
        command.arg("SET").arg(key).arg(raw).arg("PX").arg(ttl).arg("NX");
        let Answer { value, again } = self.caller.call(command, None, Effect::Once, deadline).await?;
        match value {
            Value::Okay => Ok(Tried::Done),
            Value::Nil if again => Ok(Tried::TakenAgain),
            Value::Nil => Ok(Tried::Taken),
            _ => Err(self.caller.unexpected()),
        }
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection knows the address and the password.
        f.debug_struct("RedisCache").field("timeout", &self.caller.timeout()).finish_non_exhaustive()
    }
}

impl Cache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        if let Some(near) = &self.near {
            return match near.look(key, None) {
                Look::Hit(entry) | Look::Due(entry) => Ok(Some(entry)),
                Look::Miss(ticket) => {
                    // In a box, so that those who find something have little to carry.
                    let found = Box::pin(self.fetch(near, ticket, key, self.caller.deadline())).await?;
                    Ok(found.map(|found| found.entry))
                }
            };
        }
        let mut command = Cmd::with_capacity(2, 3 + key.len());
        command.arg("GET").arg(key);
        self.entry_in(self.command(command, Effect::Repeatable).await?.value)
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        let (after, deadline) = (layout::cut(millis(after)), self.caller.deadline());
        // What needs no restart yet is a plain read.
        if let (Some(near), 1..) = (&self.near, after) {
            match near.look(key, Some(after)) {
                Look::Hit(entry) => return Ok(Some(entry)),
                Look::Due(_) => {}
                Look::Miss(ticket) => match Box::pin(self.fetch(near, ticket, key, deadline)).await? {
                    Some(found) if found.is_due(after) => {}
                    found => return Ok(found.map(|found| found.entry)),
                },
            }
        }
        let _changing = self.changing(key);
        self.look(key, after, deadline).await
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let _changing = self.changing(key);
        let version = entry.version;
        let (raw, ttl) = layout::encode(version, &entry.value, expiry, now());
        let deadline = self.caller.deadline();
        match self.try_insert(key, &raw, ttl, deadline).await? {
            Tried::Done => Ok(true),
            Tried::TakenAgain => match self.look(key, layout::NEVER, deadline).await {
                Ok(Some(entry)) if entry.version == version => Ok(true),
                _ => Err(errors::unknown_outcome()),
            },
            // What is there may be past its end and kept by Redis all the same: then it is gone after a look.
            Tried::Taken => match self.look(key, layout::NEVER, deadline).await? {
                Some(entry) => Ok(entry.version == version),
                None => match self.try_insert(key, &raw, ttl, deadline).await? {
                    Tried::Done => Ok(true),
                    Tried::Taken => Ok(false),
                    Tried::TakenAgain => Err(errors::unknown_outcome()),
                },
            },
        }
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let _changing = self.changing(key);
        let (version, now) = (entry.version, now());
        let (raw, ttl) = layout::encode(version, &entry.value, expiry, now);
        let expected = u64::from(expected).to_be_bytes();
        let (now, ttl) = (now.to_string(), ttl.to_string());
        let args: [&[u8]; 4] = [now.as_bytes(), &expected, &raw, ttl.as_bytes()];
        let Answer { value, again } = self.script(&self.scripts.replace, Effect::Once, key, &args).await?;
        match value {
            Value::Int(1) => Ok(Replaced::Done),
            value => match self.entry_in(value)? {
                Some(entry) if entry.version == version => Ok(Replaced::Done),
                _ if again => Err(errors::unknown_outcome()),
                Some(entry) => Ok(Replaced::Conflict(entry)),
                None => Ok(Replaced::Missing),
            },
        }
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        let _changing = self.changing(key);
        let now = now().to_string();
        match self.script(&self.scripts.touch, Effect::Repeatable, key, &[now.as_bytes()]).await?.value {
            Value::Int(touched) => Ok(touched == 1),
            _ => Err(self.caller.unexpected()),
        }
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let _changing = self.changing(key);
        let (now, expected) = (now().to_string(), u64::from(expected).to_be_bytes());
        let args: [&[u8]; 2] = [now.as_bytes(), &expected];
        let Answer { value, again } = self.script(&self.scripts.delete, Effect::Once, key, &args).await?;
        match value {
            Value::Int(1) => Ok(Deleted::Done),
            value => match self.entry_in(value)? {
                None if again => Ok(Deleted::Done),
                Some(_) if again => Err(errors::unknown_outcome()),
                Some(entry) => Ok(Deleted::Conflict(entry)),
                None => Ok(Deleted::Missing),
            },
        }
    }

    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let (now, end) = (now().to_string(), list_end(end).to_string());
        let args = [now.as_bytes(), end.as_bytes(), member.as_bytes()];
        match self.script(&self.scripts.list_add, Effect::Repeatable, list, &args).await?.value {
            Value::Int(members) => Ok(usize::try_from(members).unwrap_or_default()),
            _ => Err(self.caller.unexpected()),
        }
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        if members.is_empty() {
            return Ok(());
        }
        let now = now().to_string();
        let args: Vec<&[u8]> = [now.as_bytes()].into_iter().chain(members.iter().map(String::as_bytes)).collect();
        self.script(&self.scripts.list_remove, Effect::Repeatable, list, &args).await.map(drop)
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        // A number that Lua counts exactly.
        let (now, limit) = (now().to_string(), limit.min(1 << 30).to_string());
        let end = after.map_or(0, |after| list_end(after.end)).to_string();
        let name = after.map_or("", |after| after.name.as_str());
        let args = [now.as_bytes(), end.as_bytes(), name.as_bytes(), limit.as_bytes()];
        let answer = self.script(&self.scripts.list_page, Effect::Repeatable, list, &args).await?;
        let members: Vec<(String, u64)> =
            redis::from_redis_value(answer.value).map_err(|_| self.caller.unexpected())?;
        Ok(members.into_iter().map(|(name, end)| ListMember::new(name, time_of(end))).collect())
    }

    async fn ping(&self) -> Result<(), CacheError> {
        let deadline = self.caller.deadline();
        self.caller.call(redis::cmd("PING"), None, Effect::Repeatable, deadline).await?;
        self.inspect(deadline).await
    }
}

/// What came of a `SET … NX`.
enum Tried {
    Done,
    Taken,
    /// On a second try, so that it may be the first one that took it.
    TakenAgain,
}

/// A score that a sorted set keeps exactly.
fn list_end(end: SystemTime) -> u64 {
    millis_since_epoch(end).min(layout::LONGEST)
}

fn now() -> u64 {
    millis_since_epoch(SystemTime::now())
}
