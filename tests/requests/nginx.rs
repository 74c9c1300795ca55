//! Shared caches between browser and server: nginx serves no visitor a response that depends on the session of another.
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Extension, Router,
    body::{Body, Bytes, HttpBody},
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header},
    routing::get,
};
use cloakroom::{InMemoryCache, LazySession, Session, SessionLayer, SessionStore};
use hyper::body::Frame;

use crate::support::nginx::{CACHES, Nginx};

/// What a handler may set, all of which would let one of the caches store the response for all users.
const FIELDS: [&[(&str, &str)]; 13] = [
    &[],
    &[("cache-control", "public, max-age=600")],
    &[("cache-control", "s-maxage=600")],
    &[("cache-control", "max-age=600")],
    &[("cache-control", "no-store, must-understand, max-age=600")],
    &[("x-accel-expires", "600")],
    &[("x-accel-expires", "600"), ("cache-control", "private")],
    &[("x-accel-expires", "600"), ("cache-control", "no-store")],
    &[("cdn-cache-control", "max-age=600")],
    &[("cdn-cache-control", "max-age=600"), ("cache-control", "private")],
    &[("surrogate-control", "max-age=600, content=\"ESI/1.0\""), ("cache-control", "private")],
    &[("vendor-cdn-cache-control", "max-age=600"), ("cache-control", "no-store")],
    &[("expires", "Thu, 01 Jan 2099 00:00:00 GMT")],
];

type Page = Path<(String, usize)>;

fn fields(page: &Page) -> HeaderMap {
    let fields = FIELDS[page.1].iter();
    fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn user(session: &Session) -> String {
    session.get("user").unwrap_or_else(|| "a stranger".to_owned())
}

async fn read(page: Page, session: Session) -> (HeaderMap, String) {
    (fields(&page), user(&session))
}

/// Greets a visitor without a session with a new one.
async fn write(page: Page, session: Session) -> (HeaderMap, String) {
    if session.is_new() {
        session.set("greeted", true).unwrap();
    }
    read(page, session).await
}

/// Does not ask for the session.
async fn news(page: Page) -> (HeaderMap, &'static str) {
    (fields(&page), "news")
}

/// A body whose text is computed when it is sent, after the head.
struct Late(Option<Pin<Box<dyn Future<Output = String> + Send>>>);

impl HttpBody for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(text) = &mut self.0 else { return Poll::Ready(None) };
        let text = ready!(text.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

async fn stream(page: Page, Extension(session): Extension<Session>) -> (HeaderMap, Body) {
    (fields(&page), Body::new(Late(Some(Box::pin(async move { user(&session) })))))
}

async fn stream_lazily(page: Page, lazy: LazySession) -> (HeaderMap, Body) {
    (fields(&page), Body::new(Late(Some(Box::pin(async move { user(&lazy.load().await.unwrap()) })))))
}

async fn login(lazy: LazySession) {
    lazy.load().await.unwrap().set("user", "alice").unwrap();
}

struct Site {
    nginx: Nginx,
    /// Of a session that is logged in.
    alice: String,
}

impl Site {
    async fn start(caching_headers: bool) -> Self {
        let store = SessionStore::new(InMemoryCache::new());
        let sessions = SessionLayer::builder(store).caching_headers(caching_headers).build().unwrap();
        let app = Router::new()
            .route("/{cache}/read/{fields}", get(read))
            .route("/{cache}/write/{fields}", get(write))
            .route("/{cache}/news/{fields}", get(news))
            .route("/{cache}/stream/{fields}", get(stream))
            .route("/{cache}/stream-lazily/{fields}", get(stream_lazily))
            .route("/{cache}/login", get(login))
            .layer(sessions);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nginx = Nginx::start(listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let mut site = Self { nginx, alice: String::new() };
        site.alice = set_cookie(&site.get("/obedient/login", None).await).unwrap();
        site
    }

    async fn get(&self, path: &str, cookie: Option<&str>) -> Response<String> {
        let mut request = Request::get(path).header(header::HOST, "shop.example");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = self.nginx.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200, "{path}");
        response
    }
}

fn set_cookie(response: &Response<String>) -> Option<String> {
    let value = response.headers().get(header::SET_COOKIE)?.to_str().unwrap();
    Some(value.split(';').next().unwrap().to_owned())
}

/// Whether nginx served it without asking the application.
fn is_stored(response: &Response<String>) -> bool {
    match response.headers()["x-cache"].to_str().unwrap() {
        "HIT" => true,
        "MISS" => false,
        other => panic!("X-Cache: {other}"),
    }
}

#[tokio::test]
async fn a_page_that_read_a_session_is_not_served_to_another_visitor() {
    let site = Site::start(true).await;
    for cache in CACHES {
        for (fields, set) in FIELDS.iter().enumerate() {
            let path = format!("/{cache}/read/{fields}");
            for (cookie, expected) in [
                (Some(&*site.alice), "alice"),
                (None, "a stranger"),
                (Some(&*site.alice), "alice"),
                (Some("a=b"), "a stranger"),
            ] {
                let response = site.get(&path, cookie).await;
                assert!(!is_stored(&response), "{cache} {set:?} {cookie:?}: {response:?}");
                assert_eq!(response.body(), expected, "{cache} {set:?}");
            }
        }
    }
}

/// The handle may still be read when the head goes out, so the response is treated as if it had been.
#[tokio::test]
async fn a_session_that_is_first_read_while_the_body_is_sent_is_not_served_to_another_visitor() {
    let site = Site::start(true).await;
    for page in ["stream", "stream-lazily"] {
        for cache in CACHES {
            for (fields, set) in FIELDS.iter().enumerate() {
                let path = format!("/{cache}/{page}/{fields}");
                for (cookie, expected) in [(Some(&*site.alice), "alice"), (None, "a stranger")] {
                    let response = site.get(&path, cookie).await;
                    assert!(!is_stored(&response), "{page} {cache} {set:?} {cookie:?}: {response:?}");
                    assert_eq!(response.body(), expected, "{page} {cache} {set:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_cookie_is_not_served_to_another_visitor() {
    let site = Site::start(true).await;
    for cache in CACHES {
        for (fields, set) in FIELDS.iter().enumerate() {
            let path = format!("/{cache}/write/{fields}");
            let first = site.get(&path, None).await;
            let second = site.get(&path, None).await;
            assert!(!is_stored(&first) && !is_stored(&second), "{cache} {set:?}: {second:?}");
            assert_ne!(set_cookie(&first).unwrap(), set_cookie(&second).unwrap(), "{cache} {set:?}");
        }
    }
}

#[tokio::test]
async fn a_page_that_read_no_session_is_stored_for_everybody() {
    let site = Site::start(true).await;
    for cache in CACHES {
        let path = format!("/{cache}/news/1");
        assert!(!is_stored(&site.get(&path, Some(&site.alice)).await));
        assert!(is_stored(&site.get(&path, None).await), "{cache}");
    }
}

/// Shows that the caches above would store each of the pages.
#[tokio::test]
async fn without_the_caching_headers_another_visitor_gets_the_page() {
    let site = Site::start(false).await;
    for (fields, set) in FIELDS.iter().enumerate() {
        let mut stored = false;
        for cache in CACHES {
            let path = format!("/{cache}/read/{fields}");
            site.get(&path, Some(&site.alice)).await;
            stored |= site.get(&path, None).await.body() == "alice";
        }
        assert!(stored, "{set:?}");
    }
}
