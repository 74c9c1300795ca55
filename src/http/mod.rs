//! The middleware: layer, service, and what happens around a request.
mod caching;
mod exchange;
#[cfg(feature = "axum")]
mod extract;
mod layer;
mod service;

pub use self::{
    layer::{Refresh, SessionLayer, SessionLayerBuilder},
    service::{ResponseFuture, SessionService},
};
