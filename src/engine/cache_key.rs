//! The name of an entry in the cache.
use std::ops::Deref;

use crate::id::SessionKey;

/// A prefix and a session's key: without an allocation, as long as the prefix is as short as most are.
pub(super) struct CacheKey {
    text: Text,
}

enum Text {
    Short { buffer: [u8; SHORT], length: usize },
    Long(String),
}

/// A session's key has 43 characters.
const SHORT: usize = 64;

impl CacheKey {
    pub(super) fn new(prefix: &str, key: &SessionKey) -> Self {
        let (mut buffer, length) = ([0; SHORT], prefix.len() + key.as_bytes().len());
        if let Some((front, back)) = buffer.get_mut(..length).and_then(|text| text.split_at_mut_checked(prefix.len())) {
            front.copy_from_slice(prefix.as_bytes());
            back.copy_from_slice(key.as_bytes());
            return Self { text: Text::Short { buffer, length } };
        }
        Self { text: Text::Long([prefix, key.as_str()].concat()) }
    }
}

impl Deref for CacheKey {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.text {
            // Two texts in a row are one.
            Text::Short { buffer, length } => {
                buffer.get(..*length).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
            }
            Text::Long(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_prefix_and_the_key() {
        let key = SessionKey::of_digest(&[7; 32]);
        for (length, is_short) in
            [(0, true), (10, true), (21, true), (22, false), (64, false), (65, false), (300, false)]
        {
            for letter in ["p", "\u{fc}"] {
                let prefix = letter.repeat(length / letter.len()) + &"p".repeat(length % letter.len());
                let name = CacheKey::new(&prefix, &key);
                assert_eq!(*name, format!("{prefix}{key}"));
                assert_eq!(matches!(name.text, Text::Short { .. }), is_short, "{length}");
            }
        }
    }
}
