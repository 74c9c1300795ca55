//! What the layer reports: one function an event, so that each is worded once and none carries a secret.
//!
//! A session is named by the first characters of its key. With feature `metrics` each is counted as well, as
//! `cloakroom_events_total` with the label `event`; what is logged at most once a second is counted every time.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    error::{CacheErrorKind, SessionError},
    id::SessionKey,
};

/// One more of these, for whoever exports counters.
#[cfg(feature = "metrics")]
fn count(event: &'static str) {
    metrics::counter!("cloakroom_events_total", "event" => event).increment(1);
}

#[cfg(not(feature = "metrics"))]
const fn count(_: &'static str) {}

pub(crate) fn created(key: &SessionKey) {
    count("created");
    tracing::debug!(session = key.short(), "session created");
}

pub(crate) fn renewed(old: &SessionKey, new: &SessionKey) {
    count("renewed");
    tracing::debug!(session = old.short(), successor = new.short(), "session renewed");
}

pub(crate) fn destroyed(key: &SessionKey) {
    count("destroyed");
    tracing::debug!(session = key.short(), "session destroyed");
}

/// Changes were made to a session that had ended.
pub(crate) fn gone(key: &SessionKey) {
    count("gone");
    tracing::warn!(session = key.short(), "the session ended meanwhile, this request's changes were dropped");
}

pub(crate) fn conflict(key: &SessionKey) {
    count("conflict");
    tracing::warn!(session = key.short(), "the session kept changing until the deadline, nothing was written");
}

pub(crate) fn unreadable(key: &SessionKey, reason: &str) {
    count("unreadable_record");
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        tracing::warn!(session = key.short(), reason, "a record cannot be read: taken as absent and left alone");
    }
}

pub(crate) fn failed(error: &SessionError) {
    count(failure(error));
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        let cause = std::error::Error::source(error).map(tracing::field::display);
        tracing::error!(%error, kind = ?error.cache_kind(), cause, "the session could not be read or written");
    }
}

/// The name under which a failure is counted: by the kind of the cache's error.
fn failure(error: &SessionError) -> &'static str {
    match error.cache_kind() {
        Some(CacheErrorKind::Unavailable) => "cache_unavailable",
        Some(CacheErrorKind::Timeout) => "cache_timeout",
        Some(CacheErrorKind::Refused) => "cache_refused",
        Some(CacheErrorKind::Full) => "cache_full",
        Some(CacheErrorKind::Unsupported | CacheErrorKind::Other) => "cache_error",
        None => "session_error",
    }
}

/// The user of Redis may not run this command, or not with these keys.
#[cfg(feature = "redis")]
pub(crate) fn denied(command: &str) {
    count("redis_denied");
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        tracing::error!(command, "Redis answered NOPERM: its user may not run this command, or not with these keys");
    }
}

/// A value that this crate did not write is under a key that a session would have.
#[cfg(feature = "redis")]
pub(crate) fn foreign_value() {
    count("redis_foreign_value");
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        tracing::warn!("a value in Redis is not a cache entry: it counts as absent and is left as it is");
    }
}

/// From now on operations are refused at once.
#[cfg(feature = "redis")]
pub(crate) fn refusing(operations: &'static str) {
    count("redis_refusing");
    tracing::error!(operations, "Redis does not answer: operations are refused at once until it does again");
}

#[cfg(feature = "redis")]
pub(crate) fn answering(operations: &'static str) {
    count("redis_answering");
    tracing::info!(operations, "Redis answers again");
}

/// A flood of new sessions would throw out live ones.
#[cfg(feature = "redis")]
pub(crate) fn evicting() {
    count("redis_evicting");
    tracing::warn!("Redis removes live sessions when its memory is full: `maxmemory-policy noeviction` does not");
}

pub(crate) fn malformed_cookie() {
    count("malformed_cookie");
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        tracing::warn!("a session cookie that cannot be a session ID was ignored");
    }
}

pub(crate) fn several_sessions() {
    count("several_sessions");
    static LIMIT: Limit = Limit::new();
    if LIMIT.allows() {
        tracing::warn!("session cookies of two live sessions in one request: neither is used");
    }
}

/// A call that cannot return an error came after the commit.
pub(crate) fn closed(call: &'static str) {
    count("closed");
    tracing::warn!(call, "the response has been sent: the call did nothing");
}

pub(crate) fn dropped_by_status(key: Option<&SessionKey>) {
    count("dropped_by_status");
    let session = key.map(SessionKey::short);
    tracing::debug!(session, "the request failed: its changes to the session were dropped");
}

pub(crate) fn undecodable(key: &str) {
    count("undecodable");
    tracing::warn!(length = key.len(), "`get` found a value of another type: `try_get` returns the error");
}

pub(crate) fn replaced_cookie() {
    count("replaced_cookie");
    tracing::warn!("the handler set a cookie of the session cookie's name: it was dropped");
}

pub(crate) fn overridden_caching() {
    count("overridden_caching");
    tracing::warn!("the handler made a response with a session in it cacheable: it was made private");
}

pub(crate) fn insecure() {
    tracing::warn!("session cookies without `Secure`: for development only");
}

/// At most one event a second of what a client can trigger as often as it likes.
struct Limit {
    second: AtomicU64,
}

impl Limit {
    const fn new() -> Self {
        Self { second: AtomicU64::new(0) }
    }

    fn allows(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        self.second.swap(now, Ordering::Relaxed) != now
    }
}
