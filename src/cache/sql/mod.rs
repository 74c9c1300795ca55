//! Sessions in PostgreSQL, MySQL or SQLite: one statement for each operation, where the database has one that does it.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use self::{
    batch::Batch,
    call::{Executed, StatementExecutor, StatementKind, attempt},
    dialect::{Dialect, MEMBERS, Statements, WriteOutcome},
    driver::Cells,
    near::ChangeGuard,
    statement::{Arguments, BUCKET_MS, LARGEST_VALUE},
};
use super::{
    Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version,
    near::{Fetched, FillToken, NearCache, NearLookup},
};
use crate::{
    clock::{millis, millis_since_epoch, time_of},
    error::CacheError,
};

mod batch;
mod breaker;
mod builder;
mod call;
mod connections;
mod dialect;
mod driver;
mod failure;
#[cfg(feature = "postgres")]
mod listen;
#[cfg(feature = "mysql")]
mod mysql;
mod near;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
mod sweep;
mod tables;

#[cfg(feature = "mysql")]
use self::mysql::MySql;
#[cfg(feature = "postgres")]
use self::postgres::Postgres;
#[cfg(feature = "sqlite")]
use self::sqlite::Sqlite;
pub use self::{builder::SqlCacheBuilder, tables::SqlTables};

/// Sessions in PostgreSQL 12 or later, shared by every process that connects to it. Feature `postgres`.
///
/// See [`SqlCache`] for what all SQL caches have in common, and the guide's chapter `guide::sql`.
///
/// # Example
/// ```no_run
/// use cloakroom::PostgresCache;
///
/// # async fn run() -> Result<(), cloakroom::CacheError> {
/// let cache = PostgresCache::connect("postgres://sessions@db.internal/app").await?;
/// cache.migrate().await?; // makes its tables, if they are not there
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "postgres")]
pub type PostgresCache = SqlCache<Postgres>;

/// Sessions in MySQL 8, MariaDB 10.6 or later, shared by every process that connects to it. Feature `mysql`.
///
/// See [`SqlCache`] for what all SQL caches have in common, and the guide's chapter `guide::sql`.
///
/// # Example
/// ```no_run
/// use cloakroom::MySqlCache;
///
/// # async fn run() -> Result<(), cloakroom::CacheError> {
/// let cache = MySqlCache::connect("mysql://sessions@db.internal/app").await?;
/// cache.migrate().await?; // makes its tables, if they are not there
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "mysql")]
pub type MySqlCache = SqlCache<MySql>;

/// Sessions in an SQLite file, shared by the processes of one machine, and kept when it restarts. Feature `sqlite`.
///
/// See [`SqlCache`] for what all SQL caches have in common, and the guide's chapter `guide::sql`.
///
/// # Example
/// ```no_run
/// use cloakroom::SqliteCache;
///
/// # async fn run() -> Result<(), cloakroom::CacheError> {
/// let cache = SqliteCache::connect("sqlite:/var/lib/app/sessions.db").await?; // the file is made if need be
/// cache.migrate().await?; // makes its tables, if they are not there
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "sqlite")]
pub type SqliteCache = SqlCache<Sqlite>;

/// Sessions in a SQL database: [`PostgresCache`], [`MySqlCache`] or [`SqliteCache`]. A clone is cheap, and shares all.
///
/// Each entry is a row, each member of an owner's list another one in a table of its own. [`migrate`](Self::migrate) makes
/// the tables, or gives them what a later release adds; [`schema`](Self::schema) prints the SQL for those who apply it
/// themselves. No migration table of the application is touched.
///
/// An operation is one statement outside of any transaction; on MySQL and SQLite a conditional write that was not done
/// is followed by a second one that reads the stored entry. Adding to a list is two: the second counts.
///
/// # Expiry
///
/// Counted in milliseconds, and decided by the statement: what has ended is absent, whether or not its row is still
/// there. The idle time goes by the clock of the database, the end of an entry by the clock of this machine: where that
/// is ahead by some seconds, sessions end those seconds too early for this process, and none is lost for the others.
/// Rows that ended are removed by the [sweep](Self::sweep), a few with every so many inserts; rows that ended by this
/// machine's clock only after five more minutes.
///
/// # Time limits and retries
///
/// Each operation ends within [`timeout`](SqlCacheBuilder::timeout), 500 ms by default, with waiting for a connection
/// counted in. Within it a statement is sent again where that does no harm: after a deadlock or a serialization failure,
/// while the database starts up or is read-only, and, but for an `insert`, when the connection was lost. No write takes
/// effect twice: a second try recognises what the first one wrote by its version, and where it cannot tell, the error
/// is a [`Timeout`](crate::CacheErrorKind::Timeout). A call that is dropped half-way closes its connection, so that no
/// transaction stays open.
///
/// After a few failures in a row, with no answer between them, one operation finds out whether the database answers at
/// all. While it does not, operations are refused at once with [`Unavailable`](crate::CacheErrorKind::Unavailable), but for
/// one every 250 ms that asks again: see [`fail_fast`](SqlCacheBuilder::fail_fast). There is no task behind it.
///
/// # Limits
///
/// Keys, names of lists and their members have at most 1,024 bytes, values at most 8 MiB: what is longer is an error of
/// the kind [`Unsupported`](crate::CacheErrorKind::Unsupported). A larger value in a row is not read: it counts as unreadable,
/// and can be ended all the same. Keys are compared by bytes.
pub struct SqlCache<D: Dialect> {
    inner: Arc<Inner<D>>,
}

