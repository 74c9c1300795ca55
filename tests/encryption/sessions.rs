//! What sessions make of encryption: nothing, as long as they can be read.
use std::collections::BTreeMap;

use cloakroom::{Session, SessionInfo, SessionStore};

use super::*;

#[tokio::test]
async fn sessions_are_what_they_are_without() {
    let (cache, _) = memory(&[1]);
    let store = SessionStore::new(cache);
    let session = Session::new();
    let map: BTreeMap<String, Vec<f64>> = [("\u{1f980}".to_owned(), vec![0.1, -0.0, 1e300])].into();
    session.set("map", &map).unwrap();
    session.set("long", "x".repeat(60_000)).unwrap();
    session.set_owner("alice").unwrap();
    let id = store.save(&session).await.unwrap();

    let loaded = store.load(&id).await.unwrap().unwrap();
    assert_eq!(loaded.get("map"), Some(map));
    assert_eq!(loaded.get::<String>("long").map(|text| text.len()), Some(60_000));
    let listed = store.sessions_of("alice").await.unwrap();
    assert_eq!(listed.iter().map(SessionInfo::key).collect::<Vec<_>>(), [id.key()]);
    assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    assert!(store.load(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_that_cannot_be_read_is_none_and_stays_as_it_is() {
    let (cache, inside) = memory(&[1]);
    let (store, with_another_key) = (SessionStore::new(cache), SessionStore::new(around(&inside, &[2])));
    let save = async |store: &SessionStore<Memory>| {
        let session = Session::new();
        session.set("n", 1).unwrap();
        store.save(&session).await.unwrap()
    };
    let (lost, read) = (save(&store).await, save(&with_another_key).await);
    let name = format!("cloakroom:{}", lost.key());
    let before = get(&inside, &name).await;
    assert!(with_another_key.load(&lost).await.unwrap().is_none(), "no session, and no error");
    assert!(with_another_key.load(&read).await.unwrap().is_some());
    assert!(get(&inside, &name).await == before);
    assert!(store.load(&lost).await.unwrap().is_some());
}

#[tokio::test]
async fn a_session_moved_to_another_id_is_none() {
    let (cache, inside) = memory(&[1]);
    let store = SessionStore::new(cache);
    let names = async |user: &str| {
        let session = Session::new();
        session.set("user", user).unwrap();
        let id = store.save(&session).await.unwrap();
        let name = format!("cloakroom:{}", id.key());
        (id, name)
    };
    let ((mallory, to), (_, from)) = (names("mallory").await, names("alice").await);
    let (own, other) = (get(&inside, &to).await.unwrap(), value(&inside, &from).await);
    let swapped = inside.replace(&to, own.version, entry(other), hour()).await.unwrap();
    assert_eq!(swapped, cloakroom::Replaced::Done);
    assert!(store.load(&mallory).await.unwrap().is_none());
}
