//! Server-side HTTP sessions as a tower middleware.
//!
//! The cookie holds an opaque random ID; the session data is kept in a cache: in the memory of one process, in Redis, or in a
//! SQL database. The [`SessionLayer`] reads the cookie, loads the session into the request's extensions, and afterwards writes
//! back what changed, and only if something did.
//!
//! ```
//! # #[cfg(feature = "axum")] {
//! use axum::{Router, routing::get};
//! use cloakroom::{InMemoryCache, Session, SessionError, SessionLayer, SessionStore};
//!
//! async fn visits(session: Session) -> Result<String, SessionError> {
//!     let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
//!     Ok(format!("{visits} visits"))
//! }
//!
//! let sessions = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
//! let app: Router = Router::new().route("/", get(visits)).layer(sessions);
//! # }
//! ```
//!
//! # What it promises
//!
//! 1. **No lost update.** Changes of overlapping requests to different value keys all take effect, whichever process they ran
//!    in. [`Session::update`] is atomic: N acknowledged increments add N. See [`guide::concurrency`].
//! 2. **Logout is final.** A destroyed, expired, revoked or renewed session never comes back, under any ID, by any call.
//! 3. **IDs are issued, never accepted.** An unknown ID is a visitor without a session.
//! 4. **Renewal is atomic.** The new entry first, then the tombstone; a failure leaves the old session as it was.
//! 5. **An outage does not log out.** 503 within the deadline, no cookie, nothing overwritten; the same cookie works afterwards.
//! 6. **You pay only for what you use.** Anonymous requests store nothing, a session that did not change writes nothing, and an
//!    empty new session is not stored.
//! 7. **Everything is bounded**: sizes, look-ups, retries, waiting, lists. A limit is an error, never a panic.
//! 8. **No secret leaves** through logs, `Debug`, error texts or responses.
//! 9. **Shared caches cannot leak a session.** `Vary` and `Cache-Control`, and no field that overrides them: see
//!    [`guide::defaults`].
//! 10. **A record belongs to its key**: found under another one, it is refused. A layer never serves the session of another
//!     layer.
//! 11. **What is stored comes back as it was**: every accepted value decodes to an equal one, floats included.
//! 12. **No silent failure.** Every 5xx that this crate causes, and every dropped change, is logged: see [`guide::events`].
//!
//! # Where to start
//!
//! - [`SessionLayer`] and its [builder](SessionLayerBuilder): the middleware and its settings
//! - [`Session`]: the handle in handlers: values, [`log_in`](Session::log_in), [`destroy`](Session::destroy)
//! - [`SessionStore`]: the settings that all sessions share, and sessions without HTTP
//! - [`InMemoryCache`], `SqliteCache`, `PostgresCache`, `MySqlCache`, `RedisCache`: where the data is kept; `EncryptedCache`
//!   around any of them, [`Cache`] for one of your own
//! - [`guide`]: [`quick_start`](guide::quick_start), [`login`](guide::login), [`websockets`](guide::websockets),
//!   [`testing`](guide::testing), [`troubleshooting`](guide::troubleshooting), complete programs
//!   ([`examples`](guide::examples)) and more
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `axum` | yes | `Session`, `Option<Session>` and `LazySession` as extractors, `SessionError: IntoResponse` |
//! | `sqlite`, `postgres`, `mysql` | | `SqliteCache`, `PostgresCache`, `MySqlCache`, on sqlx 0.9; they ask for Rust 1.94 |
//! | `redis` | | `RedisCache`: one server |
//! | `redis-cluster`, `redis-sentinel` | | `RedisCache::cluster`, `RedisCache::sentinel` |
//! | `redis-tls` | | `rediss:` URLs, by rustls |
//! | `encryption` | | `EncryptedCache`: any cache, with values encrypted at rest |
//! | `metrics` | | counters of all events through the `metrics` facade: `cloakroom_events_total`, by `event` |
//! | `signed` | | signed cookies: `SessionLayerBuilder::signing_keys` |
//! | `device-bound` | | experimental: sessions bound to a device, so that stolen cookies are of no use after minutes (DBSC) |
//! | `testing` | | for your own tests: the `Cookie` header of a session, a cache that counts, fails and waits on demand, the cache contract suite |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod benching;
mod cache;
mod clock;
mod cookie;
mod deadline;
#[cfg(feature = "device-bound")]
mod device_bound;
mod engine;
mod error;
mod events;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod id;
mod random;
mod record;
mod run_to_end;
mod session;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "redis")]
pub use self::cache::redis::{RedisCache, RedisCacheBuilder};
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub use self::cache::sql::MySqlCache;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::cache::sql::PostgresCache;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::cache::sql::SqliteCache;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use self::cache::sql::{SqlCache, SqlCacheBuilder, SqlTables};
#[cfg(feature = "encryption")]
pub use self::cache::{EncryptedCache, EncryptionKey};
#[cfg(feature = "signed")]
pub use self::cookie::SigningKey;
pub use self::{
    cache::{
        BoxedCache, Cache, Deleted, Entry, Expiry, InMemoryCache, InMemoryCacheBuilder, ListMember, Replaced, Version,
    },
    clock::Clock,
    cookie::SameSite,
    engine::SessionLimitPolicy,
    error::{
        CacheError, CacheErrorKind, ConfigError, DecodeError, DefaultErrorResponse, EncodeError, ErrorResponse,
        SessionError,
    },
    http::{Refresh, ResponseFuture, SessionLayer, SessionLayerBuilder, SessionService},
    id::{ParseKeyError, SessionId, SessionKey},
    session::{EndReason, IntoKey, Key, LazySession, Session, SessionInfo},
    store::SessionStore,
};
#[cfg(feature = "device-bound")]
pub use self::{
    device_bound::{DeviceBound, DeviceBoundPolicy},
    error::DeviceBoundResponse,
};
/// The bytes of an [`Entry`].
pub use bytes::Bytes;
/// What [`Session::remove`] returns.
pub use serde_json::Value;