struct Inner<D: Dialect> {
    executor: StatementExecutor<D>,
    statements: Statements,
    schema: String,
    near: Option<near::NotifyingNearCache>,
    sweeps: bool,
    inserts: AtomicU64,
    sweeping: AtomicBool,
    batch: Batch,
}

/// What keys, names of lists and members may have: all of them fit an index of every database.
const LONGEST_KEY: usize = 1024;

impl<D: Dialect> SqlCache<D> {
    /// The SQL that makes these tables, for those who apply it themselves: as the owner of the schema, say, while the
    /// role that serves requests may not create any.
    ///
    /// It can be applied again: tables that exist stay.
    #[must_use]
    pub fn schema(tables: &SqlTables) -> String {
        statement::written(D::TEXTS.schema, D::STYLE, tables)
    }

    /// Makes the tables that are not there. Does nothing where all are there and of this layout.
    ///
    /// Any number of processes may do it at once, also while others use the tables.
    ///
    /// # Errors
    /// [`Refused`](crate::CacheErrorKind::Refused) when the role may not create tables and they are not there; others
    /// when the database cannot be reached.
    pub async fn migrate(&self) -> Result<(), CacheError> {
        /// Others may be at it, and an index takes its time.
        const LIMIT: Duration = Duration::from_secs(30);
        let Inner { executor, statements, schema, .. } = &*self.inner;
        let executor = executor.patient();
        let values = Arguments::default();
        let layout = attempt!(executor, StatementKind::Read, call::deadline(LIMIT), |connection| {
            D::rows(connection, &statements.layout, &values)
        });
        if let Ok(Executed { value, .. }) = layout.await
            && value.first().is_some_and(|(layout, ..)| *layout >= LAYOUT)
        {
            return Ok(());
        }
        let made = attempt!(executor, StatementKind::Repeatable, call::deadline(LIMIT), |connection| {
            D::migrate(connection, schema.clone())
        });
        made.await.map(drop)
    }

    fn entry(&self, cells: Vec<Cells>) -> Result<Option<(Entry, bool)>, CacheError> {
        match cells.into_iter().next() {
            None => Ok(None),
            Some((version, Some(value), due)) => {
                Ok(Some((Entry { value: value.into(), version: version_of(version) }, due != 0)))
            }
            Some(_) => Err(failure::unexpected()),
        }
    }

    /// Asks the database, and keeps the answer in the near cache.
    async fn fetch(
        &self,
        near: &NearCache,
        token: FillToken,
        values: &Arguments<'_>,
        deadline: Instant,
    ) -> Result<Option<Fetched>, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let Some(statement) = &statements.get_with_times else { return Err(failure::unexpected()) };
        let found =
            attempt!(executor, StatementKind::Read, deadline, |connection| D::timed(connection, statement, values))
                .await?;
        let Some((version, value, idle, end, left)) = found.value else { return Ok(None) };
        let entry = Entry { value: value.into(), version: version_of(version) };
        let fetched = Fetched { entry, idle: idle.unsigned_abs(), end: end.unsigned_abs(), left };
        near.fill(&token, values.key, &fetched);
        Ok(Some(fetched))
    }

    /// To be held by a write until it is over.
    fn guard<'a>(&'a self, key: &'a str, telling: bool) -> Option<ChangeGuard<'a>> {
        self.inner.near.as_ref().map(|near| near.guard(key, telling))
    }

    async fn list_names(&self, list: &str, names: &[String]) -> Result<(), CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let deadline = executor.deadline();
        let largest = MEMBERS.last().copied().unwrap_or(1);
        for part in names.chunks(largest) {
            let fits = MEMBERS.iter().zip(&statements.list_remove).find(|(count, _)| **count >= part.len());
            let Some((_, statement)) = fits else { continue };
            let values = Arguments { key: list, members: part, ..Arguments::default() };
            let done = attempt!(executor, StatementKind::Repeatable, deadline, |connection| D::execute(
                connection, statement, &values
            ));
            done.await?;
        }
        Ok(())
    }
}

