//! PostgreSQL: its statements, and what its answers mean.
use std::time::Duration;

use sqlx::{
    ConnectOptions, Pool,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    dialect::{Dialect, PoolSettings, Statements, Swept, Texts, WriteOutcome},
    driver::{ConnectionOf, Driver, driver},
    failure::{Failure, NO_TABLE, answered},
    listen::near_cache,
    near::NotifyingNearCache,
    statement::{Arguments, PlaceStyle, Statement, Style},
    tables::SqlTables,
};
use crate::error::CacheErrorKind::{Full, Other, Refused, Unavailable, Unsupported};

/// PostgreSQL 12 or later: see [`PostgresCache`](crate::PostgresCache).
#[derive(Clone, Copy, Debug)]
pub struct Postgres;

driver!(Postgres, sqlx::Postgres);

/// Rows that are written often leave room on their page, so that no index is written with them (HOT).
const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS {entries} (
    version bigint NOT NULL,
    idle_ms bigint NOT NULL,
    touched_ms bigint NOT NULL,
    end_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    entry_key bytea NOT NULL PRIMARY KEY,
    value bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS {entries_due} ON {entries} (due_ms);
CREATE TABLE IF NOT EXISTS {lists} (
    end_ms bigint NOT NULL,
    list_key bytea NOT NULL,
    member bytea NOT NULL,
    PRIMARY KEY (list_key, member)
);
CREATE INDEX IF NOT EXISTS {lists_page} ON {lists} (list_key, end_ms, member);
CREATE INDEX IF NOT EXISTS {lists_end} ON {lists} (end_ms);
CREATE TABLE IF NOT EXISTS {schema} (
    layout bigint NOT NULL PRIMARY KEY
);
INSERT INTO {schema} (layout) VALUES (1) ON CONFLICT DO NOTHING;
";

const TEXTS: Texts = Texts {
    get: "SELECT version, {value}, 0::bigint FROM {entries} WHERE entry_key = @key AND {live}",
    get_with_times: Some(
        "\
SELECT version, {value}, idle_ms, end_ms, touched_ms + idle_ms - {clock} FROM {entries} WHERE entry_key = @key AND {live}",
    ),
    get_and_touch: "\
WITH touched AS (
    UPDATE {entries} SET touched_ms = greatest(touched_ms, {clock})
    WHERE entry_key = @key AND {live} AND touched_ms <= {clock} - @after
)
SELECT version, {value}, 0::bigint FROM {entries} WHERE entry_key = @key AND {live}",
    insert: "\
INSERT INTO {entries} AS e (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
VALUES (@key, @value, @version, @idle, {clock}, @end, @due)
ON CONFLICT (entry_key) DO UPDATE SET
    value = excluded.value, version = excluded.version, idle_ms = excluded.idle_ms, end_ms = excluded.end_ms,
    due_ms = excluded.due_ms,
    touched_ms = CASE WHEN e.version = excluded.version THEN e.touched_ms ELSE excluded.touched_ms END
WHERE e.version = excluded.version OR NOT (e.end_ms > @now AND e.touched_ms + e.idle_ms > {clock})",
    overwrite_ended: None,
    // The row that is returned beside the count is from before the statement: with the expected version, another write came
    // in between, and a second statement looks.
    replace: "\
WITH done AS (
    UPDATE {entries} SET
        value = @value, version = @version, idle_ms = @idle, touched_ms = {clock}, end_ms = @end,
        due_ms = least(due_ms, @due)
    WHERE entry_key = @key AND version = @expected AND {live} RETURNING version
)
SELECT version, NULL::bytea, 1::bigint FROM done
UNION ALL
SELECT version, {value}, 0::bigint FROM {entries} WHERE entry_key = @key AND {live} AND NOT EXISTS (SELECT FROM done)",
    touch: "UPDATE {entries} SET touched_ms = greatest(touched_ms, {clock}) WHERE entry_key = @key AND {live}",
    delete: "\
WITH done AS (
    DELETE FROM {entries} WHERE entry_key = @key AND version = @expected AND {live} RETURNING version
)
SELECT version, NULL::bytea, 1::bigint FROM done
UNION ALL
SELECT version, {value}, 0::bigint FROM {entries} WHERE entry_key = @key AND {live} AND NOT EXISTS (SELECT FROM done)",
    list_add: "\
INSERT INTO {lists} AS l (list_key, member, end_ms) VALUES (@key, @member, @end)
ON CONFLICT (list_key, member) DO UPDATE SET end_ms = greatest(l.end_ms, excluded.end_ms)",
    list_count: "SELECT count(*), NULL::bytea, 0::bigint FROM {lists} WHERE list_key = @key AND end_ms > @now",
    list_remove: "DELETE FROM {lists} WHERE list_key = @key AND member IN (@members)",
    list_first: "\
SELECT end_ms, member, 0::bigint FROM {lists} WHERE list_key = @key AND end_ms > @now
ORDER BY end_ms, member LIMIT @limit",
    list_after: "\
SELECT end_ms, member, 0::bigint FROM {lists}
WHERE list_key = @key AND end_ms > @now AND (end_ms, member) > (@end, @member)
ORDER BY end_ms, member LIMIT @limit",
    // It waits for the disk as other writes do: by the time that takes, the next batch is not larger than the disk can bear.
    sweep: &["\
WITH due AS MATERIALIZED (
    SELECT entry_key, NOT {live} AS over FROM {entries} WHERE due_ms <= @due ORDER BY due_ms LIMIT @limit
    FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM {entries} AS e USING due WHERE e.entry_key = due.entry_key AND due.over RETURNING e.version
), moved AS (
    UPDATE {entries} AS e SET due_ms = (greatest(least(e.end_ms, e.touched_ms + e.idle_ms), @due) / {bucket} + 1) * {bucket}
    FROM due WHERE e.entry_key = due.entry_key AND NOT due.over RETURNING e.version
)
SELECT (SELECT count(*) FROM removed), NULL::bytea, (SELECT count(*) FROM due)"],
    sweep_lists: "\
DELETE FROM {lists} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {lists} WHERE end_ms <= @now ORDER BY end_ms LIMIT @limit FOR UPDATE SKIP LOCKED
))",
    layout: "SELECT coalesce(max(layout), 0), NULL::bytea, 0::bigint FROM {schema}",
    schema: SCHEMA,
};

