//! The SQL caches are made: over a URL with its settings, or over a pool of the application.
use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64},
    time::Duration,
};

use sqlx::Pool;

use super::{
    Inner, SqlCache,
    call::StatementExecutor,
    connections::Connections,
    dialect::{Dialect, PoolSettings, Statements, literal},
    failure::Failure,
    near::NotifyingNearCache,
    tables::SqlTables,
};
use crate::error::{CacheError, CacheErrorKind};

/// Settings of a [`SqlCache`], from [`SqlCache::builder`] or [`SqlCacheBuilder::from_pool`].
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use cloakroom::{PostgresCache, SqlTables};
///
/// let cache = PostgresCache::builder("postgres://sessions@db.internal/app")
///     .tables(SqlTables::named("web_sessions")?.in_schema("app")?)
///     .timeout(Duration::from_millis(250))
///     .max_connections(20)
///     .build_lazy()?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing before `build` or `build_lazy`"]
pub struct SqlCacheBuilder<D: Dialect> {
    source: Source<D>,
    tables: SqlTables,
    pool: PoolSettings,
    fail_fast: bool,
    sweeps: bool,
    near: usize,
}

const DEFAULTS: PoolSettings = PoolSettings { connections: 10, timeout: Duration::from_millis(500), pooled: false };

/// sqlx allocates a place for each of them, and ends the process where there is no memory for that.
const MOST_CONNECTIONS: u32 = 10_000;

enum Source<D: Dialect> {
    Url(String),
    Pool(Pool<D::Database>),
}

impl<D: Dialect> SqlCacheBuilder<D> {
    /// Settings for a cache that uses a pool of the application.
    pub fn from_pool(pool: Pool<D::Database>) -> Self {
        Self::over(Source::Pool(pool))
    }

    fn over(source: Source<D>) -> Self {
        Self { source, tables: SqlTables::default(), pool: DEFAULTS, fail_fast: true, sweeps: true, near: 0 }
    }

    /// Which tables hold the sessions. Default: `cloakroom_sessions` and two named after it.
    ///
    /// Stores that share a database and have different tables have nothing in common.
    pub fn tables(mut self, tables: SqlTables) -> Self {
        self.tables = tables;
        self
    }

    /// How long an operation may take, everything counted in: waiting for a connection, connecting, a second try.
    /// Default: 500 ms.
    ///
    /// It should be shorter than the store's own deadline, so that the error names the cause. For SQLite,
    /// the `busy_timeout` of connections that this cache opens is a tenth of it; in a pool of the application it has to be
    /// shorter than this time limit. Zero is an error of `build` and `build_lazy`.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.pool.timeout = timeout;
        self
    }

    /// How many connections this cache opens at most. Default: 10. A pool of the application has a limit of its own.
    ///
    /// Zero counts as one, and more than 10,000 as 10,000: room for all of them is made at the start.
    pub const fn max_connections(mut self, connections: u32) -> Self {
        self.pool.connections = match connections {
            0 => 1,
            1..MOST_CONNECTIONS => connections,
            _ => MOST_CONNECTIONS,
        };
        self
    }

    /// Whether operations are refused at once while the database does not answer, but for one every 250 ms that finds out
    /// whether it does again. Default: `true`.
    ///
    /// Without it every request waits for the time limit during an outage.
    pub const fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Whether a few rows that ended are removed with every 50th insert. Default: `true`.
    ///
    /// Without it, [`sweep`](SqlCache::sweep) or [`sweeper`](SqlCache::sweeper) has to be called by something else.
    pub const fn sweep_with_inserts(mut self, sweep: bool) -> Self {
        self.sweeps = sweep;
        self
    }

    /// Connects, and asks the database whether it answers: an application with a wrong URL fails when it starts.
    ///
    /// The tables need not be there yet: see [`migrate`](SqlCache::migrate).
    ///
    /// # Errors
    /// [`Other`](crate::CacheErrorKind::Other) when the URL cannot be used, [`Refused`](crate::CacheErrorKind::Refused)
    /// for wrong credentials, [`Unavailable`](crate::CacheErrorKind::Unavailable) or
    /// [`Timeout`](crate::CacheErrorKind::Timeout) when no database answers within the time limit.
    pub async fn build(self) -> Result<SqlCache<D>, CacheError> {
        let cache = self.build_lazy()?;
        let executor = &cache.inner.executor;
        executor.tries(super::call::StatementKind::Read, executor.deadline()).acquire().await?.end();
        if let Some(near) = &cache.inner.near {
            near.ready().await?;
        }
        Ok(cache)
    }

    /// Leaves connecting to the first operation: an application can start while the database is down, and works once it
    /// is up. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`Other`](crate::CacheErrorKind::Other) or [`Unsupported`](crate::CacheErrorKind::Unsupported) when the URL or the
    /// settings cannot be used.
    pub fn build_lazy(self) -> Result<SqlCache<D>, CacheError> {
        if self.pool.timeout.is_zero() {
            return Err(CacheError::new(CacheErrorKind::Unsupported, "`timeout` must be greater than zero"));
        }
        if self.near > 0 && self.pool.pooled {
            let text = "`near_cache` needs a connection of its own, which a pooler in transaction mode does not give";
            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
        }
        let connections = match self.source {
            Source::Pool(_) if self.pool.pooled => {
                let text = "`transaction_pooler` is not for a pool of the application, which may log statements";
                return Err(CacheError::new(CacheErrorKind::Unsupported, text));
            }
            Source::Pool(pool) => Connections::of_application(pool, D::ONE_WRITER),
            Source::Url(url) => {
                let pool = D::pool(&url, &self.pool).map_err(|error| match Failure::of(&error, D::answer) {
                    Failure::Rejected(kind, text) => CacheError::new(kind, text),
                    _ => CacheError::new(CacheErrorKind::Other, "the URL of the database cannot be used"),
                })?;
                Connections::own(pool, D::ONE_WRITER)
            }
        };
        let near = match self.near {
            0 => None,
            bytes => D::near(connections.pool(), &self.tables, bytes, self.pool.timeout),
        };
        Ok(finish(connections, &self.tables, self.pool, self.fail_fast, self.sweeps, near))
    }
}

