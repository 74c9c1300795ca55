//! Owners and lists while a session is being made or renewed.
use super::*;

/// A renewal that has made and listed its successor and is about to write the tombstone over the old entry; `then` happens meanwhile.
async fn amid_renewal<F: Future>(world: &World, store: &Store, visitor: &Visitor, then: F) -> (Visitor, F::Output) {
    let gate = world.cache.hold(Operation::Replace);
    let renewal = tokio::spawn({
        let (store, visitor) = (store.clone(), visitor.clone());
        async move { renew(&store, &visitor).await }
    });
    gate.arrived().await;
    let output = then.await;
    gate.open();
    (renewal.await.unwrap(), output)
}

#[tokio::test]
async fn a_session_that_is_being_renewed_is_one_session() {
    for world in World::all().await {
        let store = world.store();
        let other = login(&store, None, "alice").await;
        let visitor = login(&store, None, "alice").await;
        let key = visitor.key().unwrap();
        let (renewed, seen) = amid_renewal(&world, &store, &visitor, keys(&store, "alice")).await;
        assert_eq!(seen, set(&[&other, &visitor]), "{}", world.name);
        assert_eq!(keys(&store, "alice").await, set(&[&other, &renewed]));

        // The others end; it goes on.
        let (renewed, ended) = amid_renewal(&world, &store, &renewed, store.revoke_others("alice", &key)).await;
        assert_eq!(ended.unwrap(), 1, "{}", world.name);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]));
        assert!(lives(&store, &renewed).await);

        // All end, it too.
        let (late, ended) = amid_renewal(&world, &store, &renewed, store.revoke_all("alice")).await;
        assert_eq!(ended.unwrap(), 1, "{}", world.name);
        assert!(!lives(&store, &renewed).await && !lives(&store, &late).await);
        assert!(keys(&store, "alice").await.is_empty());
    }
}

#[tokio::test]
async fn an_owner_given_amid_a_renewal_is_listed_where_the_session_goes() {
    for world in World::all().await {
        let store = world.store();
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let session = store.load(visitor.id.as_deref().unwrap()).await.unwrap().unwrap();
        let give = async {
            session.set_owner("alice").unwrap();
            session.commit().await.unwrap();
        };
        let (renewed, ()) = amid_renewal(&world, &store, &visitor, give).await;
        assert_ne!(renewed.id, visitor.id);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]), "{}", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn an_owner_and_a_later_end_given_at_the_same_time_are_both_listed() {
    let clock = Clock::manual();
    let day = Duration::from_secs(24 * 60 * 60);
    for owner_first in [true, false] {
        let memory = InMemoryCache::builder().clock(clock.clone()).build();
        let cache = TestCache::new(memory.clone());
        let store = SessionStore::new(cache.clone()).clock(clock.clone()).ttl(100 * day);
        let id = store.save(&Session::new()).await.unwrap();
        let (longer, owned) = (store.load(&id).await.unwrap().unwrap(), store.load(&id).await.unwrap().unwrap());
        longer.set_lifetime(90 * day).unwrap();
        owned.set_owner("alice").unwrap();
        let (late, soon) = if owner_first { (longer, owned) } else { (owned, longer) };
        let gate = cache.hold(Operation::Replace);
        let late = tokio::spawn(async move { late.commit().await });
        gate.arrived().await;
        soon.commit().await.unwrap();
        gate.open();
        late.await.unwrap().unwrap();
        clock.advance(60 * day);
        assert_eq!(keys(&store, "alice").await, HashSet::from([id.key()]), "owner first: {owner_first}");
        clock.advance(31 * day);
        assert!(memory.is_empty());
    }
}

#[tokio::test]
async fn a_write_that_fails_shortens_no_listing() {
    let clock = Clock::manual();
    let cache = TestCache::new(InMemoryCache::builder().clock(clock.clone()).build());
    let store = SessionStore::new(cache.clone()).clock(clock.clone());
    let visitor = login(&store, None, "alice").await;
    cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
    let failed = visit(&store, visitor.id.as_deref(), |session| async move {
        session.set_lifetime(Duration::from_secs(60))?;
        session.set_owner("bob")
    })
    .await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE);
    // And after a conflict.
    let id = visitor.id.as_deref().unwrap();
    let (late, soon) = (store.load(id).await.unwrap().unwrap(), store.load(id).await.unwrap().unwrap());
    late.set_lifetime(Duration::from_secs(60)).unwrap();
    soon.set("n", 1).unwrap();
    let gate = cache.hold(Operation::Replace);
    let late = tokio::spawn(async move { late.commit().await });
    gate.arrived().await;
    soon.commit().await.unwrap();
    cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
    gate.open();
    assert!(late.await.unwrap().is_err());
    clock.advance(Duration::from_secs(3600));
    assert_eq!(keys(&store, "alice").await, set(&[&visitor]));
}

#[tokio::test]
async fn a_session_being_made_is_revoked_or_listed() {
    for world in World::all().await {
        let store = world.store();
        // Not on the list yet.
        let gate = world.cache.hold(Operation::List);
        let making = tokio::spawn({
            let store = store.clone();
            async move { login(&store, None, "alice").await }
        });
        gate.arrived().await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        gate.open();
        let visitor = making.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&visitor]), "{}: listed", world.name);

        // On the list, not the user's yet.
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let gate = world.cache.hold(Operation::Replace);
        let making = tokio::spawn({
            let (store, id) = (store.clone(), visitor.id.clone());
            async move { visit(&store, id.as_deref(), |session| async move { session.set_owner("alice") }).await }
        });
        gate.arrived().await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1, "{}: the one before", world.name);
        gate.open();
        making.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&visitor]), "{}: listed", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    }
}
