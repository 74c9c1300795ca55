//! The keys that sign session cookies.
use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};

use crate::{
    error::{ConfigError, SessionError},
    random,
};

/// As long as the output of HMAC-SHA256: a shorter key weakens it (RFC 2104, 3).
const MIN_BYTES: usize = 32;
/// The block of SHA-256. HMAC hashes a longer key and fills up a shorter one with zeros (RFC 2104, 2).
const BLOCK_BYTES: usize = 64;

/// A key that signs session cookies: see [`signing_keys`](crate::SessionLayerBuilder::signing_keys).
///
/// Every process that serves the same sessions needs the same keys, and they have to outlive a restart: keep them where
/// passwords are kept. `openssl rand -base64 32` makes one. `Debug` does not show the key.
///
/// # Example
/// ```
/// # use cloakroom::{InMemoryCache, SessionLayer, SessionStore, SigningKey};
/// # fn secret(_: &str) -> String { "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==".to_owned() }
/// let key = SigningKey::from_base64(&secret("SESSION_KEY"))?;
/// let layer = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).signing_keys([key]).build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct SigningKey {
    block: [u8; BLOCK_BYTES],
}

impl SigningKey {
    /// A new random key of 32 bytes, for a process whose sessions end with it: nothing can show or store this key.
    ///
    /// # Errors
    /// [`Random`](SessionError::Random) when the operating system gives no randomness.
    pub fn generate() -> Result<Self, SessionError> {
        let mut bytes = [0; MIN_BYTES];
        random::fill(&mut bytes)?;
        Ok(Self::of(&bytes))
    }

    /// The key with these bytes, at least 32. They have to be random: a password is not a key.
    ///
    /// # Errors
    /// When there are fewer, or all are zero.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConfigError> {
        let refuse = |rule: String| Err(ConfigError::new("signing_keys", rule));
        if bytes.len() < MIN_BYTES {
            return refuse(format!(
                "a signing key needs at least 32 bytes, this one has {} (RFC 2104, 3)",
                bytes.len()
            ));
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return refuse("a key of zeros protects nothing: is the secret missing?".to_owned());
        }
        Ok(Self::of(bytes))
    }

    /// The key with these bytes in base64: of the standard or the URL-safe alphabet, with or without padding and white space.
    ///
    /// # Errors
    /// When the text is not base64, or stands for bytes that [`from_bytes`](Self::from_bytes) refuses.
    pub fn from_base64(text: &str) -> Result<Self, ConfigError> {
        let text: String = text.split_ascii_whitespace().collect::<String>().replace('-', "+").replace('_', "/");
        let bytes = BASE64.decode(text);
        // The cause would quote a character of the key.
        let bytes = bytes.map_err(|_| ConfigError::new("signing_keys", "a signing key is not base64 (RFC 4648, 4)"))?;
        Self::from_bytes(&bytes)
    }

    fn of(bytes: &[u8]) -> Self {
        let digest;
        let bytes = if bytes.len() > BLOCK_BYTES {
            digest = Sha256::digest(bytes);
            &digest[..]
        } else {
            bytes
        };
        let mut block = [0; BLOCK_BYTES];
        block.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self { block }
    }

    pub(super) fn block(&self) -> &[u8; BLOCK_BYTES] {
        &self.block
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}
