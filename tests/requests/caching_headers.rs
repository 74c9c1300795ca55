//! What caches between us and the browser are told, by `Vary` and `Cache-Control`: one row for each method of a session, and what becomes of the handler's own headers.
use std::{convert::Infallible, future::Future, pin::Pin, time::Duration};

use axum::{Router, body::Body, routing::get};
use cloakroom::{
    CacheErrorKind, InMemoryCache, Key, LazySession, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{HeaderMap, HeaderName, Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

type Cache = TestCache<InMemoryCache>;
type Layer = SessionLayer<Cache>;

struct Trial {
    cache: Cache,
    store: SessionStore<Cache>,
    eager: Layer,
    lazy: Layer,
    off: Layer,
}

fn trial() -> Trial {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let eager = SessionLayer::new(store.clone());
    let lazy = SessionLayer::builder(store.clone()).lazy(true).build().unwrap();
    let off = SessionLayer::builder(store.clone()).caching_headers(false).build().unwrap();
    Trial { cache, store, eager, lazy, off }
}

/// A stored session with `n` = 1, as a cookie.
async fn stored(store: &SessionStore<Cache>) -> String {
    let session = Session::new();
    session.set("n", 1).unwrap();
    format!("__Host-id={}", store.save(&session).await.unwrap().as_ref())
}

type Done = Pin<Box<dyn Future<Output = ()> + Send>>;
type Act = fn(Session) -> Done;

/// A request whose handler does this to the session in its extensions, and answers with these headers.
async fn run(
    layer: &Layer,
    cookie: Option<&str>,
    act: Act,
    status: u16,
    own: &[(HeaderName, &'static str)],
) -> Response<String> {
    let own = own.to_vec();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let own = own.clone();
        async move {
            let session = request.extensions().get::<Session>().unwrap().clone();
            act(session).await;
            let mut response = Response::builder().status(status);
            for (name, value) in own {
                response = response.header(name, value);
            }
            Ok::<_, Infallible>(response.body(String::new()).unwrap())
        }
    }));
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    service.oneshot(request.body(()).unwrap()).await.unwrap()
}

fn all(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

fn vary(headers: &HeaderMap) -> Vec<&str> {
    all(headers, header::VARY)
}

fn cache_control(headers: &HeaderMap) -> Vec<&str> {
    all(headers, header::CACHE_CONTROL)
}

fn nothing(_: Session) -> Done {
    Box::pin(async {})
}

macro_rules! acts {
    ($($name:literal: |$session:ident| $do:expr),* $(,)?) => {
        &[$(($name, |$session| Box::pin(async move { let _ = $do; }))),*]
    };
}

const NUMBER: Key<u64> = Key::new("n");

/// Every public method that only reads, and changes that come to nothing.
const READS: &[(&str, Act)] = acts![
    "get": |session| session.get::<u64>("n"),
    "get": |session| session.get::<u64>("absent"),
    "get": |session| session.get::<String>("n"),
    "get": |session| session.get(NUMBER),
    "try_get": |session| session.try_get::<u64>("n"),
    "try_get": |session| session.try_get::<u64>("absent"),
    "try_get": |session| session.try_get::<String>("n"),
    "contains_key": |session| session.contains_key("n"),
    "contains_key": |session| session.contains_key("absent"),
    "keys": |session| session.keys(),
    "len": |session| assert!(session.len() < 2),
    "is_empty": |session| assert_eq!(session.is_empty(), session.key().is_none()),
    "is_dirty": |session| assert!(!session.is_dirty()),
    "is_new": |session| assert!(session.is_new() || session.key().is_some()),
    "key": |session| session.key(),
    "owner": |session| session.owner(),
    "detach": |session| session.detach(),
    "detach": |session| session.detach().get::<u64>("n"),
    "revoke_others": |session| session.revoke_others().await,
    "owner_sessions": |session| session.owner_sessions(None, 10).await,
    "authenticated_at": |session| session.authenticated_at(),
    "authenticated_within": |session| session.authenticated_within(Duration::from_secs(60)),
    "created_at": |session| session.created_at(),
    "expires_at": |session| session.expires_at(),
    "reload": |session| session.reload().await,
    "take_now": |session| session.take_now::<u64>("absent").await,
    "remove": |session| session.remove("absent"),
    "take": |session| session.take::<u64>("absent"),
    "set": |session| session.set("m", 1).map(|()| session.remove("m")),
    "update": |session| session.contains_key("n").then(|| session.update("n", |n: Option<u64>| n.unwrap_or(1))),
];

/// Every other public method, such that no cookie is owed to a visitor who came with one.
const CHANGES: &[(&str, Act)] = acts![
    "set": |session| session.set("n", 1),
    "set": |session| session.set("n", 2),
    "update": |session| session.update("n", |n: Option<u64>| n.unwrap_or(1) + 1),
    "modify": |session| session.modify("n", |n: &mut u64| *n += 1),
    "set_ref": |session| session.set_ref("n", &3),
    "update_now": |session| session.update_now("n", |n: Option<u64>| n.unwrap_or(1) + 1).await,
    "take_now": |session| session.take_now::<u64>("n").await,
    "remove": |session| session.remove("n"),
    "take": |session| session.take::<u64>("n"),
    "clear": |session| session.clear(),
    "touch": |session| session.touch(),
    "commit": |session| session.commit().await,
    "set_ttl": |session| session.set_ttl(Duration::from_secs(60)),
    "set_lifetime": |session| session.set_lifetime(Duration::from_secs(60)),
    "set_owner": |session| session.set_owner("alice"),
    "clear_owner": |session| session.clear_owner(),
];

/// Methods after which a visitor who came with a cookie gets another one, or loses it.
const COOKIES: &[(&str, Act)] = acts![
    "renew": |session| session.renew(),
    "log_in": |session| session.log_in("alice"),
    "reauthenticated": |session| session.reauthenticated(),
    "destroy": |session| session.destroy(),
    "set_persistent": |session| session.set_persistent(true),
];

#[tokio::test]
async fn every_method_that_reads_makes_the_response_vary() {
    let trial = trial();
    for (name, act) in READS {
        let live = stored(&trial.store).await;
        let unknown = "__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for cookie in [Some(&*live), Some(unknown), Some("__Host-id=malformed"), None] {
            let response = run(&trial.eager, cookie, *act, 200, &[]).await;
            assert_eq!(vary(response.headers()), ["Cookie"], "{name} {cookie:?}");
            assert_eq!(cache_control(response.headers()), ["private"], "{name} {cookie:?}");
            assert_eq!(all(response.headers(), header::SET_COOKIE), [""; 0], "{name} {cookie:?}");
        }
    }
}

#[tokio::test]
async fn every_method_that_changes_makes_the_response_vary() {
    let trial = trial();
    for (name, act) in CHANGES {
        let cookie = stored(&trial.store).await;
        let response = run(&trial.eager, Some(&cookie), *act, 200, &[]).await;
        assert_eq!(all(response.headers(), header::SET_COOKIE), [""; 0], "{name}");
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec!["Cookie"], vec!["private"]));
    }
    for (name, act) in COOKIES {
        let cookie = stored(&trial.store).await;
        let response = run(&trial.eager, Some(&cookie), *act, 200, &[]).await;
        assert_eq!(all(response.headers(), header::SET_COOKIE).len(), 1, "{name}");
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec!["Cookie"], vec!["no-store"]));
    }
}

