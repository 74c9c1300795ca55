//! PostgreSQL when something is wrong: the kind of each error, and that nothing is lost or done twice.
use std::time::{Duration, Instant};

use cloakroom::{Cache, CacheErrorKind, Deleted, PostgresCache, Replaced, SessionLayer, SessionStore, Version};

use crate::{
    shared::{self, entry, expiry, kind, shown},
    support::postgres_server::{PgBouncer, PostgresServer, patient},
    support::sql_proxy::{Mode, Proxy},
};

/// With the default time limit, and its tables there.
async fn hasty(server: &PostgresServer) -> PostgresCache {
    patient(server).await;
    PostgresCache::connect(server.url()).await.unwrap()
}

#[tokio::test]
async fn without_a_server_nothing_is_written_and_the_time_limit_holds() {
    let mut server = PostgresServer::start();
    let cache = hasty(&server).await;
    let there = entry("secret-value");
    assert!(cache.insert("secret-key", there.clone(), expiry()).await.unwrap());
    server.kill();
    let start = Instant::now();
    assert_eq!(kind(cache.get("secret-key").await), CacheErrorKind::Unavailable);
    assert_eq!(kind(cache.insert("secret-key2", entry("secret-value"), expiry()).await), CacheErrorKind::Unavailable);
    assert_eq!(kind(PostgresCache::connect(server.url()).await), CacheErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5));
    server.restart();
    assert_eq!(cache.get("secret-key").await.unwrap(), Some(there));
}

/// The connection is not known to be lost when the statement is sent: an insert may have been carried out, all others
/// are sent again.
#[tokio::test]
async fn killed_connections_cost_an_insert_only() {
    let server = PostgresServer::start();
    let cache = PostgresCache::builder(server.url()).max_connections(1).build().await.unwrap();
    cache.migrate().await.unwrap();
    let kill = || {
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
    };
    let mut there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    kill();
    assert_eq!(cache.get("a").await.unwrap(), Some(there.clone()));
    kill();
    let next = entry("2");
    assert_eq!(cache.replace("a", there.version, next.clone(), expiry()).await.unwrap(), Replaced::Done);
    there = next;
    kill();
    assert!(cache.touch("a").await.unwrap());
    kill();
    assert_eq!(kind(cache.insert("b", entry("1"), expiry()).await), CacheErrorKind::Timeout);
    assert_eq!(cache.get("b").await.unwrap(), None);
    kill();
    assert_eq!(cache.delete("a", there.version).await.unwrap(), Deleted::Done);
}

/// A connection of this cache that rested is asked first: after a restart of the server even inserts go on.
#[tokio::test]
async fn after_a_restart_connections_that_rested_are_asked_first() {
    let mut server = PostgresServer::start();
    let cache = patient(&server).await;
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    server.restart();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(cache.insert("b", entry("1"), expiry()).await.unwrap());
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_until_the_time_limit_only() {
    let server = PostgresServer::start();
    let cache = hasty(&server).await;
    let there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    server.pause();
    let start = Instant::now();
    assert_eq!(kind(cache.get("a").await), CacheErrorKind::Timeout);
    // No connection is left: none can be made, and nothing has been sent.
    assert_eq!(kind(cache.replace("a", there.version, entry("2"), expiry()).await), CacheErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5));
    server.resume();
    assert_eq!(patient(&server).await.get("a").await.unwrap(), Some(there));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let server = PostgresServer::start();
    let proxy = Proxy::before(server.port()).await;
    patient(&server).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let cache =
        PostgresCache::builder(&url).timeout(Duration::from_secs(20)).transaction_pooler().build().await.unwrap();
    let first = entry("1");
    assert!(cache.insert("a", first.clone(), expiry()).await.unwrap());

    proxy.set(Mode::CutAnswer(b"UPDATE"));
    let second = entry("2");
    assert_eq!(cache.replace("a", first.version, second.clone(), expiry()).await.unwrap(), Replaced::Done);
    assert_eq!(cache.get("a").await.unwrap(), Some(second.clone()));
    assert_eq!(proxy.cuts(), 1);

    proxy.set(Mode::CutAnswer(b"DELETE"));
    assert_eq!(cache.delete("a", second.version).await.unwrap(), Deleted::Done);
    assert_eq!(cache.get("a").await.unwrap(), None);
    assert_eq!(proxy.cuts(), 2);

    // An insert that may have been carried out is not sent again; its caller is told so.
    proxy.set(Mode::CutAnswer(b"INSERT"));
    let third = entry("3");
    assert_eq!(kind(cache.insert("a", third.clone(), expiry()).await), CacheErrorKind::Timeout);
    assert_eq!(cache.get("a").await.unwrap(), Some(third.clone()));
    assert!(cache.insert("a", third, expiry()).await.unwrap(), "the same insert again is recognised");
    assert_eq!(proxy.cuts(), 3);
}

