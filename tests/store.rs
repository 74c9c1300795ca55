//! The store on its own: sessions by their ID, records that are none, and nothing secret in any log.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, Expiry, InMemoryCache, Session, SessionError, SessionLayer, SessionStore, Unfit,
    testing::{Operation, TestCache},
};
use tracing_subscriber::{layer::SubscriberExt, registry::LookupSpan};

#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/web.rs"]
mod web;

use redis_server::RedisServer;
use web::{live, send, start};

macro_rules! on_both_caches {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::InMemoryCache::new()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::RedisServer::start();
                super::$name(super::redis_server::patient(&server).await).await;
            })*
        }
    };
}

on_both_caches! {
    saved_loaded_changed_destroyed,
    saving_under_an_id,
    what_loads_as_nothing,
    records_that_are_none_are_left_alone,
    stores_with_other_prefixes_are_apart,
    values_that_would_not_come_back_are_refused,
    an_outage_is_no_absence,
}

async fn saved_loaded_changed_destroyed<C: Cache>(cache: C) {
    let cache = Arc::new(cache);
    let (here, there) = (SessionStore::new(cache.clone()), SessionStore::new(cache));
    let session = Session::new();
    session.set("user", 42).unwrap();
    assert!(matches!(session.commit().await, Err(SessionError::NoStore)));
    let id = here.save(&session).await.unwrap();
    assert_ne!(id, here.save(&session).await.unwrap(), "a fresh ID each time");

    let found = there.load(&id).await.unwrap().unwrap();
    assert_eq!((found.get("user"), found.key(), found.is_new()), (Some(42), Some(id.key()), false));
    found.update("user", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
    found.commit().await.unwrap();
    assert!(!found.is_dirty());
    assert_eq!(here.load(id.as_ref()).await.unwrap().unwrap().get("user"), Some(43));
    assert!(here.touch(&id).await.unwrap());

    there.destroy(&id).await.unwrap();
    there.destroy(&id).await.unwrap();
    assert!(here.load(&id).await.unwrap().is_none());
    assert!(!here.touch(&id).await.unwrap());
    found.set("user", 44).unwrap();
    assert!(matches!(found.commit().await, Err(SessionError::Gone)));
    assert!(here.load(&id).await.unwrap().is_none());
    here.ping().await.unwrap();
}

async fn saving_under_an_id<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let session = Session::new();
    session.set("n", 1).unwrap();
    for bad in ["", "short", "has spaces has spaces has spaces", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        assert!(matches!(store.save_with_id(bad, &session).await, Err(SessionError::InvalidId)), "{bad}");
    }
    // Brought over from elsewhere.
    let id = "brought-over-from-elsewhere-0123";
    store.save_with_id(id, &session).await.unwrap();
    let (one, other) = (store.load(id).await.unwrap().unwrap(), store.load(id).await.unwrap().unwrap());
    // Its own ID: a commit, that merges.
    one.set("one", 1).unwrap();
    other.set("other", 1).unwrap();
    store.save_with_id(id, &one).await.unwrap();
    store.save_with_id(id, &other).await.unwrap();
    assert_eq!(store.load(id).await.unwrap().unwrap().keys(), ["n", "one", "other"]);
    // Another live session: written over.
    let target = store.save(&Session::new()).await.unwrap();
    store.save_with_id(&target, &session).await.unwrap();
    assert_eq!(store.load(&target).await.unwrap().unwrap().keys(), ["n"]);
    // Ended meanwhile.
    one.set("one", 2).unwrap();
    store.destroy(id).await.unwrap();
    assert!(matches!(store.save_with_id(id, &one).await, Err(SessionError::Gone)));
    // A tombstone.
    let layer = SessionLayer::new(store.clone());
    let cookie = start(&layer, "alice").await;
    send(&layer, Some(&cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    let old = cookie.split_once('=').unwrap().1;
    assert!(matches!(store.save_with_id(old, &session).await, Err(SessionError::Gone)));
    assert_eq!(live(&store, "alice").await, 1);
}

async fn what_loads_as_nothing<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let id = store.save(&Session::new()).await.unwrap();
    let key = id.key().to_string();
    for text in ["", "x", &key, &"A".repeat(32), &format!("{} ", id.as_ref()), &format!("cloakroom:{key}")] {
        assert!(store.load(text).await.unwrap().is_none(), "{text}");
        assert!(!store.touch(text).await.unwrap());
        store.destroy(text).await.unwrap();
    }
    assert!(store.load(&id).await.unwrap().is_some());
}

async fn records_that_are_none_are_left_alone<C: Cache>(cache: C) {
    let cache = Arc::new(cache);
    let store = SessionStore::new(cache.clone());
    let expiry = Expiry { idle: Duration::from_secs(60), end: SystemTime::now() + Duration::from_secs(60) };
    let name = |id: &cloakroom::SessionId| format!("cloakroom:{}", id.key());
    let mut good = Vec::new();
    for user in 0..2 {
        let session = Session::new();
        session.set("user", user).unwrap();
        let id = store.save(&session).await.unwrap();
        let entry = cache.get(&name(&id)).await.unwrap().unwrap();
        good.push((id, entry));
    }
    let text = String::from_utf8(good[0].1.value.to_vec()).unwrap();
    let records = [
        Bytes::new(),
        Bytes::from_static(b"\xff\xfe random"),
        Bytes::from_static(b"{}"),
        Bytes::from_static(b"[1,2,3]"),
        Bytes::from(text[..text.len() - 1].to_owned()),
        Bytes::from(text.replace("\"v\":1", "\"v\":0")),
        Bytes::from(text.replace("\"v\":1", "\"v\":255")),
        // Another's.
        good[1].1.value.clone(),
        Bytes::from(vec![b' '; 70_000]),
    ];
    let layer = SessionLayer::new(store.clone());
    for record in records {
        let id = store.save(&Session::new()).await.unwrap();
        let version = cache.get(&name(&id)).await.unwrap().unwrap().version;
        let held = store.load(&id).await.unwrap().unwrap();
        let _ = cache.replace(&name(&id), version, record.clone(), expiry).await.unwrap();
        assert!(store.load(&id).await.unwrap().is_none(), "{record:?}");
        held.set("n", 1).unwrap();
        assert!(matches!(held.commit().await, Err(SessionError::Gone)));
        let cookie = format!("__Host-id={}", id.as_ref());
        for does in [Session::touch, Session::renew, Session::destroy, Session::clear] {
            let reply = send(&layer, Some(&cookie), move |session| async move {
                assert!(session.is_new());
                does(&session);
                200
            })
            .await;
            assert_eq!((reply.status, reply.cookie()), (200, None));
        }
        store.destroy(&id).await.unwrap();
        assert!(!store.touch(&id).await.unwrap());
        assert!(store.save_with_id(&id, &Session::new()).await.is_err());
        assert_eq!(cache.get(&name(&id)).await.unwrap().unwrap().value, record, "byte for byte");
    }
}

async fn stores_with_other_prefixes_are_apart<C: Cache>(cache: C) {
    let cache = Arc::new(cache);
    let (one, other) =
        (SessionStore::new(cache.clone()).key_prefix("one:"), SessionStore::new(cache).key_prefix("other:"));
    let id = one.save(&Session::new()).await.unwrap();
    assert!(other.load(&id).await.unwrap().is_none());
    other.destroy(&id).await.unwrap();
    assert!(one.load(&id).await.unwrap().is_some());
}

async fn values_that_would_not_come_back_are_refused<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let id = store.save(&Session::new()).await.unwrap();
    let session = store.load(&id).await.unwrap().unwrap();
    session.set("n", 1.5).unwrap();
    assert!(matches!(session.set("n", f64::NAN), Err(SessionError::Encode(Unfit::NonFinite))));
    assert!(matches!(session.set("n", u128::MAX), Err(SessionError::Encode(Unfit::Range))));
    let tuples = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(session.set("n", tuples), Err(SessionError::Encode(Unfit::Other(_)))));
    assert!(matches!(session.set("n", "x".repeat(70_000)), Err(SessionError::TooLarge { .. })));
    assert!(matches!(session.set("k".repeat(257), 1), Err(SessionError::KeyTooLong { length: 257 })));
    assert!(matches!(session.try_get::<String>("n"), Err(SessionError::Decode(_))));
    assert!(matches!(session.take::<String>("n"), Err(SessionError::Decode(_))));
    assert_eq!(session.get::<String>("n"), None);
    session.commit().await.unwrap();
    assert_eq!(store.load(&id).await.unwrap().unwrap().get("n"), Some(1.5));
}

