//! Requests of one session that overlap: nothing is lost, nothing comes back.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use cloakroom::{
    Cache, CacheError, CacheErrorKind, Deleted, Entry, Expiry, InMemoryCache, Replaced, Session, SessionError,
    SessionStore, Version,
    testing::{Operation, TestCache},
};
use tokio::{
    sync::{Barrier, Notify},
    task::JoinSet,
};

#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/web.rs"]
mod web;

use redis_server::RedisServer;
use web::{layer, live, peek, send, start};

macro_rules! on_both_caches {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::InMemoryCache::new()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let server = super::RedisServer::start();
                super::$name(super::redis_server::patient(&server).await).await;
            })*
        }
    };
}

on_both_caches! {
    writers_of_different_keys_all_take_effect,
    increments_add_up,
    logout_wins_over_whatever_a_slow_request_does,
    a_logout_while_a_renewal_is_under_way_ends_what_comes_of_it,
    a_renewal_while_a_logout_is_under_way_brings_nothing_back,
    the_cookie_of_a_renewed_session_still_logs_out,
    a_destroy_that_broke_off_can_be_repeated,
    two_renewals_leave_one_session,
    a_renewal_that_fails_leaves_the_old_session_as_it_was,
    a_renewal_whose_answer_was_lost_privileges_nobody,
    what_others_write_during_a_renewal_is_taken_over,
    a_renewal_keeps_created_and_end,
    a_request_with_the_old_id_cannot_write_into_the_renewed_session,
    the_order_of_calls_has_one_meaning,
    a_dropped_request_leaves_the_old_state_or_the_new,
    a_write_that_comes_too_late_does_no_harm,
    detached_handles_write_after_the_response,
    detached_handles_follow_what_their_request_creates_or_renews,
    detached_handles_are_released_when_their_request_commits_nothing,
    closed_handles_say_so,
}

fn store<C: Cache>(cache: C) -> (SessionStore<TestCache<C>>, TestCache<C>) {
    let cache = TestCache::new(cache);
    (SessionStore::new(cache.clone()), cache)
}

async fn writers_of_different_keys_all_take_effect<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let together = Arc::new(Barrier::new(64));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let (layer, cookie, together) = (layer.clone(), cookie.clone(), together.clone());
        requests.spawn(async move {
            let reply = send(&layer, Some(&cookie), move |session| {
                let together = together.clone();
                async move {
                    session.set(format!("key {n}"), n).unwrap();
                    together.wait().await;
                    200
                }
            })
            .await;
            assert_eq!(reply.status, 200);
        });
    }
    requests.join_all().await;
    let id = cookie.split_once('=').unwrap().1;
    let session = store.load(id).await.unwrap().unwrap();
    for n in 0..64 {
        assert_eq!(session.get::<u32>(format!("key {n}")), Some(n));
    }
}

async fn increments_add_up<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(20));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        requests.spawn(async move {
            let reply = send(&layer, Some(&cookie), |session| async move {
                session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
                tokio::task::yield_now().await;
                200
            })
            .await;
            assert_eq!(reply.status, 200);
        });
    }
    requests.join_all().await;
    assert_eq!(peek(&layer, &cookie, "n").await, Some(200));
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

async fn a_renewal_whose_answer_was_lost_privileges_nobody<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    cache.lose_reply(Operation::Insert);
    let reply = login(&layer, &cookie).await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0), "usable");
    assert_eq!(peek(&layer, &cookie, "user").await, None, "not privileged");
    // The one exception: the tombstone was written and nobody heard of it.
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

async fn the_order_of_calls_has_one_meaning<C: Cache>(cache: C) {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Call {
        Set,
        Renew,
        Clear,
        Destroy,
    }
    use Call::*;
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let mut orders = Vec::new();
    for a in [Set, Renew, Clear, Destroy] {
        for b in [Set, Renew, Clear, Destroy] {
            for c in [Set, Renew, Clear, Destroy] {
                orders.push([a, b, c]);
            }
        }
    }
    for order in orders {
        let cookie = start(&layer, "alice").await;
        let reply = send(&layer, Some(&cookie), move |session| async move {
            for call in order {
                match call {
                    Set => session.set("user", 42).unwrap(),
                    Renew => session.renew(),
                    Clear => session.clear(),
                    Destroy => session.destroy(),
                }
            }
            200
        })
        .await;
        let destroyed = order.contains(&Destroy);
        let renewed = order.contains(&Renew) && !destroyed;
        let last = |call| order.iter().rposition(|other| *other == call);
        let set = last(Set).is_some() && last(Set) > last(Clear);
        let now = match reply.cookie() {
            Some(removed) if destroyed => {
                assert_eq!(removed, "__Host-id=", "{order:?}");
                cookie.clone()
            }
            Some(new) => new,
            None => cookie.clone(),
        };
        assert_eq!(now != cookie, renewed, "{order:?}");
        assert_eq!(live(&store, "alice").await, usize::from(!destroyed), "{order:?}");
        assert_eq!(peek(&layer, &now, "user").await, (set && !destroyed).then_some(42), "{order:?}");
        let kept = !destroyed && !order.contains(&Clear);
        assert_eq!(peek(&layer, &now, "n").await, kept.then_some(0), "{order:?}");
        store.revoke_all("alice").await.unwrap();
    }
}

