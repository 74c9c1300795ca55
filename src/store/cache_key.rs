//! The name of an entry in the cache.
use std::ops::Deref;

use smallvec::SmallVec;

/// A prefix and a session's key: without an allocation, as long as the prefix is as short as most are.
pub(super) struct CacheKey {
    text: SmallVec<[u8; 64]>,
}

impl CacheKey {
    pub(super) fn new(prefix: &str, key: &str) -> Self {
        let mut text = SmallVec::new();
        text.extend_from_slice(prefix.as_bytes());
        text.extend_from_slice(key.as_bytes());
        Self { text }
    }
}

impl Deref for CacheKey {
    type Target = str;

    fn deref(&self) -> &str {
        // Two texts in a row are one.
        str::from_utf8(&self.text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_prefix_and_the_key() {
        for (prefix, key) in [("cloakroom:", "k"), ("", ""), ("\u{fc}:", "k"), (&*"long ".repeat(40), "k")] {
            assert_eq!(&*CacheKey::new(prefix, key), format!("{prefix}{key}"));
        }
        assert!(!CacheKey::new("cloakroom:", &"k".repeat(43)).text.spilled());
    }
}
