//! Sessions that ended, handles of requests that are over, and requests that come with an ID that was renewed away.
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::{Cache, Clock, LazySession, Session, SessionError, SessionLayer, testing::Operation};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    commits::stage::{Stage, add},
    support::{
        caches::on_every_cache,
        {
            request,
            web::{id, send},
        },
    },
};

on_every_cache! {
    a_handle_loaded_after_the_response_is_closed,
    a_handle_loaded_while_the_response_commits_is_closed,
    what_was_found_gone_is_gone_at_every_later_commit,
    a_commit_that_waited_for_the_responses_commit_is_closed,
    the_old_id_writes_nothing_soon_after_a_renewal,
    the_old_id_logs_in_to_a_fresh_session,
    the_old_id_is_that_of_a_visitor_after_a_minute,
    the_old_id_still_logs_out,
}

async fn a_handle_loaded_after_the_response_is_closed(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let layer = SessionLayer::builder(stage.store.clone()).lazy(true).build().unwrap();
    for cookie in [Some(&*stage.cookie), None] {
        let kept = Arc::new(Mutex::new(None));
        let into = kept.clone();
        let service = layer.layer(service_fn(move |request: http::Request<()>| {
            *into.lock().unwrap() = request.extensions().get::<LazySession>().cloned();
            async { Ok::<_, Infallible>(http::Response::new(String::new())) }
        }));
        service.oneshot(request::request(cookie)).await.unwrap();
        let lazy: LazySession = kept.lock().unwrap().take().unwrap();
        let session = lazy.load().await.unwrap();
        assert_eq!(session.get("n"), cookie.map(|_| 0), "it can be read");
        assert!(matches!(session.set("n", 1), Err(SessionError::Closed)));
        assert!(matches!(session.update("n", add), Err(SessionError::Closed)));
        assert!(matches!(session.commit().await, Err(SessionError::Closed)));
        session.destroy();
        session.clear();
        assert!(matches!(session.commit().await, Err(SessionError::Closed)));
        assert_eq!(stage.n().await, 0);
        // One that is detached from it is not.
        if cookie.is_some() {
            let later = session.detach();
            later.set("late", true).unwrap();
            later.commit().await.unwrap();
            assert!(stage.stored().await.contains_key("late"));
        }
    }
}

async fn a_handle_loaded_while_the_response_commits_is_closed(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let layer = SessionLayer::builder(stage.store.clone()).lazy(true).build().unwrap();
    let gate = stage.cache.hold(Operation::Get);
    let (seen, told) = (Arc::new(Mutex::new(None)), Arc::new(tokio::sync::Notify::new()));
    let (into, tell) = (seen.clone(), told.clone());
    let service = layer.layer(service_fn(move |request: http::Request<()>| {
        let lazy = request.extensions().get::<LazySession>().unwrap().clone();
        let (into, tell) = (into.clone(), tell.clone());
        tokio::spawn(async move {
            let session = lazy.load().await.unwrap();
            *into.lock().unwrap() = Some(session.set("n", 1));
            tell.notify_one();
        });
        let gate = gate.clone();
        async move {
            gate.arrived().await;
            // The load is under way, and goes on after the response.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                gate.open();
            });
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    }));
    service.oneshot(request::request(Some(&stage.cookie))).await.unwrap();
    told.notified().await;
    let result = seen.lock().unwrap().take().unwrap();
    assert!(matches!(result, Err(SessionError::Closed)), "{result:?}");
}

async fn what_was_found_gone_is_gone_at_every_later_commit(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for detached in [false, true] {
        for renewed in [false, true] {
            stage.again().await;
            let mut session = stage.stored().await;
            if detached {
                session = session.detach();
            }
            let ends = move |session: &Session| if renewed { session.renew() } else { session.destroy() };
            stage.elsewhere(ends).await;
            let gone = |result: &Result<(), SessionError>| matches!(result, Err(SessionError::Gone));
            for round in 0..3 {
                session.update("n", add).unwrap();
                let first = session.commit().await;
                let second = session.commit().await;
                assert!(gone(&first) && gone(&second), "{detached} {renewed} {round}: {first:?} {second:?}");
                session.touch();
                assert!(gone(&session.commit().await), "{detached} {renewed} {round}");
                assert!(gone(&session.reload().await), "{detached} {renewed} {round}");
            }
            assert!(gone(&session.update_now("n", add).await.map(drop)));
            assert!(gone(&session.take_now::<u64>("n").await.map(drop)));
        }
    }
}

