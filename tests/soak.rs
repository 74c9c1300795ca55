//! The races of `examples/soak/`, a few of them; the many are a command of their own.
#![cfg(feature = "redis")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../examples/soak/main.rs"]
mod soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_races_break_no_promise() {
    let server = soak::redis_server::RedisServer::start();
    let report = soak::races(&server.url(), 1000, false).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_stay_well_loses_nobody() {
    let endured = soak::faults(std::time::Duration::from_secs(12)).await.unwrap();
    assert!(endured.is_clean() && endured.requests > 100 && endured.faults > 0, "{endured:?}");
}