#[tokio::test]
async fn a_session_that_was_not_looked_at_adds_no_header() {
    let trial = trial();
    let live = stored(&trial.store).await;
    for cookie in [Some(&*live), Some("__Host-id=malformed"), None] {
        // Eager: loaded, taken out of the extensions by `run`, and dropped.
        let response = run(&trial.eager, cookie, nothing, 200, &[(header::CACHE_CONTROL, "public, max-age=60")]).await;
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec![], vec!["public, max-age=60"]));
        let response = run(&trial.eager, cookie, nothing, 200, &[]).await;
        assert!(response.headers().is_empty(), "{:?}", response.headers());
    }
    trial.cache.reset_calls();
    let idle = service_fn(|request: Request<()>| async move {
        assert!(request.extensions().get::<LazySession>().is_some());
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let request = Request::get("/").header(header::COOKIE, &live).body(()).unwrap();
    let response = trial.lazy.layer(idle).oneshot(request).await.unwrap();
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert_eq!(trial.cache.calls().total(), 0);
}

async fn ask(layer: &Layer, path: &str, cookie: &str) -> Response<Body> {
    let app = Router::new()
        .route("/session", get(|_: Session| async {}))
        .route("/option", get(|_: Option<Session>| async {}))
        .route("/handle", get(|_: LazySession| async {}))
        .route("/load", get(|lazy: LazySession| async move { lazy.load().await.map(drop) }))
        .layer(layer.clone());
    let request = Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap();
    app.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn who_asks_for_the_session_has_looked_at_it() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    for layer in [&trial.eager, &trial.lazy] {
        for path in ["/session", "/option", "/load"] {
            let response = ask(layer, path, &cookie).await;
            assert_eq!(response.status(), 200);
            assert_eq!(vary(response.headers()), ["Cookie"], "{path}");
            assert_eq!(cache_control(response.headers()), ["private"], "{path}");
        }
        let response = ask(layer, "/handle", &cookie).await;
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec![], vec![]));
    }
}

