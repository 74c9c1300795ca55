//! Ending 100,000 sessions of one user: in parts, each of which makes progress.
use std::time::Duration;

use cloakroom::{Cache, Session, SessionError, SessionStore};

const SESSIONS: usize = 100_000;
const OWNER: &str = "alice";
const LIST: &str = "cloakroom:owner:alice";

/// Lists have the names of their owners, so that they can be filled from outside.
fn store<C: Cache>(cache: C) -> SessionStore<C> {
    SessionStore::new(cache).deadline(Duration::from_secs(2)).readable_owners(true).max_sessions_per_owner(2 * SESSIONS)
}

/// The record of a session of the owner, with `KEY` where its key is and `NONCE` where its number is.
async fn template<C: Cache>(store: &SessionStore<C>) -> String {
    let session = Session::new();
    session.set("user", 7).unwrap();
    session.set_owner(OWNER).unwrap();
    let id = store.save(&session).await.unwrap();
    let key = store.sessions_of(OWNER).await.unwrap()[0].key().to_string();
    let record = store.cache().get(&format!("cloakroom:{key}")).await.unwrap().unwrap().value;
    store.destroy(&id).await.unwrap();
    let record = String::from_utf8(record.to_vec()).unwrap();
    let (before, nonce) = record.split_once("\"nonce\":").unwrap();
    let digits = nonce.find(|c: char| !c.is_ascii_digit()).unwrap();
    [before, "\"nonce\":NONCE", &nonce[digits..]].concat().replace(&key, "KEY")
}

/// What the tests look at and change beside the store.
trait Rows {
    async fn count(&self) -> usize;
    /// Leaves this many of the sessions and their places on the list.
    async fn leave(&self, sessions: usize);
}

/// Some calls that do not get to the end, as the list is too long for one. For lack of time all but the last few
/// sessions then leave by another way, unless `CLOAKROOM_REVOKE_ALL` is set.
async fn all_end<C: Cache>(store: &SessionStore<C>, rows: &impl Rows) {
    assert_eq!(rows.count().await, SESSIONS);
    let (mut before, mut calls, begun) = (SESSIONS, 0, std::time::Instant::now());
    loop {
        calls += 1;
        let (ended, over) = match store.revoke_all(OWNER).await {
            Ok(ended) => (ended, true),
            Err(SessionError::Incomplete { ended }) => (ended, false),
            Err(error) => panic!("{error:?}"),
        };
        let left = rows.count().await;
        assert!(over || left < before, "call {calls} made no progress");
        assert!(ended <= before - left, "{ended} were reported, and {} are gone", before - left);
        before = left;
        if over {
            break;
        }
        if calls == 3 && std::env::var_os("CLOAKROOM_REVOKE_ALL").is_none() {
            eprintln!("{} ended in three calls", SESSIONS - left);
            assert!(left > SESSIONS / 2, "all at once shows nothing of parts");
            rows.leave(500).await;
            before = rows.count().await;
        }
    }
    eprintln!("{calls} calls, {:?}", begun.elapsed());
    assert!(calls > 3, "all of them in one call show nothing");
    assert_eq!(rows.count().await, 0);
    assert_eq!(store.cache().list_page(LIST, None, 10).await.unwrap(), []);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_sessions_in_postgres_end_in_parts() {
    let server = crate::support::postgres_server::PostgresServer::start();
    let store = store(crate::support::postgres_server::patient(&server).await);
    let template = template(&store).await;
    server.sql(&format!(
        "CREATE VIEW many AS SELECT n, lpad(n::text, 42, '0') || 'A' AS k,
           (extract(epoch FROM now()) * 1000)::bigint AS now FROM generate_series(1, {SESSIONS}) n;
         INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT convert_to('cloakroom:' || k, 'UTF8'),
           convert_to(replace(replace('{template}', 'KEY', k), 'NONCE', n::text), 'UTF8'),
           n, 86400000, now, now + 86400000, now + 86400000 FROM many;
         INSERT INTO cloakroom_sessions_lists (list_key, member, end_ms)
         SELECT '{LIST}', convert_to(k, 'UTF8'), now + 86400000 + n FROM many; ANALYZE"
    ));
    all_end(&store, &server).await;
}

#[cfg(feature = "postgres")]
impl Rows for crate::support::postgres_server::PostgresServer {
    async fn count(&self) -> usize {
        self.sql("SELECT count(*) FROM cloakroom_sessions").parse().unwrap()
    }

    async fn leave(&self, sessions: usize) {
        self.sql(&format!(
            "CREATE TABLE kept AS SELECT end_ms, list_key, member FROM cloakroom_sessions_lists ORDER BY end_ms DESC LIMIT {sessions};
             TRUNCATE cloakroom_sessions_lists; INSERT INTO cloakroom_sessions_lists TABLE kept;
             DELETE FROM cloakroom_sessions WHERE version <= {}",
            SESSIONS - sessions
        ));
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_sessions_in_sqlite_end_in_parts() {
    let files = crate::support::sqlite_file::SqliteFile::new();
    let store = store(files.patient().await);
    let template = template(&store).await;
    let pool = sqlx::SqlitePool::connect(&files.url()).await.unwrap();
    let many = format!(
        "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {SESSIONS}),
         many(n, k, now) AS (SELECT n, printf('%042d', n) || 'A', unixepoch() * 1000 FROM number)"
    );
    for statement in [
        format!(
            "{many} INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
             SELECT CAST('cloakroom:' || k AS BLOB),
               CAST(replace(replace('{template}', 'KEY', k), 'NONCE', n) AS BLOB),
               n, 86400000, now, now + 86400000, now + 86400000 FROM many"
        ),
        format!(
            "{many} INSERT INTO cloakroom_sessions_lists (list_key, member, end_ms)
             SELECT CAST('{LIST}' AS BLOB), CAST(k AS BLOB), now + 86400000 + n FROM many"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    all_end(&store, &pool).await;
}

#[cfg(feature = "sqlite")]
impl Rows for sqlx::SqlitePool {
    async fn count(&self) -> usize {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM cloakroom_sessions");
        usize::try_from(count.fetch_one(self).await.unwrap()).unwrap()
    }

    async fn leave(&self, sessions: usize) {
        let last = (SESSIONS - sessions) as i64;
        for statement in [
            "DELETE FROM cloakroom_sessions WHERE version <= ?",
            "DELETE FROM cloakroom_sessions_lists WHERE member < CAST(printf('%042d', ?) || 'A' AS BLOB)",
        ] {
            sqlx::query(statement).bind(last).execute(self).await.unwrap();
        }
    }
}
