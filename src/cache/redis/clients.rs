//! From URLs and settings to clients, with which connections are made.
use std::time::Duration;

use redis::{Client, ConnectionInfo, IntoConnectionInfo, io::tcp::socket2::TcpKeepalive};
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use redis::{ConnectionAddr, RedisConnectionInfo, RedisResult};

use crate::error::{CacheError, CacheErrorKind};

/// Certificates, in PEM.
#[derive(Clone, Default)]
pub(super) struct Certificates {
    #[cfg(feature = "redis-tls")]
    pub(super) root: Option<Vec<u8>>,
    #[cfg(feature = "redis-tls")]
    pub(super) client: Option<redis::ClientTlsConfig>,
}

/// What a user sets beside URLs, and over what is in them.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<u16>,
}

impl Credentials {
    pub(super) fn over(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut redis = info.redis_settings().clone();
        if let Some(username) = &self.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password);
        }
        if let Some(database) = self.database {
            redis = redis.set_db(database.into());
        }
        info.set_redis_settings(redis)
    }
}

/// Reads a URL; the error of the client would repeat parts of it.
pub(super) fn read(url: &str) -> Result<ConnectionInfo, CacheError> {
    let info = url.into_connection_info().map_err(|_| unusable(url))?;
    match info.addr() {
        redis::ConnectionAddr::TcpTls { insecure: true, .. } => Err(CacheError::new(
            CacheErrorKind::Unsupported,
            "`#insecure` in the URL: the certificate of the server is always checked",
        )),
        redis::ConnectionAddr::TcpTls { .. } if !cfg!(feature = "redis-tls") => Err(unusable(url)),
        _ => Ok(info),
    }
}

fn unusable(url: &str) -> CacheError {
    if url.starts_with("rediss:") && !cfg!(feature = "redis-tls") {
        CacheError::new(CacheErrorKind::Unsupported, "a `rediss:` URL needs the feature `redis-tls`")
    } else {
        CacheError::new(
            CacheErrorKind::Other,
            "the Redis URL cannot be read: redis://[user][:password@]host[:port][/database], the same with rediss:, \
             or unix:///path/to/socket",
        )
    }
}

/// A connection that rests for so long is probed by the operating system: what is between forgets one that is silent, and one
/// whose other end is gone without a word is found out.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A client for this server. Certificates count where TLS is in use.
pub(super) fn client(info: ConnectionInfo, certificates: &Certificates) -> Result<Client, CacheError> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let tcp = info.tcp_settings().clone().set_keepalive(keepalive);
    let info = info.set_tcp_settings(tcp);
    let unreadable = || CacheError::new(CacheErrorKind::Other, "a certificate or key cannot be read: PEM is expected");
    let unusable = |_| unreadable();
    #[cfg(feature = "redis-tls")]
    if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        // Without any in it, every server would be refused, without a word on why.
        let is_empty = |pem: &Vec<u8>| !pem.windows(17).any(|part| part == b"BEGIN CERTIFICATE");
        if certificates.root.as_ref().is_some_and(is_empty) {
            return Err(unreadable());
        }
        let (root_cert, client_tls) = (certificates.root.clone(), certificates.client.clone());
        return Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert }).map_err(unusable);
    }
    let _ = certificates;
    Client::open(info).map_err(unusable)
}

/// Where the server is, without user and password.
pub(super) fn address(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// How to connect to servers that are found only later.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
#[derive(Clone)]
pub(super) struct ServerSettings {
    pub(super) redis: RedisConnectionInfo,
    pub(super) tls: bool,
    pub(super) certificates: Certificates,
}

#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
impl ServerSettings {
    /// As to the server at `info`.
    pub(super) fn like(info: &ConnectionInfo, certificates: &Certificates) -> Self {
        let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        Self { redis: info.redis_settings().clone(), tls, certificates: certificates.clone() }
    }

    pub(super) fn client(&self, host: &str, port: u16) -> Result<Client, CacheError> {
        let host = host.to_owned();
        let addr = if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info: RedisResult<ConnectionInfo> = addr.into_connection_info();
        match info {
            Ok(info) => client(info.set_redis_settings(self.redis.clone()), &self.certificates),
            Err(_) => Err(CacheError::new(CacheErrorKind::Other, "the address of a server cannot be used")),
        }
    }
}
