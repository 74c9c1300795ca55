//! What an outage costs while it lasts: requests are refused at once, nothing piles up, and all is well soon after.
//!
//! `CLOAKROOM_OUTAGE_SECONDS` makes the outages last longer than the few seconds they last otherwise.
#![cfg(cloakroom_faults)]
#![cfg(all(feature = "redis", feature = "axum"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::time::{Duration, Instant};

use cloakroom::{Cache, CacheErrorKind, RedisCache};
use tokio::time::sleep;

#[path = "common/redis_app.rs"]
mod redis_app;
#[path = "common/redis_server.rs"]
mod redis_server;

use redis_app::{App, Load, Report};
use redis_server::RedisServer;

fn seconds() -> Duration {
    let seconds = std::env::var("CLOAKROOM_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Resident memory of this process in KiB, where the system tells.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// The time that `share` of the failures took that were asked for from `from` on.
fn percentile(report: &Report, from: Instant, share: f64) -> Duration {
    let failed = report.samples.iter().filter(|sample| sample.status != 200 && sample.at >= from);
    let mut took: Vec<_> = failed.map(|sample| sample.took).collect();
    took.sort();
    took[((took.len() - 1) as f64 * share) as usize]
}

/// 500 requests a second; `cure` gives the time at which the server is back.
async fn outage(server: &mut RedisServer, name: &str, hit: fn(&mut RedisServer), cure: fn(&mut RedisServer)) {
    let cache = RedisCache::connect(server.url()).await.unwrap();
    let app = App::logged_in(cache).await;
    let load = Load::start(&app, &["/read", "/count", "/read", "/read", "/health"], Duration::from_millis(2));
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    hit(server);
    sleep(Duration::from_secs(2)).await;
    let (open, before) = (Instant::now(), memory());
    sleep(seconds() - Duration::from_secs(2)).await;
    let after = memory();
    cure(server);
    let cured = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let report = load.end().await;
    let p99 = percentile(&report, open, 0.99);
    eprintln!(
        "{name}, {:?}: p99 of the failures {p99:?} ({:?} with the first two seconds), memory {before:?} to {after:?} KiB",
        cured - begun,
        percentile(&report, begun, 0.99),
    );
    report.check(name, cured).await;
    assert!(p99 < Duration::from_millis(50), "{p99:?}");
    assert!(report.most < 500, "{} requests at a time", report.most);
    if let (Some(before), Some(after)) = (before, after) {
        assert!(after < before + 32 * 1024, "{before} KiB grew to {after} KiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_not_waited_for_by_all() {
    let mut server = RedisServer::start();
    outage(&mut server, "hangs (SIGSTOP)", |server| server.pause(), |server| server.resume()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_not_waited_for_by_all() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    outage(&mut server, "gone (kill -9)", RedisServer::stop, RedisServer::restart).await;
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let server = RedisServer::start();
    let limit = Duration::from_millis(60);
    let cache = |fail_fast| RedisCache::builder(server.url()).timeout(limit).fail_fast(fail_fast);
    let (fast, patient) = (cache(true).build().await.unwrap(), cache(false).build().await.unwrap());
    server.pause();
    for _ in 0..20 {
        let began = Instant::now();
        patient.get("k").await.unwrap_err();
        assert!(began.elapsed() > limit / 2, "{:?}", began.elapsed());
        fast.get("k").await.unwrap_err();
    }
    let error = fast.get("k").await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    server.resume();
    patient.get("k").await.unwrap();
}

#[tokio::test]
async fn after_a_silence_the_first_operation_succeeds() {
    let server = RedisServer::start();
    let cache = RedisCache::builder(server.url()).timeout(Duration::from_millis(60)).build().await.unwrap();
    server.pause();
    for _ in 0..20 {
        cache.get("k").await.unwrap_err();
    }
    server.resume();
    sleep(Duration::from_millis(260)).await;
    cache.get("k").await.unwrap();
}

#[tokio::test]
async fn at_a_restart_few_connect() {
    let mut server = RedisServer::start();
    let cache = RedisCache::connect(server.url()).await.unwrap();
    server.restart();
    let tasks: tokio::task::JoinSet<_> = (0..1000)
        .map(|_| {
            let cache = cache.clone();
            async move { cache.get("k").await.map(drop) }
        })
        .collect();
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    // Those of this test, and that of `info` itself, are among them.
    let connections = server.info("total_connections_received");
    assert!(connections < 10, "{connections} connections");
}