impl Dialect for Postgres {
    const NAME: &'static str = "PostgresCache";
    const TEXTS: Texts = TEXTS;
    const STYLE: Style = Style {
        quote: '"',
        places: PlaceStyle::Dollar,
        // Not `now()`, which is the start of the transaction: a statement may have waited for a lock since.
        clock: "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    };
    const ONE_WRITER: bool = false;

    fn answer(error: &dyn DatabaseError) -> Failure {
        let code = error.code().unwrap_or_default();
        match &*code {
            // An administrator or a crash ended the connection, at a time that this side does not know.
            "57P01" | "57P02" | "57P05" => Failure::Lost,
            "57P03" => Failure::reconnect(answered(&code, "it is starting up or shutting down")),
            "53300" => Failure::reconnect(answered(&code, "it has as many connections as it allows")),
            "25006" => Failure::reconnect(answered(&code, "it is read-only, as a replica is")),
            "40001" | "40P01" | "55P03" => Failure::not_ready(answered(&code, "others were writing the same rows")),
            // The plan of a prepared statement is older than the table.
            "0A000" => Failure::reconnect(answered(&code, "a feature is not supported")),
            "57014" => Failure::rejected(
                Unavailable,
                answered(&code, "it cancelled the statement, for its `statement_timeout`, say"),
            ),
            "53100" => Failure::rejected(Full, answered(&code, "its disk is full")),
            "42P01" | "3F000" | "42703" => Failure::rejected(Refused, answered(&code, NO_TABLE)),
            "42501" => {
                Failure::rejected(Refused, answered(&code, "the role may not do this: see the guide for what it needs"))
            }
            "28P01" | "28000" => Failure::rejected(Refused, answered(&code, "the role or the password is wrong")),
            // What poolers say in the place of the server has this code as well: only this does not pass.
            "08P01" if error.message().contains("startup parameter") => Failure::rejected(
                Unsupported,
                answered(&code, "it takes no settings with the connection: behind a pooler see `transaction_pooler`"),
            ),
            "3D000" => Failure::rejected(Refused, answered(&code, "there is no such database")),
            "26000" | "42P05" => Failure::rejected(
                Unsupported,
                answered(
                    &code,
                    "prepared statements do not last on this connection: behind a pooler see `transaction_pooler`",
                ),
            ),
            code if code.starts_with("08") => Failure::Lost,
            code if code.starts_with("53") => {
                Failure::rejected(Unavailable, answered(code, "it is short of resources"))
            }
            code if code.starts_with("58") || code.starts_with("XX") => {
                Failure::rejected(Other, answered(code, "it failed"))
            }
            code => Failure::rejected(Refused, answered(code, "it refused the statement")),
        }
    }

    fn pool(url: &str, settings: &PoolSettings) -> sqlx::Result<Pool<sqlx::Postgres>> {
        let mut options: PgConnectOptions = url.parse()?;
        options = options.disable_statement_logging();
        if settings.pooled {
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        } else {
            // A statement whose caller gave up ends on the server, too. Poolers refuse such settings.
            let limit = settings.timeout.as_millis().clamp(1, i32::MAX as u128).to_string();
            options = options.options([("statement_timeout", limit)]);
        }
        let pool = PgPoolOptions::new().max_connections(settings.connections).test_before_acquire(false);
        Ok(pool.connect_lazy_with(options))
    }

    async fn replace(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> sqlx::Result<WriteOutcome> {
        write_and_look(connection, &statements.replace, &statements.get, values).await
    }

    async fn delete(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> sqlx::Result<WriteOutcome> {
        write_and_look(connection, &statements.delete, &statements.get, values).await
    }

    async fn sweep(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> sqlx::Result<Swept> {
        let mut swept = Swept::default();
        for statement in &statements.sweep {
            for (removed, _, seen) in Self::rows(connection, statement, values).await? {
                swept.removed += u64::try_from(removed).unwrap_or_default();
                swept.seen += u64::try_from(seen).unwrap_or_default();
            }
        }
        Ok(swept)
    }

    fn near(
        pool: &Pool<sqlx::Postgres>,
        tables: &SqlTables,
        bytes: usize,
        timeout: Duration,
    ) -> Option<NotifyingNearCache> {
        Some(near_cache(pool, tables, bytes, timeout, Self::answer))
    }

    /// `IF NOT EXISTS` does not hold for two at once: they wait for each other. The lock ends with the transaction.
    async fn migrate(connection: &mut ConnectionOf<Self>, schema: String) -> sqlx::Result<()> {
        let locked = format!(
            "BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); {schema} COMMIT;"
        );
        let result = Self::script(connection, locked).await;
        if result.is_err() {
            // The connection is used again: no transaction stays open on it.
            let _ = Self::script(connection, "ROLLBACK".to_owned()).await;
        }
        result
    }
}

/// A number that other users of advisory locks are unlikely to take.
const MIGRATION_LOCK: i64 = 0x636c_6f61_6b72_6f6f;

/// One statement, and a second one only where another write was done while the first one ran.
async fn write_and_look(
    connection: &mut ConnectionOf<Postgres>,
    write: &Statement,
    look: &Statement,
    values: &Arguments<'_>,
) -> sqlx::Result<WriteOutcome> {
    match Postgres::rows(connection, write, values).await?.pop() {
        Some((_, _, 1)) => return Ok(WriteOutcome::Done),
        Some((version, Some(value), _)) if version != values.expected => {
            return Ok(WriteOutcome::Conflict(version, value));
        }
        None => return Ok(WriteOutcome::Missing),
        Some(_) => {}
    }
    match Postgres::rows(connection, look, values).await?.pop() {
        Some((version, Some(value), _)) if version != values.expected => Ok(WriteOutcome::Conflict(version, value)),
        None => Ok(WriteOutcome::Missing),
        Some(_) => Err(sqlx::Error::RowNotFound),
    }
}
