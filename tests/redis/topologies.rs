//! The ways to reach Redis, each with servers of its own: a Unix socket, users, sentinels, a cluster.
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cloakroom::{Cache, CacheErrorKind, Expiry, RedisCache, testing::cache_contract};
use tokio::time::sleep;

use crate::support::{
    redis_app::{App, Load, answering, unhurried},
    redis_cluster::{RedisCluster, Turn, until},
    redis_server::{RedisServer, Reply},
    writes::Writes,
};

/// The contract does much at a time, and the machine may be busy with the servers of other tests.
const LIMIT: Duration = Duration::from_secs(20);
/// For settings that are wrong: what is not ready is asked again for three quarters of it.
const SHORT: Duration = Duration::from_secs(4);
const HOUR: Duration = Duration::from_secs(3600);

fn hour() -> Expiry {
    Expiry { idle: HOUR, end: SystemTime::now() + 2 * HOUR }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

// A Unix socket, users, databases.

#[tokio::test]
async fn the_contract_holds_over_a_unix_socket() {
    let mut server = RedisServer::reserve();
    let socket = server.dir().join("redis.sock");
    let path = socket.to_str().unwrap().to_owned();
    server.add_args(&["--unixsocket", &path]);
    server.restart();
    let cache = RedisCache::builder(format!("unix://{path}?db=3")).timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    cache.put("k", bytes("v"), hour()).await.unwrap();
    let text = server.command(&["INFO", "keyspace"]).text();
    assert!(text.contains("db3:keys="), "{text}");
}

#[tokio::test]
async fn without_a_socket_it_is_an_outage() {
    let error = RedisCache::builder("unix:///nowhere/canary.sock").timeout(SHORT).build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains("/nowhere/canary.sock") && text.contains("os error 2"), "{text}");
}

#[tokio::test]
async fn user_password_and_database_may_be_given_apart_from_the_url() {
    let server = RedisServer::start();
    let password = "p@55/w:r?d#%41";
    server.command(&["ACL", "SETUSER", "sessions", "on", &format!(">{password}"), "~*", "+@all"]);
    let builder = RedisCache::builder(server.url()).username("sessions").database(5).timeout(LIMIT);
    let cache = builder.clone().password(password).build().await.unwrap();
    cache.put("k", bytes("v"), hour()).await.unwrap();
    let error = builder.password("canary").build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused);
    assert!(!format!("{error:?}").contains("canary"));
    let text = server.command(&["INFO", "keyspace"]).text();
    assert!(text.contains("db5:keys=1"), "{text}");
}

/// The line in the documentation, word by word.
fn documented(user: &str) -> Vec<&'static str> {
    let text = include_str!("../../src/docs/redis.md");
    let line = text.lines().find(|line| line.starts_with(&format!("ACL SETUSER {user} "))).expect("the line");
    line.split_whitespace().collect()
}

