//! Signed values: `<id>.<HMAC-SHA256>`, so that an ID which was not issued here is never looked up.
use std::fmt;

use ::cookie::Key;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac, digest};
use sha2::Sha256;

use super::read::Candidate;
use crate::id::{ID_CHARS, SessionId};

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

impl Signer {
    /// `None` without keys: nothing is signed.
    pub(super) fn new(name: &str, keys: &[Key]) -> Option<Self> {
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

    /// The ID in this value, if one of the keys signed it for a cookie of this name.
    pub(super) fn verify(&self, value: &[u8]) -> Option<Candidate> {
        let (id, signature) = value.split_at_checked(ID_CHARS)?;
        let signature = signature.strip_prefix(b".").filter(|text| text.len() + 1 == SIGNATURE_CHARS)?;
        let id = SessionId::parse(id)?;
        let mut tag = [0; TAG_BYTES];
        // Refuses a last character whose spare bits are not zero: one ID has one value.
        URL_SAFE_NO_PAD.decode_slice(signature, &mut tag).ok()?;
        let signed_by = |key: &Hmac<Sha256>| finish(key, &id).verify_slice(&tag).is_ok();
        if signed_by(&self.first) {
            return Some(Candidate { id, resign: false });
        }
        self.others.iter().any(signed_by).then_some(Candidate { id, resign: true })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

/// The part of the computation that is the same for every ID. No name contains the NUL that ends it.
fn start(name: &str, key: &Key) -> Hmac<Sha256> {
    // HMAC itself fills up a short key with zeros (RFC 2104, 2), so this is `key.signing()` as it is.
    let mut block = digest::Key::<Hmac<Sha256>>::default();
    block.iter_mut().zip(key.signing()).for_each(|(to, from)| *to = *from);
    Hmac::new(&block).chain_update(DOMAIN).chain_update(name).chain_update([0])
}

fn finish(start: &Hmac<Sha256>, id: &SessionId) -> Hmac<Sha256> {
    start.clone().chain_update(id.as_ref())
}
