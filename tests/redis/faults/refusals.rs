//! A server that answers and refuses: full, a replica, loading, too old.
use super::*;

#[tokio::test]
async fn memory_is_full() {
    let (server, app) = start_unhurried().await;
    let other = app.clone().logged_in().await;
    let app = App { cookie: String::new(), ..app }.logged_in().await;
    let full = || drop(server.command(&["CONFIG", "SET", "maxmemory", "1"]));
    let room = || drop(server.command(&["CONFIG", "SET", "maxmemory", "0"]));
    let (report, cured) = under_load(&app, full, READS_WORK, ms(300), room).await;
    report.check("OOM", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(app.get("/login").await.status, 503);
    assert_eq!(other.get("/logout").await.status, 200, "a logout needs no room");
    assert_eq!(other.user().await, "none");
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
    report.check("MISCONF", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
}

#[tokio::test]
async fn turned_into_a_replica_and_back() {
    let (server, app) = start().await;
    let demote = || drop(server.command(&["REPLICAOF", "127.0.0.1", "1"]));
    let promote = || drop(server.command(&["REPLICAOF", "NO", "ONE"]));
    let (report, cured) = under_load(&app, demote, READS_WORK, ms(1000), promote).await;
    report.check("READONLY", cured).await;
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
    load.end().await.check("LOADING", cured).await;
}

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
