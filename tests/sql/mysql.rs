//! MariaDB, which stands for MySQL.
use std::time::Duration;

use cloakroom::{Cache, CacheErrorKind, MySqlCache, Replaced, SqlTables, testing::cache_contract};

use crate::{
    mariadb_server::MariaDbServer,
    proxy::{Mode, Proxy},
    shared::{self, entry, expiry, kind},
};

async fn patient(server: &MariaDbServer) -> MySqlCache {
    let cache = MySqlCache::builder(server.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
    cache.migrate().await.unwrap();
    cache
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = MariaDbServer::start();
    let cache = patient(&server).await;
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::the_last_one_to_add_counts_all(&cache).await;
    shared::many_members_are_removed(&cache).await;
    shared::what_is_too_long_is_an_error(&cache).await;
}
