//! What databases do differently, and the statements of all of them.
use std::time::Duration;

use super::{
    driver::{ConnectionOf, Driver},
    failure::Failure,
    near::NotifyingNearCache,
    statement::{Arguments, PlaceStyle, Statement, Style},
    tables::SqlTables,
};

/// How many members of a list one statement names. Statements for few round numbers are prepared, and no others.
pub(super) const MEMBERS: [usize; 4] = [1, 8, 64, 512];

/// The texts of one database, with names for places (`@key`) and for what is written differently (`{entries}`).
#[derive(Debug)]
pub struct Texts {
    pub(crate) get: &'static str,
    /// As `get`, with idle time, end, and the milliseconds that are left of the idle time, for a near cache.
    pub(crate) get_with_times: Option<&'static str>,
    /// As `get`; the last cell tells whether a restart of the idle time is due and left to `touch`.
    pub(crate) get_and_touch: &'static str,
    pub(crate) insert: &'static str,
    /// For a database whose `insert` writes over nothing, not even over what has ended.
    pub(crate) overwrite_ended: Option<&'static str>,
    pub(crate) replace: &'static str,
    pub(crate) touch: &'static str,
    pub(crate) delete: &'static str,
    pub(crate) list_add: &'static str,
    pub(crate) list_count: &'static str,
    pub(crate) list_remove: &'static str,
    pub(crate) list_first: &'static str,
    pub(crate) list_after: &'static str,
    /// The statements of one batch of the sweep.
    pub(crate) sweep: &'static [&'static str],
    pub(crate) sweep_lists: &'static str,
    pub(crate) layout: &'static str,
    pub(crate) schema: &'static str,
}

/// The statements of one database for one set of tables.
#[derive(Debug)]
pub struct Statements {
    pub(crate) get: Statement,
    pub(crate) get_with_times: Option<Statement>,
    pub(crate) get_and_touch: Statement,
    pub(crate) insert: Statement,
    pub(crate) overwrite_ended: Option<Statement>,
    pub(crate) replace: Statement,
    pub(crate) touch: Statement,
    pub(crate) delete: Statement,
    pub(crate) list_add: Statement,
    pub(crate) list_count: Statement,
    pub(crate) list_remove: [Statement; MEMBERS.len()],
    pub(crate) list_first: Statement,
    pub(crate) list_after: Statement,
    pub(crate) sweep: Vec<Statement>,
    pub(crate) sweep_lists: Statement,
    pub(crate) layout: Statement,
}

impl Statements {
    pub(super) fn new(texts: &Texts, style: Style, tables: &SqlTables) -> Self {
        let statement = |text| Statement::new(text, style, tables);
        Self {
            get: statement(texts.get),
            get_with_times: texts.get_with_times.map(statement),
            get_and_touch: statement(texts.get_and_touch),
            insert: statement(texts.insert),
            overwrite_ended: texts.overwrite_ended.map(statement),
            replace: statement(texts.replace),
            touch: statement(texts.touch),
            delete: statement(texts.delete),
            list_add: statement(texts.list_add),
            list_count: statement(texts.list_count),
            list_remove: MEMBERS.map(|count| Statement::with_members(texts.list_remove, style, tables, count)),
            list_first: statement(texts.list_first),
            list_after: statement(texts.list_after),
            sweep: texts.sweep.iter().copied().map(statement).collect(),
            sweep_lists: statement(texts.sweep_lists),
            layout: statement(texts.layout),
        }
    }
}

/// How a conditional write ended.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    Done,
    /// The entry has this version and this value.
    Conflict(i64, Vec<u8>),
    /// There is no entry.
    Missing,
}

/// What one batch of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub(crate) removed: u64,
    /// Rows that were due, removed or not.
    pub(crate) seen: u64,
}

/// A database that can hold sessions. Implemented for PostgreSQL, MySQL
/// and SQLite, and for nothing else.
#[doc(hidden)]
pub trait Dialect: Driver {
    const NAME: &'static str;
    const TEXTS: Texts;
    const STYLE: Style;
    /// Writers of one process wait for each other here, and not in the database.
    const ONE_WRITER: bool;

    /// What an answer means that is an error.
    fn answer(error: &dyn sqlx::error::DatabaseError) -> Failure;

    /// The pool for a URL.
    fn pool(url: &str, settings: &PoolSettings) -> Result<sqlx::Pool<Self::Database>, sqlx::Error>;

    /// Writes an entry where no live one is, or where it is already. `false`: another one is there.
    fn insert(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send {
        async { Ok(Self::execute(connection, &statements.insert, values).await? > 0) }
    }

    /// Writes over the expected version, and reads the stored entry where that has another one.
    fn replace(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<WriteOutcome>> + Send {
        write_or_look::<Self>(connection, &statements.replace, &statements.get, values)
    }

    /// The same, removing it.
    fn delete(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<WriteOutcome>> + Send {
        write_or_look::<Self>(connection, &statements.delete, &statements.get, values)
    }

    /// Looks at the first rows that are due, up to `limit`: removes those that have ended, and says of the others when
    /// they are due next.
    fn sweep(
        connection: &mut ConnectionOf<Self>,
        statements: &Statements,
        values: &Arguments<'_>,
    ) -> impl Future<Output = sqlx::Result<Swept>> + Send {
        async {
            let mut swept = Swept::default();
            for statement in &statements.sweep {
                swept.removed = Self::execute(connection, statement, values).await?;
                swept.seen += swept.removed;
            }
            Ok(swept)
        }
    }

    /// What a sweep leaves to be done now and then.
    fn write_back(_connection: &mut ConnectionOf<Self>) -> impl Future<Output = sqlx::Result<()>> + Send {
        async { Ok(()) }
    }

    /// A near cache of so many bytes, where changes can be heard of.
    fn near(
        _pool: &sqlx::Pool<Self::Database>,
        _tables: &SqlTables,
        _bytes: usize,
        _timeout: Duration,
    ) -> Option<NotifyingNearCache> {
        None
    }

    /// Makes the tables that are not there, also where others do so at the same time.
    fn migrate(connection: &mut ConnectionOf<Self>, schema: String) -> impl Future<Output = sqlx::Result<()>> + Send {
        Self::script(connection, schema)
    }
}

/// How a pool is made.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    pub(crate) connections: u32,
    pub(crate) timeout: Duration,
    /// Behind a pooler that gives each statement another connection of the database.
    pub(crate) pooled: bool,
}

/// Two statements, the second only where the first wrote nothing. Between them the entry may have changed: then what is
/// there now is told, and it is never the expected version, as no version comes back.
async fn write_or_look<D: Dialect>(
    connection: &mut ConnectionOf<D>,
    write: &Statement,
    look: &Statement,
    values: &Arguments<'_>,
) -> sqlx::Result<WriteOutcome> {
    if D::execute(connection, write, values).await? > 0 {
        return Ok(WriteOutcome::Done);
    }
    Ok(match D::rows(connection, look, values).await?.pop() {
        Some((version, Some(_), _)) if version == values.expected => WriteOutcome::Missing,
        Some((version, Some(value), _)) => WriteOutcome::Conflict(version, value),
        _ => WriteOutcome::Missing,
    })
}

/// The style of a database whose statements are sent with the values in them.
pub(super) const fn literal(style: Style) -> Style {
    Style { places: PlaceStyle::Literal, ..style }
}
