//! The service: what happens before the handler, and after it.
use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    exchange::{Exchange, Shared},
    future::ResponseFuture,
};
use crate::{
    error::{DefaultErrorResponse, ErrorResponse},
    session::Session,
};

/// A service with sessions. See [`SessionLayer`](crate::SessionLayer).
pub struct SessionService<S, E = DefaultErrorResponse> {
    inner: S,
    shared: Arc<Shared<E>>,
}

impl<S, E> SessionService<S, E> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<E>>) -> Self {
        Self { inner, shared }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, taken out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, E> Clone for SessionService<S, E> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, E> fmt::Debug for SessionService<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, E, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S, E>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    E: ErrorResponse<ResBody>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S, E, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let (exchange, lazy) = Exchange::begin(&self.shared, &request);
        let eager = !self.shared.lazy;
        // An outer layer's session is not this layer's.
        request.extensions_mut().remove::<Session>();
        request.extensions_mut().insert(lazy.clone());
        if eager {
            match lazy.load_at_once() {
                Some(Ok(session)) => {
                    request.extensions_mut().insert(session);
                }
                // An extractor answers with the error; routes without a session are served.
                Some(Err(_)) => {}
                None => {
                    let load = Box::pin(async move { lazy.load_unasked().await });
                    // The clone may not be ready, so it stays and the ready one goes:
                    // https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services
                    let not_ready = self.inner.clone();
                    let ready = std::mem::replace(&mut self.inner, not_ready);
                    return ResponseFuture::loading(load, ready, request, exchange);
                }
            }
        }
        ResponseFuture::running(self.inner.call(request), exchange)
    }
}
