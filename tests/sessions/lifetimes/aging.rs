//! Sessions that age: the clock is turned, and what the cache counts down by itself is shortened as much.
#[cfg(feature = "redis")]
use std::{sync::Arc, time::Duration};

use cloakroom::{Clock, InMemoryCache};

use super::Trial;
#[cfg(any(feature = "encryption", feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::support::caches;
#[cfg(feature = "mysql")]
use crate::support::mariadb_server;
#[cfg(feature = "postgres")]
use crate::support::postgres_server;
#[cfg(feature = "redis")]
use crate::support::redis_server::{RedisServer, patient};
#[cfg(feature = "sqlite")]
use crate::support::sqlite_file::SqliteFile;

pub(crate) async fn memory() -> ((), Trial<InMemoryCache>) {
    let clock = Clock::manual();
    ((), Trial::new(InMemoryCache::builder().clock(clock.clone()).build(), clock, |_| ()))
}

#[cfg(feature = "encryption")]
pub(crate) async fn encrypted() -> ((), Trial<cloakroom::EncryptedCache<InMemoryCache>>) {
    let clock = Clock::manual();
    let inside = InMemoryCache::builder().clock(clock.clone()).build();
    ((), Trial::new(caches::encrypt(inside), clock, |_| ()))
}

/// At the end of a test no key is there that would stay for good.
#[cfg(feature = "redis")]
pub(crate) struct NoneStays(Arc<RedisServer>);

#[cfg(feature = "redis")]
impl Drop for NoneStays {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for (key, left) in times(&self.0) {
                assert_ne!(left, -1, "{key} would stay for good");
            }
        }
    }
}

#[cfg(feature = "redis")]
pub(crate) async fn redis() -> (NoneStays, Trial<cloakroom::RedisCache>) {
    let server = Arc::new(RedisServer::start());
    let trial = redis_trial(&server).await;
    (NoneStays(server), trial)
}

#[cfg(feature = "redis")]
pub(crate) async fn redis_trial(server: &Arc<RedisServer>) -> Trial<cloakroom::RedisCache> {
    let aged = Arc::clone(server);
    Trial::new(patient(server).await, Clock::manual(), move |time| age(&aged, time))
}

/// Takes this much off what every key has left. One without a time to live keeps on having none.
#[cfg(feature = "redis")]
fn age(server: &RedisServer, time: Duration) {
    let script = "for _, key in ipairs(redis.call('KEYS', '*')) do
        local left = redis.call('PTTL', key)
        if left > 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
    end
    return 'aged'";
    assert_eq!(server.command(&["EVAL", script, "0", &time.as_millis().to_string()]).text(), "aged");
}

/// The key and the time to live of every entry: -1 for one that stays for good, -2 for one that ended meanwhile.
#[cfg(feature = "redis")]
pub(crate) fn times(server: &RedisServer) -> Vec<(String, i64)> {
    let keys = server.command(&["KEYS", "*"]).text();
    let time = |key: &str| server.command(&["PTTL", key]).int();
    keys.lines().filter(|key| !key.is_empty()).map(|key| (key.to_owned(), time(key))).collect()
}

#[cfg(feature = "sqlite")]
pub(crate) async fn sqlite() -> (SqliteFile, Trial<cloakroom::SqliteCache>) {
    let (file, cache) = caches::sqlite().await;
    let view = file.view();
    (file, Trial::new(cache, Clock::manual(), move |time| view.age(time)))
}

#[cfg(feature = "postgres")]
pub(crate) async fn postgres() -> (postgres_server::Tables, Trial<cloakroom::PostgresCache>) {
    let (tables, cache) = caches::postgres().await;
    let view = tables.view();
    (tables, Trial::new(cache, Clock::manual(), move |time| view.age(time)))
}

#[cfg(feature = "mysql")]
pub(crate) async fn mariadb() -> (mariadb_server::Tables, Trial<cloakroom::MySqlCache>) {
    let (tables, cache) = caches::mariadb().await;
    let view = tables.view();
    (tables, Trial::new(cache, Clock::manual(), move |time| view.age(time)))
}
