//! Every response of a 5xx that the crate makes, and every change that it drops, is one line in the log and one count.
use std::{collections::BTreeMap, time::Duration};

use axum::{Router, body::Body, routing::get};
use cloakroom::{
    CacheErrorKind, InMemoryCache, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::{Request, StatusCode, header};
use tower::ServiceExt;

use crate::{
    counted,
    support::{
        log::Log,
        web::{id, start},
    },
};

mod cache;
#[cfg(feature = "device-bound")]
mod device_bound;
mod dropped;
mod errors;
#[cfg(feature = "redis")]
mod redis;

type Cache = TestCache<InMemoryCache>;
type Answer = Result<StatusCode, SessionError>;

/// What is no failure.
const LIFE: [&str; 3] = ["created", "renewed", "destroyed"];

/// An application, and the cookie of a session with an owner and `n` = 0.
#[derive(Clone)]
struct Trial {
    cache: Cache,
    store: SessionStore<Cache>,
    lazy: bool,
    cookie: String,
}

/// What was counted, each of which is one line; and the status.
fn told(name: &str, run: impl Future<Output = u16>) -> (u16, BTreeMap<String, u64>) {
    cloakroom::testing::log_every_event();
    let (log, _recording) = Log::record();
    let mut status = 0;
    let mut counts = counted(async { status = run.await });
    counts.retain(|event, _| !LIFE.contains(&&**event));
    for (event, count) in &counts {
        let lines = log.lines(&format!("event=\"{event}\""));
        assert_eq!(lines.len() as u64, *count, "{name}: {lines:?}");
    }
    let lines = log.lines("event=").len()
        - LIFE.map(|event| log.lines(&format!("event=\"{event}\"")).len()).iter().sum::<usize>();
    assert_eq!(lines as u64, counts.values().sum::<u64>(), "{name}: {}", log.text());
    (status, counts)
}

/// On a layer that loads before the handler runs, and on one that loads when it is asked.
fn check<F: Future<Output = u16>>(name: &str, status: u16, events: &[&str], run: impl Fn(Trial) -> F) {
    for lazy in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let trial = runtime.block_on(Trial::new(lazy));
        let mut expected = BTreeMap::new();
        for event in events {
            *expected.entry((*event).to_owned()).or_default() += 1;
        }
        assert_eq!(told(name, run(trial)), (status, expected), "{name}, lazy {lazy}");
    }
}

impl Trial {
    async fn new(lazy: bool) -> Self {
        let cache = TestCache::new(InMemoryCache::new());
        let store = SessionStore::new(cache.clone()).deadline(Duration::from_millis(300));
        let cookie = start(&SessionLayer::new(store.clone()), "alice").await;
        Self { cache, store, lazy, cookie }
    }

    async fn send(&self, app: Router<()>, layered: bool) -> http::Response<Body> {
        let layer = SessionLayer::builder(self.store.clone()).lazy(self.lazy).build().unwrap();
        let app = if layered { app.layer(layer) } else { app };
        let request = Request::get("/").header(header::COOKIE, &self.cookie).body(Body::empty()).unwrap();
        app.oneshot(request).await.unwrap()
    }

    /// A request whose handler takes the session by an extractor.
    async fn request<F, Fut>(&self, handler: F) -> u16
    where
        F: Fn(Session) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.send(Router::new().route("/", get(move |session: Session| handler(session))), true).await.status().as_u16()
    }

    fn fail(&self, operation: Operation, kind: CacheErrorKind) -> &Self {
        self.cache.fail(operation, kind);
        self
    }

    /// Another request logs the visitor out.
    async fn log_out_elsewhere(&self) {
        self.store.destroy(id(&self.cookie)).await.unwrap();
    }

    async fn count_elsewhere(&self) {
        let session = self.store.load(id(&self.cookie)).await.unwrap().unwrap();
        session.set("n", 7).unwrap();
        session.commit().await.unwrap();
    }
}

async fn ok(_: Session) -> Answer {
    Ok(StatusCode::OK)
}

async fn write(session: Session) -> Answer {
    session.set("n", 1)?;
    Ok(StatusCode::OK)
}

async fn commit(session: Session) -> Answer {
    session.set("n", 1)?;
    session.commit().await?;
    Ok(StatusCode::OK)
}

/// More than a session may have, in values that may be set one by one.
fn too_much(session: &Session) -> Result<(), SessionError> {
    ["a", "b"].into_iter().try_for_each(|key| session.set(key, "x".repeat(40 << 10)))
}
