//! The examples do what they say.
#![cfg(test)]
#![cfg(feature = "axum")]

mod browser;
#[cfg(all(feature = "encryption", feature = "redis"))]
mod encrypted;
mod permissions;
mod ports;
mod programs;
mod showcase;
mod small;
#[cfg(feature = "redis")]
mod soak;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
mod streams;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "redis")]
mod websocket_on_redis;
