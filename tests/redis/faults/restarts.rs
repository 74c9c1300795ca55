//! Starts, restarts, failovers, and data that is lost.
use super::*;

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
        report.check("kill -9, restart with AOF", cured).await;
    }
    assert_eq!(first.user().await, "alice");
}

#[tokio::test]
async fn restarted_without_its_data() {
    let (mut server, app) = start().await;
    server.restart();
    assert_eq!(app.user().await, "none");
    assert_eq!(app.logged_in().await.user().await, "alice");
}

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
    eprintln!("FLUSHALL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    // A request that had loaded the session could not write it any more, and got no other one in its place.
    let dropped = |sample: &&redis_app::Sample| sample.path == "/slow" && sample.body == "alice";
    assert!(report.samples.iter().filter(dropped).all(|sample| !sample.cookie), "a cookie from a dropped commit");
    for sample in report.samples.iter().filter(|sample| sample.path == "/read" && sample.at > flushed) {
        assert_eq!(sample.body, "none");
    }
    // Requests that had loaded the session before could not bring it back.
    assert_eq!(app.user().await, "none");
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
    assert_eq!(app.user().await, "none");
}

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