/// A future that keeps its request until it is dropped.
struct Keeps(Option<Request<()>>);

impl Future for Keeps {
    type Output = Result<Response<String>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        assert!(self.0.is_some());
        std::task::Poll::Ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn what_the_handlers_future_keeps_is_not_read_any_more() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    for layer in [&trial.eager, &trial.lazy] {
        let service = layer.layer(service_fn(|request: Request<()>| Keeps(Some(request))));
        let request = Request::get("/").header(header::COOKIE, &cookie).body(()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec![], vec![]));
    }
}

#[tokio::test]
async fn an_error_in_place_of_the_session_is_stored_nowhere() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    trial.cache.fail_all(CacheErrorKind::Unavailable);
    for layer in [&trial.eager, &trial.lazy] {
        for path in ["/session", "/option", "/load"] {
            let response = ask(layer, path, &cookie).await;
            assert_eq!(response.status(), 503);
            assert_eq!(vary(response.headers()), ["Cookie"], "{path}");
            assert_eq!(cache_control(response.headers()), ["no-store"], "{path}");
        }
        let response = ask(layer, "/handle", &cookie).await;
        assert_eq!((response.status().as_u16(), vary(response.headers())), (200, vec![]));
    }
}

#[tokio::test]
async fn an_error_response_of_ones_own_is_no_exception() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    let own = |error: &SessionError| {
        Response::builder()
            .status(error.status())
            .header(header::CACHE_CONTROL, "max-age=5")
            .body(Body::empty())
            .unwrap()
    };
    let app = Router::new().route("/", get(|session: Session| async move { session.set("n", 2) }));
    let own = app.clone().layer(SessionLayer::builder(trial.store.clone()).on_error(own).build().unwrap());
    trial.cache.fail(Operation::Replace, CacheErrorKind::Unavailable);
    for (app, sent) in [(app.layer(trial.eager.clone()), "no-store"), (own, "private, max-age=5")] {
        let request = Request::get("/").header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec!["Cookie"], vec![sent]));
    }
}

/// What the handler said; what is sent with a session cookie, and when the session was only read.
const CACHE_CONTROLS: [(&str, &str, &str); 14] = [
    ("", "no-store", "private"),
    ("public", "no-store", "private"),
    ("public, max-age=3600", "no-store", "private, max-age=3600"),
    ("PUBLIC, Max-Age=3600", "no-store", "private, Max-Age=3600"),
    ("max-age=60", "no-store", "private, max-age=60"),
    ("s-maxage=60", "no-store", "private"),
    ("s-maxage=60, no-transform", "no-store", "private, no-transform"),
    ("no-cache", "no-store", "private, no-cache"),
    ("must-revalidate", "no-store", "private, must-revalidate"),
    ("private", "private", "private"),
    ("private, max-age=60", "private, max-age=60", "private, max-age=60"),
    ("no-store", "no-store", "no-store"),
    ("no-cache, No-Store", "no-cache, No-Store", "no-cache, No-Store"),
    ("private=\"set-cookie\", max-age=60", "no-store", "private, max-age=60"),
];

fn read(session: Session) -> Done {
    assert_eq!(session.get("n"), Some(1));
    Box::pin(async {})
}

#[tokio::test]
async fn what_the_handler_said_gives_way_to_privacy() {
    let trial = trial();
    for (said, with_cookie, read_only) in CACHE_CONTROLS {
        let own = [(header::CACHE_CONTROL, said)];
        let own = if said.is_empty() { &[][..] } else { &own[..] };
        let cookie = stored(&trial.store).await;
        let response = run(&trial.eager, Some(&cookie), read, 200, own).await;
        assert_eq!(cache_control(response.headers()), [read_only], "read, {said:?}");
        for (name, act) in COOKIES {
            let cookie = stored(&trial.store).await;
            let response = run(&trial.eager, Some(&cookie), *act, 200, own).await;
            assert_eq!(cache_control(response.headers()), [with_cookie], "{name}, {said:?}");
        }
        let new: Act = |session| Box::pin(async move { session.set("n", 1).unwrap() });
        let response = run(&trial.eager, None, new, 200, own).await;
        assert!(response.headers().contains_key(header::SET_COOKIE));
        assert_eq!(cache_control(response.headers()), [with_cookie], "a new session, {said:?}");
    }
}

