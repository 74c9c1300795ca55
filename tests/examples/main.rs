//! The examples do what they say.
#![cfg(test)]
#![cfg(feature = "axum")]

mod browser;
#[cfg(all(feature = "encryption", feature = "redis"))]
mod encrypted;
mod programs;
mod showcase;
mod small;
#[cfg(feature = "redis")]
mod soak;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[path = "../support/mod.rs"]
mod support;
