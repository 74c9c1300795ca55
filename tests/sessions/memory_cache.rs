//! The cache contract on the cache in memory, on a boxed one, and on one with nothing but the six methods.
use cloakroom::{
    BoxedCache, Clock, InMemoryCache,
    testing::{TestCache, cache_contract},
};

use crate::support::six_methods::SixMethods;

#[tokio::test]
async fn in_memory_with_a_turned_clock() {
    let clock = Clock::manual();
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

#[tokio::test]
async fn six_methods_are_enough() {
    cache_contract(|| async { SixMethods::new(InMemoryCache::new()) }, None).await;
}
