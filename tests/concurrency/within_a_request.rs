//! A request that overlaps with commits of its own, and handles that go on after a session was found gone.
use std::{sync::Arc, time::Duration};

use cloakroom::{
    Cache, CacheErrorKind, Clock, Entry, Expiry, InMemoryCache, Replaced, Session, SessionError, SessionStore, Version,
    testing::{Operation, TestCache},
};

use crate::support::web::{id, layer, live, peek, send, start};

async fn renew<C: Cache>(layer: &cloakroom::SessionLayer<C>, cookie: &str) -> String {
    let reply = send(layer, Some(cookie), |session| async move {
        session.renew();
        200
    });
    reply.await.cookie().unwrap()
}

/// Call order never cancels a renewal.
#[tokio::test]
async fn a_login_called_while_a_commit_is_under_way_renews() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let gate = cache.hold(Operation::Replace);
    let reply = send(&layer, Some(&cookie), |session| {
        let gate = gate.clone();
        async move {
            session.set("seen", 1).unwrap();
            let begun = session.clone();
            let commit = tokio::spawn(async move { begun.commit().await });
            gate.arrived().await;
            session.renew();
            session.set("user", 42).unwrap();
            gate.open();
            commit.await.unwrap().unwrap();
            200
        }
    })
    .await;
    assert_eq!(peek(&layer, &cookie, "user").await, None, "the ID from before the login is privileged");
    let renewed = reply.cookie().expect("a login gives a new ID");
    assert_eq!(peek(&layer, &renewed, "user").await, Some(42));
    assert_eq!(live(&store, "alice").await, 1);
}

/// Neither does a commit that failed.
#[tokio::test]
async fn a_login_whose_first_commit_failed_renews_with_the_next() {
    for operation in [Operation::Insert, Operation::Replace] {
        let cache = TestCache::new(InMemoryCache::new());
        let store = SessionStore::new(cache.clone());
        let layer = layer(&store);
        let cookie = start(&layer, "alice").await;
        let reply = send(&layer, Some(&cookie), |session| {
            let cache = cache.clone();
            async move {
                session.renew();
                session.set("user", 42).unwrap();
                cache.fail_once(operation, CacheErrorKind::Unavailable);
                assert!(session.commit().await.is_err());
                200
            }
        });
        let renewed = reply.await.cookie().expect("a login gives a new ID");
        assert_eq!(peek(&layer, &cookie, "user").await, None, "the ID from before the login is privileged");
        assert_eq!(peek(&layer, &renewed, "user").await, Some(42));
        assert_eq!(live(&store, "alice").await, 1);
    }
}