#[tokio::test]
async fn the_contract_holds_for_the_documented_user() {
    let server = RedisServer::start();
    assert_eq!(server.command(&documented("sessions")), Reply::Simple("OK".to_owned()));
    let builder = RedisCache::builder(server.url()).username("sessions").password("the-password");
    let cache = builder.timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    let error = cache.put("another:key", bytes("v"), hour()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");
    assert_eq!(server.command(&["ACL", "LOG", "RESET"]).text(), "OK");
    cache.get("cloakroom:x").await.unwrap();
    App::patient(cache).logged_in().await.user().await;
    assert_eq!(server.command(&["ACL", "LOG"]), Reply::Array(Vec::new()), "nothing was denied");
}

// Sentinels.

struct Watched {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    _turn: Turn,
}

impl Watched {
    fn start() -> Self {
        let turn = Turn::wait();
        let fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let primary = RedisServer::start_with(&fast);
        let port = primary.port().to_string();
        let replica = RedisServer::start_with(&[&fast[..], &["--replicaof", "127.0.0.1", &port]].concat());
        until("the replica follows", || {
            replica.command(&["INFO", "replication"]).text().contains("master_link_status:up")
        });
        let sentinels: Vec<_> = (0..3).map(|_| RedisServer::sentinel(primary.port())).collect();
        // Older ones go at their own pace.
        for sentinel in sentinels.iter().filter(|sentinel| sentinel.major_version() > 6) {
            let faster = ["SENTINEL", "DEBUG", "info-period", "500", "publish-period", "200", "ask-period", "200"];
            assert_eq!(sentinel.command(&faster).text(), "OK");
        }
        until("the sentinels know each other and the replica", || {
            sentinels.iter().all(|sentinel| {
                let Reply::Array(parts) = sentinel.command(&["SENTINEL", "MASTER", "sessions"]) else { return false };
                let texts: Vec<_> = parts.iter().map(Reply::text).collect();
                let is = |name: &str, value: &str| texts.windows(2).any(|pair| pair[0] == name && pair[1] == value);
                is("num-other-sentinels", "2") && is("num-slaves", "1") && is("flags", "master")
            })
        });
        Self { servers: vec![primary, replica], sentinels, _turn: turn }
    }

    fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// Waits until the replica has what the primary has.
    fn replicated(&self) {
        let keys = |index: usize| self.servers[index].command(&["DBSIZE"]);
        until("the replica has everything", || keys(0) == keys(1));
    }

    async fn cache(&self) -> RedisCache {
        answering(RedisCache::sentinel(self.urls(), "sessions").build_lazy().unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed() {
    let mut watched = Watched::start();
    let cache = RedisCache::sentinel(watched.urls(), "sessions").timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    let app = App::new(watched.cache().await).logged_in().await;
    // The replica has everything before the primary goes.
    watched.replicated();
    let load = Load::mixed(&app).await;
    let killed = Instant::now();
    watched.servers[0].stop();
    until("a new primary", || watched.servers[1].is("master"));
    let promoted = Instant::now();
    load.answers(20, promoted, &[("/read", 200), ("/count", 200)]).await;
    let report = load.end().await;
    eprintln!("sentinel: promoted after {:?}", promoted - killed);
    // Asynchronous replication may lose the last writes: they are not counted here.
    let (read, count) = (report.recovered("/read", promoted), report.recovered("/count", promoted));
    eprintln!(
        "sentinel failover: longest request {:?}, first read {read:?} and write {count:?} after the promotion, {} of {} failed",
        report.longest(),
        report.failed(),
        report.samples.len(),
    );
    assert!(report.samples.iter().all(|sample| !sample.cookie && matches!(sample.status, 200 | 503)));
    assert_eq!(app.user().await, "alice");

    // The former primary comes back as a replica, a sentinel goes: all the same to us.
    watched.servers[0].restart();
    until("the former primary follows", || watched.servers[0].is("slave"));
    watched.sentinels[0].stop();
    assert_eq!(app.user().await, "alice");
    let again = app.over(watched.cache().await);
    assert_eq!(again.user().await, "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_is_followed() {
    let watched = Watched::start();
    let app = App::new(watched.cache().await).logged_in().await;
    watched.replicated();
    let load = Load::mixed(&app).await;
    let asked = watched.sentinels[1].command(&["SENTINEL", "FAILOVER", "sessions"]);
    assert_eq!(asked, Reply::Simple("OK".to_owned()));
    until("a new primary", || watched.servers[1].is("master"));
    let promoted = Instant::now();
    until("the former primary follows", || watched.servers[0].is("slave"));
    let demoted = Instant::now();
    load.answers(50, demoted, &[("/read", 200), ("/count", 200)]).await;
    let report = load.end().await;
    eprintln!(
        "sentinel, planned: demoted {:?} after the promotion, longest request {:?}, {} of {} failed",
        demoted - promoted,
        report.longest(),
        report.failed(),
        report.samples.len(),
    );
    assert!(report.samples.iter().all(|sample| !sample.cookie && matches!(sample.status, 200 | 503)));
    // Nothing goes to the former primary any more.
    watched.servers[0].reset_calls();
    for _ in 0..20 {
        assert_eq!(app.user().await, "alice");
    }
    assert!(!watched.servers[0].calls().contains_key("getrange"), "a replica was read from");
}

#[tokio::test]
async fn wrong_settings_of_sentinels_are_errors() {
    let watched = Watched::start();
    let error = RedisCache::sentinel(watched.urls(), "canary").timeout(SHORT).build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    assert!(format!("{error:?}").contains("name") && !format!("{error:?}").contains("canary"), "{error:?}");
    let servers = watched.servers.iter().map(RedisServer::url);
    RedisCache::sentinel(servers, "sessions").timeout(SHORT).build().await.unwrap_err();
    let none: [&str; 0] = [];
    RedisCache::sentinel(none, "sessions").build_lazy().unwrap_err();
    let down = RedisServer::reserve();
    let error = RedisCache::sentinel([down.url()], "sessions").timeout(SHORT).build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    // One that is down and one that hangs are passed over.
    watched.sentinels[0].pause();
    let urls = [down.url()].into_iter().chain(watched.urls());
    RedisCache::sentinel(urls, "sessions").timeout(SHORT).build().await.unwrap();
    watched.sentinels[0].resume();
}

// A cluster.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_in_a_cluster() {
    let cluster = RedisCluster::start();
    let cache = RedisCache::cluster([&cluster.urls()[4]].into_iter().cloned()).timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
    for server in &cluster.servers[3..] {
        server.reset_calls();
    }
    for number in 0..100 {
        let key = format!("k{number}");
        cache.put(&key, bytes("v"), hour()).await.unwrap().unwrap();
        assert_eq!(cache.get(&key).await.unwrap().unwrap().value, bytes("v"));
        cache.touch(&key).await.unwrap();
    }
    for server in &cluster.servers[3..] {
        let calls = server.calls();
        assert!(!calls.contains_key("getrange") && !calls.contains_key("evalsha"), "a replica was asked: {calls:?}");
    }
    assert!(cluster.servers[..3].iter().all(|server| server.command(&["DBSIZE"]).int() > 10));

    // Renewal touches two slots.
    let mut app = App::patient(cache).logged_in().await;
    for _ in 0..200 {
        let answer = app.get("/login").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        app.cookie = answer.cookie.expect("the renewed cookie");
    }
    assert_eq!(app.user().await, "alice");

    // A node alone is not the whole cluster, and redirects.
    let single = unhurried(&cluster.urls()[0]).await;
    let elsewhere = (0..).map(|n| format!("k{n}")).find(|key| cluster.slot(key) > 5460).unwrap();
    assert_eq!(single.get(&elsewhere).await.unwrap_err().kind(), CacheErrorKind::Unsupported);

    // The documented user, on all nodes.
    for server in &cluster.servers {
        assert_eq!(server.command(&documented("cluster-sessions")), Reply::Simple("OK".to_owned()));
    }
    let builder = RedisCache::cluster(cluster.urls()).username("cluster-sessions").password("the-password");
    let cache = builder.timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_without_an_error() {
    let cluster = RedisCluster::start();
    let cache = RedisCache::cluster(cluster.urls()).timeout(LIMIT).build().await.unwrap();
    // Many keys in few slots, so that slots are half moved for a while.
    let keys: Vec<String> = (0..40).map(|n| format!("cloakroom:{{{}}}:{n}", ["a", "b", "c", "d"][n % 4])).collect();
    for key in &keys {
        cache.put(key, bytes("0"), hour()).await.unwrap().unwrap();
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tasks: Vec<_> = keys
        .iter()
        .cloned()
        .map(|key| {
            let (cache, stop) = (cache.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut done, mut longest) = (0_u64, Duration::ZERO);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let began = Instant::now();
                    let entry = cache.get(&key).await.unwrap().expect("the key is there");
                    let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    assert_eq!(n, done);
                    let value = Bytes::from((n + 1).to_string());
                    cache.put_over(&key, entry.version, value, hour()).await.unwrap().unwrap();
                    done += 1;
                    longest = longest.max(began.elapsed() / 2);
                    sleep(Duration::from_millis(5)).await;
                }
                (done, longest)
            })
        })
        .collect();
    let moves = tokio::task::spawn_blocking({
        let slots: Vec<u16> = ["a", "b", "c", "d"].map(|tag| cluster.slot(tag)).to_vec();
        move || {
            for round in 0..3 {
                for &slot in &slots {
                    let from = cluster.owner(slot);
                    cluster.move_slot(slot, from, (from + 1 + round % 2) % 3, Duration::from_millis(8));
                    // The others hear of it by and by.
                    until("all know", || cluster.owner(slot) != from);
                }
            }
            cluster
        }
    });
    let _cluster = moves.await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (mut all, mut longest) = (0, Duration::ZERO);
    for task in tasks {
        let (done, took) = task.await.unwrap();
        all += done;
        longest = longest.max(took);
    }
    eprintln!("cluster, 12 slot moves: {all} increments, none failed or lost, longest operation about {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced() {
    let mut cluster = RedisCluster::start();
    let cache = answering(RedisCache::cluster(cluster.urls()).build_lazy().unwrap()).await;
    let (mut lost, mut sound) = (None, None);
    while lost.is_none() || sound.is_none() {
        let count = || cluster.servers[0].command(&["DBSIZE"]).int();
        let before = count();
        let app = App::new(cache.clone()).logged_in().await;
        if count() > before { lost = Some(app) } else { sound = Some(app) }
    }
    let (lost, sound) = (lost.unwrap(), sound.unwrap());
    until("the replicas have everything", || {
        let keys = |index: usize| cluster.servers[index].command(&["DBSIZE"]);
        (0..3).all(|index| keys(index) == keys(index + 3))
    });
    let (load, others) = (Load::mixed(&lost).await, Load::mixed(&sound).await);
    let killed = Instant::now();
    cluster.servers[0].stop();
    until("the replica takes over", || cluster.servers[3].is("master"));
    let promoted = Instant::now();
    load.answers(20, promoted, &[("/read", 200), ("/count", 200)]).await;
    let (report, others) = (load.end().await, others.end().await);
    let (read, count) = (report.recovered("/read", promoted), report.recovered("/count", promoted));
    eprintln!(
        "cluster: promoted after {:?}; longest request {:?} (other shards {:?}), first read {read:?} and write {count:?} after \
         the promotion, {} of {} failed (other shards {} of {})",
        promoted - killed,
        report.longest(),
        others.longest(),
        report.failed(),
        report.samples.len(),
        others.failed(),
        others.samples.len(),
    );
    assert!(report.samples.iter().all(|sample| !sample.cookie && matches!(sample.status, 200 | 503)));
    // A busy machine has failures of its own, now and then; with the others waiting there would be nothing else.
    let meanwhile = others.samples.iter().filter(|sample| (killed..promoted).contains(&sample.at));
    let (worked, failed): (Vec<_>, Vec<_>) = meanwhile.partition(|sample| sample.status == 200);
    assert!(worked.len() > 4 * failed.len(), "{} of other shards failed, {} worked", failed.len(), worked.len());
    assert_eq!((lost.user().await.as_str(), sound.user().await.as_str()), ("alice", "alice"));
    // Any node will do for the start.
    cluster.servers[0].restart();
    let late = answering(RedisCache::cluster(cluster.urls()).build_lazy().unwrap()).await;
    let again = lost.over(late);
    assert_eq!(again.user().await, "alice");
}

#[tokio::test]
async fn wrong_settings_of_clusters_are_errors() {
    let none: [&str; 0] = [];
    RedisCache::cluster(none).build_lazy().unwrap_err();
    for url in ["unix:///tmp/redis.sock", "redis://127.0.0.1/1"] {
        let error = RedisCache::cluster([url]).build_lazy().unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Unsupported, "{error:?}");
    }
    let server = RedisServer::start();
    RedisCache::cluster([server.url()]).build().await.unwrap_err();
    let down = RedisServer::reserve();
    let error = RedisCache::cluster([down.url()]).timeout(SHORT).build().await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
}