/// Polls a future a number of times, and drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) -> bool {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let poll = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await;
        if poll.is_ready() {
            return true;
        }
        // Time for an answer to arrive, so that the next poll finds something new.
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    false
}

async fn a_dropped_request_leaves_the_old_state_or_the_new<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    cache.yield_always(true);
    for renew in [false, true] {
        for polls in 1.. {
            let cookie = start(&layer, "alice").await;
            let committing = Arc::new(AtomicUsize::new(0));
            let request = send(&layer, Some(&cookie), |session| {
                let committing = committing.clone();
                async move {
                    session.set("a", 1).unwrap();
                    session.set("b", 1).unwrap();
                    if renew {
                        session.renew();
                    }
                    committing.fetch_add(1, Ordering::Relaxed);
                    200
                }
            });
            let done = poll_and_drop(request, polls).await;
            // What had begun goes on by itself.
            let begun = committing.load(Ordering::Relaxed) > 0;
            let mut sessions = store.sessions_of("alice").await.unwrap();
            for _ in 0..400 {
                if sessions.len() == 1 && sessions[0].get::<u64>("a").is_some() == begun {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                sessions = store.sessions_of("alice").await.unwrap();
            }
            assert_eq!(sessions.len(), 1, "{polls} polls");
            let (a, b) = (sessions[0].get::<u64>("a"), sessions[0].get::<u64>("b"));
            assert_eq!(a, b, "{polls} polls: half of it was written");
            assert_eq!(a, begun.then_some(1), "{polls} polls: a commit that has begun ends");
            store.revoke_all("alice").await.unwrap();
            if done {
                break;
            }
            assert!(polls < 200);
        }
    }
}

async fn a_write_that_comes_too_late_does_no_harm<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let store = store.deadline(Duration::from_millis(60));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1.to_owned();
    let key = format!("cloakroom:{}", store.load(&id).await.unwrap().unwrap().key().unwrap());
    let entry = cache.get(&key).await.unwrap().unwrap();
    let gate = cache.hold(Operation::Replace);
    let reply = send(&layer, Some(&cookie), |session| async move {
        session.set("late", 1).unwrap();
        200
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    gate.open();
    store.destroy(&id).await.unwrap();
    // The write that was on its way arrives now: it names a version that is gone.
    let expiry = Expiry { idle: Duration::from_secs(60), end: std::time::SystemTime::now() + Duration::from_secs(60) };
    let late = cache
        .inner()
        .replace(&key, entry.version, Entry { version: Version::unique(), ..entry }, expiry)
        .await
        .unwrap();
    assert_eq!(late, Replaced::Missing);
    assert_eq!(peek(&layer, &cookie, "n").await, None);
    assert_eq!(live(&store, "alice").await, 0);
}

async fn detached_handles_write_after_the_response<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let handle = Arc::new(std::sync::Mutex::new(None));
    let keep = handle.clone();
    send(&layer, Some(&cookie), move |session| {
        session.set("request", 1).unwrap();
        *keep.lock().unwrap() = Some(session.detach());
        async { 200 }
    })
    .await;
    let later = handle.lock().unwrap().take().unwrap();
    assert_eq!(later.get::<u64>("request"), Some(1), "it sees what the request saw");
    for n in 1..=3_u64 {
        later.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
        later.commit().await.unwrap();
        assert_eq!(peek(&layer, &cookie, "n").await, Some(n));
    }
    assert_eq!(peek(&layer, &cookie, "request").await, Some(1));
    later.renew();
    assert!(matches!(later.commit().await, Err(SessionError::RenewDetached)));
    let other = later.detach();
    store.revoke_all("alice").await.unwrap();
    other.set("n", 9).unwrap();
    assert!(matches!(other.commit().await, Err(SessionError::Gone)));
    assert_eq!(live(&store, "alice").await, 0);
}

async fn detached_handles_follow_what_their_request_creates_or_renews<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(10));
    let layer = layer(&store);
    for existing in [false, true] {
        for detach_first in [false, true] {
            let cookie = if existing { Some(start(&layer, "alice").await) } else { None };
            let (task, under_way) = (Arc::new(std::sync::Mutex::new(None)), Arc::new(Notify::new()));
            let keep = task.clone();
            let reply = send(&layer, cookie.as_deref(), move |session| {
                let change = |session: &Session| {
                    session.renew();
                    session.set_owner("alice").unwrap();
                    session.set("request", 1).unwrap();
                };
                if !detach_first {
                    change(&session);
                }
                let later = session.detach();
                if detach_first {
                    change(&session);
                }
                let (keep, under_way) = (keep.clone(), under_way.clone());
                async move {
                    let begun = under_way.clone();
                    let commit = tokio::spawn(async move {
                        later.set("later", 2).unwrap();
                        begun.notify_one();
                        later.commit().await
                    });
                    *keep.lock().unwrap() = Some(commit);
                    under_way.notified().await;
                    // Its commit has begun before this request's.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    200
                }
            })
            .await;
            let commit = task.lock().unwrap().take().unwrap();
            let case = format!("existing {existing}, detach first {detach_first}");
            commit.await.unwrap().unwrap_or_else(|error| panic!("{case}: {error}"));
            let cookie = reply.cookie().unwrap();
            assert_eq!(peek(&layer, &cookie, "request").await, Some(1), "{case}");
            assert_eq!(peek(&layer, &cookie, "later").await, Some(2), "{case}");
            assert_eq!(live(&store, "alice").await, 1, "{case}");
            store.revoke_all("alice").await.unwrap();
        }
    }
}

