//! What caches between us and the browser are told.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code, dropping_copy_types)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::type_complexity)]
use std::convert::Infallible;

use cloakroom::{InMemoryCache, Session, SessionLayer, SessionStore, Value};
use http::{HeaderMap, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

#[path = "common/web.rs"]
mod web;

use web::start;

type Do = fn(&Session);

/// The headers of a response to a request with this cookie, whose handler did this to the session in the extensions.
async fn headers(
    layer: &SessionLayer<InMemoryCache>,
    cookie: &str,
    does: Do,
    said: &'static [(&'static str, &'static str)],
) -> HeaderMap {
    let inner = service_fn(move |request: Request<()>| async move {
        does(request.extensions().get::<Session>().unwrap());
        let mut response = Response::new(String::new());
        for (name, value) in said {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        Ok::<_, Infallible>(response)
    });
    let request = Request::get("/").header(header::COOKIE, cookie).body(()).unwrap();
    layer.layer(inner).oneshot(request).await.unwrap().into_parts().0.headers
}

fn all(headers: &HeaderMap, name: header::HeaderName) -> Vec<&str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn every_look_at_the_session_varies_the_response() {
    let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
    let cookie = start(&layer, "alice").await;
    let looks: [(&str, Do); 12] = [
        ("get", |session| drop(session.get::<u64>("n"))),
        ("get of what is not there", |session| drop(session.get::<u64>("m"))),
        ("try_get", |session| drop(session.try_get::<u64>("n"))),
        ("contains_key", |session| assert!(session.contains_key("n"))),
        ("keys", |session| drop(session.keys())),
        ("len", |session| assert_eq!(session.len(), 1)),
        ("is_empty", |session| assert!(!session.is_empty())),
        ("is_new", |session| assert!(!session.is_new())),
        ("is_dirty", |session| assert!(!session.is_dirty())),
        ("key", |session| assert!(session.key().is_some())),
        ("owner", |session| assert_eq!(session.owner().as_deref(), Some("alice"))),
        ("take", |session| assert!(session.take::<Value>("m").unwrap().is_none())),
    ];
    for (name, look) in looks {
        let headers = headers(&layer, &cookie, look, &[]).await;
        assert_eq!(all(&headers, header::VARY), ["Cookie"], "{name}");
        assert_eq!(all(&headers, header::CACHE_CONTROL), ["private"], "{name}");
        assert!(!headers.contains_key(header::SET_COOKIE), "{name}");
    }
    let untouched = headers(&layer, &cookie, |_| (), &[("cache-control", "public, max-age=60")]).await;
    assert_eq!(all(&untouched, header::CACHE_CONTROL), ["public, max-age=60"]);
    assert!(!untouched.contains_key(header::VARY));
}

#[tokio::test]
async fn what_the_handler_said_counts_as_far_as_it_is_safe() {
    let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
    let read: Do = |session| drop(session.get::<u64>("n"));
    let renew: Do = Session::renew;
    let table: [(&str, Do, &'static [(&'static str, &'static str)], &[&str], &str); 8] = [
        ("read, nothing said", read, &[], &["Cookie"], "private"),
        ("read, no-store", read, &[("cache-control", "no-store")], &["Cookie"], "no-store"),
        ("read, public", read, &[("cache-control", "public, max-age=3600")], &["Cookie"], "private, max-age=3600"),
        ("cookie, nothing said", renew, &[], &["Cookie"], "no-store"),
        ("cookie, public", renew, &[("cache-control", "public, max-age=3600")], &["Cookie"], "no-store"),
        ("cookie, private", renew, &[("cache-control", "private")], &["Cookie"], "private"),
        ("vary is kept", read, &[("vary", "Accept")], &["Accept", "Cookie"], "private"),
        ("vary is not repeated", read, &[("vary", "Accept, cookie")], &["Accept, cookie"], "private"),
    ];
    for (name, does, said, vary, control) in table {
        let cookie = start(&layer, "alice").await;
        let headers = headers(&layer, &cookie, does, said).await;
        assert_eq!(all(&headers, header::VARY), vary, "{name}");
        assert_eq!(all(&headers, header::CACHE_CONTROL), [control], "{name}");
    }
}

#[tokio::test]
async fn one_switch_leaves_headers_to_others() {
    let store = SessionStore::new(InMemoryCache::new());
    let layer = SessionLayer::builder(store).caching_headers(false).build().unwrap();
    let cookie = start(&layer, "alice").await;
    let does: Do = |session| {
        session.renew();
        drop(session.keys());
    };
    let headers = headers(&layer, &cookie, does, &[("cache-control", "public")]).await;
    assert_eq!(all(&headers, header::CACHE_CONTROL), ["public"]);
    assert!(!headers.contains_key(header::VARY) && headers.contains_key(header::SET_COOKIE));
}
