//! Detached handles that go on after their request.
use std::{sync::Arc, time::Duration};

use cloakroom::{
    Cache, CacheErrorKind, Session, SessionError, SessionStore,
    testing::{Operation, TestCache},
};
use tokio::sync::Notify;

use crate::support::{
    caches::on_every_cache,
    web::{id, layer, live, peek, send, start},
};

on_every_cache! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    detached_handles_write_after_the_response,
    detached_handles_follow_what_their_request_creates_or_renews,
    detached_handles_are_released_when_their_request_commits_nothing,
    closed_handles_say_so,
    an_update_after_a_refused_commit_runs_on_what_another_request_wrote,
    an_owner_that_is_set_where_the_session_has_moved_has_it_on_the_list,
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

/// A refused commit leaves a list that was computed on what another request wrote; what is added to it is computed on what the
/// handle sees.
async fn an_update_after_a_refused_commit_runs_on_what_another_request_wrote<C: Cache>(cache: C) {
    let add = |n: Option<u64>| n.unwrap_or_default() + 1;
    let cache = TestCache::new(cache);
    let store = SessionStore::new(cache.clone());
    let layer = layer(&store);
    for at_once in [false, true] {
        let cookie = start(&layer, "alice").await;
        let loaded = store.load(id(&cookie)).await.unwrap().unwrap();
        let handle = if at_once { loaded } else { loaded.detach() };
        send(&layer, Some(&cookie), move |session| {
            session.set("count", 7).unwrap();
            async { 200 }
        })
        .await;
        handle.set("seen", 1).unwrap();
        cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
        let refused = if at_once { handle.update_now("other", add).await.map(drop) } else { handle.commit().await };
        assert!(matches!(refused, Err(SessionError::Cache(_))), "{refused:?}");
        if at_once {
            assert_eq!(handle.update_now("count", add).await.unwrap(), 8);
        } else {
            assert_eq!(handle.update("count", add).unwrap(), 1, "what the handle sees is older");
            handle.commit().await.unwrap();
            assert_eq!(handle.get::<u64>("count"), Some(8));
        }
        assert_eq!(peek(&layer, &cookie, "count").await, Some(8));
        assert_eq!(peek(&layer, &cookie, "seen").await, Some(1));
    }
}

async fn an_owner_that_is_set_where_the_session_has_moved_has_it_on_the_list<C: Cache>(cache: C) {
    let store = SessionStore::new(cache);
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let (keep, kept) = std::sync::mpsc::channel();
    let reply = send(&layer, Some(&cookie), move |session| {
        let keep = keep.clone();
        async move {
            let later = session.detach();
            // So that it knows the session under the key of before the renewal.
            later.update_now("n", |n: Option<u64>| n.unwrap_or_default() + 1).await.unwrap();
            later.set_owner("bob").unwrap();
            keep.send(later).unwrap();
            session.renew();
            200
        }
    })
    .await;
    kept.recv().unwrap().commit().await.unwrap();
    // The first look takes the former key off the list.
    for _ in 0..3 {
        assert_eq!(live(&store, "bob").await, 1);
    }
    assert_eq!(live(&store, "alice").await, 0);
    assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
    assert!(store.load(id(&reply.cookie().unwrap())).await.unwrap().is_none());
}
