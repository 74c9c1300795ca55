//! The servers that a soak runs on, and the caches in front of them.
use std::{env, path::PathBuf, time::Duration};

use cloakroom::{BoxedCache, RedisCache, SessionStore};

use super::shared::{Failure, Store};

#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(clippy::duplicate_mod, reason = "the tests that mount this example have it as well")]
mod support;

#[cfg(feature = "mysql")]
use support::mariadb_server;
#[cfg(feature = "postgres")]
use support::postgres_server;
pub use support::redis_server;

/// Runs until it is dropped, if it was started here.
pub struct Server {
    url: String,
    _running: Running,
}

enum Running {
    Elsewhere,
    Redis(redis_server::RedisServer),
    #[cfg(feature = "postgres")]
    Postgres(postgres_server::PostgresServer),
    #[cfg(feature = "mysql")]
    MariaDb(mariadb_server::MariaDbServer),
    Files(PathBuf),
}

impl Server {
    pub fn start(kind: &str) -> Result<Self, Failure> {
        let elsewhere = match kind {
            "redis" => "REDIS_URL",
            "postgres" => "DATABASE_URL",
            "mysql" => "MYSQL_URL",
            _ => "",
        };
        if let Ok(url) = env::var(elsewhere) {
            return Ok(Self { url, _running: Running::Elsewhere });
        }
        let (url, running) = match kind {
            "redis" => {
                let server = redis_server::RedisServer::start();
                (server.url(), Running::Redis(server))
            }
            #[cfg(feature = "postgres")]
            "postgres" => {
                let server = postgres_server::PostgresServer::start_with(&["fsync=on", "shared_buffers=256MB"]);
                (server.url(), Running::Postgres(server))
            }
            #[cfg(feature = "mysql")]
            "mysql" => {
                let server = mariadb_server::MariaDbServer::start_with(&[
                    "--innodb-flush-log-at-trx-commit=1",
                    "--innodb-buffer-pool-size=256M",
                    "--innodb-log-file-size=256M",
                ]);
                (server.url(), Running::MariaDb(server))
            }
            "sqlite" => {
                let dir = env::temp_dir().join(format!("cloakroom-soak-{}", std::process::id()));
                std::fs::create_dir_all(&dir)?;
                (format!("sqlite:{}", dir.join("sessions.db").display()), Running::Files(dir))
            }
            other => return Err(format!("no server {other}, or its feature is off").into()),
        };
        Ok(Self { url, _running: running })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::Files(dir) = &self._running {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

/// A patient one, with its tables if it has any.
pub async fn store(url: &str) -> Result<Store, Failure> {
    let cache = match url.split(':').next() {
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let cache = cloakroom::PostgresCache::builder(url).timeout(PATIENCE).build().await?;
            cache.migrate().await?;
            BoxedCache::new(cache)
        }
        #[cfg(feature = "mysql")]
        Some("mysql" | "mariadb") => {
            let cache = cloakroom::MySqlCache::builder(url).timeout(PATIENCE).build().await?;
            cache.migrate().await?;
            BoxedCache::new(cache)
        }
        #[cfg(feature = "sqlite")]
        Some("sqlite") => {
            let cache = cloakroom::SqliteCache::builder(url).timeout(PATIENCE).build().await?;
            cache.migrate().await?;
            BoxedCache::new(cache)
        }
        _ => BoxedCache::new(RedisCache::builder(url).timeout(PATIENCE).build().await?),
    };
    Ok(SessionStore::new(cache).deadline(2 * PATIENCE))
}
