//! The tables of one cache in a SQL database, looked at and changed beside the cache.
use std::{sync::mpsc, thread, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Executor, Row};

/// A connection of its own, on a thread of its own: to be asked from anywhere, and it answers at once.
#[derive(Clone, Debug)]
pub struct SqlView {
    table: String,
    /// Makes text of a column of bytes.
    text: fn(&str) -> String,
    /// Makes so many bytes.
    bytes: fn(usize) -> String,
    ask: mpsc::Sender<(String, mpsc::Sender<Vec<String>>)>,
}

/// Answers on one connection until the channel is closed.
macro_rules! answer {
    ($connection:ty, $url:expr) => {{
        let (ask, asked) = mpsc::channel::<(String, mpsc::Sender<Vec<String>>)>();
        let url: String = $url;
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = <$connection>::connect(&url).await.unwrap();
                while let Ok((text, answer)) = asked.recv() {
                    // Not prepared: some databases prepare no statement that begins a transaction.
                    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(text))).await.unwrap();
                    answer.send(rows.iter().map(|row| row.get(0)).collect()).unwrap();
                }
            });
        });
        ask
    }};
}

impl SqlView {
    #[cfg(feature = "postgres")]
    pub fn postgres(url: String, table: &str) -> Self {
        let text = |column: &str| format!("encode({column}, 'escape')");
        let bytes = |count: usize| format!("convert_to(repeat('x', {count}), 'UTF8')");
        Self { table: table.to_owned(), text, bytes, ask: answer!(sqlx::PgConnection, url) }
    }

    #[cfg(feature = "mysql")]
    pub fn mysql(url: String, table: &str) -> Self {
        let text = |column: &str| format!("CONVERT({column} USING utf8mb4)");
        let bytes = |count: usize| format!("REPEAT('x', {count})");
        Self { table: table.to_owned(), text, bytes, ask: answer!(sqlx::MySqlConnection, url) }
    }

    #[cfg(feature = "sqlite")]
    pub fn sqlite(url: String, table: &str) -> Self {
        let text = |column: &str| format!("CAST({column} AS TEXT)");
        let bytes = |count: usize| format!("zeroblob({count})");
        Self { table: table.to_owned(), text, bytes, ask: answer!(sqlx::SqliteConnection, url) }
    }

    /// The first column of what the statement returns, which is text.
    pub fn rows(&self, statement: impl Into<String>) -> Vec<String> {
        let (answer, answered) = mpsc::channel();
        self.ask.send((statement.into(), answer)).unwrap();
        answered.recv().expect("the database answers")
    }

    /// The keys of all entries, and of all lists once for each member.
    pub fn keys(&self) -> Vec<String> {
        let Self { table, text, .. } = self;
        let (entry, list) = (text("entry_key"), text("list_key"));
        self.rows(format!("SELECT {entry} FROM {table} UNION ALL SELECT {list} FROM {table}_lists"))
    }

    /// What time does to the entries, without the time: their idle time and their end are so much nearer.
    pub fn age(&self, time: Duration) {
        let (table, ms) = (&self.table, time.as_millis());
        self.rows(format!("UPDATE {table} SET touched_ms = touched_ms - {ms}, end_ms = end_ms - {ms}"));
    }

    /// A number in the entry under this key.
    pub fn number(&self, column: &str, key: &str) -> i64 {
        let Self { table, text, .. } = self;
        let rows =
            self.rows(format!("SELECT CAST({column} AS CHAR(20)) FROM {table} WHERE {} = '{key}'", text("entry_key")));
        rows.first().expect("a row").trim().parse().unwrap()
    }

    /// Changes the entry under this key.
    pub fn set(&self, assignment: &str, key: &str) {
        let Self { table, text, .. } = self;
        self.rows(format!("UPDATE {table} SET {assignment} WHERE {} = '{key}'", text("entry_key")));
    }

    /// Puts so many bytes into the entry under this key.
    pub fn plant(&self, count: usize, key: &str) {
        self.set(&format!("value = {}", (self.bytes)(count)), key);
    }

    /// Changes what lists have of this member.
    pub fn set_members(&self, assignment: &str, member: &str) {
        let Self { table, text, .. } = self;
        self.rows(format!("UPDATE {table}_lists SET {assignment} WHERE {} = '{member}'", text("member")));
    }

    pub fn delete_entries(&self) {
        self.rows(format!("DELETE FROM {}", self.table));
    }
}
