//! The session cookie of one layer: reads it from requests, issues and removes it in responses.
//!
//! The bytes of a request's `Cookie` fields may come from an attacker. They are read within limits and without decoding, and
//! the session IDs in them are well-formed and not yet looked up.
use std::{
    fmt,
    io::{BufRead, Write},
    iter::Chain,
    option, slice,
    time::Duration,
    vec,
};

use ::cookie::Cookie;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use super::settings::CookieSettings;
#[cfg(feature = "signed")]
use super::signature::{self, SignedBy, Signer};
use crate::{
    error::ConfigError,
    id::{ID_CHARS, SessionId},
};

/// How much of all `Cookie` fields together is read; the rest is ignored.
const MAX_BYTES: usize = 64 * 1024;
const MAX_PAIRS: usize = 512;
/// How many different IDs are looked up.
const MAX_CANDIDATES: usize = 4;

/// 400 days: browsers shorten what is longer (RFC 6265bis, 5.5).
const MAX_AGE_SECONDS: u64 = 34_560_000;
const MAX_AGE: &str = "; Max-Age=";
/// Both, as browsers obey the first and old clients know only the second (RFC 6265bis, 5.7).
const REMOVE: &str = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";

/// Checked settings, rendered as far as they are known before a request.
#[derive(Clone)]
pub(crate) struct CookiePolicy {
    /// `name=`, with which a pair in a `Cookie` field begins, too.
    start: Box<str>,
    /// The attributes as they stand in `Set-Cookie`, each after its `; `, without an age.
    attributes: Box<str>,
    removal: HeaderValue,
    #[cfg(feature = "signed")]
    signer: Option<Signer>,
    secure: bool,
    persistent: bool,
}

impl CookiePolicy {
    /// The policy of these settings, if a browser keeps such a cookie.
    pub(crate) fn new(settings: &CookieSettings) -> Result<Self, ConfigError> {
        settings.check()?;
        Ok(Self::unchecked(settings))
    }

    fn unchecked(settings: &CookieSettings) -> Self {
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
        Self {
            attributes: attributes.into(),
            start: start.into(),
            removal,
            #[cfg(feature = "signed")]
            signer: Signer::new(&settings.name, settings.keys.as_deref().unwrap_or_default()),
            secure: settings.secure,
            persistent: settings.persistent,
        }
    }

    /// The cookie's name.
    pub(crate) fn name(&self) -> &str {
        self.start.strip_suffix('=').unwrap_or_default()
    }

    /// The attributes as they stand in `Set-Cookie`, without an age.
    #[cfg(feature = "device-bound")]
    pub(crate) fn attributes(&self) -> &str {
        self.attributes.trim_start_matches("; ")
    }

    /// Whether browsers keep the cookie to secure connections.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether a cookie outlives the browser unless its session decides otherwise.
    pub(crate) fn persistent(&self) -> bool {
        self.persistent
    }

