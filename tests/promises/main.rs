//! What the core promises of changes, commits and handles, one test for each point, in memory and on Redis.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod at_once;
mod closures;
mod detached;
mod ended;
mod login;
mod merge_table;
mod stored_values;
mod support;
mod under_way;
mod unknown;