/// What `schema` writes down as the layout of its tables.
const LAYOUT: i64 = 1;

impl<D: Dialect> Clone for SqlCache<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<D: Dialect> fmt::Debug for SqlCache<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool knows the address and the password.
        f.debug_struct(D::NAME).field("timeout", &self.inner.executor.timeout()).finish_non_exhaustive()
    }
}

impl<D: Dialect> Cache for SqlCache<D> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        let Inner { executor, statements, near, .. } = &*self.inner;
        let values = Arguments { key: checked(key)?, now: now(), ..Arguments::default() };
        if let Some(near) = near {
            return match near.cache.find(key, None) {
                NearLookup::Hit(entry) | NearLookup::Due(entry) => Ok(Some(entry)),
                NearLookup::Miss(token) => {
                    let fetched = self.fetch(&near.cache, token, &values, executor.deadline()).await?;
                    Ok(fetched.map(|fetched| fetched.entry))
                }
            };
        }
        let found = attempt!(executor, StatementKind::Read, executor.deadline(), |connection| {
            D::rows(connection, &statements.get, &values)
        });
        Ok(self.entry(found.await?.value)?.map(|(entry, _)| entry))
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        let Inner { executor, statements, near, .. } = &*self.inner;
        let deadline = executor.deadline();
        let values = Arguments { key: checked(key)?, now: now(), after: cut(millis(after)), ..Arguments::default() };
        // What needs no restart yet is a plain read.
        if let (Some(near), after @ 1..) = (near, values.after.unsigned_abs()) {
            match near.cache.find(key, Some(after)) {
                NearLookup::Hit(entry) => return Ok(Some(entry)),
                NearLookup::Due(_) => {}
                NearLookup::Miss(token) => match self.fetch(&near.cache, token, &values, deadline).await? {
                    Some(fetched) if fetched.is_due(after) => {}
                    fetched => return Ok(fetched.map(|fetched| fetched.entry)),
                },
            }
        }
        let _guard = self.guard(key, false);
        let found = attempt!(executor, StatementKind::Read, deadline, |connection| {
            D::rows(connection, &statements.get_and_touch, &values)
        });
        let Some((entry, due)) = self.entry(found.await?.value)? else { return Ok(None) };
        if due {
            let touched = attempt!(executor, StatementKind::Repeatable, deadline, |connection| {
                D::execute(connection, &statements.touch, &values)
            });
            touched.await?;
        }
        Ok(Some(entry))
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let values = written(checked(key)?, &entry, expiry)?;
        // Others keep nothing of what was not there.
        let _guard = self.guard(key, false);
        let inserted = attempt!(executor, StatementKind::Once, executor.deadline(), |connection| {
            D::insert(connection, statements, &values)
        });
        let inserted = inserted.await?.value;
        self.sweep_now_and_then();
        Ok(inserted)
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let values = Arguments { expected: number_of(expected), ..written(checked(key)?, &entry, expiry)? };
        let mut guard = self.guard(key, true);
        let replaced = attempt!(executor, StatementKind::Known, executor.deadline(), |connection| {
            D::replace(connection, statements, &values)
        });
        let Executed { value, again } = replaced.await?;
        match value {
            WriteOutcome::Done => Ok(Replaced::Done),
            WriteOutcome::Conflict(version, _) if version == values.version => Ok(Replaced::Done),
            _ if again => Err(failure::unknown_outcome()),
            other => {
                guard.iter_mut().for_each(ChangeGuard::nothing);
                Ok(match other {
                    WriteOutcome::Conflict(version, value) => {
                        Replaced::Conflict(Entry { value: value.into(), version: version_of(version) })
                    }
                    _ => Replaced::Missing,
                })
            }
        }
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let values = Arguments { key: checked(key)?, now: now(), ..Arguments::default() };
        // What others keep ends sooner, and is then read anew.
        let _guard = self.guard(key, false);
        let touched = attempt!(executor, StatementKind::Repeatable, executor.deadline(), |connection| {
            D::execute(connection, &statements.touch, &values)
        });
        Ok(touched.await?.value > 0)
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let values =
            Arguments { key: checked(key)?, now: now(), expected: number_of(expected), ..Arguments::default() };
        let _guard = self.guard(key, true);
        let deleted = attempt!(executor, StatementKind::Known, executor.deadline(), |connection| {
            D::delete(connection, statements, &values)
        });
        let Executed { value, again } = deleted.await?;
        match value {
            WriteOutcome::Done => Ok(Deleted::Done),
            WriteOutcome::Missing if again => Ok(Deleted::Done),
            WriteOutcome::Conflict(..) if again => Err(failure::unknown_outcome()),
            WriteOutcome::Conflict(version, value) => {
                Ok(Deleted::Conflict(Entry { value: value.into(), version: version_of(version) }))
            }
            WriteOutcome::Missing => Ok(Deleted::Missing),
        }
    }

    /// Counts after the member was added: of several that are added at once, the last one to count sees all of them.
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let end = cut(millis_since_epoch(end));
        let values =
            Arguments { key: checked(list)?, member: checked(member)?, end, now: now(), ..Arguments::default() };
        let counted = attempt!(executor, StatementKind::Repeatable, executor.deadline(), |connection| async {
            D::execute(&mut *connection, &statements.list_add, &values).await?;
            D::rows(connection, &statements.list_count, &values).await
        });
        match counted.await?.value.first() {
            Some((count, ..)) => Ok(usize::try_from(*count).unwrap_or_default()),
            None => Err(failure::unexpected()),
        }
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        self.list_names(checked(list)?, members).await
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut values = Arguments { key: checked(list)?, now: now(), limit, ..Arguments::default() };
        let statement = match after {
            None => &statements.list_first,
            Some(after) => {
                (values.end, values.member) = (cut(millis_since_epoch(after.end)), &after.name);
                &statements.list_after
            }
        };
        let page = attempt!(executor, StatementKind::Read, executor.deadline(), |connection| D::rows(
            connection, statement, &values
        ));
        page.await?.value.into_iter().map(member).collect()
    }

    async fn ping(&self) -> Result<(), CacheError> {
        // What is asked for a readiness probe is asked of the table: a database without it is not ready.
        self.get("cloakroom:ping").await.map(drop)
    }
}

