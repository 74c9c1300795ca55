//! The store on its own: sessions by their ID, records that are none, and nothing secret in any log.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    fmt::Write as _,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, Entry, Expiry, InMemoryCache, Session, SessionError, SessionLayer, SessionStore,
    EncodeError, Version,
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
    an_id_that_was_renewed_away_loads_as_nothing_and_still_ends_the_session,
    a_record_under_anothers_key_leads_nowhere,
    a_record_over_the_limit_is_not_read_and_stays,
    too_much_at_the_commit_is_an_error_and_nothing_is_written,
    what_a_session_decided_for_itself_is_saved_with_it,
    saving_a_loaded_session_elsewhere_leaves_it_as_it_was,
    a_cache_that_hangs_is_an_error_within_the_deadline,
    nothing_is_stored_by_what_stores_nothing,
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
        Bytes::from(text.replace("\"v\":2", "\"v\":0")),
        Bytes::from(text.replace("\"v\":2", "\"v\":255")),
        // Another's.
        good[1].1.value.clone(),
        Bytes::from(vec![b' '; 70_000]),
    ];
    let layer = SessionLayer::new(store.clone());
    for record in records {
        let id = store.save(&Session::new()).await.unwrap();
        let version = cache.get(&name(&id)).await.unwrap().unwrap().version;
        let held = store.load(&id).await.unwrap().unwrap();
        let _ =
            cache.replace(&name(&id), version, Entry::new(record.clone(), Version::unique()), expiry).await.unwrap();
        assert!(store.load(&id).await.unwrap().is_none(), "{record:?}");
        held.set("n", 1).unwrap();
        assert!(matches!(held.commit().await, Err(SessionError::Gone)));
        let cookie = format!("__Host-id={}", id.as_ref());
        for does in [Session::touch, Session::renew, Session::clear] {
            let reply = send(&layer, Some(&cookie), move |session| async move {
                assert!(session.is_new());
                does(&session);
                200
            })
            .await;
            assert_eq!((reply.status, reply.cookie()), (200, None));
        }
        assert!(!store.touch(&id).await.unwrap());
        assert!(store.save_with_id(&id, &Session::new()).await.is_err());
        assert_eq!(cache.get(&name(&id)).await.unwrap().unwrap().value, record, "byte for byte");
        // To end it takes its version, not its content: the session may live on for another version of this crate.
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.destroy();
            200
        })
        .await;
        assert!(reply.cookie().is_some_and(|cookie| cookie == "__Host-id="), "removed");
        assert!(cache.get(&name(&id)).await.unwrap().is_none(), "ended");
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
    assert!(matches!(session.set("n", f64::NAN), Err(SessionError::Encode(EncodeError::NonFinite))));
    assert!(matches!(session.set("n", u128::MAX), Err(SessionError::Encode(EncodeError::Range))));
    let tuples = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(session.set("n", tuples), Err(SessionError::Encode(EncodeError::Other(_)))));
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

async fn an_id_that_was_renewed_away_loads_as_nothing_and_still_ends_the_session<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = SessionLayer::new(store.clone());
    let first = start(&layer, "alice").await;
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    let held = store.load(id_of(&first)).await.unwrap().unwrap();
    let second = send(&layer, Some(&first), renew).await.cookie().unwrap();
    let third = send(&layer, Some(&second), renew).await.cookie().unwrap();
    for old in [&first, &second] {
        assert!(store.load(id_of(old)).await.unwrap().is_none());
        assert!(!store.touch(id_of(old)).await.unwrap());
    }
    held.set("n", 9).unwrap();
    assert!(matches!(store.save_with_id(id_of(&first), &held).await, Err(SessionError::Gone)));
    assert!(store.load(id_of(&third)).await.unwrap().is_some());
    store.destroy(id_of(&first)).await.unwrap();
    assert!(store.load(id_of(&third)).await.unwrap().is_none(), "through two tombstones");
    assert_eq!(live(&store, "alice").await, 0);
}

fn id_of(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1
}

