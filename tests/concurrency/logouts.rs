//! Logouts that overlap with other requests of the session: nothing comes back.
use std::{sync::Arc, time::Duration};

use cloakroom::{Cache, CacheErrorKind, Session, SessionError, SessionStore, testing::Operation};
use tokio::sync::Notify;

use crate::support::{
    caches::on_every_cache,
    web::{layer, live, peek, send, start, store},
};

on_every_cache! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    logout_wins_over_whatever_a_slow_request_does,
    a_logout_while_a_renewal_is_under_way_ends_what_comes_of_it,
    a_renewal_while_a_logout_is_under_way_brings_nothing_back,
    the_cookie_of_a_renewed_session_still_logs_out,
    a_destroy_that_broke_off_can_be_repeated,
}

#[derive(Clone, Copy, Debug)]
enum Late {
    Write,
    Update,
    Clear,
    Touch,
    Renew,
    Login,
    Commit,
    Detached,
}

async fn late(session: Session, what: Late) {
    match what {
        Late::Write => session.set("late", 1).unwrap(),
        Late::Update => drop(session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap()),
        Late::Clear => session.clear(),
        Late::Touch => session.touch(),
        Late::Renew => session.renew(),
        Late::Login => {
            session.renew();
            session.set("user", "mallory").unwrap();
        }
        Late::Commit => {
            session.set("late", 1).unwrap();
            assert!(matches!(session.commit().await, Err(SessionError::Gone)));
        }
        Late::Detached => {
            let later = session.detach();
            later.set("late", 1).unwrap();
            assert!(matches!(later.commit().await, Err(SessionError::Gone)));
        }
    }
}

async fn logout_wins_over_whatever_a_slow_request_does<C: Cache>(cache: C) {
    use Late::*;
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    for what in [Write, Update, Clear, Touch, Renew, Login, Commit, Detached] {
        let cookie = start(&layer, "alice").await;
        let (loaded, logged_out) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = {
            let (layer, cookie) = (layer.clone(), cookie.clone());
            let (loaded, logged_out) = (loaded.clone(), logged_out.clone());
            tokio::spawn(async move {
                send(&layer, Some(&cookie), move |session| {
                    let (loaded, logged_out) = (loaded.clone(), logged_out.clone());
                    async move {
                        loaded.notify_one();
                        logged_out.notified().await;
                        late(session, what).await;
                        202
                    }
                })
                .await
            })
        };
        loaded.notified().await;
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.destroy();
            200
        })
        .await;
        assert_eq!(reply.cookie().as_deref(), Some("__Host-id="), "{what:?}");
        logged_out.notify_one();
        let reply = slow.await.unwrap();
        assert_eq!((reply.status, reply.cookie()), (202, None), "{what:?}");
        assert_eq!(peek(&layer, &cookie, "n").await, None, "{what:?}");
        assert_eq!(live(&store, "alice").await, 0, "{what:?}");
    }
}

async fn a_logout_while_a_renewal_is_under_way_ends_what_comes_of_it<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let store = store.deadline(Duration::from_secs(10));
    let layer = layer(&store);
    for step in [Operation::Insert, Operation::Replace] {
        let cookie = start(&layer, "alice").await;
        let gate = cache.hold(step);
        let renewal = {
            let (layer, cookie) = (layer.clone(), cookie.clone());
            tokio::spawn(async move {
                send(&layer, Some(&cookie), |session| async move {
                    session.renew();
                    session.set("user", "alice").unwrap();
                    200
                })
                .await
            })
        };
        gate.arrived().await;
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.destroy();
            200
        })
        .await;
        assert_eq!(reply.status, 200);
        gate.open();
        let reply = renewal.await.unwrap();
        assert_eq!((reply.status, reply.cookie()), (200, None), "{step:?}");
        assert_eq!(live(&store, "alice").await, 0, "{step:?}");
    }
}

async fn a_renewal_while_a_logout_is_under_way_brings_nothing_back<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let store = store.deadline(Duration::from_secs(10));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let gate = cache.hold(Operation::Delete);
    let logout = {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        tokio::spawn(async move {
            send(&layer, Some(&cookie), |session| async move {
                session.destroy();
                200
            })
            .await
        })
    };
    gate.arrived().await;
    let reply = send(&layer, Some(&cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    let renewed = reply.cookie().unwrap();
    gate.open();
    assert_eq!(logout.await.unwrap().status, 200);
    assert_eq!(peek(&layer, &renewed, "n").await, None);
    assert_eq!(live(&store, "alice").await, 0);
}

async fn the_cookie_of_a_renewed_session_still_logs_out<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    for through_the_store in [false, true] {
        let first = start(&layer, "alice").await;
        let mut cookie = first.clone();
        for _ in 0..3 {
            let renew = |session: Session| async move {
                session.renew();
                200
            };
            cookie = send(&layer, Some(&cookie), renew).await.cookie().unwrap();
        }
        assert_eq!(peek(&layer, &first, "n").await, None);
        assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
        if through_the_store {
            store.destroy(first.split_once('=').unwrap().1).await.unwrap();
        } else {
            let reply = send(&layer, Some(&first), |session| async move {
                session.destroy();
                200
            })
            .await;
            assert_eq!(reply.cookie().as_deref(), Some("__Host-id="));
        }
        assert_eq!(peek(&layer, &cookie, "n").await, None);
        assert_eq!(live(&store, "alice").await, 0);
    }
}

async fn a_destroy_that_broke_off_can_be_repeated<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    let first = start(&layer, "alice").await;
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    let renewed = send(&layer, Some(&first), renew).await.cookie().unwrap();
    cache.fail_once(Operation::Delete, CacheErrorKind::Unavailable);
    let id = first.split_once('=').unwrap().1.to_owned();
    assert!(store.destroy(&id).await.is_err());
    assert_eq!(peek(&layer, &renewed, "n").await, Some(0), "it had to be said because it lives");
    store.destroy(&id).await.unwrap();
    assert_eq!(peek(&layer, &renewed, "n").await, None);
}
