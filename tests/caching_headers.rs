//! What caches between us and the browser are told of a response that has to do with a session.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{future::Future, pin::Pin};

use cloakroom::{
    CacheErrorKind, InMemoryCache, LazySession, Session, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{HeaderMap, HeaderName, Method, Request, Response, header};

mod common;

use common::{request, serve, web};
use web::send;

type Layer = SessionLayer<TestCache<InMemoryCache>>;

/// A session, and the layers that it can be reached through.
struct Trial {
    cache: TestCache<InMemoryCache>,
    eager: Layer,
    lazy: Layer,
    silent: Layer,
    cookie: String,
}

async fn trial() -> Trial {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let eager = SessionLayer::new(store.clone());
    let lazy = SessionLayer::builder(store.clone()).lazy().build().unwrap();
    let silent = SessionLayer::builder(store).caching_headers(false).build().unwrap();
    let reply = send(&eager, None, |session| async move {
        session.set("n", 1).unwrap();
        200
    });
    let cookie = reply.await.cookie().unwrap();
    Trial { cache, eager, lazy, silent, cookie }
}

fn values(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// `Vary` and `Cache-Control` of a response.
fn said(headers: &HeaderMap) -> (Vec<&str>, Vec<&str>) {
    (values(headers, header::VARY), values(headers, header::CACHE_CONTROL))
}

type Look = fn(&Session);

/// Every way to look at a session without changing it.
const LOOKS: [(&str, Look); 12] = [
    ("get", |session| assert!(session.get::<u64>("n").is_none_or(|n| n == 1))),
    ("get of nothing", |session| assert!(session.get::<u64>("nothing").is_none())),
    ("try_get", |session| assert!(session.try_get::<u64>("n").is_ok())),
    ("contains_key", |session| assert!(!session.contains_key("nothing"))),
    ("keys", |session| assert!(session.keys().len() < 2)),
    ("len", |session| assert!(session.len() < 2)),
    ("is_empty", |session| assert_eq!(session.is_empty(), session.keys().is_empty())),
    ("is_new", |session| assert_eq!(session.is_new(), session.key().is_none())),
    ("is_dirty", |session| assert!(!session.is_dirty())),
    ("key", |session| assert_eq!(session.key().is_none(), session.is_new())),
    ("owner", |session| assert!(session.owner().is_none())),
    ("detach", |session| assert!(!session.detach().is_dirty())),
];

/// Every change that comes to nothing.
const NO_CHANGES: [(&str, Look); 4] = [
    ("remove of nothing", |session| assert!(session.remove("nothing").is_none())),
    ("take of nothing", |session| assert!(session.take::<u64>("nothing").unwrap().is_none())),
    ("set and remove", |session| {
        session.set("m", 1).unwrap();
        session.remove("m");
    }),
    ("update to the same", |session| {
        if session.contains_key("n") {
            session.update("n", |n: Option<u64>| n.unwrap_or_default()).unwrap();
        }
    }),
];

#[tokio::test]
async fn every_single_way_to_look_at_a_session_makes_the_response_vary() {
    let trial = trial().await;
    for (name, look) in LOOKS.into_iter().chain(NO_CHANGES) {
        for cookie in [Some(&*trial.cookie), None, Some("__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")] {
            let response = serve(&trial.eager, request(cookie), move |request| {
                look(request.extensions().get::<Session>().unwrap());
                async { Response::new(String::new()) }
            })
            .await;
            assert_eq!(said(response.headers()), (vec!["Cookie"], vec!["private"]), "{name}");
            assert!(!response.headers().contains_key(header::SET_COOKIE), "{name}");
        }
    }
}

#[tokio::test]
async fn a_session_nobody_looked_at_adds_nothing() {
    let trial = trial().await;
    for layer in [&trial.eager, &trial.lazy] {
        for cookie in [Some(&*trial.cookie), None, Some("__Host-id=nonsense")] {
            let response = serve(layer, request(cookie), |request| async move {
                assert!(request.extensions().get::<LazySession>().is_some());
                let kept = request.extensions().get::<Session>().cloned();
                drop(kept);
                Response::builder().header(header::CACHE_CONTROL, "public, max-age=60").body(String::new()).unwrap()
            })
            .await;
            assert_eq!(said(response.headers()), (vec![], vec!["public, max-age=60"]));
        }
    }
}

#[tokio::test]
async fn who_loads_a_session_has_looked_at_it() {
    let trial = trial().await;
    for layer in [&trial.eager, &trial.lazy] {
        let response = serve(layer, request(Some(&trial.cookie)), |request| async move {
            request.extensions().get::<LazySession>().unwrap().load().await.unwrap();
            Response::new(String::new())
        })
        .await;
        assert_eq!(said(response.headers()), (vec!["Cookie"], vec!["private"]));
    }
}

#[tokio::test]
async fn a_response_with_the_session_cookie_is_stored_nowhere() {
    let trial = trial().await;
    let changes: [(bool, Look); 4] = [
        (false, |session| session.set("n", 1).unwrap()),
        (true, |session| session.renew()),
        (true, |session| session.set_persistent(true).unwrap()),
        (true, |session| session.destroy()),
    ];
    for (with_cookie, change) in changes {
        for (handler, kept) in [
            (None, "no-store"),
            (Some("public, max-age=3600"), "no-store"),
            (Some("max-age=60"), "no-store"),
            (Some("s-maxage=60"), "no-store"),
            (Some("no-cache"), "no-store"),
            (Some("private, max-age=60"), "private, max-age=60"),
            (Some("no-store"), "no-store"),
        ] {
            let session = cloakroom::Session::new();
            session.set("n", 1).unwrap();
            let id = trial.eager.store().save(&session).await.unwrap();
            let cookie = format!("__Host-id={}", id.as_ref());
            let response = serve(&trial.eager, request(with_cookie.then_some(&*cookie)), move |request| {
                change(request.extensions().get::<Session>().unwrap());
                let mut response = Response::builder();
                if let Some(handler) = handler {
                    response = response.header(header::CACHE_CONTROL, handler);
                }
                async { response.body(String::new()).unwrap() }
            })
            .await;
            let set_cookie = response.headers().contains_key(header::SET_COOKIE);
            assert!(set_cookie, "{handler:?}");
            assert_eq!(said(response.headers()), (vec!["Cookie"], vec![kept]), "{handler:?}");
        }
    }
}

#[tokio::test]
async fn a_page_that_reads_its_session_is_private_whatever_the_handler_said() {
    let trial = trial().await;
    for (handler, kept) in [
        ("public, max-age=3600", "private, max-age=3600"),
        ("max-age=60", "private, max-age=60"),
        ("s-maxage=60, no-transform", "private, no-transform"),
        ("no-cache", "private, no-cache"),
        ("no-store", "no-store"),
        ("private", "private"),
    ] {
        let response = serve(&trial.eager, request(Some(&trial.cookie)), move |request| {
            assert_eq!(request.extensions().get::<Session>().unwrap().get("n"), Some(1));
            async move { Response::builder().header(header::CACHE_CONTROL, handler).body(String::new()).unwrap() }
        })
        .await;
        assert_eq!(values(response.headers(), header::CACHE_CONTROL), [kept], "{handler}");
    }
}

#[tokio::test]
async fn the_handlers_vary_is_kept_and_cookie_is_in_it_once() {
    let trial = trial().await;
    let rows: [(&[&str], &[&str]); 6] = [
        (&["Accept"], &["Accept", "Cookie"]),
        (&["Accept", "Origin"], &["Accept", "Origin", "Cookie"]),
        (&["Cookie"], &["Cookie"]),
        (&["accept, COOKIE"], &["accept, COOKIE"]),
        (&["*"], &["*"]),
        (&["X-Cookie"], &["X-Cookie", "Cookie"]),
    ];
    for (handler, expected) in rows {
        let response = serve(&trial.eager, request(Some(&trial.cookie)), move |request| {
            assert!(!request.extensions().get::<Session>().unwrap().is_empty());
            let mut response = Response::builder();
            for vary in handler {
                response = response.header(header::VARY, *vary);
            }
            async { response.body(String::new()).unwrap() }
        })
        .await;
        assert_eq!(values(response.headers(), header::VARY), expected);
    }
}

#[tokio::test]
async fn one_switch_turns_all_of_it_off() {
    let trial = trial().await;
    let looks: [Look; 3] = [|session| drop(session.keys()), |session| session.renew(), |session| session.destroy()];
    for look in looks {
        for handler in ["", "public, max-age=60"] {
            let session = cloakroom::Session::new();
            let id = trial.silent.store().save(&session).await.unwrap();
            let cookie = format!("__Host-id={}", id.as_ref());
            let response = serve(&trial.silent, request(Some(&cookie)), move |request| {
                look(request.extensions().get::<Session>().unwrap());
                let mut response = Response::new(String::new());
                if !handler.is_empty() {
                    response.headers_mut().insert(header::CACHE_CONTROL, handler.parse().unwrap());
                }
                async { response }
            })
            .await;
            let expected: Vec<_> = Some(handler).filter(|text| !text.is_empty()).into_iter().collect();
            assert_eq!(said(response.headers()), (vec![], expected));
        }
    }
}

#[tokio::test]
async fn every_status_and_method_is_told_the_same() {
    let trial = trial().await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST] {
        for status in [200, 204, 304, 404, 500, 503] {
            let mut request = request(Some(&trial.cookie));
            *request.method_mut() = method.clone();
            let response = serve(&trial.eager, request, move |request| {
                assert_eq!(request.extensions().get::<Session>().unwrap().len(), 1);
                async move { Response::builder().status(status).body(String::new()).unwrap() }
            })
            .await;
            assert_eq!(said(response.headers()), (vec!["Cookie"], vec!["private"]), "{method} {status}");
        }
    }
    // A preflight carries no cookies, and nobody looks at its session.
    let preflight = Request::options("/").header(header::ORIGIN, "https://example.org").body(()).unwrap();
    let response = serve(&trial.eager, preflight, |_| async { Response::new(String::new()) }).await;
    assert!(response.headers().is_empty());
}

#[tokio::test]
async fn an_outage_is_stored_nowhere() {
    let trial = trial().await;
    trial.cache.fail(Operation::Replace, CacheErrorKind::Unavailable);
    let reply = send(&trial.eager, Some(&trial.cookie), |session| async move {
        session.set("n", 2).unwrap();
        200
    })
    .await;
    assert_eq!(reply.status, 503);
    assert_eq!(said(&reply.headers), (vec!["Cookie"], vec!["no-store"]));
}

#[tokio::test]
async fn a_change_without_a_cookie_is_private() {
    let trial = trial().await;
    type Change = fn(Session) -> Pin<Box<dyn Future<Output = u16> + Send>>;
    let changes: [Change; 3] = [
        |session| {
            session.set("n", 5).unwrap();
            Box::pin(async { 200 })
        },
        |session| {
            session.touch();
            Box::pin(async { 200 })
        },
        |session| {
            session.set("n", 6).unwrap();
            Box::pin(async move { session.commit().await.map_or(500, |()| 200) })
        },
    ];
    for change in changes {
        let reply = send(&trial.eager, Some(&trial.cookie), change).await;
        assert_eq!((reply.status, reply.cookie()), (200, None));
        assert_eq!(said(&reply.headers), (vec!["Cookie"], vec!["private"]));
    }
}
