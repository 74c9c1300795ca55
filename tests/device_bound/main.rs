//! Sessions that are bound to a device: a browser in software registers and refreshes, and all else is refused.
#![cfg(test)]
#![cfg(feature = "device-bound")]

mod app;
#[cfg(feature = "axum")]
mod chromium;
mod clocks;
mod crowds;
mod device;
mod endings;
mod exchange;
#[cfg(feature = "axum")]
mod https;
mod outages;
mod refused;
mod settings;
#[cfg(feature = "axum")]
#[allow(dead_code, unreachable_pub, reason = "its `main` is for people")]
#[path = "../../examples/showcase/main.rs"]
mod showcase;
#[path = "../support/mod.rs"]
mod support;
mod unproven;
