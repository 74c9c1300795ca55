//! The examples themselves.
#![allow(dead_code, unreachable_pub, reason = "their `main` is for people")]

#[path = "../../examples/counter.rs"]
pub mod counter;
#[cfg(all(feature = "encryption", feature = "redis"))]
#[path = "../../examples/encrypted.rs"]
pub mod encrypted;
#[path = "../../examples/hyper.rs"]
pub mod hyper_example;
#[path = "../../examples/login.rs"]
pub mod login;
#[path = "../../examples/permissions.rs"]
pub mod permissions;
#[cfg(feature = "postgres")]
#[path = "../../examples/postgres.rs"]
pub mod postgres_example;
#[cfg(feature = "redis")]
#[path = "../../examples/redis.rs"]
pub mod redis_example;
#[path = "../../examples/showcase/main.rs"]
pub mod showcase;
#[cfg(feature = "redis")]
#[path = "../../examples/soak/main.rs"]
pub mod soak;
#[cfg(feature = "sqlite")]
#[path = "../../examples/sqlite.rs"]
pub mod sqlite_example;
#[path = "../../examples/store.rs"]
pub mod store;
#[cfg(feature = "redis")]
#[path = "../../examples/websocket.rs"]
pub mod websocket;
