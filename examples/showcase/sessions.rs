//! The session layer of the shop. With feature `device-bound`, browsers that can bind a session to their device do, over HTTPS.
use cloakroom::{SessionInfo, SessionLayer};

use super::{Store, Watched};

/// Where browsers bind a session. The layer answers there itself.
#[cfg(feature = "device-bound")]
const BIND: &str = "/device-bound-session";

#[cfg(not(feature = "device-bound"))]
pub(super) fn layer(store: Store) -> SessionLayer<Watched> {
    SessionLayer::new(store)
}

#[cfg(feature = "device-bound")]
#[allow(clippy::expect_used, reason = "the settings are constants")]
pub(super) fn layer(store: Store) -> SessionLayer<Watched, cloakroom::DeviceBoundResponse> {
    let settings = cloakroom::DeviceBound::new(BIND);
    SessionLayer::builder(store).device_bound(settings).build().expect("a path within that of the cookie")
}

/// What the page of devices says of a session whose cookies work on one device alone.
#[cfg(feature = "device-bound")]
pub(super) fn bound(info: &SessionInfo) -> &'static str {
    if info.is_device_bound() { ", bound to the device" } else { "" }
}

#[cfg(not(feature = "device-bound"))]
pub(super) const fn bound(_: &SessionInfo) -> &'static str {
    ""
}
