//! What an outage costs while it lasts: requests are refused at once, nothing piles up, and all is well soon after.
//!
//! `CLOAKROOM_OUTAGE_SECONDS` makes the outages last longer than the few seconds they last otherwise.
use std::time::{Duration, Instant};

use cloakroom::{Cache, CacheErrorKind, RedisCache};
use tokio::time::sleep;

use crate::support::{
    redis_app::{App, Load, Report, answering, connected, unhurried},
    redis_server::RedisServer,
};

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

/// How many of these operations were refused at once. Nothing but a refusal has this text.
async fn refused(cache: &RedisCache, operations: usize) -> usize {
    let mut refused = 0;
    for _ in 0..operations {
        let error = cache.get("k").await.unwrap_err();
        refused += usize::from(format!("{error:?}").contains("refused but for one every 250 ms"));
        sleep(Duration::from_millis(5)).await;
    }
    refused
}

/// 500 requests a second.
async fn outage(server: &mut RedisServer, name: &str, hit: fn(&mut RedisServer), cure: fn(&mut RedisServer)) {
    let cache = connected(server.url()).await;
    let app = App::new(cache.clone()).logged_in().await;
    let load = Load::start(&app, &["/read", "/count", "/read", "/read", "/health"], Duration::from_millis(2));
    load.answers(20, Instant::now(), &[("/read", 200), ("/count", 200)]).await;
    let begun = Instant::now();
    hit(server);
    load.answers(50, begun, &[("/read", 503), ("/count", 503), ("/health", 200)]).await;
    sleep(Duration::from_secs(1)).await;
    let (open, before) = (Instant::now(), memory());
    let of = 100;
    let refused = refused(&cache, of).await;
    sleep(seconds().saturating_sub(begun.elapsed())).await;
    // No request that came long ago is still under way.
    load.answers(50, open, &[("/read", 503), ("/count", 503), ("/health", 200)]).await;
    load.settled().await;
    let after = memory();
    cure(server);
    let cured = Instant::now();
    load.answers(50, cured, &[("/read", 200), ("/count", 200)]).await;
    let report = load.end().await;
    eprintln!(
        "{name}, {:?}: p99 of the failures {:?} ({:?} with the first), {refused} of {of} refused at once, \
         memory {before:?} to {after:?} KiB",
        cured - begun,
        percentile(&report, open, 0.99),
        percentile(&report, begun, 0.99),
    );
    report.check(name, cured).await;
    assert!(refused > of / 2, "{refused} of {of} were refused at once");
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

/// So many at the same time that fail.
async fn all_fail(cache: &RedisCache, operations: usize) {
    let tasks: tokio::task::JoinSet<_> = (0..operations)
        .map(|_| {
            let cache = cache.clone();
            async move { cache.get("k").await }
        })
        .collect();
    assert!(tasks.join_all().await.iter().all(Result::is_err));
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let server = RedisServer::start();
    let limit = Duration::from_millis(300);
    let cache = |fail_fast| RedisCache::builder(server.url()).timeout(limit).fail_fast(fail_fast).build_lazy().unwrap();
    let (fast, patient) = (answering(cache(true)).await, answering(cache(false)).await);
    server.pause();
    all_fail(&fast, 20).await;
    all_fail(&patient, 20).await;
    for _ in 0..4 {
        let began = Instant::now();
        patient.get("k").await.unwrap_err();
        assert!(began.elapsed() > limit / 2, "{:?}", began.elapsed());
        // Refused, or the one that finds out that it still has to be.
        let error = fast.get("k").await.unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    }
    assert!(refused(&fast, 20).await > 10);
    server.resume();
    answering(patient).await;
}

#[tokio::test]
async fn after_a_silence_the_first_operation_succeeds() {
    let server = RedisServer::start();
    // Half of it is for finding out.
    let cache = RedisCache::builder(server.url()).timeout(Duration::from_secs(3)).build().await.unwrap();
    server.pause();
    all_fail(&cache, 20).await;
    assert!(refused(&cache, 20).await > 10);
    server.resume();
    sleep(Duration::from_millis(260)).await;
    cache.get("k").await.unwrap();
}

#[tokio::test]
async fn at_a_restart_few_connect() {
    let mut server = RedisServer::start();
    let cache = unhurried(server.url()).await;
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
    assert!(connections < 20, "{connections} connections");
}
