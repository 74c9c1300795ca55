//! Connections that are cut, killed or refused, scripts that are forgotten, answers that are wrong.
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_flushed_all_the_time() {
    let (server, app) = start_unhurried().await;
    let load = Load::mixed(&app).await;
    for _ in 0..100 {
        tokio::task::block_in_place(|| server.command(&["SCRIPT", "FLUSH"]));
        sleep(ms(10)).await;
    }
    let report = load.end().await;
    eprintln!("SCRIPT FLUSH: longest request {:?}, {} failed", report.longest(), report.failed());
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
    eprintln!("CLIENT KILL: longest request {:?}, {} failed", report.longest(), report.failed());
    assert_eq!(report.failed(), 0);
    report.counted("49").await;
}

/// A child that writes a dump has the sockets of its parent: what Redis 7.0 closes stays open, and is never answered. Valkey 9.1
/// shuts it down for both.
#[tokio::test]
async fn connections_that_are_closed_while_a_dump_is_written_cost_one_time_limit_at_most() {
    let (server, app) = start().await;
    app.eventually("/count").await;
    for key in 0..50 {
        server.command(&["SET", &format!("other:{key}"), "x"]);
    }
    server.command(&["CONFIG", "SET", "rdb-key-save-delay", "200000"]);
    server.command(&["BGSAVE"]);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let status = app.get("/count").await.status;
    assert!(matches!(status, 200 | 503), "{status}");
    app.eventually("/count").await;
    assert_eq!(server.info("rdb_bgsave_in_progress"), 1, "the child has ended: nothing was tested");
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

/// What is between forgets a connection that is silent for some minutes.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_that_rest_are_probed_by_the_operating_system() {
    let (server, _app) = start().await;
    let port = format!(":{:04X}", server.port());
    let own = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // Local and remote address, state (1: established), queues, timer (2: keepalive) and when it is due in hundredths.
        let lines = table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        lines
            .filter(|fields| fields[2].ends_with(&port) && fields[3] == "01")
            .map(|mut fields| fields.remove(5))
            .collect()
    };
    let is_probed = |timer: &String| {
        let due = timer.strip_prefix("02:").map(|due| u32::from_str_radix(due, 16).unwrap());
        due.is_some_and(|due| due <= 6000)
    };
    wait_until("all rest", || {
        let own: Vec<String> = own();
        own.len() >= 4 && own.iter().all(is_probed)
    });
}

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
    report.check("maxclients", cured).await;
    let connections = server.info("total_connections_received") - before;
    eprintln!("50: {connections} connections");
}

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
    report.check("cut before the reply, 15 times", cured).await;
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
    assert_eq!(app.user().await, "none");
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
        on_a_way(what, Mode::Answer(answer)).await;
    }
}

#[tokio::test]
async fn the_answer_to_another_request() {
    let (server, proxy, alice) = behind_a_proxy().await;
    let bob = App::new(connected(proxy.url()).await).logged_in().await;
    let counted = alice.counter().await;
    assert_eq!(alice.user().await, "alice");
    // From now on every request is given the last record seen, which is that of the first one.
    proxy.set(Mode::Replay);
    let answer = bob.get("/read").await;
    assert!(answer.status == 503 || answer.body == "none", "another's session: {answer:?}");
    assert_eq!(answer.cookie, None);
    let answer = bob.get("/count").await;
    assert!(answer.status == 503 || answer.cookie.is_some(), "{answer:?}");
    proxy.set(Mode::Pass);
    assert_eq!((bob.user().await, alice.user().await), ("alice".to_owned(), "alice".to_owned()));
    assert_eq!(alice.counter().await, counted);
    drop(server);
}
