//! What tests of the layer share: a request with a handler of its own, both caches in turn.
use std::{convert::Infallible, future::Future};

use cloakroom::{Cache, SessionLayer};
use http::{HeaderMap, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

#[cfg(feature = "redis")]
pub mod redis_server;
pub mod web;

/// One test for each function and cache: in memory, and in Redis on a server of its own.
#[allow(unused_macros)]
macro_rules! on_both_caches {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(cloakroom::InMemoryCache::new()).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = crate::common::redis_server::RedisServer::start();
                super::$name(crate::common::redis_server::patient(&server).await).await;
            })*
        }
    };
}

/// One request, answered by a handler that sees all of it and has no body to read.
pub async fn serve<C, F, Fut>(layer: &SessionLayer<C>, request: Request<()>, handler: F) -> Response<String>
where
    C: Cache,
    F: Fn(Request<()>) -> Fut + Clone,
    Fut: Future<Output = Response<String>>,
{
    let service = layer.layer(service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    }));
    service.oneshot(request).await.unwrap()
}

pub fn request(cookie: Option<&str>) -> Request<()> {
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(()).unwrap()
}

/// The ID in `name=value`.
pub fn id(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1.split('.').next().unwrap()
}

pub fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}
