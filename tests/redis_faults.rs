//! What the layer does while Redis misbehaves: a fault, a browser that keeps asking, and what has to hold all the same.
#![cfg(all(feature = "redis", feature = "axum"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cloakroom::{Cache, CacheErrorKind, Expiry, RedisCache};
use tokio::time::sleep;

#[path = "common/redis_app.rs"]
mod redis_app;
#[path = "common/redis_proxy.rs"]
mod redis_proxy;
#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/writes.rs"]
mod writes;

use redis_app::{App, Load, PATIENCE, Report, connected, unhurried};
use redis_proxy::{Mode, Proxy};
use redis_server::{RedisServer, Reply};
use writes::Writes;

type Wanted = &'static [(&'static str, u16)];

const NOTHING_WORKS: Wanted = &[("/read", 503), ("/count", 503), ("/health", 200)];
const READS_WORK: Wanted = &[("/read", 200), ("/count", 503), ("/health", 200)];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn hour() -> Expiry {
    let hour = Duration::from_secs(3600);
    Expiry { idle: hour, end: SystemTime::now() + 2 * hour }
}

/// With the limits that there are by default.
async fn start() -> (RedisServer, App) {
    let server = RedisServer::start();
    let app = App::new(connected(server.url()).await).logged_in().await;
    (server, app)
}

/// For faults at which nobody has to wait: what is refused is refused by Redis and not because time ran out.
async fn start_unhurried() -> (RedisServer, App) {
    let server = RedisServer::start();
    let app = App::patient(unhurried(server.url()).await).logged_in().await;
    (server, app)
}

async fn behind_a_proxy() -> (RedisServer, Proxy, App) {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let app = App::new(connected(proxy.url()).await).logged_in().await;
    // The scripts are known from here on.
    app.eventually("/count").await;
    (server, proxy, app)
}

/// Requests before, during and after the fault, which lasts until what is `wanted` of it has been seen often enough:
/// that is how we know that nobody waits for its end.
async fn under_load(
    app: &App,
    fault: impl FnOnce(),
    wanted: Wanted,
    lasts: Duration,
    cure: impl FnOnce(),
) -> (Report, Instant) {
    let load = Load::mixed(app).await;
    fault();
    let begun = Instant::now();
    load.answers(20, begun, wanted).await;
    sleep(lasts.saturating_sub(begun.elapsed())).await;
    cure();
    let cured = Instant::now();
    load.answers(10, cured, &[("/read", 200), ("/count", 200)]).await;
    (load.end().await, cured)
}

/// The same on a way that is made bad.
async fn on_a_way(fault: &str, mode: Mode) {
    let (_server, proxy, app) = behind_a_proxy().await;
    let (bad, good) = (|| proxy.set(mode), || proxy.set(Mode::Pass));
    let (report, cured) = under_load(&app, bad, NOTHING_WORKS, ms(1500), good).await;
    report.check(fault, cured).await;
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(ms(10));
    }
}

// 35

#[tokio::test]
async fn the_application_starts_before_redis() {
    let mut server = RedisServer::reserve();
    let app = App::new(RedisCache::builder(server.url()).build_lazy().unwrap());
    for _ in 0..10 {
        let answer = app.get("/login").await;
        assert_eq!((answer.status, answer.cookie), (503, None));
        assert_eq!(app.get("/health").await.status, 200);
        assert_eq!(app.get("/read").await.status, 200, "no cookie, no look-up");
    }
    RedisCache::connect(server.url()).await.unwrap_err();
    server.restart();
    assert_eq!(app.logged_in().await.user().await, "alice");
}

// 36, 37

#[tokio::test]
async fn killed_and_restarted_with_its_data() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let url = server.url();
    let first = App::new(connected(&url).await).logged_in().await;
    let server = Mutex::new(server);
    for _ in 0..3 {
        let app = App::new(connected(&url).await).logged_in().await;
        let (stop, start) = (|| server.lock().unwrap().stop(), || server.lock().unwrap().restart());
        let (report, cured) = under_load(&app, stop, NOTHING_WORKS, ms(500), start).await;
        report.check("36 kill -9, restart with AOF", cured).await;
    }
    assert_eq!(first.user().await, "alice");
}

#[tokio::test]
async fn restarted_without_its_data() {
    let (mut server, app) = start().await;
    server.restart();
    assert_eq!(app.user().await, "nobody");
    assert_eq!(app.logged_in().await.user().await, "alice");
}

