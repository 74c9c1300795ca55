//! What an error of Redis means. Its text is never passed on: it repeats arguments and addresses.
use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use crate::error::{
    CacheError,
    CacheErrorKind::{self, Full, Other, Refused, Timeout, Unavailable, Unsupported},
};

/// What a failed command calls for.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server does not know the script; nothing was done.
    NoScript,
    /// The connection was lost: the command may have been carried out.
    Lost,
    /// The server is known not to answer: nothing was sent.
    Open,
    /// Another node of the cluster has the key.
    #[cfg_attr(not(feature = "redis-cluster"), allow(dead_code, reason = "nobody follows it"))]
    Elsewhere(Redirect),
    /// Nothing was done, and a little later it may be.
    NotReady(Cause),
    /// The user has no permission: for this command, if the server named one of ours.
    Denied(Option<&'static str>),
    /// Trying again would not help.
    Final(CacheErrorKind, Cause),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    pub(super) text: &'static str,
    /// The server answered.
    reached: bool,
    /// Another connection may fare better.
    renew: bool,
}

/// Where a node of a cluster sends us.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "redis-cluster"), allow(dead_code, reason = "nobody follows it"))]
pub(super) struct Redirect {
    pub(super) host: String,
    pub(super) port: u16,
    /// For this command only: the slot is being handed over.
    pub(super) once: bool,
}

impl Failure {
    /// Whether a server answered, so that it is worth asking again.
    pub(super) const fn reached(&self) -> bool {
        match self {
            Self::NoScript | Self::Elsewhere(_) | Self::Denied(_) => true,
            Self::Lost | Self::Open => false,
            Self::NotReady(cause) | Self::Final(_, cause) => cause.reached,
        }
    }

    /// Whether another connection may fare better.
    pub(super) const fn renews(&self) -> bool {
        match self {
            Self::NoScript | Self::Elsewhere(_) | Self::Open | Self::Denied(_) => false,
            Self::Lost => true,
            Self::NotReady(cause) | Self::Final(_, cause) => cause.renew,
        }
    }

    /// What an error means before anything was sent that changes something.
    pub(super) fn while_connecting(error: &RedisError) -> Self {
        if let Some(kind) = io_kind(error) {
            return match kind {
                io::ErrorKind::InvalidData => last(Refused, REACHED_RENEW, "the TLS handshake with Redis failed"),
                io::ErrorKind::InvalidInput => last(Other, REACHED_RENEW, "the address of Redis cannot be used"),
                _ => not_ready(UNREACHED, "Redis cannot be reached"),
            };
        }
        match Self::from(error) {
            Self::Lost => not_ready(UNREACHED, "Redis cannot be reached"),
            failure => failure,
        }
    }
}

/// The client keeps it behind an `Arc`.
fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    let source = error.source()?;
    let inner = source.downcast_ref::<Arc<dyn Error + Send + Sync>>().map(|inner| inner.downcast_ref::<io::Error>());
    inner.unwrap_or_else(|| source.downcast_ref()).map(io::Error::kind)
}

type Flags = (bool, bool);
const REACHED: Flags = (true, false);
const REACHED_RENEW: Flags = (true, true);
const UNREACHED: Flags = (false, false);
const UNREACHED_RENEW: Flags = (false, true);

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => of_answer(error),
            ErrorKind::Io if error.is_connection_refusal() => not_ready(UNREACHED, "Redis cannot be reached"),
            ErrorKind::Io if error.is_timeout() => last(Timeout, UNREACHED_RENEW, "Redis did not answer in time"),
            ErrorKind::Io => Self::Lost,
            ErrorKind::AuthenticationFailed => last(Refused, REACHED_RENEW, "Redis refused the user name or password"),
            // Whatever it was an answer to, the command may have been carried out.
            ErrorKind::Parse => {
                last(Timeout, UNREACHED_RENEW, "Redis answered with something that is not its protocol")
            }
            ErrorKind::RESP3NotSupported => last(Unsupported, REACHED_RENEW, "the server does not support RESP3"),
            _ => last(Other, REACHED_RENEW, "the Redis client failed"),
        }
    }
}

