//! What can go wrong, and what the browser is told of it.
use std::{
    borrow::Cow,
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderValue, Response, StatusCode, header};

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a cache could not do what it was asked.
///
/// Its text and its source are for the operator: neither reaches a browser.
pub struct CacheError {
    kind: CacheErrorKind,
    source: BoxError,
    /// It is logged where it arises, and passes through calls that would log it again.
    logged: AtomicBool,
}

/// What kind of failure a [`CacheError`] is: whether to wait, to look at the configuration or to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheErrorKind {
    /// The cache cannot be reached, or says that it is not ready. Nothing was changed.
    Unavailable,
    /// No answer in time. A write may have been applied, or may be later.
    Timeout,
    /// The cache answered and said no: credentials, permissions, a key of another type.
    Refused,
    /// There is no room for a new entry.
    Full,
    /// This cache, or the server behind it, cannot do this.
    Unsupported,
    /// Anything else.
    Other,
}

impl CacheError {
    /// An error of this kind.
    ///
    /// `source` must contain no value, no key and no credentials: it may be logged.
    pub fn new(kind: CacheErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: source.into(), logged: AtomicBool::new(false) }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> CacheErrorKind {
        self.kind
    }

    /// Whether it is to be logged now: `true` once.
    pub(crate) fn first_log(&self) -> bool {
        !self.logged.swap(true, Ordering::Relaxed)
    }
}

impl fmt::Debug for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheError").field("kind", &self.kind).field("source", &self.source).finish()
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())
    }
}

impl Error for CacheError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl CacheErrorKind {
    const fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the session cache is unavailable",
            Self::Timeout => "the session cache did not answer in time",
            Self::Refused => "the session cache refused the operation",
            Self::Full => "the session cache is full",
            Self::Unsupported => "the session cache does not support the operation",
            Self::Other => "the session cache failed",
        }
    }
}

/// Why a session could not be read or written.
///
/// Its text names no ID, no value and no server, so it can be shown; [`status`](Self::status) is what it means in HTTP.
#[derive(Clone)]
#[non_exhaustive]
pub enum SessionError {
    /// The cache failed. The session is as it was, unless the kind is [`CacheErrorKind::Timeout`]: then a write may
    /// still be applied, as a whole.
    Cache(Arc<CacheError>),
    /// Other requests of this session kept changing it until the deadline. Nothing of this request was written.
    Conflict,
    /// The request's response has been sent, and its changes with it. [`Session::detach`](crate::Session::detach) makes
    /// a handle that outlives the response.
    Closed,
    /// The session was destroyed, expired or was renewed away meanwhile; or the handle was detached in a request that stored no
    /// session. The changes were dropped.
    Gone,
    /// A value or the whole session is larger than the store allows, in bytes of JSON.
    TooLarge {
        /// What it would take; at least this much.
        size: usize,
        /// What [`SessionStore::max_bytes`](crate::SessionStore::max_bytes) allows.
        limit: usize,
    },
    /// The value cannot be kept: it would not come back as it is.
    Encode(EncodeError),
    /// The value under the key is not of the type that was asked for. It stays as it is.
    Decode(DecodeError),
    /// A session keeps the closures of 1,000 calls of [`update`](crate::Session::update) at most until its commit.
    TooManyUpdates {
        /// How many it keeps.
        limit: usize,
    },
    /// The closure of an [`update`](crate::Session::update) panicked when it ran again on a newer value. Its changes are kept,
    /// and the next commit runs it again.
    Panicked,
    /// There was more to do than the deadline allowed. This much is done; the call is to be repeated.
    Incomplete {
        /// Sessions that were ended; a few more may have been, whose end was under way at the deadline.
        ended: usize,
    },
    /// A key is longer than 256 bytes.
    KeyTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A setting has no sense: which, and why.
    Setting(&'static str),
    /// The operating system gave no randomness. No ID was made.
    Random,
    /// This is not the text of a session ID.
    InvalidId,
    /// The session belongs to no store: it was made with [`Session::new`](crate::Session::new).
    NoStore,
    /// `renew` on a detached handle: the browser could not learn the new ID.
    RenewDetached,
    /// The user has as many sessions as [`SessionStore::max_sessions_per_owner`](crate::SessionStore::max_sessions_per_owner) allows.
    TooManySessions,
    /// The session was asked for where no `SessionLayer` is.
    MissingLayer,
    /// The session is bound to a device, and the request has not proven to come from it: nothing is written. 401.
    #[cfg(feature = "device-bound")]
    Unproven,
    /// The session is bound to a device, whose browser says that it could not prove it right now: 503, to be repeated.
    #[cfg(feature = "device-bound")]
    Unrefreshed,
}

/// A value of a session is not of the type that was asked for.
///
/// Names the value key and where in the JSON text decoding failed, and never the value.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodeError {
    key: Box<str>,
    category: serde_json::error::Category,
    line: usize,
    column: usize,
}

