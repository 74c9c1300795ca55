//! Sessions that are bound to a device (Device Bound Session Credentials): settings, proofs, header fields, and the endpoint at
//! which browsers register and refresh. What a binding is and what follows from it is in `src/record/binding.rs`.
mod endpoint;
mod fields;
mod proof;
mod settings;

use http::{HeaderMap, HeaderValue, Method, Uri};

pub use self::settings::{DeviceBound, DeviceBoundPolicy};
pub(crate) use self::{
    endpoint::{Answer, Call},
    fields::REGISTRATION,
    settings::CheckedDeviceBound,
};
use crate::session::Admission;

impl CheckedDeviceBound {
    /// What a request shows beside its session cookie, if it has one.
    pub(crate) fn admission(&self, path: &str, headers: &HeaderMap, has_session: bool) -> Admission {
        if !has_session {
            return Admission::default();
        }
        let field = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let opens_page = field("sec-fetch-mode") == Some(b"navigate") && field("sec-purpose").is_none();
        let skipped: Vec<_> = headers.get_all(fields::SKIPPED).iter().map(HeaderValue::as_bytes).collect();
        Admission {
            require: self.require,
            cookies: self.cookie.read(headers).iter().map(|candidate| candidate.id.key()).collect(),
            skipped: (!skipped.is_empty()).then(|| skipped.concat().into()),
            navigates: opens_page && self.is_refreshed_before(path, field("sec-fetch-site")),
        }
    }

    /// The `Secure-Session-Registration` of a login.
    pub(crate) fn registration(&self, challenge: &str) -> Option<HeaderValue> {
        fields::registration(&self.path, challenge)
    }

    /// For a request that only reads, and came with a bound cookie that does not count.
    pub(crate) fn again(&self, method: &Method, uri: &Uri) -> Option<Answer> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        // Relative to the last segment: a path of `//host` would lead to another site.
        let segment = uri.path().rsplit('/').next().unwrap_or_default();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let location = HeaderValue::try_from(format!("./{segment}{query}")).ok()?;
        Some(Answer::again(location, self.cookie.removal()))
    }
}
