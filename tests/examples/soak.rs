//! The races of `examples/soak`, a few of them; the many are a command of their own.
use crate::programs::soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_races_break_no_promise() {
    let server = soak::redis_server::RedisServer::start();
    let report = soak::races(&server.url(), 1000, false).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_in_many_ways_loses_no_session() {
    let endured = soak::faults(std::time::Duration::from_secs(12)).await.unwrap();
    assert!(endured.is_clean() && endured.requests > 100 && endured.faults > 0, "{endured:?}");
}
