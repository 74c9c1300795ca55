//! The secret in the cookie, and what the session is known by everywhere else: its key, and the name of its entry in the cache.
use std::{fmt, ops::Deref, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::error::SessionError;

const ID_BYTES: usize = 24;
pub(crate) const ID_CHARS: usize = 32;
const KEY_BYTES: usize = 32;
const KEY_CHARS: usize = 43;
/// Room for a key and a prefix of 21 bytes.
const SHORT_CACHE_KEY: usize = 64;

/// Makes the digest of an ID different from every other use of SHA-256 on the same text. With the ID it is the longest that
/// one round of SHA-256 takes.
const DOMAIN: [u8; 23] = *b"cloakroom session key 1";

/// The secret in the cookie: 24 random bytes as 32 characters of base64url.
///
/// A client that holds it is the session's visitor, so it is never shown: `Debug` is redacted, and there is neither `Display`
/// nor `Serialize`. `as_ref()` gives the text to those who have to carry it themselves, in a test's `Cookie` header or
/// in a token outside of HTTP. In logs, lists and databases use the [`SessionKey`].
///
/// An ID comes from [`SessionStore::save`](crate::SessionStore::save); it cannot be built from a string:
///
/// ```compile_fail
/// let id: cloakroom::SessionId = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into();
/// ```
/// ```compile_fail
/// let id: cloakroom::SessionId = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
/// ```
/// nor printed by accident:
/// ```compile_fail
/// fn show(id: cloakroom::SessionId) { println!("{id}"); }
/// ```
///
/// 192 bits are more than the 128 that OWASP ASVS 5.0 (7.2.3) asks for.
#[derive(Clone)]
pub struct SessionId {
    text: [u8; ID_CHARS],
}

impl SessionId {
    /// A fresh ID of bytes from `random`, which may fail.
    pub(crate) fn generate(random: impl FnOnce(&mut [u8]) -> Result<(), SessionError>) -> Result<Self, SessionError> {
        let mut bytes = [0; ID_BYTES];
        random(&mut bytes)?;
        let mut text = [0; ID_CHARS];
        match URL_SAFE_NO_PAD.encode_slice(bytes, &mut text) {
            Ok(ID_CHARS) => Ok(Self { text }),
            _ => Err(SessionError::Random),
        }
    }

    /// The ID whose text this is: exactly 32 characters of base64url.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text: [u8; ID_CHARS] = text.try_into().ok()?;
        // Without a branch for each character, which costs nine times as much.
        let well_formed = |ok, byte: &u8| ok & (byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'_'));
        text.iter().fold(true, well_formed).then_some(Self { text })
    }

    /// What the session is known by everywhere else.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        let mut digest = Sha256::new();
        digest.update(DOMAIN);
        // Every text of the alphabet stands for other bytes, so it is as good as what it stands for.
        digest.update(self.text);
        SessionKey::of_digest(&digest.finalize().into())
    }
}

impl AsRef<str> for SessionId {
    fn as_ref(&self) -> &str {
        // Always ASCII, see `parse` and `generate`.
        str::from_utf8(&self.text).unwrap_or_default()
    }
}

/// In constant time: how many characters agree cannot be measured.
impl PartialEq for SessionId {
    fn eq(&self, other: &Self) -> bool {
        let differ = self.text.iter().zip(&other.text).fold(0, |differ, (a, b)| differ | (a ^ b));
        std::hint::black_box(differ) == 0
    }
}

impl Eq for SessionId {}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(redacted)")
    }
}

/// What a session is known by everywhere but in the cookie: the SHA-256 of its ID, in base64url.
///
/// It is the cache key (after a prefix), the name in a list of devices, and it can be printed, posted back and stored.
/// It is not a credential: a cookie with a key in it leads to no session.
///
/// # Example
/// ```
/// # async fn f() -> Result<(), cloakroom::SessionError> {
/// use cloakroom::{InMemoryCache, Session, SessionKey, SessionStore};
///
/// let store = SessionStore::new(InMemoryCache::new());
/// let id = store.save(&Session::new()).await?;
/// let key = id.key();
/// assert_eq!(key.to_string().parse::<SessionKey>().unwrap(), key);
/// assert!(store.load(key.to_string()).await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    text: [u8; KEY_CHARS],
}

impl SessionKey {
    pub(crate) fn of_digest(digest: &[u8; KEY_BYTES]) -> Self {
        let mut text = [b'A'; KEY_CHARS];
        let written = URL_SAFE_NO_PAD.encode_slice(digest, &mut text);
        debug_assert_eq!(written, Ok(KEY_CHARS));
        Self { text }
    }

    /// The key as it stands in cache keys, records and lists.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Always ASCII, see `of_digest` and `from_str`.
        str::from_utf8(&self.text).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Enough of it to tell the lines of a log apart.
    pub(crate) fn short(&self) -> &str {
        self.as_str().get(..8).unwrap_or_default()
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({}…)", self.short())
    }
}

impl AsRef<str> for SessionKey {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// The text was not a session key: 43 canonical characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseKeyError;

impl fmt::Display for ParseKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session key is 43 canonical characters of base64url")
    }
}

impl std::error::Error for ParseKeyError {}

