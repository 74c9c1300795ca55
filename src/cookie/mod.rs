//! The session cookie: its settings are checked once, then it is read, written and removed by the same policy.
mod policy;
mod read;
#[cfg(feature = "signed")]
mod signed;
#[cfg(test)]
mod tests;
mod write;

pub use ::cookie::SameSite;

pub(crate) use self::{
    policy::{CookiePolicy, CookieSettings},
    read::Candidates,
};
