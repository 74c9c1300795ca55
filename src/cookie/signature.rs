//! Signed values: `<id>.<HMAC-SHA256>`, so that an ID which this application did not issue is never looked up.
use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::signing_key::SigningKey;
use crate::id::{ID_CHARS, SessionId};

/// How many values of a request are verified: more than the cookies of one name that browsers send.
pub(super) const MAX_VERIFIED: usize = 64;
/// Makes the signature different from every other use of the same key.
const DOMAIN: &[u8] = b"cloakroom cookie signature 1\0";
const TAG_BYTES: usize = 32;
/// A dot and 43 characters of base64url.
const SIGNATURE_CHARS: usize = 44;
pub(super) const VALUE_CHARS: usize = ID_CHARS + SIGNATURE_CHARS;

/// Signs with the first key, verifies with any.
#[derive(Clone)]
pub(super) struct Signer {
    first: Hmac<Sha256>,
    others: Box<[Hmac<Sha256>]>,
}

/// Which key made the signature of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignedBy {
    First,
    Older,
    NoKey,
}

impl Signer {
    /// `None` without keys: nothing is signed.
    pub(super) fn new(name: &str, keys: &[SigningKey]) -> Option<Self> {
        let (first, others) = keys.split_first()?;
        Some(Self { first: start(name, first), others: others.iter().map(|key| start(name, key)).collect() })
    }

    /// What follows the ID in the cookie.
    pub(super) fn sign(&self, id: &SessionId) -> [u8; SIGNATURE_CHARS] {
        let tag = finish(&self.first, id).finalize().into_bytes();
        let mut text = [b'.'; SIGNATURE_CHARS];
        let [_, encoded @ ..] = &mut text;
        let written = URL_SAFE_NO_PAD.encode_slice(tag, encoded);
        debug_assert_eq!(written, Ok(SIGNATURE_CHARS - 1));
        text
    }

    /// The ID in this value, and which key signed it for a cookie of this name. `None` if it has not the form of a value.
    pub(super) fn verify(&self, value: &[u8]) -> Option<(SessionId, SignedBy)> {
        let (id, signature) = value.split_at_checked(ID_CHARS)?;
        let id = SessionId::parse(id)?;
        // A bare ID was issued before cookies were signed.
        if signature.is_empty() {
            return Some((id, SignedBy::NoKey));
        }
        let tag = decode(signature)?;
        let is_by = |key: &Hmac<Sha256>| finish(key, &id).verify_slice(&tag).is_ok();
        let signed_by = if is_by(&self.first) {
            SignedBy::First
        } else if self.others.iter().any(is_by) {
            SignedBy::Older
        } else {
            SignedBy::NoKey
        };
        Some((id, signed_by))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

fn decode(signature: &[u8]) -> Option<[u8; TAG_BYTES]> {
    let text = signature.strip_prefix(b".").filter(|text| text.len() + 1 == SIGNATURE_CHARS)?;
    let mut tag = [0; TAG_BYTES];
    // Refuses a last character whose spare bits are not zero: one ID has one value.
    URL_SAFE_NO_PAD.decode_slice(text, &mut tag).ok()?;
    Some(tag)
}

/// The part of the computation that is the same for every ID. No name contains the NUL that ends it.
fn start(name: &str, key: &SigningKey) -> Hmac<Sha256> {
    Hmac::new(key.block().into()).chain_update(DOMAIN).chain_update(name).chain_update([0])
}

fn finish(start: &Hmac<Sha256>, id: &SessionId) -> Hmac<Sha256> {
    start.clone().chain_update(id.as_ref())
}