impl FromStr for SessionKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let text: [u8; KEY_CHARS] = text.as_bytes().try_into().map_err(|_| ParseKeyError)?;
        let mut digest = [0; KEY_BYTES];
        // Refuses a last character whose spare bits are not zero.
        match URL_SAFE_NO_PAD.decode_slice(text, &mut digest) {
            Ok(KEY_BYTES) => Ok(Self { text }),
            _ => Err(ParseKeyError),
        }
    }
}

impl Serialize for SessionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SessionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The name of an entry in the cache: a prefix and a session's key. Without an allocation, as long as the prefix is as short as
/// most are.
pub(crate) enum CacheKey {
    Short { buffer: [u8; SHORT_CACHE_KEY], length: usize },
    Long(String),
}

impl CacheKey {
    pub(crate) fn new(prefix: &str, key: &SessionKey) -> Self {
        let (mut buffer, length) = ([0; SHORT_CACHE_KEY], prefix.len() + KEY_CHARS);
        if let Some((front, back)) = buffer.get_mut(..length).and_then(|text| text.split_at_mut_checked(prefix.len())) {
            front.copy_from_slice(prefix.as_bytes());
            back.copy_from_slice(key.as_bytes());
            return Self::Short { buffer, length };
        }
        Self::Long([prefix, key.as_str()].concat())
    }
}

impl Deref for CacheKey {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            // Two texts in a row are one.
            Self::Short { buffer, length } => {
                buffer.get(..*length).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(bytes: &mut [u8]) -> Result<(), SessionError> {
        crate::random::fill(bytes)
    }

    #[test]
    fn ids_use_every_character_and_every_bit() {
        let mut seen = std::collections::HashSet::new();
        let mut counts = vec![[0u32; 128]; ID_CHARS];
        const DRAWS: usize = 20_000;
        for _ in 0..DRAWS {
            let id = SessionId::generate(system).unwrap();
            for (count, byte) in counts.iter_mut().zip(id.text) {
                count[usize::from(byte)] += 1;
            }
            assert!(seen.insert(id.text));
        }
        for count in counts {
            let used: Vec<_> = count.iter().filter(|n| **n > 0).collect();
            assert_eq!(used.len(), 64, "every symbol occurs at every position");
            let expected = DRAWS as f64 / 64.0;
            let chi: f64 = used.iter().map(|n| (f64::from(**n) - expected).powi(2) / expected).sum();
            assert!(chi < 140.0, "chi-square {chi} with 63 degrees of freedom");
        }
    }

    #[test]
    fn parsing_is_total_and_exact() {
        let id = SessionId::generate(system).unwrap();
        assert_eq!(SessionId::parse(id.as_ref().as_bytes()), Some(id.clone()));
        let long = "A".repeat(1 << 20);
        for bad in [
            "",
            "A",
            &"A".repeat(31),
            &"A".repeat(33),
            &long,
            &format!("{}=", "A".repeat(31)),
            &format!("{}+", "A".repeat(31)),
        ] {
            assert_eq!(SessionId::parse(bad.as_bytes()), None);
        }
        for byte in (0..=255u8).filter(|byte| !byte.is_ascii_alphanumeric() && !b"-_".contains(byte)) {
            let mut text = id.text;
            text[7] = byte;
            assert_eq!(SessionId::parse(&text), None, "{byte}");
        }
    }

    #[test]
    fn a_key_is_not_an_id_and_differs_from_a_bare_digest() {
        let id = SessionId::generate(|bytes| {
            bytes.fill(7);
            Ok(())
        })
        .unwrap();
        let key = id.key();
        assert_eq!(SessionId::parse(key.as_str().as_bytes()), None);
        assert_ne!(key, SessionKey::of_digest(&Sha256::digest([7; ID_BYTES]).into()));
        assert_eq!(key, id.key());
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(serde_json::from_str::<SessionKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        assert!("short".parse::<SessionKey>().is_err());
        let mut spare_bits = "A".repeat(42);
        spare_bits.push('B');
        assert!(spare_bits.parse::<SessionKey>().is_err());
    }

    #[test]
    fn debug_shows_no_id_and_no_whole_key() {
        let id = SessionId::generate(system).unwrap();
        assert!(!format!("{id:?} {id:#?}").contains(id.as_ref()));
        assert!(!format!("{:?}", id.key()).contains(id.key().as_str()));
    }

    #[test]
    fn no_randomness_means_no_id() {
        assert!(SessionId::generate(|_| Err(SessionError::Random)).is_err());
    }

    #[test]
    fn a_cache_key_is_the_prefix_and_the_key() {
        let key = SessionKey::of_digest(&[7; 32]);
        for (length, is_short) in
            [(0, true), (10, true), (21, true), (22, false), (64, false), (65, false), (300, false)]
        {
            for letter in ["p", "\u{fc}"] {
                let prefix = letter.repeat(length / letter.len()) + &"p".repeat(length % letter.len());
                let name = CacheKey::new(&prefix, &key);
                assert_eq!(*name, format!("{prefix}{key}"));
                assert_eq!(matches!(name, CacheKey::Short { .. }), is_short, "{length}");
            }
        }
    }
}