/// Puts these bytes under the key of `id`.
async fn plant<C: Cache>(cache: &C, id: &cloakroom::SessionId, value: Bytes) {
    let name = format!("cloakroom:{}", id.key());
    let expiry = Expiry { idle: Duration::from_secs(60), end: SystemTime::now() + Duration::from_secs(60) };
    if let Some(entry) = cache.get(&name).await.unwrap() {
        assert_eq!(cache.delete(&name, entry.version).await.unwrap(), cloakroom::Deleted::Done);
    }
    assert!(cache.insert(&name, Entry::new(value, Version::unique()), expiry).await.unwrap());
}

async fn a_record_under_anothers_key_leads_nowhere<C: Cache>(cache: C) {
    let cache = Arc::new(cache);
    let store = SessionStore::new(cache.clone());
    let name = |id: &cloakroom::SessionId| format!("cloakroom:{}", id.key());
    let mut ids = Vec::new();
    for user in 0..2 {
        let session = Session::new();
        session.set("user", user).unwrap();
        ids.push(store.save(&session).await.unwrap());
    }
    let [a, b] = [&ids[0], &ids[1]];
    let values = [cache.get(&name(a)).await.unwrap().unwrap().value, cache.get(&name(b)).await.unwrap().unwrap().value];
    plant(&cache, a, values[1].clone()).await;
    plant(&cache, b, values[0].clone()).await;
    assert!(store.load(a).await.unwrap().is_none() && store.load(b).await.unwrap().is_none(), "swapped");
    // A tombstone in the wrong place does not lead a logout to somebody else's session.
    plant(&cache, b, values[1].clone()).await;
    let next = |own: &cloakroom::SessionId| format!(r#"{{"v":2,"k":"{}","n":"{}","t":1}}"#, own.key(), b.key());
    let elsewhere = store.save(&Session::new()).await.unwrap();
    plant(&cache, a, next(&elsewhere).into()).await;
    store.destroy(a).await.unwrap();
    assert!(store.load(b).await.unwrap().is_some());
    plant(&cache, a, next(a).into()).await;
    store.destroy(a).await.unwrap();
    assert!(store.load(b).await.unwrap().is_none(), "in its place it does");
}

async fn a_record_over_the_limit_is_not_read_and_stays<C: Cache>(cache: C) {
    let cache = Arc::new(cache);
    let (large, small) = (SessionStore::new(cache.clone()), SessionStore::new(cache.clone()).max_bytes(1000));
    let session = Session::new();
    session.set("text", "x".repeat(2000)).unwrap();
    let id = large.save(&session).await.unwrap();
    assert!(small.load(&id).await.unwrap().is_none());
    assert!(matches!(small.save(&session).await, Err(SessionError::TooLarge { limit: 1000, .. })));
    assert!(small.save_with_id(&id, &Session::new()).await.is_err());
    assert_eq!(large.load(&id).await.unwrap().unwrap().get("text"), Some("x".repeat(2000)));
    small.destroy(&id).await.unwrap();
    assert!(large.load(&id).await.unwrap().is_none(), "ended by its version");
}

async fn too_much_at_the_commit_is_an_error_and_nothing_is_written<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).max_bytes(1000);
    let new = Session::new();
    for key in ["a", "b", "c"] {
        new.set(key, "x".repeat(400)).unwrap();
    }
    assert!(matches!(store.save(&new).await, Err(SessionError::TooLarge { .. })));
    let session = Session::new();
    session.set("a", "x".repeat(400)).unwrap();
    let id = store.save(&session).await.unwrap();
    let loaded = store.load(&id).await.unwrap().unwrap();
    loaded.set("b", "x".repeat(400)).unwrap();
    loaded.set("c", "x".repeat(400)).unwrap();
    assert!(matches!(loaded.commit().await, Err(SessionError::TooLarge { limit: 1000, .. })));
    assert_eq!(store.load(&id).await.unwrap().unwrap().keys(), ["a"]);
    assert!(loaded.is_dirty(), "the changes are still there");
    loaded.remove("a");
    loaded.remove("c");
    loaded.commit().await.unwrap();
    assert_eq!(store.load(&id).await.unwrap().unwrap().keys(), ["b"]);
}

