//! What lies on disks: the files of Redis, of PostgreSQL and of SQLite, with their logs of writes.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cloakroom::{Session, SessionLayer, SessionStore};
#[cfg(feature = "sqlite")]
use sqlx::Connection;

use super::*;
#[cfg(feature = "postgres")]
use crate::support::postgres_server;
#[cfg(feature = "redis")]
use crate::support::redis_server::{self, RedisServer, Reply};
#[cfg(feature = "sqlite")]
use crate::support::sqlite_file::SqliteFile;
use crate::support::web::{send, start};

const SECRETS: [&str; 3] = ["canary-value", "canary-name", "canary-owner"];

/// Sessions with secrets in them: created, written again, renewed, listed under their owner.
async fn plant(cache: impl Cache) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(20));
    for number in 0..5 {
        let session = Session::new();
        session.set("canary-name", format!("canary-value {number}")).unwrap();
        session.set_owner("canary-owner").unwrap();
        let id = store.save(&session).await.unwrap();
        let session = store.load(&id).await.unwrap().unwrap();
        session.set("again", "canary-value").unwrap();
        session.commit().await.unwrap();
    }
    let layer = SessionLayer::new(store.clone());
    let cookie = start(&layer, "canary-owner").await;
    send(&layer, Some(&cookie), |session| async move {
        session.set("canary-name", "canary-value").unwrap();
        session.renew();
        200
    })
    .await;
    assert_eq!(store.sessions_of("canary-owner").await.unwrap().len(), 6);
}

async fn plant_in(cache: impl Cache, encrypted: bool) {
    if encrypted { plant(around(&Arc::new(cache), &[1])).await } else { plant(cache).await }
}

/// All files of a directory and of those in it.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files
}

/// The secrets in the files whose path has this in it, which are there and not empty.
fn found(files: &[(PathBuf, Vec<u8>)], part: &str) -> Vec<&'static str> {
    let files = files.iter().filter(|(path, bytes)| path.to_string_lossy().contains(part) && !bytes.is_empty());
    let texts: Vec<_> = files.map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect();
    assert!(!texts.is_empty(), "no file with {part} in its path");
    SECRETS.into_iter().filter(|secret| texts.iter().any(|text| text.contains(secret))).collect()
}

/// Without encryption each of these files has the secrets in it; with it no file has.
fn judge(files: &[(PathBuf, Vec<u8>)], parts: &[&str], encrypted: bool) {
    if encrypted {
        assert_eq!(found(files, ""), [""; 0]);
    }
    for part in parts {
        let seen = found(files, part);
        assert!(encrypted || seen == SECRETS, "the search finds plain text in {part}: {seen:?}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn in_redis_no_byte_of_plain_text() {
    // Compressed text would not be found.
    let settings = ["--rdbcompression", "no", "--appendonly", "yes", "--appendfsync", "always"];
    for encrypted in [false, true] {
        let server = RedisServer::start_with(&settings);
        plant_in(redis_server::patient(&server).await, encrypted).await;
        assert_eq!(server.command(&["SAVE"]), Reply::Simple("OK".to_owned()));
        let mut files = files(server.dir());
        let Reply::Array(names) = server.command(&["KEYS", "*"]) else { panic!("no keys") };
        assert_eq!(names.len(), 8, "six sessions, a tombstone and the list of their owner");
        for name in &names {
            let Reply::Bytes(dump) = server.command(&["DUMP", &name.text()]) else { panic!("no dump") };
            files.push((format!("dumped {}", name.text()).into(), dump));
        }
        judge(&files, &["dumped", "dump.rdb", ".incr.aof"], encrypted);
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn in_postgres_no_byte_of_plain_text() {
    for encrypted in [false, true] {
        let server = postgres_server::PostgresServer::start_with(&["wal_compression=off", "log_statement=all"]);
        plant_in(postgres_server::patient(&server).await, encrypted).await;
        server.sql("CHECKPOINT");
        judge(&files(server.dir()), &["data/base/", "data/pg_wal/"], encrypted);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn in_sqlite_no_byte_of_plain_text() {
    for encrypted in [false, true] {
        let file = SqliteFile::new();
        // It keeps its connection, without which the log of writes is removed.
        let cache = file.patient().await;
        plant_in(cache.clone(), encrypted).await;
        judge(&files(file.dir()), &["sessions.db-wal"], encrypted);
        let mut beside = sqlx::SqliteConnection::connect(&file.url()).await.unwrap();
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut beside).await.unwrap();
        judge(&files(file.dir()), &["sessions.db"], encrypted);
        drop(cache);
    }
}