/// A cookie that a first commit called for does not go out when the session has ended since.
#[tokio::test]
async fn a_session_that_ends_between_two_commits_of_its_request_gets_no_cookie() {
    for came_with_cookie in [false, true] {
        let store = SessionStore::new(InMemoryCache::new());
        let layer = layer(&store);
        let cookie = if came_with_cookie { Some(start(&layer, "alice").await) } else { None };
        let owner = store.clone();
        let reply = send(&layer, cookie.as_deref(), move |session| {
            let store = owner.clone();
            async move {
                session.renew();
                session.set("seen", 1).unwrap();
                session.commit().await.unwrap();
                assert!(store.revoke(&session.key().unwrap()).await.unwrap());
                session.set("seen", 2).unwrap();
                200
            }
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (200, None));
    }
}

/// A destroy follows the tombstone when the request had loaded the session before it was renewed.
#[tokio::test]
async fn a_logout_after_a_commit_that_found_the_session_renewed_ends_it() {
    let store = SessionStore::new(InMemoryCache::new());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let (inner, sent) = (layer.clone(), cookie.clone());
    let reply = send(&layer, Some(&cookie), move |session| {
        let (layer, cookie) = (inner.clone(), sent.clone());
        async move {
            // A sibling request.
            renew(&layer, &cookie).await;
            session.set("seen", 1).unwrap();
            assert!(matches!(session.commit().await, Err(SessionError::Gone)));
            session.destroy();
            200
        }
    })
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(live(&store, "alice").await, 0, "logged out with success, and lives on");
    assert_eq!(reply.cookie().as_deref(), Some("__Host-id="));
}

/// The same for a handle with a commit of its own.
#[tokio::test]
async fn a_handle_that_found_its_session_renewed_still_destroys_it() {
    let store = SessionStore::new(InMemoryCache::new());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let session = store.load(id(&cookie)).await.unwrap().unwrap();
    renew(&layer, &cookie).await;
    session.set("seen", 1).unwrap();
    assert!(matches!(session.commit().await, Err(SessionError::Gone)));
    session.destroy();
    session.commit().await.unwrap();
    assert_eq!(live(&store, "alice").await, 0, "destroyed with success, and lives on");
}

/// "Detached handles know the session that their request creates or renews": a touch as much as a write.
#[tokio::test]
async fn a_detached_touch_keeps_alive_what_its_request_made() {
    const MINUTE: Duration = Duration::from_secs(60);
    for existing in [true, false] {
        let clock = Clock::manual();
        let cache = InMemoryCache::builder().clock(clock.clone()).build();
        let store = SessionStore::new(cache).clock(clock.clone()).ttl(10 * MINUTE);
        let layer = layer(&store);
        let cookie = if existing { Some(start(&layer, "alice").await) } else { None };
        let handle = Arc::new(std::sync::Mutex::new(None));
        let keep = handle.clone();
        let reply = send(&layer, cookie.as_deref(), move |session| {
            *keep.lock().unwrap() = Some(session.detach());
            session.renew();
            session.set("n", 1).unwrap();
            async { 200 }
        })
        .await;
        let now = reply.cookie().unwrap();
        let later: Session = handle.lock().unwrap().take().unwrap();
        for _ in 0..3 {
            clock.advance(6 * MINUTE);
            later.touch();
            later.commit().await.unwrap();
        }
        assert_eq!(peek(&layer, &now, "n").await, Some(1), "existing {existing}: touched every 6 of 10 minutes");
    }
}

/// A renewal that timed out, and one that did not: the successor of the first has an ID that was told to no client.
#[tokio::test(start_paused = true)]
async fn what_a_renewal_of_unknown_outcome_left_is_no_session_of_the_users() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let gate = cache.hold(Operation::Replace);
    let reply = send(&layer, Some(&cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    gate.open();
    assert_eq!(live(&store, "alice").await, 1, "after the renewal that timed out");
    let renewed = renew(&layer, &cookie).await;
    assert_eq!(live(&store, "alice").await, 1, "after the renewal that did not");
    store.destroy(id(&renewed)).await.unwrap();
    assert_eq!(live(&store, "alice").await, 0, "after the logout");
}

/// A renewal that marked the session and died holds writers up for a moment, and once.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_died_holds_writers_up_for_a_moment() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let key = format!("cloakroom:{}", store.load(id(&cookie)).await.unwrap().unwrap().key().unwrap());
    let entry = cache.get(&key).await.unwrap().unwrap();
    let marked = String::from_utf8(entry.value.to_vec()).unwrap().replace(",\"d\":", ",\"r\":true,\"d\":");
    let expiry = Expiry { idle: Duration::from_secs(60), end: std::time::SystemTime::now() + Duration::from_secs(60) };
    assert!(matches!(
        cache.replace(&key, entry.version, Entry::new(marked.into(), Version::unique()), expiry).await,
        Ok(Replaced::Done)
    ));
    for (n, patience) in [(1, 200..400), (2, 0..1)] {
        let begun = tokio::time::Instant::now();
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
            200
        });
        assert_eq!(reply.await.status, 200);
        assert_eq!(peek(&layer, &cookie, "n").await, Some(n));
        let waited = begun.elapsed().as_millis();
        assert!(patience.contains(&waited), "{waited} ms");
    }
}

/// Its new ID leads nowhere.
#[tokio::test]
async fn a_renewed_session_that_a_reload_finds_ended_sends_no_cookie() {
    let store = SessionStore::new(InMemoryCache::new());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let reply = send(&layer, Some(&cookie), |session| {
        let store = store.clone();
        async move {
            session.renew();
            session.commit().await.unwrap();
            store.revoke_all("alice").await.unwrap();
            assert!(matches!(session.reload().await, Err(SessionError::Gone)));
            200
        }
    })
    .await;
    assert_eq!(reply.cookie(), None);
}
