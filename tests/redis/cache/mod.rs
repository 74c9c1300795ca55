//! The cache in Redis, over a real server: the contract, what it costs, and what happens when the server misbehaves.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cloakroom::{Cache, CacheErrorKind, Deleted, Expiry, RedisCache, Replaced, Version, testing::cache_contract};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    redis_app::unhurried,
    redis_proxy::{Mode, Proxy},
    redis_server::{RedisServer, Reply},
    six_methods::SixMethods,
    writes::Writes,
};

mod starting;

const HOUR: Duration = Duration::from_secs(3600);

fn hour() -> Expiry {
    Expiry { idle: HOUR, end: SystemTime::now() + 2 * HOUR }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn start() -> (RedisServer, RedisCache) {
    let server = RedisServer::start();
    let cache = unhurried(server.url()).await;
    (server, cache)
}

async fn value(cache: &RedisCache, key: &str) -> Option<Bytes> {
    cache.get(key).await.unwrap().map(|entry| entry.value)
}

#[tokio::test]
async fn the_contract_holds() {
    let (_server, cache) = start().await;
    cache_contract(|| async { cache.clone() }, None).await;
}

#[tokio::test]
async fn the_contract_holds_with_the_six_methods_alone() {
    let (_server, cache) = start().await;
    cache_contract(|| async { SixMethods::new(cache.clone()) }, None).await;
}

#[tokio::test]
async fn the_contract_holds_over_a_connection_of_the_application() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).unwrap();
    let cache = RedisCache::from_connection(client.get_connection_manager().await.unwrap());
    cache_contract(|| async { cache.clone() }, None).await;
}

/// The locale of a server decides how Lua compares strings, and must not decide which members a page has.
#[tokio::test]
async fn the_contract_holds_where_the_locale_sorts_names_by_the_alphabet() {
    let server = RedisServer::start_in_locale("en_US");
    assert_eq!(server.command(&["EVAL", "return 'a' < 'B' and 'B' < 'c' and 1 or 0", "0"]), Reply::Int(1));
    let cache = unhurried(server.url()).await;
    cache_contract(|| async { cache.clone() }, None).await;
}

/// What an operator has to permit.
const PERMITTED: &str = "+ping +set +evalsha +eval +getrange +del +pttl +pexpire \
                         +zadd +zrem +zremrangebyscore +zrange +zcount";

