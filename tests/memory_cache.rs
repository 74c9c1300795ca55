//! The cache contract on the cache in memory, on a boxed one, and on one with nothing but the six methods.
#![cfg(feature = "testing")]
use std::time::Duration;

use cloakroom::{
    BoxedCache, Bytes, Cache, CacheError, Clock, Deleted, Entry, Expiry, InMemoryCache, Replaced, Version,
    testing::{TestCache, cache_contract},
};

#[tokio::test]
async fn in_memory_with_a_turned_clock() {
    let clock = Clock::turnable();
    cache_contract(|| async { InMemoryCache::builder().clock(clock.clone()).build() }, Some(clock.clone())).await;
}

#[tokio::test]
async fn in_memory_with_the_real_one() {
    cache_contract(|| async { InMemoryCache::new() }, None).await;
}

#[tokio::test]
async fn boxed() {
    cache_contract(|| async { BoxedCache::new(InMemoryCache::new()) }, None).await;
}

#[tokio::test]
async fn the_double() {
    cache_contract(|| async { TestCache::new(InMemoryCache::new()) }, None).await;
}

/// What somebody writes who implements the trait and no more.
struct SixMethods(InMemoryCache);

impl Cache for SixMethods {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.0.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.0.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, value: Bytes, expiry: Expiry) -> Result<Option<Version>, CacheError> {
        self.0.insert(key, value, expiry).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.0.replace(key, expected, value, expiry).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.0.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.0.delete(key, expected).await
    }
}

#[tokio::test]
async fn six_methods_are_enough() {
    cache_contract(|| async { SixMethods(InMemoryCache::new()) }, None).await;
}