async fn an_outage_is_no_absence<C: Cache>(cache: C) {
    let cache = TestCache::new(cache);
    let store = SessionStore::new(cache.clone());
    let id = store.save(&Session::new()).await.unwrap();
    cache.fail_all(CacheErrorKind::Refused);
    for error in [
        store.load(&id).await.err(),
        store.save(&Session::new()).await.err(),
        store.destroy(&id).await.err(),
        store.touch(&id).await.err(),
        store.ping().await.err(),
        store.sessions_of("alice").await.err(),
    ] {
        assert_eq!(error.unwrap().cache_kind(), Some(CacheErrorKind::Refused));
    }
    cache.heal();
    assert!(store.load(&id).await.unwrap().is_some());
}

#[tokio::test]
async fn randomness_that_fails_or_repeats_makes_no_shared_session() {
    let store = SessionStore::new(InMemoryCache::new()).random(|bytes| {
        bytes.fill(7);
        Ok(())
    });
    let first = store.save(&Session::new()).await.unwrap();
    assert!(matches!(store.save(&Session::new()).await, Err(SessionError::Random)));
    assert!(store.load(&first).await.unwrap().is_some());
    let broken = SessionStore::new(InMemoryCache::new()).random(|_| Err(SessionError::Random));
    let layer = SessionLayer::new(broken);
    let reply = send(&layer, None, |session| async move { session.set("n", 1).map_or(500, |()| 200) }).await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
}