/// The guide, chapter by chapter. Each starts with code that runs.
///
/// - **First**: [`quick_start`](guide::quick_start), [`login`](guide::login) with "remember me" and a page of devices,
///   [`testing`](guide::testing), [`troubleshooting`](guide::troubleshooting)
/// - **Users**: [`users`](guide::users) and "log out everywhere", [`permissions`](guide::permissions),
///   [`one_time_values`](guide::one_time_values) for OAuth
/// - **Requests that overlap, and work after them**: [`concurrency`](guide::concurrency), [`websockets`](guide::websockets)
/// - **Where the data is kept**: `redis`, `redis_servers`, `sql` and `encryption` with their features,
///   [`caches`](guide::caches) of your own, [`schema_evolution`](guide::schema_evolution)
/// - **In production**: [`security`](guide::security), `device_bound` with its feature, [`floods`](guide::floods),
///   [`defaults`](guide::defaults), [`events`](guide::events), [`performance`](guide::performance)
/// - **From another library**: [`migrating`](guide::migrating)
/// - **Complete programs**: [`examples`](guide::examples)
pub mod guide {
    /// A page for each program of `examples/`, with its text.
    macro_rules! examples {
        ($($name:ident: $what:literal)+) => { $(
            #[doc = concat!(
                $what, "\n\n```ignore\n", include_str!(concat!("../examples/", stringify!($name), ".rs")), "```",
            )]
            pub mod $name {}
        )+ };
    }

    #[doc = include_str!("docs/quick_start.md")]
    pub mod quick_start {}
    #[doc = include_str!("docs/login.md")]
    pub mod login {}
    #[doc = include_str!("docs/users.md")]
    pub mod users {}
    #[cfg(feature = "axum")]
    #[doc = "Who is signed in, what they may do, and when their sessions end: `cargo run --example permissions`.\n\n# In code\n\n```no_run"]
    #[doc = include_str!("../examples/permissions.rs")]
    #[doc = "```\n\n"]
    #[doc = include_str!("docs/permissions.md")]
    pub mod permissions {}
    #[doc = include_str!("docs/one_time_values.md")]
    pub mod one_time_values {}
    #[doc = include_str!("docs/concurrency.md")]
    pub mod concurrency {}
    #[doc = include_str!("docs/websockets.md")]
    pub mod websockets {}
    #[doc = include_str!("docs/schema_evolution.md")]
    pub mod schema_evolution {}
    #[doc = include_str!("docs/defaults.md")]
    pub mod defaults {}
    #[doc = include_str!("docs/security.md")]
    pub mod security {}
    #[doc = include_str!("docs/floods.md")]
    pub mod floods {}
    #[doc = include_str!("docs/events.md")]
    pub mod events {}
    #[doc = include_str!("docs/troubleshooting.md")]
    pub mod troubleshooting {}
    #[cfg(feature = "redis")]
    #[doc = include_str!("docs/redis.md")]
    pub mod redis {}
    #[cfg(feature = "redis")]
    #[doc = include_str!("docs/redis_servers.md")]
    pub mod redis_servers {}
    #[cfg(feature = "encryption")]
    #[doc = include_str!("docs/encryption.md")]
    pub mod encryption {}
    #[cfg(feature = "device-bound")]
    #[doc = include_str!("docs/device_bound.md")]
    pub mod device_bound {}
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    #[doc = include_str!("docs/sql.md")]
    pub mod sql {}
    #[doc = include_str!("docs/testing.md")]
    pub mod testing {}
    #[doc = include_str!("docs/caches.md")]
    pub mod caches {}
    #[doc = include_str!("docs/performance.md")]
    pub mod performance {}
    #[doc = include_str!("docs/migrating.md")]
    pub mod migrating {}
    /// Complete programs, to be read here and to be run in a checkout: `cargo run --example counter`.
    ///
    /// One more is in the chapter `permissions`. The largest is in the checkout alone: `cargo run --example showcase` is a shop
    /// in which every page tells what its session cost.
    pub mod examples {
        examples! {
            counter: "A visit counter that remembers you."
            login: "Login, logout, \"remember me\" and a page of devices."
            websocket: "A WebSocket that closes on \"log out everywhere\", on whichever machine that was clicked."
            store: "Sessions without HTTP."
            hyper: "The counter without axum, on HTTP/1.1 and HTTP/2."
            sqlite: "The counter on an SQLite file."
            postgres: "The counter on PostgreSQL."
            redis: "The counter on Redis, by several processes."
            encrypted: "The counter on a Redis that cannot read the data."
        }
    }
}

#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../README.md")]
mod readme {}
