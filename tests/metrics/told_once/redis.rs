//! Faults of a real server: each response of 503 is one line, whatever is behind it.
use std::time::{Duration, Instant};

use cloakroom::RedisCache;

use super::told;
use crate::support::{
    redis_app::{App, unhurried},
    redis_server::RedisServer,
};

type Fault = fn(&mut RedisServer);

/// What tells of a response; the others tell of the server.
const OF_A_RESPONSE: [&str; 5] = ["cache_unavailable", "cache_timeout", "cache_refused", "cache_full", "cache_error"];

#[test]
fn a_fault_of_a_server() {
    let rows: [(&str, &str, &str, Fault); 5] = [
        ("stopped", "/read", "cache_unavailable", RedisServer::stop),
        ("hangs", "/read", "cache_timeout", |server| server.pause()),
        ("a permission is missing", "/read", "cache_refused", |server| {
            server.command(&["ACL", "SETUSER", "default", "-getrange"]);
        }),
        ("full", "/login", "cache_full", |server| drop(server.command(&["CONFIG", "SET", "maxmemory", "1"]))),
        ("a replica", "/count", "cache_unavailable", |server| drop(server.command(&["REPLICAOF", "127.0.0.1", "1"]))),
    ];
    for (name, path, event, fault) in rows {
        let mut failed = 0;
        let (status, counts) = told(name, async {
            let mut server = RedisServer::start();
            let app = App::patient(unhurried(server.url()).await).logged_in().await;
            let cache = RedisCache::builder(server.url()).timeout(Duration::from_millis(300)).build_lazy().unwrap();
            let app = app.over(cache);
            let began = Instant::now();
            // A busy machine may take longer than the time limit.
            while app.get("/count").await.status != 200 {
                failed += 1;
                assert!(began.elapsed() < Duration::from_secs(60), "{name}");
            }
            fault(&mut server);
            app.get(path).await.status
        });
        let told: u64 = OF_A_RESPONSE.iter().filter_map(|event| counts.get(*event)).sum();
        assert_eq!((status, told), (503, failed + 1), "{name}: {counts:?}");
        assert!(counts.contains_key(event), "{name}: {counts:?}");
    }
}
