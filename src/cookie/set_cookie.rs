//! Writes `Set-Cookie` fields: the session cookie and its removal from one template, beside the cookies of handlers.
use std::{fmt, io::Write, time::Duration};

use ::cookie::Cookie;
use http::{HeaderMap, HeaderValue, header::SET_COOKIE};

use super::settings::CookieSettings;
use crate::id::{ID_CHARS, SessionId};

/// 400 days: browsers shorten what is longer (RFC 6265bis, 5.5).
const MAX_AGE_SECONDS: u64 = 34_560_000;
const MAX_AGE: &str = "; Max-Age=";
/// Both, as browsers obey the first and old clients know only the second (RFC 6265bis, 5.7).
const REMOVE: &str = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";

/// Everything of a `Set-Cookie` but the value and its age.
#[derive(Clone)]
pub(super) struct Template {
    /// `name=`, with which a pair in a `Cookie` field begins, too.
    start: Box<str>,
    /// The attributes, each after its `; `.
    attributes: Box<str>,
    removal: HeaderValue,
}

impl Template {
    pub(super) fn render(settings: &CookieSettings) -> Self {
        let mut cookie = Cookie::build((settings.name.as_str(), ""))
            .path(settings.path.as_str())
            .same_site(settings.same_site.into())
            .http_only(settings.http_only)
            .secure(settings.secure)
            .partitioned(settings.partitioned);
        if let Some(domain) = settings.domain.as_deref() {
            cookie = cookie.domain(domain);
        }
        let start = format!("{}=", settings.name);
        let text = cookie.build().to_string();
        let attributes = text.get(start.len()..).unwrap_or_default();
        let removal = header(format!("{start}{REMOVE}{attributes}").into_bytes());
        Self { attributes: attributes.into(), start: start.into(), removal }
    }

    pub(super) fn name(&self) -> &str {
        self.start.strip_suffix('=').unwrap_or_default()
    }

    pub(super) fn start(&self) -> &[u8] {
        self.start.as_bytes()
    }

    #[cfg(feature = "device-bound")]
    pub(super) fn attributes(&self) -> &str {
        self.attributes.trim_start_matches("; ")
    }

    pub(super) fn issue(&self, id: &SessionId, signature: &[u8], max_age: Option<Duration>) -> HeaderValue {
        let seconds = max_age.map(|age| age.as_secs().clamp(1, MAX_AGE_SECONDS));
        let age = seconds.and_then(u64::checked_ilog10).map_or(0, |log| MAX_AGE.len() + log as usize + 1);
        // The exact length, so that the buffer becomes the header without another copy.
        let length = self.start.len() + ID_CHARS + signature.len() + age + self.attributes.len();
        let mut text = Vec::with_capacity(length);
        text.extend_from_slice(self.start());
        text.extend_from_slice(id.as_ref().as_bytes());
        text.extend_from_slice(signature);
        if let Some(seconds) = seconds {
            // Writing to a `Vec` cannot fail.
            let _ = write!(text, "{MAX_AGE}{seconds}");
        }
        text.extend_from_slice(self.attributes.as_bytes());
        debug_assert_eq!(text.len(), length);
        header(text)
    }

    pub(super) fn removal(&self) -> HeaderValue {
        self.removal.clone()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…{}", self.start, self.attributes)
    }
}

/// Adds a `Set-Cookie` to those of the response.
pub(super) fn append(headers: &mut HeaderMap, value: HeaderValue) {
    // Fails in a map of 32768 fields, where nothing can be added.
    let _ = headers.try_append(SET_COOKIE, value);
}

/// Drops every `Set-Cookie` of this name; whether there was one.
pub(super) fn drop_named(headers: &mut HeaderMap, name: &str) -> bool {
    let values = headers.get_all(SET_COOKIE);
    if !values.iter().any(|value| is_named(value, name)) {
        return false;
    }
    let kept: Vec<_> = values.iter().filter(|value| !is_named(value, name)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        append(headers, value);
    }
    true
}

/// Whether this `Set-Cookie` sets a cookie of this name, read as a browser reads it (RFC 6265bis, 5.6).
fn is_named(set_cookie: &HeaderValue, name: &str) -> bool {
    let pair = set_cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let mut parts = pair.splitn(2, |byte| *byte == b'=');
    // Without `=` the cookie has no name: all of it is the value.
    match (parts.next(), parts.next()) {
        // In a header value this strips SP and HTAB only.
        (Some(found), Some(_)) => found.trim_ascii() == name.as_bytes(),
        _ => false,
    }
}

/// The text as a header that is never printed, nor indexed by HPACK (RFC 7541, 7.1.3).
fn header(text: Vec<u8>) -> HeaderValue {
    // All of it is visible ASCII, see the checks of the settings; browsers ignore an empty `Set-Cookie`.
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
