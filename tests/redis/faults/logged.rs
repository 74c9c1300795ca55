//! What an operator reads of a fault.
use super::*;
use crate::support::log::Log;

impl Log {
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
}

#[tokio::test]
async fn the_password_is_changed() {
    let (log, _recording) = Log::record();
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
    report.check("WRONGPASS, and right again", cured).await;
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
    let (log, _recording) = Log::record();
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "sessions", "on", ">pw", "~cloakroom:*", "+@all"]);
    let url = format!("redis://sessions:pw@127.0.0.1:{}", server.port());
    let app = App::patient(unhurried(url).await).logged_in().await;
    let take = || drop(server.command(&["ACL", "SETUSER", "sessions", "-set"]));
    let give = || drop(server.command(&["ACL", "SETUSER", "sessions", "+set"]));
    log.until(&app, "/count", take, "cache_refused", "NOPERM").await;
    // Redis 7.0 and before do not say which command of the script it was.
    let named = ["SET", "EVALSHA", "EVAL"].map(|command| log.text().contains(&format!("may not run {command},")));
    assert!(named.contains(&true), "{}", log.text());
    give();
    let (report, cured) = under_load(&app, take, READS_WORK, ms(300), give).await;
    report.check("NOPERM for a command", cured).await;
    assert!(report.always_worked("/read"), "{:?}", report.statuses("/read"));
    let forbid = || drop(server.command(&["ACL", "SETUSER", "sessions", "resetkeys", "~canary:*"]));
    log.until(&app, "/read", forbid, "ERROR", "cache_refused").await;
    log.until(&app, "/read", || (), "NOPERM", "may not run GETRANGE,").await;
    let answer = app.get("/read").await;
    assert!(answer.status == 503 && !answer.body.contains("canary"), "{answer:?}");
    log.shows_no("canary");
    // No key, either.
    let text = log.text().replace("cloakroom::", "").replace(" cloakroom: ", " ");
    assert!(!text.contains("cloakroom:"), "{text}");
}

#[tokio::test]
async fn an_outage_and_its_end_are_told_once_each() {
    let (log, _recording) = Log::record();
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

#[tokio::test]
async fn a_server_that_would_evict_is_warned_of() {
    let (log, _recording) = Log::record();
    let warned = || log.text().matches("removes live sessions").count();
    let server = RedisServer::start();
    unhurried(server.url()).await;
    assert_eq!(warned(), 0, "nothing is evicted here");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let cache = unhurried(server.url()).await;
    cache.ping().await.unwrap();
    assert_eq!(warned(), 1, "once");
    // A user without the permission to ask is not warned, and may go on.
    server.command(&["ACL", "SETUSER", "sessions", "on", ">pw", "~*", "+@all", "-info"]);
    unhurried(format!("redis://sessions:pw@127.0.0.1:{}", server.port())).await;
    assert_eq!(warned(), 1);
    log.shows_no("NOPERM");
}

#[tokio::test]
async fn an_old_server_is_told_by_its_kind_of_error() {
    let (_server, proxy, app) = behind_a_proxy().await;
    let (log, _recording) = Log::record();
    proxy.set(Mode::Answer(b"-ERR unknown command 'EVALSHA', with args beginning with: 'canary'\r\n".to_vec()));
    let answer = app.get("/read").await;
    assert!(answer.status == 503 && !answer.body.contains("canary"), "{answer:?}");
    assert!(!log.text().contains("canary"), "{}", log.text());
    let error = RedisCache::connect(proxy.url()).await.unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}
