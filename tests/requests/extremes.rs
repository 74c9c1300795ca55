//! Every setting at its extremes: an error that names it, or a layer that works or refuses, and never a panic.
use std::time::Duration;

use cloakroom::{
    BoxedCache, Cache, InMemoryCache, Refresh, Session, SessionError, SessionLayer, SessionLayerBuilder,
    SessionLimitPolicy, SessionStore,
};

use crate::support::{
    caches::on_every_cache,
    web::{id, live, send},
};

const OWNER: &str = "alice";

#[derive(Clone, Copy)]
enum Expect {
    /// `build` names the setting.
    Refused(&'static str),
    /// A session that is stored is found again.
    Works,
    /// Nothing panics, and each request is answered, be it with a 503.
    Answers,
}

use Expect::{Answers, Refused, Works};

/// A setting, what sets it, and what comes of it.
type Row<T> = (&'static str, fn(T) -> T, Expect);
type Store = SessionStore<BoxedCache>;
type Builder = SessionLayerBuilder<BoxedCache>;

const NANO: Duration = Duration::from_nanos(1);

/// All that a session is used for, and whether it was found again.
async fn use_it<C: Cache>(layer: &SessionLayer<C>) -> bool {
    let store = layer.store();
    let first = send(layer, None, |session| async move {
        match session.log_in(OWNER).and_then(|()| session.set("n", 1)) {
            Ok(()) => 200,
            Err(error) => error.status().as_u16(),
        }
    })
    .await;
    assert!([200, 500, 503].contains(&first.status), "{}", first.status);
    let cookie = first.cookie();
    let mut found = false;
    for act in 0..4 {
        let reply = send(layer, cookie.as_deref(), move |session| async move {
            let found = session.get::<u64>("n").is_some();
            match act {
                0 => session.touch(),
                1 => session.renew(),
                2 => session.destroy(),
                _ => {}
            }
            if found { 200 } else { 404 }
        });
        let reply = reply.await;
        assert!([200, 404, 500, 503].contains(&reply.status), "{act}: {}", reply.status);
        found |= act == 0 && reply.status == 200;
    }
    // Whatever they answer.
    let page = store.owner_sessions(OWNER, None, usize::MAX).await;
    let _ = store.owner_sessions(OWNER, page.as_ref().ok().and_then(|page| page.last()), 0).await;
    let _ = (store.sessions_of(OWNER).await, store.revoke_all(OWNER).await, store.ping().await);
    let _ = (store.load("").await, store.destroy("x".repeat(1 << 16)).await, store.touch("A".repeat(32)).await);
    let _ = store.sessions_of("").await;
    let _ = store.revoke_all(&"o".repeat(1 << 16)).await;
    found
}

async fn check(name: &str, built: Result<SessionLayer<BoxedCache>, cloakroom::ConfigError>, expect: Expect) {
    match (built, expect) {
        (Err(error), Refused(setting)) => {
            assert_eq!(error.setting(), setting, "{name}");
            assert!(!error.rule().is_empty() && error.to_string().starts_with(setting), "{name}: {error}");
        }
        (Ok(layer), Works) => assert!(use_it(&layer).await, "{name}: the session is not found"),
        (Ok(layer), Answers) => drop(use_it(&layer).await),
        (Err(error), _) => panic!("{name}: {error}"),
        (Ok(_), Refused(_)) => panic!("{name}: accepted"),
    }
}

fn memory() -> Store {
    SessionStore::new(BoxedCache::new(InMemoryCache::new()))
}

#[tokio::test]
async fn of_the_store() {
    let rows: Vec<Row<Store>> = vec![
        ("ttl 0", |s| s.ttl(Duration::ZERO), Refused("ttl")),
        ("ttl 1 ns", |s| s.ttl(NANO), Answers),
        ("ttl max", |s| s.ttl(Duration::MAX), Works),
        ("anonymous_ttl 0", |s| s.anonymous_ttl(Duration::ZERO), Refused("anonymous_ttl")),
        ("anonymous_ttl 1 ns", |s| s.anonymous_ttl(NANO), Works),
        ("anonymous_ttl max", |s| s.anonymous_ttl(Duration::MAX), Works),
        ("max_lifetime 0", |s| s.max_lifetime(Duration::ZERO), Refused("max_lifetime")),
        ("max_lifetime 1 ns", |s| s.max_lifetime(NANO), Answers),
        ("max_lifetime max", |s| s.max_lifetime(Duration::MAX), Works),
        ("all times max", |s| s.ttl(Duration::MAX).max_lifetime(Duration::MAX).deadline(Duration::MAX), Works),
        ("deadline 0", |s| s.deadline(Duration::ZERO), Refused("deadline")),
        ("deadline 1 ns", |s| s.deadline(NANO), Answers),
        ("deadline max", |s| s.deadline(Duration::MAX), Works),
        ("ended_interval 0", |s| s.ended_interval(Duration::ZERO), Refused("ended_interval")),
        ("ended_interval 1 ns", |s| s.ended_interval(NANO), Works),
        ("ended_interval max", |s| s.ended_interval(Duration::MAX), Works),
        ("key_prefix empty", |s| s.key_prefix(""), Refused("key_prefix")),
        ("key_prefix odd", |s| s.key_prefix("\0 \n{ü}*?["), Works),
        ("key_prefix long", |s| s.key_prefix("p".repeat(1 << 20)), Works),
        ("max_bytes 0", |s| s.max_bytes(0), Refused("max_bytes")),
        ("max_bytes 255", |s| s.max_bytes(255), Refused("max_bytes")),
        ("max_bytes 256", |s| s.max_bytes(256), Works),
        ("max_bytes max", |s| s.max_bytes(usize::MAX), Works),
        ("max_sessions_per_owner 0", |s| s.max_sessions_per_owner(0), Works),
        ("max_sessions_per_owner max", |s| s.max_sessions_per_owner(usize::MAX), Works),
        ("refuse 0", |s| s.max_sessions_per_owner(0).session_limit_policy(SessionLimitPolicy::Refuse), Works),
        ("owner_keys none", |s| s.owner_keys([] as [&[u8]; 0]), Works),
        ("owner_keys empty", |s| s.owner_keys([""]), Refused("owner_keys")),
        ("owner_keys short", |s| s.owner_keys([[1; 15]]), Refused("owner_keys")),
        ("owner_keys zero", |s| s.owner_keys([[0; 32]]), Refused("owner_keys")),
        ("owner_keys long", |s| s.owner_keys([vec![1; 1 << 20]]), Works),
        ("readable_owners", |s| s.readable_owners(true), Works),
    ];
    for (name, set, expect) in rows {
        check(name, SessionLayer::builder(set(memory())).build(), expect).await;
    }
}

/// Without `build` an operation returns the error, or answers.
#[tokio::test]
async fn of_a_store_that_no_build_checked() {
    for store in
        [memory().ttl(Duration::ZERO), memory().key_prefix(""), memory().max_bytes(0), memory().owner_keys([""])]
    {
        let refused = store.save(&cloakroom::Session::new()).await;
        assert!(matches!(refused, Err(cloakroom::SessionError::Setting(_))), "{refused:?}");
        use_it(&SessionLayer::new(store)).await;
    }
}

#[tokio::test]
async fn of_the_layer() {
    let rows: Vec<Row<Builder>> = vec![
        ("cookie_name empty", |b| b.cookie_name(""), Refused("cookie_name")),
        ("cookie_name prefix", |b| b.cookie_name("__Host-"), Works),
        ("cookie_name control", |b| b.cookie_name("a\0"), Refused("cookie_name")),
        ("cookie_name not ASCII", |b| b.cookie_name("ü"), Refused("cookie_name")),
        ("cookie_path empty", |b| b.cookie_name("id").cookie_path(""), Refused("cookie_path")),
        ("cookie_path of the prefix", |b| b.cookie_path("/x"), Refused("cookie_path")),
        ("cookie_path control", |b| b.cookie_name("id").cookie_path("/\n"), Refused("cookie_path")),
        ("cookie_domain empty", |b| b.cookie_name("id").cookie_domain(""), Refused("cookie_domain")),
        ("cookie_domain dots", |b| b.cookie_name("id").cookie_domain("..."), Refused("cookie_domain")),
        ("cookie_domain not ASCII", |b| b.cookie_name("id").cookie_domain("bücher.example"), Refused("cookie_domain")),
        ("cookie_domain long", |b| b.cookie_name("id").cookie_domain("a.".repeat(1000)), Refused("cookie_domain")),
        ("refresh 0", |b| b.refresh(Refresh::OnLoadEvery(Duration::ZERO)), Works),
        ("refresh max", |b| b.refresh(Refresh::OnLoadEvery(Duration::MAX)), Works),
    ];
    for (name, set, expect) in rows {
        if name == "cookie_name prefix" {
            // Nothing but a prefix is refused or works: it does not panic.
            if let Ok(layer) = set(SessionLayer::builder(memory())).build() {
                use_it(&layer).await;
            }
            continue;
        }
        check(name, set(SessionLayer::builder(memory())).build(), expect).await;
    }
    // `usize::MAX` and all times at once, with a cookie that outlives the browser.
    let built = SessionLayer::builder(memory().max_lifetime(Duration::MAX)).persistent(true).build();
    check("persistent", built, Refused("max_lifetime")).await;
}

on_every_cache! {
    of_a_session,
    of_names_in_a_cache,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A call, and whether it is accepted; what is accepted is stored, and read by the next request if the session may still live.
async fn of_a_session<C: Cache>(cache: C) {
    type Call = fn(&Session) -> Result<(), SessionError>;
    let rows: [(&str, Call, Expect); 26] = [
        ("set_ttl 0", |s| s.set_ttl(Duration::ZERO), Refused("set_ttl")),
        ("set_ttl 1 ns", |s| s.set_ttl(NANO), Answers),
        ("set_ttl max", |s| s.set_ttl(Duration::MAX), Works),
        ("set_lifetime 0", |s| s.set_lifetime(Duration::ZERO), Refused("set_lifetime")),
        ("set_lifetime 1 ns", |s| s.set_lifetime(NANO), Answers),
        ("set_lifetime 400 days", |s| s.set_lifetime(400 * DAY), Works),
        ("set_lifetime 400 days and 1 ns", |s| s.set_lifetime(400 * DAY + NANO), Refused("set_lifetime")),
        ("set_lifetime max", |s| s.set_lifetime(Duration::MAX), Refused("set_lifetime")),
        ("set_owner empty", |s| s.set_owner(""), Refused("set_owner")),
        ("set_owner 256 bytes", |s| s.set_owner("ü".repeat(128)), Works),
        ("set_owner 257 bytes", |s| s.set_owner("o".repeat(257)), Refused("257")),
        ("set_owner odd", |s| s.set_owner("\0\n'\"%_\\\u{10ffff}"), Works),
        ("log_in empty", |s| s.log_in(""), Refused("log_in")),
        ("log_in 256 bytes", |s| s.log_in("ü".repeat(128)), Works),
        ("log_in 257 bytes", |s| s.log_in("o".repeat(257)), Refused("257")),
        ("log_in odd", |s| s.log_in("\0\n'\"%_\\\u{10ffff}"), Works),
        ("set_persistent", |s| s.set_persistent(true).and_then(|()| s.set_ttl(Duration::MAX)), Works),
        ("a key that is empty", |s| s.set("", 1), Works),
        ("a key of 256 bytes", |s| s.set("ü".repeat(128), 1), Works),
        ("a key of 257 bytes", |s| s.set("k".repeat(257), 1), Refused("257")),
        ("an odd key", |s| s.set("\0\n'\"%_\\\u{10ffff}", 1), Works),
        ("numbers", |s| s.set("v", (i64::MIN, u64::MAX, f64::MAX, f64::MIN_POSITIVE, -0.0)), Works),
        ("no number", |s| s.set("v", f64::NAN), Refused("finite")),
        ("more than 64 bits", |s| s.set("v", u128::MAX), Refused("64 bits")),
        ("odd text", |s| s.set("v", "\0\u{7f}\u{2028}\u{10ffff}"), Works),
        ("nothing at all", |s| s.set("v", ()), Works),
    ];
    let layer = SessionLayer::new(SessionStore::new(cache).deadline(Duration::from_secs(20)));
    for (name, call, expect) in rows {
        let reply = send(&layer, None, move |session| async move {
            session.set("n", 1).unwrap();
            match (call(&session), &expect) {
                (Ok(()), Works | Answers) => 200,
                (Err(error), Refused(part)) if error.to_string().contains(part) => 400,
                (result, _) => panic!("{name}: {result:?}"),
            }
        });
        let reply = reply.await;
        let cookie = reply.cookie().unwrap_or_else(|| panic!("{name}: {}", reply.status));
        let seen = send(&layer, Some(&cookie), |session| async move {
            let _ = (session.expires_at(), session.created_at(), session.authenticated_within(Duration::MAX));
            session.touch();
            if session.get::<u64>("n") == Some(1) { 200 } else { 404 }
        });
        let seen = seen.await.status;
        assert!(seen == 200 || (seen == 404 && name.ends_with("1 ns")), "{name}: {seen}");
    }
}

/// What a cache has as keys and as names of lists.
async fn of_names_in_a_cache<C: Cache>(cache: C) {
    const ODD: &str = "\0 \n{ü}*?[%_'\"\\\u{10ffff}";
    let store = SessionStore::new(cache).key_prefix(ODD).readable_owners(true).deadline(Duration::from_secs(20));
    let layer = SessionLayer::builder(store.clone()).build().unwrap();
    let reply = send(&layer, None, |session| async move { session.log_in(ODD).map_or(500, |()| 200) }).await;
    let cookie = reply.cookie().unwrap();
    assert_eq!((live(&store, ODD).await, live(&store, "ü").await), (1, 0));
    assert!(store.touch(id(&cookie)).await.unwrap());
    assert_eq!(store.revoke_all(ODD).await.unwrap(), 1);
    assert!(store.load(id(&cookie)).await.unwrap().is_none());
}

#[cfg(feature = "signed")]
#[tokio::test]
async fn of_signing_keys() {
    use cloakroom::SigningKey;
    for short in [&[][..], &[1; 31]] {
        assert!(SigningKey::from_bytes(short).is_err());
    }
    assert!(SigningKey::from_base64("").is_err() && SigningKey::from_base64("=").is_err());
    let none = SessionLayer::builder(memory()).signing_keys([]).build();
    check("no keys", none, Refused("signing_keys")).await;
    let long = SigningKey::from_bytes(&vec![1; 1 << 20]).unwrap();
    check("a long key", SessionLayer::builder(memory()).signing_keys([long]).build(), Works).await;
}

#[tokio::test]
async fn of_the_cache_in_memory() {
    for entries in [0, 1, usize::MAX] {
        for bytes in [0, 1, 4096, usize::MAX] {
            let cache = InMemoryCache::builder().max_entries(entries).max_bytes(bytes).build();
            let built = SessionLayer::builder(SessionStore::new(BoxedCache::new(cache))).build();
            let expect = if entries == usize::MAX && bytes == usize::MAX { Works } else { Answers };
            check(&format!("{entries} entries, {bytes} bytes"), built, expect).await;
        }
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn of_redis() {
    use cloakroom::RedisCache;
    let server = crate::support::redis_server::RedisServer::start();
    for timeout in [Duration::ZERO, NANO, Duration::from_millis(1), Duration::MAX] {
        for near in [0, 1, usize::MAX] {
            for entry in [0, 1, usize::MAX] {
                let builder =
                    RedisCache::builder(server.url()).timeout(timeout).near_cache(near).max_entry_bytes(entry);
                let name = format!("timeout {timeout:?}, near_cache {near}, max_entry_bytes {entry}");
                match builder.build().await {
                    Err(error) => assert!(timeout != Duration::MAX || entry == 0, "{name}: {error:?}"),
                    Ok(cache) => {
                        let layer = SessionLayer::builder(SessionStore::new(BoxedCache::new(cache))).build();
                        let works = timeout == Duration::MAX && entry == usize::MAX;
                        check(&name, layer, if works { Works } else { Answers }).await;
                    }
                }
            }
        }
    }
    for url in ["", "redis://", "redis:", "http://localhost", "redis://127.0.0.1:0", "redis://127.0.0.1:99999", "\0"] {
        assert!(RedisCache::connect(url).await.is_err(), "{url}");
    }
    assert!(RedisCache::builder(server.url()).database(u16::MAX).build().await.is_err());
    for empty in [RedisCache::builder(server.url()).username(""), RedisCache::builder(server.url()).password("")] {
        drop(empty.build().await);
    }
}

/// The settings of a builder of a SQL cache on a database of its own.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! of_sql {
    ($cache:ident, $url:expr, [$($(#[$meta:meta])* ($name:literal, $set:expr, $expect:expr),)*]) => {{
        use cloakroom::{$cache, SqlTables};
        let url = $url;
        let patient = Duration::from_secs(60);
        let checked = async |name: &str, cache: $cache, expect: Expect| {
            let store = SessionStore::new(BoxedCache::new(cache)).deadline(patient);
            check(name, SessionLayer::builder(store).build(), expect).await;
        };
        let longest = SqlTables::named(&"t".repeat(40)).unwrap();
        for tables in [SqlTables::default(), longest] {
            let cache = $cache::builder(&url).tables(tables).timeout(patient).build().await.unwrap();
            cache.migrate().await.unwrap();
            checked("longest name", cache, Works).await;
        }
        let rows = vec![
            ("timeout 1 ns", (|builder| builder.timeout(NANO)) as fn(cloakroom::SqlCacheBuilder<_>) -> _, Answers),
            ("timeout 1 ms", |builder| builder.timeout(Duration::from_millis(1)), Answers),
            ("timeout max", |builder| builder.timeout(Duration::MAX), Works),
            ("max_connections 0", |builder| builder.max_connections(0), Works),
            ("max_connections 1", |builder| builder.max_connections(1), Works),
            ("max_connections max", |builder| builder.max_connections(u32::MAX), Works),
            ("fail_fast", |builder| builder.fail_fast(false), Works),
            ("sweep_with_inserts", |builder| builder.sweep_with_inserts(false), Works),
            $($(#[$meta])* ($name, $set, $expect),)*
        ];
        for (name, set, expect) in rows {
            let cache = set($cache::builder(&url).timeout(patient)).build_lazy().unwrap();
            checked(name, cache, expect).await;
        }
        for built in [$cache::builder(&url).timeout(Duration::ZERO).build_lazy(), $cache::builder(&url).timeout(Duration::ZERO).build().await] {
            let error = std::error::Error::source(&built.unwrap_err()).unwrap().to_string();
            assert!(error.contains("timeout"), "{error}");
        }
        let cache = $cache::builder(&url).timeout(patient).build().await.unwrap();
        assert_eq!(cache.sweep(0).await.unwrap(), 0);
        for limit in [1, usize::MAX] {
            cache.sweep(limit).await.unwrap();
        }
        for every in [Duration::ZERO, NANO, Duration::MAX] {
            let sweeper = tokio::spawn(cache.sweeper(every));
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!sweeper.is_finished());
            sweeper.abort();
        }
        checked("beside sweepers", cache, Works).await;
    }};
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn of_sqlite() {
    let file = crate::support::sqlite_file::SqliteFile::new();
    of_sql!(SqliteCache, file.url(), []);
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn of_mysql() {
    let server = crate::support::mariadb_server::MariaDbServer::start();
    of_sql!(MySqlCache, server.url(), []);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn of_postgres() {
    let server = crate::support::postgres_server::PostgresServer::start();
    of_sql!(
        PostgresCache,
        server.url(),
        [
            ("near_cache 0", |builder| builder.near_cache(0), Works),
            ("near_cache 1", |builder| builder.near_cache(1), Works),
            ("near_cache max", |builder| builder.near_cache(usize::MAX), Works),
            ("near_cache, timeout 1 ns", |builder| builder.near_cache(1 << 20).timeout(NANO), Answers),
            ("near_cache, timeout max", |builder| builder.near_cache(1 << 20).timeout(Duration::MAX), Works),
        ]
    );
}
