//! SQLite, on files of a test's own.
use std::time::Duration;

use cloakroom::{Cache, CacheErrorKind, SqlTables, SqliteCache, testing::cache_contract};

use crate::{
    shared::{self, entry, expiry, kind},
    support::{log::Log, sqlite_file::SqliteFile},
};

#[tokio::test]
async fn it_keeps_the_contract() {
    let files = SqliteFile::new();
    let cache = files.patient().await;
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::what_is_too_long_is_an_error(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::the_last_one_to_add_counts_all(&cache).await;
    shared::many_members_are_removed(&cache).await;
}

#[tokio::test]
async fn many_processes_migrate_at_once() {
    let files = SqliteFile::new();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let cache = SqliteCache::builder(files.url()).timeout(Duration::from_secs(20)).build_lazy().unwrap();
        all.spawn(async move {
            cache.migrate().await.unwrap();
            cache.insert("a", entry("1"), expiry()).await.unwrap()
        });
    }
    assert_eq!(all.join_all().await.into_iter().filter(|inserted| *inserted).count(), 1);
}

#[tokio::test]
async fn it_survives_a_restart() {
    let files = SqliteFile::new();
    let there = entry("1");
    assert!(files.patient().await.insert("a", there.clone(), expiry()).await.unwrap());
    assert_eq!(files.patient().await.get("a").await.unwrap(), Some(there));
}

