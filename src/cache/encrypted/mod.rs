//! A cache around another one, which sees ciphertext in place of values.
use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ring::{
    aead::NONCE_LEN,
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};

use self::format::Undecryptable;
use super::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version};
use crate::{
    error::{CacheError, CacheErrorKind, ConfigError},
    events,
};

mod format;
mod key;

pub use self::key::EncryptionKey;

/// Any cache, with values encrypted at rest: the cache inside sees digests as keys and ciphertext as values.
///
/// Each value is encrypted with AES-256-GCM under a key of its entry, derived from the first of the [`EncryptionKey`]s, and
/// bound to its cache key. It grows by 33 bytes. Cache keys, versions, expiries and lists pass through as they are, so
/// that everything else stays what it is with the cache inside: compare-and-set, immediate answers
/// ([`Cache::IMMEDIATE`]), a near cache, which keeps ciphertext.
///
/// A value that cannot be decrypted (its key is not among the keys, it was changed, it was moved from another cache key,
/// it is plain text) is returned empty, with its true version: there is no session in it, and it can be ended. That is an
/// event, `undecryptable_entry`, and no error: one such entry disturbs no other.
///
/// What it does not do: a cache that brings back an entry's older value, or deletes one, is not detected; keys, sizes,
/// times and the names in lists stay visible. See the guide's chapter `encryption`.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cloakroom::{Cache, EncryptedCache, EncryptionKey, InMemoryCache, Session, SessionStore};
///
/// let inside = InMemoryCache::new();
/// let cache = EncryptedCache::new(inside.clone(), [EncryptionKey::generate()?])?;
/// let store = SessionStore::new(cache);
///
/// let session = Session::new();
/// session.set("name", "Alice Liddell")?;
/// let id = store.save(&session).await?;
///
/// let entry = inside.get(&format!("cloakroom:{}", id.key())).await?.expect("it was stored");
/// assert!(!entry.value.windows(5).any(|bytes| bytes == b"Alice"));
/// let loaded = store.load(&id).await?.expect("it was stored");
/// assert_eq!(loaded.get::<String>("name").as_deref(), Some("Alice Liddell"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EncryptedCache<C> {
    inner: C,
    first: EncryptionKey,
    keys: Arc<[EncryptionKey]>,
    accept_plaintext: bool,
}

impl<C: Cache> EncryptedCache<C> {
    /// Encrypts what `cache` keeps with the first of `keys`, and decrypts with the one that an entry names.
    ///
    /// To change keys, put a new one in front; the older ones stay until the longest lifetime of a session is over. Where
    /// several processes share the cache, all of them must know a key before one of them puts it in front.
    ///
    /// # Errors
    /// When there is no key, or one is given twice.
    pub fn new(cache: C, keys: impl IntoIterator<Item = EncryptionKey>) -> Result<Self, ConfigError> {
        let keys: Arc<[_]> = keys.into_iter().collect();
        let invalid = |rule| ConfigError::new("encryption_keys", rule);
        let first = keys.first().cloned().ok_or_else(|| invalid("at least one key is needed"))?;
        // Two keys that are not the same have the same ID with a chance of 2⁻³².
        let is_twice = |(at, key): (usize, &EncryptionKey)| keys.iter().take(at).any(|other| other.id() == key.id());
        if keys.iter().enumerate().any(is_twice) {
            return Err(invalid("each key is given once"));
        }
        Ok(Self { inner: cache, first, keys, accept_plaintext: false })
    }

    /// Reads entries that are not encrypted, too: while the sessions of before are moving over, which they do with their
    /// next write. Each one read is an event, `plaintext_entry`. Default: they are unreadable.
    ///
    /// While it is on, a session that a stranger writes into the cache is believed, so switch it off when the longest
    /// lifetime is over. Only values that start with the byte 1, as no session does, cannot be told from encrypted ones.
    #[must_use]
    pub fn accept_plaintext(mut self) -> Self {
        self.accept_plaintext = true;
        self
    }

