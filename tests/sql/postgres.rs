//! PostgreSQL when all is well.
use std::time::Duration;

use cloakroom::{Cache, PostgresCache, SqlTables, testing::cache_contract};

use crate::{
    shared,
    support::postgres_server::{PgBouncer, PostgresServer, patient},
};

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::what_is_too_long_is_an_error(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::the_last_one_to_add_counts_all(&cache).await;
    shared::many_members_are_removed(&cache).await;
}

#[tokio::test]
async fn it_keeps_the_contract_behind_a_pooler_in_transaction_mode() {
    let server = PostgresServer::start();
    let pooler = PgBouncer::before(&server, 3);
    let cache = PostgresCache::builder(pooler.url()).timeout(Duration::from_secs(20)).transaction_pooler();
    let cache = cache.build().await.unwrap();
    cache.migrate().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::many_members_are_removed(&cache).await;
}

#[tokio::test]
async fn it_uses_a_pool_of_the_application() {
    let server = PostgresServer::start();
    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    let cache = PostgresCache::from_pool(pool.clone());
    cache.migrate().await.unwrap();
    assert!(cache.insert("a", shared::entry("1"), shared::expiry()).await.unwrap());
    assert!(cache.get("a").await.unwrap().is_some());
    shared::conflicts_tell_what_is_there_now(&cache).await;
}

#[tokio::test]
async fn many_processes_migrate_at_once_and_tables_have_the_names_that_were_set() {
    let server = PostgresServer::start();
    server.sql("CREATE SCHEMA app");
    let tables = SqlTables::named("web").unwrap().in_schema("app").unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let cache = PostgresCache::builder(server.url()).tables(tables.clone()).build_lazy().unwrap();
        all.spawn(async move { cache.migrate().await.unwrap() });
    }
    all.join_all().await;
    let names =
        server.sql("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'app'");
    assert_eq!(names, "web web_lists web_schema");
    assert_eq!(server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    let cache = PostgresCache::builder(server.url()).tables(tables.clone()).build().await.unwrap();
    assert!(cache.insert("a", shared::entry("1"), shared::expiry()).await.unwrap());
    server.sql(&PostgresCache::schema(&tables));
    assert!(cache.get("a").await.unwrap().is_some(), "the schema can be applied again");
}

/// Touches and common writes write no index: all of them are "heap only" updates.
#[tokio::test]
async fn touches_and_writes_leave_the_indexes_alone() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    let mut entries = Vec::new();
    // Pages as full as inserts leave them.
    for number in 0..400 {
        let (key, there) = (format!("k{number}"), shared::entry("x"));
        assert!(cache.insert(&key, there.clone(), shared::expiry()).await.unwrap());
        entries.push((key, there));
    }
    for (key, mut there) in entries.into_iter().step_by(10) {
        for _ in 0..3 {
            assert!(cache.touch(&key).await.unwrap());
            cache.get_and_touch(&key, Duration::ZERO).await.unwrap();
            let next = shared::entry("y");
            let _ = cache.replace(&key, there.version, next.clone(), shared::expiry()).await.unwrap();
            there = next;
        }
    }
    drop(cache);
    let counts =
        "SELECT n_tup_upd || ' ' || n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'cloakroom_sessions'";
    // The server counts a little later.
    let mut seen = String::new();
    for _ in 0..100 {
        seen = server.sql(counts);
        if seen == "360 360" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("updates and those of them that wrote no index: {seen}");
}

#[tokio::test]
async fn the_sweep_removes_what_has_ended_and_nothing_else() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    let live = shared::entry("live");
    assert!(cache.insert("live", live.clone(), shared::expiry()).await.unwrap());
    // 5,000 that ended long ago, one that is due and lives, and members of lists.
    server.sql(
        "INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT convert_to('dead' || n, 'UTF8'), '', n, 1, 1, 1, 3600000 FROM generate_series(1, 5000) n;
         UPDATE cloakroom_sessions SET due_ms = 0 WHERE value <> '';
         INSERT INTO cloakroom_sessions_lists (list_key, member, end_ms)
         SELECT 'list', convert_to('m' || n, 'UTF8'), 1 FROM generate_series(1, 1000) n",
    );
    assert_eq!(cache.sweep(1234).await.unwrap(), 1234);
    assert_eq!(server.sql("SELECT count(*) FROM cloakroom_sessions"), "3767");
    assert_eq!(cache.sweep(usize::MAX).await.unwrap(), 5000 - 1234);
    assert_eq!(server.sql("SELECT count(*) FROM cloakroom_sessions"), "1");
    assert_eq!(server.sql("SELECT count(*) FROM cloakroom_sessions_lists"), "0");
    assert_eq!(server.sql("SELECT due_ms > extract(epoch from now()) * 1000 FROM cloakroom_sessions"), "t");
    assert_eq!(cache.get("live").await.unwrap(), Some(live));
    assert_eq!(cache.sweep(usize::MAX).await.unwrap(), 0);
}

/// Something else holds one of the rows: the sweep does not wait for it.
#[tokio::test]
async fn the_sweep_leaves_out_rows_that_are_locked() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    for key in ["held", "over"] {
        assert!(cache.insert(key, shared::entry("x"), shared::expiry()).await.unwrap());
    }
    server.sql("UPDATE cloakroom_sessions SET end_ms = 1, due_ms = 1");
    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    let held = "SELECT 1 FROM cloakroom_sessions WHERE entry_key = 'held' FOR UPDATE";
    sqlx::query(held).execute(&mut *other).await.unwrap();
    assert_eq!(cache.sweep(10).await.unwrap(), 1);
    other.rollback().await.unwrap();
    assert_eq!(cache.sweep(10).await.unwrap(), 1);
}

#[tokio::test]
async fn inserts_sweep_a_little() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    server.sql(
        "INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT convert_to('dead' || n, 'UTF8'), '', n, 1, 1, 1, 3600000 FROM generate_series(1, 200) n",
    );
    for number in 0..50 {
        assert!(cache.insert(&format!("k{number}"), shared::entry("x"), shared::expiry()).await.unwrap());
    }
    for _ in 0..100 {
        if server.sql("SELECT count(*) FROM cloakroom_sessions WHERE end_ms = 1") == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("rows that ended stay");
}

#[tokio::test]
async fn idle_time_goes_by_the_clock_of_the_database_and_the_end_by_ours() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    // What stands in front of the system's own functions on the search path.
    server.sql(
        "CREATE SCHEMA clock; CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
         $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$",
    );
    let options: sqlx::postgres::PgConnectOptions = server.url().parse().unwrap();
    let options = options.options([("search_path", "clock,pg_catalog,public")]);
    let ahead = PostgresCache::from_pool(sqlx::PgPool::connect_with(options).await.unwrap());
    shared::idle_time_goes_by_the_clock_of_the_database_and_the_end_by_ours(&cache, &ahead).await;
}

/// What the database refuses there is tried again.
#[tokio::test]
async fn it_keeps_the_contract_at_the_strictest_isolation() {
    let server = PostgresServer::start();
    patient(&server).await;
    let options: sqlx::postgres::PgConnectOptions = server.url().parse().unwrap();
    let options = options.options([("default_transaction_isolation", "serializable")]);
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let cache: PostgresCache =
        cloakroom::SqlCacheBuilder::from_pool(pool).timeout(Duration::from_secs(20)).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
}