    /// The IDs in all `Cookie` fields of a request (RFC 6265bis, 4.2.1; RFC 9113, 8.2.3), as HTTP/2 may split them.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Candidates {
        let start = self.start.as_bytes();
        #[cfg(feature = "signed")]
        if let Some(signer) = &self.signer {
            let verify = |value: &[u8]| match signer.verify(value) {
                None => Err(Rejection::Malformed),
                Some((_, SignedBy::NoKey)) => Err(Rejection::Unsigned),
                Some((id, signed_by)) => Ok(Candidate { id, resign: signed_by == SignedBy::Older }),
            };
            return Scan::new(start, signature::MAX_VERIFIED, verify).fields(headers);
        }
        Scan::new(start, MAX_PAIRS, parse).fields(headers)
    }

    /// The `Set-Cookie` that gives the browser this ID: until it is closed, or for whole seconds of `max_age`.
    ///
    /// At least one second, as zero would remove the cookie, and at most 400 days.
    pub(crate) fn issue(&self, id: &SessionId, max_age: Option<Duration>) -> HeaderValue {
        #[cfg(feature = "signed")]
        let signature = self.signer.as_ref().map(|signer| signer.sign(id));
        #[cfg(not(feature = "signed"))]
        let signature: Option<[u8; 0]> = None;
        let signature = signature.as_ref().map_or(&[][..], |signature| signature);
        let seconds = max_age.map(|age| age.as_secs().clamp(1, MAX_AGE_SECONDS));
        let age = seconds.and_then(u64::checked_ilog10).map_or(0, |log| MAX_AGE.len() + log as usize + 1);
        // The exact length, so that the buffer becomes the header without another copy.
        let length = self.start.len() + ID_CHARS + signature.len() + age + self.attributes.len();
        let mut text = Vec::with_capacity(length);
        text.extend_from_slice(self.start.as_bytes());
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

    /// The `Set-Cookie` that makes the browser forget the cookie.
    pub(crate) fn removal(&self) -> HeaderValue {
        self.removal.clone()
    }

    /// Adds the session cookie beside the handler's other cookies; whether the handler had set one of its name, which is
    /// dropped.
    ///
    /// A response must not set the same name twice (RFC 6265bis, 4.1.1).
    pub(crate) fn put(&self, headers: &mut HeaderMap, value: HeaderValue) -> bool {
        let dropped = self.drop_foreign(headers);
        append(headers, value);
        dropped
    }

    /// Drops every cookie of the session cookie's name that a handler set; whether there was one. The others stay as they
    /// are and in order.
    ///
    /// A handler cannot know an ID that this layer would accept, so such a cookie would only end the visitor's session.
    pub(crate) fn drop_foreign(&self, headers: &mut HeaderMap) -> bool {
        let name = self.name();
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
}

/// The policy of the default settings, which break no rule.
impl Default for CookiePolicy {
    fn default() -> Self {
        Self::unchecked(&CookieSettings::default())
    }
}

impl fmt::Debug for CookiePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("CookiePolicy");
        out.field("cookie", &format_args!("{}…{}", self.start, self.attributes)).field("persistent", &self.persistent);
        #[cfg(feature = "signed")]
        out.field("signed", &self.signer.is_some());
        out.finish()
    }
}

/// Adds a `Set-Cookie` to those of the response.
fn append(headers: &mut HeaderMap, value: HeaderValue) {
    // Fails in a map of 32768 fields, where nothing can be added.
    let _ = headers.try_append(SET_COOKIE, value);
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

/// One reading: what it found, and what it may still read.
struct Scan<'a, F> {
    /// `name=`.
    start: &'a [u8],
    /// Judges what follows it.
    parse: F,
    bytes: usize,
    pairs: usize,
    /// For how many values `parse` may still be called.
    values: usize,
    found: Candidates,
}

impl<'a, F: Fn(&[u8]) -> Result<Candidate, Rejection>> Scan<'a, F> {
    fn new(start: &'a [u8], values: usize, parse: F) -> Self {
        Self { start, parse, bytes: MAX_BYTES, pairs: MAX_PAIRS, values, found: Candidates::default() }
    }

    fn fields(mut self, headers: &HeaderMap) -> Candidates {
        for field in headers.get_all(COOKIE) {
            self.field(field.as_bytes());
            if self.found.more {
                break;
            }
        }
        self.found
    }

    /// Reads one field from left to right, each byte once.
    fn field(&mut self, field: &[u8]) {
        let (mut rest, cut) = match field.get(..self.bytes) {
            Some(start) if start.len() < field.len() => (start, true),
            _ => (field, false),
        };
        self.bytes -= rest.len();
        loop {
            let (pair, next) = first_pair(rest);
            // A pair that was cut is ignored: the part of a longer value that was read could have the form of an ID.
            if self.pairs == 0 || (cut && next.is_none()) {
                self.found.more = true;
                return;
            }
            self.pairs -= 1;
            self.pair(pair);
            match next {
                Some(next) if !self.found.more => rest = next,
                _ => return,
            }
        }
    }

    /// Reads one pair. Nothing is decoded, quotes belong to the value, and a blank beside the `=` makes it another name or no
    /// ID: browsers strip those when they store a cookie (RFC 6265bis, 5.6), so they did not send it.
    ///
    /// In a header value `trim_ascii` strips SP and HTAB only. Unicode white space stays: where it is stripped,
    /// `\u{2000}name` passes for `name` without the checks of its prefix.
    fn pair(&mut self, pair: &[u8]) {
        let Some(value) = pair.trim_ascii_start().strip_prefix(self.start) else { return };
        if self.values == 0 {
            self.found.more = true;
            return;
        }
        self.values -= 1;
        self.found.add((self.parse)(value.trim_ascii_end()));
    }
}