impl DecodeError {
    pub(crate) fn new(key: &str, error: &serde_json::Error) -> Self {
        // The text of the error may quote the value.
        Self { key: key.into(), category: error.classify(), line: error.line(), column: error.column() }
    }

    /// The key of the value.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, category, line, column } = self;
        let category = match category {
            serde_json::error::Category::Data => "is of another type",
            _ => "cannot be read",
        };
        // A key may come from a request: in a log it stays on its line.
        let key = key.escape_debug();
        write!(f, "the session's value `{key}` {category}, at line {line}, column {column} of its JSON")
    }
}

impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodeError").field("key", &self.key).field("column", &self.column).finish_non_exhaustive()
    }
}

impl Error for DecodeError {}

/// Why a value cannot be kept.
#[derive(Clone)]
#[non_exhaustive]
pub enum EncodeError {
    /// Arrays and objects nested deeper than 64 levels.
    Depth,
    /// Not a number, or infinite: JSON has no such numbers.
    NonFinite,
    /// A whole number outside of the range of 64 bits, which readers of JSON round.
    Range,
    /// `Some(None)` or `Some(())`: JSON writes `null`, which comes back as `None`.
    NestedOption,
    /// Its `Serialize` failed, or it has no form in JSON (a map with keys that are no strings, say).
    Other(Arc<serde_json::Error>),
}

impl SessionError {
    /// Of a store that no `build` has checked; the event `setting` names the setting.
    pub(crate) const UNUSABLE: &str = "a setting of the store cannot work: the log names it";

    /// The kind of the cache's failure, if it was the cache that failed.
    #[must_use]
    pub fn cache_kind(&self) -> Option<CacheErrorKind> {
        match self {
            Self::Cache(error) => Some(error.kind()),
            _ => None,
        }
    }

    /// What it means in HTTP: 503 where trying again may help, else 500; with feature `device-bound` also 401.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Cache(_) | Self::Conflict | Self::Random | Self::Incomplete { .. } => StatusCode::SERVICE_UNAVAILABLE,
            #[cfg(feature = "device-bound")]
            Self::Unrefreshed => StatusCode::SERVICE_UNAVAILABLE,
            #[cfg(feature = "device-bound")]
            Self::Unproven => StatusCode::UNAUTHORIZED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What a browser is told.
    #[cfg(any(test, feature = "axum"))]
    pub(crate) fn public_text(&self) -> &'static str {
        match self {
            Self::MissingLayer => "the route uses a session but is not wrapped in cloakroom's `SessionLayer`",
            error if error.status() == StatusCode::SERVICE_UNAVAILABLE => {
                "the session is unavailable right now, try again"
            }
            _ => "the session could not be used",
        }
    }

    /// A response with the status, `Cache-Control: no-store` and, for a 503, `Retry-After`.
    pub(crate) fn response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        #[cfg(feature = "device-bound")]
        if self.status() == StatusCode::UNAUTHORIZED {
            // A 401 has to have one (RFC 9110, 15.5.2); there is no registered scheme for a session.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Session"));
        }
        response
    }
}