#[cfg(feature = "postgres")]
impl SqlCacheBuilder<super::Postgres> {
    /// Keeps what was read in this process, up to so many bytes, and serves reads from there for a second at most.
    /// Default: 0, nothing is kept.
    ///
    /// Processes with this setting tell each other over one more connection of each (`LISTEN` and `NOTIFY`) what they
    /// write. So a session that was changed or ended elsewhere is served until that message arrives, usually for some
    /// milliseconds, and for a second at most, whatever happens: when that connection is dead, when the other process
    /// ends before it tells, or has no near cache. While the connection is known to be lost, nothing is served. What this process
    /// writes, it reads at once. Writes compare versions in the database as always: the changes of a request that saw an
    /// older value are replayed on the newer one.
    ///
    /// An entry counts with its key, its value and 256 bytes for the rest; those that were not read for longest go first.
    /// More is in [the guide](crate::guide::sql#near-cache).
    ///
    /// Not behind a pooler in transaction mode: there it is an error of `build`, and with
    /// [`transaction_pooler`](Self::transaction_pooler) of `build_lazy` as well.
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub const fn near_cache(mut self, bytes: usize) -> Self {
        self.near = bytes;
        self
    }

    /// For a connection through a pooler in transaction mode, as PgBouncer has it: nothing is prepared, and no setting
    /// is sent along. Default: statements are prepared, once for each connection.
    ///
    /// Each statement then goes out with its values in it, and is planned anew; it stays one round trip. Values are
    /// written as numbers and hexadecimal digits only. PgBouncer 1.21 and later can keep prepared statements
    /// (`max_prepared_statements`): there it does without this setting, but refuses a `statement_timeout` from the client
    /// unless `ignore_startup_parameters` names `options`.
    ///
    /// What logs statements then logs the data of sessions, on the side of the server as well (`log_statement`,
    /// `log_min_duration_statement`, statements that fail). This side logs none; for that reason the setting is not for a
    /// pool of the application: there it is an error of `build` and `build_lazy`.
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub const fn transaction_pooler(mut self) -> Self {
        self.pool.pooled = true;
        self
    }
}

impl<D: Dialect> SqlCache<D> {
    /// Connects to the database at `url`, with the default settings.
    ///
    /// The URL is the one of sqlx: `postgres://user:password@host:port/database`, the same with `mysql:`, or
    /// `sqlite:path/to/file`. Its parameters say how TLS is used: `sslmode`, `sslrootcert` for PostgreSQL, `ssl-mode`,
    /// `ssl-ca` for MySQL. An SQLite file is made if it is not there, and put into WAL mode with `synchronous = NORMAL`.
    ///
    /// # Errors
    /// When the URL cannot be used, or no database there answers within 500 ms. [`builder`](Self::builder) can start
    /// without one.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, CacheError> {
        Self::builder(url).build().await
    }

    /// Uses a pool that the application already holds, with the default settings.
    ///
    /// The pool's own settings stay in force: the sooner time limit counts. Each operation ends with a round trip that
    /// gives the connection back, and begins with another one that tests it, if the pool does so: a pool of this cache's
    /// own spares both.
    #[must_use]
    pub fn from_pool(pool: sqlx::Pool<D::Database>) -> Self {
        finish(Connections::of_application(pool, D::ONE_WRITER), &SqlTables::default(), DEFAULTS, true, true, None)
    }

    /// Settings, before connecting to the database at `url`.
    pub fn builder(url: impl AsRef<str>) -> SqlCacheBuilder<D> {
        SqlCacheBuilder::over(Source::Url(url.as_ref().to_owned()))
    }
}

fn finish<D: Dialect>(
    connections: Connections<D::Database>,
    tables: &SqlTables,
    settings: PoolSettings,
    fail_fast: bool,
    sweeps: bool,
    near: Option<NotifyingNearCache>,
) -> SqlCache<D> {
    let style = if settings.pooled { literal(D::STYLE) } else { D::STYLE };
    let inner = Inner {
        executor: StatementExecutor::new(connections, settings.timeout, fail_fast),
        statements: Statements::new(&D::TEXTS, style, tables),
        schema: SqlCache::<D>::schema(tables),
        near,
        sweeps,
        inserts: AtomicU64::new(0),
        sweeping: AtomicBool::new(false),
        batch: Default::default(),
    };
    SqlCache { inner: inner.into() }
}

impl<D: Dialect> fmt::Debug for SqlCacheBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL has a password.
        f.debug_struct("SqlCacheBuilder")
            .field("tables", &self.tables)
            .field("timeout", &self.pool.timeout)
            .field("max_connections", &self.pool.connections)
            .field("fail_fast", &self.fail_fast)
            .field("near_cache", &self.near)
            .finish_non_exhaustive()
    }
}
