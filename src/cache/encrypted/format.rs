//! The bytes of an encrypted entry: AES-256-GCM, with what is needed to find the key in front.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | format: 1 |
//! | 4 | ID of the key |
//! | 12 | nonce |
//! | as many as the value has | ciphertext |
//! | 16 | tag |
//!
//! The associated data are the format, the ID and the whole cache key.
use bytes::Bytes;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey},
    error::Unspecified,
};

use super::key::{EncryptionKey, ID_BYTES};

/// No record starts with this byte: records are JSON.
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_LEN;
const TAG_BYTES: usize = 16;

/// Why there is no value in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecryptable {
    /// They do not start with the format: plain text, most likely.
    Foreign,
    /// They are shorter than an empty value is.
    Cut,
    /// None of the keys has this ID.
    UnknownKey([u8; ID_BYTES]),
    /// They were changed, or were written under another cache key.
    Altered([u8; ID_BYTES]),
}

/// `nonce` must be another one for every value under `cache_key`.
pub(super) fn seal(
    key: &EncryptionKey,
    cache_key: &str,
    nonce: [u8; NONCE_LEN],
    value: &[u8],
) -> Result<Bytes, Unspecified> {
    let mut sealed = Vec::with_capacity(HEAD_BYTES + value.len() + TAG_BYTES);
    sealed.push(FORMAT);
    sealed.extend_from_slice(&key.id());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(value);
    let text = sealed.get_mut(HEAD_BYTES..).ok_or(Unspecified)?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher(key, cache_key)?.seal_in_place_separate_tag(nonce, associated(key, cache_key), text)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed.into())
}

pub(super) fn open(keys: &[EncryptionKey], cache_key: &str, sealed: &[u8]) -> Result<Bytes, Undecryptable> {
    let Some((&FORMAT, rest)) = sealed.split_first() else { return Err(Undecryptable::Foreign) };
    let (&id, rest) = rest.split_first_chunk().ok_or(Undecryptable::Cut)?;
    let (&nonce, rest) = rest.split_first_chunk().ok_or(Undecryptable::Cut)?;
    let (text, &tag) = rest.split_last_chunk().ok_or(Undecryptable::Cut)?;
    let key = keys.iter().find(|key| key.id() == id).ok_or(Undecryptable::UnknownKey(id))?;
    decrypt(key, cache_key, nonce, text, tag).map_err(|_| Undecryptable::Altered(id))
}

fn decrypt(
    key: &EncryptionKey,
    cache_key: &str,
    nonce: [u8; NONCE_LEN],
    text: &[u8],
    tag: [u8; TAG_BYTES],
) -> Result<Bytes, Unspecified> {
    let mut value = text.to_vec();
    let (nonce, data) = (Nonce::assume_unique_for_key(nonce), associated(key, cache_key));
    cipher(key, cache_key)?.open_in_place_separate_tag(nonce, data, Tag::from(tag), &mut value, 0..)?;
    Ok(value.into())
}

fn cipher(key: &EncryptionKey, cache_key: &str) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, &*key.of_entry(cache_key)).map(LessSafeKey::new)
}

/// Parts of fixed length stand first, so that no two of them make the same bytes.
fn associated(key: &EncryptionKey, cache_key: &str) -> Aad<Vec<u8>> {
    let mut data = Vec::with_capacity(96);
    data.push(FORMAT);
    data.extend_from_slice(&key.id());
    data.extend_from_slice(cache_key.as_bytes());
    Aad::from(data)
}