async fn a_commit_that_waited_for_the_responses_commit_is_closed(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let gate = stage.cache.hold(Operation::Replace);
    let late = Arc::new(Mutex::new(None));
    let reply = stage.request(|session| {
        session.update("n", add).unwrap();
        let (gate, late) = (gate.clone(), late.clone());
        *late.lock().unwrap() = Some(tokio::spawn(async move {
            // The response's commit is under way; this one stands in line behind it.
            gate.arrived().await;
            let commit = tokio::spawn({
                let session = session.clone();
                async move { session.commit().await }
            });
            tokio::task::yield_now().await;
            gate.open();
            commit.await.unwrap()
        }));
        async { 200 }
    });
    assert_eq!(reply.await.status, 200);
    let late = late.lock().unwrap().take().unwrap();
    assert!(matches!(late.await.unwrap(), Err(SessionError::Closed)));
    assert_eq!(stage.n().await, 1);
}

/// Renews the session, and returns the new cookie.
async fn renewed<C: Cache>(stage: &Stage<C>, log_in: bool) -> String {
    let reply = stage.request(|session| {
        if log_in {
            session.log_in("alice").unwrap();
        } else {
            session.renew();
        }
        async { 200 }
    });
    reply.await.cookie().unwrap()
}

async fn the_old_id_writes_nothing_soon_after_a_renewal(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for log_in in [false, true] {
        stage.again().await;
        let live = stage.live("alice").await;
        let new = renewed(&stage, log_in).await;
        for explicit in [false, true] {
            let reply = stage.request(|session| async move {
                assert_eq!((session.is_new(), session.is_empty(), session.owner()), (true, true, None));
                session.set("n", 99).unwrap();
                session.set_owner("mallory").unwrap();
                if explicit {
                    assert!(matches!(session.commit().await, Err(SessionError::Gone)));
                    session.set("n", 99).unwrap();
                }
                200
            });
            let reply = reply.await;
            assert_eq!((reply.status, reply.cookie()), (200, None), "{log_in} {explicit}");
        }
        let stored = stage.by(&new).await.unwrap();
        assert_eq!((stored.get("n"), stored.owner().as_deref()), (Some(0), Some("alice")));
        assert_eq!((stage.live("alice").await, stage.live("mallory").await), (live, 0));
    }
}

async fn the_old_id_logs_in_to_a_fresh_session(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for twice in [false, true] {
        stage.again().await;
        let before = stage.live("alice").await;
        let new = renewed(&stage, true).await;
        let reply = stage.request(|session| async move {
            if twice {
                session.log_in("bob").unwrap();
                session.commit().await.unwrap();
            }
            session.set("fresh", true).unwrap();
            session.log_in("alice").unwrap();
            200
        });
        let fresh = reply.await.cookie().unwrap();
        assert!(fresh != new && fresh != stage.cookie);
        let stored = stage.by(&fresh).await.unwrap();
        assert_eq!((stored.owner().as_deref(), stored.get::<u64>("n")), (Some("alice"), None));
        assert!(stored.authenticated_at().is_some());
        assert_eq!(stage.by(&new).await.unwrap().keys(), ["n"], "the successor is another session, as it was");
        assert_eq!((stage.live("alice").await, stage.live("bob").await), (before + 1, 0));
    }
}

async fn the_old_id_is_that_of_a_visitor_after_a_minute(cache: impl Cache) {
    let clock = Clock::manual();
    let stage = Stage::with(cache, |store| store.clock(clock.clone())).await;
    let new = renewed(&stage, false).await;
    clock.advance(Duration::from_secs(61));
    let reply = stage.request(|session| {
        session.set("n", 99).unwrap();
        async { 200 }
    });
    let fresh = reply.await.cookie().unwrap();
    assert_eq!(stage.by(&fresh).await.unwrap().get("n"), Some(99));
    assert_eq!(stage.by(&new).await.unwrap().get("n"), Some(0));
}

async fn the_old_id_still_logs_out(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let new = renewed(&stage, true).await;
    let reply = send(&stage.other, Some(&stage.cookie), |session| {
        session.set("n", 99).unwrap();
        session.destroy();
        async { 500 }
    });
    let reply = reply.await;
    assert!(reply.cookie().is_none_or(|cookie| id(&cookie).is_empty()));
    assert!(stage.by(&new).await.is_none());
}
