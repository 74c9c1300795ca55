//! One request and its response: what is read from the cookie, what is committed, and what the response becomes.
use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};

use super::caching::{self, SessionUse};
use crate::{
    cookie::{self, CookiePolicy},
    engine::SessionEngine,
    error::{ErrorResponse, SessionError},
    events,
    run_to_end::RunToEnd,
    session::{CookieDue, LazySession, Order, Scope, Session},
};

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const EVERYTHING_STORED: HeaderValue = HeaderValue::from_static("\"cache\", \"cookies\"");

/// What all services of a layer share.
pub(crate) struct Shared<E> {
    pub(crate) engine: Arc<dyn SessionEngine>,
    pub(crate) policy: CookiePolicy,
    pub(crate) refresh: Option<Duration>,
    pub(crate) lazy: bool,
    pub(crate) caching_headers: bool,
    pub(crate) clear_site_data: bool,
    pub(crate) on_error: E,
}

/// One request and its response, as far as the session goes.
pub(crate) struct Exchange<E> {
    pub(super) shared: Arc<Shared<E>>,
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
    pub(super) fn begin<B>(shared: &Arc<Shared<E>>, request: &Request<B>) -> (Self, LazySession) {
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
        if self.shared.clear_site_data && self.removes_cookie() {
            response.headers_mut().entry(CLEAR_SITE_DATA).or_insert(EVERYTHING_STORED);
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

    /// The session was destroyed.
    fn removes_cookie(&self) -> bool {
        self.lazy.loaded().is_some_and(|session| matches!(session.cookie_due().0, CookieDue::Remove))
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
