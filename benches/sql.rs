//! SQL caches by operation, with 1, 8 and 64 of them in flight: operations a second, and how long the slowest took.
//!
//!     cargo bench --bench sql --features postgres,mysql,sqlite,testing
//!     cargo bench --bench sql --features sqlite,testing -- sqlite          # databases that begin so
//!     SECONDS=5 IN_FLIGHT=64 cargo bench --bench sql --features sqlite,testing
//!     DATABASE_URL=postgres://… cargo bench --bench sql --features postgres,testing -- postgres
//!     NEAR_CACHE=67108864 DATABASE_URL=… cargo bench --bench sql --features postgres,testing -- postgres
//!
//! SQLite writes a file under the temporary directory. PostgreSQL and MySQL are asked where `DATABASE_URL` and `MYSQL_URL`
//! say. They are left out without one. Each operation has its own entry of 200 bytes, but for `contended`: all of them
//! replace one entry.
#![allow(missing_docs, unreachable_pub)]
#![cfg_attr(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")), allow(dead_code, unused_variables))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use cloakroom::{Bytes, Cache, Entry, Expiry, Replaced, Version};

const VALUE: [u8; 200] = [b'x'; 200];
const OPERATIONS: [&str; 6] = ["get", "get_and_touch", "touch", "replace", "insert", "contended"];

fn expiry() -> Expiry {
    Expiry::new(Duration::from_secs(86_400), SystemTime::now() + Duration::from_secs(604_800))
}

fn entry() -> Entry {
    Entry::new(Bytes::from_static(&VALUE), Version::unique())
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

async fn worker<C: Cache>(cache: C, operation: &'static str, key: String, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut done, mut slowest) = (0, Duration::ZERO);
    let mut version = cache.get(&key).await.unwrap().unwrap().version;
    while !stop.load(Relaxed) {
        let start = Instant::now();
        match operation {
            "get" => drop(cache.get(&key).await.unwrap()),
            "get_and_touch" => drop(cache.get_and_touch(&key, Duration::ZERO).await.unwrap()),
            "touch" => assert!(cache.touch(&key).await.unwrap()),
            "insert" => {
                static COUNT: AtomicU64 = AtomicU64::new(0);
                let own = format!("{key}:{}:{:?}", COUNT.fetch_add(1, Relaxed), Version::unique());
                assert!(cache.insert(&own, entry(), expiry()).await.unwrap());
            }
            _ => {
                let next = entry();
                let newer = next.version;
                match cache.replace(&key, version, next, expiry()).await.unwrap() {
                    Replaced::Done => version = newer,
                    Replaced::Conflict(there) => {
                        version = there.version;
                        continue;
                    }
                    Replaced::Missing => panic!("the entry is gone"),
                }
            }
        }
        done += 1;
        slowest = slowest.max(start.elapsed());
    }
    (done, slowest)
}

async fn measure<C: Cache + Clone>(name: &str, cache: C) {
    let seconds = number("SECONDS").unwrap_or(2) as u64;
    for in_flight in [1, 8, 64] {
        if number("IN_FLIGHT").is_some_and(|only| only != in_flight) {
            continue;
        }
        for operation in OPERATIONS {
            let stop = Arc::new(AtomicBool::new(false));
            let mut workers = tokio::task::JoinSet::new();
            for worker_number in 0..in_flight {
                let own = if operation == "contended" { 0 } else { worker_number };
                let key = format!("bench:{operation}:{in_flight}:{own}");
                cache.insert(&key, entry(), expiry()).await.unwrap();
                workers.spawn(worker(cache.clone(), operation, key, Arc::clone(&stop)));
            }
            let start = Instant::now();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.store(true, Relaxed);
            let all = workers.join_all().await;
            let done: u64 = all.iter().map(|(done, _)| done).sum();
            let slowest = all.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default();
            let rate = done as f64 / start.elapsed().as_secs_f64();
            println!("{name:10}{operation:16}{in_flight:>4} in flight{rate:>10.0} a second, slowest {slowest:.1?}");
        }
    }
}

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if "sqlite".starts_with(&only) {
        let dir = std::env::temp_dir().join(format!("cloakroom-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let url = format!("sqlite:{}", dir.join("sessions.db").display());
        let cache = cloakroom::SqliteCache::builder(url).timeout(Duration::from_secs(10)).build().await.unwrap();
        cache.migrate().await.unwrap();
        measure("sqlite", cache).await;
        let _ = std::fs::remove_dir_all(dir);
    }
    #[cfg(feature = "postgres")]
    if let (true, Ok(url)) = ("postgres".starts_with(&only), std::env::var("DATABASE_URL")) {
        let builder = cloakroom::PostgresCache::builder(url).timeout(Duration::from_secs(10));
        let cache = builder.near_cache(number("NEAR_CACHE").unwrap_or(0)).build().await.unwrap();
        cache.migrate().await.unwrap();
        measure("postgres", cache).await;
    }
    #[cfg(feature = "mysql")]
    if let (true, Ok(url)) = ("mysql".starts_with(&only), std::env::var("MYSQL_URL")) {
        let cache = cloakroom::MySqlCache::builder(url).timeout(Duration::from_secs(10)).build().await.unwrap();
        cache.migrate().await.unwrap();
        measure("mysql", cache).await;
    }
}
