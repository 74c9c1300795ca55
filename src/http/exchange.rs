//! One request and its response: what is read from the cookie, what is committed, and what the response becomes.
use std::{sync::Arc, time::Duration};

#[cfg(feature = "device-bound")]
use http::HeaderMap;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};

use super::caching::{self, SessionUse};
#[cfg(feature = "device-bound")]
use crate::device_bound::{Call, CheckedDeviceBound, EndpointResponse, REGISTRATION};
use crate::{
    cookie::{self, CookiePolicy},
    engine::SessionEngine,
    error::{ErrorResponse, SessionError},
    events::{self, LoggedError},
    run_to_end::RunToEnd,
    session::{CommitReason, CookieDue, LazySession, Session},
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
    #[cfg(feature = "device-bound")]
    pub(crate) device_bound: Option<Arc<CheckedDeviceBound>>,
}

/// What comes before the handler.
pub(crate) enum Loaded {
    Session(Result<Session, SessionError>),
    /// The layer answers itself.
    #[cfg(feature = "device-bound")]
    Endpoint(Result<EndpointResponse, SessionError>),
}

/// One request and its response, as far as the session goes.
pub(crate) struct Exchange<E> {
    pub(super) shared: Arc<Shared<E>>,
    lazy: LazySession,
    /// The browser will most likely drop a `Secure` cookie.
    drops_cookie: bool,
}

/// A commit that is done, or has to be waited for.
pub(crate) enum ResponseCommit {
    Done(Result<(), LoggedError>),
    UnderWay(RunToEnd<Result<(), LoggedError>>),
}

/// Whether a response with this status means that the handler did what it was to do. A 408 cut it off half-way; what is above
/// 599 counts as a server error (RFC 9110, 15).
fn commits(status: StatusCode) -> bool {
    status < StatusCode::INTERNAL_SERVER_ERROR && status != StatusCode::REQUEST_TIMEOUT
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
        #[cfg(feature = "device-bound")]
        let admission = {
            let device_bound = shared.device_bound.as_ref();
            let (path, has_session) = (request.uri().path(), !candidates.is_empty());
            device_bound.map(|device| Box::new(device.admission(path, request.headers(), has_session)))
        };
        let lazy = LazySession::new(
            Arc::clone(&shared.engine),
            candidates,
            shared.refresh,
            #[cfg(feature = "device-bound")]
            admission,
        );
        (Self { shared: Arc::clone(shared), lazy: lazy.clone(), drops_cookie }, lazy)
    }

    /// What there is to commit, once the handler is done.
    pub(crate) fn commit<B, Error>(&self, result: &Result<Response<B>, Error>) -> ResponseCommit {
        let reason = if result.as_ref().is_ok_and(|response| commits(response.status())) {
            CommitReason::Response
        } else {
            CommitReason::FailedResponse
        };
        let answer = || Some(result.as_ref().ok()?.extensions().get::<LoggedError>()?.error());
        let Some(session) = self.lazy.close().filter(|session| session.close(reason, answer)) else {
            return ResponseCommit::Done(Ok(()));
        };
        match session.commit_at_once(reason, self.lazy.is_shared()) {
            Some(done) => ResponseCommit::Done(done),
            None => {
                let commit = session.clone().run_response_commit(reason, self.lazy.deadline());
                ResponseCommit::UnderWay(RunToEnd::new(commit))
            }
        }
    }

    /// The response that goes out.
    pub(crate) fn respond<B, Error>(
        &self,
        result: Result<Response<B>, Error>,
        commit: Result<(), LoggedError>,
    ) -> Result<Response<B>, Error>
    where
        E: ErrorResponse<B>,
    {
        let mut response = result?;
        // The commit's, or else that of an extractor or of a handler that returned it.
        let error = commit.err().or_else(|| response.extensions_mut().remove::<LoggedError>());
        #[cfg(feature = "device-bound")]
        let is_done = error.is_none();
        if let Some(error) = error {
            response = self.error_response(&error);
        }
        let cookie = self.cookie();
        let set_cookie = cookie.is_some();
        #[cfg(feature = "device-bound")]
        let set_cookie = self.bind(is_done, response.headers_mut()) || set_cookie;
        let session = SessionUse { accessed: self.lazy.was_accessed(), set_cookie };
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

    /// The only way to a response that is an error of this layer.
    fn error_response<B>(&self, error: &LoggedError) -> Response<B>
    where
        E: ErrorResponse<B>,
    {
        self.shared.on_error.error_response(error.error())
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

#[cfg(feature = "device-bound")]
impl<E> Exchange<E> {
    /// A request to the layer's own endpoint.
    pub(super) fn call<B>(&self, request: &Request<B>) -> Option<Call> {
        let settings = self.shared.device_bound.as_ref().filter(|settings| settings.path == request.uri().path())?;
        let ids = self.shared.policy.read(request.headers()).into_iter().map(|candidate| candidate.id).collect();
        let engine = Arc::clone(&self.shared.engine);
        Some(Call::new(engine, Arc::clone(settings), ids, request.method(), request.headers()))
    }

    /// Before the handler of a request whose bound cookie does not count, where the browser can get another first.
    pub(super) fn again<B>(&self, request: &Request<B>) -> Option<EndpointResponse> {
        let settings = self.shared.device_bound.as_ref().filter(|_| self.lazy.has_spoilt_cookie())?;
        settings.again(request.method(), request.uri())
    }

    /// The response of the layer's own endpoint.
    pub(crate) fn answer<B>(&self, answer: Result<EndpointResponse, SessionError>) -> Response<B>
    where
        E: ErrorResponse<B>,
    {
        let on_error = &self.shared.on_error;
        let error = match answer.map(|answer| (on_error.answer(answer.body), answer.status, answer.headers)) {
            Ok((Some(mut response), status, headers)) => {
                *response.status_mut() = status;
                response.headers_mut().extend(headers);
                return response;
            }
            // `build` refuses a layer that cannot answer.
            Ok((None, ..)) => SessionError::Setting("device_bound"),
            Err(error) => error,
        };
        self.error_response(&events::response_error(error, None))
    }

    /// Offers to bind the session of a login, and removes a bound cookie that is of no use; whether it did that.
    fn bind(&self, is_done: bool, headers: &mut HeaderMap) -> bool {
        let Some(settings) = &self.shared.device_bound else { return false };
        if settings.cookie.drop_foreign(headers) {
            events::replaced_cookie();
        }
        let session = self.lazy.loaded();
        let offer = session.filter(|_| is_done).and_then(Session::offer_due);
        if let Some(offer) = offer.and_then(|challenge| settings.registration(&challenge)) {
            headers.insert(REGISTRATION, offer);
        }
        let is_over = || session.is_some_and(|session| matches!(session.cookie_due().0, CookieDue::Remove));
        let removes = self.lazy.has_spoilt_cookie() || (self.lazy.has_bound_cookie() && is_over());
        if removes {
            settings.cookie.put(headers, settings.cookie.removal());
        }
        removes
    }
}

impl<E> Drop for Exchange<E> {
    /// Answered, failed or dropped: this request commits no more.
    fn drop(&mut self) {
        self.lazy.finish();
    }
}
