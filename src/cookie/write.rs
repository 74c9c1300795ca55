//! `Set-Cookie`: the cookie and its removal, from one template.
use std::{fmt, io::Write, time::Duration};

use ::cookie::Cookie;
use http::{HeaderMap, HeaderValue, header::SET_COOKIE};

use super::{
    policy::{CookiePolicy, CookieSettings},
    read::trim,
};
use crate::id::{ID_CHARS, SessionId};

/// 400 days: browsers cut what is longer (RFC 6265bis, 5.5).
const MAX_AGE_SECONDS: u64 = 34_560_000;
const MAX_AGE: &str = "; Max-Age=";
/// Two ways to say it, as browsers obey the first and old clients know only the second (RFC 6265bis, 5.7).
const REMOVE: &str = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";

/// Everything of a `Set-Cookie` but the value and its age.
#[derive(Clone)]
pub(super) struct Template {
    /// `name=`, which is also what a pair in a `Cookie` field begins with.
    head: Box<str>,
    /// The attributes, each after its `; `.
    attributes: Box<str>,
    removal: HeaderValue,
}

impl Template {
    pub(super) fn render(settings: &CookieSettings) -> Self {
        let mut cookie = Cookie::build((settings.name.as_str(), ""))
            .path(settings.path.as_str())
            .same_site(settings.same_site)
            .http_only(settings.http_only)
            .secure(settings.secure)
            .partitioned(settings.partitioned);
        if let Some(domain) = settings.domain.as_deref() {
            cookie = cookie.domain(domain);
        }
        let head = format!("{}=", settings.name);
        let text = cookie.build().to_string();
        let attributes = text.get(head.len()..).unwrap_or_default();
        let removal = header(format!("{head}{REMOVE}{attributes}").into_bytes());
        Self { attributes: attributes.into(), head: head.into(), removal }
    }

    pub(super) fn name(&self) -> &str {
        self.head.strip_suffix('=').unwrap_or_default()
    }

    pub(super) fn head(&self) -> &[u8] {
        self.head.as_bytes()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…{}", self.head, self.attributes)
    }
}

impl CookiePolicy {
    /// The `Set-Cookie` that gives the browser this ID: until it is closed, or for whole seconds of `max_age`.
    ///
    /// At least one second, as zero would remove the cookie, and at most 400 days.
    pub(crate) fn issue(&self, id: &SessionId, max_age: Option<Duration>) -> HeaderValue {
        let Template { head, attributes, .. } = &self.template;
        let seconds = max_age.map(|age| age.as_secs().clamp(1, MAX_AGE_SECONDS));
        let age = seconds.and_then(u64::checked_ilog10).map_or(0, |log| MAX_AGE.len() + log as usize + 1);
        #[cfg(feature = "signed")]
        let signature = self.signer.as_ref().map(|signer| signer.sign(id));
        #[cfg(not(feature = "signed"))]
        let signature: Option<[u8; 0]> = None;
        let signature = signature.as_ref().map_or(&[][..], |text| text);

        // The exact length, so that the buffer becomes the header without another copy.
        let length = head.len() + ID_CHARS + signature.len() + age + attributes.len();
        let mut text = Vec::with_capacity(length);
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(id.as_ref().as_bytes());
        text.extend_from_slice(signature);
        if let Some(seconds) = seconds {
            // Writing to a `Vec` cannot fail.
            let _ = write!(text, "{MAX_AGE}{seconds}");
        }
        text.extend_from_slice(attributes.as_bytes());
        debug_assert_eq!(text.len(), length);
        header(text)
    }

    /// The `Set-Cookie` that makes the browser forget the cookie.
    pub(crate) fn removal(&self) -> HeaderValue {
        self.template.removal.clone()
    }

    /// Whether this `Set-Cookie` sets a cookie of our name, read as a browser reads it (RFC 6265bis, 5.6).
    pub(crate) fn is_own(&self, set_cookie: &HeaderValue) -> bool {
        let pair = set_cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        // Without `=` the cookie has no name: all of it is the value.
        match (parts.next(), parts.next()) {
            (Some(name), Some(_)) => trim(name) == self.name().as_bytes(),
            _ => false,
        }
    }

    /// Adds our cookie beside the handler's others; whether the handler had set one of our name, which is dropped.
    ///
    /// A response must not set the same name twice (RFC 6265bis, 4.1.1).
    pub(crate) fn put(&self, headers: &mut HeaderMap, value: HeaderValue) -> bool {
        let dropped = self.drop_own(headers);
        // Fails in a map of 32768 fields, where nothing can be added.
        let _ = headers.try_append(SET_COOKIE, value);
        dropped
    }

    /// Drops every cookie of our name that a handler set, and leaves the others as they are and in order.
    pub(crate) fn drop_own(&self, headers: &mut HeaderMap) -> bool {
        let values = headers.get_all(SET_COOKIE);
        if !values.iter().any(|value| self.is_own(value)) {
            return false;
        }
        let kept: Vec<_> = values.iter().filter(|value| !self.is_own(value)).cloned().collect();
        headers.remove(SET_COOKIE);
        for value in kept {
            let _ = headers.try_append(SET_COOKIE, value);
        }
        true
    }
}

/// The text as a header that is never printed, nor indexed by HPACK (RFC 7541, 7.1.3).
fn header(text: Vec<u8>) -> HeaderValue {
    // All of it is visible ASCII, see the checks; an empty `Set-Cookie` would be ignored by browsers.
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
