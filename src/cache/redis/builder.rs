//! The cache in Redis is made: over a URL with its settings, or over a connection of the application.
use std::{fmt, sync::Arc, time::Duration};

use redis::aio::ConnectionManager;

#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use super::clients::ServerSettings;
use super::{
    RedisCache,
    clients::{self, Certificates, Credentials},
    connect::OperationLimits,
    connections::{ReadWriteConnections, Target},
    executor::{CommandExecutor, Servers},
    scripts::LuaScripts,
};
use crate::{
    cache::{
        Cache,
        near::{NearCache, Reports},
    },
    error::{CacheError, CacheErrorKind},
};

pub(super) const DEFAULT_LIMITS: OperationLimits =
    OperationLimits { timeout: Duration::from_millis(500), fail_fast: true };
const DEFAULT_MAX_ENTRY_BYTES: usize = 16 << 20;
/// What a string in Redis can have.
const LONGEST_STRING: usize = 512 << 20;

/// Settings of a [`RedisCache`], from [`RedisCache::builder`], `RedisCache::sentinel` or `RedisCache::cluster`.
///
/// # Example
/// ```no_run
/// use std::time::Duration;
/// use cloakroom::RedisCache;
///
/// # fn run(password: String) -> Result<(), cloakroom::CacheError> {
/// let cache = RedisCache::builder("redis://127.0.0.1:6379/1")
///     .username("sessions")
///     .password(password)
///     .timeout(Duration::from_millis(250))
///     .build_lazy()?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing before `build` or `build_lazy`"]
pub struct RedisCacheBuilder {
    topology: Topology,
    credentials: Credentials,
    certificates: Certificates,
    limits: OperationLimits,
    near: usize,
    max_entry_bytes: usize,
}

#[derive(Clone)]
enum Topology {
    One(String),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(Vec<String>, String),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<String>),
}

impl RedisCacheBuilder {
    fn new(topology: Topology) -> Self {
        let (credentials, certificates) = (Credentials::default(), Certificates::default());
        let max_entry_bytes = DEFAULT_MAX_ENTRY_BYTES;
        Self { topology, credentials, certificates, limits: DEFAULT_LIMITS, near: 0, max_entry_bytes }
    }

