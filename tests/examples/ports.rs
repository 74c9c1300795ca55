//! Applications that come from tower-sessions, translated word for word by the tables in `src/docs/migrating.md`.
use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::FromRequestParts,
    http::{Request, StatusCode, header, request::Parts},
    routing::get,
};
use cloakroom::{Cache, InMemoryCache, Session, SessionError, SessionLayer, SessionLayerBuilder, SessionStore};
use serde::{Deserialize, Serialize};
use tower::{ServiceBuilder, ServiceExt};

/// `with_secure(false)`, and `with_expiry(Expiry::OnInactivity(…))`, whose cookie outlives the browser.
fn builder<C: Cache>(cache: C) -> SessionLayerBuilder<C> {
    let store = SessionStore::new(cache).ttl(Duration::from_secs(10));
    SessionLayer::builder(store).secure(false).cookie_name("id").persistent(true)
}

/// `get` and `insert` there.
async fn count(session: Session) -> Result<String, SessionError> {
    let count: u64 = session.try_get("count")?.unwrap_or_default();
    session.set("count", count + 1)?;
    Ok(count.to_string())
}

/// The answers to three requests of one browser.
async fn answers(app: Router) -> Vec<String> {
    let (mut cookie, mut answers) = (None::<String>, Vec::new());
    for _ in 0..3 {
        let mut request = Request::get("/");
        if let Some(cookie) = &cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            let set = set.to_str().unwrap();
            assert!(set.starts_with("id=") && set.contains("Max-Age=") && !set.contains("Secure"), "{set}");
            cookie = set.split(';').next().map(str::to_owned);
        }
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        answers.push(String::from_utf8(body.to_vec()).unwrap());
    }
    answers
}

fn counter<C: Cache>(cache: C) -> Router {
    Router::new().route("/", get(count)).layer(builder(cache).build().unwrap())
}

#[tokio::test]
async fn a_counter_in_memory() {
    assert_eq!(answers(counter(InMemoryCache::new())).await, ["0", "1", "2"]);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_counter_on_redis() {
    let server = crate::support::redis_server::RedisServer::start();
    assert_eq!(answers(counter(cloakroom::RedisCache::connect(server.url()).await.unwrap())).await, ["0", "1", "2"]);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_counter_on_sqlite_with_a_task_that_deletes() {
    let file = std::env::temp_dir().join(format!("cloakroom-ports-{}.db", std::process::id()));
    let cache = cloakroom::SqliteCache::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    cache.migrate().await.unwrap();
    let deletion = tokio::spawn(cache.sweeper(Duration::from_secs(60)));
    let answers = answers(counter(cache)).await;
    deletion.abort();
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    assert_eq!(answers, ["0", "1", "2"]);
}

#[cfg(feature = "signed")]
#[tokio::test]
async fn a_counter_with_a_signed_cookie() {
    let layer =
        builder(InMemoryCache::new()).signing_keys([cloakroom::SigningKey::generate().unwrap()]).build().unwrap();
    assert_eq!(answers(Router::new().route("/", get(count)).layer(layer)).await, ["0", "1", "2"]);
}

#[derive(Default, Deserialize, Serialize)]
struct Counter(u64);

impl<S: Send + Sync> FromRequestParts<S> for Counter {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, SessionError> {
        let session = Session::from_request_parts(parts, state).await?;
        let counter: Self = session.try_get("count")?.unwrap_or_default();
        session.set("count", Self(counter.0 + 1))?;
        Ok(counter)
    }
}

#[tokio::test]
async fn an_extractor_of_the_application() {
    let app = Router::new().route("/", get(|counter: Counter| async move { counter.0.to_string() }));
    assert_eq!(answers(app.layer(builder(InMemoryCache::new()).build().unwrap())).await, ["0", "1", "2"]);
}

#[derive(Clone, Deserialize, Serialize)]
struct Guest {
    views: u32,
    first_seen: SystemTime,
}

/// A typed extractor that keeps the session, to write when the handler asks for it.
struct Visit(Session, Guest);

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, SessionError> {
        let session = Session::from_request_parts(parts, state).await?;
        let guest = session.try_get("guest")?.unwrap_or(Guest { views: 0, first_seen: SystemTime::now() });
        Ok(Self(session, guest))
    }
}

#[tokio::test]
async fn a_typed_extractor_with_a_struct() {
    let handler = |Visit(session, mut guest): Visit| async move {
        guest.views += 1;
        session.set_ref("guest", &guest)?;
        let since = guest.first_seen.elapsed().map_or("the future", |_| "then");
        Ok::<_, SessionError>(format!("{} since {since}", guest.views))
    };
    let app = Router::new().route("/", get(handler)).layer(builder(InMemoryCache::new()).build().unwrap());
    assert_eq!(answers(app).await, ["1 since then", "2 since then", "3 since then"]);
}

#[tokio::test]
async fn without_another_cookie_name_the_builder_says_which_setting_to_change() {
    let error = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).secure(false).build().unwrap_err();
    assert_eq!(error.setting(), "secure");
    assert!(error.to_string().contains("choose another `cookie_name`"), "{error}");
}

/// The service of a layer has the error of the service inside.
#[tokio::test]
async fn no_error_of_the_layer_has_to_be_handled() {
    let inner =
        tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(axum::http::Response::new(Body::empty())) });
    let layer = builder(InMemoryCache::new()).build().unwrap();
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let response: Result<_, Infallible> = service.oneshot(Request::new(Body::empty())).await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}
