//! Redis: the cache, its near cache, the ways to reach a server, what requests cost it, and servers and networks that fail.
#![cfg(test)]
#![cfg(feature = "redis")]

mod cache;
#[cfg(feature = "axum")]
mod costs;
#[cfg(feature = "axum")]
mod faults;
#[cfg(feature = "axum")]
mod memory;
mod near;
#[cfg(feature = "redis-cluster")]
mod near_cluster;
#[cfg(feature = "axum")]
mod outage;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(all(feature = "redis-cluster", feature = "redis-sentinel", feature = "axum"))]
mod topologies;