fn member((end, name, _): Cells) -> Result<ListMember, CacheError> {
    let name = name.and_then(|name| String::from_utf8(name).ok()).ok_or_else(failure::unexpected)?;
    Ok(ListMember { end: time_of(u64::try_from(end).unwrap_or_default()), name })
}

/// What a write of this entry says.
fn written<'a>(key: &'a str, entry: &'a Entry, expiry: Expiry) -> Result<Arguments<'a>, CacheError> {
    if entry.value.len() > LARGEST_VALUE {
        return Err(failure::too_large("the value has more than 8 MiB"));
    }
    let (now, idle, end) = (now(), cut(millis(expiry.idle)), cut(millis_since_epoch(expiry.end)));
    let due = (end.min(now + idle) / BUCKET_MS + 1) * BUCKET_MS;
    let version = number_of(entry.version);
    Ok(Arguments { key, value: &entry.value, version, now, idle, end, due, ..Arguments::default() })
}

fn checked(key: &str) -> Result<&str, CacheError> {
    if key.len() > LONGEST_KEY {
        return Err(failure::too_large("a key, or the name of a list or member, has more than 1,024 bytes"));
    }
    Ok(key)
}

fn now() -> i64 {
    cut(millis_since_epoch(SystemTime::now()))
}

/// Milliseconds as a database counts them, cut to some eight thousand years: sums of two do not overflow.
fn cut(ms: u64) -> i64 {
    i64::try_from(ms.min(millis_since_epoch(time_of(u64::MAX)))).unwrap_or(i64::MAX)
}

/// Databases have no unsigned numbers of 64 bits: the same bits, signed.
fn number_of(version: Version) -> i64 {
    u64::from(version).cast_signed()
}

fn version_of(number: i64) -> Version {
    Version::from(number.cast_unsigned())
}
