//! Requests with a handler that sees all of them, and cookies.
use std::{convert::Infallible, future::Future};

use cloakroom::{Cache, SessionLayer};
use http::{HeaderMap, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

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

pub fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}
