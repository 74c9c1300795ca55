//! The SQL caches, on servers that the tests start as an unprivileged user, and on files.
#![cfg(test)]
#![cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_faults;
mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