fn of_answer(error: &RedisError) -> Failure {
    let (code, text) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
    match code {
        "MOVED" | "ASK" => redirect(code == "ASK", error),
        "ERR" if text.starts_with("max number of clients") => {
            last(Unavailable, UNREACHED_RENEW, "Redis has as many clients as it allows")
        }
        // Redis 7.0, and from 7.2 on; both within a script, outside of which it is NOPERM.
        "ERR" if text.starts_with("The user executing the script") || text.starts_with("ACL failure in script") => {
            denied(text)
        }
        "ERR" if text.starts_with("Error running script") => of_script(text),
        "@user_script:" => of_script(text),
        _ => of_code(code, text),
    }
}

/// What a command told a script of Redis 6, behind the place in the script: `8: -READONLY You …`.
fn of_script(text: &str) -> Failure {
    match text.split_once(": -") {
        Some((_, told)) => {
            let (code, text) = told.split_once(' ').unwrap_or((told, ""));
            of_code(code, text)
        }
        None if text.contains(": The user executing the script") => denied(text),
        None => of_code("ERR", text),
    }
}

fn denied(text: &str) -> Failure {
    // While connecting, it may be another command than the one to be sent.
    const OURS: [&str; 18] = [
        "PING",
        "GET",
        "SET",
        "EVALSHA",
        "EVAL",
        "GETRANGE",
        "DEL",
        "PTTL",
        "PEXPIRE",
        "ZADD",
        "ZREM",
        "ZREMRANGEBYSCORE",
        "ZRANGE",
        "ZCOUNT",
        "CLUSTER|SLOTS",
        "ASKING",
        "SELECT",
        "CLIENT|TRACKING",
    ];
    let named = text.split('\'').nth(1);
    Failure::Denied(named.and_then(|named| OURS.into_iter().find(|ours| ours.eq_ignore_ascii_case(named))))
}

fn redirect(once: bool, error: &RedisError) -> Failure {
    let address = error.redirect_node().and_then(|(address, _slot)| address.rsplit_once(':'));
    match address.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => Failure::Elsewhere(Redirect { host: host.to_owned(), port, once }),
        None => last(Other, REACHED, "Redis sent us to another server without an address"),
    }
}

fn of_code(code: &str, text: &str) -> Failure {
    match code {
        "NOSCRIPT" => Failure::NoScript,
        "LOADING" => not_ready(UNREACHED, "Redis answered LOADING"),
        "TRYAGAIN" => not_ready(REACHED, "Redis answered TRYAGAIN"),
        "CLUSTERDOWN" => not_ready(REACHED, "Redis answered CLUSTERDOWN"),
        "MASTERDOWN" => not_ready(REACHED, "Redis answered MASTERDOWN"),
        "BUSY" => not_ready(REACHED, "Redis answered BUSY: a script is running"),
        // A former primary, which we have to leave.
        "READONLY" => not_ready(REACHED_RENEW, "Redis answered READONLY"),
        "NOPERM" => denied(text),
        "OOM" => last(Full, REACHED, "Redis answered OOM: its memory is full"),
        "MISCONF" => last(Unavailable, REACHED, "Redis answered MISCONF: it cannot save to disk"),
        "NOREPLICAS" => last(Unavailable, REACHED, "Redis answered NOREPLICAS"),
        "NOAUTH" => last(Refused, REACHED_RENEW, "Redis answered NOAUTH: it asks for a password"),
        "WRONGPASS" => last(Refused, REACHED_RENEW, "Redis answered WRONGPASS"),
        "WRONGTYPE" => last(Refused, REACHED, "Redis answered WRONGTYPE: the key is in use for something else"),
        "CROSSSLOT" => last(Refused, REACHED, "Redis answered CROSSSLOT"),
        "ERR" => last(Refused, REACHED_RENEW, "Redis answered ERR"),
        _ => last(Refused, REACHED, "Redis answered with an error"),
    }
}

const fn not_ready((reached, renew): Flags, text: &'static str) -> Failure {
    Failure::NotReady(Cause { text, reached, renew })
}

