//! The near cache of PostgreSQL: what it saves, and that nothing is served for longer than was promised.
use std::time::{Duration, Instant};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, Deleted, Entry, Expiry, PostgresCache, Replaced, Session, SessionStore,
    SqlCacheBuilder, Version, testing::cache_contract,
};
use sqlx::PgPool;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    shared::{self, entry, expiry, kind, shown},
    support::{
        postgres_server::{PgBouncer, PostgresServer, patient},
        process,
    },
};

const MIB: usize = 1 << 20;
/// Nothing is served that was read longer ago.
const BOUND: Duration = Duration::from_secs(1);
/// For operations that have to succeed on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(20);

async fn near(server: &PostgresServer, bytes: usize) -> PostgresCache {
    PostgresCache::builder(server.url()).near_cache(bytes).timeout(LIMIT).build().await.unwrap()
}

async fn pool(server: &PostgresServer) -> PgPool {
    PgPool::connect(&server.url()).await.unwrap()
}

fn text(text: &str) -> Entry {
    Entry::new(Bytes::copy_from_slice(text.as_bytes()), Version::unique())
}

async fn value(cache: &PostgresCache, key: &str) -> Option<Bytes> {
    cache.get(key).await.unwrap().map(|entry| entry.value)
}

async fn write(cache: &PostgresCache, key: &str, expected: Version, value: &str) -> Version {
    let next = text(value);
    assert_eq!(cache.replace(key, expected, next.clone(), expiry()).await.unwrap(), Replaced::Done);
    next.version
}

