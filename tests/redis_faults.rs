//! What the layer does while Redis misbehaves: a fault, a browser that keeps asking, and what has to hold all the same.
#![cfg(cloakroom_faults)]
#![cfg(all(feature = "redis", feature = "axum"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cloakroom::{Cache, Expiry, RedisCache};
use tokio::time::sleep;

#[path = "common/redis_app.rs"]
mod redis_app;
#[path = "common/redis_proxy.rs"]
mod redis_proxy;
#[path = "common/redis_server.rs"]
mod redis_server;

use redis_app::{App, Load, Report};
use redis_proxy::{Mode, Proxy};
use redis_server::{RedisServer, Reply};

const LIMIT: Duration = Duration::from_millis(1200);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn hour() -> Expiry {
    let hour = Duration::from_secs(3600);
    Expiry { idle: hour, end: SystemTime::now() + 2 * hour }
}

async fn start() -> (RedisServer, App) {
    let server = RedisServer::start();
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    (server, app)
}

async fn behind_a_proxy() -> (RedisServer, Proxy, App) {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let app = App::logged_in(RedisCache::connect(proxy.url()).await.unwrap()).await;
    // The scripts are known from here on.
    assert_eq!(app.get("/count").await.status, 200);
    (server, proxy, app)
}

/// Requests before, during and after the fault.
async fn under_load(app: &App, lasts: Duration, fault: impl FnOnce(), cure: impl FnOnce()) -> (Report, Instant) {
    let before = app.counter().await;
    assert!(before < 10);
    // Counting starts at zero, with the requests of the load.
    let load = Load::mixed(app);
    sleep(ms(300)).await;
    fault();
    sleep(lasts).await;
    cure();
    let cured = Instant::now();
    sleep(ms(1600)).await;
    (load.end().await, cured)
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
    server.restart();
    sleep(ms(260)).await;
    assert_eq!(app.get("/login").await.status, 200);
}

// 36, 37

#[tokio::test]
async fn killed_and_restarted_with_its_data() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    let server = Mutex::new(server);
    for _ in 0..3 {
        let url = server.lock().unwrap().url();
        let app = App::logged_in(RedisCache::connect(url).await.unwrap()).await;
        let stop = || server.lock().unwrap().stop();
        let (report, cured) = under_load(&app, ms(700), stop, || server.lock().unwrap().restart()).await;
        report.check("36 kill -9, restart with AOF", cured).await;
    }
    assert_eq!(app.user().await, "alice");
}

#[tokio::test]
async fn restarted_without_its_data() {
    let (mut server, app) = start().await;
    server.restart();
    assert_eq!(app.user().await, "nobody");
    let answer = app.get("/login").await;
    assert_eq!(answer.status, 200);
    let again = App { cookie: answer.cookie.unwrap(), ..app };
    assert_eq!(again.user().await, "alice");
}

// 38, 39

#[tokio::test]
async fn stopped_for_a_while() {
    let (server, app) = start().await;
    let (report, cured) = under_load(&app, ms(3000), || server.pause(), || server.resume()).await;
    report.check("38 SIGSTOP", cured).await;
    assert!(report.statuses("/read")[&503] > 100, "{:?}", report.statuses("/read"));
}

#[tokio::test]
async fn paused_by_an_operator() {
    let (server, app) = start().await;
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "2500", "ALL"]));
    let (report, cured) = under_load(&app, ms(2500), pause, || ()).await;
    report.check("38 CLIENT PAUSE ALL", cured).await;
}

#[tokio::test]
async fn writes_paused_by_an_operator() {
    let (server, app) = start().await;
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "2500", "WRITE"]));
    let (report, cured) = under_load(&app, ms(2500), pause, || ()).await;
    report.check("39 CLIENT PAUSE WRITE", cured).await;
    assert_eq!(report.statuses("/read").keys().copied().collect::<Vec<_>>(), [200], "reads work");
    assert!(report.statuses("/count")[&503] > 20, "{:?}", report.statuses("/count"));
}

#[tokio::test]
async fn a_write_that_arrives_late_brings_nothing_back() {
    let (server, app) = start().await;
    server.command(&["CLIENT", "PAUSE", "900", "WRITE"]);
    // The logout waits behind the pause, too; then both are done in whatever order.
    assert_eq!(app.get("/count").await.status, 503);
    let _ = app.get("/logout").await;
    sleep(ms(1000)).await;
    assert_eq!(app.get("/logout").await.status, 200);
    for _ in 0..10 {
        assert_eq!(app.user().await, "nobody");
        sleep(ms(30)).await;
    }
}

