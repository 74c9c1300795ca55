//! The service: what happens before the handler, and after it.
use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode};
use tower_service::Service;

use crate::{
    cache::Cache,
    caching::{self, SessionUse},
    cookie,
    error::{DefaultErrorResponse, ErrorResponse, SessionError},
    events,
    future::ResponseFuture,
    layer::Shared,
    run_to_end::RunToEnd,
    session::{CookieDue, LazySession, Order, Scope, Session},
};

/// A service with sessions. See [`SessionLayer`](crate::SessionLayer).
pub struct SessionService<S, C, E = DefaultErrorResponse> {
    inner: S,
    shared: Arc<Shared<E>>,
    cache: PhantomData<fn() -> C>,
}

impl<S, C, E> SessionService<S, C, E> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<E>>) -> Self {
        Self { inner, shared, cache: PhantomData }
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

impl<S: Clone, C, E> Clone for SessionService<S, C, E> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, C, E> fmt::Debug for SessionService<S, C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, C, E, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S, C, E>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    C: Cache,
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

/// One request and its response, as far as the session goes.
pub(crate) struct Exchange<E> {
    shared: Arc<Shared<E>>,
    lazy: LazySession,
    /// The browser will most likely drop a `Secure` cookie.
    drops_cookie: bool,
}

/// A commit that is done, or has to be waited for.
pub(crate) enum Commit {
    Done(Result<(), SessionError>),
    UnderWay(RunToEnd<Result<(), SessionError>>),
}

/// Whether a response with this status means that the handler did what it was to do. A 408 cut it off half-way.
fn commits(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT
}

impl<E> Exchange<E> {
    fn begin<B>(shared: &Arc<Shared<E>>, request: &Request<B>) -> (Self, LazySession) {
        let candidates = shared.policy.read(request.headers());
        if candidates.malformed {
            events::malformed_cookie();
        }
        #[cfg(feature = "signed")]
        if candidates.unsigned {
            events::unsigned_cookie();
        }
        let drops_cookie = shared.policy.is_secure() && candidates.is_empty() && cookie::is_likely_lost(request);
        let lazy = LazySession::new(Arc::clone(&shared.engine), candidates, shared.refresh);
        (Self { shared: Arc::clone(shared), lazy: lazy.clone(), drops_cookie }, lazy)
    }

    /// What there is to commit, once the handler is done.
    pub(crate) fn commit<B, Error>(&self, result: &Result<Response<B>, Error>) -> Commit {
        let scope = if result.as_ref().is_ok_and(|response| commits(response.status())) {
            Scope::All
        } else {
            Scope::DestroyOnly
        };
        let Some(session) = self.lazy.close().filter(|session| session.close(scope)) else {
            return Commit::Done(Ok(()));
        };
        match session.commit_at_once(scope) {
            Some(done) => Commit::Done(done),
            None => {
                let commit = session.clone().run_commit(Order::Response(scope), self.lazy.deadline());
                Commit::UnderWay(RunToEnd::new(commit))
            }
        }
    }

    /// The response that goes out.
    pub(crate) fn respond<B, Error>(
        &self,
        result: Result<Response<B>, Error>,
        commit: Result<(), SessionError>,
    ) -> Result<Response<B>, Error>
    where
        E: ErrorResponse<B>,
    {
        let mut response = result?;
        let error = match commit {
            Err(error) if !self.is_lost_to_a_logout(&error) => Some(error),
            // That of an extractor, or of a handler that returned it.
            _ => response.extensions_mut().remove::<SessionError>(),
        };
        if let Some(error) = error {
            response = self.shared.on_error.error_response(&error);
        }
        let cookie = self.cookie();
        let session = SessionUse { accessed: self.lazy.was_looked_at(), set_cookie: cookie.is_some() };
        let replaced = match cookie {
            Some(cookie) => self.shared.policy.put(response.headers_mut(), cookie),
            None => self.shared.policy.drop_foreign(response.headers_mut()),
        };
        if replaced {
            events::replaced_cookie();
        }
        if self.shared.caching_headers && caching::apply(response.headers_mut(), session) {
            events::overridden_caching();
        }
        Ok(response)
    }

    /// The session had ended, and an event has said so: the handler's answer stands.
    fn is_lost_to_a_logout(&self, error: &SessionError) -> bool {
        matches!(error, SessionError::Gone) && self.lazy.loaded().is_some_and(Session::has_ended)
    }

    /// The one session cookie of the response, if there is to be one.
    fn cookie(&self) -> Option<HeaderValue> {
        let session = self.lazy.loaded()?;
        let policy = &self.shared.policy;
        let (due, head) = session.cookie_due();
        let persistent = head.and_then(|(_, own)| own).unwrap_or_else(|| policy.persistent());
        let max_age = || {
            let (end, _) = head.filter(|_| persistent)?;
            Some(Duration::from_millis(end.saturating_sub(self.shared.engine.config().clock.now_ms())))
        };
        match due {
            CookieDue::Issue(id) => {
                if self.drops_cookie {
                    events::cookie_likely_lost();
                }
                Some(policy.issue(&id, max_age()))
            }
            CookieDue::Moved(id) if persistent => Some(policy.issue(&id, max_age())),
            CookieDue::Remove => Some(policy.removal()),
            CookieDue::Moved(_) | CookieDue::Nothing => None,
        }
    }
}

impl<E> Drop for Exchange<E> {
    /// Answered, failed or dropped: this request commits no more.
    fn drop(&mut self) {
        self.lazy.finish();
    }
}
