//! The middleware: layer, service, and what happens around a request.
mod caching;
mod exchange;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod layer;
mod service;

pub use self::{
    future::ResponseFuture,
    layer::{Refresh, SessionLayer, SessionLayerBuilder},
    service::SessionService,
};
