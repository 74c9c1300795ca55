//! An axum router without the layer and within it, and the requests that it is driven with.
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::{Router, body::Body, response::Response, routing::get};
use cloakroom::{InMemoryCache, Session, SessionLayer, SessionStore};
use http::{
    Request,
    header::{COOKIE, SET_COOKIE},
};
use tokio::runtime::Runtime;
use tower::Service;

/// What a request carries, and what its handler does.
pub(crate) const SCENARIOS: [&str; 5] = ["anon", "idle", "read", "write", "new"];

/// Nothing, a layer that loads first, and one that loads when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    Bare,
    Eager,
    Lazy,
}

pub(crate) struct App {
    router: Router,
    runtime: Runtime,
    cookie: String,
}

impl App {
    /// With a session whose cookie stands among others, and room for so many.
    pub(crate) fn new(around: Around, sessions: usize) -> Self {
        let cache = InMemoryCache::builder().max_entries(sessions).max_bytes(usize::MAX).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut app = Self { router: router(around, cache), runtime, cookie: String::new() };
        if around != Around::Bare {
            app.cookie = app.start();
        }
        app
    }

    /// Starts one more session and returns the `Cookie` header that a browser would send.
    pub(crate) fn start(&mut self) -> String {
        let response = self.call("/fill", None);
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
        format!("_ga=GA1.1.1234567890.1700000000; theme=dark; {cookie}")
    }

    pub(crate) fn run(&mut self, scenario: &str) -> Response {
        let cookie = std::mem::take(&mut self.cookie);
        let response = match scenario {
            "anon" => self.call("/none", None),
            "idle" => self.call("/none", Some(&cookie)),
            "read" => self.call("/read", Some(&cookie)),
            "write" => self.call("/write", Some(&cookie)),
            "new" => self.call("/fill", None),
            other => panic!("no scenario {other}: {SCENARIOS:?}"),
        };
        self.cookie = cookie;
        response
    }

    /// One request. With everything in memory it is answered at the first poll, and no runtime is in the way.
    pub(crate) fn call(&mut self, path: &str, cookie: Option<&str>) -> Response {
        let mut request = Request::builder().uri(path);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let _inside = self.runtime.enter();
        let mut future = pin!(self.router.call(request.body(Body::empty()).unwrap()));
        let response = match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(response) => response.unwrap(),
            Poll::Pending => self.runtime.block_on(future).unwrap(),
        };
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response
    }
}

async fn hello() -> &'static str {
    "hello"
}

fn router(around: Around, cache: InMemoryCache) -> Router {
    if around == Around::Bare {
        return ["/none", "/read", "/write", "/fill"]
            .into_iter()
            .fold(Router::new(), |router, path| router.route(path, get(hello)));
    }
    let layer = SessionLayer::builder(SessionStore::new(cache));
    let layer = if around == Around::Lazy { layer.lazy(true) } else { layer };
    Router::new()
        .route("/none", get(hello))
        .route("/read", get(async |session: Session| session.get::<u64>("user_id").unwrap().to_string()))
        .route(
            "/write",
            get(async |session: Session| {
                let n: u64 = session.get("n").unwrap_or(0);
                session.set("n", n + 1).unwrap();
                "ok"
            }),
        )
        .route(
            "/fill",
            get(async |session: Session| {
                session.set("user_id", 42).unwrap();
                session.set("name", "Alice Liddell").unwrap();
                session.set("csrf_at", "2026-11-23T08:27:00Z").unwrap();
                "ok"
            }),
        )
        .layer(layer.build().unwrap())
}
