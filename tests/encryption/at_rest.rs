//! What lies in Redis: dumped entries, the file of a snapshot and the log of writes.
use std::path::Path;

use cloakroom::{Session, SessionStore};

use super::*;
use crate::support::redis_server::{self, RedisServer, Reply};

const SECRETS: [&str; 3] = ["canary-value", "canary-name", "canary-owner"];

/// Sessions with secrets in them: created, written again, listed under their owner.
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
    assert_eq!(store.sessions_of("canary-owner").await.unwrap().len(), 5);
}

/// All that Redis gives away, and all of its files.
fn everything(server: &RedisServer) -> Vec<u8> {
    let Reply::Array(names) = server.command(&["KEYS", "*"]) else { panic!("no keys") };
    let mut all = Vec::new();
    for name in &names {
        let Reply::Bytes(dump) = server.command(&["DUMP", &name.text()]) else { panic!("no dump") };
        all.extend(name.text().into_bytes());
        all.extend(dump);
    }
    assert_eq!(names.len(), 6, "five sessions and the list of their owner");
    assert_eq!(server.command(&["SAVE"]), Reply::Simple("OK".to_owned()));
    let mut files = Vec::new();
    read(server.dir(), &mut files);
    assert!(files.len() > 2, "a snapshot, a log of writes: {}", files.len());
    all.extend(files.concat());
    all
}

fn read(dir: &Path, files: &mut Vec<Vec<u8>>) {
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            read(&path, files);
        } else {
            files.push(std::fs::read(path).unwrap());
        }
    }
}

fn found(all: &[u8]) -> Vec<&'static str> {
    SECRETS.into_iter().filter(|text| all.windows(text.len()).any(|part| part == text.as_bytes())).collect()
}

#[tokio::test]
async fn no_byte_of_plain_text() {
    // Compressed text would not be found.
    let settings = ["--rdbcompression", "no", "--appendonly", "yes", "--appendfsync", "always"];
    for encrypted in [false, true] {
        let server = RedisServer::start_with(&settings);
        let redis = redis_server::patient(&server).await;
        if encrypted {
            plant(around(&redis, &[1])).await;
            assert_eq!(found(&everything(&server)), [""; 0]);
        } else {
            plant(redis).await;
            let seen = found(&everything(&server));
            assert!(seen.contains(&"canary-value") && seen.contains(&"canary-name"), "the search finds plain text");
        }
    }
}