#[tokio::test]
async fn the_sweep_removes_what_has_ended_and_nothing_else() {
    let files = SqliteFile::new();
    let cache = files.patient().await;
    let live = entry("live");
    assert!(cache.insert("live", live.clone(), expiry()).await.unwrap());
    let pool = sqlx::SqlitePool::connect(&files.url()).await.unwrap();
    for statement in [
        "UPDATE cloakroom_sessions SET due_ms = 0",
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
         INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT CAST('dead' || n AS BLOB), x'', n, 1, 1, 1, 3600000 FROM n",
        "INSERT INTO cloakroom_sessions_lists (list_key, member, end_ms) VALUES (x'61', x'61', 1)",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    assert_eq!(cache.sweep(700).await.unwrap(), 700);
    assert_eq!(cache.sweep(usize::MAX).await.unwrap(), 1300);
    let rows = |table: &'static str| sqlx::query_scalar::<_, i64>(table).fetch_one(&pool);
    assert_eq!(rows("SELECT count(*) FROM cloakroom_sessions").await.unwrap(), 1);
    assert_eq!(rows("SELECT count(*) FROM cloakroom_sessions_lists").await.unwrap(), 0);
    assert_eq!(cache.get("live").await.unwrap(), Some(live));
}

/// It begins before the tables are there, fails, and tries again.
#[tokio::test]
async fn the_sweeper_goes_on_after_a_failure() {
    let files = SqliteFile::new();
    let cache = SqliteCache::builder(files.url()).timeout(Duration::from_secs(20)).sweep_with_inserts(false);
    let cache = cache.build().await.unwrap();
    let (log, _recording) = Log::record();
    let sweeper = tokio::spawn(cache.sweeper(Duration::from_millis(20)));
    let begun = std::time::Instant::now();
    while !log.text().contains("sql_sweep_failed") {
        assert!(begun.elapsed() < Duration::from_secs(20), "no failure is logged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cache.migrate().await.unwrap();
    assert!(cache.insert("over", entry("x"), expiry()).await.unwrap());
    let view = files.view();
    view.set("end_ms = 1, due_ms = 1", "over");
    while !view.keys().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "what has ended stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sweeper.abort();
}

#[tokio::test]
async fn inserts_sweep_nothing_if_so_set() {
    let files = SqliteFile::new();
    let cache = SqliteCache::builder(files.url()).timeout(Duration::from_secs(20)).sweep_with_inserts(false);
    let cache = cache.build().await.unwrap();
    cache.migrate().await.unwrap();
    assert!(cache.insert("over", entry("x"), expiry()).await.unwrap());
    files.view().set("end_ms = 1, due_ms = 1", "over");
    for number in 0..200 {
        assert!(cache.insert(&format!("k{number}"), entry("x"), expiry()).await.unwrap());
    }
    assert_eq!(cache.sweep(10).await.unwrap(), 1);
}

#[tokio::test]
async fn tables_without_the_number_of_their_layout_are_migrated() {
    let files = SqliteFile::new();
    let (cache, view) = (files.patient().await, files.view());
    let layouts = || view.rows("SELECT CAST(layout AS TEXT) FROM cloakroom_sessions_schema");
    assert_eq!(layouts(), ["1"]);
    view.rows("DELETE FROM cloakroom_sessions_schema");
    cache.migrate().await.unwrap();
    assert_eq!(layouts(), ["1"]);
}

#[tokio::test]
async fn a_file_that_may_not_grow_is_full_and_keeps_what_it_has() {
    let files = SqliteFile::new();
    let there = entry("1");
    assert!(files.patient().await.insert("a", there.clone(), expiry()).await.unwrap());
    let options: sqlx::sqlite::SqliteConnectOptions = files.url().parse().unwrap();
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options.pragma("max_page_count", "20")).await.unwrap();
    let cache = SqliteCache::from_pool(pool);
    let mut failed = None;
    for number in 0..200 {
        let large = cloakroom::Entry::new(cloakroom::Bytes::from(vec![b'x'; 4000]), cloakroom::Version::unique());
        if let Err(error) = cache.insert(&format!("k{number}"), large, expiry()).await {
            failed = Some((number, error));
            break;
        }
    }
    let (number, error) = failed.expect("the file is full at some time");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Full);
    assert_eq!(cache.get(&format!("k{number}")).await.unwrap(), None);
    assert_eq!(cache.get("a").await.unwrap(), Some(there));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let files = SqliteFile::new();
    let cache = SqliteCache::connect(files.url()).await.unwrap();
    let error = cache.get("secret-key").await.unwrap_err();
    assert!(shared::shown(&error).contains("migrate"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);
    assert_eq!(kind(SqliteCache::connect("sqlite::memory:").await), CacheErrorKind::Other);
    assert_eq!(kind(SqliteCache::connect("sqlite:/absent/absent/pa55.db").await), CacheErrorKind::Refused);
    let tables = SqlTables::named("web").unwrap();
    let cache = SqliteCache::builder(files.url()).tables(tables.clone()).build().await.unwrap();
    cache.migrate().await.unwrap();
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    let schema = sqlx::raw_sql(sqlx::AssertSqlSafe(SqliteCache::schema(&tables)));
    schema.execute(&sqlx::SqlitePool::connect(&files.url()).await.unwrap()).await.unwrap();
    assert!(cache.get("a").await.unwrap().is_some(), "the schema can be applied again");
}

#[tokio::test]
async fn a_file_that_is_damaged_or_may_not_be_written_is_told_apart() {
    let files = SqliteFile::new();
    let cache = files.patient().await;
    for number in 0..200 {
        assert!(cache.insert(&format!("k{number}"), entry("1"), expiry()).await.unwrap());
    }
    let pool = |url: String| sqlx::SqlitePool::connect_lazy(&url).unwrap();
    let reader = SqliteCache::from_pool(pool(format!("{}?mode=ro", files.url())));
    assert!(reader.get("k7").await.unwrap().is_some());
    reader.migrate().await.unwrap();
    let error = reader.touch("k7").await.unwrap_err();
    assert!(shared::shown(&error).contains("read-only"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);

    let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(&pool(files.url())).await.unwrap();
    assert_eq!(checkpoint.len(), 1);
    let other = SqliteFile::new();
    let file = |files: &SqliteFile| files.dir().join("sessions.db");
    let mut bytes = std::fs::read(file(&files)).unwrap();
    bytes[4096..].fill(0xff);
    std::fs::write(file(&other), &bytes).unwrap();
    let error = SqliteCache::connect(other.url()).await.unwrap().get("k7").await.unwrap_err();
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Other);

    let other = SqliteFile::new();
    std::fs::write(file(&other), "no database. ".repeat(1000)).unwrap();
    assert_eq!(kind(SqliteCache::connect(other.url()).await), CacheErrorKind::Refused);
}

/// Another connection keeps the lock for longer than the time limit: an error that says that nothing was done, in time.
#[tokio::test]
async fn a_lock_that_is_held_is_waited_for_until_the_time_limit_only() {
    let files = SqliteFile::new();
    files.patient().await;
    let cache = SqliteCache::connect(files.url()).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&files.url()).await.unwrap();
    let held = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let start = std::time::Instant::now();
    let error = cache.insert("a", entry("1"), expiry()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unavailable);
    assert_eq!(cache.get("a").await.unwrap(), None, "readers do not wait for writers");
    held.rollback().await.unwrap();
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
}

/// Starts itself again as four processes, each of which increments one counter and inserts entries of its own.
#[tokio::test]
async fn four_processes_write_without_a_lock_error() {
    const NAME: &str = "sqlite::four_processes_write_without_a_lock_error";
    const EACH: u64 = 300;
    let url = std::env::var("CLOAKROOM_SQLITE_URL");
    if let Ok(url) = url {
        let cache = SqliteCache::builder(url).timeout(Duration::from_secs(30)).build().await.unwrap();
        increment(&cache, EACH).await;
        return;
    }
    let files = SqliteFile::new();
    let cache = files.patient().await;
    let zero = cloakroom::Entry::new(cloakroom::Bytes::from_static(b"0"), cloakroom::Version::unique());
    assert!(cache.insert("counter", zero, expiry()).await.unwrap());
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", NAME, "--nocapture"]).env("CLOAKROOM_SQLITE_URL", files.url());
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(number(&cache.get("counter").await.unwrap().unwrap()), 4 * EACH);
}

fn number(entry: &cloakroom::Entry) -> u64 {
    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

async fn increment(cache: &SqliteCache, times: u64) {
    for done in 0..times {
        let own = format!("{}:{done}", std::process::id());
        assert!(cache.insert(&own, entry("1"), expiry()).await.unwrap());
        let mut there = cache.get("counter").await.unwrap().unwrap();
        loop {
            let more = cloakroom::Bytes::from((number(&there) + 1).to_string());
            let next = cloakroom::Entry::new(more, cloakroom::Version::unique());
            match cache.replace("counter", there.version, next, expiry()).await.unwrap() {
                cloakroom::Replaced::Done => break,
                cloakroom::Replaced::Conflict(newer) => there = newer,
                cloakroom::Replaced::Missing => panic!("a live entry is gone"),
            }
        }
    }
}
