//! The SQL caches, on servers that the tests start as an unprivileged user, and on files.
#![cfg(test)]
#![cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]

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
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod revoke_many;
mod rows;
#[cfg(feature = "postgres")]
mod secrets;
mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod tls;
