//! What a request sees and does that has not proven to come from the session's device.
use cloakroom::{Cache, Clock, DeviceBound, DeviceBoundPolicy, SessionLayer};
use http::{Method, header};

use super::{
    app::{App, MINUTE, PATH},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    a_script_reads_nothing_and_writes_nothing,
    a_page_that_is_opened_without_the_key_starts_as_a_strangers,
    a_page_that_a_browser_opens_without_a_refresh_writes_nothing,
    a_login_without_the_key_starts_a_session_of_its_own,
    a_logout_without_the_key_ends_the_session,
    a_browser_that_could_not_refresh_is_told_to_try_again,
    a_bound_cookie_that_does_not_count_is_replaced_before_the_page,
    a_lazy_layer_removes_a_bound_cookie_that_does_not_count,
    where_devices_are_required_a_browser_without_one_is_logged_out_after_a_minute,
    where_devices_are_required_visitors_without_an_owner_need_none,
}

const BOUND: &str = "__Host-id-bound";

async fn a_script_reads_nothing_and_writes_nothing<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    device.get(&app, "/add").await;
    let stranger = device.thief();
    stranger.drop_cookie(BOUND);
    assert_eq!(stranger.page(&app).await, "- unbound 0");
    for (method, fields) in [(Method::GET, &[][..]), (Method::POST, &[]), (Method::GET, &[("sec-fetch-mode", "cors")])]
    {
        let response = stranger.send(&app, method, "/add", fields).await;
        assert_eq!(response.status(), 401);
        assert!(!response.headers().contains_key(header::SET_COOKIE), "the session cookie stays");
    }
    // The browser fetches ahead without a refresh.
    let ahead = [("sec-fetch-mode", "navigate"), ("sec-purpose", "prefetch")];
    assert_eq!(stranger.send(&app, Method::GET, "/add", &ahead).await.status(), 401);
    assert_eq!(device.page(&app).await, "alice bound 1");
}

async fn a_page_that_is_opened_without_the_key_starts_as_a_strangers<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    device.get(&app, "/add").await;
    let stranger = device.thief();
    stranger.drop_cookie(BOUND);
    let response = stranger.open(&app, "/page").await;
    assert_eq!(response.body(), "- unbound 0");
    assert_eq!(stranger.cookie("__Host-id"), device.cookie("__Host-id"), "reading changes no cookie");
    let response = stranger.open(&app, "/add").await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "- unbound 1"));
    assert_ne!(stranger.cookie("__Host-id"), device.cookie("__Host-id"));
    assert_eq!(stranger.page(&app).await, "- unbound 1");
    assert_eq!(device.page(&app).await, "alice bound 1");
}

async fn a_page_that_a_browser_opens_without_a_refresh_writes_nothing<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let page = device.thief();
    page.drop_cookie(BOUND);
    let with = |settings| App::with(&cache, app.clock.clone(), settings);
    let excluded = with(DeviceBound::new(PATH).exclude("/add"));
    let own_pages = with(DeviceBound::new(PATH).refresh_initiators(["www.example.org"]));
    for (app, site, status) in [
        // The browser does not hold this request, or not for a page of that site: it may have the key.
        (&excluded, "same-origin", 401),
        (&excluded, "cross-site", 401),
        (&own_pages, "cross-site", 401),
        (&own_pages, "same-site", 401),
        (&own_pages, "none", 200),
        (&app, "cross-site", 200),
    ] {
        let visitor = page.thief();
        let fields = [("sec-fetch-mode", "navigate"), ("sec-fetch-site", site)];
        let response = visitor.send(app, Method::POST, "/add", &fields).await;
        assert_eq!(response.status(), status, "{site}");
        assert_eq!(visitor.cookie("__Host-id") == page.cookie("__Host-id"), status == 401, "{site}");
    }
}

async fn a_login_without_the_key_starts_a_session_of_its_own<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    device.get(&app, "/add").await;
    let other = device.thief();
    other.drop_cookie(BOUND);
    let challenge = other.log_in(&app).await;
    other.register(&app, &challenge).await;
    assert_eq!(other.page(&app).await, "alice bound 0");
    assert_eq!(device.page(&app).await, "alice bound 1");
    app.clock.advance(10 * MINUTE);
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 1");
}

async fn a_logout_without_the_key_ends_the_session<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let stranger = device.thief();
    stranger.drop_cookie(BOUND);
    assert_eq!(stranger.get(&app, "/log-out").await.status(), 200);
    assert_eq!(stranger.cookie("__Host-id"), None);
    assert_eq!(device.page(&app).await, "- unbound 0");
    assert_eq!(device.refresh(&app).await, Refreshed::Ended);
}

