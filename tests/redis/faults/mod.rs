//! What the layer does while Redis misbehaves: a fault, a browser that keeps asking, and what has to hold all the same.
mod connections;
mod logged;
mod refusals;
mod restarts;
mod slow;

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

use crate::support::{
    redis_app::{self, App, Load, PATIENCE, Report, connected, unhurried},
    redis_proxy::{Mode, Proxy},
    redis_server::{RedisServer, Reply},
    writes::Writes,
};

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

/// For faults at which nothing has to wait: what is refused is refused by Redis and not because time ran out.
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
/// which shows that nothing waits for its end.
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
