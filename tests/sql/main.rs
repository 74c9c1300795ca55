//! The SQL caches, on servers that the tests start as an unprivileged user, and on files.
#![cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(any(feature = "postgres", feature = "mysql"))]
#[allow(dead_code, unreachable_pub)]
#[path = "../common/redis_tls.rs"]
mod authority;
#[cfg(feature = "mysql")]
mod mariadb_server;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod near;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod outage;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_faults;
#[cfg(feature = "postgres")]
mod postgres_server;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod process;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod proxy;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod revoke_many;
#[cfg(feature = "postgres")]
mod secrets;
mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod tls;
