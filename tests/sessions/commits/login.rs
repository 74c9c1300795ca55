//! Logins, and requests that count as failed.
use std::time::Duration;

use cloakroom::{Cache, Clock, SessionError, testing::Operation};

use crate::{
    commits::stage::{Stage, add},
    support::{caches::on_every_cache, web::send},
};

on_every_cache! {
    a_login_restarts_the_lifetime_and_a_renewal_does_not,
    a_login_takes_back_what_an_earlier_one_was_granted,
    a_login_drops_the_data_of_another_owner,
    a_login_drops_the_data_of_an_owner_that_only_the_commit_finds,
    a_login_notes_its_time,
    a_login_on_a_detached_handle_is_refused,
    a_login_is_kept_after_a_failed_commit,
    a_request_that_failed_stores_nothing,
    a_request_that_failed_still_logs_out,
}

const MINUTE: Duration = Duration::from_secs(60);

async fn a_login_restarts_the_lifetime_and_a_renewal_does_not(cache: impl Cache) {
    let clock = Clock::manual();
    let mut stage = Stage::with(cache, |store| store.clock(clock.clone()).max_lifetime(60 * MINUTE)).await;
    for log_in in [true, false] {
        stage.again().await;
        let created = stage.stored().await.created_at().unwrap();
        let before = stage.stored().await.expires_at().unwrap();
        clock.advance(50 * MINUTE);
        let reply = stage.request(|session| {
            if log_in {
                session.log_in("alice").unwrap();
            } else {
                session.renew();
            }
            async { 200 }
        });
        let cookie = reply.await.cookie().unwrap();
        let stored = stage.by(&cookie).await.unwrap();
        let moved = stored.expires_at().unwrap().duration_since(before).unwrap();
        assert_eq!(stored.created_at().unwrap(), created);
        if log_in {
            assert!(moved >= 50 * MINUTE && moved < 51 * MINUTE, "{moved:?}");
        } else {
            assert!(moved.is_zero(), "{moved:?}");
        }
        clock.advance(20 * MINUTE);
        assert_eq!(stage.by(&cookie).await.is_some(), log_in);
    }
}

async fn a_login_takes_back_what_an_earlier_one_was_granted(cache: impl Cache) {
    let mut stage = Stage::with(cache, |store| store.max_lifetime(60 * MINUTE)).await;
    for owner in ["alice", "bob"] {
        stage.again().await;
        for (owner, remembered) in [("alice", true), (owner, false)] {
            let reply = stage.request(|session| {
                session.log_in(owner).unwrap();
                if remembered {
                    session.set_lifetime(600 * MINUTE).unwrap();
                }
                async { 200 }
            });
            stage.cookie = reply.await.cookie().unwrap();
            let end = stage.stored().await.expires_at().unwrap();
            let left = end.duration_since(std::time::SystemTime::now()).unwrap();
            assert_eq!(left > 60 * MINUTE, remembered, "{owner}: {left:?}");
        }
    }
}

async fn a_login_drops_the_data_of_another_owner(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (owner, keeps) in [(Some("alice"), true), (Some("bob"), false), (None, true)] {
        stage.again().await;
        stage
            .elsewhere(move |session| {
                session.set("cart", 1).unwrap();
                match owner {
                    Some(owner) => session.set_owner(owner).unwrap(),
                    None => session.clear_owner().unwrap(),
                }
            })
            .await;
        let reply = stage.request(|session| {
            session.set("before", 1).unwrap();
            session.update("n", add).unwrap();
            session.log_in("alice").unwrap();
            assert_eq!(session.contains_key("cart"), keeps);
            assert_eq!(session.owner().as_deref(), Some("alice"));
            session.set("after", 1).unwrap();
            async { 200 }
        });
        let cookie = reply.await.cookie().unwrap();
        let stored = stage.by(&cookie).await.unwrap();
        let keys: &[&str] = if keeps { &["after", "before", "cart", "n"] } else { &["after"] };
        assert_eq!(stored.keys(), keys, "{owner:?}");
        assert_eq!(stored.owner().as_deref(), Some("alice"));
        assert!(stage.by(&stage.cookie).await.is_none());
        assert_eq!(stage.live("bob").await, 0);
    }
}