async fn a_browser_that_could_not_refresh_is_told_to_try_again<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    device.drop_cookie(BOUND);
    for reason in ["server_error", "unreachable", "quota_exceeded"] {
        let skipped = format!("{reason};session_identifier=\"{}\"", device.name());
        let fields = [("sec-fetch-mode", "navigate"), ("secure-session-skipped", &skipped)];
        let response = device.send(&app, Method::GET, "/page", &fields).await;
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key(header::SET_COOKIE));
    }
    // What it says of another session is of no matter here.
    let other = [("sec-fetch-mode", "cors"), ("secure-session-skipped", "unreachable;session_identifier=\"other\"")];
    assert_eq!(device.send(&app, Method::GET, "/page", &other).await.body(), "- unbound 0");
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn a_bound_cookie_that_does_not_count_is_replaced_before_the_page<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let spoil = || device.jar.lock().unwrap().insert(BOUND.to_owned(), "A".repeat(32));
    for (path, location) in [
        ("/page", "./page"),
        ("/a/page?x=1&y=/z", "./page?x=1&y=/z"),
        ("/a/", "./"),
        ("//example.org", "./example.org"),
        ("//example.org/..", "./.."),
    ] {
        spoil();
        let response = device.open(&app, path).await;
        assert_eq!(response.status(), 307);
        assert_eq!(response.headers()[header::LOCATION], location);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(device.cookie(BOUND), None, "so that the browser refreshes");
        assert!(device.cookie("__Host-id").is_some());
    }
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    // What is no request for a page is answered, and the next one is preceded by a refresh.
    spoil();
    let response = device.send(&app, Method::POST, "/add", &[("sec-fetch-mode", "navigate")]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(device.cookie(BOUND), None);
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn a_lazy_layer_removes_a_bound_cookie_that_does_not_count<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    device.jar.lock().unwrap().insert(BOUND.to_owned(), "A".repeat(32));
    let layer =
        SessionLayer::builder(app.store.clone()).lazy(true).device_bound(DeviceBound::new(PATH)).build().unwrap();
    let lazy = App { layer, ..app.clone() };
    let response = device.open(&lazy, "/page").await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "- unbound 0"));
    assert_eq!(device.cookie(BOUND), None);
    assert_eq!(device.refresh(&lazy).await, Refreshed::Done);
    assert_eq!(device.page(&lazy).await, "alice bound 0");
}

/// An application that answers with the error itself, and one that lets shared caches keep its pages.
#[cfg(feature = "axum")]
#[tokio::test]
async fn a_bound_cookie_that_does_not_count_is_removed_with_whatever_answer() {
    use axum::{Router, body::Body, routing::post};
    use cloakroom::{InMemoryCache, Session, SessionError};
    use tower::ServiceExt;

    async fn add(session: Session) -> Result<(), SessionError> {
        session.set("n", 1)
    }

    let app = App::new(&InMemoryCache::new());
    let device = Device::new();
    device.bind(&app).await;
    let own = "__Host-id-bound=own; Path=/; Secure";
    let public = move || async move { [(header::CACHE_CONTROL, "public, max-age=60"), (header::SET_COOKIE, own)] };
    let router = Router::new().route("/add", post(add)).route("/public", post(public)).layer(app.layer.clone());
    let cookies = format!("__Host-id={}; {BOUND}={}", device.cookie("__Host-id").unwrap(), "A".repeat(32));
    for (path, status) in [("/add", 401), ("/public", 200)] {
        let request = http::Request::post(path).header(header::COOKIE, &cookies).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store", "{path}");
        let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().collect();
        assert!(matches!(cookies[..], [cookie] if cookie.as_bytes().starts_with(b"__Host-id-bound=; Max-Age=0")));
        assert_eq!(response.headers().contains_key(header::WWW_AUTHENTICATE), status == 401);
    }
    // A handler cannot know a value of it.
    let stranger = http::Request::post("/public").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(stranger).await.unwrap();
    assert!(!response.headers().contains_key(header::SET_COOKIE));
    // The layer sees what has no route.
    let unknown = http::Request::post(PATH).body(Body::empty()).unwrap();
    assert_eq!(router.oneshot(unknown).await.unwrap().status(), 400);
}

fn required<C: Cache + Clone>(cache: &C) -> App<C> {
    App::with(cache, Clock::manual(), DeviceBound::new(PATH).policy(DeviceBoundPolicy::Require))
}

async fn where_devices_are_required_a_browser_without_one_is_logged_out_after_a_minute<C: Cache + Clone>(cache: C) {
    let app = required(&cache);
    let (with, without) = (Device::new(), Device::new());
    with.bind(&app).await;
    without.log_in(&app).await;
    assert_eq!(without.page(&app).await, "alice unbound 0");
    app.clock.advance(MINUTE);
    assert_eq!(without.page(&app).await, "- unbound 0");
    assert_eq!(without.send(&app, Method::POST, "/add", &[]).await.status(), 401);
    assert_eq!(with.page(&app).await, "alice bound 0");
    // It can log in again, and has another minute.
    without.log_in(&app).await;
    assert_eq!(without.page(&app).await, "alice unbound 0");
}

async fn where_devices_are_required_visitors_without_an_owner_need_none<C: Cache + Clone>(cache: C) {
    let (app, device) = (required(&cache), Device::new());
    device.get(&app, "/add").await;
    app.clock.advance(20 * MINUTE);
    assert_eq!(device.page(&app).await, "- unbound 1");
}