// 38, 39

#[tokio::test]
async fn stopped_for_a_while() {
    let (server, app) = start().await;
    let (report, cured) = under_load(&app, || server.pause(), NOTHING_WORKS, ms(2500), || server.resume()).await;
    report.check("38 SIGSTOP", cured).await;
}

#[tokio::test]
async fn paused_by_an_operator() {
    let (server, app) = start().await;
    // Nobody can take it back while it lasts.
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "5000", "ALL"]));
    let (report, cured) = under_load(&app, pause, NOTHING_WORKS, ms(5000), || ()).await;
    report.check("38 CLIENT PAUSE ALL", cured).await;
}

#[tokio::test]
async fn writes_paused_by_an_operator() {
    let (server, app) = start().await;
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "600000", "WRITE"]));
    let go_on = || drop(server.command(&["CLIENT", "UNPAUSE"]));
    let (report, cured) = under_load(&app, pause, READS_WORK, ms(1500), go_on).await;
    report.check("39 CLIENT PAUSE WRITE", cured).await;
}

#[tokio::test]
async fn a_write_that_arrives_late_brings_nothing_back() {
    let (server, app) = start().await;
    app.eventually("/count").await;
    server.command(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    // The logout waits behind the pause, too; then both are done in whatever order.
    assert_eq!(app.get("/count").await.status, 503);
    let _ = app.get("/logout").await;
    server.command(&["CLIENT", "UNPAUSE"]);
    app.eventually("/logout").await;
    for _ in 0..10 {
        assert_eq!(app.user().await, "nobody");
        sleep(ms(30)).await;
    }
}

// 40

#[tokio::test]
async fn a_slow_line() {
    on_a_way("40 latency of 300 ms each way", Mode::Delay(ms(300))).await;
}

#[tokio::test]
async fn a_byte_a_second() {
    on_a_way("40 one byte of an answer a second", Mode::Trickle).await;
}

#[tokio::test]
async fn answers_that_never_arrive() {
    on_a_way("40 answers swallowed", Mode::Swallow).await;
}

#[tokio::test]
async fn packets_dropped_in_both_directions() {
    on_a_way("40 everything swallowed, there and back", Mode::Drop).await;
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing() {
    // Nobody accepts from the queue; when it is full, the handshake itself hangs.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let app = App::new(RedisCache::builder(url).build_lazy().unwrap());
    let app = App { cookie: "__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), ..app };
    let load = Load::start(&app, &["/read", "/count", "/health"], ms(3));
    load.answers(200, Instant::now(), NOTHING_WORKS).await;
    let report = load.end().await;
    eprintln!("40 tarpit: longest request {:?}, at most {} at a time", report.longest(), report.most);
    assert!(report.statuses("/read").keys().eq([&503]) && report.always_worked("/health"));
}

// 41, 45

#[tokio::test]
async fn memory_is_full() {
    let (server, app) = start_unhurried().await;
    let other = app.clone().logged_in().await;
    let app = App { cookie: String::new(), ..app }.logged_in().await;
    let full = || drop(server.command(&["CONFIG", "SET", "maxmemory", "1"]));
    let room = || drop(server.command(&["CONFIG", "SET", "maxmemory", "0"]));
    let (report, cured) = under_load(&app, full, READS_WORK, ms(300), room).await;
    report.check("41 OOM", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(app.get("/login").await.status, 503);
    assert_eq!(other.get("/logout").await.status, 200, "a logout needs no room");
    assert_eq!(other.user().await, "nobody");
}

#[tokio::test]
async fn the_disk_is_full() {
    let server = RedisServer::start_with(&["--save", "3600", "1000000", "--stop-writes-on-bgsave-error", "yes"]);
    let app = App::patient(unhurried(server.url()).await).logged_in().await;
    // A directory in place of the file, so that it cannot be written.
    let file = server.dir().join("dump.rdb");
    let fail = || {
        std::fs::create_dir_all(file.join("x")).unwrap();
        server.command(&["BGSAVE"]);
        wait_until("MISCONF", || server.command(&["SET", "probe", "x"]).text().starts_with("MISCONF"));
    };
    let work = || {
        std::fs::remove_dir_all(&file).unwrap();
        server.command(&["BGSAVE"]);
        wait_until("no MISCONF", || server.command(&["SET", "probe", "x"]).text() == "OK");
    };
    let (report, cured) = under_load(&app, fail, READS_WORK, ms(300), work).await;
    report.check("45 MISCONF", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
}

// 42, 43, 44

#[tokio::test]
async fn turned_into_a_replica_and_back() {
    let (server, app) = start().await;
    let demote = || drop(server.command(&["REPLICAOF", "127.0.0.1", "1"]));
    let promote = || drop(server.command(&["REPLICAOF", "NO", "ONE"]));
    let (report, cured) = under_load(&app, demote, READS_WORK, ms(1000), promote).await;
    report.check("42 READONLY", cured).await;
}

#[tokio::test]
async fn answers_that_mean_wait() {
    for code in ["MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"] {
        let (_server, proxy, app) = behind_a_proxy().await;
        let patient = App { cookie: app.cookie.clone(), ..App::patient(unhurried(proxy.url()).await) };
        assert_eq!(patient.user().await, "alice");
        proxy.set(Mode::Answer(format!("-{code} canary-text\r\n").into_bytes()));
        let asked = proxy.answers();
        let answer = app.get("/read").await;
        assert!(answer.status == 503 && !answer.body.contains("canary"), "{code}: {answer:?}");
        assert!(proxy.answers() > asked + 1, "{code} is asked again");
        // What passes within the time limit is not noticed.
        let cure = tokio::spawn({
            let (proxy, asked) = (proxy.clone(), proxy.answers());
            async move {
                while proxy.answers() < asked + 3 {
                    sleep(ms(5)).await;
                }
                proxy.set(Mode::Pass);
            }
        });
        let answer = patient.get("/read").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "alice"), "{code}");
        cure.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_its_data() {
    let args = ["--appendonly", "yes", "--appendfsync", "no", "--aof-use-rdb-preamble", "no"];
    let mut server = RedisServer::start_with(&args);
    let app = App::new(connected(server.url()).await).logged_in().await;
    // Enough to load for some seconds, slowly on purpose.
    let filler = "for i = 1, 20000 do redis.call('SET', 'filler:' .. i, string.rep('x', 100)) end";
    server.command(&["EVAL", filler, "0"]);
    server.command(&["BGREWRITEAOF"]);
    wait_until("the file is written", || {
        server.info("aof_rewrite_in_progress") + server.info("aof_rewrite_scheduled") == 0
    });
    server.add_args(&["--key-load-delay", "100"]);
    if server.major_version() > 6 {
        server.add_args(&["--loading-process-events-interval-bytes", "1024"]);
    }
    let load = Load::mixed(&app).await;
    let loading = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let server = tokio::task::spawn_blocking({
        let loading = loading.clone();
        move || {
            server.restart_only();
            wait_until("the end of loading", || match server.try_command(&[b"GET", b"x"]) {
                Ok(Reply::Error(text)) if text.starts_with("LOADING") => {
                    loading.store(true, Ordering::SeqCst);
                    false
                }
                answer => answer.is_ok(),
            });
            (server, Instant::now())
        }
    });
    let (_server, cured) = server.await.unwrap();
    assert!(loading.load(Ordering::SeqCst), "it was never seen loading");
    load.answers(20, begun, NOTHING_WORKS).await;
    load.answers(10, cured, &[("/read", 200), ("/count", 200)]).await;
    load.end().await.check("44 LOADING", cured).await;
}

// 46, 47

/// Everything that is logged, at all levels.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn shows_no(&self, secret: &str) {
        assert!(!self.text().contains(secret), "{secret}: {}", self.text());
    }

    /// Asks for `path` until an event is logged that has both texts: of some there is one a second, which may go to
    /// another test.
    async fn until(&self, app: &App, path: &str, fault: impl FnOnce(), level: &str, text: &str) {
        fault();
        let began = Instant::now();
        while !self.text().lines().any(|line| line.contains(level) && line.contains(text)) {
            assert!(began.elapsed() < PATIENCE, "no {level} {text}: {}", self.text());
            app.get(path).await;
            sleep(ms(20)).await;
        }
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        tracing::subscriber::set_default(subscriber.with_writer(move || log.clone()).finish())
    }
}

#[tokio::test]
async fn the_password_is_changed() {
    let log = Log::default();
    let _guard = log.listen();
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "sessions", "on", ">old-canary", "~*", "+@all"]);
    let url = format!("redis://sessions:old-canary@127.0.0.1:{}", server.port());
    let app = App::new(connected(&url).await).logged_in().await;
    let (began, connections) = (Instant::now(), server.info("total_connections_received"));
    let change = || {
        server.command(&["ACL", "SETUSER", "sessions", "resetpass", ">new-canary"]);
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    let back = || drop(server.command(&["ACL", "SETUSER", "sessions", "resetpass", ">old-canary"]));
    let (report, cured) = under_load(&app, change, NOTHING_WORKS, ms(2000), back).await;
    report.check("46 WRONGPASS, and right again", cured).await;
    let connections = server.info("total_connections_received") - connections;
    let lasted = began.elapsed();
    eprintln!("46: {connections} connections in {lasted:?} with a wrong password");
    // Each of the two ways to the server tries every 50 ms at most.
    assert!(connections < lasted.as_millis() as u64 / 25 + 20, "{connections} connections in {lasted:?}");
    log.until(&app, "/read", change, "ERROR", "cache_refused").await;
    log.shows_no("canary");
    assert!(log.text().contains(&format!("127.0.0.1:{}", server.port())), "{}", log.text());
}

#[tokio::test]
async fn a_permission_is_missing() {
    let log = Log::default();
    let _guard = log.listen();
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "sessions", "on", ">pw", "~cloakroom:*", "+@all"]);
    let url = format!("redis://sessions:pw@127.0.0.1:{}", server.port());
    let app = App::patient(unhurried(url).await).logged_in().await;
    let take = || drop(server.command(&["ACL", "SETUSER", "sessions", "-set"]));
    let give = || drop(server.command(&["ACL", "SETUSER", "sessions", "+set"]));
    log.until(&app, "/count", take, "NOPERM", "command=").await;
    // Redis 7.0 and before do not say which command of the script it was.
    let named = ["SET", "EVALSHA", "EVAL"].map(|command| log.text().contains(&format!("command=\"{command}\"")));
    assert!(named.contains(&true), "{}", log.text());
    give();
    let (report, cured) = under_load(&app, take, READS_WORK, ms(300), give).await;
    report.check("47 NOPERM for a command", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
    let forbid = || drop(server.command(&["ACL", "SETUSER", "sessions", "resetkeys", "~canary:*"]));
    log.until(&app, "/read", forbid, "ERROR", "cache_refused").await;
    log.until(&app, "/read", || (), "NOPERM", "command=\"GETRANGE\"").await;
    let answer = app.get("/read").await;
    assert!(answer.status == 503 && !answer.body.contains("canary"), "{answer:?}");
    log.shows_no("canary");
    // No key, either.
    let text = log.text().replace("cloakroom::", "").replace(" cloakroom: ", " ");
    assert!(!text.contains("cloakroom:"), "{text}");
}

#[tokio::test]
async fn an_outage_and_its_end_are_told_once_each() {
    let log = Log::default();
    let _guard = log.listen();
    let server = RedisServer::start();
    let cache = RedisCache::builder(server.url()).timeout(ms(1000)).build().await.unwrap();
    server.pause();
    let reads: tokio::task::JoinSet<_> = (0..20)
        .map(|_| {
            let cache = cache.clone();
            async move { cache.get("k").await }
        })
        .collect();
    assert!(reads.join_all().await.iter().all(Result::is_err));
    for _ in 0..60 {
        cache.get("k").await.unwrap_err();
        sleep(ms(10)).await;
    }
    let told = |text: &str| log.text().lines().filter(|line| line.contains(text)).count();
    assert_eq!((told("refused at once"), told("answers again")), (1, 0), "{}", log.text());
    server.resume();
    redis_app::answering(cache.clone()).await;
    for _ in 0..20 {
        cache.get("k").await.unwrap();
    }
    assert_eq!((told("refused at once"), told("answers again")), (1, 1), "{}", log.text());
    assert!(log.text().contains("operations=\"reads\""), "{}", log.text());
}

// 48, 49

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_flushed_all_the_time() {
    let (server, app) = start_unhurried().await;
    let load = Load::mixed(&app).await;
    for _ in 0..100 {
        tokio::task::block_in_place(|| server.command(&["SCRIPT", "FLUSH"]));
        sleep(ms(10)).await;
    }
    let report = load.end().await;
    eprintln!("48 SCRIPT FLUSH: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    report.counted("48").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_all_the_time() {
    let (server, app) = start_unhurried().await;
    let load = Load::mixed(&app).await;
    for _ in 0..20 {
        tokio::task::block_in_place(|| server.command(&["CLIENT", "KILL", "TYPE", "normal"]));
        // A request is sent once more and not twice: the next blow is for others.
        let killed = Instant::now();
        load.answers(2, killed, &[("/read", 200), ("/count", 200)]).await;
        load.settled().await;
    }
    let report = load.end().await;
    eprintln!("49 CLIENT KILL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    report.counted("49").await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = RedisServer::start_with(&["--timeout", "1"]);
    let app = App::patient(unhurried(server.url()).await).logged_in().await;
    for path in ["/read", "/count", "/read"] {
        // Its own question is the only connection that is left.
        wait_until("they are closed", || server.info("connected_clients") == 1);
        assert_eq!(app.get(path).await.status, 200);
    }
}

// 50

#[tokio::test]
async fn too_many_clients() {
    let (server, app) = start().await;
    let mut admin = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut say = |line: &str| {
        use std::io::Read;
        admin.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        assert!(admin.read(&mut [0; 4096]).unwrap() > 0);
    };
    say("PING");
    let before = server.info("total_connections_received");
    let say = Mutex::new(&mut say);
    let close = || {
        let mut say = say.lock().unwrap();
        say("CLIENT KILL TYPE normal SKIPME yes");
        say("CONFIG SET maxclients 1");
    };
    let open = || say.lock().unwrap()("CONFIG SET maxclients 100");
    let (report, cured) = under_load(&app, close, NOTHING_WORKS, ms(1500), open).await;
    report.check("50 maxclients", cured).await;
    let connections = server.info("total_connections_received") - before;
    eprintln!("50: {connections} connections");
}

// 51, 52

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_removed_under_load() {
    let (server, app) = start_unhurried().await;
    let load = Load::start(&app, &["/read", "/slow", "/read", "/health"], ms(5));
    load.answers(5, Instant::now(), &[("/read", 200), ("/slow", 200)]).await;
    tokio::task::block_in_place(|| server.command(&["FLUSHALL"]));
    let flushed = Instant::now();
    load.settled().await;
    load.answers(5, flushed, &[("/read", 200), ("/slow", 200)]).await;
    let report = load.end().await;
    eprintln!("51 FLUSHALL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    // Whoever had loaded the session could not write it any more, and got no other one in its place.
    let dropped = |sample: &&redis_app::Sample| sample.path == "/slow" && sample.body == "alice";
    assert!(report.samples.iter().filter(dropped).all(|sample| !sample.cookie), "a cookie from a dropped commit");
    for sample in report.samples.iter().filter(|sample| sample.path == "/read" && sample.at > flushed) {
        assert_eq!(sample.body, "nobody");
    }
    // Requests that had loaded the session before could not bring it back.
    assert_eq!(app.user().await, "nobody");
}

#[tokio::test]
async fn sessions_are_evicted() {
    let (server, app) = start_unhurried().await;
    let others = unhurried(server.url()).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    let limit = (server.info("used_memory") + 300_000).to_string();
    server.command(&["CONFIG", "SET", "maxmemory", &limit]);
    let mut statuses = Vec::new();
    for number in 0..3000 {
        let value = Bytes::from(vec![b'x'; 1000]);
        let inserted = others.put(&format!("cloakroom:filler:{number}"), value, hour()).await;
        assert!(matches!(inserted, Ok(Some(_))), "{inserted:?}");
        if number % 100 == 0 {
            statuses.push(app.get("/read").await.status);
        }
    }
    assert!(server.info("evicted_keys") > 1000);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(app.user().await, "nobody");
}

#[tokio::test]
async fn a_server_that_would_evict_is_warned_of() {
    let log = Log::default();
    let _guard = log.listen();
    let warned = || log.text().matches("removes live sessions").count();
    let server = RedisServer::start();
    unhurried(server.url()).await;
    assert_eq!(warned(), 0, "nobody is evicted here");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let cache = unhurried(server.url()).await;
    cache.ping().await.unwrap();
    assert_eq!(warned(), 1, "once");
    // Whoever may not ask does not hear of it, and may go on.
    server.command(&["ACL", "SETUSER", "sessions", "on", ">pw", "~*", "+@all", "-info"]);
    unhurried(format!("redis://sessions:pw@127.0.0.1:{}", server.port())).await;
    assert_eq!(warned(), 1);
    log.shows_no("NOPERM");
}

// 53, 54

#[tokio::test]
async fn cut_between_the_deed_and_the_answer() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let load = Load::mixed(&app).await;
    for _ in 0..15 {
        sleep(ms(60)).await;
        proxy.set(Mode::Cut);
        sleep(ms(20)).await;
        proxy.set(Mode::Pass);
    }
    let cured = Instant::now();
    load.answers(10, cured, &[("/read", 200), ("/count", 200)]).await;
    let report = load.end().await;
    report.check("53 cut before the reply, 15 times", cured).await;
}

#[tokio::test]
async fn a_logout_whose_answer_was_lost_is_final() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let cut = tokio::spawn({
        let proxy = proxy.clone();
        async move {
            sleep(ms(100)).await;
            proxy.set(Mode::Pass);
        }
    });
    proxy.set(Mode::Cut);
    let _ = app.get("/logout").await;
    cut.await.unwrap();
    app.eventually("/logout").await;
    assert_eq!(app.user().await, "nobody");
}

#[tokio::test]
async fn answers_that_are_none() {
    let nested = "*1\r\n".repeat(1000).into_bytes();
    let huge = b"$999999999999999999999\r\n".to_vec();
    let wrong = b"*2\r\n+a\r\n:1\r\n".to_vec();
    let page = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    for (what, answer) in [
        ("nested 1,000 deep", nested),
        ("a length beyond all numbers", huge),
        ("another type", wrong),
        ("a web server", page),
        ("noise", (0..=255).cycle().take(5000).collect()),
    ] {
        on_a_way(&format!("54 {what}"), Mode::Answer(answer)).await;
    }
}

#[tokio::test]
async fn the_answer_to_another_request() {
    let (server, proxy, alice) = behind_a_proxy().await;
    let bob = App::new(connected(proxy.url()).await).logged_in().await;
    let counted = alice.counter().await;
    assert_eq!(alice.user().await, "alice");
    // From now on everybody is given the last record seen, which is that of the first one.
    proxy.set(Mode::Replay);
    let answer = bob.get("/read").await;
    assert!(answer.status == 503 || answer.body == "nobody", "another's session: {answer:?}");
    assert_eq!(answer.cookie, None);
    let answer = bob.get("/count").await;
    assert!(answer.status == 503 || answer.cookie.is_some(), "{answer:?}");
    proxy.set(Mode::Pass);
    assert_eq!((bob.user().await, alice.user().await), ("alice".to_owned(), "alice".to_owned()));
    assert_eq!(alice.counter().await, counted);
    drop(server);
}

// 57

#[tokio::test]
async fn a_session_that_a_failover_brought_back_is_not_for_good() {
    let (server, app) = start().await;
    let Reply::Array(keys) = server.command(&["KEYS", "cloakroom:*"]) else { panic!() };
    let key = keys[0].text();
    let left = server.command(&["PTTL", &key]).int();
    let Reply::Bytes(dump) = server.command(&["DUMP", &key]) else { panic!() };
    app.eventually("/logout").await;
    // As a replica would have it that had not heard of the logout.
    let restored = server.command_bytes(&[b"RESTORE", key.as_bytes(), left.to_string().as_bytes(), &dump]);
    assert_eq!(restored, Reply::Simple("OK".to_owned()));
    assert_eq!(app.user().await, "alice");
    let end = server.command(&["PTTL", &key]).int();
    assert!(end > 0 && end <= left, "it ends as it would have");
}

// 59

#[tokio::test]
async fn a_server_that_is_too_old_is_found_at_the_start() {
    let (_server, proxy, _app) = behind_a_proxy().await;
    proxy.set(Mode::Old);
    let builder = RedisCache::builder(proxy.url()).timeout(PATIENCE);
    for error in [builder.clone().build().await.unwrap_err(), builder.build_lazy().unwrap().ping().await.unwrap_err()] {
        assert_eq!(error.kind(), CacheErrorKind::Unsupported, "{error:?}");
        assert!(format!("{error:?}").contains("older than Redis 6.2"), "{error:?}");
    }
    proxy.set(Mode::Pass);
    unhurried(proxy.url()).await;
}

#[tokio::test]
async fn an_old_server_is_told_by_its_kind_of_error() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let log = Log::default();
    let _guard = log.listen();
    proxy.set(Mode::Answer(b"-ERR unknown command 'EVALSHA', with args beginning with: 'canary'\r\n".to_vec()));
    let answer = app.get("/read").await;
    assert!(answer.status == 503 && !answer.body.contains("canary"), "{answer:?}");
    assert!(!log.text().contains("canary"), "{}", log.text());
    let error = RedisCache::connect(proxy.url()).await.unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}
