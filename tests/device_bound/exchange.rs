//! The exchange as a browser does it, and what it costs.
use cloakroom::{Cache, DeviceBound, SameSite, SessionLayer, SessionStore, testing::TestCache};
use http::{Method, header};
use serde_json::{Value, json};

use super::{
    app::{App, MINUTE, PATH},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    a_browser_registers_at_login_and_refreshes_while_it_has_its_key,
    a_browser_that_registers_nothing_keeps_its_session,
    what_the_browser_is_told_has_the_form_of_the_draft,
    a_request_of_a_bound_session_takes_one_look_and_a_refresh_two_writes,
    a_renewal_keeps_the_device,
    a_login_asks_for_a_new_registration,
    a_refresh_without_the_session_cookie_finds_the_session_by_its_name,
    a_refresh_loses_no_value,
}

async fn a_browser_registers_at_login_and_refreshes_while_it_has_its_key<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    let challenge = device.log_in(&app).await;
    assert_eq!(device.page(&app).await, "alice unbound 0");
    device.register(&app, &challenge).await;
    assert_eq!(device.page(&app).await, "alice bound 0");
    assert!(app.store.sessions_of("alice").await.unwrap()[0].is_device_bound());
    for _ in 0..5 {
        app.clock.advance(10 * MINUTE);
        device.drop_cookie("__Host-id-bound");
        assert_eq!(device.page(&app).await, "- unbound 0");
        assert_eq!(device.refresh(&app).await, Refreshed::Done);
        assert_eq!(device.page(&app).await, "alice bound 0");
    }
    // And before the cookie is gone, as browsers do when it soon will be.
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn a_browser_that_registers_nothing_keeps_its_session<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.log_in(&app).await;
    for _ in 0..3 {
        app.clock.advance(10 * MINUTE);
        let response = device.open(&app, "/add").await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("secure-session-registration"), "an offer comes with a login alone");
    }
    assert_eq!(device.page(&app).await, "alice unbound 3");
    assert!(!app.store.sessions_of("alice").await.unwrap()[0].is_device_bound());
}

async fn what_the_browser_is_told_has_the_form_of_the_draft<C: Cache + Clone>(cache: C) {
    let settings = DeviceBound::new(PATH).exclude("/static").refresh_initiators(["example.org", "*.example.net"]);
    let (app, device) = (App::with(&cache, cloakroom::Clock::manual(), settings), Device::new());
    let challenge = device.log_in(&app).await;
    let response = device.send_registration(&app, &device.registration(&challenge)).await;
    let field = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(field("content-type"), "application/json");
    assert_eq!(field("cache-control"), "no-store");
    assert_eq!(field("x-frame-options"), "DENY");
    assert_eq!(field("cross-origin-resource-policy"), "same-origin");
    let cookie = field("set-cookie");
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(value.strip_prefix("__Host-id-bound=").unwrap().len(), 32);
    assert_eq!(attributes, "Max-Age=540; HttpOnly; SameSite=Lax; Secure; Path=/");
    let told: Value = serde_json::from_str(response.body()).unwrap();
    let name = told["session_identifier"].as_str().unwrap();
    let expected = json!({
        "session_identifier": name,
        "refresh_url": "/device",
        "scope": { "include_site": false, "scope_specification": [{ "type": "exclude", "path": "/static" }] },
        "credentials": [{
            "type": "cookie",
            "name": "__Host-id-bound",
            "attributes": "HttpOnly; SameSite=Lax; Secure; Path=/",
        }],
        "allowed_refresh_initiators": ["example.org", "*.example.net"],
    });
    assert_eq!(told, expected);

    let store = SessionStore::new(cache);
    let of_a_site = SessionLayer::builder(store.clone())
        .cookie_name("__Secure-id")
        .cookie_domain("example.com")
        .same_site(SameSite::None)
        .device_bound(DeviceBound::new(PATH).site("https://example.com"))
        .build()
        .unwrap();
    let app = App { layer: of_a_site, store, clock: cloakroom::Clock::system() };
    let device = Device::new();
    let challenge = device.log_in(&app).await;
    let response = device.send_registration(&app, &device.registration(&challenge)).await;
    let told: Value = serde_json::from_str(response.body()).unwrap();
    assert_eq!(told["scope"]["origin"], "https://example.com");
    assert_eq!(told["scope"]["include_site"], true);
    assert_eq!(told["credentials"][0]["attributes"], "HttpOnly; SameSite=None; Secure; Path=/; Domain=example.com");
}

