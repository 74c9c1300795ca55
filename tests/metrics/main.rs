//! Every event is counted, once each time it happens. The recorder is one for the whole process, so these tests have one of their own.
#![cfg(test)]
#![cfg(feature = "metrics")]
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use cloakroom::{
    CacheErrorKind, InMemoryCache, SameSite, Session, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{Request, Response};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tower::{Layer as _, ServiceExt, service_fn};

#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "axum")]
mod told_once;
mod too_late;

use support::web::{send, start};

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

struct One(Counts, String);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert_eq!(key.name(), "cloakroom_events_total");
        let event = key.labels().next().unwrap().value().to_owned();
        Counter::from_arc(Arc::new(One(self.clone(), event)))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// What was counted while this ran.
fn counted(run: impl Future<Output = ()>) -> BTreeMap<String, u64> {
    let counts = Counts::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&counts, || runtime.block_on(run));
    counts.0.lock().unwrap().clone()
}

fn expected<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(event, count)| (event.to_owned(), count)).into()
}

/// A handler that answers with this field, after it set a value in the session if it is to.
async fn answer(
    layer: &SessionLayer<InMemoryCache>,
    request: Request<()>,
    field: (&'static str, &'static str),
    set: bool,
) {
    let inner = service_fn(move |request: Request<()>| async move {
        let session = request.extensions().get::<Session>().unwrap();
        assert!(session.is_empty());
        if set {
            session.set("n", 1).unwrap();
        }
        Ok::<_, Infallible>(Response::builder().header(field.0, field.1).body(()).unwrap())
    });
    layer.layer(inner).oneshot(request).await.unwrap();
}

fn request(host: &str, field: (&str, &str)) -> Request<()> {
    Request::get("/").header("host", host).header(field.0, field.1).body(()).unwrap()
}

const NONE: (&str, &str) = ("x-none", "");

#[test]
fn a_cookie_of_the_handler_with_the_name_of_the_session_cookie_is_counted() {
    let counts = counted(async {
        let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
        for set in [false, true] {
            answer(&layer, request("shop.example", NONE), ("set-cookie", "__Host-id=planted"), set).await;
            answer(&layer, request("shop.example", NONE), ("set-cookie", "id=own"), set).await;
        }
    });
    assert_eq!(counts, expected([("created", 2), ("replaced_cookie", 2)]));
}

#[test]
fn a_field_that_overrides_our_cache_control_is_counted() {
    let counts = counted(async {
        let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
        for field in [("cdn-cache-control", "max-age=60"), ("x-accel-expires", "60"), ("cache-control", "public")] {
            answer(&layer, request("shop.example", NONE), field, false).await;
        }
        for field in [("cdn-cache-control", "no-store"), ("x-accel-expires", "0"), ("cache-control", "private")] {
            answer(&layer, request("shop.example", NONE), field, false).await;
        }
    });
    assert_eq!(counts, expected([("overridden_caching", 3)]));
}

#[test]
fn a_secure_cookie_over_plain_http_is_counted() {
    let counts = counted(async {
        let store = SessionStore::new(InMemoryCache::new());
        let secure = SessionLayer::new(store.clone());
        let insecure = SessionLayer::builder(store).secure(false).cookie_name("id").build().unwrap();
        answer(&secure, request("192.168.1.5", NONE), NONE, true).await;
        answer(&secure, request("nas", NONE), NONE, true).await;
        // No cookie is sent; a proxy tells of HTTPS; the browser has kept a cookie; the host has a certificate; not `Secure`.
        answer(&secure, request("192.168.1.5", NONE), NONE, false).await;
        answer(&secure, request("nas", ("x-forwarded-proto", "https")), NONE, true).await;
        answer(&secure, request("nas", ("cookie", "__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")), NONE, true).await;
        answer(&secure, request("shop.example", NONE), NONE, true).await;
        answer(&insecure, request("nas", NONE), NONE, true).await;
    });
    assert_eq!(counts, expected([("cookie_likely_lost", 2), ("created", 6), ("insecure", 1), ("two_cookie_names", 1)]));
}

