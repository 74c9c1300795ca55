//! What overlaps in one session.
//!
//! - `writes`, `logouts`, `renewals`, `dropped`, `detached`: two requests or handles, one case a test, on every cache.
//! - `within_a_request`: a request that overlaps with commits of its own.
//! - `crowds`: many requests that never pause.
//! - `schedules`: all schedules of two and three requests up to a bound, in memory.
//! - `histories`: random histories of handles, requests and faults, against a model.
//! - `owner_races`: the guide's table of races of a user's sessions, row by row, also between two processes.
//! - `owner_model`: all orders of what two or three requests do to a user's sessions, searched by `stateright`.
//!
//! Recorded histories of several processes, on servers that fail, are in `tests/linearize`.
#![cfg(test)]

mod crowds;
mod detached;
mod dropped;
mod histories;
mod logouts;
mod owner_model;
mod owner_races;
mod renewals;
mod schedules;
#[path = "../support/mod.rs"]
mod support;
mod within_a_request;
mod writes;
