//! SQLite, on files of a test's own.
use std::{path::PathBuf, time::Duration};

use cloakroom::{Cache, CacheErrorKind, SqlTables, SqliteCache, testing::cache_contract};

use crate::shared::{self, entry, expiry, kind};

/// A directory that goes with it.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("cloakroom-sqlite-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.join("sessions.db").display())
    }

    async fn patient(&self) -> SqliteCache {
        let cache = SqliteCache::builder(self.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let files = Files::new();
    let cache = files.patient().await;
    cache_contract(|| async { cache.clone() }, None).await;
    shared::versions_keep_all_their_bits(&cache).await;
    shared::what_is_too_long_is_an_error(&cache).await;
    shared::conflicts_tell_what_is_there_now(&cache).await;
    shared::the_last_one_to_add_counts_all(&cache).await;
    shared::many_members_are_removed(&cache).await;
}
