//! What an error of Redis means. Its text is never passed on: it repeats arguments and addresses.
use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{CacheError, CacheErrorKind};

/// What a failed command calls for.
pub(super) enum Failure {
    /// The server does not know the script; nothing was done.
    NoScript,
    /// The connection was lost: the command may have been carried out.
    Lost,
    /// Nothing was done, and a little later it may be.
    NotReady { renew: bool, text: &'static str },
    /// Trying again would not help.
    Final { kind: CacheErrorKind, renew: bool, text: &'static str },
}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Self {
        use CacheErrorKind::{Other, Refused, Timeout, Unavailable, Unsupported};
        match error.kind() {
            ErrorKind::Server(kind) => of_server(kind, error),
            ErrorKind::Extension => of_code(error.code().unwrap_or_default()),
            ErrorKind::Io if error.is_connection_refusal() => not_ready(false, "Redis cannot be reached"),
            ErrorKind::Io if error.is_timeout() => last(Timeout, true, "Redis did not answer in time"),
            ErrorKind::Io => Self::Lost,
            ErrorKind::AuthenticationFailed => last(Refused, true, "Redis refused the user name or password"),
            ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel => last(Unavailable, true, "no server of Redis is in charge"),
            // Whatever it was an answer to, the command may have been carried out.
            ErrorKind::Parse => last(Timeout, true, "Redis answered with something that is not its protocol"),
            ErrorKind::RESP3NotSupported => last(Unsupported, true, "the server does not support RESP3"),
            _ => last(Other, true, "the Redis client failed"),
        }
    }
}

fn of_server(kind: ServerErrorKind, error: &RedisError) -> Failure {
    use CacheErrorKind::{Refused, Unavailable, Unsupported};
    match kind {
        ServerErrorKind::NoScript => Failure::NoScript,
        ServerErrorKind::BusyLoading => not_ready(false, "Redis answered LOADING"),
        ServerErrorKind::TryAgain => not_ready(false, "Redis answered TRYAGAIN"),
        ServerErrorKind::ClusterDown => not_ready(false, "Redis answered CLUSTERDOWN"),
        ServerErrorKind::MasterDown => not_ready(false, "Redis answered MASTERDOWN"),
        // A former primary, which we have to leave.
        ServerErrorKind::ReadOnly => not_ready(true, "Redis answered READONLY"),
        ServerErrorKind::NoPerm => last(Refused, false, "Redis answered NOPERM"),
        ServerErrorKind::Moved | ServerErrorKind::Ask => last(
            Unsupported,
            false,
            "the server is part of a Redis cluster, and the connection is not one to a cluster",
        ),
        ServerErrorKind::CrossSlot => last(Refused, false, "Redis answered CROSSSLOT"),
        _ if error.detail().is_some_and(|text| text.starts_with("max number of clients")) => {
            last(Unavailable, true, "Redis has as many clients as it allows")
        }
        _ => last(Refused, true, "Redis answered ERR"),
    }
}

fn of_code(code: &str) -> Failure {
    use CacheErrorKind::{Full, Refused, Unavailable};
    match code {
        "OOM" => last(Full, false, "Redis answered OOM: its memory is full"),
        "MISCONF" => last(Unavailable, false, "Redis answered MISCONF: it cannot save to disk"),
        "NOREPLICAS" => last(Unavailable, false, "Redis answered NOREPLICAS"),
        "BUSY" => not_ready(false, "Redis answered BUSY: a script is running"),
        "NOAUTH" => last(Refused, true, "Redis answered NOAUTH: it asks for a password"),
        "WRONGPASS" => last(Refused, true, "Redis answered WRONGPASS"),
        "WRONGTYPE" => last(Refused, false, "Redis answered WRONGTYPE: the key is in use for something else"),
        _ => last(Refused, false, "Redis answered with an error"),
    }
}

const fn not_ready(renew: bool, text: &'static str) -> Failure {
    Failure::NotReady { renew, text }
}

const fn last(kind: CacheErrorKind, renew: bool, text: &'static str) -> Failure {
    Failure::Final { kind, renew, text }
}

pub(super) fn unexpected() -> CacheError {
    CacheError::new(CacheErrorKind::Other, "Redis gave an answer of an unexpected type")
}

/// A write was sent twice, and what the second try found does not tell whether the first one was carried out.
pub(super) fn unknown_outcome() -> CacheError {
    CacheError::new(CacheErrorKind::Timeout, "the connection to Redis was lost, a write may have been carried out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> Failure {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Failure::from(&reply.extract_error().unwrap_err())
    }

    #[test]
    fn errors_are_told_apart_and_not_repeated() {
        use CacheErrorKind::{Full, Refused, Unavailable};
        for (line, should) in [
            ("OOM command not allowed when used memory > 'maxmemory'. canary", Full),
            ("MISCONF Errors writing to the AOF file: canary", Unavailable),
            ("NOREPLICAS Not enough good replicas to write. canary", Unavailable),
            ("ERR max number of clients reached canary", Unavailable),
            ("NOAUTH Authentication required. canary", Refused),
            ("WRONGPASS invalid username-password pair canary", Refused),
            ("NOPERM User canary has no permissions", Refused),
            ("WRONGTYPE Operation against a key canary", Refused),
            ("ERR unknown command 'canary'", Refused),
            ("CANARY canary", Refused),
        ] {
            let Failure::Final { kind, text, .. } = failure(line) else { panic!("{line} is tried again") };
            assert_eq!(kind, should, "{line}");
            assert!(!text.to_lowercase().contains("canary"), "{text}");
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        for code in ["LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "BUSY"] {
            assert!(matches!(failure(&format!("{code} canary")), Failure::NotReady { .. }), "{code}");
        }
        assert!(matches!(failure("NOSCRIPT No matching script."), Failure::NoScript));
    }
}