async fn detached_handles_are_released_when_their_request_commits_nothing<C: Cache>(cache: C) {
    let store = SessionStore::new(cache).deadline(Duration::from_secs(30));
    let layer = layer(&store);
    for status in [200, 500] {
        let handle = Arc::new(std::sync::Mutex::new(None));
        let keep = handle.clone();
        let reply = send(&layer, None, move |session| {
            if status == 500 {
                session.set("n", 1).unwrap();
            }
            *keep.lock().unwrap() = Some(session.detach());
            async move { status }
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (status, None));
        let later = handle.lock().unwrap().take().unwrap();
        later.set("n", 2).unwrap();
        let result = tokio::time::timeout(Duration::from_secs(5), later.commit()).await.expect("it need not wait");
        assert!(matches!(result, Err(SessionError::Gone)));
    }
}

async fn closed_handles_say_so<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let handle = Arc::new(std::sync::Mutex::new(None));
    let keep = handle.clone();
    let reply = send(&layer, None, move |session| {
        session.set("n", 1).unwrap();
        *keep.lock().unwrap() = Some(session);
        async { 200 }
    })
    .await;
    let session: Session = handle.lock().unwrap().take().unwrap();
    assert_eq!(session.get::<u64>("n"), Some(1), "reading goes on");
    assert!(matches!(session.set("n", 2), Err(SessionError::Closed)));
    assert!(matches!(session.update("n", |n: Option<u64>| n.unwrap_or(0)), Err(SessionError::Closed)));
    assert!(matches!(session.take::<u64>("n"), Err(SessionError::Closed)));
    assert!(matches!(session.commit().await, Err(SessionError::Closed)));
    assert!(matches!(session.set_ttl(Duration::from_secs(1)), Err(SessionError::Closed)));
    assert_eq!(session.remove("n"), None);
    session.clear();
    session.touch();
    session.renew();
    session.destroy();
    assert_eq!(peek(&layer, &reply.cookie().unwrap(), "n").await, Some(1));
}

/// Somebody else is always faster.
struct AlwaysLate(InMemoryCache);

impl Cache for AlwaysLate {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.0.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.0.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.0.insert(key, entry, expiry).await
    }
    async fn replace(&self, key: &str, _: Version, _: Entry, _: Expiry) -> Result<Replaced, CacheError> {
        let entry = self.0.get(key).await?;
        Ok(entry.map_or(Replaced::Missing, |entry| Replaced::Conflict(Entry { version: Version::unique(), ..entry })))
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.0.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.0.delete(key, expected).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_lasts_until_the_deadline_is_a_503() {
    let store = SessionStore::new(AlwaysLate(InMemoryCache::new()));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    for renew in [false, true] {
        let begun = tokio::time::Instant::now();
        let reply = send(&layer, Some(&cookie), move |session| async move {
            session.set("n", 1).unwrap();
            if renew {
                session.renew();
            }
            200
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (503, None));
        assert!(begun.elapsed() <= Duration::from_millis(1100), "{:?}", begun.elapsed());
        assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    }
    let session = store.load(cookie.split_once('=').unwrap().1).await.unwrap().unwrap();
    session.set("n", 1).unwrap();
    assert!(matches!(session.commit().await, Err(SessionError::Conflict)));
}

#[tokio::test]
async fn a_crowd_of_one_process_costs_three_operations_each_at_most() {
    let (store, cache) = store(InMemoryCache::new());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    cache.yield_always(true);
    cache.reset_calls();
    let together = Arc::new(Barrier::new(64));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let (layer, cookie, together) = (layer.clone(), cookie.clone(), together.clone());
        requests.spawn(async move {
            send(&layer, Some(&cookie), move |session| {
                let together = together.clone();
                async move {
                    session.set(format!("key {n}"), n).unwrap();
                    together.wait().await;
                    200
                }
            })
            .await
        });
    }
    assert!(requests.join_all().await.iter().all(|reply| reply.status == 200));
    let calls = cache.calls();
    println!("{:.2} operations each: {calls:?}", calls.total() as f64 / 64.0);
    assert!(calls.total() <= 3 * 64, "{calls:?}");
}