async fn what_a_session_decided_for_itself_is_saved_with_it<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let session = Session::new();
    session.set_owner("alice").unwrap();
    session.set_persistent(true).unwrap();
    session.set_ttl(Duration::from_secs(60)).unwrap();
    let first = store.save(&session).await.unwrap();
    let loaded = store.load(&first).await.unwrap().unwrap();
    assert_eq!(loaded.owner().as_deref(), Some("alice"));
    let second = store.save(&loaded).await.unwrap();
    assert_eq!(store.load(&second).await.unwrap().unwrap().owner().as_deref(), Some("alice"));
    assert_eq!(live(&store, "alice").await, 2, "saved twice, it is two sessions");
    store.destroy(&first).await.unwrap();
    assert_eq!(live(&store, "alice").await, 1);
}

async fn saving_a_loaded_session_elsewhere_leaves_it_as_it_was<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let session = Session::new();
    session.set("n", 1).unwrap();
    let id = store.save(&session).await.unwrap();
    let loaded = store.load(&id).await.unwrap().unwrap();
    loaded.set("n", 2).unwrap();
    let copy = store.save(&loaded).await.unwrap();
    assert_eq!(store.load(&copy).await.unwrap().unwrap().get("n"), Some(2));
    assert_eq!(store.load(&id).await.unwrap().unwrap().get("n"), Some(1));
    let absent = "A".repeat(32);
    store.save_with_id(&absent, &loaded).await.unwrap();
    assert_eq!(store.load(&absent).await.unwrap().unwrap().get("n"), Some(2));
    assert!(loaded.is_dirty(), "the handle stays as it is");
    assert_eq!(loaded.key(), Some(id.key()));
    store.save_with_id(&id, &loaded).await.unwrap();
    assert_eq!(store.load(&id).await.unwrap().unwrap().get("n"), Some(2));
}

