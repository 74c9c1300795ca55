//! What an error of Redis means. Its text is never passed on: it repeats arguments and addresses.
use std::{borrow::Cow, error::Error, io, sync::Arc};

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
    ConnectionLost,
    /// The server is known not to answer: nothing was sent.
    CircuitOpen,
    /// Another node of the cluster has the key.
    #[cfg_attr(not(feature = "redis-cluster"), allow(dead_code, reason = "only a cluster follows it"))]
    Redirected(Redirect),
    /// Nothing was done, and a little later it may be.
    NotReady(Cause),
    /// The user has no permission: for this command, if the server named one of ours.
    Denied(Option<&'static str>),
    /// The server does not know the command.
    UnknownCommand,
    /// Trying again would not help.
    Rejected(CacheErrorKind, Cause),
}

#[derive(Clone, Debug)]
pub(super) struct Cause {
    text: Cow<'static, str>,
    /// The server answered.
    reached: bool,
    /// Another connection may fare better.
    renew: bool,
}

/// Where a node of a cluster redirects a command to.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "redis-cluster"), allow(dead_code, reason = "only a cluster follows it"))]
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
            Self::NoScript | Self::Redirected(_) | Self::Denied(_) | Self::UnknownCommand => true,
            Self::ConnectionLost | Self::CircuitOpen => false,
            Self::NotReady(cause) | Self::Rejected(_, cause) => cause.reached,
        }
    }

    /// Whether another connection may fare better.
    pub(super) const fn renews(&self) -> bool {
        match self {
            Self::NoScript | Self::Redirected(_) | Self::CircuitOpen | Self::Denied(_) | Self::UnknownCommand => false,
            Self::ConnectionLost => true,
            Self::NotReady(cause) | Self::Rejected(_, cause) => cause.renew,
        }
    }

    /// What an error means before anything was sent that changes something.
    pub(super) fn while_connecting(error: &RedisError, address: &str) -> Self {
        if let Some(cause) = io_error(error) {
            return match cause.kind() {
                io::ErrorKind::InvalidData => {
                    let text = format!("the TLS handshake with {address} failed ({cause})");
                    rejected(Refused, REACHED_RENEW, text)
                }
                io::ErrorKind::InvalidInput => {
                    rejected(Other, REACHED_RENEW, format!("the address {address} cannot be used ({cause})"))
                }
                _ => not_ready(UNREACHED, format!("{address} cannot be reached ({cause})")),
            };
        }
        match Self::from(error) {
            Self::ConnectionLost => not_ready(UNREACHED, format!("{address} cannot be reached")),
            Self::UnknownCommand => {
                rejected(Unsupported, REACHED_RENEW, "the server does not know AUTH, HELLO, SELECT or CLIENT")
            }
            failure => failure,
        }
    }

    /// The same for a connection that is to report changes, for the near cache: the older protocol has no place for them.
    pub(super) fn while_connecting_to_track(error: &RedisError, address: &str) -> Self {
        match Self::while_connecting(error, address) {
            failure @ Self::Rejected(Unsupported, _) => failure.while_tracking(),
            failure => failure,
        }
    }

    /// The same for the command that switches tracking on.
    pub(super) fn while_tracking(self) -> Self {
        match self {
            Self::Rejected(..) | Self::UnknownCommand => {
                let text = "the server lacks what `near_cache` needs, RESP3 (`HELLO 3`) and `CLIENT TRACKING`; without \
                            `near_cache` everything else works";
                rejected(Unsupported, REACHED_RENEW, text)
            }
            failure => failure,
        }
    }

    /// No server that the sentinels or nodes name is in charge.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) fn no_server(reached: bool, text: &'static str) -> Self {
        not_ready((reached, true), text)
    }

    /// The error of an operation that ends with this failure of `command`.
    pub(super) fn describe(self, command: &str) -> (CacheErrorKind, Cow<'static, str>) {
        match self {
            Self::NoScript => (Refused, "Redis answered NOSCRIPT".into()),
            Self::ConnectionLost => (Unavailable, "the connection to Redis was lost".into()),
            Self::CircuitOpen => {
                let text = "Redis does not answer, operations are refused but for one every 250 ms that asks again";
                (Unavailable, text.into())
            }
            Self::Redirected(_) => {
                let text = "the server is part of a cluster, which takes `RedisCache::cluster`";
                (Unsupported, text.into())
            }
            Self::Denied(named) => {
                let named = named.unwrap_or(command);
                let remedy = named.to_ascii_lowercase();
                let text = format!(
                    "Redis answered NOPERM: its user may not run {named}, or not with these keys; \
                     `ACL SETUSER` with `+{remedy}` and the pattern of the keys permits it"
                );
                (Refused, text.into())
            }
            Self::UnknownCommand if command.starts_with("EVAL") => {
                let text = "scripts are switched off on the server: it refuses EVAL or EVALSHA, which all writes need; \
                            enable them there (`rename-command`), or keep sessions in a SQL database";
                (Unsupported, text.into())
            }
            Self::UnknownCommand => (Unsupported, format!("the server does not know the command {command}").into()),
            Self::NotReady(cause) => (Unavailable, cause.text),
            Self::Rejected(kind, cause) => (kind, cause.text),
        }
    }
}

