//! What a session takes in Redis: the numbers in the documentation.
use cloakroom::{Session, SessionStore};

use crate::support::{
    redis_app::{App, unhurried},
    redis_server::{RedisServer, Reply},
};

fn small(session: &Session) {
    session.set("user", 123_456_789).unwrap();
    session.set("csrf", "0123456789abcdef0123456789abcdef").unwrap();
    session.set("theme", "dark").unwrap();
}

fn large(session: &Session) {
    for number in 0..40 {
        session.set(format!("setting-{number:02}"), "a value of 24 characters").unwrap();
    }
}

/// Bytes by `MEMORY USAGE` of one, and by the growth of the whole server, each of many.
async fn measure(fill: fn(&Session)) -> (i64, u64) {
    const COUNT: u64 = 4000;
    let server = RedisServer::start();
    let store = SessionStore::new(unhurried(server.url()).await);
    let save = async || {
        let session = Session::new();
        fill(&session);
        store.save(&session).await.unwrap();
    };
    save().await;
    let Reply::Array(keys) = server.command(&["KEYS", "*"]) else { panic!() };
    let usage = server.command(&["MEMORY", "USAGE", &keys[0].text()]).int();
    let before = server.info("used_memory_dataset");
    for _ in 0..COUNT {
        save().await;
    }
    let overhead = 2 * 4096 * 8; // the hash tables of keys and of expiries, at 4096 places
    (usage, (server.info("used_memory_dataset") - before + overhead) / COUNT)
}

#[tokio::test]
async fn a_session_takes_what_the_documentation_says() {
    let ((small_usage, small_growth), (large_usage, large_growth)) = (measure(small).await, measure(large).await);
    eprintln!("3 keys: MEMORY USAGE {small_usage}, growth {small_growth} a session");
    eprintln!("40 keys: MEMORY USAGE {large_usage}, growth {large_growth} a session");
    // The documentation says 330 and 1,900 bytes; versions of Redis differ a little.
    assert!(small_usage < 400 && large_usage < 2300);
}

#[tokio::test]
async fn a_renewed_session_leaves_little_behind() {
    let server = RedisServer::start();
    let app = App::patient(unhurried(server.url()).await).logged_in().await;
    let Reply::Array(keys) = server.command(&["KEYS", "*"]) else { panic!() };
    assert_eq!(app.get("/login").await.status, 200);
    let usage = server.command(&["MEMORY", "USAGE", &keys[0].text()]).int();
    eprintln!("tombstone: MEMORY USAGE {usage}");
    assert!(usage < 320);
    let left = server.command(&["PTTL", &keys[0].text()]).int();
    assert!(left <= 3_600_000, "{left}");
}
