//! Requests through the layer, without a network: a handler is a closure.
use std::{convert::Infallible, future::Future};

use cloakroom::{Cache, LazySession, Session, SessionLayer, SessionStore, testing::TestCache};
use http::{HeaderMap, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    /// `name=value` of the session cookie that the response sets.
    pub fn cookie(&self) -> Option<String> {
        let value = self.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(value.split(';').next().unwrap().to_owned())
    }
}

/// A store on a cache that fails and waits on demand, and that cache.
pub fn store<C: Cache>(cache: C) -> (SessionStore<TestCache<C>>, TestCache<C>) {
    let cache = TestCache::new(cache);
    (SessionStore::new(cache.clone()), cache)
}

pub fn layer<C: Cache>(store: &SessionStore<C>) -> SessionLayer<C> {
    SessionLayer::new(store.clone())
}

/// The ID in `name=value`, where it is signed as well.
pub fn id(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1.split('.').next().unwrap()
}

/// One request with this cookie; the handler gets the session and answers with a status.
pub async fn send<C, F, Fut>(layer: &SessionLayer<C>, cookie: Option<&str>, handler: F) -> Reply
where
    C: Cache,
    F: Fn(Session) -> Fut + Clone,
    Fut: Future<Output = u16>,
{
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let handler = handler.clone();
        async move {
            let lazy = request.extensions().get::<LazySession>().unwrap().clone();
            let (status, body) = match lazy.load().await {
                Ok(session) => (handler(session).await, "the handler's answer"),
                Err(error) => (error.status().as_u16(), "no session"),
            };
            Ok::<_, Infallible>(Response::builder().status(status).body(body.to_owned()).unwrap())
        }
    }));
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// A stored session of this owner with `n` = 0, as a cookie.
pub async fn start<C: Cache>(layer: &SessionLayer<C>, owner: &'static str) -> String {
    let reply = send(layer, None, move |session| async move {
        session.set("n", 0).unwrap();
        session.set_owner(owner).unwrap();
        200
    })
    .await;
    reply.cookie().unwrap()
}

/// The number under `key`, as the next request of this cookie sees it.
pub async fn peek<C: Cache>(layer: &SessionLayer<C>, cookie: &str, key: &'static str) -> Option<u64> {
    let found = std::sync::Arc::new(std::sync::Mutex::new(None));
    let into = found.clone();
    send(layer, Some(cookie), move |session| {
        *into.lock().unwrap() = session.get(key);
        async { 200 }
    })
    .await;
    *found.lock().unwrap()
}

/// How many live sessions this owner has.
pub async fn live<C: Cache>(store: &SessionStore<C>, owner: &str) -> usize {
    store.sessions_of(owner).await.unwrap().len()
}
