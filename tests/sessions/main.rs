//! Sessions: what is stored of them and how they come back, how long they live, whose they are, and how changes are
//! committed.
#![cfg(test)]

mod commits;
mod lifetimes;
mod memory_cache;
mod owners;
mod store;
#[path = "../support/mod.rs"]
mod support;
