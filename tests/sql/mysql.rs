//! MariaDB, which stands for MySQL: when all is well, and when something is wrong.
use std::time::{Duration, Instant};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, Deleted, Entry, MySqlCache, Replaced, SqlTables, Version, testing::cache_contract,
};

use crate::{
    shared::{self, entry, expiry, kind, shown},
    support::mariadb_server::{MariaDbServer, patient},
    support::sql_proxy::{Mode, Proxy},
};

async fn hasty(server: &MariaDbServer) -> MySqlCache {
    patient(server).await;
    MySqlCache::connect(server.url()).await.unwrap()
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = MariaDbServer::start();
    let cache = patient(&server).await;
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::the_last_one_to_add_counts_all(&cache).await;
    shared::many_members_are_removed(&cache).await;
    shared::what_is_too_long_is_an_error(&cache).await;
}

/// What the database refuses at some of them is tried again.
#[tokio::test]
async fn it_keeps_the_contract_at_every_isolation() {
    // Older servers do not have this setting.
    let server = MariaDbServer::start_with(&["--loose-innodb-snapshot-isolation=ON"]);
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        server.sql(&format!("SET GLOBAL TRANSACTION ISOLATION LEVEL {level}"));
        let cache = patient(&server).await;
        cache_contract(|| async { cache.clone() }, None).await;
        shared::conflicts_tell_what_is_there_now(&cache).await;
        server.sql("USE app; TRUNCATE cloakroom_sessions; TRUNCATE cloakroom_sessions_lists");
    }
}

/// Idle time goes by the moment, whatever the time zone of the connection.
#[tokio::test]
async fn the_time_zone_of_a_connection_changes_nothing() {
    let server = MariaDbServer::start();
    let cache = patient(&server).await;
    let options: sqlx::mysql::MySqlConnectOptions = server.url().parse().unwrap();
    let far =
        sqlx::mysql::MySqlPoolOptions::new().connect_with(options.timezone(Some("+09:00".to_owned()))).await.unwrap();
    let far = MySqlCache::from_pool(far);
    let there = entry("1");
    let short = cloakroom::Expiry::new(Duration::from_secs(30), expiry().end);
    assert!(far.insert("a", there.clone(), short).await.unwrap());
    assert_eq!(cache.get("a").await.unwrap(), Some(there.clone()));
    assert!(cache.touch("a").await.unwrap());
    assert_eq!(far.get("a").await.unwrap(), Some(there));
    let now: i64 = server.sql("SELECT touched_ms FROM app.cloakroom_sessions").parse().unwrap();
    let ours = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    assert!((now - ours).abs() < 20_000, "{now} {ours}");
}

#[tokio::test]
async fn many_processes_migrate_at_once_and_tables_have_the_names_that_were_set() {
    let server = MariaDbServer::start();
    server.sql("CREATE DATABASE other");
    let tables = SqlTables::named("web").unwrap().in_schema("other").unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let cache = MySqlCache::builder(server.url()).tables(tables.clone()).build_lazy().unwrap();
        all.spawn(async move { cache.migrate().await.unwrap() });
    }
    all.join_all().await;
    assert_eq!(server.sql("SHOW TABLES FROM other"), "web\nweb_lists\nweb_schema");
    assert_eq!(server.sql("SHOW TABLES FROM app"), "");
    server.sql(&MySqlCache::schema(&tables));
}

#[tokio::test]
async fn the_sweep_removes_what_has_ended_and_nothing_else() {
    let server = MariaDbServer::start();
    let cache = patient(&server).await;
    let live = entry("live");
    assert!(cache.insert("live", live.clone(), expiry()).await.unwrap());
    server.sql(
        "USE app; UPDATE cloakroom_sessions SET due_ms = 0;
         INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
         SELECT CONCAT('dead', seq), '', seq, 1, 1, 1, 3600000 FROM seq_1_to_2000;
         INSERT INTO cloakroom_sessions_lists (list_key, member, end_ms)
         SELECT 'list', CONCAT('m', seq), 1 FROM seq_1_to_500",
    );
    assert_eq!(cache.sweep(700).await.unwrap(), 700);
    assert_eq!(cache.sweep(usize::MAX).await.unwrap(), 1300);
    assert_eq!(server.sql("SELECT COUNT(*) FROM app.cloakroom_sessions"), "1");
    assert_eq!(server.sql("SELECT COUNT(*) FROM app.cloakroom_sessions_lists"), "0");
    assert_eq!(cache.get("live").await.unwrap(), Some(live));
}

