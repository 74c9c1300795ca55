//! Reads the `Cookie` fields of a request, whose bytes may come from an attacker, within limits and without decoding: the
//! session IDs in them, well-formed and not yet looked up.
use std::{io::BufRead, iter::Chain, option, slice, vec};

use http::{HeaderMap, header::COOKIE};

use crate::id::SessionId;

/// How much of all `Cookie` fields together is read; the rest is ignored.
const MAX_BYTES: usize = 64 * 1024;
pub(super) const MAX_PAIRS: usize = 512;
/// How many different IDs are looked up.
const MAX_CANDIDATES: usize = 4;

/// The IDs in these headers: in all `Cookie` fields (RFC 6265bis, 4.2.1; RFC 9113, 8.2.3), as HTTP/2 may split them.
///
/// `start` is `name=`, `parse` judges what follows it, and is called for at most `max_values` values.
pub(super) fn read(
    headers: &HeaderMap,
    start: &[u8],
    max_values: usize,
    parse: impl Fn(&[u8]) -> Result<Candidate, Rejection>,
) -> Candidates {
    let mut scan = Scan::new(start, max_values, parse);
    for field in headers.get_all(COOKIE) {
        scan.field(field.as_bytes());
        if scan.found.more {
            break;
        }
    }
    scan.found
}

/// One reading: what it found, and what it may still read.
struct Scan<'a, F> {
    start: &'a [u8],
    parse: F,
    bytes: usize,
    pairs: usize,
    values: usize,
    found: Candidates,
}

impl<'a, F: Fn(&[u8]) -> Result<Candidate, Rejection>> Scan<'a, F> {
    fn new(start: &'a [u8], values: usize, parse: F) -> Self {
        Self { start, parse, bytes: MAX_BYTES, pairs: MAX_PAIRS, values, found: Candidates::default() }
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

/// A well-formed ID, whose signature is right where cookies are signed. Whether it leads to a session is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: SessionId,
    /// An older key signed it: the cookie has to be issued again.
    pub(crate) resign: bool,
}

/// Why a value of the session cookie is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
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

    pub(super) fn add(&mut self, value: Result<Candidate, Rejection>) {
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
    pub(super) fn is_unallocated(&self) -> bool {
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

    fn parse(value: &[u8]) -> Result<Candidate, Rejection> {
        SessionId::parse(value).map(|id| Candidate { id, resign: false }).ok_or(Rejection::Malformed)
    }

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