/// What is in front of the first semicolon, and what is behind it.
fn first_pair(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut next = text;
    // The standard library's one search that looks at many bytes at once. Reading from memory does not fail.
    let length = next.skip_until(b';').unwrap_or_default();
    match text.get(..length).unwrap_or_default().strip_suffix(b";") {
        Some(pair) => (pair, Some(next)),
        None => (text, None),
    }
}

/// The value of a cookie that is not signed.
fn parse(value: &[u8]) -> Result<Candidate, Rejection> {
    SessionId::parse(value).map(|id| Candidate { id, resign: false }).ok_or(Rejection::Malformed)
}

/// A well-formed ID, whose signature is right where cookies are signed. Whether it leads to a session is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: SessionId,
    /// An older key signed it: the cookie has to be issued again.
    pub(crate) resign: bool,
}

/// Why a value of the session cookie is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    /// It has not the form of a value of this policy.
    Malformed,
    /// It is a session ID without a signature by one of the keys.
    #[cfg(feature = "signed")]
    Unsigned,
}

/// Up to four different IDs, in the order of the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    first: Option<Candidate>,
    rest: Vec<Candidate>,
    /// A value of the cookie cannot be a session ID.
    pub(crate) malformed: bool,
    /// A value of the cookie is a session ID without a valid signature.
    #[cfg(feature = "signed")]
    pub(crate) unsigned: bool,
    /// The request has more than is read: a fifth ID, too many pairs, values or bytes.
    pub(crate) more: bool,
}

impl Candidates {
    /// Whether there is no ID.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> Chain<option::Iter<'_, Candidate>, slice::Iter<'_, Candidate>> {
        self.first.iter().chain(&self.rest)
    }

    fn add(&mut self, value: Result<Candidate, Rejection>) {
        match value {
            Ok(candidate) => self.add_candidate(candidate),
            Err(Rejection::Malformed) => self.malformed = true,
            #[cfg(feature = "signed")]
            Err(Rejection::Unsigned) => self.unsigned = true,
        }
    }

    fn add_candidate(&mut self, candidate: Candidate) {
        if self.iter().any(|known| known.id == candidate.id) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(candidate);
        } else if self.rest.len() + 1 < MAX_CANDIDATES {
            self.rest.push(candidate);
        } else {
            self.more = true;
        }
    }

    /// Whether it holds at most one ID, which takes no allocation.
    #[cfg(test)]
    fn is_unallocated(&self) -> bool {
        self.rest.capacity() == 0
    }
}

impl IntoIterator for Candidates {
    type Item = Candidate;
    type IntoIter = Chain<option::IntoIter<Candidate>, vec::IntoIter<Candidate>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

impl<'a> IntoIterator for &'a Candidates {
    type Item = &'a Candidate;
    type IntoIter = Chain<option::Iter<'a, Candidate>, slice::Iter<'a, Candidate>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_header_is_read_no_further_than_the_limits() {
        let rows =
            [";", "a;", "=;=;", "\"\\\"\";", " ", " ;", "__Host-id", "__Host-id=", "__Host-id=;", "a", "\t", "="];
        for row in rows {
            for length in [1_000, 400_000] {
                let (mut scan, text) = (Scan::new(b"__Host-id=", MAX_PAIRS, parse), row.repeat(length / row.len()));
                for _ in 0..100 {
                    scan.field(text.as_bytes());
                }
                let left = (scan.bytes, scan.pairs);
                assert!(scan.found.more && (left.0 == 0 || left.1 == 0), "{row:?}: {left:?}");
                assert!(scan.found.is_empty() && scan.found.is_unallocated());
                scan.field(b"__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
                assert!(scan.found.is_empty(), "{row:?}");
            }
        }
    }

    #[test]
    fn one_id_takes_no_allocation() {
        let mut scan = Scan::new(b"__Host-id=", MAX_PAIRS, parse);
        scan.field(b"a; __Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; __Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert!(!scan.found.is_empty() && scan.found.is_unallocated());
    }
}