#[tokio::test]
async fn outages_are_unavailable_and_nothing_is_lost() {
    let mut server = MariaDbServer::start_with(&["--innodb-flush-log-at-trx-commit=1"]);
    let cache = hasty(&server).await;
    let there = entry("secret-value");
    assert!(cache.insert("secret-key", there.clone(), expiry()).await.unwrap());

    server.pause();
    let start = Instant::now();
    assert_eq!(kind(cache.get("secret-key").await), CacheErrorKind::Timeout);
    assert_eq!(kind(cache.touch("secret-key").await), CacheErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5));
    server.resume();

    server.kill();
    assert_eq!(kind(cache.get("secret-key").await), CacheErrorKind::Unavailable);
    server.restart();
    assert_eq!(patient(&server).await.get("secret-key").await.unwrap(), Some(there));
}

#[tokio::test]
async fn killed_connections_cost_an_insert_only() {
    let server = MariaDbServer::start();
    let cache =
        MySqlCache::builder(server.url()).timeout(Duration::from_secs(10)).max_connections(1).build().await.unwrap();
    cache.migrate().await.unwrap();
    let there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    server.kill_connections();
    assert_eq!(cache.get("a").await.unwrap(), Some(there.clone()));
    server.kill_connections();
    assert_eq!(kind(cache.insert("b", entry("1"), expiry()).await), CacheErrorKind::Timeout);
    server.kill_connections();
    let next = entry("2");
    assert_eq!(cache.replace("a", there.version, next.clone(), expiry()).await.unwrap(), Replaced::Done);
    server.kill_connections();
    assert_eq!(cache.delete("a", next.version).await.unwrap(), Deleted::Done);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let server = MariaDbServer::start();
    patient(&server).await;
    let proxy = Proxy::before(server.port()).await;
    let url = format!("mysql://root@127.0.0.1:{}/app?ssl-mode=disabled", proxy.port());
    let cache = MySqlCache::builder(&url).timeout(Duration::from_secs(20)).max_connections(1).build().await.unwrap();
    let first = Entry::new(Bytes::from_static(b"value-one"), Version::unique());
    assert!(cache.insert("a", first.clone(), expiry()).await.unwrap());
    let second = Entry::new(Bytes::from_static(b"value-two"), Version::unique());
    proxy.set(Mode::CutAnswer(b"value-two"));
    assert_eq!(cache.replace("a", first.version, second.clone(), expiry()).await.unwrap(), Replaced::Done);
    assert_eq!(cache.get("a").await.unwrap(), Some(second));
    assert_eq!(proxy.cuts(), 1);
    let third = Entry::new(Bytes::from_static(b"value-three"), Version::unique());
    proxy.set(Mode::CutAnswer(b"value-three"));
    assert_eq!(kind(cache.insert("b", third.clone(), expiry()).await), CacheErrorKind::Timeout);
    assert_eq!(cache.get("b").await.unwrap(), Some(third.clone()));
    assert!(cache.insert("b", third, expiry()).await.unwrap(), "the same insert again is recognised");

    let there = Entry::new(Bytes::from_static(b"value-four"), Version::unique());
    assert!(cache.insert("key-four", there.clone(), expiry()).await.unwrap());
    proxy.set(Mode::CutAnswer(b"key-four"));
    assert_eq!(cache.delete("key-four", there.version).await.unwrap(), Deleted::Done);
    assert_eq!(cache.get("key-four").await.unwrap(), None);
    assert_eq!(proxy.cuts(), 3);

    // What the second try finds is by another writer: nothing tells whether the first one wrote before.
    server.sql("USE app; CREATE TRIGGER t BEFORE UPDATE ON cloakroom_sessions FOR EACH ROW SET NEW.version = 7");
    let there = cache.get("a").await.unwrap().unwrap();
    let fifth = Entry::new(Bytes::from_static(b"value-five"), Version::unique());
    proxy.set(Mode::CutAnswer(b"value-five"));
    assert_eq!(kind(cache.replace("a", there.version, fifth, expiry()).await), CacheErrorKind::Timeout);
    assert_eq!(proxy.cuts(), 4);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = MariaDbServer::start();
    let cache = MySqlCache::connect(server.url()).await.unwrap();
    let error = cache.get("secret-key").await.unwrap_err();
    assert!(shown(&error).contains("migrate"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);
    cache.migrate().await.unwrap();

    server.sql(
        "CREATE USER web@127.0.0.1 IDENTIFIED BY 'pa55'; CREATE USER stranger@127.0.0.1;
         GRANT SELECT ON app.cloakroom_sessions_schema TO stranger@127.0.0.1;
         GRANT SELECT, INSERT, UPDATE, DELETE ON app.cloakroom_sessions TO web@127.0.0.1;
         GRANT SELECT, INSERT, UPDATE, DELETE ON app.cloakroom_sessions_lists TO web@127.0.0.1;
         GRANT SELECT ON app.cloakroom_sessions_schema TO web@127.0.0.1",
    );
    let web = MySqlCache::connect(server.url().replace("root@", "web:pa55@")).await.unwrap();
    web.migrate().await.unwrap();
    assert!(web.insert("a", entry("1"), expiry()).await.unwrap());
    web.list_add("l", "m", expiry().end).await.unwrap();
    web.sweep(10).await.unwrap();
    let stranger = MySqlCache::connect(server.url().replace("root@", "stranger@")).await.unwrap();
    let error = stranger.get("a").await.unwrap_err();
    assert!(shown(&error).contains("may not"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);
    let wrong = MySqlCache::connect(server.url().replace("root@", "web:pa55x@")).await;
    assert_eq!(kind(wrong), CacheErrorKind::Refused);

    server.sql("SET GLOBAL read_only = 1");
    let error = web.insert("b", entry("1"), expiry()).await.unwrap_err();
    assert!(shown(&error).contains("read-only"), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Unavailable);
    server.sql("SET GLOBAL read_only = 0; SET GLOBAL max_connections = 10");

    let mut held = Vec::new();
    while let Ok(connection) = <sqlx::MySqlConnection as sqlx::Connection>::connect(&server.url()).await {
        held.push(connection);
    }
    let other = server.url().replace("root@", "web:pa55@");
    assert_eq!(kind(MySqlCache::connect(other).await), CacheErrorKind::Unavailable);
}

/// Two that lock the same rows in another order: what the database refuses is tried again.
#[tokio::test]
async fn failures_of_a_statement_are_told_apart() {
    let server = MariaDbServer::start();
    let cache = hasty(&server).await;
    // What is tried again ends with the last failure, which on a busy machine may be that of connecting: its text varies.
    for (numbers, expected, says) in [
        (
            &[1020, 1040, 1047, 1203, 1205, 1213, 1226, 1290, 1317, 1412, 1615, 1792, 1836, 1969, 3024, 3101, 3572][..],
            CacheErrorKind::Unavailable,
            "",
        ),
        (&[1053, 1077, 1079, 1080, 1927, 4031], CacheErrorKind::Timeout, "lost"),
        (&[1021, 1114, 3019], CacheErrorKind::Full, "full"),
        (&[1049, 1054, 1146], CacheErrorKind::Refused, "migrate"),
        (&[1044, 1045, 1698], CacheErrorKind::Refused, "password"),
        (&[1142, 1143, 1227, 1370], CacheErrorKind::Refused, "may not"),
        (&[4025], CacheErrorKind::Refused, "refused"),
    ] {
        for number in numbers {
            server.sql(&format!(
                "USE app; DROP TRIGGER IF EXISTS fail; CREATE TRIGGER fail BEFORE INSERT ON cloakroom_sessions FOR EACH ROW
                 SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'secret-value'"
            ));
            let error = cache.insert("a", entry("1"), expiry()).await.unwrap_err();
            assert!(shown(&error).contains(says), "{number}: {error:?}");
            assert_eq!(kind::<()>(Err(error)), expected, "{number}");
        }
    }
}

/// What waits for a lock on the server does not wait for much longer than its caller: else connections pile up there.
#[tokio::test]
async fn a_statement_whose_caller_gave_up_ends_on_the_server() {
    let server = MariaDbServer::start();
    let cache = hasty(&server).await;
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    let mut other = <sqlx::MySqlConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
    for lock in ["BEGIN; SELECT 1 FROM cloakroom_sessions FOR UPDATE", "LOCK TABLES cloakroom_sessions WRITE"] {
        sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
        cache.touch("a").await.unwrap_err();
        let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'UPDATE %'";
        let begun = Instant::now();
        while server.sql(waiting) != "0" {
            assert!(begun.elapsed() < Duration::from_secs(15), "a statement waits on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sqlx::raw_sql("ROLLBACK; UNLOCK TABLES").execute(&mut other).await.unwrap();
    }
    assert!(patient(&server).await.touch("a").await.unwrap());
}

#[tokio::test]
async fn idle_time_goes_by_the_clock_of_the_database_and_the_end_by_ours() {
    // With this setting a connection may have a clock of its own.
    let server = MariaDbServer::start_with(&["--sysdate-is-now"]);
    let cache = patient(&server).await;
    let pool = sqlx::mysql::MySqlPoolOptions::new().after_connect(|connection, _| {
        Box::pin(
            async move { sqlx::raw_sql("SET timestamp = UNIX_TIMESTAMP() + 3600").execute(connection).await.map(drop) },
        )
    });
    let ahead = MySqlCache::from_pool(pool.connect(&server.url()).await.unwrap());
    shared::idle_time_goes_by_the_clock_of_the_database_and_the_end_by_ours(&cache, &ahead).await;
}