/// The answer is lost, and what the second try finds is by another writer: nothing tells whether the first one wrote before.
#[tokio::test]
async fn a_write_whose_answer_was_lost_and_that_was_overtaken_is_of_unknown_outcome() {
    let server = PostgresServer::start();
    let proxy = Proxy::before(server.port()).await;
    patient(&server).await;
    server.sql(
        "CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.version = 7; RETURN NEW; END $$;
         CREATE FUNCTION made() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN OLD.version = 8; INSERT INTO cloakroom_sessions SELECT OLD.*; RETURN NULL; END $$;
         CREATE TRIGGER changed BEFORE UPDATE ON cloakroom_sessions FOR EACH ROW EXECUTE FUNCTION changed();
         CREATE TRIGGER made AFTER DELETE ON cloakroom_sessions FOR EACH ROW EXECUTE FUNCTION made()",
    );
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let cache =
        PostgresCache::builder(&url).timeout(Duration::from_secs(20)).transaction_pooler().build().await.unwrap();
    let first = entry("1");
    assert!(cache.insert("a", first.clone(), expiry()).await.unwrap());
    proxy.set(Mode::CutAnswer(b"UPDATE"));
    assert_eq!(kind(cache.replace("a", first.version, entry("2"), expiry()).await), CacheErrorKind::Timeout);
    proxy.set(Mode::CutAnswer(b"DELETE"));
    assert_eq!(kind(cache.delete("a", Version::from(7)).await), CacheErrorKind::Timeout);
    assert_eq!(proxy.cuts(), 2);
    assert_eq!(cache.get("a").await.unwrap().map(|entry| entry.version), Some(Version::from(8)));
}

/// The answer is lost, and nothing can be asked any more.
#[tokio::test]
async fn a_write_whose_answer_was_lost_before_an_outage_is_of_unknown_outcome() {
    let server = PostgresServer::start();
    let proxy = Proxy::before(server.port()).await;
    patient(&server).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let cache = PostgresCache::builder(&url).timeout(Duration::from_secs(3)).fail_fast(false).transaction_pooler();
    let cache = cache.build().await.unwrap();
    let mut there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    proxy.set(Mode::CutAnswerForGood(b"UPDATE"));
    let next = entry("2");
    assert_eq!(kind(cache.replace("a", there.version, next.clone(), expiry()).await), CacheErrorKind::Timeout);
    assert_eq!(kind(cache.replace("a", next.version, entry("3"), expiry()).await), CacheErrorKind::Unavailable);
    there = next;
    proxy.set(Mode::Pass);
    assert_eq!(cache.get("a").await.unwrap(), Some(there.clone()));
    proxy.set(Mode::CutAnswerForGood(b"DELETE"));
    assert_eq!(kind(cache.delete("a", there.version).await), CacheErrorKind::Timeout);
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test]
async fn waiting_for_a_connection_of_the_pool_is_bounded() {
    let server = PostgresServer::start();
    patient(&server).await;
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&server.url()).await.unwrap();
    let cache = PostgresCache::from_pool(pool.clone());
    let held = pool.acquire().await.unwrap();
    let start = Instant::now();
    let error = cache.get("a").await.unwrap_err();
    assert!(shown(&error).contains("all those of the pool are in use"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unavailable);
    assert_eq!(kind(cache.insert("a", entry("1"), expiry()).await), CacheErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(held);
    assert_eq!(cache.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_dropped_call_leaves_no_transaction_and_no_lock() {
    let server = PostgresServer::start();
    patient(&server).await;
    let cache = PostgresCache::builder(server.url()).timeout(Duration::from_secs(20)).max_connections(1);
    let cache = cache.build().await.unwrap();
    let there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    // Something else holds the row, so that the call waits for it.
    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM cloakroom_sessions FOR UPDATE").execute(&mut *other).await.unwrap();
    let replace = cache.replace("a", there.version, entry("2"), expiry());
    assert!(tokio::time::timeout(Duration::from_millis(200), replace).await.is_err());
    // Its connection is closed: what comes next does not wait for it.
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), cache.get("a")).await.unwrap().unwrap(), Some(there));
    other.rollback().await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(server.sql(open), "0");
    // Whether the dropped write was carried out or not: the entry can be written.
    let now = cache.get("a").await.unwrap().unwrap();
    let replaced = cache.replace("a", now.version, entry("3"), expiry()).await.unwrap();
    assert!(matches!(replaced, Replaced::Done | Replaced::Conflict(_)));
}