    fn encrypt(
        &self,
        key: &str,
        entry: &Entry,
        random: impl FnOnce(&mut [u8]) -> Result<(), Unspecified>,
    ) -> Result<Entry, CacheError> {
        let failed = |what: &'static str| move |_| CacheError::new(CacheErrorKind::Other, what);
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce)
            .map_err(failed("the operating system gave no randomness to encrypt with, nothing was written"))?;
        let value = format::seal(&self.first, key, nonce, &entry.value)
            .map_err(failed("the value could not be encrypted, nothing was written"))?;
        Ok(Entry::new(value, entry.version))
    }

    fn decrypt(&self, key: &str, entry: Entry) -> Entry {
        let (reason, key_id) = match format::open(&self.keys, key, &entry.value) {
            Ok(value) => return Entry::new(value, entry.version),
            Err(Undecryptable::Foreign) if self.accept_plaintext => {
                events::plaintext_entry();
                return entry;
            }
            Err(Undecryptable::Foreign) => ("it is not encrypted", None),
            Err(Undecryptable::Cut) => ("its end is missing", None),
            Err(Undecryptable::UnknownKey(id)) => ("its key is not among the keys", Some(id)),
            Err(Undecryptable::Altered(id)) => ("it was changed, or moved from another cache key", Some(id)),
        };
        events::undecryptable_entry(reason, key_id.map(u32::from_be_bytes));
        Entry::new(Bytes::new(), entry.version)
    }
}

/// Not from a generator of this process: a fork, or a snapshot that is started twice, would draw the same nonces.
fn of_system(bytes: &mut [u8]) -> Result<(), Unspecified> {
    SystemRandom::new().fill(bytes)
}

impl<C: Cache> Cache for EncryptedCache<C> {
    const IMMEDIATE: bool = C::IMMEDIATE;

    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        Ok(self.inner.get(key).await?.map(|entry| self.decrypt(key, entry)))
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        Ok(self.inner.get_and_touch(key, after).await?.map(|entry| self.decrypt(key, entry)))
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let entry = self.encrypt(key, &entry, of_system)?;
        self.inner.insert(key, entry, expiry).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let entry = self.encrypt(key, &entry, of_system)?;
        Ok(match self.inner.replace(key, expected, entry, expiry).await? {
            Replaced::Conflict(entry) => Replaced::Conflict(self.decrypt(key, entry)),
            other => other,
        })
    }
    fn touch(&self, key: &str) -> impl Future<Output = Result<bool, CacheError>> + Send {
        self.inner.touch(key)
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        Ok(match self.inner.delete(key, expected).await? {
            Deleted::Conflict(entry) => Deleted::Conflict(self.decrypt(key, entry)),
            other => other,
        })
    }
    fn list_add(
        &self,
        list: &str,
        member: &str,
        end: SystemTime,
    ) -> impl Future<Output = Result<usize, CacheError>> + Send {
        self.inner.list_add(list, member, end)
    }
    fn list_remove(&self, list: &str, members: &[String]) -> impl Future<Output = Result<(), CacheError>> + Send {
        self.inner.list_remove(list, members)
    }
    fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ListMember>, CacheError>> + Send {
        self.inner.list_page(list, after, limit)
    }
    fn ping(&self) -> impl Future<Output = Result<(), CacheError>> + Send {
        self.inner.ping()
    }
}

impl<C> fmt::Debug for EncryptedCache<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = &self.keys;
        let plain = self.accept_plaintext;
        f.debug_struct("EncryptedCache").field("keys", keys).field("accept_plaintext", &plain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InMemoryCache;

    #[test]
    fn without_randomness_nothing_is_encrypted() {
        let cache = EncryptedCache::new(InMemoryCache::new(), [EncryptionKey::generate().unwrap()]).unwrap();
        let entry = Entry::new(Bytes::from_static(b"value"), Version::unique());
        let error = cache.encrypt("key", &entry, |_| Err(Unspecified)).unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Other);
        assert!(format!("{error:?}").contains("no randomness"));
    }
}