#[test]
fn a_layer_for_requests_of_other_sites_is_counted_when_it_is_built() {
    let counts = counted(async {
        let store = SessionStore::new(InMemoryCache::new());
        for same_site in [SameSite::Strict, SameSite::Lax, SameSite::None] {
            SessionLayer::builder(store.clone()).same_site(same_site).build().unwrap();
        }
    });
    assert_eq!(counts, expected([("same_site_none", 1)]));
}

#[test]
fn a_setting_that_cannot_work_is_counted_where_no_builder_could_return_it() {
    let counts = counted(async {
        let store = SessionStore::new(InMemoryCache::new()).ttl(std::time::Duration::ZERO);
        SessionLayer::new(store.clone());
        SessionLayer::builder(store).build().unwrap_err();
    });
    assert_eq!(counts, expected([("setting", 1)]));
}

#[cfg(feature = "signed")]
#[test]
fn a_cookie_without_a_valid_signature_is_counted_apart_from_a_malformed_one() {
    use cloakroom::SigningKey;

    let counts = counted(async {
        let key = SigningKey::generate().unwrap();
        let store = SessionStore::new(InMemoryCache::new());
        let layer = SessionLayer::builder(store).signing_keys([key]).build().unwrap();
        for value in ["A".repeat(32), format!("{}.{}", "A".repeat(32), "A".repeat(43)), "A".to_owned()] {
            let cookie = format!("__Host-id={value}");
            answer(&layer, request("shop.example", ("cookie", &cookie)), NONE, false).await;
        }
    });
    assert_eq!(counts, expected([("malformed_cookie", 1), ("unsigned_cookie", 2)]));
}

#[test]
fn every_event_is_counted() {
    let counts = counted(async {
        let cache = TestCache::new(InMemoryCache::new());
        let store = SessionStore::new(cache.clone());
        let layer = SessionLayer::new(store.clone());
        let cookie = start(&layer, "alice").await;
        let renewed = send(&layer, Some(&cookie), |session| async move {
            session.renew();
            200
        })
        .await
        .cookie()
        .unwrap();
        let other = store.clone();
        send(&layer, Some(&renewed), move |session| {
            let other = other.clone();
            async move {
                session.set("n", 5).unwrap();
                other.revoke_all("alice").await.unwrap();
                200
            }
        })
        .await;
        for _ in 0..1000 {
            send(&layer, Some("__Host-id=malformed"), |_| async { 200 }).await;
        }
        cache.fail_once(Operation::Get, CacheErrorKind::Timeout);
        send(&layer, Some(&renewed), |_| async { 200 }).await;
    });
    let expected = expected([
        ("cache_timeout", 1),
        ("created", 1),
        ("destroyed", 1),
        ("gone", 1),
        ("malformed_cookie", 1000),
        ("renewed", 1),
    ]);
    assert_eq!(counts, expected);
}

/// A handler may answer with any of these errors, and the response says nothing: the log has to.
#[test]
fn every_call_that_the_cache_fails_is_counted_once() {
    let counts = counted(async {
        let cache = TestCache::new(InMemoryCache::new());
        let store = SessionStore::new(cache.clone());
        let session = Session::new();
        session.set_owner("alice").unwrap();
        let id = store.save(&session).await.unwrap();
        let session = store.load(&id).await.unwrap().unwrap();
        let key = session.key().unwrap();
        cache.fail_all(CacheErrorKind::Unavailable);
        let failures = [
            store.ping().await.err(),
            store.save(&Session::new()).await.err(),
            store.load(&id).await.err(),
            store.touch(&id).await.err(),
            store.destroy(&id).await.err(),
            store.revoke(&key).await.err(),
            store.sessions_of("alice").await.err(),
            store.owner_sessions("alice", None, 5).await.err(),
            store.revoke_all("alice").await.err(),
            store.revoke_others("alice", &key).await.err(),
            session.reload().await.err(),
            session.owner_sessions(None, 5).await.err(),
            session.revoke(&key).await.err(),
            session.revoke_others().await.err(),
            session.revoke_all().await.err(),
        ];
        for (at, failure) in failures.iter().enumerate() {
            let kind = failure.as_ref().and_then(cloakroom::SessionError::cache_kind);
            assert_eq!(kind, Some(CacheErrorKind::Unavailable), "call {at}");
        }
    });
    assert_eq!(counts, expected([("created", 1), ("cache_unavailable", 15)]));
}