/// The client keeps it behind an `Arc`.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let source = error.source()?;
    let inner = source.downcast_ref::<Arc<dyn Error + Send + Sync>>().map(|inner| inner.downcast_ref::<io::Error>());
    inner.unwrap_or_else(|| source.downcast_ref())
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
            ErrorKind::Io if error.is_timeout() => rejected(Timeout, UNREACHED_RENEW, "Redis did not answer in time"),
            ErrorKind::Io => Self::ConnectionLost,
            ErrorKind::AuthenticationFailed => {
                rejected(Refused, REACHED_RENEW, "Redis refused the user name or password")
            }
            // Whatever it was an answer to, the command may have been carried out.
            ErrorKind::Parse => {
                rejected(Timeout, UNREACHED_RENEW, "Redis answered with something that is not its protocol")
            }
            ErrorKind::RESP3NotSupported => rejected(Unsupported, REACHED_RENEW, "the server does not support RESP3"),
            _ => rejected(Other, REACHED_RENEW, "the Redis client failed"),
        }
    }
}

fn of_answer(error: &RedisError) -> Failure {
    let (code, text) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
    match code {
        "MOVED" | "ASK" => redirect(code == "ASK", error),
        "ERR" if text.starts_with("max number of clients") => {
            rejected(Unavailable, UNREACHED_RENEW, "Redis has as many clients as it allows")
        }
        // Redis 7.0, and from 7.2 on and Valkey; both within a script, outside of which it is NOPERM.
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
        Some((host, port)) => Failure::Redirected(Redirect { host: host.to_owned(), port, once }),
        None => rejected(Other, REACHED, "Redis redirected to another server without an address"),
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
        // A former primary, whose connections have to be left.
        "READONLY" => not_ready(REACHED_RENEW, "Redis answered READONLY"),
        "NOPERM" => denied(text),
        "ERR" if text.starts_with("unknown command") || text.starts_with("Unknown Redis command") => {
            Failure::UnknownCommand
        }
        "OOM" => rejected(Full, REACHED, "Redis answered OOM: its memory is full"),
        "MISCONF" => rejected(Unavailable, REACHED, "Redis answered MISCONF: it cannot save to disk"),
        "NOREPLICAS" => rejected(Unavailable, REACHED, "Redis answered NOREPLICAS"),
        "NOPROTO" => rejected(Unsupported, REACHED_RENEW, "the server does not support RESP3"),
        "NOAUTH" => rejected(Refused, REACHED_RENEW, "Redis answered NOAUTH: it asks for a password"),
        "WRONGPASS" => rejected(Refused, REACHED_RENEW, "Redis answered WRONGPASS"),
        "WRONGTYPE" => rejected(Refused, REACHED, "Redis answered WRONGTYPE: the key is in use for something else"),
        "CROSSSLOT" => rejected(Refused, REACHED, "Redis answered CROSSSLOT"),
        "ERR" => rejected(Refused, REACHED_RENEW, "Redis answered ERR"),
        _ => rejected(Refused, REACHED, "Redis answered with an error"),
    }
}

fn not_ready((reached, renew): Flags, text: impl Into<Cow<'static, str>>) -> Failure {
    Failure::NotReady(Cause { text: text.into(), reached, renew })
}

fn rejected(kind: CacheErrorKind, (reached, renew): Flags, text: impl Into<Cow<'static, str>>) -> Failure {
    Failure::Rejected(kind, Cause { text: text.into(), reached, renew })
}

/// An answer of a type that the command does not have.
pub(super) fn unexpected() -> CacheError {
    CacheError::new(CacheErrorKind::Other, "Redis gave an answer of an unexpected type")
}

/// A write was sent, its answer was lost, and nothing tells whether it was carried out.
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
            ("CANARY canary", Refused),
            ("NOPROTO unsupported protocol version canary", Unsupported),
            ("@user_script: 6: -OOM command not allowed when used memory > 'maxmemory'. canary", Full),
            ("@user_script: 6: -MISCONF Redis is configured to save RDB snapshots, canary", Unavailable),
            ("ERR Error running script (call to f_0): @user_script:6: @user_script: 6: -OOM canary", Full),
            ("ERR Error running script (call to f_0): @user_script:6: canary", Refused),
            ("@user_script: 6: canary", Refused),
        ] {
            let Failure::Rejected(kind, Cause { text, .. }) = failure(line) else { panic!("{line} is tried again") };
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
            (
                "ERR ACL failure in script: User canary has no permissions to run the 'del' command script: canary, \
                 on @user_script:1.",
                Some("DEL"),
            ),
            ("ERR ACL failure in script: No permissions to access a key", None),
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
        assert!(matches!(failure("ERR unknown command 'EVAL', with args"), Failure::UnknownCommand));
    }

    #[test]
    fn redirects_have_an_address() {
        for (line, host, port, once) in [
            ("MOVED 3999 127.0.0.1:6381", "127.0.0.1", 6381, false),
            ("ASK 3999 ::1:6381", "::1", 6381, true),
            ("MOVED 3999 node.example:7000", "node.example", 7000, false),
            ("MOVED 3999 :7000", "", 7000, false),
        ] {
            let Failure::Redirected(is) = failure(line) else { panic!("{line}") };
            assert_eq!((is.host.as_str(), is.port, is.once), (host, port, once), "{line}");
        }
        assert!(matches!(failure("MOVED 3999"), Failure::Rejected(..)));
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
