//! Sessions by their ID without a request, and records that are none.
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, EncodeError, Entry, Expiry, InMemoryCache, Session, SessionError, SessionLayer,
    SessionStore, Version,
    testing::{Operation, TestCache},
};

use crate::support::{
    caches::on_every_cache,
    web::{id, live, send, start},
};

on_every_cache! {
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

async fn an_id_that_was_renewed_away_loads_as_nothing_and_still_ends_the_session<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = SessionLayer::new(store.clone());
    let first = start(&layer, "alice").await;
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    let held = store.load(id(&first)).await.unwrap().unwrap();
    let second = send(&layer, Some(&first), renew).await.cookie().unwrap();
    let third = send(&layer, Some(&second), renew).await.cookie().unwrap();
    for old in [&first, &second] {
        assert!(store.load(id(old)).await.unwrap().is_none());
        assert!(!store.touch(id(old)).await.unwrap());
    }
    held.set("n", 9).unwrap();
    assert!(matches!(store.save_with_id(id(&first), &held).await, Err(SessionError::Gone)));
    assert!(store.load(id(&third)).await.unwrap().is_some());
    store.destroy(id(&first)).await.unwrap();
    assert!(store.load(id(&third)).await.unwrap().is_none(), "through two tombstones");
    assert_eq!(live(&store, "alice").await, 0);
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
    // A tombstone in the wrong place does not lead a logout to the session of another user.
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
    // A loaded session that was not changed.
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
