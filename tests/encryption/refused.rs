//! Entries that are not what was written: no value comes out of them, and they can be ended.
use cloakroom::{Deleted, Replaced};

use super::*;

const PLAIN: &[u8] = b"{\"user\":\"alice\"}";

/// What a cache makes of these bytes under `name`, by every method that returns entries.
async fn all_ways(cache: &Memory, inside: &InMemoryCache, name: &str, sealed: &[u8]) -> Bytes {
    let version = put(inside, name, sealed.to_vec()).await;
    let read = get(cache, name).await.unwrap();
    assert_eq!(read.version, version, "the true version");
    let touched = cache.get_and_touch(name, Duration::ZERO).await.unwrap();
    assert!(touched.as_ref() == Some(&read));
    let replaced = cache.replace(name, Version::unique(), entry("new"), hour()).await.unwrap();
    assert!(replaced == Replaced::Conflict(read.clone()), "{replaced:?}");
    let deleted = cache.delete(name, Version::unique()).await.unwrap();
    assert!(deleted == Deleted::Conflict(read.clone()), "{deleted:?}");
    assert_eq!(value(inside, name).await, sealed, "it was left alone");
    assert_eq!(cache.delete(name, read.version).await.unwrap(), Deleted::Done, "it can be ended");
    read.value
}

/// An entry that is in order.
async fn sealed(cache: &Memory, inside: &InMemoryCache, name: &str) -> Vec<u8> {
    let version = put(cache, name, PLAIN).await;
    let sealed = value(inside, name).await.to_vec();
    assert_eq!(cache.delete(name, version).await.unwrap(), Deleted::Done);
    assert_eq!(all_ways(cache, inside, name, &sealed).await, PLAIN);
    sealed
}

#[tokio::test]
async fn every_flipped_bit() {
    let (cache, inside) = memory(&[1, 2]);
    let sealed = sealed(&cache, &inside, "k").await;
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(all_ways(&cache, &inside, "k", &flipped).await, "", "bit {bit}");
    }
}

#[tokio::test]
async fn every_other_length() {
    let (cache, inside) = memory(&[1]);
    let sealed = sealed(&cache, &inside, "k").await;
    for length in 0..sealed.len() {
        assert_eq!(all_ways(&cache, &inside, "k", &sealed[..length]).await, "", "cut to {length}");
        let from = sealed.len() - length;
        assert_eq!(all_ways(&cache, &inside, "k", &sealed[from..]).await, "", "the last {length}");
    }
    assert_eq!(all_ways(&cache, &inside, "k", &[&sealed[..], b"x"].concat()).await, "");
    assert_eq!(all_ways(&cache, &inside, "k", &sealed.repeat(2)).await, "");
}

#[tokio::test]
async fn an_entry_under_another_cache_key() {
    let (cache, inside) = memory(&[1]);
    let a = sealed(&cache, &inside, "session:a").await;
    for other in ["session:b", "session:", "session:a ", "ession:a", "session:\u{e4}", ""] {
        assert_eq!(all_ways(&cache, &inside, other, &a).await, "", "{other}");
    }
}

#[tokio::test]
async fn an_entry_of_another_key() {
    let (cache, inside) = memory(&[1]);
    let sealed = sealed(&cache, &inside, "k").await;
    assert_eq!(all_ways(&around(&inside, &[2]), &inside, "k", &sealed).await, "");
    assert_eq!(all_ways(&around(&inside, &[2, 3]), &inside, "k", &sealed).await, "");
    // The ID of a key is not believed.
    let (other, beside) = memory(&[2]);
    put(&other, "k", PLAIN).await;
    let mut foreign = sealed.clone();
    foreign[1..5].copy_from_slice(&value(&beside, "k").await[1..5]);
    assert_eq!(all_ways(&around(&inside, &[1, 2]), &inside, "k", &foreign).await, "");
}

#[tokio::test]
async fn plain_text_unless_it_is_accepted() {
    let (cache, inside) = memory(&[1]);
    assert_eq!(all_ways(&cache, &inside, "k", PLAIN).await, "");
    let accepting = cache.clone().accept_plaintext();
    assert_eq!(all_ways(&accepting, &inside, "k", PLAIN).await, PLAIN);
    assert_eq!(all_ways(&accepting, &inside, "k", b"").await, "");
    // What is encrypted is not taken for plain text.
    let mut sealed = sealed(&accepting, &inside, "k").await;
    *sealed.last_mut().unwrap() ^= 1;
    assert_eq!(all_ways(&accepting, &inside, "k", &sealed).await, "");
    assert_eq!(all_ways(&accepting, &inside, "k", &sealed[..20]).await, "");
}

#[tokio::test]
async fn plain_text_moves_over_with_its_next_write() {
    let (cache, inside) = memory(&[1]);
    let cache = cache.accept_plaintext();
    let version = put(&inside, "k", PLAIN).await;
    assert_eq!(value(&cache, "k").await, PLAIN);
    assert_eq!(cache.replace("k", version, entry(PLAIN), hour()).await.unwrap(), Replaced::Done);
    assert_eq!(value(&inside, "k").await.len(), PLAIN.len() + 33);
    assert_eq!(value(&around(&inside, &[1]), "k").await, PLAIN);
}
