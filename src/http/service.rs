//! The service and the future of its response: load, run the handler, commit.
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::exchange::{Exchange, Loaded, ResponseCommit, Shared};
use crate::{
    error::{DefaultErrorResponse, ErrorResponse},
    events::LoggedError,
    run_to_end::RunToEnd,
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

type Loading = Pin<Box<dyn Future<Output = Loaded> + Send>>;

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<S, E, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        phase: Phase<S, B>,
        exchange: Exchange<E>,
    }
}

pin_project! {
    #[project = PhaseProjection]
    enum Phase<S, B>
    where
        S: Service<Request<B>>,
    {
        Loading { load: Loading, ready: Option<(S, Request<B>)> },
        Running { #[pin] response: S::Future },
        Committing { commit: RunToEnd<Result<(), LoggedError>>, result: Option<Result<S::Response, S::Error>> },
        Done,
    }
}

impl<S: Service<Request<B>>, E, B> ResponseFuture<S, E, B> {
    fn loading(load: Loading, ready: S, request: Request<B>, exchange: Exchange<E>) -> Self {
        Self { phase: Phase::Loading { load, ready: Some((ready, request)) }, exchange }
    }

    fn running(response: S::Future, exchange: Exchange<E>) -> Self {
        Self { phase: Phase::Running { response }, exchange }
    }
}

impl<S, E, B, ResBody> Future for ResponseFuture<S, E, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    E: ErrorResponse<ResBody>,
{
    type Output = Result<Response<ResBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.phase.as_mut().project() {
                PhaseProjection::Loading { load, ready } => {
                    let loaded = ready!(load.as_mut().poll(cx));
                    let Some((mut inner, mut request)) = ready.take() else { return Poll::Pending };
                    match loaded {
                        #[cfg(feature = "device-bound")]
                        Loaded::Endpoint(answer) => {
                            this.phase.set(Phase::Done);
                            return Poll::Ready(Ok(this.exchange.answer(answer)));
                        }
                        Loaded::Session(loaded) => {
                            #[cfg(feature = "device-bound")]
                            if let Some(again) = this.exchange.again(&request) {
                                this.phase.set(Phase::Done);
                                return Poll::Ready(Ok(this.exchange.answer(Ok(again))));
                            }
                            if let Ok(session) = loaded {
                                request.extensions_mut().insert(session);
                            }
                        }
                    }
                    Phase::Running { response: inner.call(request) }
                }
                PhaseProjection::Running { response } => {
                    let result = ready!(response.poll(cx));
                    // The handler's future is dropped before anything is decided: it may hold a handle of the session.
                    this.phase.set(Phase::Done);
                    match this.exchange.commit(&result) {
                        ResponseCommit::UnderWay(commit) => Phase::Committing { commit, result: Some(result) },
                        ResponseCommit::Done(committed) => {
                            return Poll::Ready(this.exchange.respond(result, committed));
                        }
                    }
                }
                PhaseProjection::Committing { commit, result } => {
                    let committed = ready!(Pin::new(commit).poll(cx));
                    let Some(result) = result.take() else { return Poll::Pending };
                    this.phase.set(Phase::Done);
                    return Poll::Ready(this.exchange.respond(result, committed));
                }
                PhaseProjection::Done => return Poll::Pending,
            };
            this.phase.set(next);
        }
    }
}

impl<S: Service<Request<B>>, E, B> fmt::Debug for ResponseFuture<S, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
