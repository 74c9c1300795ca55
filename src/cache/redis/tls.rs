//! TLS, by rustls.
use rustls::crypto::{CryptoProvider, ring};

/// Takes care that there is a provider of cryptography: the one that the application has installed, else `ring`.
///
/// Without it rustls panics where several providers are compiled in, through other dependencies of the application.
pub(super) fn prepare() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread installed one meanwhile.
        let _ = ring::default_provider().install_default();
    }
}
