//! What an error of a database means. Its text is never passed on: it repeats values, statements and addresses.
use std::{borrow::Cow, io};

use sqlx::Error;

use crate::error::{
    CacheError,
    CacheErrorKind::{self, Other, Refused, Timeout, Unavailable, Unsupported},
};

/// What a failed statement calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was lost: the statement may have been carried out.
    Lost,
    /// Nothing was done, and a little later it may be.
    NotReady {
        /// What to say when time runs out.
        text: Cow<'static, str>,
        /// Another connection may fare better.
        renew: bool,
    },
    /// Trying again would not help; nothing was done, but for [`Other`] and [`Timeout`].
    Rejected(CacheErrorKind, Cow<'static, str>),
}

pub(crate) const NO_TABLE: &str =
    "the tables of the sessions are not there: `migrate()` makes them, or the SQL that `schema()` prints";

impl Failure {
    pub(crate) fn not_ready(text: impl Into<Cow<'static, str>>) -> Self {
        Self::NotReady { text: text.into(), renew: false }
    }

    pub(crate) fn reconnect(text: impl Into<Cow<'static, str>>) -> Self {
        Self::NotReady { text: text.into(), renew: true }
    }

    pub(crate) fn rejected(kind: CacheErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Rejected(kind, text.into())
    }

    /// Whether it shows that the database answers, where it came while connecting.
    pub(super) const fn reached(&self) -> bool {
        matches!(self, Self::Rejected(..))
    }

    /// What an error means that came while a statement ran. `answer` knows the codes of this database.
    pub(super) fn of(error: &Error, answer: impl FnOnce(&dyn sqlx::error::DatabaseError) -> Self) -> Self {
        match error {
            Error::Database(error) => answer(&**error),
            Error::Io(_) | Error::WorkerCrashed | Error::Protocol(_) | Error::Tls(_) => Self::Lost,
            // What this crate makes of a row that was another one each time it was looked at.
            Error::RowNotFound => Self::not_ready("the entry kept changing"),
            Error::PoolTimedOut => Self::not_ready("no connection to the database became free in time"),
            Error::PoolClosed => Self::rejected(Unavailable, "the pool of connections is closed"),
            Error::Configuration(_) => Self::rejected(Other, "the URL or the settings of the database cannot be used"),
            Error::Encode(_) | Error::InvalidArgument(_) => {
                Self::rejected(Refused, "a value cannot be sent to the database")
            }
            _ => Self::rejected(Other, "the database gave an answer of an unexpected type"),
        }
    }

    /// What an error means that came before anything was sent.
    pub(super) fn while_connecting(
        error: &Error,
        answer: impl FnOnce(&dyn sqlx::error::DatabaseError) -> Self,
    ) -> Self {
        match error {
            Error::Tls(_) => return Self::rejected(Refused, "the TLS handshake with the database failed"),
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                let text = "TLS with the database failed: its certificate is not by an authority that is trusted here, not \
                            for this name, or expired";
                return Self::rejected(Refused, text);
            }
            Error::Configuration(_) => {
                let text = "the settings of the connection cannot be used: a file of a certificate, or the password, which \
                            MySQL takes by `caching_sha2_password` over TLS only";
                return Self::rejected(Other, text);
            }
            Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::not_ready("the database cannot be reached: there is no such file, socket or host");
            }
            Error::Io(error) => return Self::not_ready(format!("the database cannot be reached ({})", error.kind())),
            Error::Protocol(_) => {
                return Self::not_ready("what answers there does not speak the protocol of the database as expected");
            }
            _ => {}
        }
        match Self::of(error, answer) {
            Self::Lost => Self::not_ready("the database cannot be reached"),
            failure => failure,
        }
    }
}

/// With the code of the answer, which is not a secret.
pub(crate) fn answered(code: &str, means: &str) -> Cow<'static, str> {
    let shown = code.len() <= 8 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let code = if shown { code } else { "" };
    format!("the database answered {code}: {means}").into()
}

pub(super) fn unexpected() -> CacheError {
    CacheError::new(Other, "the database gave an answer of an unexpected type")
}

/// A write was sent, and what is known does not tell whether it was carried out.
pub(super) fn unknown_outcome() -> CacheError {
    CacheError::new(Timeout, "the connection to the database was lost, a write may have been carried out")
}

pub(super) fn too_late() -> CacheError {
    CacheError::new(Timeout, "the database did not answer in time")
}

pub(super) fn too_large(what: &'static str) -> CacheError {
    CacheError::new(Unsupported, what)
}
