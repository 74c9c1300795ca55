//! The future of a response: load, run, commit.
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::exchange::{Commit, Exchange, Loaded};
use crate::{error::ErrorResponse, events::Answered, run_to_end::RunToEnd};

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
        Committing { commit: RunToEnd<Result<(), Answered>>, result: Option<Result<S::Response, S::Error>> },
        Done,
    }
}

impl<S: Service<Request<B>>, E, B> ResponseFuture<S, E, B> {
    pub(crate) fn loading(load: Loading, ready: S, request: Request<B>, exchange: Exchange<E>) -> Self {
        Self { phase: Phase::Loading { load, ready: Some((ready, request)) }, exchange }
    }

    pub(crate) fn running(response: S::Future, exchange: Exchange<E>) -> Self {
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
                        Commit::UnderWay(commit) => Phase::Committing { commit, result: Some(result) },
                        Commit::Done(committed) => return Poll::Ready(this.exchange.respond(result, committed)),
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
