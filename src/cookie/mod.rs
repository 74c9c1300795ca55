//! The session cookie: its settings are checked once, then one policy reads, issues and removes it.
mod domain;
mod insecure_origin;
mod policy;
mod settings;
#[cfg(feature = "signed")]
mod signature;
#[cfg(feature = "signed")]
mod signing_key;
#[cfg(test)]
mod tests;

pub use self::settings::SameSite;
#[cfg(feature = "signed")]
pub use self::signing_key::SigningKey;
pub(crate) use self::{
    insecure_origin::is_likely_lost,
    policy::{Candidates, CookiePolicy},
    settings::CookieSettings,
};
