//! What a server says of itself, if it may be asked.
use redis::{Cmd, Value};

/// Older ones are not tested, and lack what newer ones of this crate may need.
const OLDEST: (u32, u32) = (6, 2);

pub(super) fn question(section: &str) -> Cmd {
    let mut command = redis::cmd("INFO");
    command.arg(section);
    command
}

/// Whether it says that it is older than we support. `INFO server`.
pub(super) fn is_too_old(info: &Value) -> bool {
    let version = field(info, "redis_version").and_then(|version| {
        let mut numbers = version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    version.is_some_and(|version: (u32, u32)| version < OLDEST)
}

/// Whether it removes sessions that are in use, or have long to live, when its memory is full. `INFO memory`.
pub(super) fn evicts(info: &Value) -> bool {
    field(info, "maxmemory_policy").is_some_and(|policy| !matches!(policy, "noeviction" | "volatile-ttl"))
}

fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    let text = match info {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?,
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Value {
        Value::BulkString(format!("# Section\r\n{text}\r\nlast:1\r\n").into_bytes())
    }

    #[test]
    fn versions_before_6_2_are_too_old() {
        for (version, old) in [
            ("2.8.24", true),
            ("6.0.16", true),
            ("6.2.0", false),
            ("7.0.15", false),
            ("10.0.1", false),
            ("next", false),
        ] {
            assert_eq!(is_too_old(&info(&format!("redis_version:{version}"))), old, "{version}");
        }
        assert!(!is_too_old(&info("other:1")) && !is_too_old(&Value::Nil));
    }

    #[test]
    fn policies_that_touch_live_sessions_are_told() {
        for (policy, evicting) in [
            ("noeviction", false),
            ("volatile-ttl", false),
            ("volatile-lru", true),
            ("allkeys-lru", true),
            ("allkeys-random", true),
        ] {
            assert_eq!(evicts(&info(&format!("maxmemory_policy:{policy}"))), evicting, "{policy}");
        }
        assert!(!evicts(&info("other:1")) && !evicts(&Value::Int(1)));
    }
}
