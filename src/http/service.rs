//! The service: what happens before the handler, and after it.
use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    exchange::{Exchange, Loaded, Shared},
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

impl<S: Clone, E> SessionService<S, E> {
    /// The inner service that was polled ready. A clone may not be, so it stays:
    /// <https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services>
    fn take_ready(&mut self) -> S {
        let not_ready = self.inner.clone();
        std::mem::replace(&mut self.inner, not_ready)
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
        #[cfg(feature = "device-bound")]
        if let Some(call) = exchange.call(&request) {
            let answer = Box::pin(async move { Loaded::Endpoint(call.answer().await) });
            return ResponseFuture::loading(answer, self.take_ready(), request, exchange);
        }
        request.extensions_mut().insert(lazy.clone());
        if eager {
            match lazy.load_at_once() {
                Some(loaded) => {
                    #[cfg(feature = "device-bound")]
                    if let Some(again) = exchange.again(&request) {
                        let again = Box::pin(std::future::ready(Loaded::Endpoint(Ok(again))));
                        return ResponseFuture::loading(again, self.take_ready(), request, exchange);
                    }
                    // An extractor answers with the error; routes without a session are served.
                    if let Ok(session) = loaded {
                        request.extensions_mut().insert(session);
                    }
                }
                None => {
                    let load = Box::pin(async move { Loaded::Session(lazy.load_unasked().await) });
                    return ResponseFuture::loading(load, self.take_ready(), request, exchange);
                }
            }
        }
        ResponseFuture::running(self.inner.call(request), exchange)
    }
}