/// What waits for a lock on the server does not wait for longer than its caller.
#[tokio::test]
async fn a_statement_whose_caller_gave_up_ends_on_the_server() {
    let server = PostgresServer::start();
    let cache = hasty(&server).await;
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM cloakroom_sessions FOR UPDATE").execute(&mut *other).await.unwrap();
    cache.touch("a").await.unwrap_err();
    let (waiting, begun) = ("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", Instant::now());
    while server.sql(waiting) != "0" {
        assert!(begun.elapsed() < Duration::from_secs(15), "a statement waits on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.rollback().await.unwrap();
}

#[tokio::test]
async fn a_replica_is_read_only() {
    let primary = PostgresServer::start();
    patient(&primary).await;
    let replica = PostgresServer::replica_of(&primary);
    let cache = PostgresCache::builder(replica.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
    assert_eq!(cache.get("a").await.unwrap(), None);
    let error = cache.insert("a", entry("1"), expiry()).await.unwrap_err();
    assert!(shown(&error).contains("read-only"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unavailable);
    assert_eq!(kind(cache.touch("a").await), CacheErrorKind::Unavailable);
}

#[tokio::test]
async fn rights_and_tables_that_are_missing_are_named() {
    let server = PostgresServer::start();
    let cache = PostgresCache::connect(server.url()).await.unwrap();
    let error = cache.get("secret-key").await.unwrap_err();
    assert!(shown(&error).contains("migrate"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);

    // The rights of the guide are enough for all that requests need, `migrate` on tables that are there included.
    server.sql(
        "CREATE ROLE web LOGIN PASSWORD 'pa55'; CREATE ROLE stranger LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let web = server.url().replace("postgres@", "web@");
    let cache = PostgresCache::connect(&web).await.unwrap();
    assert_eq!(kind(cache.migrate().await), CacheErrorKind::Refused);
    patient(&server).await;
    server.sql(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON cloakroom_sessions, cloakroom_sessions_lists TO web;
         GRANT SELECT ON cloakroom_sessions_schema TO web",
    );
    cache.migrate().await.unwrap();
    let there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    assert_eq!(cache.replace("a", there.version, entry("2"), expiry()).await.unwrap(), Replaced::Done);
    cache.list_add("l", "m", expiry().end).await.unwrap();
    cache.sweep(10).await.unwrap();

    let cache = PostgresCache::connect(server.url().replace("postgres@", "stranger@")).await.unwrap();
    let error = cache.get("a").await.unwrap_err();
    assert!(shown(&error).contains("may not"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);
    let wrong = PostgresCache::connect(server.url().replace("postgres@", "absent:pa55@")).await;
    assert_eq!(kind(wrong), CacheErrorKind::Refused);
    assert_eq!(kind(PostgresCache::connect("postgres://u:pa55@127.0.0.1:x/").await), CacheErrorKind::Other);
}

#[tokio::test]
async fn as_many_connections_as_the_server_allows() {
    let server =
        PostgresServer::start_with(&["max_connections=5", "superuser_reserved_connections=0", "max_wal_senders=0"]);
    patient(&server).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        if let Ok(connection) = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await {
            held.push(connection);
        }
    }
    assert_eq!(kind(PostgresCache::connect(server.url()).await), CacheErrorKind::Unavailable);
    drop(held);
    patient(&server).await;
}

/// The server answers with these codes by way of a trigger: what they mean does not depend on how they came about.
#[tokio::test]
async fn failures_of_a_statement_are_told_apart() {
    let server = PostgresServer::start();
    let cache = hasty(&server).await;
    // What is tried again ends with the last failure, which on a busy machine may be that of connecting: its text varies.
    let (migrate, pooler) = ("migrate", "transaction_pooler");
    for (code, message, expected, says) in [
        ("53100", "secret-value", CacheErrorKind::Full, "disk"),
        ("53200", "secret-value", CacheErrorKind::Unavailable, ""),
        ("53300", "secret-value", CacheErrorKind::Unavailable, ""),
        ("40P01", "secret-value", CacheErrorKind::Unavailable, ""),
        ("40001", "secret-value", CacheErrorKind::Unavailable, ""),
        ("55P03", "secret-value", CacheErrorKind::Unavailable, ""),
        ("25006", "secret-value", CacheErrorKind::Unavailable, ""),
        ("57014", "secret-value", CacheErrorKind::Unavailable, ""),
        ("57P03", "secret-value", CacheErrorKind::Unavailable, ""),
        ("0A000", "secret-value", CacheErrorKind::Unavailable, ""),
        ("57P01", "secret-value", CacheErrorKind::Timeout, "lost"),
        ("57P02", "secret-value", CacheErrorKind::Timeout, "lost"),
        ("57P05", "secret-value", CacheErrorKind::Timeout, "lost"),
        ("08006", "secret-value", CacheErrorKind::Timeout, "lost"),
        ("08P01", "secret-value", CacheErrorKind::Timeout, "lost"),
        ("08P01", "unsupported startup parameter: options", CacheErrorKind::Unsupported, pooler),
        ("26000", "secret-value", CacheErrorKind::Unsupported, pooler),
        ("42P05", "secret-value", CacheErrorKind::Unsupported, pooler),
        ("42P01", "secret-value", CacheErrorKind::Refused, migrate),
        ("42703", "secret-value", CacheErrorKind::Refused, migrate),
        ("3F000", "secret-value", CacheErrorKind::Refused, migrate),
        ("42501", "secret-value", CacheErrorKind::Refused, "may not"),
        ("28P01", "secret-value", CacheErrorKind::Refused, "password"),
        ("28000", "secret-value", CacheErrorKind::Refused, "password"),
        ("3D000", "secret-value", CacheErrorKind::Refused, "no such database"),
        ("23514", "secret-value", CacheErrorKind::Refused, "refused"),
        ("58030", "secret-value", CacheErrorKind::Other, "failed"),
        ("XX001", "secret-value", CacheErrorKind::Other, "failed"),
    ] {
        server.sql(&format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{code}'; END $$;
             DROP TRIGGER IF EXISTS fail ON cloakroom_sessions;
             CREATE TRIGGER fail BEFORE INSERT ON cloakroom_sessions FOR EACH ROW EXECUTE FUNCTION fail()"
        ));
        let error = cache.insert("a", entry("1"), expiry()).await.unwrap_err();
        assert!(shown(&error).contains(says), "{code}: {error:?}");
        assert!(says.is_empty() || says == "lost" || shown(&error).contains(code), "{code}: {error:?}");
        assert_eq!(kind::<()>(Err(error)), expected, "{code}");
    }
}

/// A deadlock that PostgreSQL ends by refusing one of the two: the statement of this crate is tried again.
#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let server = PostgresServer::start_with(&["deadlock_timeout=10ms"]);
    let cache = patient(&server).await;
    server.sql(
        "CREATE TABLE tries (n bigint); CREATE SEQUENCE tried;
         CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('tried') < 3 THEN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END IF; RETURN NEW;
         END $$;
         CREATE TRIGGER once BEFORE INSERT ON cloakroom_sessions FOR EACH ROW EXECUTE FUNCTION once()",
    );
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    assert_eq!(server.sql("SELECT last_value FROM tried"), "3");
}

/// A pooler that is older than 1.21 does not know prepared statements: the error names the setting.
#[tokio::test]
async fn a_pooler_with_prepared_statements_is_named() {
    let server = PostgresServer::start();
    patient(&server).await;
    let pooler = PgBouncer::before(&server, 2);
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(8)
        .connect_with(pooler.url().parse::<sqlx::postgres::PgConnectOptions>().unwrap().extra_float_digits(None))
        .await
        .unwrap();
    let refused = cloakroom::SqlCacheBuilder::from_pool(pool.clone()).transaction_pooler().build_lazy();
    assert_eq!(kind(refused), CacheErrorKind::Unsupported, "a pool of the application may log statements");
    let cache = PostgresCache::from_pool(pool);
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let cache = cache.clone();
        readers.spawn(async move {
            for _ in 0..50 {
                cache.get("a").await?;
            }
            Ok(())
        });
    }
    let errors: Vec<_> = readers.join_all().await.into_iter().filter_map(Result::err).collect();
    for error in errors {
        assert!(shown(&error).contains("transaction_pooler"), "{error:?}");
        assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unsupported);
    }
}

/// A request during an outage: 503, no cookie, and the same cookie works afterwards.
#[tokio::test]
async fn an_outage_is_no_logout() {
    use std::convert::Infallible;
    use tower::{Layer, ServiceExt, service_fn};

    let mut server = PostgresServer::start();
    let layer = SessionLayer::new(SessionStore::new(hasty(&server).await));
    let ask = |cookie: Option<String>| {
        let service = layer.layer(service_fn(|request: http::Request<()>| async move {
            let lazy = request.extensions().get::<cloakroom::LazySession>().unwrap().clone();
            let visited = match lazy.load().await {
                Ok(session) => session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1),
                Err(error) => Err(error),
            };
            let mut response = http::Response::new(String::new());
            match visited {
                Ok(visits) => *response.body_mut() = visits.to_string(),
                Err(error) => *response.status_mut() = error.status(),
            }
            Ok::<_, Infallible>(response)
        }));
        let mut request = http::Request::get("/");
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        service.oneshot(request.body(()).unwrap())
    };
    let response = ask(None).await.unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    server.kill();
    let start = Instant::now();
    let response = ask(Some(cookie.clone())).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().get("set-cookie").is_none());
    assert!(start.elapsed() < Duration::from_secs(3));
    server.restart();
    let response = ask(Some(cookie)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "2"));
}

#[tokio::test]
async fn sweeping_does_not_stall_requests() {
    let server = PostgresServer::start();
    let cache = patient(&server).await;
    assert!(cache.insert("live", entry("1"), expiry()).await.unwrap());
    server.sql(
        "INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT convert_to('dead' || n, 'UTF8'), repeat('x', 200)::bytea, n, 1, 1, 1, 3600000 FROM generate_series(1, 20000) n",
    );
    let sweeper = tokio::spawn(cache.sweeper(Duration::from_secs(3600)));
    let mut reads = 0_u32;
    while server.sql("SELECT count(*) FROM cloakroom_sessions") != "1" {
        assert!(cache.get("live").await.unwrap().is_some());
        reads += 1;
        assert!(reads < 10_000, "the sweeper makes no progress");
    }
    sweeper.abort();
    shared::versions_keep_all_their_bits(&cache).await;
}
