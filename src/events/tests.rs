//! The table of events in the guide against what the functions log, and the limit of lines.
use std::{cell::RefCell, collections::BTreeMap};

use tracing_subscriber::{layer::Context, prelude::*};

use super::*;
use crate::error::{CacheError, DecodeError, EncodeError};

/// Level, target and fields of an event.
type Row = (String, String, Vec<String>);

thread_local! {
    static LOGGED: RefCell<BTreeMap<String, Row>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes what is logged on a thread without a limit. It is the subscriber of the process: tracing asks for the interest in an event once,
/// where the event is met first, and that may be on the thread of another test, which sees no subscriber of this one.
struct Lines;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if !is_unlimited() {
            return;
        }
        #[derive(Default)]
        struct Name(String);
        impl tracing::field::Visit for Name {
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "event" {
                    self.0 = value.to_owned();
                }
            }
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
        }
        let mut name = Name::default();
        event.record(&mut name);
        let metadata = event.metadata();
        let fields = metadata.fields().iter().map(|field| field.name().to_owned());
        let mut fields: Vec<_> = fields.filter(|name| !["event", "message"].contains(&name.as_str())).collect();
        fields.sort();
        let row = (metadata.level().to_string(), metadata.target().to_owned(), fields);
        LOGGED.with_borrow_mut(|logged| logged.insert(name.0, row));
    }
}

fn call_every_function() {
    let key = SessionKey::of_digest(&[7; 32]);
    created(&key);
    renewed(&key, &key);
    destroyed(&key);
    gone(Some(&key));
    closed("destroy");
    dropped_by_status(Some(&key));
    dropped_by_abort(Some(&key));
    dropped_by_error(Some(&key));
    dropped_uncommitted(Some(&key));
    cleanup_failed(&SessionError::Conflict);
    setting(&ConfigError::new("ttl", "must be greater than zero"));
    undecodable("visits");
    #[cfg(feature = "encryption")]
    {
        undecryptable_entry("no key", Some(7));
        plaintext_entry();
    }
    unreadable(&key, "cut short");
    for kind in [
        CacheErrorKind::Unavailable,
        CacheErrorKind::Timeout,
        CacheErrorKind::Refused,
        CacheErrorKind::Full,
        CacheErrorKind::Unsupported,
        CacheErrorKind::Other,
    ] {
        failed(&CacheError::new(kind, "a cause").into(), Some(&key));
    }
    let decode = DecodeError::new("visits", &serde_json::from_str::<u8>("x").unwrap_err());
    for error in [
        SessionError::TooLarge { size: 2, limit: 1 },
        SessionError::Conflict,
        SessionError::TooManySessions,
        SessionError::Encode(EncodeError::Depth),
        SessionError::Decode(decode),
        SessionError::Random,
        SessionError::MissingLayer,
    ] {
        failed(&error, None);
    }
    malformed_cookie();
    #[cfg(feature = "device-bound")]
    {
        device_bound(&key);
        device_refused("the challenge is stale");
        device_unproven(&key);
    }
    #[cfg(feature = "signed")]
    unsigned_cookie();
    several_sessions();
    replaced_cookie();
    cookie_likely_lost();
    overridden_caching();
    insecure();
    same_site_none();
    two_cookie_names("a", "b");
    #[cfg(feature = "redis")]
    {
        refusing("reads");
        answering("reads");
        evicting();
        foreign_value();
    }
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    {
        sql_refusing("PostgresCache");
        sql_answering("PostgresCache");
        sql_sweep_failed(&CacheError::new(CacheErrorKind::Unavailable, "a cause"));
    }
    #[cfg(feature = "postgres")]
    near_cache_lost(&CacheError::new(CacheErrorKind::Unavailable, "a cause"));
}

/// The rows of the table in the guide, by the name of the event.
fn documented() -> BTreeMap<String, Row> {
    let rows = include_str!("../docs/events.md").lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let mut fields = code(cells[3]);
        fields.sort();
        (code(cells[1]).remove(0), (cells[2].to_owned(), TARGET.to_owned(), fields))
    });
    rows.collect()
}

#[test]
fn the_guide_lists_every_event_with_its_level_and_fields() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Lines))
        .expect("no other of the process");
    tracing::callsite::rebuild_interest_cache();
    set_unlimited(true);
    call_every_function();
    set_unlimited(false);
    let logged = LOGGED.take();
    let mut names: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
    names.sort_unstable();
    assert_eq!(logged.keys().collect::<Vec<_>>(), names, "every kind is logged by a function");
    let mut documented = documented();
    if !cfg!(feature = "redis") {
        documented.retain(|name, _| !name.starts_with("redis_"));
    }
    if !cfg!(feature = "postgres") {
        documented.remove("postgres_near_cache_lost");
    }
    if !cfg!(any(feature = "postgres", feature = "mysql", feature = "sqlite")) {
        documented.retain(|name, _| !name.starts_with("sql_"));
    }
    if !cfg!(feature = "encryption") {
        documented.retain(|name, _| !["undecryptable_entry", "plaintext_entry"].contains(&name.as_str()));
    }
    if !cfg!(feature = "signed") {
        documented.remove("unsigned_cookie");
    }
    if !cfg!(feature = "device-bound") {
        documented.retain(|name, _| !name.starts_with("device_"));
    }
    assert_eq!(documented, logged);
}

#[test]
fn one_line_a_second_tells_how_many_were_suppressed() {
    let (one, other) = (Kind::new("one"), Kind::new("other"));
    assert_eq!(one.admit(5), Some(0));
    assert_eq!(other.admit(5), Some(0), "a kind does not suppress another");
    for _ in 0..3 {
        assert_eq!(one.admit(5), None);
    }
    assert_eq!((one.admit(6), one.admit(6), one.admit(7), one.admit(8)), (Some(3), None, Some(1), Some(0)));
    // A clock that was set back.
    assert_eq!((one.admit(3), one.admit(3), one.admit(8)), (Some(0), None, Some(1)));
}