/// Writes down every event of every level and target.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Visit<'a>(&'a mut String);
        impl tracing::field::Visit for Visit<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut log = self.0.lock().unwrap();
        write!(log, "\n{}", event.metadata().level()).unwrap();
        event.record(&mut Visit(&mut log));
    }
}

#[test]
fn no_log_and_no_debug_shows_a_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut secrets = vec!["canary".to_owned()];
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let cache = TestCache::new(InMemoryCache::new());
            let store = SessionStore::new(cache.clone());
            let layer = SessionLayer::new(store.clone());
            let mut shown = String::new();
            for fails in [None, Some(Operation::Replace), Some(Operation::Get), Some(Operation::Delete)] {
                let cookie = start(&layer, "alice").await;
                secrets.push(cookie.split_once('=').unwrap().1.to_owned());
                for session in store.sessions_of("alice").await.unwrap() {
                    secrets.push(session.key().to_string());
                    write!(shown, "{session:?}{session:#?}").unwrap();
                }
                for does in 0..5 {
                    if let Some(operation) = fails {
                        cache.fail_once(operation, CacheErrorKind::Unavailable);
                    }
                    let reply = send(&layer, Some(&cookie), move |session| async move {
                        session.set("data", "canary").unwrap();
                        let _ = session.get::<u64>("data");
                        match does {
                            0 => {}
                            1 => session.renew(),
                            2 => session.destroy(),
                            3 => drop(session.commit().await),
                            _ => return 500,
                        }
                        session.set("data", format!("{session:?}{session:#?}")).unwrap();
                        200
                    })
                    .await;
                    secrets.extend(reply.cookie().and_then(|cookie| Some(cookie.split_once('=')?.1.to_owned())));
                    write!(shown, "{:?}", reply.headers).unwrap();
                }
                send(&layer, Some("__Host-id=canary\u{e9}"), |_| async { 200 }).await;
                cache.heal();
            }
            let id = store.save(&Session::new()).await.unwrap();
            secrets.push(id.as_ref().to_owned());
            write!(shown, "{store:?}{layer:?}{cache:?}{id:?}{:?}{:#?}", id.key(), store.load(&id).await).unwrap();
            let entry = cache.get(&format!("cloakroom:{}", id.key())).await.unwrap();
            write!(shown, "{entry:?}{:?}", store.load("x").await).unwrap();
            log.0.lock().unwrap().push_str(&shown);
        });
    });
    let log = log.0.lock().unwrap();
    for event in ["session created", "session renewed", "session destroyed"] {
        assert!(log.contains(event), "{event}");
    }
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!log.contains(secret.as_str()), "{secret} in {log}");
    }
}