async fn a_cache_that_hangs_is_an_error_within_the_deadline<C: Cache>(cache: C) {
    let cache = TestCache::new(cache);
    let patient = SessionStore::new(cache.clone()).deadline(Duration::from_secs(20));
    let id = patient.save(&Session::new()).await.unwrap();
    let store = SessionStore::new(cache.clone()).deadline(Duration::from_millis(30));
    let session = Session::new();
    session.set("n", 1).unwrap();
    let begun = std::time::Instant::now();
    for (row, operation) in [
        Operation::Get,
        Operation::Insert,
        Operation::Get,
        Operation::Get,
        Operation::GetAndTouch,
        Operation::Ping,
        Operation::List,
    ]
    .into_iter()
    .enumerate()
    {
        let gate = cache.hold(operation);
        // Boxed one by one: without optimization, all of them in one future take more stack than a test has.
        let call: Pin<Box<dyn Future<Output = Option<SessionError>> + '_>> = match row {
            0 => Box::pin(async { store.load(&id).await.err() }),
            1 => Box::pin(async { store.save(&session).await.err() }),
            2 => Box::pin(async { store.save_with_id(&id, &session).await.err() }),
            3 => Box::pin(async { store.destroy(&id).await.err() }),
            4 => Box::pin(async { store.touch(&id).await.err() }),
            5 => Box::pin(async { store.ping().await.err() }),
            _ => Box::pin(async { store.sessions_of("alice").await.err() }),
        };
        let error = tokio::time::timeout(Duration::from_secs(5), call).await.expect("an end");
        let kind = error.as_ref().and_then(SessionError::cache_kind);
        assert_eq!(kind, Some(CacheErrorKind::Timeout), "row {row}: {error:?}");
        gate.open();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

async fn nothing_is_stored_by_what_stores_nothing<C: Cache>(cache: C) {
    let cache = TestCache::new(cache);
    let store = SessionStore::new(cache.clone());
    let session = Session::new();
    session.set("n", 1).unwrap();
    session.touch();
    session.renew();
    session.destroy();
    assert!(matches!(session.commit().await, Err(SessionError::NoStore)));
    assert!(matches!(session.revoke_others().await, Err(SessionError::NoStore)));
    let absent = "A".repeat(32);
    assert!(store.load(&absent).await.unwrap().is_none());
    assert!(!store.touch(&absent).await.unwrap());
    store.destroy(&absent).await.unwrap();
    let calls = cache.calls();
    assert_eq!(calls.total(), calls.of(Operation::Get) + calls.of(Operation::GetAndTouch), "{calls:?}");
    // A loaded session that nobody changed.
    let id = store.save(&session).await.unwrap();
    let loaded = store.load(&id).await.unwrap().unwrap();
    cache.reset_calls();
    loaded.set("n", 1).unwrap();
    loaded.commit().await.unwrap();
    assert_eq!(cache.calls().total(), 0);
    // A detached handle cannot tell the browser of a new ID.
    loaded.renew();
    assert!(matches!(loaded.commit().await, Err(SessionError::RenewDetached)));
}

/// What every target of every level says, spans included.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Everything {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_is_logged_or_shown_with_redis_and_its_password() {
    let log = Everything::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let server = RedisServer::start_with(&["--requirepass", "canary-password"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut secrets = vec!["canary-password".to_owned(), "canary-value".to_owned()];
    let mut shown = String::new();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let url = server.url().replace("redis://", "redis://:canary-password@");
            let settings = cloakroom::RedisCache::builder(&url).timeout(Duration::from_secs(10));
            write!(shown, "{settings:?} {settings:#?}").unwrap();
            let cache = Arc::new(settings.build().await.unwrap());
            let wrong = server.url().replace("redis://", "redis://:canary-password-not@");
            let refused = cloakroom::RedisCache::connect(&wrong).await.err().unwrap();
            write!(shown, "{cache:?} {cache:#?} {refused} {refused:?} {refused:#?}").unwrap();
            let source = std::error::Error::source(&refused).map(|source| format!("{source} {source:?}"));
            write!(shown, "{source:?}").unwrap();
            let store = SessionStore::new(cache.clone()).deadline(Duration::from_secs(10));
            let layer = SessionLayer::new(store.clone());
            for status in [200, 500] {
                let mut cookie = start(&layer, "alice").await;
                for does in 0..4 {
                    secrets.push(id_of(&cookie).to_owned());
                    let session = store.load(id_of(&cookie)).await.unwrap();
                    secrets.extend(session.as_ref().and_then(Session::key).map(|key| key.to_string()));
                    write!(shown, "{session:?} {session:#?}").unwrap();
                    let reply = send(&layer, Some(&cookie), move |session| async move {
                        session.set("data", "canary-value").unwrap();
                        let _ = session.get::<u64>("data");
                        match does {
                            1 => session.renew(),
                            2 => drop(session.detach().commit().await),
                            3 => session.destroy(),
                            _ => {}
                        }
                        status
                    })
                    .await;
                    write!(shown, "{reply:?}").unwrap();
                    cookie = reply.cookie().filter(|cookie| !cookie.ends_with('=')).unwrap_or(cookie);
                }
            }
            // Of another type, and a server that says no: Redis repeats arguments in its errors.
            let id = store.save(&Session::new()).await.unwrap();
            secrets.extend([id.as_ref().to_owned(), id.key().to_string()]);
            let key = format!("cloakroom:{}", id.key());
            for command in [&["DEL", &key][..], &["LPUSH", &key, "canary-value"]] {
                assert!(authenticated(&server, command), "{command:?}");
            }
            let error = store.load(&id).await;
            write!(shown, "{error:?}").unwrap();
            let reply = send(&layer, Some(&format!("__Host-id={}", id.as_ref())), |_| async { 200 }).await;
            write!(shown, "{reply:?}").unwrap();
        });
    });
    drop(server);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("session created") && log.contains("session renewed") && log.contains("session destroyed"));
    for secret in &secrets {
        assert!(!log.contains(&**secret), "{secret} was logged");
        // A `SessionKey` may be shown: it is no ticket.
        assert!(secret.len() == 43 || !shown.contains(&**secret), "{secret} was shown");
    }
}

