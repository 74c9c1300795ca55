//! Renewals that overlap with other requests of the session: one session is left, with all that was written.
use std::{sync::Arc, time::Duration};

use cloakroom::{Cache, CacheErrorKind, SessionStore, testing::Operation};
use tokio::{
    sync::{Barrier, Notify},
    task::JoinSet,
};

use crate::support::{
    caches::on_every_cache,
    web::{self, layer, live, peek, send, start, store},
};

on_every_cache! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    two_renewals_leave_one_session,
    a_renewal_that_fails_leaves_the_old_session_as_it_was,
    a_renewal_whose_answer_was_lost_gives_no_privilege,
    what_others_write_during_a_renewal_is_taken_over,
    a_renewal_keeps_created_and_end,
    a_request_with_the_old_id_cannot_write_into_the_renewed_session,
}

async fn two_renewals_leave_one_session<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(10));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let together = Arc::new(Barrier::new(50));
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (layer, cookie, together) = (layer.clone(), cookie.clone(), together.clone());
        requests.spawn(async move {
            send(&layer, Some(&cookie), move |session| {
                let together = together.clone();
                async move {
                    session.renew();
                    together.wait().await;
                    200
                }
            })
            .await
        });
    }
    let replies = requests.join_all().await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let cookies: Vec<_> = replies.iter().filter_map(web::Reply::cookie).collect();
    assert_eq!(cookies.len(), 1, "one of them gave the browser a new ID");
    assert_eq!(live(&store, "alice").await, 1);
    assert_eq!(peek(&layer, &cookies[0], "n").await, Some(0));
}

async fn login<C: Cache>(layer: &cloakroom::SessionLayer<C>, cookie: &str) -> web::Reply {
    send(layer, Some(cookie), |session| async move {
        session.renew();
        session.set("user", 42).unwrap();
        200
    })
    .await
}

async fn a_renewal_that_fails_leaves_the_old_session_as_it_was<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    for step in [Operation::Insert, Operation::Replace] {
        for kind in [CacheErrorKind::Unavailable, CacheErrorKind::Full, CacheErrorKind::Timeout] {
            let cookie = start(&layer, "alice").await;
            cache.fail_once(step, kind);
            let reply = login(&layer, &cookie).await;
            assert_eq!((reply.status, reply.cookie()), (503, None), "{step:?} {kind:?}");
            assert!(!reply.body.contains("handler"));
            assert_eq!(peek(&layer, &cookie, "n").await, Some(0), "{step:?} {kind:?}: usable");
            assert_eq!(peek(&layer, &cookie, "user").await, None, "{step:?} {kind:?}: not privileged");
            let reply = login(&layer, &cookie).await;
            assert_eq!(peek(&layer, &reply.cookie().unwrap(), "user").await, Some(42), "{step:?} {kind:?}: again");
            store.revoke_all("alice").await.unwrap();
        }
    }
}

async fn a_renewal_whose_answer_was_lost_gives_no_privilege<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    cache.lose_reply(Operation::Insert);
    let reply = login(&layer, &cookie).await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0), "usable");
    assert_eq!(peek(&layer, &cookie, "user").await, None, "not privileged");
    // The one exception: the tombstone was written and its answer was lost.
    cache.lose_reply(Operation::Replace);
    let reply = login(&layer, &cookie).await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    assert_eq!(peek(&layer, &cookie, "user").await, None);
}

async fn what_others_write_during_a_renewal_is_taken_over<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let store = store.deadline(Duration::from_secs(10));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let gate = cache.hold(Operation::Replace);
    let renewal = {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        tokio::spawn(async move {
            send(&layer, Some(&cookie), |session| async move {
                session.renew();
                session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
                200
            })
            .await
        })
    };
    gate.arrived().await;
    for _ in 0..3 {
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.update("n", |n: Option<u64>| n.unwrap_or_default() + 10).unwrap();
            session.set("between", 7).unwrap();
            200
        })
        .await;
        assert_eq!(reply.status, 200);
    }
    gate.open();
    let renewed = renewal.await.unwrap().cookie().unwrap();
    assert_eq!(peek(&layer, &renewed, "n").await, Some(31));
    assert_eq!(peek(&layer, &renewed, "between").await, Some(7));
    assert_eq!(live(&store, "alice").await, 1);
}

async fn a_renewal_keeps_created_and_end<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let before = store.sessions_of("alice").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    login(&layer, &cookie).await;
    let after = store.sessions_of("alice").await.unwrap();
    assert_eq!(after.len(), 1);
    assert_ne!(before[0].key(), after[0].key());
    assert_eq!((before[0].created(), before[0].expires()), (after[0].created(), after[0].expires()));
}

async fn a_request_with_the_old_id_cannot_write_into_the_renewed_session<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let (loaded, logged_in) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let sibling = {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        let (loaded, logged_in) = (loaded.clone(), logged_in.clone());
        tokio::spawn(async move {
            send(&layer, Some(&cookie), move |session| {
                let (loaded, logged_in) = (loaded.clone(), logged_in.clone());
                async move {
                    loaded.notify_one();
                    logged_in.notified().await;
                    session.set("user", 666).unwrap();
                    200
                }
            })
            .await
        })
    };
    loaded.notified().await;
    let renewed = login(&layer, &cookie).await.cookie().unwrap();
    logged_in.notify_one();
    let reply = sibling.await.unwrap();
    assert_eq!((reply.status, reply.cookie()), (200, None));
    assert_eq!(peek(&layer, &renewed, "user").await, Some(42));
    assert_eq!(peek(&layer, &cookie, "user").await, None);
}