async fn a_login_drops_the_data_of_an_owner_that_only_the_commit_finds(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (owner, keeps) in [("alice", true), ("bob", false)] {
        stage.again().await;
        stage.elsewhere(|session| session.clear_owner().unwrap()).await;
        let reply = stage.request(|session| {
            session.set("before", 1).unwrap();
            session.log_in("alice").unwrap();
            session.update("after", add).unwrap();
            let stage = &stage;
            async move {
                // Another request gave the session an owner, and data, meanwhile.
                stage
                    .elsewhere(move |other| {
                        other.set_owner(owner).unwrap();
                        other.set("theirs", 1).unwrap();
                    })
                    .await;
                200
            }
        });
        let cookie = reply.await.cookie().unwrap();
        let stored = stage.by(&cookie).await.unwrap();
        let keys: &[&str] = if keeps { &["after", "before", "n", "theirs"] } else { &["after"] };
        assert_eq!(stored.keys(), keys, "{owner}");
        assert_eq!(stored.owner().as_deref(), Some("alice"));
    }
}

async fn a_login_notes_its_time(cache: impl Cache) {
    let clock = Clock::manual();
    let stage = Stage::with(cache, |store| store.clock(clock.clone())).await;
    assert_eq!(stage.stored().await.authenticated_at(), None);
    assert!(!stage.stored().await.authenticated_within(Duration::MAX));
    let reply = send(&stage.layer, Some(&stage.cookie), |session| {
        session.log_in(42).unwrap();
        assert!(session.authenticated_within(MINUTE));
        async { 200 }
    });
    let first = reply.await.cookie().unwrap();
    let at = stage.by(&first).await.unwrap().authenticated_at().unwrap();
    clock.advance(10 * MINUTE);
    let session = stage.by(&first).await.unwrap();
    assert!(!session.authenticated_within(5 * MINUTE) && session.authenticated_within(15 * MINUTE));
    let end = session.expires_at().unwrap();
    let reply = send(&stage.layer, Some(&first), |session| {
        session.reauthenticated().unwrap();
        async { 200 }
    });
    let second = reply.await.cookie().unwrap();
    let session = stage.by(&second).await.unwrap();
    assert!(session.authenticated_within(5 * MINUTE) && session.authenticated_at().unwrap() > at);
    assert_eq!((session.expires_at().unwrap(), session.owner().as_deref()), (end, Some("42")));
}

async fn a_login_on_a_detached_handle_is_refused(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let later = stage.stored().await.detach();
    assert!(matches!(later.log_in("bob"), Err(SessionError::RenewDetached)));
    assert!(matches!(later.reauthenticated(), Err(SessionError::RenewDetached)));
    assert_eq!(later.owner().as_deref(), Some("alice"));
    later.commit().await.unwrap();
}

async fn a_login_is_kept_after_a_failed_commit(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for operation in [Operation::Insert, Operation::Replace] {
        for lost in [false, true] {
            stage.again().await;
            let reply = stage.request(|session| {
                let cache = stage.cache.clone();
                async move {
                    session.log_in("bob").unwrap();
                    session.set("after", 1).unwrap();
                    if lost {
                        cache.lose_reply(operation);
                    } else {
                        cache.fail_once(operation, cloakroom::CacheErrorKind::Unavailable);
                    }
                    session.commit().await.unwrap_err();
                    assert_eq!(session.owner().as_deref(), Some("bob"));
                    session.set("later", 1).unwrap();
                    200
                }
            });
            let reply = reply.await;
            assert_eq!(reply.status, 200);
            let stored = stage.by(&reply.cookie().unwrap()).await.unwrap();
            assert_eq!(stored.owner().as_deref(), Some("bob"), "{operation:?} {lost}");
            assert_eq!(stored.keys(), ["after", "later"], "{operation:?} {lost}");
            assert!(stored.authenticated_at().is_some());
            assert!(stage.by(&stage.cookie).await.is_none());
        }
    }
    assert_eq!((stage.live("alice").await, stage.live("bob").await), (1, 4));
}

async fn a_request_that_failed_stores_nothing(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for status in [408, 500, 503, 599] {
        stage.again().await;
        for renews in [false, true] {
            let reply = stage.request(|session| {
                session.update("n", add).unwrap();
                session.set_owner("bob").unwrap();
                if renews {
                    session.log_in("bob").unwrap();
                }
                async move { status }
            });
            let reply = reply.await;
            assert_eq!((reply.status, reply.cookie()), (status, None));
            let stored = stage.stored().await;
            assert_eq!((stored.get("n"), stored.owner().as_deref()), (Some(0), Some("alice")), "{status}");
        }
        let reply = send(&stage.layer, None, |session| {
            session.set("n", 1).unwrap();
            async move { status }
        });
        assert_eq!(reply.await.cookie(), None);
    }
    assert_eq!(stage.live("bob").await, 0);
}

async fn a_request_that_failed_still_logs_out(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for status in [408, 500] {
        stage.again().await;
        let reply = stage.request(|session| {
            session.update("n", add).unwrap();
            session.destroy();
            async move { status }
        });
        assert!(reply.await.cookie().unwrap().ends_with('='));
        assert!(stage.by(&stage.cookie).await.is_none(), "{status}");
    }
}
