//! The session IDs that the cookies of a request carry: well-formed, not yet looked up.
use std::{iter::Chain, option, slice, vec};

use crate::id::SessionId;

/// How many different IDs are looked up.
const MAX_CANDIDATES: usize = 4;

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
