//! SQLite: its statements, and what its answers mean.
use std::time::Duration;

use sqlx::{
    ConnectOptions, Pool,
    error::DatabaseError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    dialect::{Dialect, PoolSettings, Texts},
    driver::{ConnectionOf, Driver, driver},
    failure::{Failure, NO_TABLE, answered},
    statement::{PlaceStyle, Style},
};
use crate::error::CacheErrorKind::{Full, Other, Refused};

/// SQLite 3.42 or later, which is built in: see [`SqliteCache`](crate::SqliteCache).
#[derive(Clone, Copy, Debug)]
pub struct Sqlite;

driver!(Sqlite, sqlx::Sqlite);

/// sqlx panics over more milliseconds than these: 24 days.
const LONGEST_WAIT: Duration = Duration::from_millis(i32::MAX as u64);

const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS {entries} (
    version INTEGER NOT NULL,
    idle_ms INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    entry_key BLOB NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS {entries_due in schema} ON {entries without schema} (due_ms);
CREATE TABLE IF NOT EXISTS {lists} (
    end_ms INTEGER NOT NULL,
    list_key BLOB NOT NULL,
    member BLOB NOT NULL,
    PRIMARY KEY (list_key, member)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {lists_page in schema} ON {lists without schema} (list_key, end_ms, member);
CREATE INDEX IF NOT EXISTS {lists_end in schema} ON {lists without schema} (end_ms);
CREATE TABLE IF NOT EXISTS {schema} (
    layout INTEGER NOT NULL PRIMARY KEY
);
INSERT INTO {schema} (layout) VALUES (1) ON CONFLICT DO NOTHING;
";

const TEXTS: Texts = Texts {
    get: "SELECT version, {value}, 0 FROM {entries} WHERE entry_key = @key AND {live}",
    get_with_times: None,
    get_and_touch: "\
SELECT version, {value}, touched_ms <= {clock} - @after FROM {entries} WHERE entry_key = @key AND {live}",
    insert: "\
INSERT INTO {entries} AS e (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
VALUES (@key, @value, @version, @idle, {clock}, @end, @due)
ON CONFLICT (entry_key) DO UPDATE SET
    value = excluded.value, version = excluded.version, idle_ms = excluded.idle_ms, end_ms = excluded.end_ms,
    due_ms = excluded.due_ms,
    touched_ms = CASE WHEN e.version = excluded.version THEN e.touched_ms ELSE excluded.touched_ms END
WHERE e.version = excluded.version OR NOT (e.end_ms > @now AND e.touched_ms + e.idle_ms > {clock})",
    overwrite_ended: None,
    replace: "\
UPDATE {entries} SET
    value = @value, version = @version, idle_ms = @idle, touched_ms = {clock}, end_ms = @end,
    due_ms = min(due_ms, @due)
WHERE entry_key = @key AND version = @expected AND {live}",
    touch: "UPDATE {entries} SET touched_ms = max(touched_ms, {clock}) WHERE entry_key = @key AND {live}",
    delete: "DELETE FROM {entries} WHERE entry_key = @key AND version = @expected AND {live}",
    list_add: "\
INSERT INTO {lists} AS l (list_key, member, end_ms) VALUES (@key, @member, @end)
ON CONFLICT (list_key, member) DO UPDATE SET end_ms = max(l.end_ms, excluded.end_ms)",
    list_count: "SELECT count(*), NULL, 0 FROM {lists} WHERE list_key = @key AND end_ms > @now",
    list_remove: "DELETE FROM {lists} WHERE list_key = @key AND member IN (@members)",
    list_first: "\
SELECT end_ms, member, 0 FROM {lists} WHERE list_key = @key AND end_ms > @now
ORDER BY end_ms, member LIMIT @limit",
    list_after: "\
SELECT end_ms, member, 0 FROM {lists}
WHERE list_key = @key AND end_ms > @now AND (end_ms, member) > (@end, @member)
ORDER BY end_ms, member LIMIT @limit",
    sweep: &[
        "\
UPDATE {entries} SET due_ms = (max(min(end_ms, touched_ms + idle_ms), @due) / {bucket} + 1) * {bucket}
WHERE rowid IN (SELECT rowid FROM {entries} WHERE due_ms <= @due ORDER BY due_ms LIMIT @limit) AND {live}",
        "\
DELETE FROM {entries}
WHERE rowid IN (SELECT rowid FROM {entries} WHERE due_ms <= @due ORDER BY due_ms LIMIT @limit) AND NOT {live}",
    ],
    sweep_lists: "\
DELETE FROM {lists} WHERE (list_key, member) IN (
    SELECT list_key, member FROM {lists} WHERE end_ms <= @now ORDER BY end_ms LIMIT @limit
)",
    layout: "SELECT coalesce(max(layout), 0), NULL, 0 FROM {schema}",
    schema: SCHEMA,
};

impl Dialect for Sqlite {
    const NAME: &'static str = "SqliteCache";
    const TEXTS: Texts = TEXTS;
    const STYLE: Style =
        Style { quote: '"', places: PlaceStyle::NumberedMark, clock: "CAST(unixepoch('subsec') * 1000 AS INTEGER)" };
    /// Of writers that wait in SQLite, the one that waited longest is not the next.
    const ONE_WRITER: bool = true;

    fn answer(error: &dyn DatabaseError) -> Failure {
        let code = error.code().unwrap_or_default();
        // The last byte is the kind of error, what is above it the details.
        match code.parse::<u32>().map(|code| code & 0xff) {
            Ok(5 | 6) => Failure::not_ready(answered(&code, "another connection holds its lock")),
            Ok(13) => Failure::rejected(Full, answered(&code, "its disk is full, or it is as large as it may be")),
            Ok(8) => Failure::rejected(Refused, answered(&code, "the file is read-only")),
            Ok(3 | 23) => Failure::rejected(Refused, answered(&code, "access to the file is not permitted")),
            Ok(14) => Failure::rejected(Refused, answered(&code, "the file cannot be opened")),
            Ok(26) => Failure::rejected(Refused, answered(&code, "the file is not a database")),
            Ok(1) if error.message().starts_with("no such table") || error.message().starts_with("no such column") => {
                Failure::rejected(Refused, answered(&code, NO_TABLE))
            }
            Ok(10 | 11) => Failure::rejected(Other, answered(&code, "the file cannot be read or written")),
            _ => Failure::rejected(Refused, answered(&code, "it refused the statement")),
        }
    }

    fn pool(url: &str, settings: &PoolSettings) -> sqlx::Result<Pool<sqlx::Sqlite>> {
        let options: SqliteConnectOptions = url.parse()?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(sqlx::Error::Configuration("not for memory: that is what `InMemoryCache` is for".into()));
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // Short enough for the last of several tries to end within the time limit, and to say that nothing was done.
            .busy_timeout((settings.timeout / 10).clamp(Duration::from_millis(1), LONGEST_WAIT))
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new().max_connections(settings.connections).test_before_acquire(false);
        Ok(pool.connect_lazy_with(options))
    }

    /// Else the write that makes the log long enough does it, a request's as likely as a sweep's. This one blocks no writer.
    async fn write_back(connection: &mut ConnectionOf<Self>) -> sqlx::Result<()> {
        Self::script(connection, "PRAGMA wal_checkpoint(PASSIVE)".to_owned()).await
    }

    async fn migrate(connection: &mut ConnectionOf<Self>, schema: String) -> sqlx::Result<()> {
        let result = Self::script(connection, format!("BEGIN IMMEDIATE; {schema} COMMIT;")).await;
        if result.is_err() {
            // The connection is used again: no transaction stays open on it. There is none if it could not begin.
            let _ = Self::script(connection, "ROLLBACK".to_owned()).await;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers and writers do not wait for each other, and what was answered outlives the process.
    #[tokio::test]
    async fn connections_have_the_settings_that_are_promised() {
        let file = std::env::temp_dir().join(format!("cloakroom-settings-{}.db", std::process::id()));
        let settings = PoolSettings { connections: 1, timeout: Duration::from_millis(500), pooled: false };
        let pool = Sqlite::pool(&format!("sqlite:{}", file.display()), &settings).unwrap();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
        let mut numbers = Vec::new();
        for pragma in ["PRAGMA synchronous", "PRAGMA busy_timeout"] {
            numbers.push(sqlx::query_scalar::<_, i64>(pragma).fetch_one(&pool).await.unwrap());
        }
        pool.close().await;
        std::fs::remove_file(file).unwrap();
        // 1 is `NORMAL`.
        assert_eq!((mode.as_str(), numbers.as_slice()), ("wal", [1, 50].as_slice()));
    }
}