#[tokio::test]
async fn several_fields_are_one_list() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    let own = [(header::CACHE_CONTROL, "public"), (header::CACHE_CONTROL, "max-age=60")];
    let response = run(&trial.eager, Some(&cookie), read, 200, &own).await;
    assert_eq!(cache_control(response.headers()), ["private, max-age=60"]);
    let response = run(&trial.eager, Some(&cookie), COOKIES[0].1, 200, &own).await;
    assert_eq!(cache_control(response.headers()), ["no-store"]);
}

#[tokio::test]
async fn a_vary_of_the_handlers_own_is_kept() {
    let trial = trial();
    let rows: [(&[&'static str], &[&str]); 6] = [
        (&["Accept-Encoding"], &["Accept-Encoding", "Cookie"]),
        (&["Accept, Origin", "Referer"], &["Accept, Origin", "Referer", "Cookie"]),
        (&["cookie"], &["cookie"]),
        (&["Accept,COOKIE ,Origin"], &["Accept,COOKIE ,Origin"]),
        (&["*"], &["*"]),
        (&["Cookie2, Set-Cookie"], &["Cookie2, Set-Cookie", "Cookie"]),
    ];
    for (said, sent) in rows {
        let own: Vec<_> = said.iter().map(|value| (header::VARY, *value)).collect();
        for act in [read, COOKIES[0].1] {
            let cookie = stored(&trial.store).await;
            let response = run(&trial.eager, Some(&cookie), act, 200, &own).await;
            assert_eq!(vary(response.headers()), sent);
        }
    }
}

#[tokio::test]
async fn a_status_changes_nothing() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    for status in [200, 204, 206, 302, 304, 404, 500] {
        let response = run(&trial.eager, Some(&cookie), read, status, &[]).await;
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec!["Cookie"], vec!["private"]));
    }
    // The cookie of an explicit commit goes out with a 500 too.
    let early: Act = |session| {
        session.set("n", 1).unwrap();
        Box::pin(async move { session.commit().await.unwrap() })
    };
    let response = run(&trial.eager, None, early, 500, &[(header::CACHE_CONTROL, "public")]).await;
    assert_eq!(all(response.headers(), header::SET_COOKIE).len(), 1);
    assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec!["Cookie"], vec!["no-store"]));
}

#[tokio::test]
async fn a_method_changes_nothing() {
    let trial = trial();
    let cookie = stored(&trial.store).await;
    let look = service_fn(|request: Request<()>| async move {
        read(request.extensions().get::<Session>().unwrap().clone()).await;
        Ok::<_, Infallible>(Response::new(()))
    });
    for method in ["GET", "HEAD", "OPTIONS", "POST"] {
        let request = Request::builder().method(method).header(header::COOKIE, &cookie).body(()).unwrap();
        let response = trial.eager.layer(look).oneshot(request).await.unwrap();
        let headers = response.headers();
        assert_eq!((vary(headers), cache_control(headers)), (vec!["Cookie"], vec!["private"]), "{method}");
    }
    // A preflight carries no cookies, and its session is not looked at.
    let preflight = Request::options("/").header(header::ORIGIN, "https://example.org").body(()).unwrap();
    let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(())) });
    let response = trial.eager.layer(answer).oneshot(preflight).await.unwrap();
    assert!(response.headers().is_empty());
}

#[tokio::test]
async fn one_switch_turns_all_of_it_off() {
    let trial = trial();
    let own = [(header::VARY, "Accept"), (header::CACHE_CONTROL, "public, max-age=60")];
    for (name, act) in READS.iter().chain(CHANGES).chain(COOKIES) {
        let cookie = stored(&trial.store).await;
        let response = run(&trial.off, Some(&cookie), *act, 200, &[]).await;
        assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec![], vec![]), "{name}");
        let cookie = stored(&trial.store).await;
        let response = run(&trial.off, Some(&cookie), *act, 200, &own).await;
        assert_eq!(vary(response.headers()), ["Accept"], "{name}");
        assert_eq!(cache_control(response.headers()), ["public, max-age=60"], "{name}");
    }
    let new: Act = |session| Box::pin(async move { session.set("n", 1).unwrap() });
    let response = run(&trial.off, None, new, 200, &[]).await;
    assert!(response.headers().contains_key(header::SET_COOKIE), "cookies are no matter of the switch");
    assert_eq!((vary(response.headers()), cache_control(response.headers())), (vec![], vec![]));
}
