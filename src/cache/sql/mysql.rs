//! MySQL and MariaDB: their statements, and what their answers mean.
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, Pool,
    error::DatabaseError,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions},
};

use super::{
    dialect::{Dialect, PoolSettings, Statements, Texts},
    driver::{ConnectionOf, Driver, driver},
    failure::{Failure, NO_TABLE, answered},
    statement::{Arguments, PlaceStyle, Style},
};
use crate::error::CacheErrorKind::{Full, Refused, Unavailable};

/// MySQL 8 or MariaDB 10.6, or later: see [`MySqlCache`](crate::MySqlCache).
#[derive(Clone, Copy, Debug)]
pub struct MySql;

driver!(MySql, sqlx::MySql);

const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS {entries} (
    version BIGINT NOT NULL,
    idle_ms BIGINT NOT NULL,
    touched_ms BIGINT NOT NULL,
    end_ms BIGINT NOT NULL,
    due_ms BIGINT NOT NULL,
    entry_key VARBINARY(1024) NOT NULL PRIMARY KEY,
    value MEDIUMBLOB NOT NULL,
    INDEX {entries_due} (due_ms)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS {lists} (
    end_ms BIGINT NOT NULL,
    list_key VARBINARY(1024) NOT NULL,
    member VARBINARY(1024) NOT NULL,
    PRIMARY KEY (list_key, member),
    INDEX {lists_page} (list_key, end_ms, member),
    INDEX {lists_end} (end_ms)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS {schema} (
    layout BIGINT NOT NULL PRIMARY KEY
) ENGINE = InnoDB;
INSERT IGNORE INTO {schema} (layout) VALUES (1);
";

const TEXTS: Texts = Texts {
    get: "SELECT version, {value}, 0 FROM {entries} WHERE entry_key = @key AND {live}",
    get_with_times: None,
    get_and_touch: "\
SELECT version, {value}, CAST(touched_ms <= {clock} - @after AS SIGNED) FROM {entries} WHERE entry_key = @key AND {live}",
    insert: "\
INSERT INTO {entries} (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
VALUES (@key, @value, @version, @idle, {clock}, @end, @due)",
    overwrite_ended: Some(
        "\
UPDATE {entries} SET
    value = @value, version = @version, idle_ms = @idle, touched_ms = {clock}, end_ms = @end, due_ms = @due
WHERE entry_key = @key AND NOT {live}",
    ),
    replace: "\
UPDATE {entries} SET
    value = @value, version = @version, idle_ms = @idle, touched_ms = {clock}, end_ms = @end,
    due_ms = LEAST(due_ms, @due)
WHERE entry_key = @key AND version = @expected AND {live}",
    touch: "UPDATE {entries} SET touched_ms = GREATEST(touched_ms, {clock}) WHERE entry_key = @key AND {live}",
    delete: "DELETE FROM {entries} WHERE entry_key = @key AND version = @expected AND {live}",
    list_add: "\
INSERT INTO {lists} (list_key, member, end_ms) VALUES (@key, @member, @end)
ON DUPLICATE KEY UPDATE end_ms = GREATEST(end_ms, @end)",
    list_count: "SELECT COUNT(*), NULL, 0 FROM {lists} WHERE list_key = @key AND end_ms > @now",
    list_remove: "DELETE FROM {lists} WHERE list_key = @key AND member IN (@members)",
    list_first: "\
SELECT end_ms, member, 0 FROM {lists} WHERE list_key = @key AND end_ms > @now
ORDER BY end_ms, member LIMIT @limit",
    // Written so that the index is used up to the member: a comparison of pairs reads the whole list.
    list_after: "\
SELECT end_ms, member, 0 FROM {lists}
WHERE list_key = @key AND end_ms > @now AND end_ms >= @end AND (end_ms > @end OR member > @member)
ORDER BY end_ms, member LIMIT @limit",
    sweep: &[
        "\
UPDATE {entries} AS e
JOIN (SELECT entry_key FROM {entries} WHERE due_ms <= @due ORDER BY due_ms LIMIT @limit) AS due USING (entry_key)
SET e.due_ms = (GREATEST(LEAST(end_ms, touched_ms + idle_ms), @due) DIV {bucket} + 1) * {bucket}
WHERE {live}",
        "\
DELETE e FROM {entries} AS e
JOIN (SELECT entry_key FROM {entries} WHERE due_ms <= @due ORDER BY due_ms LIMIT @limit) AS due USING (entry_key)
WHERE NOT {live}",
    ],
    sweep_lists: "DELETE FROM {lists} WHERE end_ms <= @now ORDER BY end_ms LIMIT @limit",
    layout: "SELECT COALESCE(MAX(layout), 0), NULL, 0 FROM {schema}",
    schema: SCHEMA,
};

impl Dialect for MySql {
    const NAME: &'static str = "MySqlCache";
    const TEXTS: Texts = TEXTS;
    const STYLE: Style = Style {
        quote: '`',
        places: PlaceStyle::Mark,
        // `NOW` is the start of the statement, which may have waited for a lock since, and `SYSDATE` depends on the time
        // zone of the connection; their difference does not.
        clock: "((TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) \
                + TIMESTAMPDIFF(MICROSECOND, NOW(3), SYSDATE(3))) DIV 1000)",
    };
    const ONE_WRITER: bool = false;

    fn answer(error: &dyn DatabaseError) -> Failure {
        let number = error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
        let code = number.to_string();
        match number {
            // 1020 is how MariaDB 11.6 and later refuse a write over a row that is newer than the statement, 3101 how a group
            // of MySQL servers refuses one of two writes, and a Galera cluster does so with a deadlock.
            1020 | 1205 | 1213 | 3101 | 3572 => {
                Failure::not_ready(answered(&code, "others were writing the same rows"))
            }
            // A node of a Galera cluster that is not in step with the others.
            1047 => Failure::reconnect(answered(&code, "it takes no statements yet")),
            // The table was changed since the statement was prepared or began.
            1412 | 1615 => Failure::reconnect(answered(&code, "the table was changed meanwhile")),
            1040 | 1203 | 1226 => Failure::reconnect(answered(&code, "it has as many connections as it allows")),
            1290 | 1792 | 1836 => Failure::reconnect(answered(&code, "it is read-only, as a replica is")),
            // The server ends, or the connection was killed, and the statement with it or not.
            1053 | 1077 | 1079 | 1080 | 1927 | 4031 => Failure::Lost,
            1317 | 1969 | 3024 => Failure::rejected(Unavailable, answered(&code, "it cancelled the statement")),
            1021 | 1114 | 3019 => Failure::rejected(Full, answered(&code, "its disk or a tablespace is full")),
            1146 | 1054 | 1049 => Failure::rejected(Refused, answered(&code, NO_TABLE)),
            1044 | 1045 | 1698 => Failure::rejected(Refused, answered(&code, "the user or the password is wrong")),
            1142 | 1143 | 1227 | 1370 => {
                Failure::rejected(Refused, answered(&code, "the user may not do this: see the guide for what it needs"))
            }
            _ => Failure::rejected(Refused, answered(&code, "it refused the statement")),
        }
    }

    fn pool(url: &str, settings: &PoolSettings) -> sqlx::Result<Pool<sqlx::MySql>> {
        let options: MySqlConnectOptions = url.parse()?;
        let options = options.disable_statement_logging();
        // The server does not notice that a caller gave up who waits for a lock: by default it waits for 50 seconds, or a day.
        let seconds = settings.timeout.as_millis().div_ceil(1000).clamp(1, 31_536_000);
        let limits = format!("SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}");
        let pool = MySqlPoolOptions::new().max_connections(settings.connections).test_before_acquire(false);
        let pool = pool.after_connect(move |connection, _| {
            let limits = AssertSqlSafe(limits.clone());
            Box::pin(async move { connection.execute(sqlx::raw_sql(limits)).await.map(drop) })
        });
        Ok(pool.connect_lazy_with(options))
    }

    /// MySQL has no condition on what `ON DUPLICATE KEY UPDATE` writes over: that is a statement of its own.
    async fn insert(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> sqlx::Result<bool> {
        match Self::execute(connection, &statements.insert, values).await {
            Ok(_) => return Ok(true),
            Err(error) if error.as_database_error().is_some_and(DatabaseError::is_unique_violation) => {}
            Err(error) => return Err(error),
        }
        let Some(overwrite) = &statements.overwrite_ended else { return Ok(false) };
        if Self::execute(connection, overwrite, values).await? > 0 {
            return Ok(true);
        }
        let there = Self::rows(connection, &statements.get, values).await?.pop();
        Ok(there.is_some_and(|(version, ..)| version == values.version))
    }
}