/// Writes beside all caches, so that none of them hears of it.
async fn write_unheard(pool: &PgPool, key: &str, value: &str) {
    let statement = "UPDATE cloakroom_sessions SET value = $1 WHERE entry_key = $2";
    let done = sqlx::query(statement).bind(value.as_bytes()).bind(key.as_bytes()).execute(pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

/// Whether a read is served from here: it then does not see a change that was not told.
async fn serves(cache: &PostgresCache, pool: &PgPool, key: &str) -> bool {
    let begun = Instant::now();
    for round in 0.. {
        let before = format!("before {round}");
        write_unheard(pool, key, &before).await;
        // What was read earlier may still be here.
        while value(cache, key).await.as_deref() != Some(before.as_bytes()) {
            sleep(Duration::from_millis(20)).await;
        }
        write_unheard(pool, key, "after").await;
        if value(cache, key).await.as_deref() == Some(before.as_bytes()) {
            return true;
        }
        // It may have taken longer than a second, or the connection is being made.
        if begun.elapsed() > LIMIT {
            break;
        }
    }
    false
}

/// Reads until it is `should`, and gives the time that it took.
async fn becomes(cache: &PostgresCache, key: &str, should: Option<&str>) -> Duration {
    let begun = Instant::now();
    while value(cache, key).await.as_deref() != should.map(str::as_bytes) {
        assert!(begun.elapsed() < LIMIT, "still not {should:?}");
        sleep(Duration::from_micros(500)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn the_contract_holds() {
    let server = PostgresServer::start();
    patient(&server).await;
    for bytes in [MIB, 2000] {
        let cache = near(&server, bytes).await;
        cache_contract(|| async { cache.clone() }, None).await;
        shared::conflicts_tell_what_is_there_now(&cache).await;
        server.sql("TRUNCATE cloakroom_sessions, cloakroom_sessions_lists");
    }
}

#[tokio::test]
async fn reads_are_served_from_here_and_for_a_second_at_most() {
    let server = PostgresServer::start();
    patient(&server).await;
    let (cache, pool) = (near(&server, MIB).await, pool(&server).await);
    assert!(cache.insert("k", entry("x"), expiry()).await.unwrap());
    assert!(serves(&cache, &pool, "k").await);
    let mut old = 0;
    for _ in 0..3 {
        write_unheard(&pool, "k", "before").await;
        becomes(&cache, "k", Some("before")).await;
        let (read, mut seen) = (Instant::now(), Duration::ZERO);
        write_unheard(&pool, "k", "after").await;
        loop {
            let asked = read.elapsed();
            if value(&cache, "k").await.as_deref() == Some(b"after") {
                break;
            }
            (old, seen) = (old + 1, asked);
            sleep(Duration::from_millis(1)).await;
        }
        assert!(seen < BOUND, "served {seen:?} after it was read");
    }
    assert!(old > 0, "it was never served from here, so that this shows nothing");
}

#[tokio::test]
async fn what_another_changes_is_heard_of() {
    let server = PostgresServer::start();
    patient(&server).await;
    let (cache, other) = (near(&server, MIB).await, near(&server, MIB).await);
    let (mut changes, mut ends) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let first = text("first");
        assert!(other.insert("k", first.clone(), expiry()).await.unwrap());
        assert_eq!(value(&cache, "k").await.as_deref(), Some(b"first".as_slice()));
        let changed = format!("round {round}");
        let version = write(&other, "k", first.version, &changed).await;
        changes.push(becomes(&cache, "k", Some(&changed)).await);
        assert_eq!(other.delete("k", version).await.unwrap(), Deleted::Done);
        ends.push(becomes(&cache, "k", None).await);
    }
    for took in [&mut changes, &mut ends] {
        took.sort();
        // Without a message it would be close to a second each time.
        assert!(took[15] < BOUND / 2, "{took:?}");
    }
}

/// In another process, which is this program again: all sessions of the user end there, and then here.
#[tokio::test]
async fn sessions_that_another_process_revokes_end_here() {
    const NAME: &str = "near::sessions_that_another_process_revokes_end_here";
    if let Ok(url) = std::env::var("CLOAKROOM_NEAR_URL") {
        let cache = PostgresCache::builder(url).near_cache(MIB).timeout(LIMIT).build().await.unwrap();
        assert_eq!(SessionStore::new(cache.clone()).deadline(LIMIT).revoke_all("alice").await.unwrap(), 5);
        // The messages are on their way when a few milliseconds have passed.
        sleep(Duration::from_millis(100)).await;
        return;
    }
    let server = PostgresServer::start();
    patient(&server).await;
    let store = SessionStore::new(near(&server, MIB).await).deadline(LIMIT);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let session = Session::new();
        session.set_owner("alice").unwrap();
        ids.push(store.save(&session).await.unwrap());
    }
    let late = store.load(&ids[0]).await.unwrap().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", NAME, "--nocapture"]).env("CLOAKROOM_NEAR_URL", server.url());
    let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
    // They stay here while it starts.
    while child.try_wait().unwrap().is_none() {
        for id in &ids {
            let _ = store.load(id).await.unwrap();
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(child.wait().unwrap().success());
    let ended = Instant::now();
    for id in &ids {
        while store.load(id).await.unwrap().is_some() {
            assert!(ended.elapsed() < BOUND, "a session that was revoked is served");
            sleep(Duration::from_millis(1)).await;
        }
    }
    late.set("user", 8).unwrap();
    late.commit().await.unwrap_err();
    assert!(store.load(&ids[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn no_update_is_lost_between_two_with_near_caches() {
    let server = PostgresServer::start();
    patient(&server).await;
    let stores = [near(&server, MIB).await, near(&server, MIB).await];
    let stores = stores.map(|cache| SessionStore::new(cache).deadline(LIMIT));
    let id = stores[0].save(&Session::new()).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..10 {
        let (store, id) = (stores[number % 2].clone(), id.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                let session = store.load(&id).await.unwrap().unwrap();
                session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
                session.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    sleep(BOUND).await;
    for store in &stores {
        assert_eq!(store.load(&id).await.unwrap().unwrap().get::<u64>("n"), Some(100));
    }
}

#[tokio::test]
async fn own_writes_are_read_at_once() {
    let server = PostgresServer::start();
    patient(&server).await;
    let cache = near(&server, MIB).await;
    for round in 0..100 {
        let (key, first) = (format!("k{round}"), text("first"));
        assert_eq!(value(&cache, &key).await, None);
        assert!(cache.insert(&key, first.clone(), expiry()).await.unwrap());
        assert_eq!(value(&cache, &key).await.as_deref(), Some(b"first".as_slice()));
        let version = write(&cache, &key, first.version, "second").await;
        assert_eq!(value(&cache, &key).await.as_deref(), Some(b"second".as_slice()));
        assert_eq!(cache.delete(&key, version).await.unwrap(), Deleted::Done);
        assert_eq!(value(&cache, &key).await, None);
    }
}

#[tokio::test]
async fn a_lost_connection_takes_everything_with_it_and_another_one_is_made() {
    let server = PostgresServer::start();
    patient(&server).await;
    let (cache, pool) = (near(&server, MIB).await, pool(&server).await);
    assert!(cache.insert("k", entry("x"), expiry()).await.unwrap());
    for _ in 0..2 {
        assert!(serves(&cache, &pool, "k").await);
        write_unheard(&pool, "k", "before").await;
        becomes(&cache, "k", Some("before")).await;
        end_listening(&pool, "pg_terminate_backend(pid)").await;
        // For a second it is not connected: a change is seen at once, although none is told.
        sleep(Duration::from_millis(100)).await;
        write_unheard(&pool, "k", "after").await;
        assert_eq!(value(&cache, "k").await.as_deref(), Some(b"after".as_slice()));
    }
    assert!(serves(&cache, &pool, "k").await, "it does not listen again");
}

/// Does this to the connections that listen; their numbers.
async fn end_listening(pool: &PgPool, what: &str) -> Vec<i32> {
    let statement = format!(
        "SELECT pid, {what} FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
         AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%' OR query = 'SELECT 1')"
    );
    use sqlx::Row;
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
    assert!(!rows.is_empty(), "no connection listens");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_connection_that_died_silently_is_believed_for_a_second_at_most() {
    let server = PostgresServer::start();
    patient(&server).await;
    let (cache, pool) = (near(&server, MIB).await, pool(&server).await);
    assert!(cache.insert("k", entry("x"), expiry()).await.unwrap());
    assert!(serves(&cache, &pool, "k").await);
    let pids: Vec<_> = end_listening(&pool, "1").await.iter().map(ToString::to_string).collect();
    process::run(std::process::Command::new("kill").arg("-STOP").args(&pids));
    sleep(BOUND).await;
    // Nothing is served from here any more, however lately it was read.
    for round in 0..20 {
        let round = format!("round {round}");
        write_unheard(&pool, "k", &round).await;
        assert_eq!(value(&cache, "k").await.as_deref(), Some(round.as_bytes()));
    }
    process::run(std::process::Command::new("kill").arg("-CONT").args(&pids));
}

#[tokio::test]
async fn an_idle_time_that_needs_no_restart_is_served_from_here() {
    let server = PostgresServer::start();
    patient(&server).await;
    let (cache, pool) = (near(&server, MIB).await, pool(&server).await);
    let short = Expiry::new(Duration::from_secs(60), expiry().end);
    assert!(cache.insert("k", entry("x"), short).await.unwrap());
    let (long, touched) = (Duration::from_secs(30), "SELECT touched_ms FROM cloakroom_sessions");
    let touched = async || sqlx::query_scalar::<_, i64>(touched).fetch_one(&pool).await.unwrap();
    let before = touched().await;
    assert!(cache.get_and_touch("k", long).await.unwrap().is_some());
    assert_eq!(touched().await, before);
    // Half a minute later.
    sqlx::query("UPDATE cloakroom_sessions SET touched_ms = touched_ms - 31000").execute(&pool).await.unwrap();
    sleep(BOUND).await;
    assert!(cache.get("k").await.unwrap().is_some());
    assert!(cache.get_and_touch("k", long).await.unwrap().is_some());
    assert!(touched().await > before - 31_000, "the idle time was not restarted");
    let before = touched().await;
    sleep(Duration::from_millis(5)).await;
    assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
    assert!(touched().await > before, "each time, if so asked");
}

#[tokio::test]
async fn what_ended_is_not_served() {
    let server = PostgresServer::start();
    patient(&server).await;
    let cache = near(&server, MIB).await;
    let now = std::time::SystemTime::now();
    let ms = Duration::from_millis;
    for (key, expiry) in [("idle", Expiry::new(ms(300), now + LIMIT)), ("end", Expiry::new(LIMIT, now + ms(300)))] {
        assert!(cache.insert(key, entry("x"), expiry).await.unwrap());
        let _ = value(&cache, key).await;
    }
    sleep(ms(320)).await;
    for key in ["idle", "end"] {
        assert_eq!(value(&cache, key).await, None, "{key}");
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused() {
    let server = PostgresServer::start();
    patient(&server).await;
    let pooler = PgBouncer::before(&server, 4);
    let options = pooler.url().parse::<sqlx::postgres::PgConnectOptions>().unwrap().extra_float_digits(None);
    let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options.statement_cache_capacity(0));
    let built = SqlCacheBuilder::<_>::from_pool(pool).near_cache(MIB).timeout(Duration::from_secs(30)).build().await;
    let error = built.unwrap_err();
    assert!(shown(&error).contains("transaction mode"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unsupported);
    let lazy = PostgresCache::builder(pooler.url()).transaction_pooler().near_cache(MIB).build_lazy();
    assert_eq!(kind(lazy), CacheErrorKind::Unsupported);
}

#[tokio::test]
async fn it_starts_without_a_server_and_works_once_that_is_there() {
    let mut server = PostgresServer::start();
    patient(&server).await;
    server.kill();
    let cache = PostgresCache::builder(server.url()).near_cache(MIB).timeout(LIMIT).build_lazy().unwrap();
    sleep(Duration::from_millis(50)).await;
    server.restart();
    assert!(cache.insert("k", entry("x"), expiry()).await.unwrap());
    assert!(serves(&cache, &pool(&server).await, "k").await);
    // No task and no connection is left behind.
    drop(cache);
    let pool = pool(&server).await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT 1' OR query LIKE '%LISTEN%'";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(listening).fetch_one(&pool).await.unwrap() > 1 {
        assert!(begun.elapsed() < LIMIT, "a connection listens on");
        sleep(Duration::from_millis(20)).await;
    }
}
