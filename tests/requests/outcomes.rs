//! What becomes of a request's changes: by the handler's status, by its failing, and by the cache's.
use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use cloakroom::{
    Cache, CacheErrorKind, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{Request, Response, header};
use tower::{Layer, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::{
    caches::on_every_cache,
    request::{request, serve, set_cookies},
    web::{Reply, id, live, peek, send, start},
};

on_every_cache! {
    informational_to_4xx_commits_and_5xx_keeps_a_destroy_only,
    an_error_of_the_service_passes_through_and_keeps_a_destroy_only,
    a_panic_that_is_not_caught_commits_nothing,
    a_panic_caught_inside_is_a_500_and_one_caught_outside_commits_nothing,
    a_request_dropped_before_its_commit_commits_nothing,
    a_commit_that_has_begun_runs_to_its_end,
    a_commit_that_fails_is_a_503_without_anything_of_the_handlers,
    a_logout_that_fails_is_no_logout,
    a_renewal_that_fails_leaves_the_old_id_and_its_data,
    what_was_committed_explicitly_stays_whatever_follows,
    a_destroy_after_an_explicit_commit_leaves_nothing,
    a_destroy_that_is_committed_explicitly_removes_the_cookie,
    a_closed_handle_refuses_or_ignores_every_change,
    an_explicit_commit_that_fails_can_be_repeated,
    the_error_response_says_nothing_of_the_cause,
    a_session_that_ended_meanwhile_keeps_the_handlers_answer_and_gets_no_cookie,
}

/// What a handler does to its session.
type Change = fn(&Session);

fn trial<C: Cache>(cache: C) -> (SessionLayer<TestCache<C>>, SessionStore<TestCache<C>>, TestCache<C>) {
    let cache = TestCache::new(cache);
    let store = SessionStore::new(cache.clone()).deadline(Duration::from_secs(20));
    (SessionLayer::new(store.clone()), store, cache)
}

/// What a handler does, and answers with.
async fn run<C: Cache>(layer: &SessionLayer<C>, cookie: Option<&str>, status: u16, change: Change) -> Reply {
    send(layer, cookie, move |session| async move {
        change(&session);
        status
    })
    .await
}

fn write(session: &Session) {
    session.set("n", 1).unwrap();
}

async fn informational_to_4xx_commits_and_5xx_keeps_a_destroy_only<C: Cache>(cache: C) {
    let (layer, store, _) = trial(cache);
    for status in [101, 200, 201, 204, 302, 304, 400, 401, 404, 499, 500, 502, 503, 599, 600, 999] {
        let kept = status < 500;
        let anonymous = run(&layer, None, status, write).await;
        assert_eq!(anonymous.cookie().is_some(), kept, "a new session with {status}");

        let cookie = start(&layer, "alice").await;
        assert_eq!(run(&layer, Some(&cookie), status, write).await.cookie(), None);
        assert_eq!(peek(&layer, &cookie, "n").await, Some(u64::from(kept)), "a write with {status}");

        let reply = run(&layer, Some(&cookie), status, Session::renew).await;
        assert_eq!(reply.cookie().is_some(), kept, "a renewal with {status}");
        assert_eq!(peek(&layer, &cookie, "n").await.is_some(), !kept, "the old ID after {status}");

        let now = reply.cookie().unwrap_or(cookie);
        let everything = |session: &Session| {
            session.destroy();
            session.renew();
            write(session);
        };
        let reply = run(&layer, Some(&now), status, everything).await;
        assert_eq!((reply.status, reply.cookie().as_deref()), (status, Some("__Host-id=")));
        assert_eq!(reply.body, "the handler's answer");
        assert_eq!(live(&store, "alice").await, 0, "a logout with {status}");
    }
}

async fn an_error_of_the_service_passes_through_and_keeps_a_destroy_only<C: Cache>(cache: C) {
    #[derive(Debug, PartialEq)]
    struct ItsOwn(u8);
    let (layer, _, _) = trial(cache);
    let rows: [(Change, Option<u64>); 3] = [
        (write, Some(0)),
        (
            |session| {
                write(session);
                session.renew();
            },
            Some(0),
        ),
        (Session::destroy, None),
    ];
    for (change, after) in rows {
        let cookie = start(&layer, "alice").await;
        let inner = service_fn(move |request: Request<()>| async move {
            change(request.extensions().get::<Session>().unwrap());
            Err::<Response<String>, _>(ItsOwn(7))
        });
        let error = layer.layer(inner).oneshot(request(Some(&cookie))).await.unwrap_err();
        assert_eq!(error, ItsOwn(7));
        assert_eq!(peek(&layer, &cookie, "n").await, after);
    }
}

async fn a_panic_that_is_not_caught_commits_nothing<C: Cache>(cache: C) {
    let (layer, _, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    for change in [write as Change, Session::destroy, Session::renew] {
        cache.reset_calls();
        let (layer, cookie) = (layer.clone(), cookie.clone());
        let request = tokio::spawn(async move {
            send(&layer, Some(&cookie), move |session| async move {
                change(&session);
                panic!("as a handler may")
            })
            .await
        });
        assert!(request.await.unwrap_err().is_panic());
        assert_eq!(cache.calls().total(), 1, "the load");
    }
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
}

async fn a_panic_caught_inside_is_a_500_and_one_caught_outside_commits_nothing<C: Cache>(cache: C) {
    let (layer, store, _) = trial(cache);
    let routes = Router::new()
        .route("/write", get(|session: Session| async move { panicking(session.set("n", 1).is_ok()) }))
        .route(
            "/destroy",
            get(|session: Session| async move {
                session.destroy();
                panicking(true)
            }),
        );
    let inside = routes.clone().layer(CatchPanicLayer::new()).layer(layer.clone());
    let outside = routes.layer(layer.clone()).layer(CatchPanicLayer::new());
    for (app, destroyed) in [(inside, true), (outside, false)] {
        let cookie = start(&layer, "alice").await;
        for (path, left) in [("/write", 1), ("/destroy", usize::from(!destroyed))] {
            let request = Request::get(path).header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers().contains_key(header::SET_COOKIE), left == 0, "{path}");
            assert_eq!(live(&store, "alice").await, left, "{path}");
        }
        assert_eq!(peek(&layer, &cookie, "n").await, (!destroyed).then_some(0));
        store.revoke_all("alice").await.unwrap();
    }
}

fn panicking(changed: bool) -> &'static str {
    assert!(!changed, "as a handler may");
    ""
}

async fn a_request_dropped_before_its_commit_commits_nothing<C: Cache>(cache: C) {
    let (layer, store, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    for change in [write as Change, Session::destroy, Session::renew] {
        cache.reset_calls();
        let reached = Arc::new(Mutex::new(false));
        let note = reached.clone();
        let mut request = Box::pin(send(&layer, Some(&cookie), move |session| {
            change(&session);
            *note.lock().unwrap() = true;
            std::future::pending::<u16>()
        }));
        poll_fn(|cx| {
            assert!(request.as_mut().poll(cx).is_pending());
            if *reached.lock().unwrap() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(request);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(cache.calls().total(), 1, "the load");
    }
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    assert_eq!(live(&store, "alice").await, 1);
}

async fn a_commit_that_has_begun_runs_to_its_end<C: Cache>(cache: C) {
    let (layer, store, cache) = trial(cache);
    let rows: [(Change, Operation, Option<u64>); 3] = [
        (write, Operation::Replace, Some(1)),
        (Session::destroy, Operation::Delete, None),
        (Session::renew, Operation::Replace, None),
    ];
    for (change, operation, after) in rows {
        let cookie = start(&layer, "alice").await;
        let gate = cache.hold(operation);
        let (task_layer, task_cookie) = (layer.clone(), cookie.clone());
        let request = tokio::spawn(async move { run(&task_layer, Some(&task_cookie), 200, change).await });
        gate.arrived().await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        gate.open();
        let mut tries = 0;
        while peek(&layer, &cookie, "n").await != after {
            tries += 1;
            assert!(tries < 500, "{operation:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        store.revoke_all("alice").await.unwrap();
    }
}

/// Every way to fail, for every operation that a commit is made of.
async fn a_commit_that_fails_is_a_503_without_anything_of_the_handlers<C: Cache>(cache: C) {
    use CacheErrorKind::{Full, Other, Refused, Timeout, Unavailable, Unsupported};
    let (layer, _, cache) = trial(cache);
    let rows: [(bool, Operation, Change); 6] = [
        (false, Operation::Insert, write),
        (true, Operation::Replace, write),
        (true, Operation::Touch, Session::touch),
        (true, Operation::Insert, Session::renew),
        (true, Operation::Replace, Session::renew),
        (true, Operation::Delete, Session::destroy),
    ];
    let cookie = run(&layer, None, 200, |session| session.set("n", 0).unwrap()).await.cookie().unwrap();
    for (with_cookie, operation, change) in rows {
        for kind in [Unavailable, Timeout, Refused, Full, Unsupported, Other] {
            cache.fail(operation, kind);
            let response = serve(&layer, request(with_cookie.then_some(&*cookie)), move |request| {
                let session = request.extensions().get::<Session>().unwrap();
                session.get::<u64>("n");
                change(session);
                let response = Response::builder().header("X-Secret", "told").header(header::CACHE_CONTROL, "public");
                let response = response.header(header::SET_COOKIE, "logged_in=yes");
                async { response.body("you are logged in".to_owned()).unwrap() }
            })
            .await;
            cache.heal();
            assert_eq!(response.status(), 503, "{operation:?} {kind:?}");
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(set_cookies(response.headers()), [""; 0]);
            assert!(!response.headers().contains_key("X-Secret"));
            assert_eq!(response.body(), "");
            assert_eq!(peek(&layer, &cookie, "n").await, Some(0), "{operation:?} {kind:?}: as before");
        }
    }
}

async fn a_logout_that_fails_is_no_logout<C: Cache>(cache: C) {
    let (layer, store, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    for status in [303, 500] {
        cache.fail_once(Operation::Delete, CacheErrorKind::Unavailable);
        let reply = run(&layer, Some(&cookie), status, Session::destroy).await;
        assert_eq!((reply.status, reply.cookie()), (503, None), "after {status}");
        assert_eq!(live(&store, "alice").await, 1, "which is why it had to be said");
        assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    }
    assert_eq!(run(&layer, Some(&cookie), 303, Session::destroy).await.status, 303);
    assert_eq!(peek(&layer, &cookie, "n").await, None);
}

async fn a_renewal_that_fails_leaves_the_old_id_and_its_data<C: Cache>(cache: C) {
    let (layer, store, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    for operation in [Operation::Insert, Operation::Replace] {
        cache.fail_once(operation, CacheErrorKind::Unavailable);
        let login = |session: &Session| {
            session.renew();
            session.set("admin", true).unwrap();
        };
        let reply = run(&layer, Some(&cookie), 303, login).await;
        assert_eq!((reply.status, reply.cookie()), (503, None));
        let session = store.load(id(&cookie)).await.unwrap().unwrap();
        assert_eq!(session.keys(), ["n"], "the old session works, and is not privileged");
        assert_eq!(live(&store, "alice").await, 1, "{operation:?}: one live session");
    }
}

async fn what_was_committed_explicitly_stays_whatever_follows<C: Cache>(cache: C) {
    let (layer, _, cache) = trial(cache);
    for with_cookie in [false, true] {
        for status in [200, 404, 500] {
            let cookie = if with_cookie { Some(start(&layer, "alice").await) } else { None };
            let reply = send(&layer, cookie.as_deref(), move |session| async move {
                session.set("first", 1).unwrap();
                session.commit().await.unwrap();
                session.set("second", 2).unwrap();
                status
            })
            .await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.cookie().is_some(), !with_cookie, "the browser has to learn of a new session");
            let cookie = reply.cookie().or(cookie).unwrap();
            assert_eq!(peek(&layer, &cookie, "first").await, Some(1));
            assert_eq!(peek(&layer, &cookie, "second").await, (status < 500).then_some(2));
        }
    }
    // Nor does a failure of what follows keep its cookie back.
    let failing = cache.clone();
    let reply = send(&layer, None, move |session| {
        let cache = failing.clone();
        async move {
            session.set("n", 1).unwrap();
            session.commit().await.unwrap();
            session.set("n", 2).unwrap();
            cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
            200
        }
    })
    .await;
    assert_eq!(reply.status, 503);
    assert_eq!(peek(&layer, &reply.cookie().unwrap(), "n").await, Some(1));
    // Nothing is left to commit: no operation more.
    let cookie = start(&layer, "alice").await;
    cache.reset_calls();
    send(&layer, Some(&cookie), |session| async move {
        session.set("n", 5).unwrap();
        session.commit().await.unwrap();
        session.commit().await.unwrap();
        200
    })
    .await;
    assert_eq!((cache.calls().total(), cache.calls().of(Operation::Replace)), (2, 1));
}

async fn a_destroy_after_an_explicit_commit_leaves_nothing<C: Cache>(cache: C) {
    let (layer, store, _) = trial(cache);
    for renew in [false, true] {
        let cookie = if renew { Some(start(&layer, "alice").await) } else { None };
        let reply = send(&layer, cookie.as_deref(), move |session| async move {
            session.set_owner("alice").unwrap();
            if renew {
                session.renew();
            }
            session.commit().await.unwrap();
            session.destroy();
            200
        })
        .await;
        assert_eq!(live(&store, "alice").await, 0);
        let removal = renew.then_some("__Host-id=");
        assert_eq!(reply.cookie().as_deref(), removal, "a cookie that never came need not go");
    }
}

async fn a_destroy_that_is_committed_explicitly_removes_the_cookie<C: Cache>(cache: C) {
    let (layer, _, _) = trial(cache);
    for status in [200, 500] {
        let cookie = start(&layer, "alice").await;
        let reply = send(&layer, Some(&cookie), move |session| async move {
            session.destroy();
            session.commit().await.unwrap();
            status
        })
        .await;
        assert_eq!((reply.status, reply.cookie().as_deref()), (status, Some("__Host-id=")));
        assert_eq!(peek(&layer, &cookie, "n").await, None);
    }
}

async fn a_closed_handle_refuses_or_ignores_every_change<C: Cache>(cache: C) {
    let (layer, _, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    for status in [200, 500] {
        let kept = Arc::new(Mutex::new(None));
        let keep = kept.clone();
        send(&layer, Some(&cookie), move |session| {
            *keep.lock().unwrap() = Some(session);
            async move { status }
        })
        .await;
        cache.reset_calls();
        let session: Session = kept.lock().unwrap().take().unwrap();
        let closed =
            |result: Result<(), SessionError>| assert!(matches!(result, Err(SessionError::Closed)), "{result:?}");
        closed(session.set("n", 1));
        closed(session.update("n", |_: Option<u64>| 1).map(drop));
        closed(session.take::<u64>("n").map(drop));
        closed(session.set_ttl(Duration::from_secs(1)));
        closed(session.set_lifetime(Duration::from_secs(1)));
        closed(session.set_persistent(true));
        closed(session.set_owner("bob"));
        closed(session.clear_owner());
        closed(session.commit().await);
        assert_eq!(session.remove("n"), None);
        session.clear();
        session.touch();
        session.renew();
        session.destroy();
        assert_eq!(session.get::<u64>("n"), Some(0), "reading goes on");
        assert_eq!(session.owner().as_deref(), Some("alice"));
        assert!(!session.is_dirty() && !session.is_new() && session.key().is_some());
        drop(session);
        assert_eq!(cache.calls().total(), 0);
        assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    }
}

async fn an_explicit_commit_that_fails_can_be_repeated<C: Cache>(cache: C) {
    let (layer, _, cache) = trial(cache);
    for (with_cookie, operation) in [(false, Operation::Insert), (true, Operation::Replace)] {
        let cookie = if with_cookie { Some(start(&layer, "alice").await) } else { None };
        let failing = cache.clone();
        let reply = send(&layer, cookie.as_deref(), move |session| {
            let cache = failing.clone();
            async move {
                session.set("n", 5).unwrap();
                cache.fail_once(operation, CacheErrorKind::Unavailable);
                let error = session.commit().await.unwrap_err();
                assert_eq!(error.cache_kind(), Some(CacheErrorKind::Unavailable));
                assert!(session.is_dirty(), "the changes are still there");
                assert_eq!(session.get::<u64>("n"), Some(5));
                200
            }
        })
        .await;
        assert_eq!(reply.status, 200);
        let cookie = reply.cookie().or(cookie).unwrap();
        assert_eq!(peek(&layer, &cookie, "n").await, Some(5), "and are written after the handler");
    }
}

async fn the_error_response_says_nothing_of_the_cause<C: Cache>(cache: C) {
    let (layer, _, cache) = trial(cache);
    let cookie = start(&layer, "alice").await;
    let app = Router::new()
        .route("/write", get(|session: Session| async move { session.set("n", 1) }))
        .route(
            "/commit",
            get(|session: Session| async move {
                session.set("n", 1)?;
                session.commit().await
            }),
        )
        .layer(layer);
    for (path, operation) in
        [("/write", Operation::Get), ("/write", Operation::Replace), ("/commit", Operation::Replace)]
    {
        cache.fail(operation, CacheErrorKind::Refused);
        let request = Request::get(path).header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        cache.heal();
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key(header::SET_COOKIE));
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let headers = format!("{:?}", response.headers());
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        let body = format!("{headers}{}", String::from_utf8(body.to_vec()).unwrap()).to_lowercase();
        for word in ["test", "redis", "cache is", "refused", "cloakroom:", id(&cookie)] {
            assert!(!body.contains(&word.to_lowercase()), "{word} in {body}");
        }
    }
}

async fn a_session_that_ended_meanwhile_keeps_the_handlers_answer_and_gets_no_cookie<C: Cache>(cache: C) {
    let (layer, store, _) = trial(cache);
    let rows: [Change; 5] =
        [write, Session::renew, Session::touch, |session| session.set_persistent(true).unwrap(), Session::clear];
    for change in rows {
        let cookie = start(&layer, "alice").await;
        let other = layer.clone();
        let own = cookie.clone();
        let reply = send(&layer, Some(&cookie), move |session| {
            let (layer, cookie) = (other.clone(), own.clone());
            async move {
                run(&layer, Some(&cookie), 200, Session::destroy).await;
                change(&session);
                201
            }
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (201, None));
        assert_eq!(live(&store, "alice").await, 0);
        assert_eq!(peek(&layer, &cookie, "n").await, None);
    }
}

#[tokio::test]
async fn a_response_waits_for_its_commit_so_that_the_next_request_is_logged_in() {
    let (layer, _, cache) = trial(cloakroom::InMemoryCache::new());
    for operation in [Operation::Insert, Operation::Replace, Operation::Delete] {
        let cookie = start(&layer, "alice").await;
        let gate = cache.hold(operation);
        let (task, sent) = (layer.clone(), cookie.clone());
        let request = tokio::spawn(async move {
            let change: Change = match operation {
                Operation::Insert => Session::renew,
                Operation::Replace => write,
                _ => Session::destroy,
            };
            run(&task, Some(&sent), 303, change).await
        });
        gate.arrived().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!request.is_finished(), "{operation:?}");
        gate.open();
        assert_eq!(request.await.unwrap().status, 303);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn backpressure_on_one_thread_is_no_deadlock() {
    let (layer, store, cache) = trial(cloakroom::InMemoryCache::new());
    cache.yield_always(true);
    let cookie = start(&layer, "alice").await;
    let inner = service_fn(|request: Request<()>| async move {
        let session = request.extensions().get::<Session>().unwrap().clone();
        tokio::task::yield_now().await;
        session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
        Ok::<_, tower::BoxError>(Response::new(String::new()))
    });
    let service = layer.layer(Buffer::new(ConcurrencyLimit::new(inner, 2), 3));
    let requests: Vec<_> = (0..50).map(|_| tokio::spawn(service.clone().oneshot(request(Some(&cookie))))).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    let session = store.load(id(&cookie)).await.unwrap().unwrap();
    assert_eq!(session.get::<u64>("n"), Some(50));
}