    /// The user of Redis (ACL) that holds the sessions, in place of the one in the URL.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.credentials.username = Some(username.into());
        self
    }

    /// The password, in place of the one in the URL. Unlike there, no character needs to be escaped.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials.password = Some(password.into());
        self
    }

    /// The number of the database, in place of the one in the URL. A cluster has 0 only.
    pub const fn database(mut self, number: u16) -> Self {
        self.credentials.database = Some(number);
        self
    }

    /// The certificate, in PEM, of the authority that vouches for the servers, or several of them. Without it, those
    /// count that browsers know; with it, only it counts.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root = Some(pem.into());
        self
    }

    /// The certificate and its key, in PEM, by which the servers know us.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificates.client = Some(redis::ClientTlsConfig { client_cert: pem.into(), client_key: key.into() });
        self
    }

    /// How long an operation may take, everything counted in: waiting for a connection, reconnecting, a second try.
    /// Default: 500 ms. A millisecond or more, `Duration::MAX` for no limit.
    ///
    /// It should be shorter than the store's own deadline, so that the error names the cause.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// Whether operations are refused at once while a server does not answer, but for one every 250 ms that finds out
    /// whether it does again. Default: `true`.
    ///
    /// Without it every request waits for the time limit during an outage.
    pub const fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.limits.fail_fast = fail_fast;
        self
    }

    /// Keeps what was read in this process, up to so many bytes, and serves reads from there. Default: 0, nothing is kept.
    ///
    /// Redis tells over the connection for reads and writes when something changes that was read over it (`CLIENT
    /// TRACKING`, by the protocol RESP3). So a session that was changed or ended elsewhere is served until that message arrives, usually
    /// for less than a millisecond, and if the connection is dead, for a second at most. When the connection is lost,
    /// everything is dropped before another one is used. What this process writes, it reads at once. Writes compare
    /// versions in Redis as always: the changes of a request that saw an older value are replayed on the newer one.
    ///
    /// An entry counts with its key, its value and 256 bytes for the rest; those that were not read for longest go first.
    /// The user needs the permission `+client|tracking`. More is in [the guide](crate::guide::redis#near-cache).
    ///
    /// In a cluster the bytes are shared out among the nodes, and one connection to each is tracked. A server without
    /// RESP3 or `CLIENT TRACKING` is an error of `build`, and of the first operation after `build_lazy`.
    pub const fn near_cache(mut self, bytes: usize) -> Self {
        self.near = bytes;
        self
    }

    /// The longest entry that is written or read, in bytes. Default: 16,777,216 (16 MiB), at most 512 MiB.
    ///
    /// It bounds what a read can take into memory, whatever was planted in Redis. A longer entry is refused when it is
    /// written ([`Unsupported`](crate::CacheErrorKind::Unsupported)), and counts as unreadable when it is found: there is
    /// no session then, and it can be ended all the same. It has to be larger than
    /// [`SessionStore::max_bytes`](crate::SessionStore::max_bytes).
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Connects, and asks the server whether it answers: an application with wrong settings fails when it starts.
    ///
    /// A user without a permission that the cache needs is refused, and a server whose scripts are switched off. Where the
    /// user may ask with `INFO`, a server older than Redis 6.2 is refused, and an event warns of one that removes live
    /// sessions when its memory is full.
    ///
    /// # Errors
    /// [`Other`](crate::CacheErrorKind::Other) or [`Unsupported`](crate::CacheErrorKind::Unsupported) when a URL or
    /// certificate cannot be used or the server is too old, [`Refused`](crate::CacheErrorKind::Refused) for wrong
    /// credentials, missing permissions and for a server whose certificate is not to be trusted,
    /// [`Unavailable`](crate::CacheErrorKind::Unavailable) or [`Timeout`](crate::CacheErrorKind::Timeout) when no server
    /// answers within the time limit.
    pub async fn build(self) -> Result<RedisCache, CacheError> {
        let cache = self.build_lazy()?;
        cache.ping().await?;
        Ok(cache)
    }

    /// Leaves connecting to the first operation: an application can start while Redis is down, and works once it is up.
    ///
    /// # Errors
    /// [`Other`](crate::CacheErrorKind::Other) or [`Unsupported`](crate::CacheErrorKind::Unsupported) when a URL or
    /// certificate cannot be used.
    pub fn build_lazy(self) -> Result<RedisCache, CacheError> {
        let Self { topology, credentials, certificates, limits, near, max_entry_bytes } = self;
        if limits.timeout < Duration::from_millis(1) {
            let text = "`timeout` is less than a millisecond: no operation would end in time";
            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
        }
        if max_entry_bytes == 0 {
            let text = "`max_entry_bytes` is 0: no session could be stored";
            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
        }
        let one = |target| {
            let near = (near > 0).then(|| Arc::new(NearCache::new(near, Reports::ByServer)));
            Servers::One(ReadWriteConnections::new(target, limits, near).into())
        };
        let servers = match topology {
            Topology::One(url) => {
                let client = clients::client(credentials.over(clients::read(&url)?), &certificates)?;
                one(Target::Server(client.into()))
            }
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinels(urls, name) => {
                let mut sentinels = Vec::with_capacity(urls.len());
                let mut found = None;
                for url in &urls {
                    let info = clients::read(url)?;
                    // What a sentinel is asked with does not say what the servers are asked with.
                    found.get_or_insert_with(|| {
                        let bare = info.clone().set_redis_settings(redis::RedisConnectionInfo::default());
                        ServerSettings::like(&credentials.over(bare), &certificates)
                    });
                    sentinels.push(clients::client(info, &certificates)?);
                }
                let servers = found.ok_or_else(none)?;
                let first = Default::default();
                one(Target::Sentinels(super::sentinel::Sentinels { sentinels, name, servers, first }))
            }
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(urls) => {
                let mut seeds = Vec::with_capacity(urls.len());
                let mut found = None;
                for url in &urls {
                    let info = credentials.over(clients::read(url)?);
                    let address = match info.addr() {
                        redis::ConnectionAddr::Tcp(host, port) | redis::ConnectionAddr::TcpTls { host, port, .. } => {
                            (host.clone(), *port)
                        }
                        _ => {
                            let text = "the nodes of a cluster are found by host and port";
                            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
                        }
                    };
                    if info.redis_settings().db() != 0 {
                        let text = "a cluster has no database but 0";
                        return Err(CacheError::new(CacheErrorKind::Unsupported, text));
                    }
                    found.get_or_insert_with(|| ServerSettings::like(&info, &certificates));
                    seeds.push((address, clients::client(info, &certificates)?));
                }
                let servers = found.ok_or_else(none)?;
                Servers::Cluster(super::cluster::Cluster::new(seeds, servers, limits, near).into())
            }
        };
        Ok(RedisCache::over(servers, limits.timeout, near > 0, max_entry_bytes.min(LONGEST_STRING)))
    }
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
        RedisCacheBuilder::new(Topology::One(url.as_ref().to_owned()))
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
        RedisCacheBuilder::new(Topology::Sentinels(urls.into_iter().map(Into::into).collect(), primary.into()))
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
        RedisCacheBuilder::new(Topology::Cluster(urls.into_iter().map(Into::into).collect()))
    }

    /// Uses a connection that the application already holds, with the default time limit of 500 ms.
    ///
    /// Its own settings stay in force beside that limit: the sooner one counts. Reconnecting is left to it, too, and it
    /// does not reconnect when the server's answer, and not the network, says that it should (a primary that became a
    /// replica, a password that changed). Where that matters, prefer [`connect`](Self::connect).
    #[must_use]
    pub fn from_connection(connection: ConnectionManager) -> Self {
        let limits = DEFAULT_LIMITS;
        let servers = Servers::One(ReadWriteConnections::new(Target::Borrowed(connection), limits, None).into());
        Self::over(servers, limits.timeout, false, DEFAULT_MAX_ENTRY_BYTES)
    }

    fn over(servers: Servers, timeout: Duration, near: bool, max_entry_bytes: usize) -> Self {
        Self {
            executor: CommandExecutor::new(servers, timeout),
            scripts: LuaScripts::all(),
            inspected: Arc::default(),
            near,
            max_entry_bytes,
        }
    }
}

