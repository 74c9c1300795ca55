//! Sessions whose key a process does not have: none to it, never written over, and ended by all that ends sessions.
use std::collections::BTreeSet;

use cloakroom::{Session, SessionError, SessionId, SessionKey, SessionLayer, SessionStore};

use super::*;
use crate::support::{
    caches::on_every_cache,
    web::{id, peek, send, start},
};

on_every_cache! {
    an_unreadable_session_is_none_and_never_written_over,
    an_unreadable_session_is_ended_by_its_id,
    an_unreadable_session_is_ended_by_its_key,
    a_handler_does_not_end_an_unreadable_session_by_its_key,
    an_unreadable_session_is_ended_with_its_owners_others,
    an_unreadable_session_is_ended_by_a_logout,
    an_unreadable_tombstone_ends_no_session_that_can_be_read,
    an_unreadable_tombstone_does_not_take_the_kept_session_along,
    an_unreadable_session_can_be_read_again_with_its_key,
}

fn store<C: Cache + Clone>(inside: &C, keys: &[u8]) -> SessionStore<EncryptedCache<C>> {
    SessionStore::new(around(inside, keys)).deadline(Duration::from_secs(20))
}

async fn save<C: Cache>(store: &SessionStore<C>, owner: &str) -> SessionId {
    let session = Session::new();
    session.set("n", 1).unwrap();
    session.set_owner(owner).unwrap();
    store.save(&session).await.unwrap()
}

async fn stored(inside: &impl Cache, id: &SessionId) -> Option<Entry> {
    get(inside, &format!("cloakroom:{}", id.key())).await
}

/// In any order: two logins may have the same time.
async fn listed<C: Cache>(store: &SessionStore<C>, owner: &str) -> BTreeSet<SessionKey> {
    store.sessions_of(owner).await.unwrap().iter().map(cloakroom::SessionInfo::key).collect()
}

