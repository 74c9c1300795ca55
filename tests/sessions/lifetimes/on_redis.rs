//! What Redis is told of the end of each key.
use std::{collections::HashMap, sync::Arc, time::Instant};

use super::aging::{redis_trial as trial, times};
use super::*;
use crate::support::redis_server::RedisServer;

/// None for a key that stays for good.
fn millis(left: i64) -> Duration {
    Duration::from_millis(left.try_into().unwrap_or(0))
}

#[tokio::test]
async fn every_key_has_the_time_to_live_that_is_left() {
    let server = Arc::new(RedisServer::start());
    // The store's idle time and lifetime, the session's own, and what is left of it.
    let rows = [
        (HOUR, DAY, None, None, HOUR),
        (DAY, HOUR, None, None, HOUR),
        (10 * HOUR, 30 * MINUTE, None, None, 30 * MINUTE),
        (HOUR, DAY, Some(10 * MINUTE), None, 10 * MINUTE),
        (HOUR, DAY, Some(3 * HOUR), None, 3 * HOUR),
        (HOUR, DAY, None, Some(30 * MINUTE), 30 * MINUTE),
        (Duration::MAX, Duration::MAX, Some(Duration::MAX), Some(400 * DAY), 400 * DAY),
    ];
    for row in rows {
        for refresh in POLICIES {
            let (ttl, lifetime, own_ttl, own_lifetime, left) = row;
            server.command(&["FLUSHALL"]);
            let store = trial(&server).await.store.ttl(ttl).max_lifetime(lifetime);
            let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
            let own = own_ttl.map(Ttl).into_iter().chain(own_lifetime.map(Lifetime));
            let first: Vec<_> = [Set].into_iter().chain(own).collect();
            let mut cookie = visit(&layer, None, &first).await.cookie().unwrap();
            let end = own_lifetime.unwrap_or(lifetime);
            let mut live = key(&store, &cookie).await;
            let mut entries = HashMap::from([(live.clone(), left)]);
            for does in [Owner, Read, Write, Touch, Renew, Read, Persistent(true), Touch, Clear, Renew, Write] {
                cookie = act(&layer, &cookie, &[does]).await;
                let key = key(&store, &cookie).await;
                if key != live {
                    entries.insert(std::mem::replace(&mut live, key.clone()), HOUR);
                    entries.insert(key, left);
                }
                let found = times(&server);
                assert_eq!(found.len(), entries.len() + 1, "sessions, tombstones and the owner's list");
                for (key, found) in found {
                    let (most, found) = (entries.get(&key).copied().unwrap_or(end), millis(found));
                    assert!(most - MINUTE < found && found <= most, "{key}, {does:?}: {found:?} of {row:?}");
                }
            }
            let saved = store.save(&Session::new()).await.unwrap();
            store.save_with_id(&saved, &Session::new()).await.unwrap();
            let found = millis(server.command(&["PTTL", &format!("cloakroom:{}", saved.key())]).int());
            assert!(!found.is_zero() && found <= ttl.min(lifetime), "{found:?} of {row:?}");
            visit(&layer, Some(&cookie), &[Destroy]).await;
            assert_eq!(server.command(&["EXISTS", &live]).int(), 0);
        }
    }
}

#[tokio::test]
async fn short_times_end_by_themselves() {
    let server = Arc::new(RedisServer::start());
    // Idle time, lifetime, and what is done over and over: the sooner end counts.
    for row in [(100, 100_000, None), (100_000, 300, Some(Read)), (200, 300, Some(Write)), (300, 200, Some(Touch))] {
        let (idle, lifetime, does) = (Duration::from_millis(row.0), Duration::from_millis(row.1), row.2);
        let sooner = idle.min(lifetime);
        let store = trial(&server).await.store.ttl(idle).max_lifetime(lifetime);
        let layer = SessionLayer::builder(store.clone()).refresh(OnLoad).build().unwrap();
        let begun = Instant::now();
        let cookie = visit(&layer, None, &[Set]).await.cookie().unwrap();
        while lives(&store, &cookie).await {
            for (key, left) in times(&server) {
                assert!(left != -1 && millis(left) <= sooner, "{key}: {left} ms of {row:?}");
            }
            if let Some(does) = does {
                visit(&layer, Some(&cookie), &[does]).await;
            }
            assert!(begun.elapsed() < 10 * SECOND, "lives on and on: {row:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(begun.elapsed() + Duration::from_millis(2) >= sooner, "ended too soon: {row:?}");
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(times(&server), [], "Redis itself has forgotten them");
}

#[tokio::test]
async fn a_key_that_stays_for_good_is_a_session_that_ends_all_the_same() {
    let server = Arc::new(RedisServer::start());
    let trial = trial(&server).await;
    let layer = trial.layer(OnWrite);
    let cookie = start(&layer, "alice").await;
    assert_eq!(server.command(&["PERSIST", &key(&trial.store, &cookie).await]).int(), 1);
    trial.ends_in(HOUR, &cookie, "persisted").await;
    assert_eq!(peek(&layer, &cookie, "n").await, None);
}

#[tokio::test]
async fn a_touch_leaves_the_bytes_alone() {
    let server = Arc::new(RedisServer::start());
    let trial = trial(&server).await;
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        let cookie = start(&layer, "alice").await;
        let key = key(&trial.store, &cookie).await;
        let before = server.command(&["DUMP", &key]);
        for _ in 0..2 {
            trial.pass(9 * MINUTE);
            act(&layer, &cookie, &[Touch]).await;
            by_id(&trial.store, &cookie, "touch").await;
            assert_eq!(server.command(&["DUMP", &key]), before, "{refresh:?}");
        }
        server.command(&["DEL", &key]);
        act(&layer, &cookie, &[Touch]).await;
        assert!(!trial.store.touch(id(&cookie)).await.unwrap());
        assert_eq!(server.command(&["EXISTS", &key]).int(), 0, "{refresh:?}: not created");
    }
}