#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
fn none() -> CacheError {
    CacheError::new(CacheErrorKind::Other, "at least one URL is needed")
}

impl fmt::Debug for RedisCacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs have passwords.
        f.debug_struct("RedisCacheBuilder")
            .field("timeout", &self.limits.timeout)
            .field("fail_fast", &self.limits.fail_fast)
            .field("near_cache", &self.near)
            .field("max_entry_bytes", &self.max_entry_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_errors_show_nothing_of_the_url() {
        let builder = RedisCache::builder("redis://user:pa55@10.9.8.7:1/x y").password("pa55");
        let mut shown = format!("{builder:?}");
        shown += &format!("{:?}", builder.build_lazy().unwrap_err());
        for url in ["redis://:pa55@10.9.8.7", "rediss://:pa55@10.9.8.7", "rediss://:pa55@10.9.8.7#insecure", "10.9.8.7"]
        {
            shown += &format!("{:?}", RedisCache::builder(url).build_lazy());
        }
        #[cfg(feature = "redis-tls")]
        {
            let builder = RedisCache::builder("rediss://:pa55@10.9.8.7").client_certificate("pa55", "pa55");
            shown += &format!("{builder:?} {:?}", builder.clone().build_lazy().unwrap_err());
        }
        #[cfg(feature = "redis-sentinel")]
        {
            let builder = RedisCache::sentinel(["redis://:pa55@10.9.8.7"], "pa55");
            shown += &format!("{builder:?} {:?}", builder.clone().build_lazy());
        }
        #[cfg(feature = "redis-cluster")]
        {
            let builder = RedisCache::cluster(["redis://:pa55@10.9.8.7"]);
            shown += &format!("{builder:?} {:?}", builder.clone().build_lazy());
        }
        assert!(!shown.contains("pa55") && !shown.contains("10.9"), "{shown}");
    }

    #[test]
    fn a_url_that_switches_checks_off_is_refused() {
        let error = RedisCache::builder("rediss://10.9.8.7#insecure").build_lazy().unwrap_err();
        assert_eq!(error.kind(), crate::CacheErrorKind::Unsupported);
    }
}
