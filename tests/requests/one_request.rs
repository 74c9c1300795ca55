//! One request and its session: what it costs the cache, what becomes of its changes, and what the browser is told.
#![allow(dropping_copy_types, reason = "`drop` ignores what a method returns, whatever it is")]
use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use cloakroom::{
    BoxedCache, CacheErrorKind, InMemoryCache, LazySession, Refresh, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    six_methods::{SixMethods, Twist},
    web::{Reply, peek, send},
};

type Cache = TestCache<InMemoryCache>;

fn trial() -> (SessionLayer<Cache>, SessionStore<Cache>, Cache) {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    (SessionLayer::new(store.clone()), store, cache)
}

fn counts(cache: &Cache) -> Vec<(Operation, usize)> {
    use Operation::{Delete, Get, GetAndTouch, Insert, List, Replace, Touch};
    let calls = cache.calls();
    let all = [Get, GetAndTouch, Insert, Replace, Touch, Delete, List];
    all.into_iter().map(|operation| (operation, calls.of(operation))).filter(|(_, count)| *count > 0).collect()
}

/// A cookie of a session with `n` = 0 and no owner.
async fn plain(layer: &SessionLayer<Cache>) -> String {
    let set = |session: Session| async move { session.set("n", 0).map_or(500, |()| 200) };
    send(layer, None, set).await.cookie().unwrap()
}