/// Shows no value.
impl fmt::Debug for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Cache(error) => return f.debug_tuple("Cache").field(error).finish(),
            Self::TooLarge { size, limit } => {
                return f.debug_struct("TooLarge").field("size", size).field("limit", limit).finish();
            }
            Self::KeyTooLong { length } => return f.debug_struct("KeyTooLong").field("length", length).finish(),
            Self::Encode(refused) => return f.debug_tuple("Encode").field(refused).finish(),
            Self::Setting(what) => return f.debug_tuple("Setting").field(what).finish(),
            Self::Decode(error) => return f.debug_tuple("Decode").field(error).finish(),
            Self::TooManyUpdates { limit } => return f.debug_struct("TooManyUpdates").field("limit", limit).finish(),
            Self::Incomplete { ended } => return f.debug_struct("Incomplete").field("ended", ended).finish(),
            Self::Panicked => "Panicked",
            Self::Conflict => "Conflict",
            Self::Closed => "Closed",
            Self::Gone => "Gone",
            Self::Random => "Random",
            Self::InvalidId => "InvalidId",
            Self::NoStore => "NoStore",
            Self::RenewDetached => "RenewDetached",
            Self::TooManySessions => "TooManySessions",
            Self::MissingLayer => "MissingLayer",
            #[cfg(feature = "device-bound")]
            Self::Unproven => "Unproven",
            #[cfg(feature = "device-bound")]
            Self::Unrefreshed => "Unrefreshed",
        };
        f.write_str(name)
    }
}

/// Shows no value.
impl fmt::Debug for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Depth => "Depth",
            Self::NonFinite => "NonFinite",
            Self::Range => "Range",
            Self::NestedOption => "NestedOption",
            Self::Other(_) => "Other",
        })
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache(error) => error.fmt(f),
            Self::Conflict => f.write_str("the session kept changing until the deadline, nothing was written"),
            Self::Closed => f.write_str("the response has been sent: take `detach()` to write later"),
            Self::Gone => f.write_str("the session ended meanwhile, the changes were dropped"),
            Self::TooLarge { size, limit } => write!(f, "{size} bytes of session data, {limit} are allowed"),
            Self::Encode(EncodeError::Depth) => f.write_str("the value is nested deeper than 64 levels"),
            Self::Encode(EncodeError::NonFinite) => f.write_str("the value contains a number that is not finite"),
            Self::Encode(EncodeError::Range) => f.write_str("the value contains a whole number of more than 64 bits"),
            Self::Encode(EncodeError::NestedOption) => f.write_str("the value contains an option that JSON would lose"),
            Self::TooManyUpdates { limit } => write!(f, "more than {limit} updates before a commit"),
            Self::Panicked => f.write_str("the closure of an update panicked when it ran again"),
            Self::Incomplete { ended } => write!(f, "{ended} sessions ended before the deadline: repeat the call"),
            Self::Encode(EncodeError::Other(_)) => f.write_str("the value has no form in JSON"),
            Self::Decode(error) => error.fmt(f),
            Self::KeyTooLong { length } => write!(f, "a key of {length} bytes, 256 are allowed"),
            Self::Setting(what) => f.write_str(what),
            Self::Random => f.write_str("the operating system gave no randomness"),
            Self::InvalidId => f.write_str("this is not a session ID"),
            Self::NoStore => f.write_str("the session belongs to no store: save it with `SessionStore::save`"),
            Self::RenewDetached => {
                f.write_str("a detached session cannot be renewed: the browser could not learn the new ID")
            }
            Self::TooManySessions => f.write_str("the user has too many sessions"),
            Self::MissingLayer => {
                f.write_str("no session in the request: is the route wrapped in cloakroom's `SessionLayer`?")
            }
            #[cfg(feature = "device-bound")]
            Self::Unproven => f.write_str("the session is bound to a device that the request does not come from"),
            #[cfg(feature = "device-bound")]
            Self::Unrefreshed => f.write_str("the session is bound to a device that could not be proven right now"),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cache(error) => error.source(),
            _ => None,
        }
    }
}

