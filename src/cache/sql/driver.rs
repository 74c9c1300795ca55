//! Sending a statement with its values, the same for every database.
use sqlx::Database;

use super::statement::{Arguments, Statement};

/// What every statement that returns rows returns: a number, bytes, a number.
pub(crate) type Cells = (i64, Option<Vec<u8>>, i64);

/// Version, value, idle time, end, and what is left of the idle time.
pub(crate) type Timed = (i64, Vec<u8>, i64, i64, i64);

pub(crate) type ConnectionOf<D> = <<D as Driver>::Database as Database>::Connection;

/// Sends statements: implemented by `driver!`, as sqlx has no bounds short enough to write it for all databases at once.
pub trait Driver: Sized + Send + Sync + 'static {
    /// The database in sqlx.
    type Database: Database;

    /// How many rows the statement wrote.
    #[doc(hidden)]
    fn execute(
        connection: &mut ConnectionOf<Self>,
        statement: &Statement,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// All rows that the statement returns.
    #[doc(hidden)]
    fn rows(
        connection: &mut ConnectionOf<Self>,
        statement: &Statement,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<Vec<Cells>>> + Send;

    /// The one row with its times, if there is one.
    #[doc(hidden)]
    fn timed(
        connection: &mut ConnectionOf<Self>,
        statement: &Statement,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<Option<Timed>>> + Send;

    /// Several statements that have no values and no results.
    #[doc(hidden)]
    fn script(connection: &mut ConnectionOf<Self>, text: String) -> impl Future<Output = sqlx::Result<()>> + Send;
}

macro_rules! driver {
    ($name:ty, $database:ty) => {
        impl $crate::cache::sql::driver::Driver for $name {
            type Database = $database;

            async fn execute(
                connection: &mut <$database as sqlx::Database>::Connection,
                statement: &$crate::cache::sql::statement::Statement,
                values: &$crate::cache::sql::statement::Arguments<'_>,
            ) -> sqlx::Result<u64> {
                use sqlx::{AssertSqlSafe, Executor};
                if statement.is_literal() {
                    let query = sqlx::raw_sql(AssertSqlSafe(statement.in_full(values)));
                    return Ok(connection.execute(query).await?.rows_affected());
                }
                let query = $crate::cache::sql::driver::bound!(statement, values);
                Ok(connection.execute(query).await?.rows_affected())
            }

            async fn rows(
                connection: &mut <$database as sqlx::Database>::Connection,
                statement: &$crate::cache::sql::statement::Statement,
                values: &$crate::cache::sql::statement::Arguments<'_>,
            ) -> sqlx::Result<Vec<$crate::cache::sql::driver::Cells>> {
                use sqlx::{AssertSqlSafe, Executor, FromRow};
                let rows = if statement.is_literal() {
                    connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(statement.in_full(values)))).await?
                } else {
                    connection.fetch_all($crate::cache::sql::driver::bound!(statement, values)).await?
                };
                rows.iter().map(FromRow::from_row).collect()
            }

            async fn timed(
                connection: &mut <$database as sqlx::Database>::Connection,
                statement: &$crate::cache::sql::statement::Statement,
                values: &$crate::cache::sql::statement::Arguments<'_>,
            ) -> sqlx::Result<Option<$crate::cache::sql::driver::Timed>> {
                use sqlx::{AssertSqlSafe, Executor, FromRow};
                let row = connection.fetch_optional($crate::cache::sql::driver::bound!(statement, values)).await?;
                row.as_ref().map(FromRow::from_row).transpose()
            }

            async fn script(
                connection: &mut <$database as sqlx::Database>::Connection,
                text: String,
            ) -> sqlx::Result<()> {
                use sqlx::{AssertSqlSafe, Executor};
                connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map(drop)
            }
        }
    };
}

/// A statement to be prepared, and its values.
macro_rules! bound {
    ($statement:expr, $values:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($statement.text()));
        for argument in $statement.arguments($values) {
            query = match argument {
                $crate::cache::sql::statement::Argument::Int(number) => query.bind(number),
                $crate::cache::sql::statement::Argument::Bytes(bytes) => query.bind(bytes),
            };
        }
        query
    }};
}

pub(crate) use bound;
pub(crate) use driver;
