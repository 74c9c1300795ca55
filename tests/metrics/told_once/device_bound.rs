//! Sessions that are bound to a device: requests without a proof, and the endpoint that the layer answers itself.
use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    response::IntoResponse,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::{
    CacheErrorKind::{self, Full, Other, Refused, Timeout, Unavailable, Unsupported},
    Clock, DeviceBound, InMemoryCache, LazySession, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use tower::ServiceExt;

use super::{Cache, told};

const MINUTE: Duration = Duration::from_secs(60);

/// A browser in software, logged in, and the application.
struct Browser {
    app: Router,
    cache: Cache,
    clock: Clock,
    cookie: String,
    key: EcdsaKeyPair,
    /// What the login offers.
    challenge: String,
}

impl Browser {
    async fn new(lazy: bool) -> Self {
        Self::with(lazy, |store| store).await
    }

    async fn with(lazy: bool, set: fn(SessionStore<Cache>) -> SessionStore<Cache>) -> Self {
        let (cache, clock) = (TestCache::new(InMemoryCache::new()), Clock::manual());
        let store = SessionStore::new(cache.clone()).clock(clock.clone());
        let app = |store| {
            let layer = SessionLayer::builder(store).lazy(lazy).device_bound(DeviceBound::new("/device"));
            Router::new()
                .route("/log-in", post(|session: Session| async move { session.log_in("alice") }))
                .route("/read", get(|_: Session| async {}))
                .route("/own-words", get(own_words))
                .layer(layer.build().unwrap())
        };
        let response = send(&app(store.clone()), Method::POST, "/log-in", "", &[]).await;
        let field = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let cookie = field("set-cookie").split(';').next().unwrap().to_owned();
        let challenge = field("secure-session-registration").rsplit('"').nth(1).unwrap().to_owned();
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self { app: app(set(store)), cache, clock, cookie, key, challenge }
    }

    fn sign(&self, header: &str) -> String {
        let claims = format!(r#"{{"jti":"{}"}}"#, self.challenge);
        let text = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    async fn register(&self) -> Response<Body> {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
        let proof = self.sign(&format!(r#"{{"typ":"dbsc+jwt","alg":"ES256","jwk":{jwk}}}"#));
        self.ask(&[("secure-session-response", &proof)]).await
    }

    /// A request to the endpoint.
    async fn ask(&self, fields: &[(&str, &str)]) -> Response<Body> {
        send(&self.app, Method::POST, "/device", &self.cookie, fields).await
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response<Body> {
        send(&self.app, Method::GET, path, &self.cookie, fields).await
    }

    /// The browser's name for its session, once that is bound.
    async fn bind(&self) -> String {
        let body = self.register().await.into_body().collect().await.unwrap().to_bytes();
        let instructions: serde_json::Value = serde_json::from_slice(&body).unwrap();
        instructions["session_identifier"].as_str().unwrap().to_owned()
    }
}

async fn send(app: &Router, method: Method, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header("cookie", cookie);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn own_words(Extension(lazy): Extension<LazySession>) -> impl IntoResponse {
    lazy.load().await.map_or(StatusCode::BAD_GATEWAY, |_| StatusCode::OK)
}

fn run<T>(setup: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(setup)
}

fn once<const N: usize>(events: [&str; N]) -> BTreeMap<String, u64> {
    events.map(|event| (event.to_owned(), 1)).into()
}

#[test]
fn what_concerns_the_device_of_a_session() {
    for lazy in [false, true] {
        let browser = run(Browser::new(lazy));
        let (status, events) = told("bound, refused, unproven", async {
            assert_eq!(browser.register().await.status(), 200);
            assert_eq!(browser.register().await.status(), 403);
            assert_eq!(browser.ask(&[("secure-session-response", "a.b.c")]).await.status(), 400);
            browser.clock.advance(MINUTE);
            browser.get("/read", &[]).await.status().as_u16()
        });
        let expected = [("device_bound", 1), ("device_refused", 2), ("device_unproven", 1)];
        assert_eq!((status, events), (200, expected.map(|(event, count)| (event.to_owned(), count)).into()));
    }
}

#[test]
fn a_browser_that_could_not_prove_its_device_is_told_to_try_again() {
    for lazy in [false, true] {
        for (path, expected) in [("/read", 503), ("/own-words", 502)] {
            let browser = run(Browser::new(lazy));
            let name = run(browser.bind());
            browser.clock.advance(MINUTE);
            let skipped = format!("unreachable;session_identifier=\"{name}\"");
            let fields = [("secure-session-skipped", &*skipped)];
            let (status, events) = told(path, async { browser.get(path, &fields).await.status().as_u16() });
            assert_eq!((status, events), (expected, once(["device_unproven"])), "lazy {lazy}");
        }
    }
}

#[test]
fn an_endpoint_that_cannot_answer() {
    let kinds = [Unavailable, Timeout, Refused, Full, Unsupported, Other];
    let event = |kind: CacheErrorKind| match kind {
        Unavailable => "cache_unavailable",
        Timeout => "cache_timeout",
        Refused => "cache_refused",
        Full => "cache_full",
        _ => "cache_error",
    };
    for (kind, operation) in
        kinds.into_iter().flat_map(|kind| [(kind, Operation::GetAndTouch), (kind, Operation::Replace)])
    {
        let browser = run(Browser::new(false));
        let (status, events) = told("registration", async {
            browser.cache.fail(operation, kind);
            browser.register().await.status().as_u16()
        });
        assert_eq!((status, events), (503, once([event(kind)])), "registration, {operation:?}");
        browser.cache.heal();
        let name = run(browser.bind());
        let (status, events) = told("refresh", async {
            browser.cache.fail(operation, kind);
            browser.ask(&[("sec-secure-session-id", &name)]).await.status().as_u16()
        });
        assert_eq!((status, events), (503, once([event(kind)])), "refresh, {operation:?}");
    }
    let hasty = run(Browser::with(false, |store| store.deadline(Duration::from_millis(20))));
    let (status, events) = told("deadline", async {
        let _gate = hasty.cache.hold(Operation::GetAndTouch);
        hasty.register().await.status().as_u16()
    });
    assert_eq!((status, events), (503, once(["cache_timeout"])));
    let random = run(Browser::with(false, |store| store.random(|_| Err(SessionError::Random))));
    let (status, events) = told("randomness", async { random.register().await.status().as_u16() });
    assert_eq!((status, events), (503, once(["random_error"])));
}