type Do = fn(Session);
/// What is done, whether with a cookie, and what it costs.
type CostOf = (&'static str, bool, Do, Vec<(Operation, usize)>);

#[tokio::test]
async fn the_cost_of_a_request() {
    use Operation::{Delete, Get, GetAndTouch, Insert, Replace, Touch};
    let read: Do = |session| drop(session.get::<u64>("n"));
    let write: Do = |session| session.set("n", 1).unwrap();
    let same: Do = |session| session.set("n", 0).unwrap();
    let undone: Do = |session| {
        session.set("new", 1).unwrap();
        session.remove("new");
    };
    let touch: Do = |session| session.touch();
    let renew: Do = |session| session.renew();
    let destroy: Do = |session| session.destroy();
    let all: Do = |session| {
        session.touch();
        session.set("n", 1).unwrap();
        session.renew();
        session.destroy();
    };
    for lazy in [false, true] {
        for (refresh, loads) in [(Refresh::OnWrite, Get), (Refresh::OnLoad, GetAndTouch)] {
            let table: [CostOf; 13] = [
                ("no cookie, read", false, read, vec![]),
                ("no cookie, set and removed", false, undone, vec![]),
                ("no cookie, touched", false, touch, vec![]),
                ("no cookie, renewed", false, renew, vec![]),
                ("no cookie, destroyed", false, destroy, vec![]),
                ("no cookie, written", false, write, vec![(Insert, 1)]),
                ("read", true, read, vec![(loads, 1)]),
                ("set to what it was", true, same, vec![(loads, 1)]),
                ("set and removed", true, undone, vec![(loads, 1)]),
                ("written", true, write, vec![(loads, 1), (Replace, 1)]),
                ("renewed", true, renew, vec![(loads, 1), (Insert, 1), (Replace, 1)]),
                ("destroyed", true, destroy, vec![(loads, 1), (Delete, 1)]),
                ("everything at once is a destroy", true, all, vec![(loads, 1), (Delete, 1)]),
            ];
            for (name, with_cookie, does, cost) in table {
                let cache = TestCache::new(InMemoryCache::new());
                let builder = SessionLayer::builder(SessionStore::new(cache.clone())).refresh(refresh);
                let layer = if lazy { builder.lazy(true).build().unwrap() } else { builder.build().unwrap() };
                let cookie = plain(&layer).await;
                cache.reset_calls();
                send(&layer, with_cookie.then_some(&*cookie), move |session| async move {
                    does(session);
                    200
                })
                .await;
                assert_eq!(counts(&cache), cost, "{name}, lazy {lazy}, {refresh:?}");
            }
        }
    }
    let (layer, _, cache) = trial();
    let cookie = plain(&layer).await;
    cache.reset_calls();
    send(&layer, Some(&cookie), |session| async move {
        session.touch();
        200
    })
    .await;
    assert_eq!(counts(&cache), [(Get, 1), (Touch, 1)]);
}

/// Runs a service that does not ask for its session.
async fn ignore(layer: &SessionLayer<Cache>, cookie: Option<&str>) -> Response<String> {
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new("served".to_owned())) });
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    layer.layer(inner).oneshot(request.body(()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_session_that_is_not_asked_for() {
    let (eager, store, cache) = trial();
    let lazy = SessionLayer::builder(store).lazy(true).build().unwrap();
    let cookie = plain(&eager).await;
    for (layer, cost) in [(&eager, vec![(Operation::Get, 1)]), (&lazy, vec![])] {
        cache.reset_calls();
        let response = ignore(layer, Some(&cookie)).await;
        assert_eq!(counts(&cache), cost);
        assert!(response.headers().is_empty(), "{:?}", response.headers());
        assert!(ignore(layer, None).await.headers().is_empty());
    }
    // An outage concerns only those who ask.
    cache.fail_all(CacheErrorKind::Unavailable);
    for layer in [&eager, &lazy] {
        assert_eq!(ignore(layer, Some(&cookie)).await.status(), 200);
        let reply = send(layer, Some(&cookie), |_| async { 200 }).await;
        assert_eq!((reply.status, reply.cookie(), &*reply.body), (503, None, "no session"));
    }
    cache.heal();
    assert_eq!(peek(&eager, &cookie, "n").await, Some(0), "the same cookie works afterwards");
}

#[tokio::test]
async fn a_reading_request_sets_no_cookie() {
    let (layer, _, _) = trial();
    let cookie = plain(&layer).await;
    for _ in 0..100 {
        let reply = send(&layer, Some(&cookie), |session| async move {
            let _ = session.get::<u64>("n");
            200
        })
        .await;
        assert_eq!(reply.cookie(), None);
    }
}

#[tokio::test]
async fn an_unknown_id_is_never_adopted_whatever_is_called() {
    let calls: [(&str, Do, bool); 13] = [
        ("get", |session| drop(session.get::<u64>("n")), false),
        ("set", |session| session.set("n", 1).unwrap(), true),
        ("update", |session| drop(session.update("m", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap()), true),
        ("remove", |session| drop(session.remove("n")), false),
        ("take", |session| drop(session.take::<u64>("n").unwrap()), false),
        ("clear", |session| session.clear(), false),
        ("touch", |session| session.touch(), false),
        ("renew", |session| session.renew(), false),
        ("ttl", |session| session.set_ttl(Duration::from_secs(60)).unwrap(), false),
        ("persistent", |session| session.set_persistent(true).unwrap(), false),
        ("owner", |session| session.set_owner("alice").unwrap(), true),
        ("destroy", |session| session.destroy(), false),
        ("detach", |session| drop(session.detach()), false),
    ];
    let (layer, store, cache) = trial();
    let ids = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "attacker-chosen_attacker-chosen_0"];
    for id in ids {
        for first in 0..calls.len() {
            for second in 0..calls.len() {
                for third in [0, 1, 5, 7, 11] {
                    let order = [first, second, third];
                    let reply = send(&layer, Some(&format!("__Host-id={id}")), move |session| async move {
                        for at in order {
                            calls[at].1(session.clone());
                        }
                        200
                    })
                    .await;
                    let names = order.map(|at| calls[at].0);
                    assert!(store.load(id).await.unwrap().is_none(), "{names:?}");
                    match reply.cookie() {
                        Some(cookie) => {
                            assert!(!cookie.ends_with(id) && !cookie.ends_with('='), "{names:?}");
                            assert!(order.iter().any(|at| calls[*at].2), "{names:?}");
                        }
                        None if names.contains(&"destroy") => {}
                        None => {
                            let stored = order.iter().any(|at| calls[*at].2);
                            let undone =
                                names.contains(&"clear") || names.contains(&"remove") || names.contains(&"take");
                            assert!(!stored || undone, "{names:?}");
                        }
                    }
                }
            }
        }
    }
    let before = cache.inner().len();
    for id in ids {
        ignore(&layer, Some(&format!("__Host-id={id}"))).await;
    }
    assert_eq!(cache.inner().len(), before);
}

#[tokio::test]
async fn ones_own_error_response_and_a_body_without_default() {
    struct Text(&'static str);
    let cache = TestCache::new(InMemoryCache::new());
    let layer = SessionLayer::builder(SessionStore::new(cache.clone()))
        .on_error(|error: &SessionError| {
            let mut response = Response::new(Text("sorry"));
            *response.status_mut() = if error.cache_kind() == Some(CacheErrorKind::Full) {
                StatusCode::INSUFFICIENT_STORAGE
            } else {
                error.status()
            };
            response
        })
        .build()
        .unwrap();
    cache.fail_once(Operation::Insert, CacheErrorKind::Full);
    let inner = service_fn(|request: Request<()>| async move {
        request.extensions().get::<Session>().unwrap().set("n", 1).unwrap();
        Ok::<_, Infallible>(Response::new(Text("handler")))
    });
    let response = layer.layer(inner).oneshot(Request::new(())).await.unwrap();
    assert_eq!((response.status(), response.body().0), (StatusCode::INSUFFICIENT_STORAGE, "sorry"));
}

#[tokio::test]
async fn one_load_a_request_however_many_ask() {
    let (_, store, cache) = trial();
    let layer = SessionLayer::builder(store).lazy(true).build().unwrap();
    let cookie = plain(&layer).await;
    cache.yield_always(true);
    cache.reset_calls();
    let inner = service_fn(|request: Request<()>| async move {
        let lazy = request.extensions().get::<LazySession>().unwrap();
        assert!(request.extensions().get::<Session>().is_none(), "lazy");
        let (one, other) = tokio::join!(lazy.load(), lazy.load());
        one.unwrap().set("n", 5).unwrap();
        assert_eq!(other.unwrap().get::<u64>("n"), Some(5), "the same session");
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let request = Request::get("/").header(header::COOKIE, &cookie).body(()).unwrap();
    layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(counts(&cache), [(Operation::Get, 1), (Operation::Replace, 1)]);
    // A failure is remembered, too.
    cache.reset_calls();
    cache.fail_once(Operation::Get, CacheErrorKind::Unavailable);
    let inner = service_fn(|request: Request<()>| async move {
        let lazy = request.extensions().get::<LazySession>().unwrap();
        assert!(lazy.load().await.is_err() && lazy.load().await.is_err());
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let request = Request::get("/").header(header::COOKIE, &cookie).body(()).unwrap();
    layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(counts(&cache), [(Operation::Get, 1)]);
}

#[tokio::test]
async fn a_service_is_called_only_when_it_is_ready_and_its_clone_waits() {
    #[derive(Default)]
    struct Careful {
        ready: bool,
    }
    impl Clone for Careful {
        fn clone(&self) -> Self {
            Self::default()
        }
    }
    impl Service<Request<()>> for Careful {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            self.ready = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "called before it was ready");
            std::future::ready(Ok(Response::new(String::new())))
        }
    }
    let (layer, _, cache) = trial();
    let cookie = plain(&layer).await;
    for waits in [false, true] {
        cache.yield_always(waits);
        let mut service = layer.layer(Careful::default());
        for _ in 0..3 {
            let request = Request::get("/").header(header::COOKIE, &cookie).body(()).unwrap();
            service.ready().await.unwrap().call(request).await.unwrap();
        }
    }
    cache.yield_always(true);
    let limited = tower::limit::ConcurrencyLimit::new(Careful::default(), 1);
    let service = layer.layer(limited);
    let requests = (0..20).map(|_| {
        let request = Request::get("/").header(header::COOKIE, &cookie).body(()).unwrap();
        tokio::spawn(service.clone().oneshot(request))
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn two_layers_do_not_mix() {
    let cache = BoxedCache::new(InMemoryCache::new());
    let layer = |name: &str, prefix: &str| {
        let store = SessionStore::new(cache.clone()).key_prefix(prefix);
        SessionLayer::builder(store).cookie_name(name).build().unwrap()
    };
    let (outer, inner) = (layer("__Host-outer", "outer:"), layer("__Host-inner", "inner:"));
    let app = Router::new()
        .route("/inner", get(|session: Session| async move { session.set("who", "inner") }))
        .layer(inner)
        .route("/outer", get(|session: Session| async move { session.set("who", "outer") }))
        .layer(outer);
    for (path, name) in [("/inner", "__Host-inner="), ("/outer", "__Host-outer=")] {
        let response = app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(cookies.len(), 1);
        assert!(cookies[0].to_str().unwrap().starts_with(name));
    }
}

/// With a lazy inner layer, and with one whose cache is down, the outer layer's session is not in the extensions.
#[tokio::test]
async fn an_outer_layers_session_is_not_an_inner_ones() {
    for lazy in [true, false] {
        let (outer, _, _) = trial();
        let cookie = plain(&outer).await;
        let cache = TestCache::new(InMemoryCache::new());
        let inner = SessionLayer::builder(SessionStore::new(cache.clone())).cookie_name("inner").secure(false);
        let inner = inner.lazy(lazy).build().unwrap();
        cache.fail_all(CacheErrorKind::Unavailable);
        let handler = service_fn(|request: Request<()>| async move {
            let found = request.extensions().get::<Session>().is_some();
            Ok::<_, Infallible>(Response::new(found.to_string()))
        });
        let service = outer.layer(inner.layer(handler));
        let other = format!("{cookie}; inner={}", "A".repeat(32));
        let request = Request::get("/").header(header::COOKIE, other).body(()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().into_body(), "false", "lazy: {lazy}");
    }
}

/// One answer for an error of a commit, of an extractor, and for one that a handler returns.
#[tokio::test]
async fn on_error_answers_for_extractors_and_handlers_too() {
    let (_, store, cache) = trial();
    let layer = SessionLayer::builder(store).on_error(|error: &SessionError| {
        Response::builder().status(error.status()).body(Body::from("our own words")).unwrap()
    });
    let app = Router::new()
        .route("/extractor", get(|_: Session| async { "loaded" }))
        .route("/handler", get(|session: Session| async move { session.set("n", f64::NAN) }))
        .route("/commit", get(|session: Session| async move { session.set("n", 1) }))
        .layer(layer.build().unwrap());
    let unknown = format!("__Host-id={}", "A".repeat(32));
    for (path, cookie, operation, status) in [
        ("/extractor", Some(&*unknown), Some(Operation::Get), 503),
        ("/handler", None, None, 500),
        ("/commit", None, Some(Operation::Insert), 503),
    ] {
        if let Some(operation) = operation {
            cache.fail_once(operation, CacheErrorKind::Unavailable);
        }
        let mut request = Request::get(path);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "our own words", "{path}");
    }
}

#[tokio::test]
async fn extractors_with_and_without_the_layer() {
    async fn text(app: &Router, path: &str, cookie: Option<&str>) -> (u16, String) {
        let mut request = Request::get(path);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
    let routes = Router::new()
        .route("/session", get(|_: Session| async { "session" }))
        .route("/option", get(|session: Option<Session>| async move { session.is_some().to_string() }))
        .route("/lazy", get(|_: LazySession| async { "lazy" }));
    for path in ["/session", "/lazy"] {
        let (status, body) = text(&routes, path, None).await;
        assert_eq!(status, 500);
        assert!(body.contains("SessionLayer"), "{body}");
    }
    assert_eq!(text(&routes, "/option", None).await, (200, "false".into()));
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let id = store.save(&Session::new()).await.unwrap();
    let app = routes.layer(SessionLayer::new(store));
    let cookie = format!("__Host-id={}", id.as_ref());
    assert_eq!(text(&app, "/session", Some(&cookie)).await, (200, "session".into()));
    assert_eq!(text(&app, "/option", None).await, (200, "true".into()));
    cache.fail_all(CacheErrorKind::Refused);
    assert_eq!(text(&app, "/lazy", Some(&cookie)).await, (200, "lazy".into()));
    for path in ["/session", "/option"] {
        let (status, body) = text(&app, path, Some(&cookie)).await;
        assert_eq!(status, 503, "an outage is no empty session");
        assert!(!body.contains("test"), "nothing of the cause: {body}");
    }
    let response = SessionError::Gone.into_response();
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn too_large_is_an_error_and_the_old_data_stays() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone()).max_bytes(1000);
    let layer = SessionLayer::new(store.clone());
    let cookie = plain(&layer).await;
    let reply = send(&layer, Some(&cookie), |session| async move {
        let error = session.set("n", "x".repeat(1001)).unwrap_err();
        assert!(matches!(error, SessionError::TooLarge { limit: 1000, .. }));
        assert_eq!(session.get::<u64>("n"), Some(0));
        200
    })
    .await;
    assert_eq!(reply.status, 200);
    let reply: Reply = send(&layer, Some(&cookie), |session| async move {
        for key in 0..10 {
            session.set(format!("key {key}"), "x".repeat(100)).unwrap();
        }
        200
    })
    .await;
    assert_eq!(reply.status, 500);
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    assert_eq!(store.load(cookie.split_once('=').unwrap().1).await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cache_that_hangs_costs_no_more_than_the_deadline() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone()).deadline(Duration::from_millis(50));
    let layer = SessionLayer::new(store.clone());
    let cookie = plain(&layer).await;
    for operation in [Operation::Get, Operation::Replace] {
        let gate = cache.hold(operation);
        let begun = std::time::Instant::now();
        let reply = send(&layer, Some(&cookie), |session| async move {
            session.set("n", 1).unwrap();
            200
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (503, None), "{operation:?}");
        assert!(begun.elapsed() < Duration::from_secs(2));
        gate.open();
    }
    let gate = cache.hold(Operation::Get);
    let error = store.load(cookie.split_once('=').unwrap().1).await.unwrap_err();
    assert_eq!(error.cache_kind(), Some(CacheErrorKind::Timeout));
    gate.open();
}

#[tokio::test]
async fn a_body_that_never_ends_is_passed_on_at_once() {
    let (layer, _, _) = trial();
    let inner = service_fn(|request: Request<()>| async move {
        request.extensions().get::<Session>().unwrap().set("n", 1).unwrap();
        // Nothing is known of this body but that it exists.
        Ok::<_, Infallible>(Response::new(Some(Arc::new(std::sync::Mutex::new(std::iter::repeat(b'x'))))))
    });
    let response = layer.layer(inner).oneshot(Request::new(())).await.unwrap();
    assert!(response.headers().contains_key(header::SET_COOKIE));
    assert_eq!(response.into_body().unwrap().lock().unwrap().next(), Some(b'x'));
}

#[test]
fn everything_is_send_and_sync_for_a_cache_that_is_not_clone() {
    struct NotClone;
    impl Twist for NotClone {}
    fn free<T: Clone + Send + Sync + 'static>(_: &T) {}
    let store = SessionStore::new(SixMethods { inner: InMemoryCache::new(), twist: NotClone });
    free(&store);
    let layer = SessionLayer::new(store);
    free(&layer);
    free(&layer.layer(Router::<()>::new()));
    free(&Session::new());
}

#[test]
fn debug_names_each_type_and_what_is_inside() {
    let store = SessionStore::new(InMemoryCache::new());
    let builder = SessionLayer::builder(store);
    let shown = format!("{builder:?}");
    assert!(shown.starts_with("SessionLayerBuilder") && shown.contains("__Host-id"), "{shown}");
    let layer = builder.build().unwrap();
    let shown = format!("{layer:?}");
    assert!(shown.starts_with("SessionLayer") && shown.contains("__Host-id"), "{shown}");
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let mut service = layer.layer(inner);
    let shown = format!("{service:?}");
    assert!(shown.starts_with("SessionService") && shown.contains("ServiceFn"), "{shown}");
    assert!(format!("{:?}", service.call(Request::new(()))).starts_with("ResponseFuture"));
}
