use std::{fmt, time::Duration};

use redis::Client;

use super::{RedisCache, connection::Connection};
use crate::{
    cache::Cache,
    error::{CacheError, CacheErrorKind},
};

pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

/// Settings of a [`RedisCache`], from [`RedisCache::builder`].
///
/// # Example
/// ```no_run
/// use std::time::Duration;
/// use cloakroom::RedisCache;
///
/// # fn run() -> Result<(), cloakroom::CacheError> {
/// let cache = RedisCache::builder("redis://127.0.0.1:6379/1").timeout(Duration::from_millis(250)).build_lazy()?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing before `build` or `build_lazy`"]
pub struct RedisCacheBuilder {
    url: String,
    timeout: Duration,
}

impl RedisCacheBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), timeout: DEFAULT_TIMEOUT }
    }

    /// How long an operation may take, everything counted in: waiting for a connection, reconnecting, a second try.
    /// Default: 500 ms.
    ///
    /// It should be shorter than the store's own deadline, so that the error names the cause.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects, and asks the server whether it answers: an application with wrong settings fails when it starts.
    ///
    /// # Errors
    /// [`Other`](CacheErrorKind::Other) or [`Unsupported`](CacheErrorKind::Unsupported) when the URL cannot be used,
    /// [`Refused`](CacheErrorKind::Refused) for wrong credentials, [`Unavailable`](CacheErrorKind::Unavailable) or
    /// [`Timeout`](CacheErrorKind::Timeout) when no server answers within the time limit.
    pub async fn build(self) -> Result<RedisCache, CacheError> {
        let cache = self.build_lazy()?;
        cache.ping().await?;
        Ok(cache)
    }

    /// Leaves connecting to the first operation: an application can start while Redis is down, and works once it is up.
    ///
    /// # Errors
    /// [`Other`](CacheErrorKind::Other) or [`Unsupported`](CacheErrorKind::Unsupported) when the URL cannot be used.
    pub fn build_lazy(self) -> Result<RedisCache, CacheError> {
        let client = Client::open(self.url.as_str()).map_err(|_| unusable(&self.url))?;
        Ok(RedisCache::over(Connection::single(client, self.timeout), self.timeout))
    }
}

/// The error of the client would repeat parts of the URL.
fn unusable(url: &str) -> CacheError {
    if url.starts_with("rediss:") {
        CacheError::new(CacheErrorKind::Unsupported, "a `rediss:` URL needs a build with TLS")
    } else {
        CacheError::new(
            CacheErrorKind::Other,
            "the Redis URL cannot be read: redis://[user][:password@]host[:port][/db]",
        )
    }
}

impl fmt::Debug for RedisCacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL has the password.
        f.debug_struct("RedisCacheBuilder").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_errors_show_nothing_of_the_url() {
        let builder = RedisCache::builder("redis://user:pa55@10.9.8.7:1/x y");
        let mut shown = format!("{builder:?}");
        shown += &format!("{:?}", builder.build_lazy().unwrap_err());
        shown += &format!("{:?}", RedisCache::builder("redis://:pa55@10.9.8.7").build_lazy().unwrap());
        shown += &format!("{:?}", RedisCache::builder("rediss://:pa55@10.9.8.7").build_lazy().err());
        assert!(!shown.contains("pa55") && !shown.contains("10.9"), "{shown}");
    }
}
