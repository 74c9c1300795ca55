//! The contract of caches holds through encryption, whatever is inside.
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use cloakroom::{
    BoxedCache, Clock, Replaced,
    testing::{TestCache, cache_contract},
};

use super::*;
use crate::support::caches::on_every_cache;
#[cfg(feature = "redis")]
use crate::support::redis_server;

on_every_cache! {
    the_contract_holds,
}

async fn the_contract_holds(inside: impl Cache + Clone) {
    cache_contract(|| async { around(&inside, &[1]) }, None).await;
}

#[tokio::test]
async fn in_memory_with_a_turned_clock() {
    let clock = Clock::manual();
    let make = || async { around(&InMemoryCache::builder().clock(clock.clone()).build(), &[1]) };
    cache_contract(make, Some(clock.clone())).await;
}

#[tokio::test]
async fn boxed_inside_and_outside() {
    let make = || async { BoxedCache::new(around(&BoxedCache::new(InMemoryCache::new()), &[1, 2])) };
    cache_contract(make, None).await;
}

#[tokio::test]
async fn twice_encrypted_and_plain_text_accepted() {
    cache_contract(|| async { around(&memory(&[1]).0.accept_plaintext(), &[1]).accept_plaintext() }, None).await;
}

#[tokio::test]
async fn with_operations_that_wait() {
    let inside = TestCache::new(InMemoryCache::new());
    inside.yield_always(true);
    cache_contract(|| async { around(&inside, &[1]) }, None).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn in_redis_with_a_near_cache() {
    let server = redis_server::RedisServer::start();
    let builder = cloakroom::RedisCache::builder(server.url()).timeout(Duration::from_secs(10));
    let cache = around(&builder.near_cache(1 << 20).build().await.unwrap(), &[1]);
    cache_contract(|| async { cache.clone() }, None).await;
}

/// A write whose answer was lost is sent again: encrypted anew, and recognised by its version all the same.
#[tokio::test]
async fn a_repeated_write_changes_nothing() {
    let (cache, inside) = memory(&[1]);
    let first = entry("first");
    assert!(cache.insert("k", first.clone(), hour()).await.unwrap());
    let stored = value(&inside, "k").await;
    assert!(cache.insert("k", first.clone(), hour()).await.unwrap());
    assert_eq!(value(&inside, "k").await, stored);

    let second = entry("second");
    assert_eq!(cache.replace("k", first.version, second.clone(), hour()).await.unwrap(), Replaced::Done);
    let stored = value(&inside, "k").await;
    assert_eq!(cache.replace("k", first.version, second.clone(), hour()).await.unwrap(), Replaced::Done);
    assert_eq!(value(&inside, "k").await, stored);
    assert!(get(&cache, "k").await == Some(second));
}

/// What a future returns at its first poll.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_cache_that_never_waits_does_not_begin_to() {
    const { assert!(Memory::IMMEDIATE) };
    const { assert!(!EncryptedCache::<BoxedCache>::IMMEDIATE) };
    let (cache, _) = memory(&[1]);
    let first = entry("first");
    assert!(at_once(cache.insert("k", first.clone(), hour())).unwrap());
    assert_eq!(at_once(cache.replace("k", first.version, entry("second"), hour())).unwrap(), Replaced::Done);
    assert_eq!(at_once(cache.get("k")).unwrap().unwrap().value, "second");
    let last = at_once(cache.get_and_touch("k", Duration::ZERO)).unwrap().unwrap();
    assert!(at_once(cache.touch("k")).unwrap());
    assert_eq!(at_once(cache.delete("k", last.version)).unwrap(), cloakroom::Deleted::Done);
    at_once(cache.list_add("l", "m", hour().end)).unwrap();
    assert_eq!(at_once(cache.list_page("l", None, 10)).unwrap().len(), 1);
    at_once(cache.list_remove("l", &["m".to_owned()])).unwrap();
    at_once(cache.ping()).unwrap();
}

#[tokio::test]
async fn lists_and_pings_are_those_of_the_cache_inside() {
    let inside = TestCache::new(InMemoryCache::new());
    let cache = around(&inside, &[1]);
    cache.list_add("sessions of a user", "m", hour().end).await.unwrap();
    assert_eq!(inside.list_page("sessions of a user", None, 10).await.unwrap()[0].name, "m");
    cache.ping().await.unwrap();
    let calls = inside.calls();
    assert_eq!(calls.of(cloakroom::testing::Operation::List), 2);
    assert_eq!(calls.of(cloakroom::testing::Operation::Ping), 1);
    assert_eq!(calls.total(), 3);
}
