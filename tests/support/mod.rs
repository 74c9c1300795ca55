//! What the tests share: the caches that a test runs on, requests through the layer, and servers, proxies and browsers of a
//! test's own. Each test binary mounts it once.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, reason = "each binary uses a part of it")]

#[cfg(any(feature = "redis-tls", feature = "postgres", feature = "mysql"))]
pub mod authority;
pub mod browser;
pub mod caches;
#[cfg(feature = "redis")]
pub mod holding_proxy;
pub mod log;
#[cfg(feature = "mysql")]
pub mod mariadb_server;
#[cfg(unix)]
pub mod nginx;
#[cfg(feature = "postgres")]
pub mod postgres_server;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub mod process;
#[cfg(all(feature = "redis", feature = "axum"))]
pub mod redis_app;
#[cfg(feature = "redis-cluster")]
pub mod redis_cluster;
#[cfg(feature = "redis")]
pub mod redis_proxy;
#[cfg(feature = "redis")]
pub mod redis_server;
pub mod request;
pub mod six_methods;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub mod sql_proxy;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod sql_view;
#[cfg(feature = "sqlite")]
pub mod sqlite_file;
pub mod web;
pub mod writes;