#[tokio::test]
async fn the_contract_holds_for_a_user_with_the_fewest_permissions() {
    let (server, _) = start().await;
    let user = "ACL SETUSER sessions on >pw ~cloakroom:* resetchannels -@all";
    let rule: Vec<_> = user.split(' ').chain(PERMITTED.split_whitespace()).collect();
    assert_eq!(server.command(&rule), Reply::Simple("OK".to_owned()));
    let cache = unhurried(format!("redis://sessions:pw@127.0.0.1:{}", server.port())).await;
    cache_contract(|| async { cache.clone() }, None).await;
    let error = cache.put("another:key", bytes("v"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");
}

/// The calls of clients, by command, that `operation` makes.
async fn calls<F: Future>(server: &RedisServer, operation: F) -> BTreeMap<String, u64> {
    server.reset_calls();
    operation.await;
    let mut calls = server.calls();
    calls.retain(|name, _| !matches!(name.as_str(), "info" | "config" | "config|resetstat"));
    calls
}

#[tokio::test]
async fn each_operation_is_one_command() {
    let (server, cache) = start().await;
    let version = cache.put("warm", bytes("v"), hour()).await.unwrap().unwrap();
    cache.touch("warm").await.unwrap();
    cache.get_and_touch("warm", Duration::ZERO).await.unwrap();
    let version = cache.put_over("warm", version, bytes("v"), hour()).await.unwrap().unwrap();
    assert_eq!(cache.delete("warm", version).await.unwrap(), Deleted::Done);
    let end = hour().end;
    cache.list_add("list", "m", end).await.unwrap();
    cache.list_page("list", None, 10).await.unwrap();
    cache.list_remove("list", &["m".to_owned()]).await.unwrap();

    let is = |calls: BTreeMap<String, u64>, should: &[(&str, u64)]| {
        let should: BTreeMap<_, _> = should.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(calls, should);
    };
    is(calls(&server, cache.put("k", bytes("v"), hour())).await, &[("set", 1)]);
    is(calls(&server, cache.get("k")).await, &[("getrange", 1)]);
    is(calls(&server, cache.get("absent")).await, &[("getrange", 1)]);
    is(calls(&server, cache.touch("k")).await, &[("evalsha", 1), ("getrange", 1), ("pexpire", 1)]);
    let touched = calls(&server, cache.get_and_touch("k", HOUR)).await;
    is(touched, &[("evalsha", 1), ("getrange", 1), ("pttl", 1)]);
    let version = cache.get("k").await.unwrap().unwrap().version;
    let replaced = calls(&server, cache.put_over("k", version, bytes("w"), hour())).await;
    is(replaced, &[("evalsha", 1), ("getrange", 1), ("set", 1)]);
    let conflict = calls(&server, cache.put_over("k", version, bytes("x"), hour())).await;
    is(conflict, &[("evalsha", 1), ("getrange", 2)]);
    let version = cache.get("k").await.unwrap().unwrap().version;
    is(calls(&server, cache.delete("k", version)).await, &[("del", 1), ("evalsha", 1), ("getrange", 1)]);
    assert_eq!(calls(&server, cache.list_add("list", "m", end)).await["evalsha"], 1);
    is(calls(&server, cache.list_page("list", None, 10)).await, &[("evalsha", 1), ("zcount", 1), ("zrange", 1)]);
    is(calls(&server, cache.ping()).await, &[("ping", 1)]);
}

#[tokio::test]
async fn every_key_has_a_time_to_live() {
    let (server, cache) = start().await;
    let far = Expiry { idle: Duration::MAX, end: SystemTime::now() + Duration::from_secs(1 << 40) };
    for (number, expiry) in [hour(), far].into_iter().enumerate() {
        let key = format!("k{number}");
        let version = cache.put(&key, bytes("v"), expiry).await.unwrap().unwrap();
        assert!(server.command(&["PTTL", &key]).int() > 0);
        cache.put_over(&key, version, bytes("v"), expiry).await.unwrap().unwrap();
        assert!(server.command(&["PTTL", &key]).int() > 0);
        cache.touch(&key).await.unwrap();
        cache.get_and_touch(&key, Duration::ZERO).await.unwrap();
        assert!(server.command(&["PTTL", &key]).int() > 0);
    }
    cache.list_add("list", "m", hour().end).await.unwrap();
    cache.list_add("list", "n", hour().end - HOUR).await.unwrap();
    cache.list_remove("list", &["m".to_owned()]).await.unwrap();
    let left = server.command(&["PTTL", "list"]).int();
    assert!(left > 0 && left <= 3_600_000, "{left}");
}

#[tokio::test]
async fn no_time_to_live_passes_the_end() {
    let (server, cache) = start().await;
    let ending = Expiry { idle: HOUR, end: SystemTime::now() + Duration::from_secs(10) };
    let left = || server.command(&["PTTL", "k"]).int();
    let version = cache.put("k", bytes("v"), ending).await.unwrap().unwrap();
    assert!((1..=10_000).contains(&left()));
    assert!(cache.touch("k").await.unwrap());
    assert!((1..=10_000).contains(&left()));
    server.command(&["PEXPIRE", "k", "5000"]);
    assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
    assert!((5_001..=10_000).contains(&left()));
    cache.put_over("k", version, bytes("w"), ending).await.unwrap().unwrap();
    assert!((1..=10_000).contains(&left()));
}

#[tokio::test]
async fn what_redis_kept_past_its_end_is_absent() {
    let (server, cache) = start().await;
    let soon = || Expiry { idle: HOUR, end: SystemTime::now() + Duration::from_millis(80) };
    let mut versions = Vec::new();
    for key in ["get", "touch", "get_and_touch", "replace", "delete", "insert"] {
        versions.push(cache.put(key, bytes("v"), soon()).await.unwrap().unwrap());
        assert_eq!(server.command(&["PERSIST", key]).int(), 1);
    }
    tokio::time::sleep(Duration::from_millis(90)).await;
    assert_eq!(cache.get("get").await.unwrap(), None);
    assert!(!cache.touch("touch").await.unwrap());
    assert_eq!(cache.get_and_touch("get_and_touch", Duration::ZERO).await.unwrap(), None);
    assert_eq!(cache.put_over("replace", versions[3], bytes("w"), hour()).await.unwrap(), Err(Replaced::Missing));
    assert_eq!(cache.delete("delete", versions[4]).await.unwrap(), Deleted::Missing);
    assert!(cache.put("insert", bytes("w"), hour()).await.unwrap().is_some());
    assert_eq!(value(&cache, "insert").await, Some(bytes("w")));
    assert_eq!(server.command(&["EXISTS", "touch", "get_and_touch", "replace", "delete"]).int(), 0);
}

#[tokio::test]
async fn a_touch_gives_a_persisted_key_its_time_back() {
    let (server, cache) = start().await;
    cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    server.command(&["PERSIST", "k"]);
    assert!(cache.get_and_touch("k", 10 * HOUR).await.unwrap().is_some());
    assert!(server.command(&["PTTL", "k"]).int() > 0);
}

#[tokio::test]
async fn a_foreign_value_is_left_as_it_is() {
    let (server, cache) = start().await;
    let long = "another application's value, longer than a header".to_owned();
    for foreign in ["", "short", long.as_str()] {
        server.command(&["SET", "k", foreign]);
        assert_eq!(cache.get("k").await.unwrap(), None);
        assert_eq!(cache.get_and_touch("k", Duration::ZERO).await.unwrap(), None);
        assert!(!cache.touch("k").await.unwrap());
        assert_eq!(cache.put("k", bytes("v"), hour()).await.unwrap(), None);
        assert_eq!(cache.put_over("k", Version::from(0), bytes("v"), hour()).await.unwrap(), Err(Replaced::Missing));
        assert_eq!(cache.delete("k", Version::from(0)).await.unwrap(), Deleted::Missing);
        assert_eq!(server.command(&["GET", "k"]), Reply::Bytes(foreign.into()));
        assert_eq!(server.command(&["PTTL", "k"]).int(), -1);
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_refused() {
    let (server, cache) = start().await;
    server.command(&["RPUSH", "k", "secret"]);
    let errors = [
        cache.get("k").await.unwrap_err(),
        cache.get_and_touch("k", HOUR).await.unwrap_err(),
        cache.touch("k").await.unwrap_err(),
        cache.put("k", bytes("v"), hour()).await.unwrap_err(),
        cache.put_over("k", Version::unique(), bytes("v"), hour()).await.unwrap_err(),
        cache.delete("k", Version::unique()).await.unwrap_err(),
        cache.list_add("k", "m", hour().end).await.unwrap_err(),
        cache.list_remove("k", &["m".to_owned()]).await.unwrap_err(),
        cache.list_page("k", None, 10).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");
        assert!(format!("{error:?}").contains("WRONGTYPE") && !format!("{error:?}").contains("holding"), "{error:?}");
    }
}

#[tokio::test]
async fn scripts_may_be_flushed() {
    let (server, cache) = start().await;
    let mut version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    for _ in 0..20 {
        server.command(&["SCRIPT", "FLUSH"]);
        version = cache.put_over("k", version, bytes("v"), hour()).await.unwrap().unwrap();
        server.command(&["SCRIPT", "FLUSH"]);
        assert!(cache.touch("k").await.unwrap());
        assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
    }
    assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
}

#[tokio::test]
async fn killed_connections_are_not_noticed() {
    let (server, cache) = start().await;
    let mut version = cache.put("k", bytes("0"), hour()).await.unwrap().unwrap();
    for round in 0..20 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        version = cache.put_over("k", version, bytes("1"), hour()).await.unwrap().unwrap();
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(cache.get("k").await.unwrap().is_some());
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        // An insert is not sent again: while the connection's end is not noticed, its outcome is unknown.
        match cache.put(&format!("k{round}"), bytes("v"), hour()).await {
            Ok(version) => assert!(version.is_some()),
            Err(error) => assert_eq!(error.kind(), CacheErrorKind::Timeout, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_lost_reply_doubles_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let cache = RedisCache::connect(proxy.url()).await.unwrap();
    cache.put("warm", bytes("v"), hour()).await.unwrap();
    cache.put_over("warm", Version::unique(), bytes("v"), hour()).await.map(drop).unwrap();
    cache.delete("warm", Version::unique()).await.map(drop).unwrap();

    let first = cache.put("k", bytes("first"), hour()).await.unwrap().unwrap();

    proxy.set(Mode::CutOnce);
    let second = cache.put_over("k", first, bytes("second"), hour()).await.unwrap().unwrap();
    assert_eq!((proxy.mode(), cache.get("k").await.unwrap().unwrap().version), (Mode::Pass, second));

    proxy.set(Mode::CutOnce);
    assert_eq!(cache.delete("k", second).await.unwrap(), Deleted::Done);
    assert_eq!((proxy.mode(), cache.get("k").await.unwrap()), (Mode::Pass, None));

    proxy.set(Mode::CutOnce);
    assert_eq!(cache.get("k").await.unwrap(), None);
    assert_eq!(proxy.mode(), Mode::Pass);
}

/// A second try would bring back an entry that was deleted after the first one.
#[tokio::test]
async fn an_insert_whose_reply_is_lost_is_a_timeout_and_is_not_sent_again() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let cache = RedisCache::connect(proxy.url()).await.unwrap();
    cache.put("warm", bytes("v"), hour()).await.unwrap();
    server.reset_calls();
    proxy.set(Mode::CutOnce);
    let error = cache.put("k", bytes("v"), hour()).await.unwrap_err();
    assert_eq!((error.kind(), proxy.mode()), (CacheErrorKind::Timeout, Mode::Pass), "{error:?}");
    assert_eq!(server.calls()["set"], 1);
    assert_eq!(value(&cache, "k").await, Some(bytes("v")), "it was applied");
    // Where nothing can have been sent, it is: another connection is made first.
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(cache.put("after a second", bytes("v"), hour()).await.unwrap().is_some());
}

/// After its address has moved, a server must not answer reads while another one is told of the logout.
#[tokio::test]
async fn both_connections_follow_an_address_that_moves() {
    for near in [0, 1 << 20] {
        for kind in ["reads", "writes"] {
            let (former, next) = (RedisServer::start(), RedisServer::start());
            let proxy = Proxy::before(former.port()).await;
            let cache = RedisCache::builder(proxy.url()).near_cache(near).build().await.unwrap();
            let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
            assert_eq!(value(&cache, "k").await, Some(bytes("v")));
            // The next server has all that the former one had, as a replica does.
            let Reply::Bytes(raw) = former.command(&["GET", "k"]) else { panic!() };
            next.command_bytes(&[b"SET", b"k", &raw, b"PX", b"100000"]);
            proxy.lead_to(next.port());
            let clients = former.command(&["CLIENT", "LIST"]).text();
            // With a near cache both go over the one that reports changes.
            let of = match (near, kind) {
                (0, "reads") => "cmd=getrange",
                (0, _) => "cmd=set",
                _ => "flags=t",
            };
            let lost = clients.lines().find(|line| line.contains(of));
            let id = lost.and_then(|line| line.strip_prefix("id=")?.split(' ').next()).expect(&clients);
            former.command(&["CLIENT", "KILL", "ID", id]);
            if kind == "reads" {
                // The near cache notices by itself; otherwise the next read of the server does.
                let _ = value(&cache, "other").await;
            }
            assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
            assert_eq!(next.command(&["EXISTS", "k"]).int(), 0, "{kind}: the next server was told");
            assert_eq!(value(&cache, "k").await, None, "{kind}, near cache {near}: the former server answers");
        }
    }
}

/// Whatever was planted in Redis, a read takes no more into memory than the longest entry.
#[tokio::test]
async fn a_value_that_is_too_long_is_unreadable_and_can_be_ended() {
    let server = RedisServer::start();
    let builder = || RedisCache::builder(server.url()).timeout(Duration::from_secs(10)).max_entry_bytes(1000);
    for cache in [builder().build().await.unwrap(), builder().near_cache(1 << 20).build().await.unwrap()] {
        let version = cache.put("k", vec![b'x'; 1000].into(), hour()).await.unwrap().unwrap();
        assert_eq!(value(&cache, "k").await.unwrap().len(), 1000);
        let error = cache.put("longer", vec![b'x'; 1001].into(), hour()).await.unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Unsupported);
        let error = cache.put_over("k", version, vec![b'x'; 1001].into(), hour()).await.unwrap_err();
        assert!(error.kind() == CacheErrorKind::Unsupported && format!("{error:?}").contains("max_entry_bytes"));

        server.command(&["SETRANGE", "k", "200000000", "x"]);
        let before = server.info("total_net_output_bytes");
        let empty = cloakroom::Entry::new(Bytes::new(), version);
        assert_eq!(cache.get("k").await.unwrap().as_ref(), Some(&empty));
        assert_eq!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().as_ref(), Some(&empty));
        let conflict = cache.put_over("k", Version::unique(), bytes("v"), hour()).await.unwrap();
        assert_eq!(conflict, Err(Replaced::Conflict(empty.clone())));
        assert_eq!(cache.delete("k", Version::unique()).await.unwrap(), Deleted::Conflict(empty));
        assert!(server.info("total_net_output_bytes") - before < 50_000);
        assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
    }
}

#[tokio::test]
async fn a_lost_reply_that_cannot_be_told_is_a_timeout() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let cache = RedisCache::connect(proxy.url()).await.unwrap();
    let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    let stale = Version::unique();
    cache.put_over("k", stale, bytes("w"), hour()).await.map(drop).unwrap();
    cache.delete("k", stale).await.map(drop).unwrap();

    proxy.set(Mode::CutOnce);
    let error = cache.put_over("k", stale, bytes("w"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Timeout);
    proxy.set(Mode::CutOnce);
    let error = cache.delete("k", stale).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Timeout);
    assert_eq!(cache.get("k").await.unwrap().unwrap().version, version);
    assert_eq!(proxy.mode(), Mode::Pass);
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout_and_comes_back() {
    let server = RedisServer::start();
    let cache = RedisCache::connect(server.url()).await.unwrap();
    cache.put("k", bytes("v"), hour()).await.unwrap();
    server.pause();
    // The second one has to connect first, and knows that nothing was sent.
    for kind in [CacheErrorKind::Timeout, CacheErrorKind::Unavailable] {
        let began = Instant::now();
        let error = cache.get("k").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    server.resume();
    assert_eq!(value(&cache, "k").await, Some(bytes("v")));
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let cache = RedisCache::connect(server.url()).await.unwrap();
    cache.put("k", bytes("v"), hour()).await.unwrap();
    server.stop();
    let began = Instant::now();
    assert_eq!(cache.get("k").await.unwrap_err().kind(), CacheErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    server.restart();
    assert_eq!(value(&cache, "k").await, Some(bytes("v")));
}

#[tokio::test]
async fn a_full_server_refuses_writes_only() {
    let (server, cache) = start().await;
    let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = cache.put("new", bytes("v"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full, "{error:?}");
    let error = cache.put_over("k", version, bytes("w"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full, "{error:?}");
    let error = cache.list_add("list", "m", hour().end).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full, "{error:?}");
    assert_eq!(value(&cache, "k").await, Some(bytes("v")));
    assert!(cache.touch("k").await.unwrap());
    assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
    assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_unavailable_for_writes() {
    let (server, cache) = start().await;
    let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    // The time limit of this one is half a second.
    let hasty = RedisCache::builder(server.url()).build_lazy().unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let began = Instant::now();
    let error = hasty.put_over("k", version, bytes("w"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    server.command(&["REPLICAOF", "NO", "ONE"]);
    cache.put_over("k", version, bytes("w"), hour()).await.unwrap().unwrap();
}

#[tokio::test]
async fn operations_at_the_same_time_share_connections() {
    let (server, cache) = start().await;
    let tasks: tokio::task::JoinSet<_> = (0..500)
        .map(|number| {
            let cache = cache.clone();
            async move {
                cache.get("k").await.unwrap();
                cache.put(&format!("k{number}"), bytes("v"), hour()).await.unwrap()
            }
        })
        .collect();
    assert!(tasks.join_all().await.iter().all(Option::is_some));
    let clients = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).text();
    // One for reads, one for the rest, and that of the question.
    assert_eq!(clients.lines().count(), 3, "{clients}");
}
