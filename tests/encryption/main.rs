//! Encryption at rest: the format, what is refused, keys that change, and what the cache inside sees.
#![cfg(test)]
#![cfg(feature = "encryption")]
use std::time::{Duration, SystemTime};

use cloakroom::{Bytes, Cache, EncryptedCache, EncryptionKey, Entry, Expiry, InMemoryCache, Version};

#[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres"))]
mod at_rest;
mod contract;
mod events;
mod keys;
mod known_answers;
#[cfg(feature = "redis")]
mod processes;
mod refused;
mod rotation;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod unreadable;

type Memory = EncryptedCache<InMemoryCache>;

/// A key whose bytes are all this one.
fn key(byte: u8) -> EncryptionKey {
    EncryptionKey::from_bytes(&[byte; 32]).unwrap()
}

fn around<C: Cache + Clone>(inside: &C, keys: &[u8]) -> EncryptedCache<C> {
    EncryptedCache::new(inside.clone(), keys.iter().map(|byte| key(*byte))).unwrap()
}

/// An encrypted cache, and the cache inside it.
fn memory(keys: &[u8]) -> (Memory, InMemoryCache) {
    let inside = InMemoryCache::new();
    (around(&inside, keys), inside)
}

fn hour() -> Expiry {
    Expiry::new(Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(7200))
}

fn entry(value: impl Into<Bytes>) -> Entry {
    Entry::new(value.into(), Version::unique())
}

/// Inserts, and returns the version.
async fn put(cache: &impl Cache, key: &str, value: impl Into<Bytes>) -> Version {
    let entry = entry(value);
    let version = entry.version;
    assert!(cache.insert(key, entry, hour()).await.unwrap(), "{key} is taken");
    version
}

async fn get(cache: &impl Cache, key: &str) -> Option<Entry> {
    cache.get(key).await.unwrap()
}

async fn value(cache: &impl Cache, key: &str) -> Bytes {
    get(cache, key).await.expect("an entry").value
}
