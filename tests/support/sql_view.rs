//! The tables of one cache in a SQL database, looked at and changed beside the cache.
use std::{sync::mpsc, thread, time::Duration};

use sqlx::{AssertSqlSafe, Connection};

/// A connection of its own, on a thread of its own: to be asked from anywhere, and it answers at once.
#[derive(Clone, Debug)]
pub struct SqlView {
    table: String,
    /// Makes text of a column of bytes.
    text: fn(&str) -> String,
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
                    let rows = sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(&mut connection).await;
                    answer.send(rows.unwrap()).unwrap();
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
        Self { table: table.to_owned(), text, ask: answer!(sqlx::PgConnection, url) }
    }

    #[cfg(feature = "sqlite")]
    pub fn sqlite(url: String, table: &str) -> Self {
        let text = |column: &str| format!("CAST({column} AS TEXT)");
        Self { table: table.to_owned(), text, ask: answer!(sqlx::SqliteConnection, url) }
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

    pub fn delete_entries(&self) {
        self.rows(format!("DELETE FROM {}", self.table));
    }
}