const fn last(kind: CacheErrorKind, (reached, renew): Flags, text: &'static str) -> Failure {
    Failure::Final(kind, Cause { text, reached, renew })
}

/// No server that the sentinels or nodes name is in charge.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) const fn nobody(reached: bool, text: &'static str) -> Failure {
    not_ready((reached, true), text)
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
        for (line, should) in [
            ("OOM command not allowed when used memory > 'maxmemory'. canary", Full),
            ("MISCONF Errors writing to the AOF file: canary", Unavailable),
            ("NOREPLICAS Not enough good replicas to write. canary", Unavailable),
            ("ERR max number of clients reached canary", Unavailable),
            ("NOAUTH Authentication required. canary", Refused),
            ("WRONGPASS invalid username-password pair canary", Refused),
            ("WRONGTYPE Operation against a key canary", Refused),
            ("ERR unknown command 'canary'", Refused),
            ("CANARY canary", Refused),
            ("@user_script: 6: -OOM command not allowed when used memory > 'maxmemory'. canary", Full),
            ("@user_script: 6: -MISCONF Redis is configured to save RDB snapshots, canary", Unavailable),
            ("ERR Error running script (call to f_0): @user_script:6: @user_script: 6: -OOM canary", Full),
            ("ERR Error running script (call to f_0): @user_script:6: canary", Refused),
            ("@user_script: 6: canary", Refused),
        ] {
            let Failure::Final(kind, Cause { text, .. }) = failure(line) else { panic!("{line} is tried again") };
            assert_eq!(kind, should, "{line}");
            assert!(!text.to_lowercase().contains("canary"), "{text}");
        }
    }

    #[test]
    fn of_what_is_not_permitted_the_command_is_known_and_nothing_else() {
        for (line, named) in [
            ("NOPERM this user has no permissions to run the 'set' command", Some("SET")),
            ("NOPERM User canary has no permissions to run the 'cluster|slots' command", Some("CLUSTER|SLOTS")),
            ("NOPERM User 'canary' has no permissions to run the 'canary' command", None),
            ("NOPERM No permissions to access a key", None),
            ("ERR The user executing the script can't run this command or subcommand", None),
            ("@user_script: 6: The user executing the script can't run this command or subcommand", None),
            ("ERR ACL failure in script: User canary has no permissions to run the 'set' command", Some("SET")),
        ] {
            let Failure::Denied(is) = failure(line) else { panic!("{line}") };
            assert_eq!(is, named, "{line}");
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        for code in ["LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "BUSY"] {
            for told in
                ["", "@user_script: 6: -", "ERR Error running script (call to f_0): @user_script:6: @user_script: 6: -"]
            {
                assert!(matches!(failure(&format!("{told}{code} canary")), Failure::NotReady(_)), "{told}{code}");
            }
        }
        assert!(matches!(failure("NOSCRIPT No matching script."), Failure::NoScript));
    }

    #[test]
    fn redirects_have_an_address() {
        for (line, host, port, once) in [
            ("MOVED 3999 127.0.0.1:6381", "127.0.0.1", 6381, false),
            ("ASK 3999 ::1:6381", "::1", 6381, true),
            ("MOVED 3999 node.example:7000", "node.example", 7000, false),
            ("MOVED 3999 :7000", "", 7000, false),
        ] {
            let Failure::Elsewhere(is) = failure(line) else { panic!("{line}") };
            assert_eq!((is.host.as_str(), is.port, is.once), (host, port, once), "{line}");
        }
        assert!(matches!(failure("MOVED 3999"), Failure::Final(..)));
    }

    #[test]
    fn a_server_that_answers_was_reached() {
        for line in ["OOM x", "READONLY x", "NOAUTH x", "MISCONF x", "TRYAGAIN x", "MOVED 1 h:1", "NOSCRIPT x"] {
            assert!(failure(line).reached(), "{line}");
        }
        for line in ["LOADING x", "ERR max number of clients reached"] {
            assert!(!failure(line).reached(), "{line}");
        }
    }
}
