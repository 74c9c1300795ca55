//! Keys for encryption at rest, and what is derived from them.
use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{
    Hmac, KeyInit, Mac,
    digest::{FixedOutput, zeroize::Zeroizing},
};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::Sha256;

use crate::error::{ConfigError, SessionError};

const KEY_BYTES: usize = 32;
/// What HMAC-SHA256 takes at a time; it fills up a shorter key with zeros itself (RFC 2104, section 2).
const BLOCK_BYTES: usize = 64;
pub(super) const ID_BYTES: usize = 4;

/// Two derivations from one key have different labels, so that neither tells anything about the other.
const FOR_ID: &[u8] = b"cloakroom encryption key id 1";
const FOR_ENTRIES: &[u8] = b"cloakroom encryption entries 1";

/// A key of an [`EncryptedCache`](crate::EncryptedCache): 256 bits that only the processes of the application know.
///
/// It is never shown: `Debug` prints the key's ID, which each entry carries in plain text and which says nothing about the
/// key; there is neither `Display` nor `Serialize`. It is overwritten in memory when it is dropped; what the processor and
/// the stack hold of it during an operation is not. The bytes or the text that it was made from are the caller's to
/// overwrite.
///
/// ```compile_fail
/// fn show(key: cloakroom::EncryptionKey) { println!("{key}"); }
/// ```
///
/// # Example
/// ```
/// use cloakroom::EncryptionKey;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // `openssl rand -base64 32` prints a key.
/// let key = EncryptionKey::from_base64("q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=")?;
/// assert!(!format!("{key:?}").contains("q83v"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EncryptionKey {
    id: [u8; ID_BYTES],
    /// Keyed by what the keys of entries are derived from.
    entries: Hmac<Sha256>,
}

impl EncryptionKey {
    /// A new random key that only this process will ever know: for a cache that ends with the process, and for tests.
    ///
    /// # Errors
    /// [`SessionError::Random`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, SessionError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| SessionError::Random)?;
        Ok(Self::new(&bytes))
    }

    /// The key with these 32 bytes, which must be random: a password is no key.
    ///
    /// # Errors
    /// When there are not 32 of them, or all are zero.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConfigError> {
        match <&[u8; KEY_BYTES]>::try_from(bytes) {
            Err(_) => Err(invalid("a key has 32 bytes")),
            Ok([0, rest @ ..]) if rest.iter().all(|byte| *byte == 0) => {
                Err(invalid("a key is random: this one is all zero"))
            }
            Ok(bytes) => Ok(Self::new(bytes)),
        }
    }

    /// The key with these 32 bytes in base64: the standard alphabet or the one for URLs, with or without padding, and with
    /// white space around it, as a file has it.
    ///
    /// # Errors
    /// When it is not that, or the bytes are refused by [`from_bytes`](Self::from_bytes).
    pub fn from_base64(text: &str) -> Result<Self, ConfigError> {
        let alphabet = if text.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
        let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        match GeneralPurpose::new(&alphabet, padding).decode_slice(text.trim(), &mut *bytes) {
            Ok(KEY_BYTES) => Self::from_bytes(&*bytes),
            _ => Err(invalid("a key has 32 bytes: 43 characters of base64, and perhaps one of padding")),
        }
    }

    fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let root = keyed(bytes);
        let [a, b, c, d, ..] = *expand(&root, FOR_ID);
        Self { id: [a, b, c, d], entries: keyed(&expand(&root, FOR_ENTRIES)) }
    }

    /// What an entry names this key by.
    pub(super) fn id(&self) -> [u8; ID_BYTES] {
        self.id
    }

    /// The key of the entry under `cache_key`. No two entries share one, so that the number of random nonces under one key
    /// is the number of writes of one entry, far below the 2³² of NIST SP 800-38D, section 8.3.
    pub(super) fn of_entry(&self, cache_key: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        expand(&self.entries, cache_key.as_bytes())
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey(id {:08x})", u32::from_be_bytes(self.id))
    }
}

fn invalid(rule: &'static str) -> ConfigError {
    ConfigError::new("encryption_key", rule)
}

fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; BLOCK_BYTES]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new((&*block).into())
}

/// HKDF-Expand of RFC 5869, section 2.3, with SHA-256 and the one block that 32 bytes need. The keys are uniformly random
/// already, so that section 3.3 lets the step before it go.
fn expand(key: &Hmac<Sha256>, info: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut okm = Zeroizing::new([0; KEY_BYTES]);
    key.clone().chain_update(info).chain_update([1]).finalize_into((&mut *okm).into());
    okm
}

#[cfg(test)]
mod tests {
    use hmac::digest::{block_api::EagerHash, zeroize::ZeroizeOnDrop};

    use super::*;

    /// RFC 5869, appendix A.1: the PRK, the info and the first 32 bytes of the OKM.
    #[test]
    fn expand_is_that_of_the_rfc() {
        let prk = [
            0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf, 0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63, 0x90, 0xb6,
            0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31, 0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5,
        ];
        let okm = [
            0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a, 0x2d, 0x2d,
            0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf,
        ];
        assert_eq!(*expand(&keyed(&prk), &[0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9]), okm);
    }

    /// A field that is not overwritten, or the feature `zeroize` missing, does not compile.
    #[test]
    fn what_a_key_is_made_of_is_overwritten_when_dropped() {
        fn overwritten<T: ZeroizeOnDrop>(_: &T) {}
        let EncryptionKey { id: _, entries } = EncryptionKey::generate().unwrap();
        // An `Hmac` is two states of its hash.
        let _: &Hmac<Sha256> = &entries;
        overwritten(&<Sha256 as EagerHash>::Core::default());
        overwritten(&expand(&entries, b""));
    }
}
