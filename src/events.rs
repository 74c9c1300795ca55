//! What the crate logs and counts: one function per event, so that each has one wording and no line contains a secret.
//!
//! A session is named by the first characters of its key. With feature `metrics` each event is counted as
//! `cloakroom_events_total` with the label `event`. Lines at `WARN` and `ERROR` that requests can cause are limited to one a
//! second for each kind, so that no kind hides another; the counters count all. The chapter `docs/events.md` lists them.
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use crate::error::CacheError;
use crate::{
    error::{CacheErrorKind, ConfigError, SessionError},
    id::SessionKey,
};

/// The target of every line.
const TARGET: &str = "cloakroom";

/// One kind of event.
struct Kind {
    /// The field `event` of its lines, and the label of its counter.
    name: &'static str,
    /// The second of its last line.
    logged: AtomicU64,
    /// How many were not logged since then.
    suppressed: AtomicU64,
}

impl Kind {
    const fn new(name: &'static str) -> Self {
        Self { name, logged: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    #[cfg(feature = "metrics")]
    fn count(&self) {
        metrics::counter!("cloakroom_events_total", "event" => self.name).increment(1);
    }

    #[cfg(not(feature = "metrics"))]
    const fn count(&self) {}

    /// If a line may be logged in this second: how many were suppressed since the last one.
    fn admit(&self, second: u64) -> Option<u64> {
        if self.logged.swap(second, Ordering::Relaxed) == second {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

macro_rules! kinds {
    ($($(#[$attribute:meta])* $kind:ident = $name:literal;)*) => {
        $($(#[$attribute])* static $kind: Kind = Kind::new($name);)*
        #[cfg(test)]
        static ALL: &[&Kind] = &[$($(#[$attribute])* &$kind),*];
    };
}

kinds! {
    CREATED = "created";
    RENEWED = "renewed";
    DESTROYED = "destroyed";
    GONE = "gone";
    CONFLICT = "conflict";
    CLOSED = "closed";
    DROPPED_BY_STATUS = "dropped_by_status";
    DROPPED_BY_ABORT = "dropped_by_abort";
    DROPPED_BY_ERROR = "dropped_by_error";
    DROPPED_UNCOMMITTED = "dropped_uncommitted";
    CLEANUP_FAILED = "cleanup_failed";
    SETTING = "setting";
    #[cfg(feature = "encryption")]
    UNDECRYPTABLE_ENTRY = "undecryptable_entry";
    #[cfg(feature = "encryption")]
    PLAINTEXT_ENTRY = "plaintext_entry";
    UNDECODABLE = "undecodable";
    UNREADABLE_RECORD = "unreadable_record";
    CACHE_UNAVAILABLE = "cache_unavailable";
    CACHE_TIMEOUT = "cache_timeout";
    CACHE_REFUSED = "cache_refused";
    CACHE_FULL = "cache_full";
    CACHE_ERROR = "cache_error";
    TOO_LARGE = "too_large";
    TOO_MANY_SESSIONS = "too_many_sessions";
    ENCODE_ERROR = "encode_error";
    DECODE_ERROR = "decode_error";
    RANDOM_ERROR = "random_error";
    SESSION_ERROR = "session_error";
    MALFORMED_COOKIE = "malformed_cookie";
    #[cfg(feature = "signed")]
    UNSIGNED_COOKIE = "unsigned_cookie";
    SEVERAL_SESSIONS = "several_sessions";
    REPLACED_COOKIE = "replaced_cookie";
    COOKIE_LIKELY_LOST = "cookie_likely_lost";
    OVERRIDDEN_CACHING = "overridden_caching";
    INSECURE = "insecure";
    SAME_SITE_NONE = "same_site_none";
    TWO_COOKIE_NAMES = "two_cookie_names";
    #[cfg(feature = "device-bound")]
    DEVICE_BOUND = "device_bound";
    #[cfg(feature = "device-bound")]
    DEVICE_REFUSED = "device_refused";
    #[cfg(feature = "device-bound")]
    DEVICE_UNPROVEN = "device_unproven";
    #[cfg(feature = "redis")]
    REDIS_REFUSING = "redis_refusing";
    #[cfg(feature = "redis")]
    REDIS_ANSWERING = "redis_answering";
    #[cfg(feature = "redis")]
    REDIS_EVICTING = "redis_evicting";
    #[cfg(feature = "redis")]
    REDIS_FOREIGN_VALUE = "redis_foreign_value";
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    SQL_REFUSING = "sql_refusing";
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    SQL_ANSWERING = "sql_answering";
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    SQL_SWEEP_FAILED = "sql_sweep_failed";
    #[cfg(feature = "postgres")]
    POSTGRES_NEAR_CACHE_LOST = "postgres_near_cache_lost";
}

/// Counts an event and logs it every time.
macro_rules! log_each {
    ($level:ident, $kind:expr, $($line:tt)*) => {{
        let kind: &Kind = $kind;
        kind.count();
        tracing::$level!(target: TARGET, event = kind.name, $($line)*);
    }};
}

/// Counts an event and logs it at most once a second.
macro_rules! log_limited {
    ($level:ident, $kind:expr, $($line:tt)*) => {{
        let kind: &Kind = $kind;
        kind.count();
        if let Some(suppressed) = if is_unlimited() { Some(0) } else { kind.admit(second()) } {
            tracing::$level!(target: TARGET, event = kind.name, suppressed, $($line)*);
        }
    }};
}

pub(crate) fn created(key: &SessionKey) {
    log_each!(debug, &CREATED, session = key.short(), "session created");
}

pub(crate) fn renewed(old: &SessionKey, new: &SessionKey) {
    log_each!(debug, &RENEWED, session = old.short(), successor = new.short(), "session renewed");
}

pub(crate) fn destroyed(key: &SessionKey) {
    log_each!(debug, &DESTROYED, session = key.short(), "session destroyed");
}

/// A request changed a session that had ended.
pub(crate) fn gone(session: Option<&SessionKey>) {
    let session = session.map(SessionKey::short);
    log_limited!(warn, &GONE, session, "the session ended while the request ran: its changes were dropped");
}

/// A write of unknown outcome turned out not to have taken effect.
pub(crate) fn dropped_by_error(session: Option<&SessionKey>) {
    log_limited!(
        warn,
        &DROPPED_BY_ERROR,
        session = session.map(SessionKey::short),
        "a write that had ended with an error was not stored: its changes were dropped"
    );
}

/// A handle of the application went away with changes that no commit was called for.
pub(crate) fn dropped_uncommitted(session: Option<&SessionKey>) {
    log_limited!(
        warn,
        &DROPPED_UNCOMMITTED,
        session = session.map(SessionKey::short),
        "a handle that was detached or loaded by ID was dropped without a commit, and its changes with it"
    );
}

/// A setting that cannot work, where no builder could return the error.
pub(crate) fn setting(error: &ConfigError) {
    log_limited!(error, &SETTING, %error, "a setting cannot work: sessions fail until it is changed");
}

pub(crate) fn unreadable(key: &SessionKey, reason: &str) {
    log_limited!(
        warn,
        &UNREADABLE_RECORD,
        session = key.short(),
        reason,
        "a session record cannot be read: the visitor has no session, and the record stays as it is"
    );
}

/// An error that a response is made of: it has been logged, as there is no other way to one.
#[derive(Clone, Debug)]
pub(crate) struct LoggedError(SessionError);

impl LoggedError {
    pub(crate) const fn error(&self) -> &SessionError {
        &self.0
    }
}

/// A response is to be made of the error.
pub(crate) fn response_error(error: SessionError, session: Option<&SessionKey>) -> LoggedError {
    let has_its_event = match &error {
        // `device_unproven`, when the session was loaded.
        #[cfg(feature = "device-bound")]
        SessionError::Unproven | SessionError::Unrefreshed => true,
        // `setting`, when the store refused its settings.
        SessionError::Setting(SessionError::UNUSABLE) => true,
        _ => false,
    };
    if !has_its_event {
        failed(&error, session);
    }
    LoggedError(error)
}

pub(crate) fn failed(error: &SessionError, session: Option<&SessionKey>) {
    if let SessionError::Cache(error) = error
        && !error.first_log()
    {
        return;
    }
    let cause = std::error::Error::source(error).map(tracing::field::display);
    let session = session.map(SessionKey::short);
    log_limited!(error, kind_of(error), %error, cause, session, "the session could not be read or written");
}

/// A call of the store or of a handle returns the error. That of a cache is logged here, as the caller may answer with whatever
/// it likes, and what an operator has to know of an outage is in no response. Others are logged when a response is made of them.
pub(crate) fn cache_failed(error: &SessionError, session: Option<&SessionKey>) {
    if matches!(error, SessionError::Cache(_)) {
        failed(error, session);
    }
}

/// What a commit or a login left to be removed could not be: nothing of the request is affected.
pub(crate) fn cleanup_failed(error: &SessionError) {
    let cause = std::error::Error::source(error).map(tracing::field::display);
    log_limited!(
        warn,
        &CLEANUP_FAILED,
        %error,
        cause,
        "what leads to no session, or is over the limit of a user, could not be removed: it stays until a later request does it, or it expires"
    );
}

fn kind_of(error: &SessionError) -> &'static Kind {
    match (error, error.cache_kind()) {
        (_, Some(CacheErrorKind::Unavailable)) => &CACHE_UNAVAILABLE,
        (_, Some(CacheErrorKind::Timeout)) => &CACHE_TIMEOUT,
        (_, Some(CacheErrorKind::Refused)) => &CACHE_REFUSED,
        (_, Some(CacheErrorKind::Full)) => &CACHE_FULL,
        (_, Some(CacheErrorKind::Unsupported | CacheErrorKind::Other)) => &CACHE_ERROR,
        (SessionError::Conflict, None) => &CONFLICT,
        (SessionError::TooLarge { .. }, None) => &TOO_LARGE,
        (SessionError::TooManySessions, None) => &TOO_MANY_SESSIONS,
        (SessionError::Encode(_), None) => &ENCODE_ERROR,
        (SessionError::Decode(_), None) => &DECODE_ERROR,
        (SessionError::Random, None) => &RANDOM_ERROR,
        (_, None) => &SESSION_ERROR,
    }
}

/// A value that this crate did not write is under a key that a session would have.
#[cfg(feature = "redis")]
pub(crate) fn foreign_value() {
    log_limited!(
        warn,
        &REDIS_FOREIGN_VALUE,
        "a value in Redis is not a cache entry: it counts as absent and stays as it is"
    );
}

/// From now on operations are refused at once.
#[cfg(feature = "redis")]
pub(crate) fn refusing(operations: &'static str) {
    log_each!(
        error,
        &REDIS_REFUSING,
        operations,
        "Redis does not answer: operations are refused at once until it does again"
    );
}

#[cfg(feature = "redis")]
pub(crate) fn answering(operations: &'static str) {
    log_each!(info, &REDIS_ANSWERING, operations, "Redis answers again");
}

/// A flood of new sessions would evict live ones.
#[cfg(feature = "redis")]
pub(crate) fn evicting() {
    log_each!(
        warn,
        &REDIS_EVICTING,
        "Redis removes live sessions when its memory is full: `maxmemory-policy noeviction` does not"
    );
}

/// From now on operations are refused at once.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) fn sql_refusing(cache: &'static str) {
    log_each!(
        error,
        &SQL_REFUSING,
        cache,
        "the database does not answer: operations are refused at once until it does again"
    );
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) fn sql_answering(cache: &'static str) {
    log_each!(info, &SQL_ANSWERING, cache, "the database answers again");
}

/// Nothing is served from the near cache until its connection is there again.
#[cfg(feature = "postgres")]
pub(crate) fn near_cache_lost(error: &CacheError) {
    let cause = std::error::Error::source(error).map(tracing::field::display);
    log_limited!(
        warn,
        &POSTGRES_NEAR_CACHE_LOST,
        %error,
        cause,
        "the near cache does not hear of changes: every read goes to the database until it does"
    );
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) fn sql_sweep_failed(error: &CacheError) {
    let cause = std::error::Error::source(error).map(tracing::field::display);
    log_limited!(
        warn,
        &SQL_SWEEP_FAILED,
        %error,
        cause,
        "rows of sessions that ended could not be removed: they stay until the next sweep"
    );
}

/// An entry was read that none of the keys of an `EncryptedCache` decrypts.
#[cfg(feature = "encryption")]
pub(crate) fn undecryptable_entry(reason: &str, key_id: Option<u32>) {
    let key_id = key_id.map(|id| tracing::field::display(format!("{id:08x}")));
    log_limited!(
        warn,
        &UNDECRYPTABLE_ENTRY,
        reason,
        key_id,
        "an entry cannot be decrypted: the visitor has no session, and the entry stays as it is"
    );
}

/// An entry was read that is not encrypted, which `accept_plaintext` allows.
#[cfg(feature = "encryption")]
pub(crate) fn plaintext_entry() {
    log_limited!(warn, &PLAINTEXT_ENTRY, "an entry without encryption was read, as `accept_plaintext` allows");
}

#[cfg(feature = "device-bound")]
pub(crate) fn device_bound(key: &SessionKey) {
    log_each!(debug, &DEVICE_BOUND, session = key.short(), "session bound to a device");
}

/// A registration or a refresh that no browser of the session can have sent.
#[cfg(feature = "device-bound")]
pub(crate) fn device_refused(reason: &'static str) {
    log_limited!(warn, &DEVICE_REFUSED, reason, "a registration or refresh of a device-bound session was refused");
}

#[cfg(feature = "device-bound")]
pub(crate) fn device_unproven(key: &SessionKey) {
    log_limited!(
        warn,
        &DEVICE_UNPROVEN,
        session = key.short(),
        "a request with the cookie of a device-bound session has not proven to come from that device: it has no session"
    );
}

pub(crate) fn malformed_cookie() {
    log_limited!(warn, &MALFORMED_COOKIE, "a session cookie whose value cannot be a session ID was ignored");
}

#[cfg(feature = "signed")]
pub(crate) fn unsigned_cookie() {
    log_limited!(
        warn,
        &UNSIGNED_COOKIE,
        "a session cookie without a signature by one of the signing keys was ignored: has a key been removed?"
    );
}

pub(crate) fn several_sessions() {
    log_limited!(
        warn,
        &SEVERAL_SESSIONS,
        "the request has cookies of two live sessions: neither is used, the visitor has no session"
    );
}

/// A call that cannot return an error came after the commit.
pub(crate) fn closed(call: &'static str) {
    log_limited!(error, &CLOSED, call, "called after the response was sent: the call had no effect");
}

pub(crate) fn dropped_by_status(session: Option<&SessionKey>) {
    let session = session.map(SessionKey::short);
    log_each!(debug, &DROPPED_BY_STATUS, session, "the request failed: its changes to the session were dropped");
}

/// The handler panicked, or was dropped because the client went away.
pub(crate) fn dropped_by_abort(session: Option<&SessionKey>) {
    let session = session.map(SessionKey::short);
    log_each!(debug, &DROPPED_BY_ABORT, session, "the request was cut off: its changes to the session were dropped");
}

/// `key` is the name of the value, never the value.
pub(crate) fn undecodable(key: &str) {
    log_limited!(
        warn,
        &UNDECODABLE,
        key,
        "`get` found a value of another type and returned nothing: `try_get` returns the error"
    );
}

pub(crate) fn replaced_cookie() {
    log_limited!(
        warn,
        &REPLACED_COOKIE,
        "a handler or an inner layer set a cookie with the name of the session cookie: it was dropped"
    );
}

/// The warning is for the operator of the server, so one line per process is enough.
pub(crate) fn cookie_likely_lost() {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    if LOGGED.swap(true, Ordering::Relaxed) {
        COOKIE_LIKELY_LOST.count();
        return;
    }
    log_each!(
        warn,
        &COOKIE_LIKELY_LOST,
        "a `Secure` session cookie went to a browser that seems to use plain HTTP, where it is dropped: serve this host over \
         HTTPS, let the proxy send `X-Forwarded-Proto: https`, or build with `secure(false)` for development"
    );
}

pub(crate) fn overridden_caching() {
    log_limited!(
        warn,
        &OVERRIDDEN_CACHING,
        "a handler let shared caches store a response that depends on the session: this was revoked"
    );
}

pub(crate) fn insecure() {
    log_each!(warn, &INSECURE, "the session cookie is not `Secure`: for development only");
}

pub(crate) fn same_site_none() {
    log_each!(
        warn,
        &SAME_SITE_NONE,
        "`SameSite=None`: requests that other sites cause carry the session cookie, so check `Origin` or a token"
    );
}

pub(crate) fn two_cookie_names(cookie: &str, other: &str) {
    log_each!(
        warn,
        &TWO_COOKIE_NAMES,
        cookie,
        other,
        "two layers with different cookie names share a cache and a key prefix: each accepts the other's session IDs"
    );
}

fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static UNLIMITED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// On this thread each event is logged, however many there are in a second: for tests that count lines.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn set_unlimited(unlimited: bool) {
    UNLIMITED.set(unlimited);
}

#[cfg(any(test, feature = "testing"))]
fn is_unlimited() -> bool {
    // A thread that is about to end has none.
    UNLIMITED.try_with(std::cell::Cell::get).unwrap_or_default()
}

#[cfg(not(any(test, feature = "testing")))]
const fn is_unlimited() -> bool {
    false
}

#[cfg(test)]
mod tests;
