//! Requests over HTTP: cookies, headers, extractors, and what becomes of a request's changes.
#![cfg(test)]

#[cfg(feature = "axum")]
mod caching_headers;
mod clear_site_data;
mod cookies;
mod extremes;
#[cfg(all(feature = "axum", unix))]
mod nginx;
#[cfg(feature = "axum")]
mod one_request;
#[cfg(feature = "axum")]
mod outcomes;
#[path = "../support/mod.rs"]
mod support;
mod test_kit;
mod two_layers;