impl From<CacheError> for SessionError {
    fn from(error: CacheError) -> Self {
        Self::Cache(Arc::new(error))
    }
}

/// A setting that cannot work, found by `build()`: which one, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    rule: Cow<'static, str>,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, rule: impl Into<Cow<'static, str>>) -> Self {
        Self { setting, rule: rule.into() }
    }

    /// The name of the builder's method: `cookie_name`, `same_site`, `ttl` …
    #[must_use]
    pub fn setting(&self) -> &str {
        self.setting
    }

    /// The rule that it breaks.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.rule)
    }
}

impl Error for ConfigError {}

/// Turns an error of the session layer into a response.
///
/// Closures `Fn(&SessionError) -> Response<B>` do; so does [`DefaultErrorResponse`].
pub trait ErrorResponse<B> {
    /// The response in place of the handler's.
    fn error_response(&self, error: &SessionError) -> Response<B>;

    /// A response with this body, for the endpoint of device-bound sessions; `None` where this type makes none.
    #[cfg(feature = "device-bound")]
    #[doc(hidden)]
    fn answer(&self, body: String) -> Option<Response<B>> {
        drop(body);
        None
    }
}

impl<B, F> ErrorResponse<B> for F
where
    F: Fn(&SessionError) -> Response<B>,
{
    fn error_response(&self, error: &SessionError) -> Response<B> {
        self(error)
    }
}

/// An empty body with [`SessionError::status`], `Cache-Control: no-store` and, for a 503, `Retry-After: 1`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultErrorResponse;

impl<B: Default> ErrorResponse<B> for DefaultErrorResponse {
    fn error_response(&self, error: &SessionError) -> Response<B> {
        error.response(B::default())
    }
}

/// What [`device_bound`](crate::SessionLayerBuilder::device_bound) makes of a layer's error response: it makes the responses
/// of the layer's own endpoint, too.
#[cfg(feature = "device-bound")]
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceBoundResponse<E = DefaultErrorResponse>(pub(crate) E);

#[cfg(feature = "device-bound")]
impl<B: From<String>, E: ErrorResponse<B>> ErrorResponse<B> for DeviceBoundResponse<E> {
    fn error_response(&self, error: &SessionError) -> Response<B> {
        self.0.error_response(error)
    }

    fn answer(&self, body: String) -> Option<Response<B>> {
        Some(Response::new(body.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_says_nothing_of_the_cause() {
        let error = SessionError::from(CacheError::new(CacheErrorKind::Refused, "NOAUTH at 10.0.0.7"));
        let response = error.response(error.public_text());
        assert_eq!(response.status(), 503);
        assert!(!response.body().contains("10.0.0.7") && !error.to_string().contains("NOAUTH"));
        assert_eq!(error.cache_kind(), Some(CacheErrorKind::Refused));
    }

    #[test]
    fn the_source_chain_does_not_repeat_itself() {
        let error = SessionError::from(CacheError::new(CacheErrorKind::Full, "no room"));
        assert_eq!(error.to_string(), "the session cache is full");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no room"));
    }

    #[test]
    fn a_key_stays_on_its_line() {
        let json = serde_json::from_str::<bool>("1").unwrap_err();
        let text = SessionError::Decode(DecodeError::new("a\nERROR \u{1b}[31mé", &json)).to_string();
        assert!(!text.contains(char::is_control) && text.contains("a\\nERROR") && text.contains('é'), "{text}");
    }

    #[test]
    fn a_closure_answers_in_its_own_words() {
        let closure = |error: &SessionError| Response::new(error.to_string());
        assert!(closure.error_response(&SessionError::Gone).body().contains("ended"));
    }
}
