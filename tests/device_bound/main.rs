//! Sessions that are bound to a device: a browser in software registers and refreshes, and all else is refused.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod app;
#[cfg(feature = "axum")]
#[path = "../common/browser.rs"]
mod browser;
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
#[path = "../../examples/showcase/main.rs"]
mod showcase;
mod unproven;
