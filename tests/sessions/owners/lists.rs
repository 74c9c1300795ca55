//! The list of an owner in the cache: what it costs, what it names, and that it ends.
use super::*;

#[tokio::test]
async fn a_destroyed_session_leaves_no_list() {
    for world in World::all().await {
        let store = world.store();
        let first = renew(&store, &login(&store, None, "alice").await).await;
        store.destroy(first.id.unwrap()).await.unwrap();
        assert_eq!(world.len(), 1, "{}: the tombstone alone", world.name);
    }
}

#[tokio::test]
async fn no_key_in_the_cache_names_a_user_unless_it_may() {
    for world in World::all().await {
        for readable in [false, true] {
            let store = world.store().readable_owners(readable);
            let visitor = login(&store, None, "alice@example.org").await;
            let renewed = renew(&store, &visitor).await;
            assert_eq!(keys(&store, "alice@example.org").await, set(&[&renewed]));
            let asked = world.keys.as_ref().map(|keys| keys.0.lock().unwrap().iter().cloned().collect());
            let names: Vec<String> = asked.unwrap_or_else(|| world.stored.keys());
            if world.name != "memory" {
                assert!(names.len() >= 3, "{names:?}");
                assert_eq!(names.iter().any(|name| name.contains("alice")), readable, "{}: {names:?}", world.name);
            }
            store.revoke_all("alice@example.org").await.unwrap();
        }
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn every_key_in_redis_ends() {
    let world = World::redis().await;
    let store = world.store().max_lifetime(Duration::from_secs(1000)).ttl(Duration::from_secs(300));
    let visitor = login(&store, None, "alice").await;
    let renewed = renew(&store, &visitor).await;
    let other = login(&store, None, "bob").await;
    visit(&store, other.id.as_deref(), |session| async move { session.clear_owner() }).await;
    visit(&store, renewed.id.as_deref(), |session| async move { session.set_lifetime(Duration::from_secs(2000)) })
        .await;
    let Stored::Redis(server) = &world.stored else { panic!("a server") };
    let names = server.command(&["KEYS", "*"]).text();
    for name in names.lines() {
        let left = server.command(&["PTTL", name]).int();
        assert!((1..=3_600_000).contains(&left), "{name}: {left}");
        if name.contains("owner:") {
            assert!(left > 999_000, "a list lives as long as its members: {left}");
        }
    }
}

#[tokio::test]
async fn it_costs_one_operation_and_only_where_the_list_changes() {
    use Operation::{Delete, Get, Insert, List, Replace};
    for world in World::all().await {
        let (store, cache) = (world.store(), &world.cache);
        let cost = |what: &str, expected: &[(Operation, usize)]| {
            let calls = cache.calls();
            for (operation, count) in expected {
                assert_eq!(calls.of(*operation), *count, "{}, {what}: {operation:?} in {calls:?}", world.name);
            }
            assert_eq!(calls.total(), expected.iter().map(|(_, count)| count).sum::<usize>(), "{what}: {calls:?}");
            cache.reset_calls();
        };
        let visitor = login(&store, None, "alice").await;
        cost("a new session with an owner", &[(Insert, 1), (List, 1)]);
        let id = visitor.id.as_deref();
        visit(&store, id, |session| async move {
            let _ = session.owner();
            session.set_owner("alice")
        })
        .await;
        cost("reading, and the owner it has", &[(Get, 1)]);
        visit(&store, id, |session| async move { session.set("n", 1) }).await;
        cost("an ordinary write", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_lifetime(Duration::from_secs(60 * 60)) }).await;
        cost("an earlier end", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_owner("bob") }).await;
        cost("another owner", &[(Get, 1), (List, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.clear_owner() }).await;
        cost("no owner", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_owner("alice") }).await;
        cost("an owner", &[(Get, 1), (List, 1), (Replace, 1)]);
        let renewed = renew(&store, &visitor).await;
        cost("a renewal", &[(Get, 1), (Insert, 1), (List, 1), (Replace, 1)]);
        visit(&store, renewed.id.as_deref(), |session| async move {
            session.destroy();
            Ok(())
        })
        .await;
        cost("a destroy", &[(Get, 1), (Delete, 1), (List, 1)]);
        visit(&store, None, |session| async move {
            session.set("n", 1)?;
            session.set_owner("alice")?;
            session.clear_owner()
        })
        .await;
        cost("an owner that was not kept", &[(Insert, 1)]);
    }
}

