//! A SQLite file of a test's own.
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cloakroom::SqliteCache;

/// A directory with one file in it, which goes with it.
#[derive(Debug)]
pub struct SqliteFile(PathBuf);

impl SqliteFile {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-sqlite-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn url(&self) -> String {
        format!("sqlite:{}", self.0.join("sessions.db").display())
    }

    /// Where it is, with the files that SQLite keeps beside it.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// What is in the file.
    pub fn view(&self) -> super::sql_view::SqlView {
        super::sql_view::SqlView::sqlite(self.url(), "cloakroom_sessions")
    }

    /// A cache with its tables that outwaits a machine which is busy with other tests.
    pub async fn patient(&self) -> SqliteCache {
        let cache = SqliteCache::builder(self.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