/// A command on a connection that knows the password.
fn authenticated(server: &RedisServer, command: &[&str]) -> bool {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let text = |args: &[&str]| {
        let parts: String = args.iter().map(|arg| format!("${}\r\n{arg}\r\n", arg.len())).collect();
        format!("*{}\r\n{parts}", args.len())
    };
    let request = text(&["AUTH", "canary-password"]) + &text(command) + &text(&["QUIT"]);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("+OK\r\n:1\r\n")
}

#[tokio::test]
async fn debug_of_everything_public_is_free_of_secrets() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let session = Session::new();
    session.set("canary-key", "canary-value").unwrap();
    let id = store.save(&session).await.unwrap();
    let key = format!("cloakroom:{}", id.key());
    let entry = cache.get(&key).await.unwrap().unwrap();
    let version = cloakroom::Version::unique();
    let builder = SessionLayer::builder(store.clone());
    #[cfg(feature = "signed")]
    let builder = builder.signing_keys([cloakroom::SigningKey::from_bytes(&[b'c'; 64]).unwrap()]);
    let mut shown = vec![format!("{builder:?} {builder:#?}")];
    let layer = builder.build().unwrap();
    let service = tower::Layer::layer(
        &layer,
        tower::service_fn(|request: http::Request<()>| async move {
            let lazy = request.extensions().get::<cloakroom::LazySession>().unwrap();
            let before = format!("{lazy:?} {lazy:#?}");
            lazy.load().await.unwrap().get::<String>("canary-key");
            Ok::<_, std::convert::Infallible>(http::Response::new(format!("{before} {lazy:?} {lazy:#?}")))
        }),
    );
    let cookie = format!("__Host-id={}", id.as_ref());
    let request = http::Request::get("/").header(http::header::COOKIE, cookie).body(()).unwrap();
    let mut ready = service.clone();
    let future = tower::Service::call(&mut ready, request);
    shown.push(format!("{future:?} {layer:?} {layer:#?} {store:?} {store:#?}"));
    shown.push(future.await.unwrap().into_body());
    let missing = cache.delete(&key, version).await.unwrap();
    let conflict = cache
        .replace(
            &key,
            version,
            Entry::new(Bytes::new(), Version::unique()),
            Expiry::new(Duration::MAX, SystemTime::now()),
        )
        .await;
    shown.push(format!("{entry:?} {entry:#?} {missing:?} {conflict:?} {:?}", store.load(&id).await));
    shown.push(format!("{session:?} {session:#?} {id:?} {id:#?} {cache:?} {:?} {:#?}", cache.inner(), cache.inner()));
    shown.push(format!("{:?} {:?}", cloakroom::BoxedCache::new(InMemoryCache::new()), InMemoryCache::builder()));
    session.set("n", 1).unwrap();
    let errors = [
        session.set("canary-key", f64::NAN).unwrap_err(),
        session.set("canary-key", "canary-value".repeat(10_000)).unwrap_err(),
        session.set("canary-key".repeat(100), 1).unwrap_err(),
        session.commit().await.unwrap_err(),
        store.save_with_id("canary-value", &session).await.unwrap_err(),
    ];
    shown.extend(errors.iter().map(|error| format!("{error} {error:?} {error:#?}")));
    for shown in shown {
        for secret in ["canary", id.as_ref(), "cccccccc", "99, 99, 99"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

#[test]
fn an_error_of_another_type_does_not_quote_the_value() {
    let session = Session::new();
    session.set("canary-key", "canary-value").unwrap();
    for error in [
        session.try_get::<u64>("canary-key").unwrap_err(),
        session.take::<u64>("canary-key").unwrap_err(),
        session.update("canary-key", |n: Option<u64>| n.unwrap_or_default()).unwrap_err(),
    ] {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let shown = format!("{error} {error:?} {error:#?} {source:?}");
        assert!(shown.contains("canary-key") && !shown.contains("canary-value"), "{shown}");
    }
}