#[tokio::test]
async fn it_costs_two_with_the_provided_methods() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(SixMethods::new(cache.clone()));
    let total = |what: &str, expected: usize| {
        assert_eq!(cache.calls().total(), expected, "{what}: {:?}", cache.calls());
        cache.reset_calls();
    };
    let first = login(&store, None, "alice").await;
    total("the first session", 1 + 2);
    let second = login(&store, None, "alice").await;
    total("the second", 1 + 2);
    let renewed = renew(&store, &second).await;
    total("a renewal", 3 + 2);
    store.destroy(renewed.id.unwrap()).await.unwrap();
    total("a destroy", 2 + 2);
    store.destroy(first.id.unwrap()).await.unwrap();
    total("the last destroy", 2 + 2);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn it_costs_redis_one_command() {
    let world = World::redis().await;
    let Stored::Redis(server) = &world.stored else { panic!("a server") };
    let store = world.store();
    // The scripts are known to the server afterwards.
    let warm = renew(&store, &login(&store, None, "alice").await).await;
    store.destroy(warm.id.unwrap()).await.unwrap();
    let commands = || {
        let calls = server.calls();
        let sent = ["get", "set", "evalsha", "eval"];
        sent.map(|name| calls.get(name).copied().unwrap_or_default())
    };
    server.reset_calls();
    let visitor = login(&store, None, "alice").await;
    assert_eq!(commands()[1..], [1, 1, 0], "a SET and the list");
    server.reset_calls();
    store.destroy(visitor.id.unwrap()).await.unwrap();
    assert_eq!(commands()[2..], [2, 0], "the delete and the list");
}

#[tokio::test]
async fn a_dead_member_is_dropped_when_it_is_seen() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        // Taking it off the list fails: the session is destroyed all the same.
        world.cache.fail(Operation::List, CacheErrorKind::Unavailable);
        store.destroy(visitor.id.as_deref().unwrap()).await.unwrap();
        assert!(store.sessions_of("alice").await.is_err() && store.revoke_all("alice").await.is_err());
        world.cache.heal();
        assert_ne!(world.bytes(), 0, "{}: the list", world.name);
        assert!(keys(&store, "alice").await.is_empty());
        assert_eq!(world.bytes(), 0, "{}: healed", world.name);
        // A session that cannot be listed is not made.
        world.cache.fail(Operation::List, CacheErrorKind::Unavailable);
        let refused = login(&store, None, "alice").await;
        assert_eq!((refused.status, refused.id), (StatusCode::SERVICE_UNAVAILABLE, None));
        world.cache.heal();
        assert_eq!(world.len(), 0, "{}: nor left behind", world.name);
    }
}

#[tokio::test]
async fn a_list_is_bounded_and_dead_members_make_room() {
    let memory = Arc::new(SixMethods::new(InMemoryCache::new()));
    let store = SessionStore::new(memory.clone()).readable_owners(true);
    let (list, end) = ("cloakroom:owner:alice", SystemTime::now() + Duration::from_secs(3600));
    let first = login(&store, None, "alice").await;
    let full = memory.get(list).await.unwrap().unwrap();
    let members: String = (1..4096).map(|number| format!(",\"{number:043}\":{}", 4_102_444_800_000_u64)).collect();
    let text = format!("{}{members}}}", String::from_utf8_lossy(&full.value).trim_end_matches('}'));
    let expiry = Expiry { idle: Duration::from_secs(3600), end };
    let replaced =
        memory.replace(list, full.version, Entry::new(text.into(), Version::unique()), expiry).await.unwrap();
    assert!(matches!(replaced, Replaced::Done));
    assert_eq!(memory.list_page(list, None, 5000).await.unwrap().len(), 4096);
    let error = memory.list_add(list, "one more", end).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    // Those members are dead, so a login finds room.
    let second = login(&store, None, "alice").await;
    assert_eq!(second.status, StatusCode::OK);
    assert_eq!(memory.list_page(list, None, 5000).await.unwrap().len(), 2);
    assert_eq!(keys(&store, "alice").await, set(&[&first, &second]));
}

#[tokio::test]
async fn an_unreadable_list_is_an_error_for_everybody_who_needs_it() {
    let memory = Arc::new(SixMethods::new(InMemoryCache::new()));
    let store = SessionStore::new(memory.clone()).readable_owners(true);
    let other = login(&store, None, "bob").await;
    let expiry = Expiry { idle: Duration::from_secs(60), end: SystemTime::now() + Duration::from_secs(60) };
    assert!(memory.insert("cloakroom:owner:alice", Entry::new("?".into(), Version::unique()), expiry).await.unwrap());
    assert_eq!(login(&store, None, "alice").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(store.sessions_of("alice").await.is_err() && store.revoke_all("alice").await.is_err());
    assert!(lives(&store, &other).await);
    assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
}
