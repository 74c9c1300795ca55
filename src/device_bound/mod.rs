//! Sessions that are bound to a device (Device Bound Session Credentials): settings, proofs, header fields, and the endpoint at
//! which browsers register and refresh. What a binding is and what follows from it is in `src/record/binding.rs`.
mod endpoint;
mod fields;
mod proof;
mod settings;

use http::{HeaderMap, HeaderValue, Method, Uri};

pub use self::settings::{DeviceBound, DeviceBoundPolicy};
pub(crate) use self::{
    endpoint::{Call, EndpointResponse},
    fields::REGISTRATION,
    settings::CheckedDeviceBound,
};
use crate::session::DeviceAdmission;

#[cfg(feature = "testing")]
pub(crate) fn verifies_registration(jwt: &[u8]) -> bool {
    proof::Proof::parse(jwt).is_ok_and(|proof| proof.verify_own().is_ok())
}

/// Checks what no header field may change: see `src/fuzzing.rs`.
#[cfg(fuzzing)]
pub(crate) fn fuzz(input: &[u8]) {
    use proof::Proof;

    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let mut field = || HeaderValue::from_bytes(lines.next().unwrap_or_default()).ok();
    let mut headers = HeaderMap::new();
    for name in [fields::RESPONSE, fields::SESSION_ID] {
        if let Some(value) = field() {
            headers.append(name, value);
        }
    }
    for name in [fields::RESPONSE, fields::SESSION_ID] {
        if let Ok(Some(text)) = fields::read(&headers, &name) {
            let value = headers.get(&name).map_or(&b""[..], HeaderValue::as_bytes);
            assert!(value.windows(text.len()).any(|part| part == text), "text from nowhere");
            assert!(text.iter().all(|byte| !byte.is_ascii_whitespace() && !b"\",;".contains(byte)));
        }
    }
    endpoint::fuzz(&headers);
    // Any bytes at all, as a proof and with one bit of it turned.
    let jwt = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let signed = |jwt: &[u8]| Proof::parse(jwt).is_ok_and(|proof| proof.verify_own().is_ok());
    if signed(jwt) {
        let bit = input.iter().fold(0, |bit: usize, byte| bit.wrapping_mul(31).wrapping_add((*byte).into()));
        let mut altered = jwt.to_vec();
        let bit = bit % (altered.len() * 8);
        if let Some(byte) = altered.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        assert!(!signed(&altered), "bit {bit} was turned, and the proof was accepted");
    }
}

impl CheckedDeviceBound {
    /// What a request shows beside its session cookie, if it has one.
    pub(crate) fn admission(&self, path: &str, headers: &HeaderMap, has_session: bool) -> DeviceAdmission {
        if !has_session {
            return DeviceAdmission::default();
        }
        let field = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let opens_page = field("sec-fetch-mode") == Some(b"navigate") && field("sec-purpose").is_none();
        let skipped: Vec<_> = headers.get_all(fields::SKIPPED).iter().map(HeaderValue::as_bytes).collect();
        DeviceAdmission {
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
    pub(crate) fn again(&self, method: &Method, uri: &Uri) -> Option<EndpointResponse> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        // Relative to the last segment: a path of `//host` would lead to another site.
        let segment = uri.path().rsplit('/').next().unwrap_or_default();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let location = HeaderValue::try_from(format!("./{segment}{query}")).ok()?;
        Some(EndpointResponse::again(location, self.cookie.removal()))
    }
}
