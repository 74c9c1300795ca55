//! A server that stops, a line that is slow or dead.
use super::*;

#[tokio::test]
async fn stopped_for_a_while() {
    let (server, app) = start().await;
    let (report, cured) = under_load(&app, || server.pause(), NOTHING_WORKS, ms(2500), || server.resume()).await;
    report.check("SIGSTOP", cured).await;
}

#[tokio::test]
async fn paused_by_an_operator() {
    let (server, app) = start().await;
    // It cannot be taken back while it lasts.
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "5000", "ALL"]));
    let (report, cured) = under_load(&app, pause, NOTHING_WORKS, ms(5000), || ()).await;
    report.check("CLIENT PAUSE ALL", cured).await;
}

#[tokio::test]
async fn writes_paused_by_an_operator() {
    let (server, app) = start().await;
    let pause = || drop(server.command(&["CLIENT", "PAUSE", "600000", "WRITE"]));
    let go_on = || drop(server.command(&["CLIENT", "UNPAUSE"]));
    let (report, cured) = under_load(&app, pause, READS_WORK, ms(1500), go_on).await;
    report.check("CLIENT PAUSE WRITE", cured).await;
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
        assert_eq!(app.user().await, "none");
        sleep(ms(30)).await;
    }
}

#[tokio::test]
async fn a_slow_line() {
    on_a_way("latency of 300 ms each way", Mode::Delay(ms(300))).await;
}

#[tokio::test]
async fn a_byte_a_second() {
    on_a_way("one byte of an answer a second", Mode::Trickle).await;
}

#[tokio::test]
async fn answers_that_never_arrive() {
    on_a_way("answers swallowed", Mode::Swallow).await;
}

#[tokio::test]
async fn packets_dropped_in_both_directions() {
    on_a_way("everything swallowed, there and back", Mode::Drop).await;
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing() {
    // Nothing accepts from the queue; when it is full, the handshake itself hangs.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let app = App::new(RedisCache::builder(url).build_lazy().unwrap());
    let app = App { cookie: "__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), ..app };
    let load = Load::start(&app, &["/read", "/count", "/health"], ms(3));
    load.answers(200, Instant::now(), NOTHING_WORKS).await;
    let report = load.end().await;
    eprintln!("tarpit: longest request {:?}, at most {} at a time", report.longest(), report.most);
    assert!(report.statuses("/read").keys().eq([&503]) && report.always_worked("/health"));
}