// 40

#[tokio::test]
async fn a_slow_line() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let (report, cured) =
        under_load(&app, ms(2500), || proxy.set(Mode::Delay(ms(300))), || proxy.set(Mode::Pass)).await;
    report.check("40 latency of 300 ms each way", cured).await;
}

#[tokio::test]
async fn a_byte_a_second() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let (report, cured) = under_load(&app, ms(2500), || proxy.set(Mode::Trickle), || proxy.set(Mode::Pass)).await;
    report.check("40 one byte of an answer a second", cured).await;
}

#[tokio::test]
async fn answers_that_never_arrive() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let (report, cured) = under_load(&app, ms(2500), || proxy.set(Mode::Swallow), || proxy.set(Mode::Pass)).await;
    report.check("40 answers swallowed", cured).await;
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing() {
    // Nobody accepts from the queue; when it is full, the handshake itself hangs.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let app =
        App::new(RedisCache::builder(format!("redis://{}", listener.local_addr().unwrap())).build_lazy().unwrap());
    let app = App { cookie: "__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), ..app };
    let load = Load::start(&app, &["/read", "/count", "/health"], ms(2));
    sleep(ms(3000)).await;
    let report = load.end().await;
    eprintln!("40 tarpit: longest request {:?}, at most {} at a time", report.longest(), report.most);
    assert!(report.longest() < LIMIT && report.most < 500);
    assert_eq!(report.statuses("/read").keys().copied().collect::<Vec<_>>(), [503]);
    assert_eq!(report.statuses("/health").keys().copied().collect::<Vec<_>>(), [200]);
}

// 41, 45

#[tokio::test]
async fn memory_is_full() {
    let (server, app) = start().await;
    let other = App { cookie: app.get("/login").await.cookie.unwrap(), ..app };
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    let full = || drop(server.command(&["CONFIG", "SET", "maxmemory", "1"]));
    let room = || {
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    };
    let (report, cured) = under_load(&app, ms(700), full, room).await;
    report.check("41 OOM", cured).await;
    assert_eq!(report.statuses("/read").keys().copied().collect::<Vec<_>>(), [200], "reads work");
    assert!(report.statuses("/count")[&503] > 10);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(app.get("/login").await.status, 503);
    assert_eq!(other.get("/logout").await.status, 200, "a logout needs no room");
    assert_eq!(other.user().await, "nobody");
}

#[tokio::test]
async fn the_disk_is_full() {
    let server = RedisServer::start_with(&["--save", "3600 1000000", "--stop-writes-on-bgsave-error", "yes"]);
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    // A directory in place of the file, so that it cannot be written.
    let file = server.dir().join("dump.rdb");
    let fail = || {
        std::fs::create_dir_all(file.join("x")).unwrap();
        server.command(&["BGSAVE"]);
        let began = Instant::now();
        while !server.command(&["SET", "probe", "x"]).text().starts_with("MISCONF") {
            assert!(began.elapsed() < Duration::from_secs(5), "no MISCONF");
            std::thread::sleep(ms(10));
        }
    };
    let work = || {
        std::fs::remove_dir_all(&file).unwrap();
        server.command(&["BGSAVE"]);
        let began = Instant::now();
        while server.command(&["SET", "probe", "x"]).text() != "OK" {
            assert!(began.elapsed() < Duration::from_secs(5), "still MISCONF");
            std::thread::sleep(ms(10));
        }
    };
    let (report, cured) = tokio::task::LocalSet::new().run_until(under_load(&app, ms(700), fail, work)).await;
    report.check("45 MISCONF", cured).await;
    assert_eq!(report.statuses("/read").keys().copied().collect::<Vec<_>>(), [200], "reads work");
    assert!(report.statuses("/count")[&503] > 10);
}

// 42, 43, 44

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turned_into_a_replica_and_back() {
    let (server, app) = start().await;
    let demote = || drop(server.command(&["REPLICAOF", "127.0.0.1", "1"]));
    let promote = || drop(server.command(&["REPLICAOF", "NO", "ONE"]));
    let (report, cured) = under_load(&app, ms(1500), demote, promote).await;
    report.check("42 READONLY", cured).await;
    assert!(report.statuses("/count")[&503] > 10);
}

#[tokio::test]
async fn answers_that_mean_wait() {
    for code in ["MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"] {
        let (_server, proxy, app) = behind_a_proxy().await;
        let answer = Mode::Answer(format!("-{code} canary-text\r\n").into_bytes());
        proxy.set(answer.clone());
        let answer_503 = app.get("/read").await;
        assert_eq!(answer_503.status, 503);
        assert!(!answer_503.body.contains("canary") && answer_503.took < ms(600), "{answer_503:?}");
        // What passes within the time limit is not noticed.
        let cure = tokio::spawn({
            let proxy = proxy.clone();
            async move {
                sleep(ms(150)).await;
                proxy.set(Mode::Pass);
            }
        });
        assert_eq!(app.user().await, "alice", "{code}");
        cure.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_its_data() {
    let args =
        ["--appendonly", "yes", "--appendfsync", "no", "--aof-use-rdb-preamble", "no", "--enable-debug-command", "yes"];
    let mut server = RedisServer::start_with(&args);
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    // Enough to load for a second or two, slowly on purpose.
    server.command(&["DEBUG", "POPULATE", "20000", "filler", "100"]);
    server.command(&["BGREWRITEAOF"]);
    sleep(ms(1000)).await;
    server.add_args(&["--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"]);
    let loads = Arc::new(Mutex::new(0));
    let load = Load::mixed(&app);
    sleep(ms(100)).await;
    let server = tokio::task::spawn_blocking({
        let loads = loads.clone();
        move || {
            server.restart_only();
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < Duration::from_secs(10), "it loads for ever");
                match server.try_command(&[b"GET", b"x"]) {
                    Ok(Reply::Error(text)) if text.starts_with("LOADING") => *loads.lock().unwrap() += 1,
                    Ok(_) => return (server, Instant::now()),
                    Err(_) => {}
                }
                std::thread::sleep(ms(5));
            }
        }
    });
    let (_server, cured) = server.await.unwrap();
    sleep(ms(1600)).await;
    let report = load.end().await;
    report.check("44 LOADING", cured).await;
    assert!(*loads.lock().unwrap() > 0, "it was never seen loading");
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
    let app = App::logged_in(RedisCache::connect(url).await.unwrap()).await;
    let connections = server.info("total_connections_received");
    let change = || {
        server.command(&["ACL", "SETUSER", "sessions", "resetpass", ">new-canary"]);
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    let back = || drop(server.command(&["ACL", "SETUSER", "sessions", "resetpass", ">old-canary"]));
    let (report, cured) = under_load(&app, ms(2000), change, back).await;
    report.check("46 WRONGPASS, and right again", cured).await;
    assert!(report.statuses("/read")[&503] > 50);
    let connections = server.info("total_connections_received") - connections;
    eprintln!("46: {connections} connections in 2 s with a wrong password");
    assert!(connections < 60, "{connections} connections");
    let text = log.text();
    assert!(text.contains("ERROR") && text.contains("Refused"), "{text}");
    assert!(!text.contains("canary") && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn a_permission_is_missing() {
    let log = Log::default();
    let _guard = log.listen();
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "sessions", "on", ">pw", "~cloakroom:*", "+@all"]);
    let url = format!("redis://sessions:pw@127.0.0.1:{}", server.port());
    let app = App::logged_in(RedisCache::connect(url).await.unwrap()).await;
    let take = || drop(server.command(&["ACL", "SETUSER", "sessions", "-set"]));
    let give = || drop(server.command(&["ACL", "SETUSER", "sessions", "+set"]));
    let (report, cured) = under_load(&app, ms(500), take, give).await;
    report.check("47 NOPERM for a command", cured).await;
    assert_eq!(report.statuses("/read").keys().copied().collect::<Vec<_>>(), [200], "reads work");
    server.command(&["ACL", "SETUSER", "sessions", "resetkeys", "~canary:*"]);
    let answer = app.get("/read").await;
    assert!(answer.status == 503 && !answer.body.contains("canary"), "{answer:?}");
    let text = log.text();
    assert!(text.contains("Refused") && !text.contains("canary"), "{text}");
    assert!(!text.replace("cloakroom::", "").contains("cloakroom:"), "a key: {text}");
}

// 48, 49

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_flushed_all_the_time() {
    let (server, app) = start().await;
    let load = Load::mixed(&app);
    for _ in 0..150 {
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
    let (server, app) = start().await;
    let load = Load::mixed(&app);
    for _ in 0..20 {
        tokio::task::block_in_place(|| server.command(&["CLIENT", "KILL", "TYPE", "normal"]));
        sleep(ms(73)).await;
    }
    let report = load.end().await;
    eprintln!("49 CLIENT KILL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    report.counted("49").await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = RedisServer::start_with(&["--timeout", "1"]);
    let app = App::logged_in(RedisCache::connect(server.url()).await.unwrap()).await;
    for path in ["/read", "/count", "/read"] {
        sleep(ms(2300)).await;
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
    let (report, cured) = under_load(&app, ms(2000), close, open).await;
    report.check("50 maxclients", cured).await;
    assert!(report.statuses("/read")[&503] > 50);
    let connections = server.info("total_connections_received") - before;
    eprintln!("50: {connections} connections in 2 s");
}

// 51, 52

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_removed_under_load() {
    let (server, app) = start().await;
    let load = Load::start(&app, &["/read", "/slow", "/read", "/health"], ms(5));
    sleep(ms(500)).await;
    server.command(&["FLUSHALL"]);
    let flushed = Instant::now();
    sleep(ms(700)).await;
    let report = load.end().await;
    eprintln!("51 FLUSHALL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    assert!(
        report.samples.iter().all(|sample| !sample.cookie || sample.at > flushed),
        "a cookie from a dropped commit"
    );
    for sample in report.samples.iter().filter(|sample| sample.path == "/read" && sample.at > flushed) {
        assert_eq!(sample.body, "nobody");
    }
    // Requests that had loaded the session before could not bring it back.
    assert_eq!(app.user().await, "nobody");
}

#[tokio::test]
async fn sessions_are_evicted() {
    let (server, app) = start().await;
    let others = RedisCache::connect(server.url()).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    let limit = (server.info("used_memory") + 300_000).to_string();
    server.command(&["CONFIG", "SET", "maxmemory", &limit]);
    let mut statuses = Vec::new();
    for number in 0..3000 {
        let value = Bytes::from(vec![b'x'; 1000]);
        let inserted = others.insert(&format!("cloakroom:filler:{number}"), value, hour()).await;
        assert!(matches!(inserted, Ok(Some(_))), "{inserted:?}");
        if number % 100 == 0 {
            statuses.push(app.get("/read").await.status);
        }
    }
    assert!(server.info("evicted_keys") > 1000);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(app.user().await, "nobody");
}

// 53, 54

#[tokio::test]
async fn cut_between_the_deed_and_the_answer() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let load = Load::mixed(&app);
    for _ in 0..15 {
        sleep(ms(60)).await;
        proxy.set(Mode::Cut);
        sleep(ms(20)).await;
        proxy.set(Mode::Pass);
    }
    let cured = Instant::now();
    sleep(ms(1600)).await;
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
    let again = app.get("/logout").await;
    assert_eq!(again.status, 200, "{again:?}");
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
        let (_server, proxy, app) = behind_a_proxy().await;
        let (report, cured) =
            under_load(&app, ms(700), || proxy.set(Mode::Answer(answer)), || proxy.set(Mode::Pass)).await;
        report.check(&format!("54 {what}"), cured).await;
    }
}

#[tokio::test]
async fn the_answer_to_another_request() {
    let (server, proxy, alice) = behind_a_proxy().await;
    let bob = App::logged_in(RedisCache::connect(proxy.url()).await.unwrap()).await;
    assert_eq!(alice.get("/read").await.body, "alice");
    // From now on everybody is given the last record seen, which is that of the first one.
    proxy.set(Mode::Replay);
    let answer = bob.get("/read").await;
    assert!(answer.status == 503 || answer.body == "nobody", "another's session: {answer:?}");
    assert_eq!(answer.cookie, None);
    let answer = bob.get("/count").await;
    assert!(answer.status == 503 || answer.cookie.is_some(), "{answer:?}");
    proxy.set(Mode::Pass);
    sleep(ms(260)).await;
    assert_eq!((bob.user().await, alice.user().await), ("alice".to_owned(), "alice".to_owned()));
    assert_eq!(alice.counter().await, 1);
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
    assert_eq!(app.get("/logout").await.status, 200);
    // As a replica would have it that had not heard of the logout.
    let restored = server.command_bytes(&[b"RESTORE", key.as_bytes(), left.to_string().as_bytes(), &dump]);
    assert_eq!(restored, Reply::Simple("OK".to_owned()));
    assert_eq!(app.user().await, "alice");
    let end = server.command(&["PTTL", &key]).int();
    assert!(end > 0 && end <= left, "it ends as it would have");
}

// 59

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