async fn a_request_of_a_bound_session_takes_one_look_and_a_refresh_two_writes<C: Cache + Clone>(cache: C) {
    use cloakroom::testing::Operation::{Get, GetAndTouch, Replace};
    let cache = TestCache::new(cache);
    let (app, device) = (App::new(&cache), Device::new());
    let count = || {
        let calls = cache.calls();
        cache.reset_calls();
        (calls.of(Get) + calls.of(GetAndTouch), calls.of(Replace), calls.total())
    };
    let challenge = device.log_in(&app).await;
    count();
    device.register(&app, &challenge).await;
    assert_eq!(count(), (1, 1, 2), "a registration");
    device.page(&app).await;
    assert_eq!(count(), (1, 0, 1), "a request");
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(count(), (2, 2, 4), "a refresh with its challenge");
    let response = device.send(&app, Method::GET, PATH, &[]).await;
    assert_eq!((response.status().as_u16(), response.headers()[header::ALLOW].to_str().unwrap()), (405, "POST"));
    assert_eq!(count(), (0, 0, 0), "what is no exchange");
}

async fn a_renewal_keeps_the_device<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let before = device.cookie("__Host-id");
    let response = device.get(&app, "/renew").await;
    assert!(!response.headers().contains_key("secure-session-registration"), "a thief could register instead");
    assert_ne!(device.cookie("__Host-id"), before);
    assert_eq!(device.page(&app).await, "alice bound 0");
    app.clock.advance(10 * MINUTE);
    assert_eq!(device.page(&app).await, "- unbound 0");
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn a_login_asks_for_a_new_registration<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let old = device.name();
    let challenge = device.log_in(&app).await;
    assert_eq!(device.page(&app).await, "alice unbound 0");
    assert_eq!(device.refresh(&app).await, Refreshed::Ended, "the browser forgets the key of before");
    device.register(&app, &challenge).await;
    assert_ne!(device.name(), old);
    app.clock.advance(10 * MINUTE);
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
    *device.name.lock().unwrap() = Some(old);
    assert_eq!(device.refresh(&app).await, Refreshed::Ended);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn a_refresh_without_the_session_cookie_finds_the_session_by_its_name<C: Cache + Clone>(cache: C) {
    finds_by_name(&App::new(&cache)).await;
}

async fn finds_by_name<C: Cache + Clone>(app: &App<C>) {
    let device = Device::new();
    device.bind(app).await;
    for _ in 0..4 {
        device.get(app, "/renew").await;
        // Longer than a tombstone lives that no bound session left.
        app.clock.advance(70 * MINUTE);
        // A link on another site: a cookie with `SameSite=Lax` goes with the page, and not with the refresh before it.
        let session = device.cookie("__Host-id").unwrap();
        device.jar.lock().unwrap().clear();
        assert_eq!(device.refresh(app).await, Refreshed::Done);
        device.jar.lock().unwrap().insert("__Host-id".to_owned(), session);
        assert_eq!(device.page(app).await, "alice bound 0");
    }
}

/// The cache goes by the same clock, so that what ends there does end.
#[tokio::test]
async fn a_name_leads_to_its_session_for_as_long_as_that_lives() {
    let clock = cloakroom::Clock::manual();
    let cache = cloakroom::InMemoryCache::builder().clock(clock.clone()).build();
    let app = App::with(&cache, clock, DeviceBound::new(PATH));
    finds_by_name(&app).await;
}

async fn a_refresh_loses_no_value<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    for round in 1..=8 {
        let (add, challenge) = tokio::join!(device.get(&app, "/add"), device.ask(&app));
        assert_eq!(add.status(), 200);
        let proof = device.proof(&challenge);
        let (add, refresh) = tokio::join!(device.get(&app, "/add"), device.send_refresh(&app, Some(&proof)));
        assert_eq!((add.status().as_u16(), refresh.status().as_u16()), (200, 200));
        assert_eq!(device.page(&app).await, format!("alice bound {}", 2 * round));
    }
}
