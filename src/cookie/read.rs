//! `Cookie`: the IDs that a request carries, read from bytes that anybody may have shaped.
use std::{iter::Chain, option, slice, vec};

use http::{HeaderMap, header::COOKIE};

use super::policy::CookiePolicy;
use crate::id::SessionId;

/// What is inspected of all `Cookie` fields together; what comes after is not there.
const BYTES: usize = 64 * 1024;
const PAIRS: usize = 512;
/// Values of our name whose signature is worth computing: more than browsers keep in ordinary jars.
#[cfg(feature = "signed")]
const SIGNATURES: usize = 64;
/// Different IDs that are worth a look-up.
const CANDIDATES: usize = 4;

/// An ID that the cookie of our name carried: well-formed, and signed if keys are set. Nobody knows yet if it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: SessionId,
    /// An old key signed it: the cookie is to be issued again.
    pub(crate) resign: bool,
}

/// Up to four different IDs, in the order of the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    first: Option<Candidate>,
    rest: Vec<Candidate>,
    /// There was a value of our name that cannot be an ID of ours.
    pub(crate) malformed: bool,
    /// There was more than is read: a fifth ID, too many pairs or too many bytes.
    pub(crate) more: bool,
}

impl Candidates {
    /// No ID at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> Chain<option::Iter<'_, Candidate>, slice::Iter<'_, Candidate>> {
        self.first.iter().chain(&self.rest)
    }

    fn add(&mut self, candidate: Candidate) {
        if self.iter().any(|known| known.id == candidate.id) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(candidate);
        } else if self.rest.len() + 1 < CANDIDATES {
            self.rest.push(candidate);
        } else {
            self.more = true;
        }
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

impl CookiePolicy {
    /// The IDs in these headers: in all `Cookie` fields (RFC 6265bis, 4.2.1; RFC 9113, 8.2.3), as HTTP/2 may split them.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Candidates {
        let mut scan = Scan::new(self);
        for field in headers.get_all(COOKIE) {
            scan.field(field.as_bytes());
            if scan.found.more {
                break;
            }
        }
        scan.found
    }

    /// The ID that this value of our cookie is.
    fn candidate(&self, value: &[u8]) -> Option<Candidate> {
        #[cfg(feature = "signed")]
        if let Some(signer) = &self.signer {
            return signer.verify(value);
        }
        SessionId::parse(value).map(|id| Candidate { id, resign: false })
    }

    #[cfg(feature = "signed")]
    fn tries(&self) -> usize {
        if self.signer.is_some() { SIGNATURES } else { PAIRS }
    }

    #[cfg(not(feature = "signed"))]
    fn tries(&self) -> usize {
        PAIRS
    }
}

/// One reading: what it found, and what it may still spend.
struct Scan<'a> {
    policy: &'a CookiePolicy,
    bytes: usize,
    pairs: usize,
    tries: usize,
    found: Candidates,
}

impl<'a> Scan<'a> {
    fn new(policy: &'a CookiePolicy) -> Self {
        Self { policy, bytes: BYTES, pairs: PAIRS, tries: policy.tries(), found: Candidates::default() }
    }

    /// Reads one field from left to right, each byte once.
    fn field(&mut self, field: &[u8]) {
        let (mut rest, cut) = match field.get(..self.bytes) {
            Some(start) if start.len() < field.len() => (start, true),
            _ => (field, false),
        };
        self.bytes -= rest.len();
        loop {
            let end = memchr::memchr(b';', rest);
            let pair = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
            // Half a pair is no pair: what is left of a longer value might look like an ID.
            if self.pairs == 0 || (cut && end.is_none()) {
                self.found.more = true;
                return;
            }
            self.pairs -= 1;
            self.pair(pair);
            match end.and_then(|end| rest.get(end + 1..)) {
                Some(next) if !self.found.more => rest = next,
                _ => return,
            }
        }
    }

    /// Looks at one pair. Nothing is decoded, quotes belong to the value, and a blank beside the `=` makes it another
    /// name or no ID: browsers strip those when they store a cookie (RFC 6265bis, 5.6), so they did not send it.
    fn pair(&mut self, pair: &[u8]) {
        let Some(value) = trim_start(pair).strip_prefix(self.policy.template.head()) else { return };
        if self.tries == 0 {
            self.found.more = true;
            return;
        }
        self.tries -= 1;
        match self.policy.candidate(trim_end(value)) {
            Some(candidate) => self.found.add(candidate),
            None => self.found.malformed = true,
        }
    }
}

/// Without SP and HTAB at both ends. Other blanks stay: some other software strips them, and so lets `\u{2000}name` pass
/// for `name` with none of the checks of its prefix.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    trim_end(trim_start(bytes))
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_header_is_read_no_further_than_the_limits() {
        let policy = CookiePolicy::default();
        let rows =
            [";", "a;", "=;=;", "\"\\\"\";", " ", " ;", "__Host-id", "__Host-id=", "__Host-id=;", "a", "\t", "="];
        for row in rows {
            for length in [1_000, 400_000] {
                let (mut scan, text) = (Scan::new(&policy), row.repeat(length / row.len()));
                for _ in 0..100 {
                    scan.field(text.as_bytes());
                }
                let left = (scan.bytes, scan.pairs);
                assert!(scan.found.more && (left.0 == 0 || left.1 == 0), "{row:?}: {left:?}");
                assert!(scan.found.is_empty() && scan.found.rest.capacity() == 0);
                scan.field(b"__Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
                assert!(scan.found.is_empty(), "{row:?}");
            }
        }
    }

    #[test]
    fn one_id_takes_no_allocation() {
        let policy = CookiePolicy::default();
        let mut scan = Scan::new(&policy);
        scan.field(b"a; __Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; __Host-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert!(scan.found.first.is_some() && scan.found.rest.capacity() == 0);
    }
}