/// The ID of the session after a renewal, and its key.
async fn renew<C: Cache>(store: &SessionStore<C>, before: &SessionId) -> (String, SessionKey) {
    let cookie = format!("__Host-id={}", before.as_ref());
    let reply = send(&SessionLayer::new(store.clone()), Some(&cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    let id = id(&reply.cookie().unwrap()).to_owned();
    let key = store.load(&id).await.unwrap().unwrap().key().unwrap();
    (id, key)
}

/// A write, which moves the session to the store's first key.
async fn write<C: Cache>(store: &SessionStore<C>, id: impl AsRef<str>) {
    let session = store.load(id).await.unwrap().unwrap();
    session.set("written", true).unwrap();
    session.commit().await.unwrap();
}

async fn an_unreadable_session_is_none_and_never_written_over(inside: impl Cache + Clone) {
    let (old, new) = (store(&inside, &[1]), store(&inside, &[2]));
    let lost = save(&old, "alice").await;
    let before = stored(&inside, &lost).await;
    assert!(new.load(&lost).await.unwrap().is_none());
    assert!(!new.touch(&lost).await.unwrap());
    assert!(listed(&new, "alice").await.is_empty());
    let over = new.save_with_id(&lost, &Session::new()).await;
    assert!(matches!(over, Err(SessionError::Conflict)), "{over:?}");
    // A visitor with its cookie gets another session.
    let cookie = format!("__Host-id={}", lost.as_ref());
    let reply = send(&SessionLayer::new(new.clone()), Some(&cookie), |session| async move {
        assert!(session.is_new());
        session.set("n", 2).unwrap();
        200
    })
    .await;
    assert_ne!(reply.cookie().unwrap(), cookie);
    assert!(stored(&inside, &lost).await == before && before.is_some(), "it stays as it is");
    // A session that became unreadable while a handler had it.
    let both = store(&inside, &[2, 1]);
    let held = old.load(&lost).await.unwrap().unwrap();
    write(&both, &lost).await;
    let before = stored(&inside, &lost).await;
    held.set("late", true).unwrap();
    let late = held.commit().await;
    assert!(matches!(late, Err(SessionError::Gone)), "{late:?}");
    assert!(stored(&inside, &lost).await == before);
    assert!(!both.load(&lost).await.unwrap().unwrap().contains_key("late"));
}

async fn an_unreadable_session_is_ended_by_its_id(inside: impl Cache + Clone) {
    let (old, new) = (store(&inside, &[1]), store(&inside, &[2]));
    let (lost, other) = (save(&old, "alice").await, save(&old, "alice").await);
    new.destroy(&lost).await.unwrap();
    assert!(stored(&inside, &lost).await.is_none() && old.load(&lost).await.unwrap().is_none());
    new.destroy(&lost).await.unwrap();
    assert_eq!(listed(&old, "alice").await, [other.key()].into());
}

async fn an_unreadable_session_is_ended_by_its_key(inside: impl Cache + Clone) {
    let (old, new) = (store(&inside, &[1]), store(&inside, &[2]));
    let (lost, other) = (save(&old, "alice").await, save(&old, "alice").await);
    assert!(new.revoke(&lost.key()).await.unwrap(), "it ended one");
    assert!(!new.revoke(&lost.key()).await.unwrap(), "which had ended already");
    assert!(old.load(&lost).await.unwrap().is_none());
    assert_eq!(listed(&old, "alice").await, [other.key()].into());
}

/// The owner is in the record.
async fn a_handler_does_not_end_an_unreadable_session_by_its_key(inside: impl Cache + Clone) {
    let (old, both, new) = (store(&inside, &[1]), store(&inside, &[2, 1]), store(&inside, &[2]));
    let (alices, bobs, held) = (save(&old, "alice").await, save(&old, "bob").await, save(&new, "alice").await);
    let session = new.load(&held).await.unwrap().unwrap();
    for lost in [&alices, &bobs] {
        assert!(!session.revoke(&lost.key()).await.unwrap());
        assert!(both.load(lost).await.unwrap().is_some());
    }
    // With the key of the record.
    let session = both.load(&held).await.unwrap().unwrap();
    assert!(!session.revoke(&bobs.key()).await.unwrap() && session.revoke(&alices.key()).await.unwrap());
    assert!(both.load(&bobs).await.unwrap().is_some() && both.load(&alices).await.unwrap().is_none());
}

async fn an_unreadable_session_is_ended_with_its_owners_others(inside: impl Cache + Clone) {
    let (old, new) = (store(&inside, &[1]), store(&inside, &[2]));
    let (lost, kept, bobs) = (save(&old, "alice").await, save(&new, "alice").await, save(&old, "bob").await);
    assert_eq!(listed(&new, "alice").await, [kept.key()].into());
    assert_eq!(new.revoke_others("alice", &kept.key()).await.unwrap(), 1);
    assert!(old.load(&lost).await.unwrap().is_none());
    assert!(new.load(&kept).await.unwrap().is_some());
    let lost = save(&old, "alice").await;
    assert_eq!(new.revoke_all("alice").await.unwrap(), 2);
    assert!(stored(&inside, &lost).await.is_none() && stored(&inside, &kept).await.is_none());
    assert_eq!(new.revoke_all("alice").await.unwrap(), 0);
    assert!(old.load(&bobs).await.unwrap().is_some());
}

async fn an_unreadable_session_is_ended_by_a_logout(inside: impl Cache + Clone) {
    let (old, new) = (SessionLayer::new(store(&inside, &[1])), SessionLayer::new(store(&inside, &[2])));
    let cookie = start(&old, "alice").await;
    let reply = send(&new, Some(&cookie), |session| async move {
        session.destroy();
        200
    })
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(peek(&old, &cookie, "n").await, None);
    assert!(store(&inside, &[1]).load(id(&cookie)).await.unwrap().is_none());
}

/// A renewal with the old key, a write with the new one, and the old key is gone: the tombstone cannot be read.
async fn an_unreadable_tombstone_ends_no_session_that_can_be_read(inside: impl Cache + Clone) {
    let (old, both, new) = (store(&inside, &[1]), store(&inside, &[2, 1]), store(&inside, &[2]));
    let first = save(&old, "alice").await;
    let (renewed, key) = renew(&old, &first).await;
    write(&both, &renewed).await;
    assert_eq!(listed(&new, "alice").await, [key].into());
    assert!(new.load(&renewed).await.unwrap().is_some());
    assert_eq!(listed(&new, "alice").await, [key].into());
    assert!(new.revoke_all("alice").await.unwrap() >= 1);
    assert!(both.load(&renewed).await.unwrap().is_none() && both.load(&first).await.unwrap().is_none());
}

async fn an_unreadable_tombstone_does_not_take_the_kept_session_along(inside: impl Cache + Clone) {
    let (old, both, new) = (store(&inside, &[1]), store(&inside, &[2, 1]), store(&inside, &[2]));
    let (first, other) = (save(&old, "alice").await, save(&old, "alice").await);
    let (renewed, key) = renew(&old, &first).await;
    write(&both, &renewed).await;
    assert_eq!(new.revoke_others("alice", &key).await.unwrap(), 1);
    assert!(both.load(&other).await.unwrap().is_none());
    assert_eq!(listed(&new, "alice").await, [key].into());
    assert!(new.load(&renewed).await.unwrap().is_some());
}

async fn an_unreadable_session_can_be_read_again_with_its_key(inside: impl Cache + Clone) {
    let (old, new) = (store(&inside, &[1]), store(&inside, &[2]));
    let (lost, read) = (save(&old, "alice").await, save(&new, "alice").await);
    assert_eq!(listed(&new, "alice").await, [read.key()].into());
    let both = store(&inside, &[2, 1]);
    assert_eq!(listed(&both, "alice").await, [lost.key(), read.key()].into(), "it stays on the list");
    assert_eq!(both.load(&lost).await.unwrap().unwrap().get("n"), Some(1));
}
