//! The near cache of Redis: what it saves, and that nothing is served that is no longer true.
use std::{
    future::Future,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cloakroom::{Cache, CacheErrorKind, Deleted, Expiry, RedisCache, Session, SessionStore, testing::cache_contract};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    holding_proxy::HoldingProxy,
    redis_proxy::{Mode, Proxy},
    redis_server::{RedisServer, Reply},
    writes::Writes,
};

const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;
/// Nothing is served that was last known to be true so long ago.
const BOUND: Duration = Duration::from_secs(1);
/// A message of the server arrives sooner, and nothing is read again of itself before half a second has passed.
const SOON: Duration = Duration::from_millis(400);
/// For operations that have to succeed on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(10);

fn hour() -> Expiry {
    Expiry { idle: HOUR, end: SystemTime::now() + 2 * HOUR }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn near(url: String) -> RedisCache {
    RedisCache::builder(url).near_cache(MIB).timeout(LIMIT).build().await.unwrap()
}

/// A server, a cache with a near cache, and one without: as in another process.
async fn start() -> (RedisServer, RedisCache, RedisCache) {
    let server = RedisServer::start();
    let other = RedisCache::builder(server.url()).timeout(LIMIT).build().await.unwrap();
    let near = near(server.url()).await;
    (server, near, other)
}

async fn value(cache: &RedisCache, key: &str) -> Option<Bytes> {
    cache.get(key).await.unwrap().map(|entry| entry.value)
}

/// Reads of values that the server was asked for meanwhile, but for those that prove now and then that it is there.
async fn reads<F: Future>(server: &RedisServer, cache: &RedisCache, operation: F) -> u64 {
    // The next proof is due half a second after this one.
    drop(cache.get("nothing is there").await);
    server.reset_calls();
    let began = Instant::now();
    operation.await;
    let proofs = began.elapsed().as_millis() / 100 + u128::from(began.elapsed() > Duration::from_millis(50));
    let gets = server.calls().get("getrange").copied().unwrap_or_default();
    gets.saturating_sub(u64::try_from(proofs).unwrap())
}

/// Reads until it is `should`, and gives the time that it took.
async fn becomes(cache: &RedisCache, key: &str, should: Option<&str>) -> Duration {
    let began = Instant::now();
    while value(cache, key).await.as_deref() != should.map(str::as_bytes) {
        assert!(began.elapsed() < LIMIT, "still not {should:?}");
        sleep(Duration::from_micros(200)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn the_contract_holds() {
    let (_server, cache, _) = start().await;
    cache_contract(|| async { cache.clone() }, None).await;
}

#[tokio::test]
async fn the_contract_holds_where_there_is_room_for_few() {
    let server = RedisServer::start();
    let cache = RedisCache::builder(server.url()).near_cache(2000).timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
}

#[tokio::test]
async fn the_contract_holds_for_a_user_with_the_fewest_permissions() {
    let server = RedisServer::start();
    let user = "ACL SETUSER sessions on >pw ~cloakroom:* resetchannels -@all +ping +set +evalsha +eval +getrange \
                +del +pttl +pexpire +zadd +zrem +zremrangebyscore +zrange +zcount";
    let mut rule: Vec<_> = user.split_whitespace().collect();
    assert_eq!(server.command(&rule), Reply::Simple("OK".to_owned()));
    let builder = RedisCache::builder(server.url()).username("sessions").password("pw").near_cache(MIB).timeout(LIMIT);
    let error = builder.clone().build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");

    rule.push("+client|tracking");
    assert_eq!(server.command(&rule), Reply::Simple("OK".to_owned()));
    let cache = builder.build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    cache.put("cloakroom:k", bytes("v"), hour()).await.unwrap();
    cache.get("cloakroom:k").await.unwrap();
    assert_eq!(reads(&server, &cache, cache.get("cloakroom:k")).await, 0);
}

#[tokio::test]
async fn a_hit_costs_no_command() {
    let (server, cache, other) = start().await;
    other.put("k", bytes("v"), hour()).await.unwrap();
    assert_eq!(reads(&server, &cache, value(&cache, "k")).await, 1);
    let hits = async {
        for _ in 0..10_000 {
            assert_eq!(value(&cache, "k").await, Some(bytes("v")));
        }
    };
    assert_eq!(reads(&server, &cache, hits).await, 0);
    let asked: u64 =
        server.calls().iter().filter(|(name, _)| *name != "info" && *name != "getrange").map(|(_, n)| n).sum();
    assert!(asked < 100, "{:?}", server.calls());
    // What is not there is not kept.
    assert_eq!(reads(&server, &cache, async { assert_eq!(value(&cache, "absent").await, None) }).await, 1);
}

#[tokio::test]
async fn what_another_changes_is_seen_at_once() {
    let (_server, cache, other) = start().await;
    let mut version = other.put("k", bytes("first"), hour()).await.unwrap().unwrap();
    let mut longest = Duration::ZERO;
    for round in 0..50 {
        value(&cache, "k").await.unwrap();
        let text = format!("round {round}");
        version = other.put_over("k", version, bytes(&text), hour()).await.unwrap().unwrap();
        longest = longest.max(becomes(&cache, "k", Some(&text)).await);
    }
    assert_eq!(other.delete("k", version).await.unwrap(), Deleted::Done);
    longest = longest.max(becomes(&cache, "k", None).await);
    assert!(longest < SOON, "{longest:?}");
}

#[tokio::test]
async fn a_session_that_was_revoked_elsewhere_ends_here() {
    let (_server, cache, other) = start().await;
    let (here, there) = (SessionStore::new(cache.clone()), SessionStore::new(other));
    let session = Session::new();
    session.set("user", 7).unwrap();
    let id = there.save(&session).await.unwrap();
    let late = here.load(&id).await.unwrap().unwrap();
    here.load(&id).await.unwrap().unwrap();
    there.destroy(&id).await.unwrap();
    // What was read before brings nothing back.
    late.set("user", 8).unwrap();
    late.commit().await.unwrap_err();
    let began = Instant::now();
    while here.load(&id).await.unwrap().is_some() {
        assert!(began.elapsed() < SOON);
        sleep(Duration::from_micros(200)).await;
    }
    assert!(there.load(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn no_update_is_lost_between_two_with_near_caches() {
    let (server, cache, _) = start().await;
    let patient = |cache| SessionStore::new(cache).deadline(LIMIT);
    let stores = [patient(cache), patient(near(server.url()).await)];
    let id = stores[0].save(&Session::new()).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..10 {
        let (store, id) = (stores[number % 2].clone(), id.clone());
        tasks.spawn(async move {
            for _ in 0..20 {
                let session = store.load(&id).await.unwrap().unwrap();
                session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
                session.commit().await.unwrap();
                // Its own write, at least.
                assert!(store.load(&id).await.unwrap().unwrap().get::<u64>("n") >= session.get("n"));
            }
        });
    }
    tasks.join_all().await;
    for store in &stores {
        let began = Instant::now();
        while store.load(&id).await.unwrap().unwrap().get::<u64>("n") != Some(200) {
            assert!(began.elapsed() < BOUND);
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn own_writes_are_read_at_once() {
    let (_server, cache, _) = start().await;
    for round in 0..200 {
        let key = format!("k{round}");
        assert_eq!(value(&cache, &key).await, None);
        let version = cache.put(&key, bytes("first"), hour()).await.unwrap().unwrap();
        assert_eq!(value(&cache, &key).await, Some(bytes("first")));
        let version = cache.put_over(&key, version, bytes("second"), hour()).await.unwrap().unwrap();
        assert_eq!(value(&cache, &key).await, Some(bytes("second")));
        assert_eq!(cache.delete(&key, version).await.unwrap(), Deleted::Done);
        assert_eq!(value(&cache, &key).await, None);
    }
}

#[tokio::test]
async fn own_writes_are_read_at_once_where_the_message_of_them_comes_late() {
    let server = RedisServer::start();
    let proxy = HoldingProxy::before(server.port()).await;
    let cache = near(proxy.url()).await;
    let version = cache.put("k", bytes("first"), hour()).await.unwrap().unwrap();
    for changed in [false, true] {
        assert_eq!(value(&cache, "k").await, Some(bytes("first")));
        proxy.hold_messages();
        if changed {
            assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
        }
        let read = tokio::spawn({
            let cache = cache.clone();
            async move { value(&cache, "k").await }
        });
        sleep(Duration::from_millis(20)).await;
        proxy.release();
        assert_eq!(read.await.unwrap().is_none(), changed);
    }
}

#[tokio::test]
async fn what_this_process_writes_it_reads_without_asking() {
    let (server, cache, other) = start().await;
    let mut version = cache.put("k", bytes("0"), hour()).await.unwrap().unwrap();
    assert_eq!(value(&cache, "k").await, Some(bytes("0")));
    for round in 1..20 {
        let text = format!("{round}");
        version = cache.put_over("k", version, bytes(&text), hour()).await.unwrap().unwrap();
        let read = async { assert_eq!(value(&cache, "k").await, Some(bytes(&text))) };
        assert_eq!(reads(&server, &cache, read).await, 0, "round {round}");
        // The server reports what another process does to it afterwards.
        if round % 3 == 0 {
            version = other.put_over("k", version, bytes("another"), hour()).await.unwrap().unwrap();
            assert!(becomes(&cache, "k", Some("another")).await < SOON);
        }
    }
    assert_eq!(other.delete("k", version).await.unwrap(), Deleted::Done);
    assert!(becomes(&cache, "k", None).await < SOON);
}

#[tokio::test]
async fn an_own_write_that_was_overtaken_by_a_change_is_not_kept() {
    let server = RedisServer::start();
    let other = RedisCache::builder(server.url()).timeout(LIMIT).build().await.unwrap();
    let proxy = HoldingProxy::before(server.port()).await;
    let cache = near(proxy.url()).await;
    let mut version = cache.put("k", bytes("old"), hour()).await.unwrap().unwrap();
    // Loads the script.
    version = cache.put_over("k", version, bytes("old"), hour()).await.unwrap().unwrap();
    for round in 0..20 {
        assert!(value(&cache, "k").await.is_some());
        proxy.hold();
        server.reset_calls();
        let write = tokio::spawn({
            let cache = cache.clone();
            async move { cache.put_over("k", version, bytes("own"), hour()).await.unwrap().unwrap() }
        });
        // The server has answered, and then tells of the other change; here all of it arrives together.
        let began = Instant::now();
        while server.calls().get("getrange").is_none_or(|count| *count < 2) {
            assert!(began.elapsed() < LIMIT);
            sleep(Duration::from_millis(1)).await;
        }
        let found = other.get("k").await.unwrap().unwrap().version;
        let text = format!("round {round}");
        let newer = other.put_over("k", found, bytes(&text), hour()).await.unwrap().unwrap();
        sleep(Duration::from_millis(3)).await;
        proxy.release();
        write.await.unwrap();
        assert_eq!(value(&cache, "k").await, Some(bytes(&text)), "the own write was kept after the change");
        version = newer;
    }
}

#[tokio::test]
async fn reads_are_answered_while_the_server_holds_back_writes() {
    let server = RedisServer::start();
    let cache =
        RedisCache::builder(server.url()).near_cache(MIB).timeout(Duration::from_secs(2)).build().await.unwrap();
    let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    for number in 0..20 {
        cache.put(&format!("k{number}"), bytes("v"), hour()).await.unwrap();
    }
    server.command(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let write = tokio::spawn({
        let cache = cache.clone();
        async move { cache.put_over("k", version, bytes("w"), hour()).await }
    });
    sleep(Duration::from_millis(20)).await;
    let before = server.info("total_connections_received");
    let mut read = (0..20).map(|number| format!("k{number}"));
    for key in read.by_ref().take(2) {
        assert_eq!(value(&cache, &key).await, Some(bytes("v")));
    }
    let made = server.info("total_connections_received") - before;
    assert!(made > 1, "the connection that is held back was not left: {made}");
    for key in read {
        assert_eq!(value(&cache, &key).await, Some(bytes("v")));
    }
    assert!(write.await.unwrap().is_err());
    server.command(&["CLIENT", "UNPAUSE"]);
    let began = Instant::now();
    while let Err(error) = cache.put("after", bytes("v"), hour()).await {
        assert!(began.elapsed() < LIMIT, "{error:?}");
        sleep(Duration::from_millis(10)).await;
    }
    // What was held back may have been done by now, and nothing older is served.
    let now_there = other_value(&server, "k").await;
    assert!(becomes(&cache, "k", Some(std::str::from_utf8(&now_there).unwrap())).await < SOON);
}

/// As another process finds it.
async fn other_value(server: &RedisServer, key: &str) -> Bytes {
    let other = RedisCache::builder(server.url()).timeout(LIMIT).build().await.unwrap();
    value(&other, key).await.unwrap()
}

#[tokio::test]
async fn an_answer_that_was_overtaken_by_a_change_is_not_kept() {
    let server = RedisServer::start();
    let other = RedisCache::builder(server.url()).timeout(LIMIT).build().await.unwrap();
    let proxy = HoldingProxy::before(server.port()).await;
    let cache = near(proxy.url()).await;
    let mut version = other.put("k", bytes("old"), hour()).await.unwrap().unwrap();
    for round in 0..20 {
        let (before, text) = (value(&cache, "absent").await, format!("round {round}"));
        assert_eq!(before, None);
        proxy.hold();
        server.reset_calls();
        let read = tokio::spawn({
            let cache = cache.clone();
            async move { value(&cache, "k").await }
        });
        // The server has answered, and then tells of the change; here both arrive together.
        let began = Instant::now();
        while server.calls().get("pttl").is_none_or(|count| *count == 0) {
            assert!(began.elapsed() < LIMIT);
            sleep(Duration::from_millis(1)).await;
        }
        version = other.put_over("k", version, bytes(&text), hour()).await.unwrap().unwrap();
        sleep(Duration::from_millis(3)).await;
        proxy.release();
        assert!(read.await.unwrap().is_some());
        assert_eq!(value(&cache, "k").await, Some(bytes(&text)), "the answer from before the change was kept");
        // For the next round it must not be here.
        version = other.put_over("k", version, bytes(&text), hour()).await.unwrap().unwrap();
        sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test]
async fn a_lost_connection_takes_everything_with_it() {
    let (server, cache, other) = start().await;
    let mut version = other.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    for round in 0..20 {
        // The read that connects is not kept.
        value(&cache, "k").await.unwrap();
        value(&cache, "k").await.unwrap();
        assert_eq!(reads(&server, &cache, cache.get("k")).await, 0);
        // What happens without a connection is reported to none.
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        let text = format!("round {round}");
        version = other.put_over("k", version, bytes(&text), hour()).await.unwrap().unwrap();
        // The end of the connection takes as long to arrive as a message of the change would.
        assert!(becomes(&cache, "k", Some(&text)).await < SOON);
    }
}

#[tokio::test]
async fn a_connection_that_died_silently_is_believed_for_a_second_at_most() {
    let server = RedisServer::start();
    let other = RedisCache::builder(server.url()).timeout(LIMIT).build().await.unwrap();
    let proxy = Proxy::before(server.port()).await;
    let builder = RedisCache::builder(proxy.url()).near_cache(MIB);
    let cache = builder.timeout(Duration::from_secs(1)).build().await.unwrap();
    let version = other.put("k", bytes("old"), hour()).await.unwrap().unwrap();
    cache.get("k").await.unwrap();
    proxy.set(Mode::Drop);
    sleep(Duration::from_millis(20)).await;
    let dead = Instant::now();
    assert_eq!(other.delete("k", version).await.unwrap(), Deleted::Done);
    let mut old = 0;
    while dead.elapsed() < BOUND + SOON {
        let asked = Instant::now();
        // Those that ask the server wait for nothing, and are given up before the other side notices.
        match tokio::time::timeout(Duration::from_millis(30), cache.get("k")).await {
            Err(_) => {}
            Ok(Ok(Some(_))) => {
                assert!(asked - dead < BOUND, "served {:?} after its connection died", asked - dead);
                old += 1;
            }
            Ok(other) => panic!("the outcome cannot be known: {other:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(old > 0, "it was never served from here, so that this shows nothing");
    proxy.set(Mode::Pass);
    assert_eq!(becomes_within(&cache, "k").await, None);
}

/// The value at the first read that succeeds.
async fn becomes_within(cache: &RedisCache, key: &str) -> Option<Bytes> {
    let began = Instant::now();
    loop {
        match cache.get(key).await {
            Ok(entry) => return entry.map(|entry| entry.value),
            Err(error) => assert!(began.elapsed() < LIMIT, "{error:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn flushing_the_server_empties_it() {
    let (server, cache, other) = start().await;
    for flush in ["FLUSHALL", "FLUSHDB"] {
        other.put("k", bytes("v"), hour()).await.unwrap();
        assert!(value(&cache, "k").await.is_some());
        server.command(&[flush]);
        assert!(becomes(&cache, "k", None).await < SOON);
    }
}

#[tokio::test]
async fn a_server_that_forgets_what_was_read_says_so() {
    let (server, cache, other) = start().await;
    server.command(&["CONFIG", "SET", "tracking-table-max-keys", "10"]);
    for number in 0..200 {
        other.put(&format!("k{number}"), bytes("old"), hour()).await.unwrap();
        value(&cache, &format!("k{number}")).await.unwrap();
    }
    // The server removes keys from its table now and then, and reports that.
    let began = Instant::now();
    while server.info("tracking_total_keys") > 10 {
        assert!(began.elapsed() < LIMIT);
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(20)).await;
    let all = async {
        for number in 0..200 {
            value(&cache, &format!("k{number}")).await.unwrap();
        }
    };
    let asked = reads(&server, &cache, all).await;
    assert!(
        asked >= 150,
        "{asked} of 200 were asked for: the others were served without a proof that the connection lives"
    );
}

#[tokio::test]
async fn nothing_is_served_after_its_time_whatever_the_server_says() {
    let (server, cache, other) = start().await;
    // Then it does not report what has expired.
    server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let idle = Duration::from_millis(200);
    let short = Expiry { idle, end: SystemTime::now() + HOUR };
    other.put("idle", bytes("v"), short).await.unwrap();
    other.put("end", bytes("v"), Expiry { idle: HOUR, end: SystemTime::now() + idle }).await.unwrap();
    other.put("touched", bytes("v"), Expiry { idle: HOUR, end: SystemTime::now() + HOUR }).await.unwrap();
    let began = Instant::now();
    assert!(value(&cache, "idle").await.is_some() || began.elapsed() > idle);
    assert!(value(&cache, "end").await.is_some() || began.elapsed() > idle);
    assert!(value(&cache, "touched").await.is_some());
    server.command(&["PEXPIRE", "touched", "150"]);
    sleep(idle + Duration::from_millis(5)).await;
    for key in ["idle", "end", "touched"] {
        assert_eq!(value(&cache, key).await, None, "{key}");
    }
}

#[tokio::test]
async fn the_bytes_have_a_bound() {
    let server = RedisServer::start();
    let cache = RedisCache::builder(server.url()).near_cache(100_000).timeout(LIMIT).build().await.unwrap();
    let keys: Vec<_> = (0..500).map(|number| format!("key {number}")).collect();
    for key in &keys {
        cache.put(key, vec![7; 1000].into(), hour()).await.unwrap();
        cache.get(key).await.unwrap();
    }
    let read = async |keys: &[String]| {
        for key in keys {
            cache.get(key).await.unwrap();
        }
    };
    assert_eq!(reads(&server, &cache, read(&keys[450..])).await, 0, "the last fifty have room");
    let asked = reads(&server, &cache, read(&keys[..400])).await;
    assert!(asked >= 390, "{asked} of 400: there is room for 80");
    // Where nothing has room, nothing is kept.
    let small = RedisCache::builder(server.url()).near_cache(1000).timeout(LIMIT).build().await.unwrap();
    small.get(&keys[0]).await.unwrap();
    assert_eq!(reads(&server, &small, small.get(&keys[0])).await, 1);
}

#[tokio::test]
async fn an_idle_time_that_needs_no_restart_costs_no_command() {
    let (server, cache, other) = start().await;
    let expiry = Expiry { idle: Duration::from_secs(60), end: SystemTime::now() + HOUR };
    other.put("k", bytes("v"), expiry).await.unwrap();
    let minute = Duration::from_secs(30);
    let touch = async |after| cache.get_and_touch("k", after).await.unwrap().unwrap().value;
    assert_eq!(reads(&server, &cache, touch(minute)).await, 1);
    assert_eq!(reads(&server, &cache, touch(minute)).await, 0);
    assert_eq!(server.calls().get("evalsha"), None);
    // Half a minute later, by the server's clock.
    server.command(&["PEXPIRE", "k", "29000"]);
    sleep(Duration::from_millis(20)).await;
    touch(minute).await;
    assert!(server.command(&["PTTL", "k"]).int() > 59_000, "the idle time was not restarted");
    sleep(Duration::from_millis(20)).await;
    touch(minute).await;
    assert_eq!(reads(&server, &cache, touch(minute)).await, 0);
    // Each time, if so asked.
    server.command(&["PEXPIRE", "k", "29000"]);
    sleep(Duration::from_millis(20)).await;
    cache.get("k").await.unwrap();
    touch(Duration::ZERO).await;
    assert!(server.command(&["PTTL", "k"]).int() > 59_000, "the idle time was not restarted");
}

#[tokio::test]
async fn a_server_that_is_no_primary_any_more_is_not_believed() {
    let (server, cache, other) = start().await;
    let version = other.put("k", bytes("v"), hour()).await.unwrap().unwrap();
    cache.get("k").await.unwrap();
    sleep(Duration::from_millis(250)).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let cache_of_short_limit = cache.clone();
    let write = tokio::time::timeout(
        Duration::from_millis(300),
        cache_of_short_limit.put_over("k", version, bytes("w"), hour()),
    );
    assert!(!matches!(write.await, Ok(Ok(_))));
    assert_eq!(
        reads(&server, &cache, cache.get("k")).await,
        1,
        "a failed write found it out, and the reads have to begin anew"
    );
}

#[cfg(feature = "redis-sentinel")]
#[tokio::test]
async fn a_failover_empties_it() {
    let until = async |what: &str, is: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < 6 * LIMIT, "not within a minute: {what}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    let sentinel = RedisServer::sentinel(primary.port());
    sentinel.command(&["SENTINEL", "SET", "sessions", "quorum", "1"]);
    let knows = || {
        let Reply::Array(parts) = sentinel.command(&["SENTINEL", "REPLICAS", "sessions"]) else { return false };
        parts.iter().any(|part| part.text().contains("master-link-status\nok"))
    };
    until("the sentinel knows the replica", &knows).await;
    let builder = RedisCache::sentinel([sentinel.url()], "sessions").timeout(LIMIT);
    let cache = builder.clone().near_cache(MIB).build().await.unwrap();
    let version = cache.put("k", bytes("before"), hour()).await.unwrap().unwrap();
    value(&cache, "k").await.unwrap();
    assert_eq!(reads(&primary, &cache, cache.get("k")).await, 0);
    until("the replica has it", &|| replica.command(&["EXISTS", "k"]).int() == 1).await;

    assert_eq!(sentinel.command(&["SENTINEL", "FAILOVER", "sessions"]).text(), "OK");
    until("a new primary", &|| replica.is("master")).await;
    until("the former primary follows", &|| primary.is("slave")).await;
    let other = builder.build().await.unwrap();
    other.put_over("k", version, bytes("after"), hour()).await.unwrap().unwrap();
    assert!(becomes(&cache, "k", Some("after")).await < SOON);
    // The read that connects is not kept.
    value(&cache, "k").await.unwrap();
    assert_eq!(reads(&replica, &cache, cache.get("k")).await, 0, "kept anew, and by the new primary");
}
