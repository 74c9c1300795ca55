//! What encryption adds to a write and to a read, by size of the value: around a cache that does nothing.
//!
//!     cargo bench --bench encryption --features encryption
#![allow(clippy::unwrap_used)]
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use cloakroom::{Bytes, Cache, CacheError, Deleted, EncryptedCache, EncryptionKey, Entry, Expiry, Replaced, Version};
use divan::{Bencher, black_box};

const SIZES: [usize; 5] = [0, 200, 1024, 8192, 65_536];
const KEY: &str = "cloakroom:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Returns the one entry that it has, and takes every write.
#[derive(Clone)]
struct Nothing(Entry);

impl Cache for Nothing {
    const IMMEDIATE: bool = true;

    async fn get(&self, _: &str) -> Result<Option<Entry>, CacheError> {
        Ok(Some(self.0.clone()))
    }
    async fn get_and_touch(&self, key: &str, _: Duration) -> Result<Option<Entry>, CacheError> {
        self.get(key).await
    }
    async fn insert(&self, _: &str, entry: Entry, _: Expiry) -> Result<bool, CacheError> {
        black_box(entry);
        Ok(true)
    }
    async fn replace(&self, _: &str, _: Version, entry: Entry, _: Expiry) -> Result<Replaced, CacheError> {
        black_box(entry);
        Ok(Replaced::Done)
    }
    async fn touch(&self, _: &str) -> Result<bool, CacheError> {
        Ok(true)
    }
    async fn delete(&self, _: &str, _: Version) -> Result<Deleted, CacheError> {
        Ok(Deleted::Done)
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("it never waits"),
    }
}

fn entry(value: impl Into<Bytes>) -> Entry {
    Entry::new(value.into(), Version::unique())
}

/// The longest list of keys that a rotation leaves, the one in use first.
fn keys() -> [EncryptionKey; 3] {
    [1, 2, 3].map(|byte| EncryptionKey::from_bytes(&[byte; 32]).unwrap())
}

fn write(bencher: Bencher<'_, '_>, size: usize, cache: &impl Cache) {
    let entry = entry(vec![7; size]);
    let expiry = Expiry::new(Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(7200));
    bencher.bench_local(|| now(cache.insert(black_box(KEY), entry.clone(), expiry)).unwrap());
}

fn read(bencher: Bencher<'_, '_>, size: usize, cache: &impl Cache) {
    assert_eq!(now(cache.get(KEY)).unwrap().unwrap().value.len(), size);
    // Dropped each time: results that are kept until the sample is over would be fresh memory each.
    bencher.bench_local(|| drop(black_box(now(cache.get(black_box(KEY))).unwrap())));
}

#[divan::bench(args = SIZES)]
fn write_plain(bencher: Bencher<'_, '_>, size: usize) {
    write(bencher, size, &Nothing(entry("")));
}

#[divan::bench(args = SIZES)]
fn write_encrypted(bencher: Bencher<'_, '_>, size: usize) {
    write(bencher, size, &EncryptedCache::new(Nothing(entry("")), keys()).unwrap());
}

#[divan::bench(args = SIZES)]
fn read_plain(bencher: Bencher<'_, '_>, size: usize) {
    read(bencher, size, &Nothing(entry(vec![7; size])));
}

#[divan::bench(args = SIZES)]
fn read_encrypted(bencher: Bencher<'_, '_>, size: usize) {
    let sealed = cloakroom::InMemoryCache::new();
    let cache = EncryptedCache::new(sealed.clone(), keys()).unwrap();
    let expiry = Expiry::new(Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(7200));
    assert!(now(cache.insert(KEY, entry(vec![7; size]), expiry)).unwrap());
    let sealed = now(sealed.get(KEY)).unwrap().unwrap();
    read(bencher, size, &EncryptedCache::new(Nothing(sealed), keys()).unwrap());
}

fn main() {
    divan::Divan::from_args().sample_size(100).sample_count(200).main();
}
